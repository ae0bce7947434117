"""The embedded broker: topics, partitions and groups as rows of one SQLite file."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, Self, TypeVar

from millstream.brokers import sqlite_broadcast
from millstream.brokers.refused_keys import RefusedKeys
from millstream.brokers.sqlite_broadcast import SqliteListener
from millstream.brokers.sqlite_log import MOST_PARTITIONS, SHIFT, Packed, SqliteLog, pack, pack_message
from millstream.brokers.sqlite_subscription import SqliteSubscription
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import (
    BrokerError,
    ConfigurationError,
    FencedError,
    MillstreamError,
    PositionLostError,
    PublishError,
    StoreMismatchError,
    TooLargeError,
)
from millstream.core.broker import Delivery, Features, Figure, Group, Message, Origin, Partition, PartitionState, Topic
from millstream.stores.sqlite_connection import Connection
from millstream.stores.sqlite_file import SqliteFile
from millstream.stores.sqlite_process import boot_id, is_alive, label, member_name
from millstream.stores.sqlite_wake import BROADCAST, MEMBERS, NOTHING

T = TypeVar("T")

LARGEST = 16 << 20
LONGEST_NAME = 255
#: A member that has not been heard of for so many seconds has lost its partitions.
LEASE = 10.0
#: Pages that one write removes from the log, so that publishers never wait long.
REMOVE_PAGES = 200

SCHEMA = """
create table if not exists broker_group(name text primary key, start text not null, store text) without rowid;
create table if not exists broker_position(
  grp text not null, tp integer not null, committed integer not null,
  owner text, boot text, expires real not null default 0, primary key(grp, tp)) without rowid;
create index if not exists broker_position_tp on broker_position(tp, committed);
create table if not exists broker_member(
  grp text not null, member text not null, boot text not null, expires real not null, primary key(grp, member)) without rowid;
create table if not exists broker_mark(store text primary key, upto integer not null) without rowid;
"""

#: Where a group stands; the next event's time is that of the page which holds it, or of the first one still there.
POSITIONS = f"""
select t.name, p.number, g.committed, p.next, g.owner, g.boot, g.expires, case when g.committed < p.next then (
    select stored from broker_page
    where at >= coalesce((select max(at) from broker_page where at between p.tp << {SHIFT} and (p.tp << {SHIFT}) + g.committed),
      p.tp << {SHIFT})
    order by at limit 1) end
