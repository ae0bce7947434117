"""NATS JetStream as a broker; see docs/how-to/run-on-nats.md."""

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from millstream.brokers import nats_broadcast
from millstream.brokers.nats_broadcast import NatsListener
from millstream.brokers.nats_connection import Connection
from millstream.brokers.nats_history import NatsHistory
from millstream.brokers.nats_jetstream import JetStream, StreamInfo
from millstream.brokers.nats_names import bare_subject_of, check_group, check_topic, stream_of, subject_of
from millstream.brokers.nats_publisher import NatsPublisher, Outgoing
from millstream.brokers.nats_register import TRIES, GroupRecord, NatsRegister, Place, TopicRecord
from millstream.brokers.nats_settings import NatsSettings, settings_of
from millstream.brokers.nats_subscription import NatsSubscription
from millstream.brokers.nats_wire import event_head, message_head
from millstream.brokers.refused_keys import RefusedKeys, in_order
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import (
    BrokerError,
    BrokerUnavailableError,
    ConfigurationError,
    MillstreamError,
    StoreMismatchError,
    TooLargeError,
)
from millstream.contracts.partition import partitions_of
from millstream.core.broker import Delivery, Features, Figure, Group, Message, Origin, Partition, PartitionState, Topic

Item = TypeVar("Item", Envelope, Message)
DEFAULT_PARTITIONS = 8
#: What a server takes in one message unless it is told otherwise, and what of it is for headers.
PAYLOAD = 1 << 20
AROUND = 256 << 10
#: Seconds in which a stream knows by its id that it has an event already.
KNOWN_SECONDS = 120
UNKNOWN = Figure(None, "unknown")


