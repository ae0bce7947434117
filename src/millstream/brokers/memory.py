"""The broker in memory: the smallest complete one, and the readable specification of the port."""

import asyncio
import contextlib
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import quote

from msgspec import structs

from millstream.brokers.refused_keys import RefusedKeys
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
from millstream.contracts.partition import murmur2, partition_of
from millstream.core.broker import (
    Assigned,
    Deliveries,
    Delivery,
    Features,
    Figure,
    Group,
    Lost,
    Message,
    Origin,
    Partition,
    PartitionState,
    Received,
    Revoked,
    Topic,
)

DEFAULT_PARTITIONS = 8
LARGEST = 16 << 20
#: Seconds that a member gets to give up a partition that another one needs.
GRACE = 10.0


class _Stored(NamedTuple):
    """An event in a log; its position is its place there."""

    number: int
    """Its place among the events of all logs."""
    at: int
    envelope: Envelope | None
    message: Message | None

    @property
    def size(self) -> int:
        return len(self.envelope.data if self.envelope else self.message.body if self.message else b"")


@dataclass(slots=True)
class _Log:
    """One partition: what retention has left, and the position of the first of it."""

    first: int = 0
    events: deque[_Stored] = field(default_factory=deque[_Stored])

    @property
    def head(self) -> int:
        return self.first + len(self.events)


class MemoryBroker:
    """A broker for tests and for applications of one process: what it holds dies with the object.

    It may be opened as often as needed, and again after it was closed; what it holds, and
    where its groups stand, stays.
    """

    features = Features(
        ordered=True, replayable=True, broadcast=True, transactional=True, marks=True, positional=True, largest=LARGEST
    )
    name = "memory://"

    def __init__(
        self,
        *,
        micros: Callable[[], int] = lambda: time.time_ns() // 1000,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.monotonic = monotonic
        self.logs: dict[Partition, _Log] = {}
        self._micros = micros
        self._topics: dict[str, Topic] = {}
        self._groups: dict[str, _Members] = {}
        self._marks: dict[str, int] = {}
        self._numbers = itertools.count()
        self._listeners: list[MemoryListener] = []
        self._bells: set[asyncio.Event] = set()
        self._users = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0

    async def __aenter__(self) -> Self:
        self._users += 1
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._users -= 1
        if not self._users:
            self._loop = None

    # Topics and groups

    async def declare(self, topics: Sequence[Topic], groups: Sequence[Group]) -> None:
        for topic in topics:
            self._verify_topic(topic)
        for group in groups:
            self._verify_group(group)
        for topic in topics:
            self._make_topic(topic)
        for group in groups:
            self._make_group(group)

    def _verify_topic(self, topic: Topic) -> None:
        if not topic.name:
            raise ConfigurationError("a topic has no name, and an event could not be published to it; give it one")
        known = self._topics.get(topic.name)
        if known is not None and topic.partitions not in (None, known.partitions):
            raise ConfigurationError(
                f"topic {topic.name!r} has {known.partitions} partitions, not {topic.partitions}: their number is fixed "
                "when a topic is created. Declare the number it has, or use a new topic."
            )
        if topic.partitions is not None and topic.partitions < 1:
            raise ConfigurationError(f"topic {topic.name!r}: {topic.partitions} partitions hold nothing; a topic has at least one")

    def _verify_group(self, group: Group) -> None:
        known = self._groups.get(group.name)
        theirs = known.group.store if known else None
        if theirs and group.store and theirs != group.store:
            raise StoreMismatchError(
                f"group {group.name!r} keeps its progress in the store {theirs}, not in {group.store}: two stores would each "
                "think that they own it. Use the store it has, another group, or forget the group first."
            )

    def _make_topic(self, topic: Topic) -> Topic:
        known = self._topics.get(topic.name)
        if known is None:
            known = Topic(name=topic.name, partitions=topic.partitions or DEFAULT_PARTITIONS)
            for number in range(known.partitions or 0):
                self.logs[Partition(topic.name, number)] = _Log()
        if topic.retain_seconds is not None:
            known = structs.replace(known, retain_seconds=topic.retain_seconds)
        if topic.retain_bytes is not None:
            known = structs.replace(known, retain_bytes=topic.retain_bytes)
        self._topics[topic.name] = known
        return known

    def _make_group(self, group: Group) -> None:
        members = self._groups.setdefault(group.name, _Members(self, group))
        topics = tuple(dict.fromkeys((*members.group.topics, *group.topics)))
        members.group = structs.replace(group, topics=topics, store=group.store or members.group.store, wants=None)
        for name in group.topics:
            for partition in self._partitions(self._make_topic(Topic(name=name)).name):
                log = self.logs[partition]
                # Only a partition that is new to the group: the others keep their position.
                members.committed.setdefault(partition, log.first if group.start == "earliest" else log.head)
        members.share_out()

    def _partitions(self, topic: str) -> list[Partition]:
        known = self._topics.get(topic)
        return [Partition(topic, number) for number in range(known.partitions or 0)] if known else []

    def _log(self, partition: Partition) -> _Log:
        log = self.logs.get(partition)
        if log is None:
            raise BrokerError(f"there is no partition {partition.number} of a topic {partition.topic!r}; declare the topic first")
        return log

    def _members(self, group: str) -> "_Members":
        members = self._groups.get(group)
        if members is None:
            raise BrokerError(f"there is no group {group!r}; declare it first")
        return members

    async def topics(self) -> Sequence[Topic]:
        return [self._topics[name] for name in sorted(self._topics)]

    async def groups(self) -> Sequence[Group]:
        return [self._groups[name].group for name in sorted(self._groups)]

    async def forget(self, group: str) -> None:
        members = self._groups.pop(group, None)
        if members is not None:
            members.dissolve()

    # Publishing

    async def publish(self, envelopes: Sequence[Envelope], *, origin: Origin | None = None) -> Sequence[MillstreamError | None]:
        results = self._refusals((f"event {e.id} ({e.type})", e.topic, e.key, e.data) for e in envelopes)
        if origin is not None:
            failure = self._copy(envelopes, origin, refused=any(results))
            return [refusal or failure for refusal in results]
        self._store([e for e, refusal in zip(envelopes, results, strict=True) if refusal is None])
        return results

    def _copy(self, envelopes: Sequence[Envelope], origin: Origin, *, refused: bool) -> MillstreamError | None:
        """Publish what a relay brings, all of it with its mark or nothing; what is here already is not stored twice."""
        mark = self._marks.get(origin.store, 0)
        if refused:
            return BrokerError("not published, because another event of its page was refused, and the mark would pass over it")
        if origin.after is not None and origin.after != mark:
            return FencedError(
                f"the outbox of the store {origin.store} was copied up to {mark}, not {origin.after}: another relay has gone on while "
                "this one was stopped. Nothing was published; ask again how far it is."
            )
        if mark < origin.upto:
            self._store(envelopes)
            self._marks[origin.store] = origin.upto
        return None

    def append(self, envelopes: Sequence[Envelope]) -> Callable[[], None]:
        """For a store in the same memory: check events now, and publish them when the answer is called.

        The store calls it as the last step of its commit, which can no longer fail then.
        """
        for e in envelopes:
            refused = self._refusal(f"event {e.id} ({e.type})", e.topic, e.data)
            if refused is not None:
                raise refused
        return lambda: self._store(envelopes)

    def check(self, envelopes: Sequence[Envelope]) -> None:
        """Raise `PublishError` where some of these would be refused."""
        results = [self._refusal(f"event {e.id} ({e.type})", e.topic, e.data) for e in envelopes]
        if any(results):
            raise PublishError(results)

    async def publish_raw(self, messages: Sequence[Message]) -> Sequence[MillstreamError | None]:
        results = self._refusals(("a message", m.topic, m.key, m.body) for m in messages)
        for message, refused in zip(messages, results, strict=True):
            if refused is None:
                self._store_raw(message)
        self._wake()
        return results

    def _refusals(self, items: Iterable[tuple[str, str, str | bytes | None, bytes]]) -> list[MillstreamError | None]:
        """Why each of one call is not published, in order; None where it is."""
        refused = RefusedKeys()
        results: list[MillstreamError | None] = []
        for what, topic, key, body in items:
            results.append(self._refusal(what, topic, body) or refused.behind(topic, key))
            if results[-1] is not None:
                refused.add(topic, key)
        return results

    def _refusal(self, what: str, topic: str, body: bytes) -> MillstreamError | None:
        if not topic:
            return BrokerError(f"{what} has no topic, so it cannot be published anywhere; give it one")
        if len(body) > LARGEST:
            return TooLargeError(f"{what} has {len(body)} bytes, and this broker takes {LARGEST}; publish a reference to large data")
        return None

    def _store(self, envelopes: Sequence[Envelope]) -> None:
        now = self._micros()
        for e in envelopes:
            partitions = self._make_topic(Topic(name=e.topic)).partitions or 1
            number = partition_of(e.id if e.key is None else e.key, partitions)
            self.logs[Partition(e.topic, number)].events.append(_Stored(next(self._numbers), now, e, None))
        self._wake()

    def _store_raw(self, message: Message) -> None:
        now = self._micros()
        partitions = self._make_topic(Topic(name=message.topic)).partitions or 1
        # Without a key it goes where its body says: as good a place as any, and always the same.
        number = (murmur2(message.body if message.key is None else message.key) & 0x7FFFFFFF) % partitions
        log = self.logs[Partition(message.topic, number)]
        named = Message(
            topic=message.topic, body=message.body, key=message.key, headers=message.headers, time=message.time or now,
            source=f"memory:/{quote(message.topic, safe='')}", id=f"{number}-{log.head}",
        )  # fmt: skip
        log.events.append(_Stored(next(self._numbers), now, None, named))

    async def relayed(self, store: str) -> int:
        return self._marks.get(store, 0)

    # Reading

    async def open(self, group: str, member: str) -> "MemorySubscription":
        members = self._members(group)
        subscription = MemorySubscription(self, members, member)
        members.join(subscription)
        return subscription

    async def read(self, partition: Partition, position: int, most: int) -> Sequence[Delivery]:
        return self.deliveries(partition, max(position, self._log(partition).first), most)

    def deliveries(self, partition: Partition, position: int, most: int) -> list[Delivery]:
        """What stands in a log from a position on that it still has."""
        log = self._log(partition)
        start = position - log.first
        stored = [log.events[index] for index in range(start, min(start + most, len(log.events)))]
        return [Delivery(partition, position + n, event.envelope, event.message) for n, event in enumerate(stored)]

    def history(self) -> list[Delivery]:
        """All that the logs still have, of every topic, in the order in which it was stored."""
        numbered = [
            (event.number, Delivery(partition, log.first + n, event.envelope, event.message))
            for partition, log in self.logs.items()
            for n, event in enumerate(log.events)
        ]
        return [delivery for _, delivery in sorted(numbered, key=lambda pair: pair[0])]

    async def bounds(self, topic: str) -> Sequence[tuple[Partition, int, int]]:
        return [(p, self.logs[p].first, self.logs[p].head) for p in self._partitions(topic)]

    async def positions(self, group: str) -> Sequence[PartitionState]:
        members = self._members(group)
        return [self._state(members, partition) for partition in sorted(members.committed)]

    def _state(self, members: "_Members", partition: Partition) -> PartitionState:
        log, committed, owner = self.logs[partition], members.committed[partition], members.owners.get(partition)
        following = max(committed - log.first, 0)
        oldest = log.events[following].at if following < len(log.events) else None
        return PartitionState(
            partition=partition,
            committed=Figure(committed),
            head=Figure(log.head),
            oldest=Figure(oldest, "unknown" if oldest is None else "exact"),
            owner=owner.member if owner else None,
        )

    async def seek(self, group: str, positions: Sequence[tuple[Partition, int]]) -> None:
        members = self._members(group)
        if members.everybody:
            raise BrokerError(f"group {group!r} is running: stop its workers, then move it")
        unknown = [partition for partition, _ in positions if partition not in members.committed]
        if unknown:
            raise BrokerError(f"group {group!r} does not read {unknown[0].topic}/{unknown[0].number}; declare it with that topic first")
        members.committed.update(positions)

    async def position_at(self, partition: Partition, micros: int) -> int:
        log = self._log(partition)
        return next((log.first + n for n, event in enumerate(log.events) if event.at >= micros), log.head)

    async def retain(self, topic: str, *, force: bool = False) -> int:
        known, partitions = self._topics.get(topic), self._partitions(topic)
        if known is None:
            return 0
        keep_from = -math.inf if known.retain_seconds is None else self._micros() - known.retain_seconds * 1e6
        room = math.inf if known.retain_bytes is None else known.retain_bytes
        size = sum(event.size for partition in partitions for event in self.logs[partition].events)
        removed = 0
        while removable := [p for p in partitions if self._is_removable(p, force=force)]:
            oldest = min(removable, key=lambda p: self.logs[p].events[0].at)
            event = self.logs[oldest].events[0]
            if event.at >= keep_from and size <= room:
                break
            self.logs[oldest].events.popleft()
            self.logs[oldest].first += 1
            size -= event.size
            removed += 1
        return removed

    def _is_removable(self, partition: Partition, *, force: bool) -> bool:
        log = self.logs[partition]
        passed = all(log.first < m.committed[partition] for m in self._groups.values() if partition in m.committed)
        return bool(log.events) and (force or passed)

    # Broadcasts

    async def broadcast(self, body: bytes) -> None:
        for listener in self._listeners:
            listener.heard.append(body)
        self._wake()

    async def listen(self) -> "MemoryListener":
        listener = MemoryListener(self)
        self._listeners.append(listener)
        return listener

    def unlisten(self, listener: "MemoryListener") -> None:
        """Tell a listener nothing more."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    # Waking

    def _wake(self) -> None:
        # A store commits for callers of other threads too, and events belong to the loop's.
        if self._loop is not None and threading.get_ident() != self._thread:
            self._loop.call_soon_threadsafe(self.ring)
        else:
            self.ring()

    def ring(self) -> None:
        """Have everybody who waits look again."""
        for bell in self._bells:
            bell.set()

    async def wait(self, seconds: float) -> None:
        """Return when something may have happened, at the latest after so many seconds."""
        bell = asyncio.Event()
        self._bells.add(bell)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await bell.wait()
        finally:
            self._bells.discard(bell)


class _Members:
    """Who is in a group, which partitions each has, and where the group stands in them."""

    def __init__(self, broker: MemoryBroker, group: Group) -> None:
        self.group = group
        self.committed: dict[Partition, int] = {}
        self.owners: dict[Partition, MemorySubscription] = {}
        self.everybody: list[MemorySubscription] = []
        self._broker = broker

    def join(self, member: "MemorySubscription") -> None:
        self.everybody.append(member)
        self.share_out()

    def leave(self, member: "MemorySubscription") -> None:
        if member in self.everybody:
            self.everybody.remove(member)
        self.take(member, list(self.held_by(member)))

    def dissolve(self) -> None:
        """The group is forgotten: whoever is in it has nothing any more."""
        for member in self.everybody:
            member.lose(self.held_by(member))
        self.committed, self.owners, self.everybody = {}, {}, []

    def take(self, member: "MemorySubscription", partitions: Sequence[Partition]) -> None:
        """Take partitions from a member and give them to whoever should have them."""
        for partition in partitions:
            if self.owners.get(partition) is member:
                del self.owners[partition]
        self.share_out()

    def held_by(self, member: "MemorySubscription") -> tuple[Partition, ...]:
        return tuple(sorted(partition for partition, owner in self.owners.items() if owner is member))

    def share_out(self) -> None:
        """Give free partitions to those who have too few, and ask those who have too many to release some."""
        if not self.everybody:
            return
        for partition, owner in list(self.owners.items()):
            if owner.is_overdue(partition):
                del self.owners[partition]
                owner.lose((partition,))
        least, more = divmod(len(self.committed), len(self.everybody))
        free = deque(sorted(self.committed.keys() - self.owners.keys()))
        # Those who hold most may keep one more, so that as few as possible move.
        by_size = sorted(self.everybody, key=lambda m: -len(m.staying(self.held_by(m))))
        for rank, member in enumerate(by_size):
            quota = least + (1 if rank < more else 0)
            staying = member.staying(self.held_by(member))
            if len(staying) > quota:
                member.revoke(staying[quota:], self._broker.monotonic() + GRACE)
            gained = tuple(free.popleft() for _ in range(min(quota - len(staying), len(free))))
            for partition in gained:
                self.owners[partition] = member
            member.gain(gained)


class MemorySubscription:
    """One member of a group; see `core.broker.Subscription`."""

    def __init__(self, broker: MemoryBroker, members: _Members, member: str) -> None:
        self.member = member
        self._broker = broker
        self._members = members
        self._notices: deque[Received] = deque()
        self._cursors: dict[Partition, int] = {}
        """What is delivered next, of each partition that was started; in the order of whose turn it is."""
        self._in_hand: dict[Partition, dict[int, None]] = {}
        """The positions that were delivered and are neither settled nor released, in order."""
        self._leaving: dict[Partition, float] = {}
        self._paused: set[Partition] = set()

    async def receive(self, most: int, wait: float) -> Received:
        # Whoever asks again and again must let others run, though nothing here ever waits.
        await asyncio.sleep(0)
        self._members.share_out()
        items = [] if self._notices else self._next(most)
        if not items and not self._notices and wait > 0:
            await self._broker.wait(wait)
            self._members.share_out()
        if self._notices:
            return self._notices.popleft()
        return Deliveries(items or self._next(most))

    def _next(self, most: int) -> list[Delivery]:
        items: list[Delivery] = []
        for partition, cursor in list(self._cursors.items()):
            if partition in self._paused or partition in self._leaving or len(items) == most:
                continue
            log = self._broker.logs[partition]
            if cursor < log.first:
                raise PositionLostError(
                    f"group {self._members.group.name!r}: position {cursor} of {partition.topic}/{partition.number} has left "
                    f"the log, which begins at {log.first}. Look at what was lost, then move the group on purpose."
                )
            delivered = self._broker.deliveries(partition, cursor, most - len(items))
            if delivered:
                # To the end of the line, so that a busy partition does not starve the others.
                del self._cursors[partition]
                self._cursors[partition] = cursor + len(delivered)
                self._in_hand.setdefault(partition, {}).update(dict.fromkeys(d.position for d in delivered))
                items += delivered
        return items

    def start(self, partition: Partition, position: int | None) -> None:
        if self._members.owners.get(partition) is not self:
            return
        log = self._broker.logs[partition]
        position = self._members.committed[partition] if position is None else position
        if not log.first <= position <= log.head:
            raise PositionLostError(
                f"group {self._members.group.name!r} would go on at {position} of {partition.topic}/{partition.number}, but the "
                f"log has {log.first} to {log.head}. Find out what happened to it, then move the group on purpose."
            )
        self._cursors[partition] = position
        self._in_hand[partition] = {}
        self._broker.ring()

    async def settle(self, done: Sequence[Delivery], released: Sequence[Delivery] = ()) -> None:
        for delivery in done:
            if self._has(delivery):
                in_hand = self._in_hand[delivery.partition]
                first = next(iter(in_hand))
                if delivery.position != first:
                    raise BrokerError(
                        f"{delivery.partition.topic}/{delivery.partition.number}: {delivery.position} is settled while {first} is "
                        "still in hand; settle in order, without gaps"
                    )
                del in_hand[first]
                self._members.committed[delivery.partition] = first + 1
        for delivery in released:
            if self._has(delivery):
                partition, position = delivery.partition, delivery.position
                # A log has one cursor: what came after it is delivered again as well.
                self._cursors[partition] = position
                self._in_hand[partition] = {p: None for p in self._in_hand[partition] if p < position}

    def _has(self, delivery: Delivery) -> bool:
        return delivery.position in self._in_hand.get(delivery.partition, {})

    async def extend(self) -> None:
        """Nothing to do: a member of this process cannot die alone, so it has no lease."""

    def pause(self, partitions: Sequence[Partition]) -> None:
        self._paused.update(partitions)

    def resume(self, partitions: Sequence[Partition]) -> None:
        self._paused.difference_update(partitions)
        self._broker.ring()

    async def release(self, partitions: Sequence[Partition]) -> None:
        mine = [partition for partition in partitions if self._members.owners.get(partition) is self]
        self._drop(mine)
        self._members.take(self, mine)

    async def publish_and_settle(self, envelopes: Sequence[Envelope], done: Sequence[Delivery]) -> None:
        gone = [d for d in done if not self._has(d)]
        if gone:
            raise FencedError(
                f"{gone[0].partition.topic}/{gone[0].partition.number}: {gone[0].position} is not in hand any more, so nothing "
                "was published; its new owner does it"
            )
        self._broker.check(envelopes)
        publish = self._broker.append(envelopes)
        await self.settle(done)
        publish()

    async def close(self) -> None:
        self._drop(list(self._in_hand))
        self._members.leave(self)

    # What the group tells its member

    def gain(self, partitions: tuple[Partition, ...]) -> None:
        """These are yours."""
        if partitions:
            self._notify(Assigned(partitions))

    def revoke(self, partitions: tuple[Partition, ...], deadline: float) -> None:
        """Another needs these."""
        self._leaving.update(dict.fromkeys(partitions, deadline))
        self._notify(Revoked(partitions, deadline))

    def lose(self, partitions: tuple[Partition, ...]) -> None:
        """These are no longer yours."""
        self._drop(partitions)
        if partitions:
            self._notify(Lost(partitions))

    def _notify(self, notice: Received) -> None:
        self._notices.append(notice)
        self._broker.ring()

    def staying(self, held: tuple[Partition, ...]) -> tuple[Partition, ...]:
        """Those that it was not asked to release."""
        return tuple(partition for partition in held if partition not in self._leaving)

    def is_overdue(self, partition: Partition) -> bool:
        """Whether it should have released this one by now."""
        return self._leaving.get(partition, math.inf) <= self._broker.monotonic()

    def _drop(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            self._cursors.pop(partition, None)
            self._in_hand.pop(partition, None)
            self._leaving.pop(partition, None)
            self._paused.discard(partition)


class MemoryListener:
    """One ear for what is broadcast; see `core.broker.Listener`."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.heard: list[bytes] = []
        self._broker = broker

    async def receive(self, wait: float) -> Sequence[bytes]:
        if not self.heard and wait > 0:
            await self._broker.wait(wait)
        heard, self.heard = self.heard, []
        return heard

    async def close(self) -> None:
        self._broker.unlisten(self)
