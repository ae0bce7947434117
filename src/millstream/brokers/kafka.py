"""Apache Kafka as a broker; see docs/how-to/run-on-kafka.md."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from confluent_kafka import KafkaError, KafkaException

from millstream.brokers import kafka_broadcast, kafka_groups
from millstream.brokers.kafka_broadcast import KafkaListener
from millstream.brokers.kafka_cluster import Described, KafkaCluster
from millstream.brokers.kafka_errors import failure, unusable
from millstream.brokers.kafka_groups import Beginning, GroupRecord, KafkaGroups, Records
from millstream.brokers.kafka_history import KafkaHistory
from millstream.brokers.kafka_offsets import KafkaOffsets
from millstream.brokers.kafka_producer import KafkaProducer, Outgoing
from millstream.brokers.kafka_settings import KafkaSettings, settings_of
from millstream.brokers.kafka_subscription import KafkaSubscription
from millstream.brokers.kafka_transactions import KafkaTransactions, Membership
from millstream.brokers.kafka_wire import KafkaReader, event_record
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import (
    BrokerError,
    BrokerUnavailableError,
    ConfigurationError,
    MillstreamError,
    PublishError,
    StoreMismatchError,
    TooLargeError,
)
from millstream.core.broker import Delivery, Features, Figure, Group, Message, Origin, Partition, PartitionState, Topic

log = logging.getLogger("millstream.kafka")

Item = TypeVar("Item", Envelope, Message)
DEFAULT_PARTITIONS = 8
#: The largest body, and what attributes, key and Kafka's own framing may add to it.
LARGEST = 1 << 20
AROUND = 256 << 10
FRAME = 100
KEEP_ALL = -1
#: Seconds until every server knows a topic that was made.
APPEARS = 30.0
#: Seconds that the servers wait for a member to give up what another one shall have. The poller needs less (its `GRACE`), but where
#: the answer to a heartbeat that says so comes too late, librdkafka 2.16 may never ask for it again, and nobody reads these partitions
#: until the time is over: 300 s, if nothing is said.
GIVE_UP = 30.0
UNKNOWN = Figure(None, "unknown")
#: Topics of ours that are no topics of users.
INTERNAL = (kafka_groups.TOPIC, kafka_broadcast.TOPIC)


class KafkaBroker:
    """Topics and consumer groups of a Kafka cluster."""

    features = Features(
        ordered=True, replayable=True, durable=True, shared=True, broadcast=True, transactional=True, positional=True,
        retains_regardless=True, framed=True, largest=LARGEST,
    )

    def __init__(self, url: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._settings: KafkaSettings = settings_of(url)
        self._monotonic = monotonic
        self._cluster = KafkaCluster(self._settings)
        self._reader = KafkaReader("")
        self._topics: dict[str, Described] = {}
        """Those that were described, or made, since this broker was opened."""
        self._largest: dict[str, int] = {}
        """What a record may have, in the topics that can be published to."""
        self._unusable: dict[str, MillstreamError] = {}
        """Topics that cannot, and why, when that was last tried."""
        self._subscriptions: set[KafkaSubscription] = set()
        self._listeners: set[KafkaListener] = set()

    @property
    def name(self) -> str:
        """Its URL without secrets."""
        return self._settings.name

    async def __aenter__(self) -> Self:
        await self._cluster.connect()
        self._topics, self._largest, self._unusable = {}, {}, {}
        self._reader = KafkaReader(self._cluster.id)
        self._history = KafkaHistory(self._settings)
        self._groups = KafkaGroups(self._settings, self._history)
        self._offsets = KafkaOffsets(self._settings)
        self._producer = KafkaProducer(self._settings, LARGEST + AROUND - FRAME)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        for part in (*self._subscriptions, *self._listeners):
            await part.close()
        self._listeners.clear()
        await self._producer.close()
        await self._history.close()
        await self._offsets.close()
        self._cluster.close()

    # Topics

    async def declare(self, topics: Sequence[Topic], groups: Sequence[Group]) -> None:
        wanted = {topic.name: topic for topic in topics}
        for group in groups:
            for name in group.topics:
                wanted.setdefault(name, Topic(name=name))
        for topic in wanted.values():
            _check_topic(topic)
        found = await self._cluster.describe(list(wanted))
        for name, topic in wanted.items():
            if name in found:
                self._verify(topic, found[name])
        for name, topic in wanted.items():
            if name not in found:
                await self._make(topic)
            else:
                self._topics[name] = found[name]
                if found[name].config.get("message.timestamp.type") == "CreateTime":
                    log.info(
                        "topic %r on %s keeps the times of its producers' clocks (message.timestamp.type=CreateTime): ages are estimates, "
                        "and a replay since a moment goes by them", name, self.name,
                    )  # fmt: skip
        if groups:
            await self._make_internal(kafka_groups.TOPIC, {"cleanup.policy": "compact"})
            records = await self._groups.records()
            _verify_stores(records, groups)
            if any(_is_news(records.get(group.name), group) for group in groups):
                await self._groups.change(lambda records: self._declare_groups(records, groups))

    def _verify(self, topic: Topic, found: Described) -> None:
        """Refuse what would not keep a promise."""
        where = f"topic {topic.name!r} on {self.name}"
        if topic.partitions not in (None, found.partitions):
            raise ConfigurationError(
                f"{where} has {found.partitions} partitions, not {topic.partitions}: another number would give keys another place. "
                "Declare the number it has, or use a new topic."
            )
        copies = min(found.replication, found.number("min.insync.replicas"))
        if copies < 2 and not self._settings.allow_single_replica:
            raise ConfigurationError(
                f"{where} has {found.replication} replica(s) and min.insync.replicas={found.number('min.insync.replicas')}: an event would "
                "be acknowledged with one copy, and lost with its server. Give the topic two, or add ?allow_single_replica=1 to the URL "
                "where that does not matter."
            )
        policy = found.config.get("cleanup.policy", "")
        if "compact" in policy.split(",") and topic.name not in self._settings.allow_compacted:
            raise ConfigurationError(
                f"{where} is compacted (cleanup.policy={policy}): Kafka removes all events of a key but the last, whether its groups have "
                f"had them or not. Set cleanup.policy=delete, use another topic, or add ?allow_compacted={topic.name} to the URL where "
                "only the last event of a key matters."
            )
        self._verify_retention(where, topic, found)

    def _verify_retention(self, where: str, topic: Topic, found: Described) -> None:
        """Refuse what would remove events that are counted on; what is kept for longer harms nobody, and is told."""
        for setting, declared in _retention(topic, found.partitions).items():
            kept = found.number(setting)
            if kept == int(declared):
                continue
            change = (
                f"A topic that is there is not changed, because others may count on it: declare what it keeps, or have Kafka keep as much "
                f"(kafka-configs.sh --alter --topic {topic.name} --add-config {setting}={declared})."
            )
            if KEEP_ALL < kept < int(declared):
                raise ConfigurationError(f"{where} keeps less than declared ({setting}={kept}, not {declared}). {change}")
            log.warning("%s keeps more than declared (%s=%d, not %s). %s", where, setting, kept, declared, change)

    async def _make(self, topic: Topic) -> None:
        partitions, replication = topic.partitions or DEFAULT_PARTITIONS, self._replication(topic.name)
        config = {
            **self._copies(replication),
            # The time at which an event was stored: what "the events since noon" means, and it never runs backwards.
            "message.timestamp.type": "LogAppendTime",
            "cleanup.policy": "delete",
            "max.message.bytes": str(LARGEST + AROUND),
            "retention.ms": str(KEEP_ALL),
            "retention.bytes": str(KEEP_ALL),
            **_retention(topic, partitions),
        }
        if not await self._cluster.make_topic(topic.name, partitions, replication, config):
            self._verify(topic, await self._described(topic.name))
        await self._described(topic.name)

    async def _make_internal(self, name: str, config: Mapping[str, str]) -> None:
        if name not in self._topics and name not in await self._known([name]):
            replication = self._replication(name)
            await self._cluster.make_topic(name, 1, replication, {**self._copies(replication), **config})
            await self._described(name)

    def _replication(self, name: str) -> int:
        replication = self._settings.replication or min(3, self._cluster.servers)
        if replication < 2 and not self._settings.allow_single_replica:
            raise ConfigurationError(
                f"topic {name!r} would have one copy, because {self.name} has {self._cluster.servers} server(s), and its events would be "
                "lost with that one. Use a cluster of at least three, or add ?allow_single_replica=1 to the URL where that does not matter."
            )
        return replication

    def _copies(self, replication: int) -> dict[str, str]:
        return {"min.insync.replicas": "2" if replication > 1 else "1"}

    async def _described(self, name: str) -> Described:
        """A topic that was just made, once the servers know it."""
        deadline = time.monotonic() + APPEARS
        while name not in (found := await self._known([name])):
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"topic {name!r} was created on {self.name}, and is not there. Look whether all servers run, and declare it again."
                )
            await asyncio.sleep(0.05)
        return found[name]

    async def _known(self, names: Sequence[str]) -> dict[str, Described]:
        found = await self._cluster.describe(names)
        self._topics.update(found)
        return found

    async def _ensure(self, name: str) -> Described:
        """Know a topic that keeps every promise; who publishes to a new one makes it."""
        topic = Topic(name=name)
        _check_topic(topic)
        found = (await self._known([name])).get(name)
        if found is None:
            await self._make(topic)
            found = await self._described(name)
        self._verify(topic, found)
        return found

    async def topics(self) -> Sequence[Topic]:
        names = [name for name in await self._cluster.topic_names() if name not in INTERNAL]
        found = await self._cluster.describe(names)
        return [_topic(name, found[name]) for name in names if name in found]

    # Groups

    async def _declare_groups(self, records: Records, groups: Sequence[Group]) -> Mapping[str, GroupRecord | None]:
        """What the register has to say of these groups, once Kafka knows where they begin."""
        _verify_stores(records, groups)
        changes: dict[str, GroupRecord | None] = {}
        for group in groups:
            known = records.get(group.name)
            if not _is_news(known, group):
                continue
            topics = dict(known.topics) if known else {}
            for name in group.topics:
                if name not in topics or not topics[name].committed:
                    topics[name] = await self._begin(group, name, topics.get(name))
            store = group.store or (known.store if known else None)
            changes[group.name] = GroupRecord(name=group.name, start=group.start, store=store, topics=topics)
        return changes

    async def _begin(self, group: Group, topic: str, began: Beginning | None) -> Beginning:
        """Have the group begin in a topic: at its creation, unless it asked for all or Kafka knows it already."""
        partitions = await self._cluster.partitions([topic])
        known = await self._offsets.committed(group.name, partitions)
        if began is not None:
            offsets = dict(zip(partitions, began.offsets, strict=False))
        elif group.start == "earliest":
            offsets = await self._cluster.firsts(partitions)
        else:
            offsets = await self._cluster.heads(partitions)
        missing = {partition: offset for partition, offset in offsets.items() if known[partition] is None}
        committed = await self._offsets.commit(group.name, missing)
        return Beginning([offsets[partition] for partition in partitions if partition in offsets], committed)

    async def groups(self) -> Sequence[Group]:
        if not await self._has_register():
            return []
        records = await self._groups.records()
        return [records[name].group() for name in sorted(records)]

    async def _has_register(self) -> bool:
        return kafka_groups.TOPIC in self._topics or kafka_groups.TOPIC in await self._known([kafka_groups.TOPIC])

    async def _record(self, group: str) -> GroupRecord:
        record = (await self._groups.records()).get(group) if await self._has_register() else None
        if record is None:
            raise BrokerError(f"there is no group {group!r} on {self.name}; declare it first.")
        return record

    async def forget(self, group: str) -> None:
        if not await self._has_register():
            return
        await self._cluster.forget(group)

        async def remove(records: Records) -> Mapping[str, GroupRecord | None]:
            return {group: None} if group in records else {}

        await self._groups.change(remove)

    # Publishing

    async def publish(self, envelopes: Sequence[Envelope], *, origin: Origin | None = None) -> Sequence[MillstreamError | None]:
        if origin is not None:
            raise ConfigurationError(f"{self.name} keeps no marks of relays: publish without origin=; the inbox absorbs what is repeated.")
        return await self._send(envelopes, self._record_of)

    async def publish_raw(self, messages: Sequence[Message]) -> Sequence[MillstreamError | None]:
        return await self._send(messages, self._raw_record_of)

    async def _send(self, items: Sequence[Item], record: Callable[[Item], Outgoing]) -> Sequence[MillstreamError | None]:
        for item in items:
            if item.topic not in self._largest:
                await self._know({item.topic for item in items})
                break
        answers = await self._producer.send(items, record)
        if not any(answers):
            return cast("Sequence[None]", answers)
        return [self._refusal(i.topic, a) if isinstance(a, KafkaError) else a for i, a in zip(items, answers, strict=True)]

    async def _know(self, names: set[str]) -> None:
        """Have topics that can be published to; what cannot be is refused record by record."""
        for name in names - self._largest.keys():
            try:
                self._largest[name] = (await self._ensure(name)).largest
            except MillstreamError as error:
                self._unusable[name] = error

    def _record_of(self, e: Envelope) -> Outgoing:
        headers: Any
        headers, body = event_record(e)
        record = e.topic, body, None if e.key is None else e.key.encode(), headers
        if len(body) + AROUND > self._largest.get(e.topic, 0):
            self._check(e.id, record, len(e.data))
        return record

    def _raw_record_of(self, message: Message) -> Outgoing:
        record = message.topic, message.body, message.key, cast("Any", list(message.headers))
        self._check("", record, len(message.body))
        return record

    def _check(self, id: str, record: Outgoing, size: int) -> None:
        """Refuse what the topic would refuse, and with it whatever is sent together with it."""
        topic, value, key, headers = record
        if topic not in self._largest:
            raise self._unusable.get(topic) or BrokerUnavailableError(f"topic {topic!r} is not known on {self.name}: publish again.")
        around = len(key or b"") + sum(len(name) + len(text or b"") + 10 for name, text in headers) + FRAME
        largest = self._largest[topic]
        if size > LARGEST or len(value) + around > largest:
            raise TooLargeError(
                f"{id or 'a message'} for {topic!r} has {size} bytes, and {around} around them: this broker takes {LARGEST}, and "
                f"this topic {largest} in all. Publish a reference to where the rest is."
            )

    def _refusal(self, topic: str, error: KafkaError) -> MillstreamError:
        # It may be gone: whoever publishes again looks again, and makes it again.
        self._topics.pop(topic, None)
        self._largest.pop(topic, None)
        if error.code() in (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT):
            return BrokerUnavailableError(
                f"publishing to {topic!r} on {self.name}: not acknowledged within {self._settings.timeout:g} s, or one before it was "
                "not. It may be stored all the same: publish it again, under the same id."
            )
        return failure(error, f"publishing to {topic!r} on {self.name}")

    async def _outgoing(self, envelopes: Sequence[Envelope]) -> Sequence[Outgoing]:
        """All of these as records; raises what is wrong with those that are none."""
        largest = self._largest
        if not all([e.topic in largest for e in envelopes]):
            await self._know({e.topic for e in envelopes})
        try:
            return [self._record_of(e) for e in envelopes]
        except BrokerUnavailableError:
            raise
        except MillstreamError:
            raise PublishError([self._problem(e) for e in envelopes]) from None

    def _problem(self, envelope: Envelope) -> MillstreamError | None:
        try:
            self._record_of(envelope)
        except MillstreamError as error:
            return error
        return None

    async def relayed(self, store: str) -> int:
        return 0

    # Consuming

    async def open(self, group: str, member: str = "") -> KafkaSubscription:
        record = await self._record(group)
        await self._learn(list(record.topics))
        gone = [name for name in record.topics if name not in self._topics]
        if gone:
            raise BrokerError(f"group {group!r} reads topic {gone[0]!r}, which is not on {self.name} any more: declare it again.")
        member = member or f"{socket.gethostname()}:{os.getpid()}"
        try:
            subscription = KafkaSubscription(
                record,
                self._consumer_config(group, member),
                self._reader,
                learn=self._learn,
                outgoing=self._outgoing,
                transactions=lambda membership: self._transactions(group, member, membership),
                closed=self._subscriptions.discard,
                monotonic=self._monotonic,
            )
        except KafkaException as error:
            raise unusable(error, self.name) from error
        self._subscriptions.add(subscription)
        return subscription

    def _transactions(self, group: str, member: str, membership: Membership) -> KafkaTransactions:
        return KafkaTransactions(self._settings, group, member, membership, LARGEST + AROUND - FRAME)

    def _consumer_config(self, group: str, member: str) -> dict[str, Any]:
        # Cooperative: partitions that stay with a member are worked on while others move.
        classic = {"partition.assignment.strategy": "cooperative-sticky", "session.timeout.ms": 10_000}
        return {
            "fetch.queue.backoff.ms": 10,
            "queued.max.messages.kbytes": 16_384,
            "reconnect.backoff.max.ms": 1000,
            # librdkafka wants it to be no shorter than a session.
            "max.poll.interval.ms": max(int(GIVE_UP * 1000), int(self._settings.client.get("session.timeout.ms", 0))),
            **({"group.protocol": "consumer"} if self._cluster.protocol == "consumer" else classic),
            **self._settings.client,
            "client.id": member,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            # A position that is gone stops the group, loudly.
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }

    async def _learn(self, topics: Sequence[str]) -> None:
        """Have the ids of these topics as they are now: one that was deleted and made anew has another."""
        found = await self._known(topics)
        for name in topics:
            if name not in found:
                self._topics.pop(name, None)
        self._reader.topic_ids = {**self._reader.topic_ids, **{name: topic.id for name, topic in found.items()}}

    async def read(self, partition: Partition, position: int, most: int) -> Sequence[Delivery]:
        await self._check_partition(partition)
        if partition.topic not in self._reader.topic_ids:
            await self._learn([partition.topic])
        records = await self._history.read(partition, position, most)
        return [self._reader.delivery(partition, record.offset() or 0, record) for record in records]

    async def _check_partition(self, partition: Partition) -> None:
        known = self._topics.get(partition.topic) or (await self._known([partition.topic])).get(partition.topic)
        if known is None or not 0 <= partition.number < known.partitions:
            raise BrokerError(
                f"there is no partition {partition.number} of a topic {partition.topic!r} on {self.name}; declare the topic first."
            )

    # Telling every process

    async def broadcast(self, body: bytes) -> None:
        await self._make_broadcast()
        message = Message(topic=kafka_broadcast.TOPIC, body=body)
        (error,) = await self._producer.send([message], lambda message: (message.topic, message.body, None, []))
        if isinstance(error, KafkaError):
            raise failure(error, f"{self.name}: telling every process")

    async def listen(self) -> KafkaListener:
        await self._make_broadcast()
        listener = KafkaListener(self._settings)
        await listener.begin()
        self._listeners.add(listener)
        return listener

    async def _make_broadcast(self) -> None:
        kept = str(kafka_broadcast.KEPT_SECONDS * 1000)
        await self._make_internal(kafka_broadcast.TOPIC, {"cleanup.policy": "delete", "retention.ms": kept})

    # Where groups stand

    async def bounds(self, topic: str) -> Sequence[tuple[Partition, int, int]]:
        partitions = await self._cluster.partitions([topic])
        firsts, heads = await asyncio.gather(self._cluster.firsts(partitions), self._cluster.heads(partitions))
        return [(partition, firsts[partition], heads[partition]) for partition in partitions]

    async def positions(self, group: str) -> Sequence[PartitionState]:
        record = await self._record(group)
        partitions = await self._cluster.partitions(list(record.topics))
        committed, firsts, heads, running = await asyncio.gather(
            self._offsets.committed(group, partitions),
            self._cluster.firsts(partitions),
            self._cluster.heads(partitions),
            self._cluster.is_running(group),
        )
        stands = {p: record.beginning(p) if (found := committed[p]) is None else found.offset for p in partitions}
        # Each member puts its name to what it commits, beginning with what it found: who was last has the partition.
        owners = {p: found.member or None for p, found in committed.items() if found is not None} if running else {}
        behind = {p: max(where, firsts[p]) for p, where in stands.items() if where is not None and where < heads[p]}
        oldest = await self._history.times_of(behind, heads)
        return [
            PartitionState(
                partition=p, committed=_figure(stands[p]), head=Figure(heads[p]), oldest=oldest.get(p, UNKNOWN), owner=owners.get(p)
            )
            for p in partitions
        ]

    async def seek(self, group: str, positions: Sequence[tuple[Partition, int]]) -> None:
        record = await self._record(group)
        unknown = [partition for partition, _ in positions if partition.topic not in record.topics]
        if unknown:
            raise BrokerError(f"group {group!r} does not read {unknown[0].topic!r}; declare it with that topic first.")
        if not await self._offsets.commit(group, dict(positions)):
            raise BrokerError(f"group {group!r} is running on {self.name}: stop its workers, then move it.")

    async def position_at(self, partition: Partition, micros: int) -> int:
        await self._check_partition(partition)
        # Kafka counts milliseconds: rather one event too many than one too few.
        found = await self._cluster.offset_at(partition, max(0, micros // 1000))
        return (await self._cluster.heads([partition]))[partition] if found is None else found

    async def retain(self, topic: str, *, force: bool = False) -> int:
        """Kafka removes by itself what its topics' retention no longer keeps, whatever groups have passed."""
        return 0


