"""Redis Streams as a broker; see docs/how-to/run-on-redis.md."""

import os
import socket
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar

from millstream.brokers.redis_broadcast import RedisListener, channel_of
from millstream.brokers.redis_connection import Connection
from millstream.brokers.redis_control import RedisControl
from millstream.brokers.redis_names import (
    MARKS,
    PLAIN,
    REMOVED,
    check_group,
    check_topic,
    claims_of,
    entries_before,
    id_before,
    id_of,
    members_of,
    position_of,
    stream_of,
)
from millstream.brokers.redis_publisher import Call, Outgoing, RedisPublisher, Settled, pages
from millstream.brokers.redis_register import GroupRecord, RedisRegister, TopicRecord
from millstream.brokers.redis_scripts import AT_TIME, LAST, PRESENT, SEEK, TRIM
from millstream.brokers.redis_server import verify_server
from millstream.brokers.redis_settings import RedisSettings, settings_of
from millstream.brokers.redis_subscription import RedisSubscription
from millstream.brokers.redis_survey import Stand
from millstream.brokers.redis_wire import MOST_HEADERS, RedisReader, event_fields, message_fields
from millstream.brokers.refused_keys import RefusedKeys, in_order
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import (
    BrokerError,
    BrokerUnavailableError,
    ConfigurationError,
    MillstreamError,
    PublishError,
    TooLargeError,
)
from millstream.contracts.partition import partition_of, partitions_of
from millstream.core.broker import Delivery, Features, Figure, Group, Message, Origin, Partition, PartitionState, Topic

Item = TypeVar("Item", Envelope, Message)
#: The largest body; Redis itself takes more, and would stand still for everybody meanwhile.
LARGEST = 16 << 20
UNKNOWN = Figure(None, "unknown")