from broker_position g join broker_partition p using(tp) join broker_topic t on t.id = p.topic
where g.grp = ? order by t.name, p.number
"""  # noqa: S608


class SqliteBroker:
    """A durable broker for any number of processes of one machine."""

    features = Features(
        ordered=True, replayable=True, durable=True, shared=True, broadcast=True, transactional=True, marks=True, positional=True,
        largest=LARGEST,
    )  # fmt: skip

    def __init__(
        self,
        file: SqliteFile,
        *,
        lease: float = LEASE,
        micros: Callable[[], int] = lambda: time.time_ns() // 1000,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.file = file
        self.log = SqliteLog(file, micros)
        file.require(SCHEMA)
        file.require(sqlite_broadcast.SCHEMA)
        self.lease = lease
        self.boot = boot_id()
        self.monotonic = monotonic
        self._micros = micros
        self._gathering = threading.Lock()
        self._batch: _Batch[Any] | None = None

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return f"sqlite:///{self.file.path}"

    async def __aenter__(self) -> Self:
        await self.file.__aenter__()
        try:
            self.log.id = await self.file.write(self.log.identify, wakes=NOTHING)
        except BaseException:
            await self.file.__aexit__()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.file.__aexit__(*error)

    # What there is

    async def declare(self, topics: Sequence[Topic], groups: Sequence[Group]) -> None:
        """Make what is missing; a topic that exists with other partitions is an error."""
        for topic in topics:
            _check_name("topic", topic.name)
            if topic.partitions is not None and not 1 <= topic.partitions <= MOST_PARTITIONS:
                raise ConfigurationError(f"topic {topic.name!r} cannot have {topic.partitions} partitions: 1 to {MOST_PARTITIONS}.")
        for group in groups:
            _check_name("group", group.name)
            for name in group.topics:
                _check_name("topic", name)

        def write(connection: Connection) -> None:
            for topic in topics:
                self._declare_topic(connection, topic)
            for group in groups:
                self._declare_group(connection, group)

        await self.file.write(write, wakes=MEMBERS)

    def _declare_topic(self, connection: Connection, topic: Topic) -> None:
        count = len(self.log.topic(connection, topic.name, topic.partitions).tps)
        if topic.partitions not in (None, count):
            raise ConfigurationError(
                f"topic {topic.name!r} has {count} partitions, not {topic.partitions}: "
                "their number is fixed when a topic is created. Declare the number it has, or use a new topic."
            )
        connection.execute(
            "update broker_topic set retain_seconds=coalesce(?, retain_seconds), retain_bytes=coalesce(?, retain_bytes) where name=?",
            (topic.retain_seconds, topic.retain_bytes, topic.name),
        )

    def _declare_group(self, connection: Connection, group: Group) -> None:
        connection.execute("insert or ignore into broker_group values(?,?,?)", (group.name, group.start, group.store))
        if group.store is not None:
            ((known,),) = connection.execute("select store from broker_group where name=?", (group.name,)).fetchall()
            if known is None:
                connection.execute("update broker_group set store=? where name=?", (group.store, group.name))
            elif known != group.store:
                raise StoreMismatchError(
                    f"group {group.name!r} keeps its progress in the store {known}, and this one is {group.store}: two stores would "
                    f"each take the group for theirs. Open the store it had, or remove the group (`millstream groups forget {group.name}`) "
                    "and let it begin anew."
                )
        for name in group.topics:
            topic = self.log.topic(connection, name)
            first = "first" if group.start == "earliest" else "next"
            connection.execute(
                f"insert or ignore into broker_position(grp, tp, committed) select ?, tp, {first} from broker_partition where topic=?",  # noqa: S608
                (group.name, topic.id),
            )

    async def topics(self) -> Sequence[Topic]:
        return self.log.topics()

    async def groups(self) -> Sequence[Group]:
        found: list[Group] = []
        for name, start, store in self.file.query("select name, start, store from broker_group order by name"):
            topics = dict.fromkeys(partition.topic for partition in self.tps_of(name).values())
            found.append(Group(name=name, topics=tuple(topics), start=start, store=store))
        return found

    def tps_of(self, group: str) -> dict[int, Partition]:
        """The partitions of a group by their number in the file."""
        rows = self.file.query(
            "select p.tp, t.name, p.number from broker_position g join broker_partition p using(tp)"
            " join broker_topic t on t.id=p.topic where g.grp=? order by t.name, p.number",
            (group,),
        )
        return {tp: Partition(name, number) for tp, name, number in rows}

    async def bounds(self, topic: str) -> Sequence[tuple[Partition, int, int]]:
        return [(Partition(topic, number), first, head) for _, number, first, head in self.log.partitions(topic)]

    # Publishing

    def append(self, connection: Connection, envelopes: Sequence[Envelope]) -> None:
        """Write events into the log inside a transaction that the caller commits: a store in the same file does."""
        self.log.append(connection, envelopes)

    async def publish(self, envelopes: Sequence[Envelope], *, origin: Origin | None = None) -> Sequence[MillstreamError | None]:
        if len(envelopes) == 1 and origin is None:
            (envelope,) = envelopes
            if self.log.knows(envelope.topic) and len(envelope.data) <= LARGEST:
                return (await self._append(_Singles, envelope),)
        packed, refused = self._pack_envelopes(envelopes)
        if origin is not None and refused:
            # The mark would pass over what is refused: a crash now, and nobody would ever know of it.
            failed: MillstreamError | None = BrokerError("not published, because another event of its page of the outbox was refused.")
        elif origin is not None:
            failed = await self._copy(packed, origin)
        else:
            failed = await self._append(_Many, packed) if packed else None
        return _results(len(envelopes), refused, failed)

    async def publish_raw(self, messages: Sequence[Message]) -> Sequence[MillstreamError | None]:
        now = self._micros()
        packed, refused = self._pack(messages, lambda message: pack_message(message, now))
        failed = await self._append(_Many, packed) if packed else None
        return _results(len(messages), refused, failed)

    def _pack_envelopes(self, envelopes: Sequence[Envelope]) -> tuple[list[Packed], dict[int, MillstreamError]]:
        packed = self.log.pack_many(envelopes)
        return (packed, {}) if packed else self._pack(envelopes, pack)

    def _pack(self, items: Sequence[Any], pack: Callable[[Any], Packed]) -> tuple[list[Packed], dict[int, MillstreamError]]:
        """What can be appended, and what cannot by its place among the items."""
        packed: list[Packed] = []
        refused: dict[int, MillstreamError] = {}
        keys = RefusedKeys()
        knows = self.log.knows
        for item in items:
            try:
                if keys:
                    keys.check(item.topic, item.key)
                if not knows(item.topic):
                    _check_name("topic", item.topic)
                one = pack(item)
                if len(one.body) > LARGEST:
                    _check_size(item)
                packed.append(one)
            except MillstreamError as error:
                keys.add(item.topic, item.key)
                refused[len(packed) + len(refused)] = error
            except (UnicodeEncodeError, OverflowError) as error:
                keys.add(item.topic, item.key)
                refused[len(packed) + len(refused)] = _unfit(item, error)
        return packed, refused

    def _append(self, kind: "type[_Batch[T]]", item: T) -> "asyncio.Future[MillstreamError | None]":
        """Done when all of it is on disk, or when it is known why not; callers of the same moment share one sync.

        Whoever stops waiting does not stop the write: others share it.
        """
        done: asyncio.Future[MillstreamError | None] = asyncio.get_running_loop().create_future()
        with self._gathering:
            batch = self._batch
            # Only what came last is joined: what was published after it stays after it.
            if batch is not None and type(batch) is kind and not batch.taken:
                batch.items.append(item)
                batch.waiters.append(done)
                return done
            batch = self._batch = kind(self.log, self._gathering)
            batch.items.append(item)
            batch.waiters.append(done)
        # Last of all: the writer's thread wants Python's lock as soon as it has this.
        try:
            self.file.post(batch.write, batch.settle)
        except MillstreamError:
            batch.taken = True
            raise
        return done

    async def _copy(self, packed: list[Packed], origin: Origin) -> MillstreamError | None:
        """Append what a relay copies, unless it is here already."""

        def write(connection: Connection) -> None:
            row = connection.execute("select upto from broker_mark where store=?", (origin.store,)).fetchone()
            mark = row[0] if row is not None else 0
            if origin.after is not None and mark != origin.after:
                raise FencedError(
                    f"the outbox of the store {origin.store} was copied up to {mark}, not {origin.after}: another relay has gone on "
                    "while this one was stopped. Nothing was published; ask again how far it is."
                )
            if mark >= origin.upto:
                return
            self.log.append_packed(connection, packed)
            connection.execute("insert or replace into broker_mark values(?,?)", (origin.store, origin.upto))

        try:
            await self.file.write(write)
        except MillstreamError as error:
            return error
        return None

    async def relayed(self, store: str) -> int:
        rows = self.file.query("select upto from broker_mark where store=?", (store,))
        return rows[0][0] if rows else 0

    # Consuming

    async def open(self, group: str, member: str = "") -> SqliteSubscription:
        """Join a group; its partitions are shared out between the members that are alive."""
        if not self.file.query("select 1 from broker_group where name=?", (group,)):
            raise BrokerError(f"group {group!r} does not exist on {self.name}: declare it first.")
        # The process comes first in the name, so that others see whether it lives.
        return SqliteSubscription(self, group, f"{member_name()}:{member}" if member else member_name())

    async def read(self, partition: Partition, position: int, most: int) -> Sequence[Delivery]:
        return self.log.fetch(self.log.tp(partition), partition, position, most)[0][:most]

    async def publish_and_commit(self, envelopes: Sequence[Envelope], group: str, member: str, positions: dict[int, int]) -> None:
        """Append all of them, and move the group on, if the member still owns every partition; or do nothing."""
        packed, refused = self._pack_envelopes(envelopes)
        if refused:
            raise PublishError([refused.get(index) for index in range(len(envelopes))])

        def write(connection: Connection) -> None:
            for tp, position in positions.items():
                connection.execute(
                    "update broker_position set committed=max(committed, ?) where grp=? and tp=? and owner=?", (position, group, tp, member)
                )
                if connection.changes() != 1:
                    raise self.fenced(group)
            self.log.append_packed(connection, packed)

        await self.file.write(write)

    def fenced(self, group: str) -> FencedError:
        """What to raise when a member no longer owns what it wants to settle."""
        return FencedError(
            f"group {group!r}: another member has taken over what this one was working on. Nothing of it was published; "
            "the new owner does it."
        )

    # Telling every process

    async def broadcast(self, body: bytes) -> None:
        now = self._micros()
        await self.file.write(lambda connection: sqlite_broadcast.send(connection, body, now), wakes=BROADCAST)

    async def listen(self) -> SqliteListener:
        return SqliteListener(self.file)

    # Where groups stand

    async def positions(self, group: str) -> Sequence[PartitionState]:
        rows = self.file.query(POSITIONS, (group,))
        now = self.monotonic()
        return [
            PartitionState(
                partition=Partition(name, number),
                committed=Figure(committed),
                head=Figure(head),
                oldest=Figure(oldest) if oldest is not None else Figure(None, "unknown"),
                owner=label(owner) if owner and boot == self.boot and expires > now and is_alive(owner) else None,
            )
            for name, number, committed, head, owner, boot, expires, oldest in rows
        ]

    async def seek(self, group: str, positions: Sequence[tuple[Partition, int]]) -> None:
        """Move a group that nobody runs."""
        tps = [(self.log.tp(partition), partition, position) for partition, position in positions]

        def write(connection: Connection) -> None:
            now = self.monotonic()
            for tp, partition, position in tps:
                row = connection.execute(
                    "select g.owner, g.boot, g.expires, p.first, p.next from broker_position g join broker_partition p using(tp)"
                    " where g.grp=? and g.tp=?",
                    (group, tp),
                ).fetchone()
                if row is None:
                    raise BrokerError(f"group {group!r} does not read {partition.topic}/{partition.number}; declare it so first.")
                owner, boot, expires, first, head = row
                if owner and boot == self.boot and expires > now and is_alive(owner):
                    raise BrokerError(f"group {group!r} is running ({label(owner)}): stop its workers, then move it.")
                if not first <= position <= head:
                    raise PositionLostError(
                        f"{partition.topic}/{partition.number} reaches from {first} to {head}: there is no position {position}. "
                        "Choose one inside."
                    )
                connection.execute("update broker_position set committed=? where grp=? and tp=?", (position, group, tp))

        await self.file.write(write, wakes=MEMBERS)

    async def position_at(self, partition: Partition, micros: int) -> int:
        return self.log.position_at(self.log.tp(partition), micros)

    # Keeping and removing

    async def retain(self, topic: str, *, force: bool = False) -> int:
        """Remove what the topic's retention no longer keeps, a few pages at a time; says how many events went."""
        rows = self.file.query("select retain_seconds, retain_bytes from broker_topic where name=?", (topic,))
        if not rows:
            raise BrokerError(f"there is no topic {topic!r} on {self.name}.")
        removed = 0
        for tp, *_ in self.log.partitions(topic):
            removed += await self._retain(tp, self.log.expired(tp, *rows[0]), force=force)
        return removed

    async def _retain(self, tp: int, upto: int, *, force: bool) -> int:
        removed = 0
        more = upto > 0
        while more:
            gone, more = await self.file.write(lambda connection: self._remove(connection, tp, upto, force=force), wakes=NOTHING)
            removed += gone
        return removed

    def _remove(self, connection: Connection, tp: int, upto: int, *, force: bool) -> tuple[int, bool]:
        if not force:
            # Asked inside the transaction: a group may have been declared, or moved, since the last look.
            ((passed,),) = connection.execute("select min(committed) from broker_position where tp=?", (tp,)).fetchall()
            upto = upto if passed is None else min(upto, passed)
        return self.log.remove(connection, tp, upto, REMOVE_PAGES)

    async def forget(self, group: str) -> None:
        """Remove a group and its positions; retention no longer waits for it."""

        def write(connection: Connection) -> None:
            for table, column in (("broker_group", "name"), ("broker_position", "grp"), ("broker_member", "grp")):
                connection.execute(f"delete from {table} where {column}=?", (group,))  # noqa: S608

        await self.file.write(write, wakes=MEMBERS)


