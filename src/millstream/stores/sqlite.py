"""The store in one SQLite file: progress, inbox, outbox, parked deliveries, beside the service's own tables."""

import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, Self

import apsw
import msgspec

from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import FencedError, StoreError
from millstream.core.broker import Partition
from millstream.core.store import Assignment, Mark, Page, Parked, Request
from millstream.stores.sqlite_file import SqliteFile, sqlite_errors

SCHEMA = """
create table if not exists store_meta(key text primary key, value text not null) without rowid;
create table if not exists store_progress(
  grp text not null, topic text not null, number integer not null, epoch integer not null default 0,
  position integer, running integer not null default 0, primary key(grp, topic, number)) without rowid;
create table if not exists store_generation(grp text primary key, generation integer not null) without rowid;
create table if not exists store_scope(
  id integer primary key, grp text not null, generation integer not null, source text not null, unique(grp, generation, source));
create table if not exists store_inbox(
  scope integer not null, id text not null, at integer not null, primary key(scope, id)) without rowid;
create table if not exists store_outbox(seq integer primary key autoincrement, envelope blob not null);
create table if not exists store_parked(
  id integer primary key autoincrement, grp text not null, topic text not null, number integer not null,
  position integer not null, sequence text not null, source text not null, event_id text not null, envelope blob,
  raw blob not null, state text not null, attempts integer not null, due integer not null, first_failure integer,
  last_failure integer, error text not null, reason text not null, stack text not null, unique(grp, source, event_id));
create index if not exists store_parked_sequence on store_parked(grp, topic, number, sequence, id);
create table if not exists store_suspect(
  grp text not null, topic text not null, number integer not null, position integer not null, count integer not null,
  primary key(grp, topic, number, position)) without rowid;
create table if not exists store_request(
  id integer primary key autoincrement, kind text not null, parked integer not null, reason text not null, at integer not null);
"""

PARKED = (
    "id, grp, topic, number, position, sequence, envelope, raw, state, attempts, due, first_failure, last_failure, error, reason, stack"
)
#: How long the inbox remembers an event, in seconds: a duplicate that comes later is handled again.
INBOX_WINDOW = 7 * 24 * 3600.0
#: Old marks are swept a few at a time, so that no commit pays for many.
SWEEP = 200

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Envelope).decode

Append = Callable[[apsw.Connection, Sequence[Envelope]], None]