class NatsBroker:
    """Topics as streams, one for each partition, and groups that share them by leases."""

    def __init__(self, url: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._settings: NatsSettings = settings_of(url)
        self._monotonic = monotonic
        self._payload = PAYLOAD
        self._connection: Connection | None = None
        self._topics: dict[str, TopicRecord] = {}
        """Those that are known to be there."""
        self._subjects: dict[str, list[bytes]] = {}
        self._subscriptions: set[NatsSubscription] = set()
        self._former: dict[str, set[str]] = {}
        """By group: tokens of members of this process that could not say that they left."""
        self._listeners: set[NatsListener] = set()

    @property
    def features(self) -> Features:
        """What the server allows in one message decides about the largest event."""
        return Features(
            ordered=True, replayable=True, durable=True, shared=True, broadcast=True, positional=True, deduplicates=True,
            largest=max(self._payload - AROUND, self._payload // 2),
        )  # fmt: skip

    @property
    def name(self) -> str:
        """Its URL without secrets."""
        return self._settings.name

    async def __aenter__(self) -> Self:
        self._connecting = asyncio.Lock()
        self._topics, self._subjects = {}, {}
        self._token, self._number = secrets.token_hex(8), 0
        self._jetstream = JetStream(self.name, self._connected)
        self._register = NatsRegister(self._jetstream, self.name)
        self._history = NatsHistory(self._jetstream, self._connected)
        self._publisher = NatsPublisher(self._settings, self._look_for)
        try:
            connection = await self._connected()
            self._payload = connection.info.max_payload
            self._replicas = self._settings.replicas or (3 if connection.info.cluster else 1)
            self._publisher.in_turn = bool(connection.info.cluster)
            await self._register.make(self._replicas)
        except BaseException:
            await self._disconnect()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        try:
            for part in (*self._subscriptions, *self._listeners):
                await part.close()
            await self._publisher.close()
        finally:
            await self._disconnect()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _connected(self) -> Connection:
        """The connection for questions, made anew when it was lost."""
        async with self._connecting:
            if self._connection is None or self._connection.lost is not None:
                self._connection = await Connection.connect(self._settings, name=f"millstream {_process()}")
            return self._connection

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
        known = {name: await self._register.topic(name) for name in wanted}
        for name, topic in wanted.items():
            self._verify(topic, known[name])
        for name, topic in wanted.items():
            await self._declare_topic(topic, known[name])
        for group in groups:
            await self._declare_group(group)

    def _verify(self, topic: Topic, known: TopicRecord | None) -> None:
        if known is not None and topic.partitions not in (None, known.partitions):
            raise ConfigurationError(
                f"topic {topic.name!r} on {self.name} has {known.partitions} partitions, not {topic.partitions}: another number would give "
                "keys another place. Declare the number it has, or use a new topic."
            )

    async def _declare_topic(self, topic: Topic, known: TopicRecord | None) -> None:
        wanted = TopicRecord(topic.name, topic.partitions or DEFAULT_PARTITIONS, topic.retain_seconds, topic.retain_bytes)
        if known is None:
            # The first stream tells whether the topic can be had at all, before anybody is told of it.
            await self._make_stream(Partition(topic.name, 0))
            known = await self._register.add_topic(wanted)
            self._verify(topic, known)
        if topic.name not in self._topics:
            for partition in known.all():
                await self._make_stream(partition)
        changed = msgspec.structs.replace(
            known,
            retain_seconds=known.retain_seconds if topic.retain_seconds is None else topic.retain_seconds,
            retain_bytes=known.retain_bytes if topic.retain_bytes is None else topic.retain_bytes,
        )
        if changed != known:
            await self._register.change_topic(changed)
        self._subjects[topic.name] = [subject_of(partition).encode() for partition in changed.all()]
        self._topics[topic.name] = changed

    async def _make_stream(self, partition: Partition) -> None:
        stream, subject = stream_of(partition), subject_of(partition)
        bare = bare_subject_of(partition.topic) if partition.number == 0 else None
        subjects = [subject] if bare is None else [subject, bare]
        made = await self._jetstream.make(
            stream, subjects, num_replicas=self._replicas, duplicate_window=int(KNOWN_SECONDS * 1e9), description=f"topic {partition.topic}"
        )
        where = f"topic {partition.topic!r} on {self.name}: the stream {stream}"
        if subject not in made.config.subjects:
            raise ConfigurationError(f"{where} is there and takes other subjects, so it is another's. Choose another topic, or remove it.")
        if made.config.storage != "file" or made.config.retention != "limits":
            raise ConfigurationError(
                f"{where} has storage={made.config.storage} and retention={made.config.retention}, and would lose events that were "
                "acknowledged. Make it with storage=file and retention=limits, or let Millstream make it."
            )

    async def _declare_group(self, group: Group) -> None:
        for _ in range(TRIES):
            known, revision = await self._register.group(group.name)
            if known is not None and known.store and group.store and known.store != group.store:
                raise StoreMismatchError(
                    f"group {group.name!r} keeps its progress in the store {known.store}, and this one is {group.store}: two stores would "
                    f"each take the group for theirs. Open the store it had, or remove the group (`millstream groups forget {group.name}`) "
                    "and let it begin anew."
                )
            topics = tuple(dict.fromkeys((*(known.topics if known else ()), *group.topics)))
            for name in topics:
                await self._place_group(group, name)
            record = GroupRecord(group.name, topics, group.start, group.store or (known.store if known else None))
            if record == known or await self._register.put_group(record, revision):
                return
        raise BrokerUnavailableError(f"group {group.name!r} is being declared by others on {self.name}. Try again later.")

    async def _place_group(self, group: Group, topic: str) -> None:
        """Have the group stand somewhere in a topic: at its creation, unless it asked for all or stands there already."""
        record = self._topics.get(topic) or await self._topic(topic)
        for partition in record.all():
            if await self._register.place(group.name, partition) is None:
                info = await self._info(partition)
                position = info.first if group.start == "earliest" else info.head
                await self._register.put_place(group.name, partition, Place(position, stream=info.created), 0)

    async def _topic(self, name: str) -> TopicRecord:
        record = await self._register.topic(name)
        if record is None:
            raise BrokerError(f"there is no topic {name!r} on {self.name}; declare it first.")
        return record

    async def _info(self, partition: Partition) -> StreamInfo:
        record = self._topics.get(partition.topic) or await self._topic(partition.topic)
        info = await self._jetstream.info(stream_of(partition)) if 0 <= partition.number < record.partitions else None
        if info is None:
            raise BrokerError(
                f"there is no partition {partition.number} of a topic {partition.topic!r} on {self.name}; declare the topic first."
            )
        return info

    async def topics(self) -> Sequence[Topic]:
        return [record.topic() for record in await self._register.topics()]

    async def groups(self) -> Sequence[Group]:
        return [record.group() for record in await self._register.groups()]

    async def _group(self, name: str) -> GroupRecord:
        record, _ = await self._register.group(name)
        if record is None:
            raise BrokerError(f"there is no group {name!r} on {self.name}; declare it first.")
        return record

    async def _partitions(self, group: GroupRecord) -> list[Partition]:
        return [partition for name in group.topics for partition in (await self._topic(name)).all()]

    async def forget(self, group: str) -> None:
        await self._register.forget(group)

    # Publishing

    async def publish(self, envelopes: Sequence[Envelope], *, origin: Origin | None = None) -> Sequence[MillstreamError | None]:
        if origin is not None:
            raise ConfigurationError(f"{self.name} keeps no marks of relays: publish without origin=; the inbox absorbs what is repeated.")
        return await self._send(envelopes, [(e.id if e.key is None else e.key).encode() for e in envelopes], self._event)

    async def publish_raw(self, messages: Sequence[Message]) -> Sequence[MillstreamError | None]:
        # Without a key it goes where its body says: as good a place as any, and always the same.
        return await self._send(messages, [message.body if message.key is None else message.key for message in messages], self._raw)

    async def _send(
        self, items: Sequence[Item], keys: Sequence[bytes], outgoing: Callable[[Item, bytes], Outgoing]
    ) -> Sequence[MillstreamError | None]:
        problems: dict[str, MillstreamError] = {}
        for name in {item.topic for item in items} - self._topics.keys():
            try:
                await self.declare([Topic(name=name)], [])
            except MillstreamError as error:
                problems[name] = error
        results: list[MillstreamError | None] = [None] * len(items)
        messages: list[Outgoing] = []
        places: list[int] = []
        refused = RefusedKeys()
        for index, (item, subject) in enumerate(zip(items, self._subjects_of(items, keys), strict=True)):
            try:
                if subject is None:
                    raise problems.get(item.topic) or self._gone(item.topic)
                if refused:
                    refused.check(item.topic, item.key)
                messages.append(outgoing(item, subject))
            except MillstreamError as error:
                refused.add(item.topic, item.key)
                results[index] = error
            else:
                places.append(index)
        for place, result in zip(places, await self._publisher.send(messages), strict=True):
            results[place] = result
        return in_order(results, items)

    def _subjects_of(self, items: Sequence[Envelope | Message], keys: Sequence[bytes]) -> list[bytes | None]:
        """Where each goes by its key; None where its topic cannot be had."""
        found: list[bytes | None] = [None] * len(items)
        by_topic: dict[str, list[int]] = {}
        for index, item in enumerate(items):
            by_topic.setdefault(item.topic, []).append(index)
        for topic, indexes in by_topic.items():
            subjects = self._subjects.get(topic) if topic in self._topics else None
            if subjects is not None:
                for index, number in zip(indexes, partitions_of([keys[index] for index in indexes], len(subjects)), strict=True):
                    found[index] = subjects[number]
        return found

    def _event(self, e: Envelope, subject: bytes) -> Outgoing:
        head, body = event_head(e)
        if len(head) + len(body) > self._payload - AROUND:
            self._check_size(f"event {e.id} ({e.type})", head, body)
        return Outgoing(e.topic, subject, None if e.key is None else e.key.encode(), head, body)

    def _raw(self, message: Message, subject: bytes) -> Outgoing:
        self._number += 1
        head = message_head(message, f"{self._token}-{self._number}")
        self._check_size("a message", head, message.body)
        return Outgoing(message.topic, subject, message.key, head, message.body)

    def _check_size(self, what: str, head: bytes, body: bytes) -> None:
        largest = max(self._payload - AROUND, self._payload // 2)
        if len(body) > largest or len(head) + len(body) > self._payload:
            raise TooLargeError(
                f"{what} has {len(body)} bytes and {len(head)} around them: this broker takes {largest}, and {self._payload} in all (the "
                "server's max_payload). Publish a reference to where the rest is."
            )

    async def _look_for(self, topic: str) -> MillstreamError | None:
        """Why nobody takes what is published to a topic, if it is because the topic was deleted."""
        record = self._topics.get(topic)
        for partition in record.all() if record is not None else ():
            if await self._jetstream.info(stream_of(partition)) is None:
                self._topics.pop(topic, None)
                return self._gone(topic)
        return None

    def _gone(self, topic: str) -> MillstreamError:
        return BrokerUnavailableError(f"topic {topic!r} was deleted on {self.name}: publish again to make it anew.")

    async def relayed(self, store: str) -> int:
        return 0

    # Consuming

    async def open(self, group: str, member: str = "") -> NatsSubscription:
        record = await self._group(group)
        subscription = NatsSubscription(
            group,
            member or _process(),
            await self._partitions(record),
            settings=self._settings,
            former=self._former.setdefault(group, set()),
            closed=self._subscriptions.discard,
            monotonic=self._monotonic,
        )
        await subscription.begin()
        self._subscriptions.add(subscription)
        return subscription

    async def read(self, partition: Partition, position: int, most: int) -> Sequence[Delivery]:
        return await self._history.read(partition, await self._info(partition), position, most)

    # Telling every process

    async def broadcast(self, body: bytes) -> None:
        connection = await self._connected()
        connection.publish(nats_broadcast.SUBJECT, body)
        await connection.flush()

    async def listen(self) -> NatsListener:
        connection = await Connection.connect(self._settings, name=f"millstream listener {_process()}")
        listener = NatsListener(connection, self._listeners.discard)
        await listener.begin()
        self._listeners.add(listener)
        return listener

    # Where groups stand

    async def bounds(self, topic: str) -> Sequence[tuple[Partition, int, int]]:
        record = await self._register.topic(topic)
        partitions = record.all() if record is not None else []
        infos = await asyncio.gather(*(self._info(partition) for partition in partitions))
        return [(partition, info.first, info.head) for partition, info in zip(partitions, infos, strict=True)]

    async def positions(self, group: str) -> Sequence[PartitionState]:
        partitions = await self._partitions(await self._group(group))
        present = set(await self._register.members(group))
        return await asyncio.gather(*(self._state(group, partition, present) for partition in partitions))

    async def _state(self, group: str, partition: Partition, present: set[str]) -> PartitionState:
        known, info = await self._register.place(group, partition), await self._info(partition)
        if known is None:
            return PartitionState(partition=partition, committed=UNKNOWN, head=Figure(info.head), oldest=UNKNOWN)
        place, oldest = known[0], UNKNOWN
        following = max(place.position, info.first)
        if following < info.head and (message := await self._jetstream.message(stream_of(partition), seq=following)) is not None:
            oldest = Figure(_micros(message.time))
        return PartitionState(
            partition=partition,
            committed=Figure(place.position),
            head=Figure(info.head),
            oldest=oldest,
            owner=place.member if place.owner in present else None,
        )

    async def seek(self, group: str, positions: Sequence[tuple[Partition, int]]) -> None:
        record = await self._group(group)
        for partition, _ in positions:
            if partition.topic not in record.topics:
                raise BrokerError(f"group {group!r} does not read {partition.topic!r}; declare it with that topic first.")
            await self._info(partition)
        if await self._register.members(group):
            raise BrokerError(f"group {group!r} is running on {self.name}: stop its workers, then move it.")
        for partition, position in positions:
            await self._register.move(group, partition, position)

    async def position_at(self, partition: Partition, micros: int) -> int:
        return await self._history.position_at(partition, await self._info(partition), micros)

    async def retain(self, topic: str, *, force: bool = False) -> int:
        record = await self._topic(topic)
        if record.retain_seconds is None and record.retain_bytes is None:
            return 0
        groups = [] if force else [group.name for group in await self._register.groups() if topic in group.topics]
        removed = 0
        for partition in record.all():
            info = await self._info(partition)
            upto = await self._expired(record, partition, info)
            for group in groups:
                known = await self._register.place(group, partition)
                upto = min(upto, known[0].position if known is not None else upto)
            if upto > info.first:
                removed += await self._jetstream.purge(stream_of(partition), seq=upto)
        return removed

    async def _expired(self, record: TopicRecord, partition: Partition, info: StreamInfo) -> int:
        """The first position that retention keeps."""
        upto = info.first
        if record.retain_seconds is not None:
            upto = await self._history.position_at(partition, info, time.time_ns() // 1000 - int(record.retain_seconds * 1_000_000))
        if record.retain_bytes is not None and info.state.bytes > (share := record.retain_bytes // record.partitions):
            # A stream tells its bytes, and not those of each message: as if all had the same.
            upto = max(upto, info.head - info.state.messages * share // info.state.bytes)
        return upto


def _process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _micros(text: str) -> int:
    moment = msgspec.convert(text[:26].rstrip("Z") + "Z", datetime)
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond
