"""RabbitMQ as a broker; see docs/how-to/run-on-rabbitmq.md."""

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from msgspec import structs

from millstream.brokers import rabbitmq_amqp as amqp
from millstream.brokers import rabbitmq_broadcast
from millstream.brokers.rabbitmq_broadcast import RabbitListener
from millstream.brokers.rabbitmq_connection import DIFFERENT, NOT_FOUND, Channel, Connection, RefusedError
from millstream.brokers.rabbitmq_held import Held, RabbitHeld
from millstream.brokers.rabbitmq_publisher import Outgoing, RabbitPublisher
from millstream.brokers.rabbitmq_register import GroupRecord, RabbitRegister, Register, TopicRecord
from millstream.brokers.rabbitmq_settings import RabbitSettings, settings_of
from millstream.brokers.rabbitmq_stream import Place, RabbitStreams, record_of
from millstream.brokers.rabbitmq_stream_subscription import RabbitStreamSubscription
from millstream.brokers.rabbitmq_subscription import RabbitSubscription, members_of
from millstream.brokers.rabbitmq_unread import RabbitUnread
from millstream.brokers.rabbitmq_wire import ROUTE, RabbitReader, event_content, message_content, route_of
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
from millstream.contracts.partition import murmur2, partition_of
from millstream.core.broker import Delivery, Dropped, Features, Figure, Group, Message, Origin, Partition, PartitionState, Topic

DEFAULT_PARTITIONS = 8
#: The largest body, which is what RabbitMQ 4 takes unless it is told otherwise.
LARGEST = 16 << 20
#: The longest name that AMQP has.
LONGEST_NAME = 255
#: Exchanges and queues of ours begin so, and of RabbitMQ's own.
INTERNAL = ("amq.", "millstream.others:", "millstream.broadcast", "millstream.members", "millstream.last")
UNKNOWN = Figure(None, "unknown")
#: Seconds that a server gets to write down that it has streams.
SETTLING = 1.5
#: Who asks where a group stands asks again and again: for so many seconds what is known of the group is still right.
FRESH = 5.0