class RedisBroker:
    """Topics as streams, one for each partition, on one server of Redis."""

    def __init__(
        self, url: str, *, micros: Callable[[], int] = lambda: time.time_ns() // 1000, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings: RedisSettings = settings_of(url)
        self._micros = micros
        self._monotonic = monotonic
        self._durable = True
        self._topics: dict[str, TopicRecord] = {}
        """Those that are known to be there."""
        self._subscriptions: set[RedisSubscription] = set()
        self._listeners: set[RedisListener] = set()

    @property
    def features(self) -> Features:
        """Durable is what the server is set up to be."""
        return Features(
            ordered=True, replayable=True, durable=self._durable, shared=True, broadcast=True, transactional=True, marks=True,
            positional=True, largest=LARGEST,
        )  # fmt: skip

    @property
    def name(self) -> str:
        """Its URL without secrets."""
        return self._settings.name

    async def __aenter__(self) -> Self:
        self._topics = {}
        self._control = RedisControl(self._settings, f"millstream {_process()}")
        self._register = RedisRegister(self._control)
        try:
            self._durable = await verify_server(self._control)
        except BaseException:
            await self._control.close()
            raise
        self._publisher = RedisPublisher(self._settings, self._forget_topic, self._connect_publisher)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        for part in (*self._subscriptions, *self._listeners):
            await part.close()
        await self._publisher.close()
        await self._control.close()

    async def _connect_publisher(self) -> Connection:
        return await Connection.connect(self._settings, name=f"millstream publisher {_process()}")

    # Topics and groups

    async def declare(self, topics: Sequence[Topic], groups: Sequence[Group]) -> None:
        wanted = {topic.name: topic for topic in topics}
        for group in groups:
            check_group(group.name)
            for name in group.topics:
                wanted.setdefault(name, Topic(name=name))
        for topic in wanted.values():
            check_topic(topic.name)
            if topic.partitions is not None and topic.partitions < 1:
                raise ConfigurationError(f"topic {topic.name!r}: {topic.partitions} partitions hold nothing; a topic has at least one")
        known = await self._register.topics_of(wanted)
        for name, topic in wanted.items():
            self._register.verify_topic(topic, known.get(name))
        for name, topic in wanted.items():
            self._topics[name] = await self._register.add_topic(topic)
        for group in groups:
            await self._register.add_group(group, [p for name in group.topics for p in self._topics[name].all()])

    async def topics(self) -> Sequence[Topic]:
        return [record.topic() for record in await self._register.topics()]

    async def groups(self) -> Sequence[Group]:
        return [record.group() for record in await self._register.groups()]

    async def _partitions(self, group: str) -> list[Partition]:
        record = await self._group(group)
        topics = await self._register.topics_of(record.topics)
        return [partition for name in record.topics if name in topics for partition in topics[name].all()]

    async def _group(self, name: str) -> GroupRecord:
        record = await self._register.group(name)
        if record is None:
            raise BrokerError(f"there is no group {name!r} on {self.name}; declare it first.")
        return record

    async def _stands(self, partitions: Sequence[Partition]) -> list[Stand]:
        found = await self._control.survey(partitions)
        missing = next((partition for partition, stand in zip(partitions, found, strict=True) if stand is None), None)
        if missing is not None:
            raise BrokerError(
                f"there is no partition {missing.number} of a topic {missing.topic!r} on {self.name}; declare the topic first."
            )
        return [stand for stand in found if stand is not None]

    async def forget(self, group: str) -> None:
        record = await self._register.group(group)
        if record is not None:
            await self._register.forget(group, await self._partitions(group))

    # Publishing

    async def publish(self, envelopes: Sequence[Envelope], *, origin: Origin | None = None) -> Sequence[MillstreamError | None]:
        if origin is None and len(envelopes) == 1 and (record := self._topics.get(envelopes[0].topic)) is not None:
            return [await self._publish_one(envelopes[0], record)]
        keys = [(e.id if e.key is None else e.key).encode() for e in envelopes]
        if origin is not None:
            return await self._copy(envelopes, keys, origin)
        return await self._send(envelopes, keys, self._event)

    async def _publish_one(self, e: Envelope, record: TopicRecord) -> MillstreamError | None:
        """The same for what most callers bring, at half the price."""
        try:
            event = self._event(e, record.all()[partition_of(e.id if e.key is None else e.key, record.partitions)])
        except MillstreamError as error:
            return error
        return await self._publisher.bring(Call(), (event,))

    async def publish_raw(self, messages: Sequence[Message]) -> Sequence[MillstreamError | None]:
        # Without a key it goes where its body says: as good a place as any, and always the same.
        return await self._send(messages, [message.body if message.key is None else message.key for message in messages], self._raw)

    async def _send(
        self, items: Sequence[Item], keys: Sequence[bytes], outgoing: Callable[[Item, Partition], Outgoing]
    ) -> Sequence[MillstreamError | None]:
        results, places, events = await self._outgoing(items, keys, outgoing, RefusedKeys())
        call = Call()
        waiting = [(start, end, self._publisher.bring(call, events[start:end])) for start, end in pages(events)]
        for start, end, done in waiting:
            error = await done
            if error is not None:
                for place in places[start:end]:
                    results[place] = error
        return in_order(results, items)

    async def _outgoing(
        self, items: Sequence[Item], keys: Sequence[bytes], make: Callable[[Item, Partition], Outgoing], refused: RefusedKeys | None = None
    ) -> tuple[list[MillstreamError | None], list[int], list[Outgoing]]:
        """What can be sent, where it stood among all, and why the others cannot; with `refused` nothing behind one of its key."""
        problems: dict[str, MillstreamError] = {}
        for name in {item.topic for item in items} - self._topics.keys():
            try:
                await self.declare([Topic(name=name)], [])
            except MillstreamError as error:
                problems[name] = error
        results: list[MillstreamError | None] = [None] * len(items)
        places: list[int] = []
        events: list[Outgoing] = []
        for index, (item, partition) in enumerate(zip(items, self._places(items, keys), strict=True)):
            if partition is None:
                results[index] = problems.get(item.topic) or self._forget_topic(item.topic)
                continue
            try:
                if refused:
                    refused.check(item.topic, item.key)
                events.append(make(item, partition))
            except MillstreamError as error:
                if refused is not None:
                    refused.add(item.topic, item.key)
                results[index] = error
            else:
                places.append(index)
        return results, places, events

    def _places(self, items: Sequence[Envelope | Message], keys: Sequence[bytes]) -> list[Partition | None]:
        """Where each goes by its key; None where its topic cannot be had."""
        found: list[Partition | None] = [None] * len(items)
        by_topic: dict[str, list[int]] = {}
        for index, item in enumerate(items):
            by_topic.setdefault(item.topic, []).append(index)
        for topic, indexes in by_topic.items():
            record = self._topics.get(topic)
            if record is not None:
                partitions = record.all()
                for index, number in zip(indexes, partitions_of([keys[index] for index in indexes], len(partitions)), strict=True):
                    found[index] = partitions[number]
        return found

    def _event(self, e: Envelope, partition: Partition) -> Outgoing:
        if len(e.data) > LARGEST:
            raise _too_large(f"event {e.id} ({e.type})", len(e.data))
        fields = event_fields(e)
        if len(fields) > 2 * MOST_HEADERS:
            raise TooLargeError(f"event {e.id} ({e.type}) has more attributes than this broker takes ({MOST_HEADERS}); leave some out")
        return Outgoing(partition, fields, sum(map(len, fields)))

    def _raw(self, message: Message, partition: Partition) -> Outgoing:
        if len(message.body) > LARGEST:
            raise _too_large("a message", len(message.body))
        fields = message_fields(message)
        return Outgoing(partition, fields, sum(map(len, fields)))

    async def _copy(self, envelopes: Sequence[Envelope], keys: Sequence[bytes], origin: Origin) -> Sequence[MillstreamError | None]:
        """Publish what a relay brings, all of it with its mark or nothing."""
        results, _, events = await self._outgoing(envelopes, keys, self._event)
        failure: MillstreamError | None
        if any(results):
            failure = BrokerError("not published, because another event of its page was refused, and the mark would pass over it")
        else:
            failure = await self._publisher.bring(Call(), events, origin=origin)
            if failure is not None and not envelopes:
                raise failure
        return [refusal or failure for refusal in results]

    async def _publish_and_settle(self, group: str, token: str, envelopes: Sequence[Envelope], settled: Sequence[Settled]) -> None:
        keys = [(e.id if e.key is None else e.key).encode() for e in envelopes]
        results, _, events = await self._outgoing(envelopes, keys, self._event)
        if any(results):
            raise refusal_of(results)
        failure = await self._publisher.bring(Call(), events, group=group, token=token, settled=settled)
        if failure is not None:
            raise failure

    def _forget_topic(self, topic: str) -> MillstreamError:
        """What is published to a topic that is gone: the next time it is made anew."""
        self._topics.pop(topic, None)
        return BrokerUnavailableError(f"topic {topic!r} was deleted on {self.name}: publish again to make it anew.")

    async def relayed(self, store: str) -> int:
        return int(await self._control.call("HGET", MARKS, store) or 0)

    # Consuming

    async def open(self, group: str, member: str = "") -> RedisSubscription:
        subscription = RedisSubscription(
            group,
            member or _process(),
            await self._partitions(group),
            control=self._control,
            publish=self._publish_and_settle,
            closed=self._subscriptions.discard,
            monotonic=self._monotonic,
        )
        try:
            await subscription.begin()
        except BaseException:
            await subscription.close()
            raise
        self._subscriptions.add(subscription)
        return subscription

    async def read(self, partition: Partition, position: int, most: int) -> Sequence[Delivery]:
        (stand,) = await self._stands([partition])
        reader, items = RedisReader(partition, stand.stream), list[Delivery]()
        while len(items) < most:
            count = min(most - len(items), 500)
            entries = await self._control.call("XRANGE", stream_of(partition), id_of(max(position, 0)), "+", "COUNT", count)
            items += map(reader.delivery, entries)
            if len(entries) < count:
                break
            position = items[-1].position + 1
        return items

    # Telling every process

    async def broadcast(self, body: bytes) -> None:
        await self._control.call("PUBLISH", channel_of(self._settings.database), body)

    async def listen(self) -> RedisListener:
        listener = RedisListener(
            await Connection.connect(self._settings, name=f"millstream listener {_process()}"), self._listeners.discard
        )
        await listener.begin()
        self._listeners.add(listener)
        return listener

    # Where groups stand

    async def bounds(self, topic: str) -> Sequence[tuple[Partition, int, int]]:
        record = (await self._register.topics_of([topic])).get(topic)
        partitions = record.all() if record is not None else ()
        # A stream that somebody deleted is made anew when it is published to, and begins at 1 as every one does.
        stands = await self._control.survey(partitions)
        return [(p, stand.first, stand.head) if stand else (p, 1, 1) for p, stand in zip(partitions, stands, strict=True)]

    async def positions(self, group: str) -> Sequence[PartitionState]:
        partitions = await self._partitions(group)
        present, claims = await self._control.run(PRESENT, (members_of(group), claims_of(group)))
        owners = {stream: token for stream, token in zip(claims[::2], claims[1::2], strict=True) if token in set(present)}
        states: list[PartitionState] = []
        for partition, stand in zip(partitions, await self._control.survey(partitions, group, oldest=True), strict=True):
            if stand is None:
                states.append(PartitionState(partition=partition, committed=UNKNOWN, head=Figure(1), oldest=UNKNOWN))
                continue
            token = owners.get(stream_of(partition).encode())
            states.append(
                PartitionState(
                    partition=partition,
                    committed=UNKNOWN if stand.place is None else Figure(stand.place),
                    head=Figure(stand.head),
                    oldest=UNKNOWN if stand.oldest is None else Figure(stand.oldest),
                    owner=None if token is None else token.partition(b":")[2].decode(),
                    waiting=_waiting(stand),
                )
            )
        return states

    async def seek(self, group: str, positions: Sequence[tuple[Partition, int]]) -> None:
        record = await self._group(group)
        for partition, _ in positions:
            if partition.topic not in record.topics:
                raise BrokerError(f"group {group!r} does not read {partition.topic!r}; declare it with that topic first.")
        await self._stands([partition for partition, _ in positions])
        arguments: list[str | int] = [group]
        for _, position in positions:
            arguments += (id_before(position), entries_before(position))
        keys = (members_of(group), claims_of(group), *(stream_of(partition) for partition, _ in positions))
        if not await self._control.run(SEEK, keys, arguments):
            raise BrokerError(f"group {group!r} is running on {self.name}: stop its workers, then move it.")

    async def position_at(self, partition: Partition, micros: int) -> int:
        (stand,) = await self._stands([partition])
        found = await self._control.run(AT_TIME, (stream_of(partition),), (max(0, -(-micros // 1000)), PLAIN))
        return position_of(found) if found else stand.head

    async def retain(self, topic: str, *, force: bool = False) -> int:
        record = (await self._register.topics_of([topic])).get(topic)
        if record is None or (record.retain_seconds is None and record.retain_bytes is None):
            return 0
        removed = 0
        for partition, stand in zip(record.all(), await self._control.survey(record.all()), strict=True):
            upto = 0 if stand is None else await self._expired(record, partition, stand)
            if upto:
                removed += await self._control.run(TRIM, (REMOVED, stream_of(partition)), (id_of(upto), int(force)))
        return removed

    async def _expired(self, record: TopicRecord, partition: Partition, stand: Stand) -> int:
        """The first position that retention keeps."""
        upto = 0
        if record.retain_seconds is not None:
            upto = await self.position_at(partition, self._micros() - int(record.retain_seconds * 1_000_000))
        if record.retain_bytes is not None:
            share = record.retain_bytes // record.partitions
            size = int(await self._control.call("MEMORY", "USAGE", stream_of(partition)) or 0)
            if stand.length and size > share:
                # Redis tells what a stream takes, and not what each entry does: as if all took the same.
                kept = stand.length * share // size
                upto = max(upto, await self._last(partition, kept) if kept else stand.head)
        return upto

    async def _last(self, partition: Partition, count: int) -> int:
        """The position of the first of so many entries at the end."""
        return position_of(await self._control.run(LAST, (stream_of(partition),), (count,)))


def _waiting(stand: Stand) -> Figure:
    """How many entries the group has not done; without gaps the positions tell it themselves."""
    if stand.place is None or stand.head < PLAIN:
        return UNKNOWN
    if stand.lag >= 0:
        return Figure(stand.lag)
    return Figure(stand.length if stand.place < stand.head else 0, "estimated")


def refusal_of(results: Sequence[MillstreamError | None]) -> MillstreamError:
    """What to raise where some of what belongs together was not published: that it may be later, or that it never will."""
    return next((result for result in results if isinstance(result, BrokerUnavailableError)), None) or PublishError(results)


def _too_large(what: str, size: int) -> TooLargeError:
    return TooLargeError(f"{what} has {size} bytes, and this broker takes {LARGEST}; publish a reference to where the rest is.")


def _process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"
