"""What is parked: deliveries that wait, blocked behind another, or dead; and what operators ask of them."""

from collections.abc import Sequence
from typing import Any

import msgspec

from millstream.contracts.envelope import Envelope
from millstream.core.broker import Message, Partition
from millstream.core.store import Mark, Parked, Request, RequestKind
from millstream.stores.sqlite_connection import Connection, text_array
from millstream.stores.sqlite_file import SqliteFile

SCHEMA = """
create table if not exists store_parked(
  id integer primary key autoincrement, grp text not null, topic text not null, number integer not null,
  position integer not null, sequence text not null, source text not null, event_id text not null,
  envelope blob, message blob, data blob not null, state text not null, attempts integer not null, due integer not null,
  first_failure integer, last_failure integer, error text not null, reason text not null, stack text not null,
  head integer not null, unique(grp, source, event_id));
create index if not exists store_parked_sequence on store_parked(grp, topic, number, sequence, id);
create index if not exists store_parked_due on store_parked(grp, due) where head=1 and state<>'dead';
create index if not exists store_parked_dead on store_parked(grp, id) where state='dead';
create table if not exists store_request(
  id integer primary key autoincrement, kind text not null, parked integer not null, reason text not null, data blob not null,
  at integer not null);
"""

COLUMNS = (
    "id, grp, topic, number, position, sequence, envelope, message, data, state, attempts, due, first_failure, last_failure,"
    " error, reason, stack"
)
INSERT = (
    "insert or ignore into store_parked(grp, topic, number, position, sequence, source, event_id, envelope, message, data, state,"
    " attempts, due, first_failure, last_failure, error, reason, stack, head) values(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,"
    " not exists(select 1 from store_parked where grp=? and topic=? and number=? and sequence=?))"
)
UPDATE = (
    "update store_parked set envelope=?, message=?, data=?, state=?, attempts=?, due=?, first_failure=?, last_failure=?,"
    " error=?, reason=?, stack=? where id=?"
)
#: The one behind a head that goes becomes the head.
PROMOTE = "update store_parked set head=1 where id=(select min(id) from store_parked where grp=? and topic=? and number=? and sequence=?)"


_encode = msgspec.msgpack.Encoder().encode
_envelope = msgspec.msgpack.Decoder(Envelope).decode
_message = msgspec.msgpack.Decoder(Message).decode