class RabbitBroker:
    """Topics as exchanges, and groups as queues, of RabbitMQ."""

    features = Features(ordered=True, durable=True, shared=True, broadcast=True, largest=LARGEST)

    #: With streams.
    with_history = structs.replace(features, replayable=True, positional=True, retains_regardless=True)

    def __init__(
        self, url: str, *, micros: Callable[[], int] = lambda: time.time_ns() // 1000, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings: RabbitSettings = settings_of(url)
        if self._settings.streams:
            self.features = self.with_history
        self._micros = micros
        self._monotonic = monotonic
        self._reader = RabbitReader(self._settings.vhost)
        self._connection: Connection | None = None
        self._topics: dict[str, TopicRecord] = {}
        """Those that are known to be there."""
        self._exchanges: set[str] = set()
        """Those that were declared since this broker was opened."""
        self._known, self._known_at = Register(), -FRESH
        """What the register said last, and when."""
        self._subscriptions: set[RabbitSubscription] = set()
        self._listeners: set[RabbitListener] = set()

    @property
    def name(self) -> str:
        """Its URL without secrets."""
        return self._settings.name

    async def __aenter__(self) -> Self:
        self._connecting = asyncio.Lock()
        self._topics, self._exchanges = {}, set()
        self._unread = RabbitUnread(self.name, self._readers)
        self._publisher = RabbitPublisher(self._settings, self._connected, self._forget_topic, self._unread)
        self._register = RabbitRegister(self.name, self._connected, self._publish_one, _queue_arguments)
        self._held = RabbitHeld(self._connected, self._report)
        self._streams = None
        if self._settings.streams:
            self._streams = RabbitStreams(self.name, self._connected, self._publish_one, self._reader)
        await self._connected()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        try:
            for part in (*self._subscriptions, *self._listeners):
                await part.close()
            await self._publisher.close()
            await self._unread.close()
        finally:
            if self._connection is not None:
                await self._connection.close()
                self._connection = None

    async def _connected(self) -> Connection:
        """The connection for everything but consuming, made anew when it was lost."""
        async with self._connecting:
            if self._connection is None or self._connection.lost is not None:
                self._connection = await Connection.connect(self._settings, name=f"millstream {_process()}")
            return self._connection

    async def _channel(self) -> Channel:
        return await (await self._connected()).channel()

    # Topics and groups

    async def declare(self, topics: Sequence[Topic], groups: Sequence[Group]) -> None:
        wanted = {topic.name: topic for topic in topics}
        for group in groups:
            for name in group.topics:
                wanted.setdefault(name, Topic(name=name))
        for topic in wanted.values():
            _check_topic(topic)
        for group in groups:
            self._check_group(group)
        register = await self._register.read()
        self._verify(register, wanted.values(), groups)
        for name in wanted:
            await self._declare_exchange(name)

        def decide(register: Register) -> Register:
            self._verify(register, wanted.values(), groups)
            return _with_topics(register, wanted.values(), streams=self._settings.streams)

        first = not any(record.streams for record in register.topics.values())
        register = decide(register) if decide(register) == register else await self._register.change(decide)
        if self._streams is not None:
            fresh = [name for name in wanted if name not in self._topics]
            await asyncio.gather(*(self._streams.make_topic(name, register.topics[name], others_of(name)) for name in fresh))
            if fresh:
                await self._have_written()
            if first and fresh:
                # A server that is killed within a second of its first stream has forgotten who looks after streams, for ever.
                await asyncio.sleep(SETTLING)
        self._topics.update({name: register.topics[name] for name in wanted})
        if groups:
            await self._declare_groups(register, groups)

    def _check_group(self, group: Group) -> None:
        if group.start == "earliest" and not self._settings.streams:
            raise ConfigurationError(
                f"group {group.name!r} asks for what was published before it, and {self.name} has queues, which keep nothing for those who "
                "come later. Declare it with start='latest', or use a broker that keeps history, such as RabbitMQ's streams (streams=1)."
            )
        for name in group.topics:
            queue = queue_of(group.name, Partition(name, 9999))
            if len(f"{queue}:claim".encode()) > LONGEST_NAME:
                raise ConfigurationError(
                    f"group {group.name[:80]!r} and topic {name[:80]!r} have names that are together longer than a queue's may be "
                    f"({LONGEST_NAME} bytes). Shorten one."
                )

    async def _declare_exchange(self, name: str) -> None:
        if name in self._exchanges:
            return
        others = others_of(name)
        async with await self._channel() as channel:
            try:
                # What comes with another routing key than a partition's goes to the first partition.
                await channel.declare_exchange(others, "fanout")
                await channel.declare_exchange(name, "topic", {"alternate-exchange": others})
            except RefusedError as error:
                if error.code != DIFFERENT:
                    raise
                raise ConfigurationError(
                    f"topic {name!r} cannot be had on {self.name}, because an exchange of this name is there and is another's: "
                    f"{error.text}. Choose another name, or remove the exchange."
                ) from error
        self._exchanges.add(name)

    def _verify(self, register: Register, topics: "Sequence[Topic] | Any", groups: Sequence[Group]) -> None:
        _verify(register, topics, groups, self.name)
        for name in {*(topic.name for topic in topics), *(name for group in groups for name in group.topics)}:
            if name in register.topics:
                self._check_form(name, register.topics[name])
        for topic in topics if self._settings.streams else ():
            known = register.topics.get(topic.name)
            if known is not None and not (
                topic.retain_seconds in (None, known.retain_seconds) and topic.retain_bytes in (None, known.retain_bytes)
            ):
                raise ConfigurationError(
                    f"topic {topic.name!r} on {self.name} retains {_retention(known)}, and now it is to retain {_retention(topic)}: what a "
                    "stream keeps is fixed when it is made. Declare what it has, give it a policy of RabbitMQ, or use a new topic."
                )

    def _check_form(self, name: str, record: TopicRecord) -> None:
        if record.streams != self._settings.streams:
            this, that = ("streams", "queues") if self._settings.streams else ("queues", "streams")
            hint = "Leave streams=1 out of the URL" if self._settings.streams else "Add streams=1 to the URL"
            raise ConfigurationError(
                f"topic {name!r} on {self.name} was made with {that}, and this URL asks for {this}: neither can become the other. {hint}, "
                "or use a new topic."
            )

    async def _declare_groups(self, register: Register, groups: Sequence[Group]) -> None:
        for group in groups:
            known = register.groups.get(group.name)
            topics = tuple(dict.fromkeys((*(known.topics if known else ()), *group.topics)))
            for name in topics:
                await self._declare_queues(group.name, name, register.topics[name].partitions)
        if self._streams is not None:
            names = [(group.name, name) for group in groups for name in group.topics]
            queues = [queue for group, name in names for queue in _names_of(group, name, register.topics[name].partitions)]
            await self._streams.make_records(queues)
        if any(group.name not in register.groups or set(group.topics) - set(register.groups[group.name].topics) for group in groups):
            await self._have_written()

        def decide(register: Register) -> Register:
            self._verify(register, (), groups)
            return _with_groups(register, groups)

        async def place(register: Register) -> None:
            if self._streams is not None:
                for group in groups:
                    await self._place(self._streams, register, group)

        if decide(register) != register:
            await self._register.change(decide, before=place)

    async def _place(self, streams: RabbitStreams, register: Register, group: Group) -> None:
        """Have a new group stand somewhere in its topics; with `latest` where they end now."""
        known = register.groups.get(group.name)

        async def place(queue: str, partition: Partition) -> None:
            first, head = await streams.bounds(partition)
            await streams.put_place(queue, Place(first if group.start == "earliest" else head))

        await asyncio.gather(
            *(
                place(queue_of(group.name, partition), partition)
                for topic in group.topics
                if known is None or topic not in known.topics
                for number in range(register.topics[topic].partitions)
                for partition in [Partition(topic, number)]
            )
        )

    async def _declare_queues(self, group: str, topic: str, partitions: int) -> None:
        """Have the group's queues of a topic, filled from now on."""
        connection = await self._connected()
        async with await connection.channel() as channel:
            names = _names_of(group, topic, partitions)
            asked = [channel.ask_queue(name, _group_arguments(connection)) for name in names]
            if self._streams is None:
                asked += [channel.ask_binding(name, topic, route_of(number)) for number, name in enumerate(names)]
                # Last: before its queues take what is theirs, nothing of it may seem to be somebody else's.
                asked.append(channel.ask_binding(names[0], others_of(topic)))
            try:
                await _all(channel, asked)
            except RefusedError as error:
                if error.code == NOT_FOUND:
                    self._forget_topic(topic)
                if error.code != DIFFERENT:
                    raise
                raise ConfigurationError(
                    f"group {group!r}: a queue of it is on {self.name} with other settings than it needs: {error.text}. Let it run empty, "
                    f"remove the group (`millstream groups forget {group}`), and start again."
                ) from error

    async def _have_written(self) -> None:
        """Have the queues that were made outlive a server that is killed now.

        RabbitMQ writes the name of a quorum queue to disk when the next one is made, or a second later. A server that dies
        in between has forgotten a queue of which it has confirmed messages: so one more is made, which soon removes itself.
        """
        connection = await self._connected()
        async with await connection.channel() as channel:
            await channel.queue(f"millstream.last:{secrets.token_hex(8)}", arguments={**_queue_arguments(connection), "x-expires": 1000})

    async def topics(self) -> Sequence[Topic]:
        register = await self._register.read()
        return [register.topics[name].topic(name) for name in sorted(register.topics)]

    async def groups(self) -> Sequence[Group]:
        register = await self._register.read()
        return [register.groups[name].group(name) for name in sorted(register.groups)]

    async def forget(self, group: str) -> None:
        register = await self._register.read()
        record = register.groups.get(group)
        if record is None:
            return

        def decide(register: Register) -> Register:
            return structs.replace(register, groups={name: known for name, known in register.groups.items() if name != group})

        self._known = await self._register.change(decide)
        async with await self._channel() as channel:
            queues = [*_queues_of(group, record, register).values()]
            queues += [record_of(queue) for queue in queues if self._streams is not None]
            await _all(channel, [channel.ask_deletion(queue) for queue in queues])

    def _forget_topic(self, name: str) -> None:
        self._topics.pop(name, None)
        self._exchanges.discard(name)

    async def _ensure(self, name: str) -> None:
        """Know a topic; who publishes to a new one makes it."""
        if name not in self._topics or name not in self._exchanges:
            await self.declare([Topic(name=name)], [])

    # Publishing

    async def publish(self, envelopes: Sequence[Envelope], *, origin: Origin | None = None) -> Sequence[MillstreamError | None]:
        if origin is not None:
            raise ConfigurationError(f"{self.name} keeps no marks of relays: publish without origin=; the inbox absorbs what is repeated.")
        problems = await self._know({e.topic for e in envelopes})
        results: list[MillstreamError | None] = [None] * len(envelopes)
        messages: list[Outgoing] = []
        places: list[int] = []
        refused = RefusedKeys()
        for index, e in enumerate(envelopes):
            record = self._topics.get(e.topic)
            if record is None:
                results[index] = problems.get(e.topic) or _deleted(e.topic)
                continue
            try:
                if refused:
                    refused.check(e.topic, e.key)
                content = event_content(e)
                _check_size(f"event {e.id} ({e.type})", content)
            except MillstreamError as error:
                refused.add(e.topic, e.key)
                results[index] = error
                continue
            key = e.id if e.key is None else e.key
            messages.append(Outgoing(e.topic, route_of(partition_of(key, record.partitions)), content))
            places.append(index)
        await self._send(messages, places, results)
        return in_order(results, envelopes)

    async def publish_raw(self, messages: Sequence[Message]) -> Sequence[MillstreamError | None]:
        problems = await self._know({message.topic for message in messages})
        results: list[MillstreamError | None] = [None] * len(messages)
        outgoing: list[Outgoing] = []
        places: list[int] = []
        refused = RefusedKeys()
        for index, message in enumerate(messages):
            record = self._topics.get(message.topic)
            if record is None:
                results[index] = problems.get(message.topic) or _deleted(message.topic)
                continue
            try:
                if refused:
                    refused.check(message.topic, message.key)
                content = message_content(message)
                _check_size("a message", content)
            except MillstreamError as error:
                refused.add(message.topic, message.key)
                results[index] = error
                continue
            # Without a key it goes where its body says: as good a place as any, and always the same.
            number = (murmur2(message.body if message.key is None else message.key) & 0x7FFFFFFF) % record.partitions
            outgoing.append(Outgoing(message.topic, route_of(number), content))
            places.append(index)
        await self._send(outgoing, places, results)
        return in_order(results, messages)

    async def _send(self, messages: Sequence[Outgoing], places: Sequence[int], results: list[MillstreamError | None]) -> None:
        for place, result in zip(places, await self._publisher.send(messages), strict=True):
            results[place] = result

    async def _publish_one(self, message: Outgoing) -> MillstreamError | None:
        (result,) = await self._publisher.send([message])
        return result

    async def _know(self, names: set[str]) -> dict[str, MillstreamError]:
        """Have topics that can be published to; why not, of those that cannot."""
        problems: dict[str, MillstreamError] = {}
        for name in names:
            if name not in self._topics:
                try:
                    await self._ensure(name)
                except MillstreamError as error:
                    problems[name] = error
        return problems

    def dropped(self) -> Sequence[Dropped]:
        return self._unread.dropped()

    async def _readers(self, routes: Sequence[tuple[str, str]]) -> Sequence[dict[str, str]]:
        register = await self._register.read()
        return [await self._readers_of(register, topic, route) for topic, route in routes]

    async def _readers_of(self, register: Register, topic: str, route: str) -> dict[str, str]:
        """The groups that read a topic, each with its queue for one route if that is missing; one that is there is bound."""
        partition = Partition(topic, int(route.removeprefix(ROUTE)))
        readers = {group: "" for group, record in register.groups.items() if topic in record.topics}
        for group in readers:
            queue = queue_of(group, partition)
            try:
                async with await self._channel() as channel:
                    # Whoever deletes exchanges takes their bindings along, and the next one to publish makes only the exchanges.
                    await channel.answer(channel.ask_binding(queue, topic, route))
            except RefusedError as error:
                if error.code != NOT_FOUND or "no queue" not in error.text:
                    raise
                readers[group] = queue
        return readers

    async def relayed(self, store: str) -> int:
        return 0

    # Consuming

    async def open(self, group: str, member: str = "") -> RabbitSubscription:
        record, register = await self._record(group)
        member = member or _process()
        connection = await Connection.connect(self._settings, name=f"millstream {group} {member}")
        make = RabbitSubscription if self._streams is None else partial(RabbitStreamSubscription, streams=self._streams)
        subscription = make(
            group,
            member,
            _queues_of(group, record, register),
            connection=connection,
            survey=self._consumers,
            reader=self._reader,
            closed=self._subscriptions.discard,
            monotonic=self._monotonic,
            micros=self._micros,
        )
        try:
            await subscription.begin()
        except BaseException:
            connection.abort()
            raise
        self._subscriptions.add(subscription)
        await self._hear()
        return subscription

    async def _hear(self) -> None:
        """Have others learn what the members of this process hold; whoever cannot be told goes without."""
        if self._streams is None:
            with contextlib.suppress(MillstreamError):
                await self._held.hear({subscription.group for subscription in self._subscriptions})

    async def _consumers(self, queues: Sequence[str]) -> Sequence[int]:
        """How many consumers each of these queues has; one that is not there has none."""
        await self._hear()
        async with await self._channel() as channel:
            asked = [channel.ask_queue(name, passive=True) for name in queues]
            try:
                return [amqp.read_declared(answer)[2] for answer in await _all(channel, asked)]
            except RefusedError as error:
                # The member that claims it is told why it cannot.
                if error.code != NOT_FOUND:
                    raise
        return [1, *(0 for _ in queues[1:])]

    async def _members(self, group: str) -> int:
        """How many members a group has now."""
        async with await self._channel() as channel:
            try:
                return (await channel.queue(members_of(group), passive=True))[2]
            except RefusedError as error:
                # Its last member has taken the queue along.
                if error.code != NOT_FOUND:
                    raise
        return 0

    async def _record(self, group: str, *, within: float = 0.0) -> tuple[GroupRecord, Register]:
        """What is known of a group, as of now or, for who asks often, so many seconds ago."""
        if not within or self._monotonic() - self._known_at >= within or group not in self._known.groups:
            self._known, self._known_at = await self._register.read(), self._monotonic()
        register = self._known
        record = register.groups.get(group)
        if record is None:
            raise BrokerError(f"there is no group {group!r} on {self.name}; declare it first.")
        self._verify(register, (), [record.group(group)])
        return record, register

    async def read(self, partition: Partition, position: int, most: int) -> Sequence[Delivery]:
        return await self._history("history cannot be read").read(partition, position, most)

    def _history(self, otherwise: str) -> RabbitStreams:
        if self._streams is None:
            raise ConfigurationError(
                f"{self.name}: {otherwise}, because a queue keeps nothing that was handled. Use a broker that keeps history, such as "
                "RabbitMQ's streams (streams=1 in the URL), Kafka or sqlite:///."
            )
        return self._streams

    # Telling every process

    async def broadcast(self, body: bytes) -> None:
        await self._make_broadcast()
        message = Outgoing(rabbitmq_broadcast.EXCHANGE, "", (b"", b"", body), mandatory=False)
        error = await self._publish_one(message)
        if error is not None:
            raise error

    async def listen(self) -> RabbitListener:
        await self._make_broadcast()
        listener = RabbitListener(self._listeners.discard)
        await listener.begin(await self._connected())
        self._listeners.add(listener)
        return listener

    async def _make_broadcast(self) -> None:
        if rabbitmq_broadcast.EXCHANGE not in self._exchanges:
            async with await self._channel() as channel:
                await channel.declare_exchange(rabbitmq_broadcast.EXCHANGE, "fanout")
            self._exchanges.add(rabbitmq_broadcast.EXCHANGE)

    # Where groups stand

    async def bounds(self, topic: str) -> Sequence[tuple[Partition, int, int]]:
        streams = self._history(f"topic {topic!r} has no positions")
        record = (await self._register.read()).topics.get(topic)
        if record is None:
            return []
        self._check_form(topic, record)
        partitions = [Partition(topic, number) for number in range(record.partitions)]
        found = await asyncio.gather(*(streams.bounds(partition) for partition in partitions))
        return [(partition, first, head) for partition, (first, head) in zip(partitions, found, strict=True)]

    async def positions(self, group: str) -> Sequence[PartitionState]:
        record, register = await self._record(group, within=FRESH)
        queues = _queues_of(group, record, register)
        async with await self._channel() as channel:
            asked = [channel.ask_queue(name, passive=True) for name in queues.values()]
            try:
                answers = await _all(channel, asked)
            except RefusedError as error:
                if error.code != NOT_FOUND:
                    raise
                self._known = Register()
                raise BrokerError(f"group {group!r}: a queue of it is missing on {self.name}: {error.text}. Declare it again.") from error
        counts = [amqp.read_declared(answer)[1:] for answer in answers]
        if self._streams is not None:
            places = zip(queues.items(), counts, strict=True)
            return await asyncio.gather(
                *(self._place_of(self._streams, group, partition, queue, taken=bool(n)) for (partition, queue), (_, n) in places)
            )
        mine = {held.partition: held for held in self._report(group)}
        others = {partition for partition, (_, consumers) in zip(queues, counts, strict=True) if consumers} - mine.keys()
        if others:
            # What a member cannot say stays unknown.
            with contextlib.suppress(MillstreamError):
                mine = {held.partition: held for held in await self._held.ask(group, others)} | mine
        return [_state(partition, *count, mine.get(partition)) for partition, count in zip(queues, counts, strict=True)]

    def _report(self, group: str) -> list[Held]:
        """What the members of this process hold of a group's queues."""
        return [
            Held(partition.topic, partition.number, subscription.member, claim.held, subscription.oldest(claim))
            for subscription in self._subscriptions
            if subscription.group == group
            for partition, claim in subscription.claims.items()
        ]

    async def _place_of(self, streams: RabbitStreams, group: str, partition: Partition, queue: str, *, taken: bool) -> PartitionState:
        place, head = await asyncio.gather(streams.place(queue), streams.head(partition))
        mine = [s for s in self._subscriptions if s.group == group and isinstance(s, RabbitStreamSubscription)]
        known = next(((at, s.member) for s in mine if (at := s.committed(partition)) is not None), None)
        if known is None and place is None:
            return PartitionState(partition=partition, committed=UNKNOWN, head=Figure(head), oldest=UNKNOWN)
        if known is None:
            assert place is not None
            # Who has it tells so every second.
            committed, owner = Figure(place.position, "estimated" if taken else "exact"), place.member or None if taken else None
        else:
            committed, owner = Figure(known[0]), known[1]
        oldest = UNKNOWN
        if (committed.value or 0) < head and (following := await streams.read(partition, committed.value or 0, 1)):
            envelope = following[0].envelope
            oldest = Figure(envelope.time, "estimated") if envelope is not None and envelope.time else UNKNOWN
        return PartitionState(partition=partition, committed=committed, head=Figure(head), oldest=oldest, owner=owner)

    async def seek(self, group: str, positions: Sequence[tuple[Partition, int]]) -> None:
        streams = self._history(f"group {group!r} cannot be moved")
        record, register = await self._record(group)
        queues = _queues_of(group, record, register)
        for partition, _ in positions:
            if partition not in queues:
                raise BrokerError(f"group {group!r} does not read {partition.topic}/{partition.number}; declare it with that topic first.")
        if await self._members(group):
            raise BrokerError(f"group {group!r} is running on {self.name}: stop its workers, then move it.")
        for partition, position in positions:
            await streams.put_place(queues[partition], Place(position))

    async def position_at(self, partition: Partition, micros: int) -> int:
        return await self._history(f"topic {partition.topic!r} has no positions").position_at(partition, micros)

    async def retain(self, topic: str, *, force: bool = False) -> int:
        """A queue holds nothing but what its group has not handled, and a stream removes by itself what is old."""
        return 0


def _state(partition: Partition, ready: int, consumers: int, held: Held | None) -> PartitionState:
    return PartitionState(
        partition=partition,
        committed=UNKNOWN,
        head=UNKNOWN,
        oldest=Figure(held.oldest, "estimated") if held is not None and held.oldest is not None else UNKNOWN,
        owner=held.member if held is not None else None,
        waiting=Figure(ready + (held.count if held is not None else 0), "estimated" if consumers else "exact"),
    )


def _process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def queue_of(group: str, partition: Partition) -> str:
    """The queue of a group's partition; a colon in a name is written as %3A, so that no two have the same."""
    return f"{_plain(group)}:{_plain(partition.topic)}:{partition.number}"


def _names_of(group: str, topic: str, partitions: int) -> list[str]:
    return [queue_of(group, Partition(topic, number)) for number in range(partitions)]


def _retention(topic: Topic | TopicRecord) -> str:
    return f"{_or_all(topic.retain_seconds, 's')} and {_or_all(topic.retain_bytes, 'bytes')}"


def _or_all(value: float | None, unit: str) -> str:
    return f"any number of {unit}" if value is None else f"{value:g} {unit}"


def _plain(name: str) -> str:
    return name.replace("%", "%25").replace(":", "%3A")


def _queues_of(group: str, record: GroupRecord, register: Register) -> dict[Partition, str]:
    return {
        (partition := Partition(topic, number)): queue_of(group, partition)
        for topic in record.topics
        if topic in register.topics
        for number in range(register.topics[topic].partitions)
    }


def others_of(topic: str) -> str:
    """The exchange for what comes with another routing key than a partition's."""
    return f"millstream.others:{topic}"


def _queue_arguments(connection: Connection) -> dict[str, Any]:
    """A queue that is kept by most of the servers, and from which nothing is dropped however often it is delivered."""
    # Older servers have no limit unless they are given one, and do not know how to say so.
    limit = {"x-delivery-limit": -1} if connection.version >= (4, 0) else {}
    return {"x-queue-type": "quorum", **limit}


def _group_arguments(connection: Connection) -> dict[str, Any]:
    return {**_queue_arguments(connection), "x-single-active-consumer": True}


async def _all(channel: Channel, asked: "Sequence[asyncio.Future[bytes]]") -> list[bytes]:
    """The answers to all of these; raises the first refusal."""
    await asyncio.wait(asked) if asked else None
    return [await channel.answer(future) for future in asked]


def _check_topic(topic: Topic) -> None:
    if not topic.name:
        raise ConfigurationError("a topic has no name, and an event could not be published to it; give it one")
    if topic.name.startswith(INTERNAL):
        raise ConfigurationError(f"topic {topic.name!r} begins like an internal name of RabbitMQ or Millstream. Choose another name.")
    if len(others_of(topic.name).encode()) > LONGEST_NAME:
        raise ConfigurationError(
            f"topic {topic.name[:80]!r}... is longer than the name of an exchange may be ({LONGEST_NAME} bytes, some of them "
            "ours). Shorten it."
        )
    if topic.partitions is not None and topic.partitions < 1:
        raise ConfigurationError(f"topic {topic.name!r}: {topic.partitions} partitions hold nothing; a topic has at least one")


def _check_size(what: str, content: tuple[bytes, bytes, bytes]) -> None:
    content_type, headers, body = content
    if len(body) > LARGEST:
        raise TooLargeError(f"{what} has {len(body)} bytes, and this broker takes {LARGEST}. Publish a reference to large data.")
    if amqp.header_size(content_type, headers) > 131_072 - amqp.AROUND:
        raise TooLargeError(f"{what} has {len(headers)} bytes of attributes, and RabbitMQ takes 128 KiB at most. Put them into the body.")


def _verify(register: Register, topics: "Sequence[Topic] | Any", groups: Sequence[Group], name: str) -> None:
    """Refuse what differs from what is known."""
    for topic in topics:
        known = register.topics.get(topic.name)
        if known is not None and topic.partitions not in (None, known.partitions):
            raise ConfigurationError(
                f"topic {topic.name!r} on {name} has {known.partitions} partitions, not {topic.partitions}: another number would give keys "
                "another place. Declare the number it has, or use a new topic."
            )
    for group in groups:
        record = register.groups.get(group.name)
        if record is not None and record.store and group.store and record.store != group.store:
            raise StoreMismatchError(
                f"group {group.name!r} keeps its progress in the store {record.store}, and this one is {group.store}: two stores would "
                f"each take the group for theirs. Open the store it had, or remove the group (`millstream groups forget {group.name}`) "
                "and let it begin anew."
            )


def _with_topics(register: Register, topics: "Sequence[Topic] | Any", *, streams: bool) -> Register:
    known = dict(register.topics)
    for topic in topics:
        record = known.get(topic.name) or TopicRecord(partitions=topic.partitions or DEFAULT_PARTITIONS, streams=streams)
        if topic.retain_seconds is not None:
            record = structs.replace(record, retain_seconds=topic.retain_seconds)
        if topic.retain_bytes is not None:
            record = structs.replace(record, retain_bytes=topic.retain_bytes)
        known[topic.name] = record
    return structs.replace(register, topics=known)


def _with_groups(register: Register, groups: Sequence[Group]) -> Register:
    known = dict(register.groups)
    for group in groups:
        record = known.get(group.name)
        topics = tuple(dict.fromkeys((*(record.topics if record else ()), *group.topics)))
        known[group.name] = GroupRecord(topics=topics, start=group.start, store=group.store or (record.store if record else None))
    return structs.replace(register, groups=known)


def _deleted(topic: str) -> MillstreamError:
    return BrokerUnavailableError(f"topic {topic!r} was deleted meanwhile: publish again to make it anew.")