def _figure(value: int | None) -> Figure:
    return UNKNOWN if value is None else Figure(value)


def _check_topic(topic: Topic) -> None:
    if not topic.name:
        raise ConfigurationError("a topic has no name, and an event could not be published to it; give it one")
    if topic.name in INTERNAL or topic.name.startswith("__"):
        raise ConfigurationError(f"topic {topic.name!r} is for internal use on Kafka. Choose another name.")
    if topic.partitions is not None and topic.partitions < 1:
        raise ConfigurationError(f"topic {topic.name!r}: {topic.partitions} partitions hold nothing; a topic has at least one")


def _retention(topic: Topic, partitions: int) -> dict[str, str]:
    config: dict[str, str] = {}
    if topic.retain_seconds is not None:
        config["retention.ms"] = str(int(topic.retain_seconds * 1000))
    if topic.retain_bytes is not None:
        # Kafka counts by partition.
        config["retention.bytes"] = str(topic.retain_bytes // partitions)
    return config


def _topic(name: str, found: Described) -> Topic:
    millis, size = found.number("retention.ms"), found.number("retention.bytes")
    return Topic(
        name=name,
        partitions=found.partitions,
        retain_seconds=None if millis < 0 else millis / 1000,
        retain_bytes=None if size < 0 else size * found.partitions,
    )


def _is_news(known: GroupRecord | None, group: Group) -> bool:
    """Whether the register has to change for this group."""
    if known is None or (group.store is not None and known.store is None) or known.start != group.start:
        return True
    return any(name not in known.topics or not known.topics[name].committed for name in group.topics)


def _verify_stores(records: Records, groups: Sequence[Group]) -> None:
    for group in groups:
        known = records.get(group.name)
        if known is not None and known.store and group.store and known.store != group.store:
            raise StoreMismatchError(
                f"group {group.name!r} keeps its progress in the store {known.store}, and this one is {group.store}: two stores would each "
                f"take the group for theirs. Open the store it had, or remove the group (`millstream groups forget {group.name}`) and let "
                "it begin anew."
            )