class SqliteParked:
    """Rows in the order of their ids; the first of each sequence is marked, so that finding what is due never scans."""

    def __init__(self, file: SqliteFile) -> None:
        file.require(SCHEMA)
        self._file = file

    # Inside the caller's transaction

    def put(self, connection: Connection, parked: Parked) -> bool:
        """Add a new one (id 0), unless its event is parked already; replace an old one. Tells whether it did."""
        envelope, message = parked.envelope, parked.message
        what = (
            None if envelope is None else _encode(msgspec.structs.replace(envelope, data=b"")),
            None if message is None else _encode(msgspec.structs.replace(message, body=b"")),
            envelope.data if envelope is not None else message.body if message is not None else b"",
            parked.state, parked.attempts, parked.due, parked.first_failure, parked.last_failure,
            parked.error, parked.reason, parked.stack,
        )  # fmt: skip
        if parked.id:
            connection.execute(UPDATE, (*what, parked.id))
            return True
        sequence = (parked.group, parked.partition.topic, parked.partition.number, parked.sequence)
        connection.execute(INSERT, (*sequence[:3], parked.position, parked.sequence, *_identity(parked), *what, *sequence))
        return connection.changes() == 1

    def any_of(self, connection: Connection, group: str, marks: Sequence[Mark]) -> bool:
        """Whether one of these events is parked, as seen inside the caller's transaction."""
        if connection.execute("select 1 from store_parked where grp=? limit 1", (group,)).fetchone() is None:
            return False
        by_source: dict[str, list[str]] = {}
        for mark in marks:
            by_source.setdefault(mark.source, []).append(mark.id)
        for source, ids in by_source.items():
            table, bound = text_array(ids)
            sql = f"select 1 from store_parked where grp=? and source=? and event_id in (select value from {table}) limit 1"  # noqa: S608
            if connection.execute(sql, (group, source, bound)).fetchone() is not None:
                return True
        return False

    def all_there(self, connection: Connection, ids: Sequence[int]) -> bool:
        """Whether all of these are parked, as seen inside the caller's transaction."""
        sql = f"select count(*) from store_parked where id in ({','.join(str(int(id_)) for id_ in set(ids))})"  # noqa: S608
        row = connection.execute(sql).fetchone()
        return row is not None and row[0] == len(set(ids))

    def remove(self, connection: Connection, ids: Sequence[int]) -> None:
        """Remove these; what waited behind one of them is the first of its sequence now."""
        for id_ in ids:
            sequence = connection.execute("delete from store_parked where id=? returning grp, topic, number, sequence", (id_,)).fetchone()
            if sequence is not None:
                connection.execute(PROMOTE, sequence)
                connection.execute("delete from store_request where parked=?", (id_,))

    def remove_group(self, connection: Connection, group: str) -> None:
        """Remove all that is parked for a group, and what was asked of it."""
        connection.execute("delete from store_request where parked in (select id from store_parked where grp=?)", (group,))
        connection.execute("delete from store_parked where grp=?", (group,))

    def request(self, connection: Connection, kind: RequestKind, ids: Sequence[int], reason: str, data: bytes, now: int) -> int:
        """Leave a request for each of these that exists; says how many do."""
        count = 0
        for id_ in ids:
            connection.execute(
                "insert into store_request(kind, parked, reason, data, at) select ?, id, ?, ?, ? from store_parked where id=?",
                (kind, reason, data, now, id_),
            )
            count += connection.changes()
        return count

    # Reading

    def handled(self, group: str, marks: Sequence[Mark]) -> set[Mark]:
        """Which of these events are parked."""
        if not self._file.query("select 1 from store_parked where grp=? limit 1", (group,)):
            return set()
        found: set[Mark] = set()
        for source in {mark.source for mark in marks}:
            table, bound = text_array([mark.id for mark in marks if mark.source == source])
            sql = f"select event_id from store_parked where grp=? and source=? and event_id in {table}"  # noqa: S608
            found.update(Mark(source, id_) for (id_,) in self._file.query(sql, (group, source, bound)))
        return found

    def select(self, group: str | None, *, ids: Sequence[int] | None, dead: bool, after: int, most: int) -> list[Parked]:
        """What is parked, in order of id from the first beyond `after`."""
        where, params = ["id>?"], list[Any]([after])
        if group is not None:
            where.append("grp=?")
            params.append(group)
        if dead:
            where.append("state='dead'")
        if ids is not None:
            where.append(f"id in ({','.join(str(int(id_)) for id_ in ids)})")
        sql = f"select {COLUMNS} from store_parked where {' and '.join(where)} order by id limit ?"  # noqa: S608
        return [_parked(row) for row in self._file.query(sql, (*params, most))]

    def count(self, group: str) -> int:
        """How many deliveries of a group are parked."""
        return self._file.query("select count(*) from store_parked where grp=?", (group,))[0][0]

    def sequences(self, group: str, partition: Partition) -> dict[str, int]:
        """How many wait in each sequence."""
        rows = self._file.query(
            "select sequence, count(*) from store_parked where grp=? and topic=? and number=? group by sequence",
            (group, partition.topic, partition.number),
        )
        return {sequence: count for sequence, count in rows}

    def heads(self, group: str, partitions: Sequence[Partition], due: int, most: int) -> list[Parked]:
        """The first of each sequence of these partitions that may run, those longest due first."""
        if not partitions:
            return []
        of_these = " or ".join(["topic=? and number=?"] * len(partitions))
        sql = (
            f"select {COLUMNS} from store_parked where head=1 and state<>'dead' and grp=? and due<=? and ({of_these})"  # noqa: S608
            " order by due, id limit ?"
        )
        names = [value for partition in partitions for value in (partition.topic, partition.number)]
        return [_parked(row) for row in self._file.query(sql, (group, due, *names, most))]

    def next_due(self, group: str) -> int | None:
        """When the next of them may run."""
        return self._file.query("select min(due) from store_parked where head=1 and state<>'dead' and grp=?", (group,))[0][0]

    def requests(self, group: str) -> list[Request]:
        """What operators have asked for, oldest first."""
        rows = self._file.query(
            "select r.id, r.kind, r.parked, r.reason, r.data from store_request r join store_parked p on p.id=r.parked"
            " where p.grp=? order by r.id limit 1000",
            (group,),
        )
        return [Request(*row) for row in rows]


def _identity(parked: Parked) -> tuple[str, str]:
    if parked.envelope is not None:
        return parked.envelope.source, parked.envelope.id
    if parked.message is not None and parked.message.id:
        return parked.message.source, parked.message.id
    return "", f"{parked.partition.topic}/{parked.partition.number}/{parked.position}"


def _parked(row: tuple[Any, ...]) -> Parked:
    id_, group, topic, number, position, sequence, envelope, message, data, *what = row
    state, attempts, due, first, last, error, reason, stack = what
    return Parked(
        id=id_, group=group, partition=Partition(topic, number), position=position, sequence=sequence,
        envelope=None if envelope is None else msgspec.structs.replace(_envelope(envelope), data=data),
        message=None if message is None else msgspec.structs.replace(_message(message), body=data),
        state=state, attempts=attempts, due=due, first_failure=first, last_failure=last,
        error=error, reason=reason, stack=stack,
    )  # fmt: skip