class _Batch(Generic[T]):
    """The publishes that share one write."""

    def __init__(self, log: SqliteLog, gathering: threading.Lock) -> None:
        self.log = log
        self._gathering = gathering
        self.taken = False
        self.items: list[T] = []
        self.waiters: list[asyncio.Future[MillstreamError | None]] = []
        self.refused: dict[int, MillstreamError] = {}

    def write(self, connection: Connection) -> None:
        """Append all that was gathered; from now on nothing more is."""
        with self._gathering:
            self.taken = True
        if packed := self.packed():
            self.log.append_packed(connection, packed)

    def packed(self) -> list[Packed]:
        """What is appended."""
        raise NotImplementedError

    def settle(self, _: None, error: BaseException | None) -> None:
        """Tell those who wait; also where the transaction never began, nobody can join any more."""
        self.taken = True
        for index, waiter in enumerate(self.waiters):
            if waiter.done():
                continue
            if error is None or isinstance(error, MillstreamError):
                waiter.set_result(self.refused.get(index, error))
            else:
                waiter.set_exception(error)


class _Many(_Batch[list[Packed]]):
    """Whole batches, each with one answer."""

    def packed(self) -> list[Packed]:
        return self.items[0] if len(self.items) == 1 else [one for packed in self.items for one in packed]


