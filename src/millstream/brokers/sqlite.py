"""The embedded broker: topics, partitions and groups as rows of one SQLite file."""

import asyncio
import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import apsw
import msgspec

from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import BrokerError, ConfigurationError, PositionLostError, TooLargeError
from millstream.contracts.partition import partition_of
from millstream.core.broker import (
    Assigned,
    Deliveries,
    Delivery,
    Features,
    Group,
    Lost,
    Partition,
    PartitionState,
    Received,
    Revoked,
    Topic,
)
from millstream.stores.sqlite_file import SqliteFile, sqlite_errors

LARGEST = 16 << 20
DEFAULT_PARTITIONS = 8
#: A member that has not been heard of for so many seconds has lost its partitions.
LEASE = 10.0
#: Without any wake-up a subscription looks again after so many seconds.
IDLE_LOOK = 1.0

SCHEMA = """
create table if not exists broker_topic(id integer primary key, name text not null unique, partitions integer not null);
create table if not exists broker_partition(
  tp integer primary key, topic integer not null references broker_topic, number integer not null,
  next integer not null default 0, first integer not null default 0, unique(topic, number));
create table if not exists broker_event(
  pos integer primary key, tp integer not null, off integer not null, id text not null, source text not null,
  type text not null, key text, time integer not null, data blob not null, version integer not null,
  correlation text, causation text, attempt text, rest blob, appended integer not null);
create unique index if not exists broker_event_at on broker_event(tp, off);
create table if not exists broker_group(name text primary key, start text not null) without rowid;
create table if not exists broker_position(
  grp text not null, tp integer not null, committed integer not null,
  owner text, boot text, expires real not null default 0, primary key(grp, tp)) without rowid;
create table if not exists broker_member(
  grp text not null, member text not null, boot text not null, expires real not null, primary key(grp, member)) without rowid;
"""

INSERT = (
    "insert into broker_event(tp, off, id, source, type, key, time, data, version, correlation, causation, attempt, rest, appended)"
    " values(?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
COLUMNS = "off, id, source, type, key, time, data, version, correlation, causation, attempt, rest"


class _Rest(msgspec.Struct, omit_defaults=True):
    """The attributes that few events have; kept out of the columns."""

    content_type: str = "application/json"
    schema: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    extensions: dict[str, str] | None = None


_encode_rest = msgspec.json.Encoder().encode
_decode_rest = msgspec.json.Decoder(_Rest).decode


def _rest_of(e: Envelope) -> bytes | None:
    if e.traceparent is None and e.extensions is None and e.schema is None and e.content_type == "application/json":
        return None
    return _encode_rest(_Rest(e.content_type, e.schema, e.traceparent, e.tracestate, e.extensions))


def boot_id() -> str:
    """Name this boot of the machine: monotonic times of another one mean nothing."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return "unknown"


class SqliteBroker:
    """A durable broker for any number of processes of one machine."""

    features = Features(
        ordered=True, replayable=True, durable=True, shared=True, positions_exact=True, largest=LARGEST
    )

    def __init__(
        self,
        file: SqliteFile,
        *,
        lease: float = LEASE,
        micros: Callable[[], int] = lambda: time.time_ns() // 1000,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.file = file
        file.require(SCHEMA)
        self.lease = lease
        self.boot = boot_id()
        self.monotonic = monotonic
        self._micros = micros
        self._topics: dict[str, tuple[int, list[int]]] = {}
        self._partitions: dict[int, Partition] = {}
        self._gathering = threading.Lock()
        self._batch: _Batch | None = None

    async def __aenter__(self) -> Self:
        await self.file.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.file.__aexit__(*error)

    async def declare(self, topics: Sequence[Topic], groups: Sequence[Group]) -> None:
        """Make what is missing; a topic that exists with other partitions is an error."""

        def write(connection: apsw.Connection) -> None:
            for topic in topics:
                _, partitions = self._topic(connection, topic.name, topic.partitions)
                if len(partitions) != topic.partitions:
                    raise ConfigurationError(
                        f"topic {topic.name!r} has {len(partitions)} partitions, not {topic.partitions}: "
                        "their number is fixed when a topic is created. Declare the number it has, or use a new topic."
                    )
            for group in groups:
                self._declare_group(connection, group)

        await self.file.write(write)

    def _declare_group(self, connection: apsw.Connection, group: Group) -> None:
        connection.execute("insert or ignore into broker_group values(?,?)", (group.name, group.start))
        for name in group.topics:
            _, partitions = self._topic(connection, name, DEFAULT_PARTITIONS)
            first = "first" if group.start == "earliest" else "next"
            connection.execute(
                f"insert or ignore into broker_position(grp, tp, committed) select ?, tp, {first} from broker_partition"  # noqa: S608
                f" where tp in ({','.join('?' * len(partitions))})",
                (group.name, *partitions),
            )

    def _topic(self, connection: apsw.Connection, name: str, partitions: int) -> tuple[int, list[int]]:
        found = self._known_topic(connection, name)
        if found is None:
            connection.execute("insert into broker_topic(name, partitions) values(?,?)", (name, partitions))
            topic = connection.last_insert_rowid()
            connection.executemany(
                "insert into broker_partition(topic, number) values(?,?)", [(topic, n) for n in range(partitions)]
            )
            found = self._known_topic(connection, name, remember=False)
        if found is None:
            raise BrokerError(f"topic {name!r} could not be created")
        return found

    def _known_topic(
        self, connection: apsw.Connection, name: str, *, remember: bool = True
    ) -> tuple[int, list[int]] | None:
        # Topics are never removed, so what was once seen committed stays true.
        if (known := self._topics.get(name)) is not None:
            return known
        row = connection.execute("select id from broker_topic where name=?", (name,)).fetchone()
        if row is None:
            return None
        tps = [tp for (tp,) in connection.execute("select tp from broker_partition where topic=? order by number", row)]
        if remember:
            self._topics[name] = (row[0], tps)
            for number, tp in enumerate(tps):
                self._partitions[tp] = Partition(name, number)
        return row[0], tps

    def append(self, connection: apsw.Connection, envelopes: Sequence[Envelope]) -> None:
        """Write events into the log inside a transaction that the caller commits."""
        following: dict[int, int] = {}
        topics: dict[str, list[int]] = {}
        rows: list[tuple[Any, ...]] = []
        now = self._micros()
        for e in envelopes:
            tps = topics.get(e.topic)
            if tps is None:
                tps = topics[e.topic] = self._topic(connection, e.topic, DEFAULT_PARTITIONS)[1]
            tp = tps[partition_of(e.id if e.key is None else e.key, len(tps))]
            off = following.get(tp)
            if off is None:
                off = self._next(connection, tp)
            following[tp] = off + 1
            rows.append(
                (tp, off, e.id, e.source, e.type, e.key, e.time, e.data, e.version,
                 e.correlation, e.causation, e.attempt, _rest_of(e), now)
            )  # fmt: skip
        connection.executemany(INSERT, rows)
        connection.executemany("update broker_partition set next=? where tp=?", [(n, tp) for tp, n in following.items()])

    def _next(self, connection: apsw.Connection, tp: int) -> int:
        row = connection.execute("select next from broker_partition where tp=?", (tp,)).fetchone()
        return row[0] if row else 0

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        """Return when all of them are on disk; callers of the same moment share one sync."""
        for e in envelopes:
            if not e.topic:
                raise BrokerError(f"event {e.id} ({e.type}) has no topic")
            if len(e.data) > LARGEST:
                raise TooLargeError(f"event {e.id} ({e.type}) has {len(e.data)} bytes; this broker takes {LARGEST}")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._gathering:
            batch = self._batch
            if batch is None:
                batch = self._batch = _Batch()
                self.file.submit(self._append_batch).add_done_callback(batch.settle)
            batch.envelopes.extend(envelopes)
            batch.waiters.append(done)
        # Whoever stops waiting does not stop the write: others share it.
        await done

    def _append_batch(self, connection: apsw.Connection) -> None:
        with self._gathering:
            batch, self._batch = self._batch, None
        if batch is not None:
            self.append(connection, batch.envelopes)

    async def open(self, group: str, member: str = "") -> "SqliteSubscription":
        """Join a group; its partitions are shared out between the members that are alive."""
        if not self._query("select 1 from broker_group where name=?", group):
            raise BrokerError(f"group {group!r} does not exist: declare it first")
        return SqliteSubscription(self, group, member or member_name())

    def _query(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        with sqlite_errors(self.file.path):
            return self.file.reader.execute(sql, params).fetchall()  # pyright: ignore[reportArgumentType]

    def tps_of(self, group: str) -> dict[int, Partition]:
        """Name the partitions of a group by their row."""
        rows = self._query(
            "select p.tp, t.name, p.number from broker_position g join broker_partition p using(tp)"
            " join broker_topic t on t.id=p.topic where g.grp=? order by t.name, p.number",
            group,
        )
        return {tp: Partition(name, number) for tp, name, number in rows}

    def _tp(self, partition: Partition) -> int:
        rows = self._query(
            "select tp from broker_partition p join broker_topic t on t.id=p.topic where t.name=? and p.number=?",
            partition.topic,
            partition.number,
        )
        if not rows:
            raise BrokerError(f"there is no partition {partition.number} of topic {partition.topic!r}")
        return rows[0][0]

    def fetch(self, tp: int, partition: Partition, position: int, most: int) -> list[Delivery]:
        """Events of a partition from a position on; a gap means that retention took some."""
        sql = f"select {COLUMNS} from broker_event where tp=? and off>=? order by off limit ?"  # noqa: S608
        topic = partition.topic
        deliveries: list[Delivery] = []
        for off, id_, source, type_, key, micros, data, version, correlation, causation, attempt, rest in self._query(
            sql, tp, position, most
        ):
            envelope = Envelope(
                id=id_, source=source, type=type_, key=key, time=micros, data=data, version=version,
                correlation=correlation, causation=causation, attempt=attempt, topic=topic,
            )  # fmt: skip
            if rest is not None:
                envelope = _with_rest(envelope, _decode_rest(rest))
            deliveries.append(Delivery(partition, off, envelope))
        return deliveries

    async def read(self, partition: Partition, position: int, most: int) -> Sequence[Delivery]:
        """Read history without a group."""
        return self.fetch(self._tp(partition), partition, position, most)

    async def topics(self) -> Sequence[Topic]:
        return [
            Topic(name=name, partitions=partitions)
            for name, partitions in self._query("select name, partitions from broker_topic order by name")
        ]

    async def groups(self) -> Sequence[Group]:
        found: list[Group] = []
        for name, start in self._query("select name, start from broker_group order by name"):
            topics = sorted({partition.topic for partition in self.tps_of(name).values()})
            found.append(Group(name=name, topics=tuple(topics), start=start))
        return found

    async def positions(self, group: str) -> Sequence[PartitionState]:
        rows = self._query(
            "select t.name, p.number, g.committed, p.next, g.owner, g.boot, g.expires,"
            " (select time from broker_event e where e.tp=p.tp and e.off>=g.committed order by e.off limit 1)"
            " from broker_position g join broker_partition p using(tp) join broker_topic t on t.id=p.topic"
            " where g.grp=? order by t.name, p.number",
            group,
        )
        now = self.monotonic()
        return [
            PartitionState(
                partition=Partition(name, number),
                committed=committed,
                head=head,
                oldest=oldest,
                owner=owner if owner and boot == self.boot and expires > now and is_alive(owner) else None,
            )
            for name, number, committed, head, owner, boot, expires, oldest in rows
        ]

    async def heads(self, topic: str) -> Sequence[tuple[Partition, int, int]]:
        """Each partition of a topic with its first stored and its next position."""
        rows = self._query(
            "select p.number, p.first, p.next from broker_partition p join broker_topic t on t.id=p.topic"
            " where t.name=? order by p.number",
            topic,
        )
        return [(Partition(topic, number), first, head) for number, first, head in rows]

    async def seek(self, group: str, positions: Sequence[tuple[Partition, int]]) -> None:
        """Move a group that nobody runs."""
        tps = [(position, group, self._tp(partition)) for partition, position in positions]
        running = {state.partition for state in await self.positions(group) if state.owner}
        if running & {partition for partition, _ in positions}:
            raise BrokerError(f"group {group!r} is running: stop its workers, then move it")
        await self.file.write(
            lambda c: c.executemany("update broker_position set committed=? where grp=? and tp=?", tps) and None
        )

    async def position_at(self, partition: Partition, micros: int) -> int:
        """The first position whose event was appended at that time or later."""
        tp = self._tp(partition)
        low, high = self._query("select first, next from broker_partition where tp=?", tp)[0]
        while low < high:
            middle = (low + high) // 2
            row = self._query("select off, appended from broker_event where tp=? and off>=? order by off limit 1", tp, middle)
            if not row or row[0][1] >= micros:
                high = middle
            else:
                low = row[0][0] + 1
        return low

    async def forget(self, group: str) -> None:
        """Remove a group and its positions; retention no longer waits for it."""

        def write(connection: apsw.Connection) -> None:
            for table, column in (("broker_group", "name"), ("broker_position", "grp"), ("broker_member", "grp")):
                connection.execute(f"delete from {table} where {column}=?", (group,))  # noqa: S608

        await self.file.write(write)

    async def retain(
        self, topic: str, *, age: float | None = None, size: int | None = None, force: bool = False
    ) -> int:
        """Remove events older than `age` seconds, and the oldest beyond `size` bytes; say how many.

        What a registered group has not passed stays, unless forced.
        """
        removed = 0
        for partition, first, head in await self.heads(topic):
            tp = self._tp(partition)
            limit = head
            if not force:
                rows = self._query("select min(committed) from broker_position where tp=?", tp)
                limit = min(head, rows[0][0]) if rows and rows[0][0] is not None else head
            upto = first
            if age is not None:
                upto = max(upto, await self.position_at(partition, self._micros() - int(age * 1e6)))
            if size is not None:
                kept = self._query(
                    "select min(off) from (select off, sum(length(data)+200) over (order by off desc) s"
                    " from broker_event where tp=?) where s<=?",
                    tp,
                    size,
                )[0][0]
                upto = max(upto, head if kept is None else kept)
            removed += await self._remove(tp, first, min(upto, limit))
        return removed

    async def _remove(self, tp: int, first: int, upto: int) -> int:
        for start in range(first, upto, 1000):
            end = min(start + 1000, upto)

            def write(connection: apsw.Connection, end: int = end) -> None:
                connection.execute("delete from broker_event where tp=? and off<?", (tp, end))
                connection.execute("update broker_partition set first=? where tp=?", (end, tp))

            await self.file.write(write)
        return max(0, upto - first)


class _Batch:
    """The publishes that share one write."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.waiters: list[asyncio.Future[None]] = []

    def settle(self, future: "asyncio.Future[None]") -> None:
        error = None if future.cancelled() else future.exception()
        for waiter in self.waiters:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)


def _with_rest(envelope: Envelope, rest: _Rest) -> Envelope:
    return msgspec.structs.replace(
        envelope,
        content_type=rest.content_type,
        schema=rest.schema,
        traceparent=rest.traceparent,
        tracestate=rest.tracestate,
        extensions=rest.extensions,
    )


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        # A zombie holds its number, but will never settle anything again.
        return "" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return ""


def member_name() -> str:
    """Name a member so that others on this machine can tell whether it is alive."""
    pid = os.getpid()
    return f"{_pid_namespace()}:{pid}:{_started(pid)}:{secrets.token_hex(4)}"


def is_alive(member: str) -> bool:
    """Tell whether a member may be alive; False only when it is known to be dead."""
    namespace, _, rest = member.partition(":")
    if namespace != _pid_namespace() or rest.count(":") != 2:
        return True
    pid, started, _ = rest.split(":")
    return _started(int(pid)) == started


@dataclass(slots=True)
class _Owned:
    tp: int
    cursor: int | None = None
    paused: bool = False
    leaving: bool = False


class SqliteSubscription:
    """One member of a group; see `core.broker.Subscription`."""

    def __init__(self, broker: SqliteBroker, group: str, member: str) -> None:
        self._broker = broker
        self._group = group
        self._member = member
        self._owned: dict[Partition, _Owned] = {}
        self._notices: list[Received] = []
        self._changed = asyncio.Event()
        self._renew_at = float("-inf")
        self._done: dict[int, int] = {}
        self._flush: asyncio.TimerHandle | None = None
        self._turn = 0
        broker.file.on_change.add(self._changed.set)

    async def receive(self, most: int, wait: float) -> Received:
        if self._broker.monotonic() >= self._renew_at:
            await self._renew()
        if self._notices:
            return self._notices.pop(0)
        self._changed.clear()
        items = self._fetch(most)
        if not items and wait > 0:
            pause = max(0.0, min(wait, IDLE_LOOK, self._renew_at - self._broker.monotonic()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            items = self._fetch(most)
        return Deliveries(items)

    def _fetch(self, most: int) -> list[Delivery]:
        ready = [(p, o) for p, o in self._owned.items() if o.cursor is not None and not o.paused and not o.leaving]
        if not ready:
            return []
        marks = ",".join(str(owned.tp) for _, owned in ready)
        heads: dict[int, int] = dict(
            self._broker._query(f"select tp, next from broker_partition where tp in ({marks})")  # noqa: S608, SLF001
        )
        items: list[Delivery] = []
        self._turn += 1
        for index in range(len(ready)):
            partition, owned = ready[(index + self._turn) % len(ready)]
            cursor = owned.cursor or 0
            head = heads.get(owned.tp, 0)
            if head <= cursor:
                continue
            fetched = self._broker.fetch(owned.tp, partition, cursor, most - len(items))
            if not fetched or fetched[0].position != cursor:
                raise PositionLostError(
                    f"group {self._group!r}: position {cursor} of {partition.topic}/{partition.number} has left the log. "
                    f"Look at what was lost, then move the group: millstream replay {self._group} --from-position ..."
                )
            owned.cursor = fetched[-1].position + 1
            items += fetched
            if len(items) >= most:
                break
        return items

    async def _renew(self) -> None:
        broker = self._broker
        self._renew_at = broker.monotonic() + broker.lease / 4
        mine, leaving = await broker.file.write(self._claim)
        lost = tuple(p for p, o in self._owned.items() if o.tp not in mine)
        for partition in lost:
            del self._owned[partition]
        if lost:
            self._notices.append(Lost(lost))
        names = broker.tps_of(self._group)
        gained = tuple(names[tp] for tp in sorted(mine) if tp in names and names[tp] not in self._owned)
        for partition in gained:
            self._owned[partition] = _Owned(next(tp for tp, name in names.items() if name == partition))
        if gained:
            self._notices.append(Assigned(gained))
        revoked = tuple(p for p, o in self._owned.items() if o.tp in leaving and not o.leaving)
        for partition in revoked:
            self._owned[partition].leaving = True
        if revoked:
            self._notices.append(Revoked(revoked, broker.monotonic() + broker.lease))

    def _claim(self, connection: apsw.Connection) -> tuple[set[int], set[int]]:
        """Renew what is ours, give up more than our share, take what is free; (ours, to give up)."""
        broker, group, me = self._broker, self._group, self._member
        now = broker.monotonic()
        expires = now + broker.lease
        connection.execute(
            "insert or replace into broker_member(grp, member, boot, expires) values(?,?,?,?)", (group, me, broker.boot, expires)
        )
        members: list[str] = []
        for member, boot, until in connection.execute(
            "select member, boot, expires from broker_member where grp=?", (group,)
        ).fetchall():
            if boot == broker.boot and until > now and is_alive(member):
                members.append(member)
            else:
                connection.execute("delete from broker_member where grp=? and member=?", (group, member))
        rows = connection.execute(
            "select tp, owner, boot, expires from broker_position where grp=? order by tp", (group,)
        ).fetchall()
        members.sort()
        rank, count = members.index(me), len(members)
        share = len(rows) // count + (1 if rank < len(rows) % count else 0)
        mine = [tp for tp, owner, boot, _ in rows if owner == me and boot == broker.boot]
        free = [
            tp
            for tp, owner, boot, until in rows
            if owner != me and (owner is None or boot != broker.boot or until <= now or owner not in members)
        ]
        taken = free[: max(0, share - len(mine))]
        connection.executemany(
            "update broker_position set owner=?, boot=?, expires=? where grp=? and tp=?",
            [(me, broker.boot, expires, group, tp) for tp in (*mine, *taken)],
        )
        surplus = mine[share:] if len(mine) > share else []
        return {*mine, *taken}, set(surplus)

    def start(self, partition: Partition, position: int | None) -> None:
        owned = self._owned.get(partition)
        if owned is None:
            return
        committed, head = self._broker._query(  # noqa: SLF001
            "select g.committed, p.next from broker_position g join broker_partition p using(tp) where g.grp=? and g.tp=?",
            self._group,
            owned.tp,
        )[0]
        owned.cursor = committed if position is None else position
        if owned.cursor > head:
            raise PositionLostError(
                f"group {self._group!r} has handled {partition.topic}/{partition.number} up to {owned.cursor}, "
                f"but the log ends at {head}: the broker's file is an older copy. "
                "Restore the newer file, or move the group on purpose with `millstream replay`."
            )

    async def done(self, positions: Sequence[tuple[Partition, int]]) -> None:
        for partition, position in positions:
            owned = self._owned.get(partition)
            if owned is not None:
                self._done[owned.tp] = max(position, self._done.get(owned.tp, 0))
        if self._flush is None:
            # The position of record is the store's; this one follows, without a sync of its own each time.
            self._flush = asyncio.get_running_loop().call_later(0.05, self._flush_done)

    def _flush_done(self) -> "asyncio.Future[None] | None":
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        if not self._done:
            return None
        rows = [(position, self._group, tp, self._member) for tp, position in self._done.items()]
        self._done = {}

        def write(connection: apsw.Connection) -> None:
            connection.executemany(
                "update broker_position set committed=max(committed, ?) where grp=? and tp=? and owner=?", rows
            )

        future = self._broker.file.submit(write)
        future.add_done_callback(_ignore)
        return future

    def pause(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            if partition in self._owned:
                self._owned[partition].paused = True

    def resume(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            if partition in self._owned:
                self._owned[partition].paused = False
        self._changed.set()

    async def release(self, partitions: Sequence[Partition]) -> None:
        flushed = self._flush_done()
        if flushed is not None:
            await asyncio.wait([flushed])
        tps = [self._owned.pop(partition).tp for partition in partitions if partition in self._owned]
        rows = [(self._group, tp, self._member) for tp in tps]
        await self._broker.file.write(
            lambda c: c.executemany("update broker_position set owner=null where grp=? and tp=? and owner=?", rows) and None
        )

    async def close(self) -> None:
        self._broker.file.on_change.discard(self._changed.set)
        await self.release(list(self._owned))
        await self._broker.file.write(
            lambda c: c.execute("delete from broker_member where grp=? and member=?", (self._group, self._member)) and None
        )


def _ignore(future: "asyncio.Future[Any]") -> None:
    if not future.cancelled():
        future.exception()