class SqliteStore:
    """A `Store` in one file.

    With `append` (the embedded broker's, on the same file) a commit writes its events
    straight into the log, and there is nothing to relay.
    """

    def __init__(
        self,
        file: SqliteFile,
        *,
        append: Append | None = None,
        window: float = INBOX_WINDOW,
        micros: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self.file = file
        file.require(SCHEMA)
        self._append = append
        self._window = int(window * 1e6)
        self._micros = micros
        self._id = ""
        self._scopes: dict[tuple[str, int, str], int] = {}
        self._sweep_from: tuple[int, str] = (0, "")
        self._marks_since_sweep = 0

    @property
    def id(self) -> str:
        return self._id

    @property
    def relays(self) -> bool:
        return self._append is None

    async def __aenter__(self) -> Self:
        await self.file.__aenter__()
        try:
            self._id = await self.file.write(self._identify)
        except BaseException:
            await self.file.__aexit__()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.file.__aexit__(*error)

    def _identify(self, connection: apsw.Connection) -> str:
        connection.execute("insert or ignore into store_meta values('id', ?)", (secrets.token_hex(8),))
        row = connection.execute("select value from store_meta where key='id'").fetchone()
        return str(row[0]) if row else ""

    async def script(self, sql: str) -> None:
        """Run the service's own schema; it has to be repeatable (`create table if not exists`)."""

        def write(connection: apsw.Connection) -> None:
            connection.execute(sql)

        try:
            await self.file.write(write)
        except apsw.SQLError as error:
            raise StoreError(f"the schema of App(schema=...) failed: {error}") from error

    async def assign(self, group: str, partitions: Sequence[Partition]) -> Sequence[Assignment]:
        def write(connection: apsw.Connection) -> list[Assignment]:
            assigned: list[Assignment] = []
            for partition in partitions:
                row = connection.execute(
                    "select epoch, position, running from store_progress where grp=? and topic=? and number=?",
                    (group, partition.topic, partition.number),
                ).fetchone()
                epoch, position, running = row or (0, None, 0)
                connection.execute(
                    "insert or replace into store_progress values(?,?,?,?,?,1)",
                    (group, partition.topic, partition.number, epoch + 1, position),
                )
                assigned.append(Assignment(partition, epoch + 1, position, not running))
            return assigned

        return await self.file.write(write)

    async def unassign(self, group: str, fences: dict[Partition, int]) -> None:
        rows = [(group, partition.topic, partition.number, epoch) for partition, epoch in fences.items()]

        def write(connection: apsw.Connection) -> None:
            connection.executemany(
                "update store_progress set running=0 where grp=? and topic=? and number=? and epoch=?", rows
            )

        await self.file.write(write)

    async def commit(self, page: Page) -> None:
        await self.file.write(lambda connection: self.apply(connection, page))

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["SqliteTransaction"]:
        async with self.file.exclusive() as connection:
            transaction = SqliteTransaction(self, connection)
            try:
                yield transaction
            finally:
                transaction.end()

    def apply(self, connection: apsw.Connection, page: Page) -> None:
        """Write a page inside a transaction that the caller ends."""
        group = page.group
        for partition, epoch in page.fences.items():
            position = page.positions.get(partition)
            connection.execute(
                "update store_progress set position=coalesce(?, position) where grp=? and topic=? and number=? and epoch=?",
                (position, group, partition.topic, partition.number, epoch),
            )
            if connection.changes() != 1:
                raise FencedError(
                    f"group {group!r} no longer owns {partition.topic}/{partition.number}: another worker took it over "
                    "while this one was stopped. Nothing of this was kept; the new owner does it."
                )
        if page.marks:
            now = self._micros()
            connection.executemany(
                "insert or ignore into store_inbox values(?,?,?)",
                [(self._scope(connection, group, page.generation, mark.source), mark.id, now) for mark in page.marks],
            )
            self._sweep(connection, len(page.marks), now)
        if page.events:
            if self._append is not None:
                self._append(connection, page.events)
            else:
                connection.executemany("insert into store_outbox(envelope) values(?)", [(_encode(e),) for e in page.events])
        for parked in page.park:
            self._park(connection, parked)
        connection.executemany("delete from store_parked where id=?", [(id_,) for id_ in page.unpark])
        for (partition, position), count in page.suspects.items():
            where = (group, partition.topic, partition.number, position)
            if count:
                connection.execute("insert or replace into store_suspect values(?,?,?,?,?)", (*where, count))
            else:
                connection.execute("delete from store_suspect where grp=? and topic=? and number=? and position=?", where)
        connection.executemany("delete from store_request where id=?", [(id_,) for id_ in page.requests])

    def _scope(self, connection: apsw.Connection, group: str, generation: int, source: str) -> int:
        scope = self._scopes.get((group, generation, source))
        if scope is None:
            key = (group, generation, source)
            connection.execute("insert or ignore into store_scope(grp, generation, source) values(?,?,?)", key)
            row = connection.execute("select id from store_scope where grp=? and generation=? and source=?", key).fetchone()
            scope = int(row[0]) if row else 0
            # Not remembered when this very transaction made it: it may still be rolled back.
            if not connection.changes():
                self._scopes[key] = scope
        return scope

    def _sweep(self, connection: apsw.Connection, added: int, now: int) -> None:
        self._marks_since_sweep += added
        if self._marks_since_sweep < SWEEP:
            return
        self._marks_since_sweep = 0
        rows = connection.execute(
            "select scope, id, at from store_inbox where (scope, id) > (?, ?) order by scope, id limit ?",
            (*self._sweep_from, 2 * SWEEP),
        ).fetchall()
        self._sweep_from = (rows[-1][0], rows[-1][1]) if len(rows) == 2 * SWEEP else (0, "")
        old = [(scope, id_) for scope, id_, at in rows if at < now - self._window]
        connection.executemany("delete from store_inbox where scope=? and id=?", old)

    def _park(self, connection: apsw.Connection, parked: Parked) -> None:
        envelope = parked.envelope
        source = envelope.source if envelope else ""
        event_id = envelope.id if envelope else f"{parked.partition.topic}/{parked.partition.number}/{parked.position}"
        values = (
            parked.group, parked.partition.topic, parked.partition.number, parked.position, parked.sequence, source, event_id,
            _encode(envelope) if envelope else None, parked.raw, parked.state, parked.attempts, parked.due,
            parked.first_failure, parked.last_failure, parked.error, parked.reason, parked.stack,
        )  # fmt: skip
        if parked.id:
            connection.execute(
                "update store_parked set state=?, attempts=?, due=?, first_failure=?, last_failure=?, error=?, reason=?, stack=?"
                " where id=?",
                (*values[9:], parked.id),
            )
        else:
            connection.execute(
                "insert or ignore into store_parked(grp, topic, number, position, sequence, source, event_id, envelope, raw,"
                " state, attempts, due, first_failure, last_failure, error, reason, stack)"
                " values(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                values,
            )

    async def handled(self, group: str, generation: int, marks: Sequence[Mark]) -> set[Mark]:
        """Which of these the group has handled, or parked."""
        found: set[Mark] = set()
        with sqlite_errors(self.file.path):
            reader = self.file.reader
            by_source: dict[str, list[str]] = {}
            for mark in marks:
                by_source.setdefault(mark.source, []).append(mark.id)
            for source, ids in by_source.items():
                scope = reader.execute(
                    "select id from store_scope where grp=? and generation=? and source=?", (group, generation, source)
                ).fetchone()
                if scope is not None:
                    for start in range(0, len(ids), 500):
                        part = ids[start : start + 500]
                        sql = f"select id from store_inbox where scope=? and id in ({','.join('?' * len(part))})"  # noqa: S608
                        found.update(Mark(source, id_) for (id_,) in reader.execute(sql, (scope[0], *part)))
                if self._has_parked(reader, group):
                    for id_ in ids:
                        if reader.execute(
                            "select 1 from store_parked where grp=? and source=? and event_id=?", (group, source, id_)
                        ).fetchone():
                            found.add(Mark(source, id_))
        return found

    def _has_parked(self, reader: apsw.Connection, group: str) -> bool:
        return reader.execute("select 1 from store_parked where grp=? limit 1", (group,)).fetchone() is not None

    async def generation(self, group: str) -> int:
        rows = await self.file.read("select generation from store_generation where grp=?", (group,))
        return rows[0][0] if rows else 0

    async def rewind(self, group: str, positions: Sequence[tuple[Partition, int]], *, effects: bool) -> None:
        """Move the position of record; with `effects` what was handled before is handled anew."""

        def write(connection: apsw.Connection) -> None:
            for partition, position in positions:
                connection.execute(
                    "insert into store_progress(grp, topic, number, epoch, position) values(?,?,?,1,?)"
                    " on conflict do update set position=excluded.position, epoch=epoch+1",
                    (group, partition.topic, partition.number, position),
                )
            if effects:
                connection.execute(
                    "insert into store_generation values(?, 1) on conflict do update set generation=generation+1", (group,)
                )

        await self.file.write(write)

    async def forget(self, group: str) -> None:
        """Remove all that is kept for a group, its dead letters included."""

        def write(connection: apsw.Connection) -> None:
            connection.execute("delete from store_inbox where scope in (select id from store_scope where grp=?)", (group,))
            for table in ("progress", "generation", "scope", "parked", "suspect"):
                connection.execute(f"delete from store_{table} where grp=?", (group,))  # noqa: S608

        await self.file.write(write)
        self._scopes.clear()

    async def suspects(self, group: str, partition: Partition) -> dict[int, int]:
        rows = await self.file.read(
            "select position, count from store_suspect where grp=? and topic=? and number=?",
            (group, partition.topic, partition.number),
        )
        return dict(rows)  # pyright: ignore[reportArgumentType, reportReturnType]

    async def parked(
        self,
        group: str | None = None,
        *,
        partitions: Sequence[Partition] | None = None,
        dead: bool = False,
        most: int = 1000,
    ) -> Sequence[Parked]:
        where, params = ["1"], list[Any]()
        if group is not None:
            where.append("grp=?")
            params.append(group)
        if partitions is not None:
            where.append(f"({' or '.join(['topic=? and number=?'] * len(partitions)) or '0'})")
            params += [value for partition in partitions for value in (partition.topic, partition.number)]
        if dead:
            where.append("state='dead'")
        sql = f"select {PARKED} from store_parked where {' and '.join(where)} order by id limit ?"  # noqa: S608
        return [_parked(row) for row in await self.file.read(sql, (*params, most))]

    async def sequences(self, group: str, partition: Partition) -> dict[str, int]:
        rows = await self.file.read(
            "select sequence, count(*) from store_parked where grp=? and topic=? and number=? group by sequence",
            (group, partition.topic, partition.number),
        )
        return dict(rows)  # pyright: ignore[reportArgumentType, reportReturnType]

    async def heads(self, group: str, partitions: Sequence[Partition]) -> Sequence[Parked]:
        found: list[Parked] = []
        for partition in partitions:
            rows = await self.file.read(
                f"select {PARKED} from store_parked where id in (select min(id) from store_parked"  # noqa: S608
                " where grp=? and topic=? and number=? group by sequence) and state<>'dead' order by due",
                (group, partition.topic, partition.number),
            )
            found += [_parked(row) for row in rows]
        return found

    async def request(self, kind: Literal["redrive", "discard"], parked: Sequence[int], reason: str) -> int:
        now = self._micros()

        def write(connection: apsw.Connection) -> int:
            count = 0
            for id_ in parked:
                connection.execute(
                    "insert into store_request(kind, parked, reason, at) select ?, id, ?, ? from store_parked where id=?",
                    (kind, reason, now, id_),
                )
                count += connection.changes()
            return count

        return await self.file.write(write)

    async def requests(self, group: str) -> Sequence[Request]:
        rows = await self.file.read(
            "select r.id, r.kind, r.parked, r.reason from store_request r join store_parked p on p.id=r.parked"
            " where p.grp=? order by r.id limit 1000",
            (group,),
        )
        return [Request(*row) for row in rows]

    async def outbox(self, most: int) -> Sequence[tuple[int, Envelope]]:
        rows = await self.file.read("select seq, envelope from store_outbox order by seq limit ?", (most,))
        return [(seq, _decode(envelope)) for seq, envelope in rows]

    async def sent(self, upto: int) -> None:
        def write(connection: apsw.Connection) -> None:
            connection.execute("delete from store_outbox where seq<=?", (upto,))

        await self.file.write(write)

    async def outbox_size(self) -> int:
        return (await self.file.read("select count(*) from store_outbox"))[0][0]

    async def read(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return await self.file.read(sql, params)

    async def backup(self, destination: str, progress: Callable[[int, int], None] | None = None) -> None:
        """Copy the live file, as of one moment, to `destination`."""
        with sqlite_errors(destination):
            target = apsw.Connection(destination)
            try:
                with target.backup("main", self.file.reader, "main") as copying:
                    while not copying.done:
                        copying.step(1000)
                        if progress is not None:
                            progress(copying.page_count - copying.remaining, copying.page_count)
            finally:
                target.close()


class SqliteTransaction:
    """The write transaction of a store's file, on the thread of whoever borrowed it."""

    def __init__(self, store: SqliteStore, connection: apsw.Connection) -> None:
        self._store = store
        self._connection: apsw.Connection | None = connection

    @property
    def _open(self) -> apsw.Connection:
        if self._connection is None:
            raise StoreError("this transaction has ended: use it only while its handler runs")
        return self._connection

    def execute(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._open.execute(sql, tuple(params)).fetchall()

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        self._open.executemany(sql, [tuple(row) for row in rows])

    def savepoint(self) -> None:
        self._open.execute("savepoint handler")

    def release(self) -> None:
        self._open.execute("release handler")

    def rollback(self) -> None:
        self._open.execute("rollback to handler")

    def apply(self, page: Page) -> None:
        self._store.apply(self._open, page)

    def end(self) -> None:
        """Refuse whatever a handler tries with it from now on."""
        self._connection = None


def _parked(row: tuple[Any, ...]) -> Parked:
    id_, group, topic, number, position, sequence, envelope, raw, state, attempts, due, first, last, error, reason, stack = row
    return Parked(
        id=id_, group=group, partition=Partition(topic, number), position=position, sequence=sequence,
        envelope=_decode(envelope) if envelope is not None else None, raw=raw, state=state, attempts=attempts, due=due,
        first_failure=first, last_failure=last, error=error, reason=reason, stack=stack,
    )  # fmt: skip