class _Singles(_Batch[Envelope]):
    """Events that were published one by one: together they are packed for less."""

    def packed(self) -> list[Packed]:
        if len(self.items) > 1 and (packed := self.log.pack_many(self.items)):
            return packed
        each: list[Packed] = []
        for index, envelope in enumerate(self.items):
            try:
                each.append(pack(envelope))
            except (UnicodeEncodeError, OverflowError) as error:
                self.refused[index] = _unfit(envelope, error)
        return each


def _results(
    count: int, refused: dict[int, MillstreamError], failed: MillstreamError | None
) -> Sequence[MillstreamError | None]:
    """One for each item: why it was refused, or what became of all the others."""
    if not refused:
        return (failed,) * count
    return [refused.get(index, failed) for index in range(count)]


def _check_name(what: str, name: str) -> None:
    printable = all(character.isprintable() or character == " " for character in name)
    if not 1 <= len(name) <= LONGEST_NAME or not printable:
        raise ConfigurationError(
            f"{name!r} cannot be the name of a {what}: it needs 1 to {LONGEST_NAME} characters, all of them printable. Choose another name."
        )


def _unfit(item: Envelope | Message, error: Exception) -> BrokerError:
    return BrokerError(f"{item.id!r} for {item.topic!r} cannot be stored: {error}. Correct its attributes.")


def _check_size(item: Envelope | Message) -> None:
    size = len(item.data if isinstance(item, Envelope) else item.body)
    if size > LARGEST:
        raise TooLargeError(
            f"{item.id or 'a message'} for {item.topic!r} has {size} bytes, and this broker takes {LARGEST}: "
            "publish a reference to where the rest is."
        )
