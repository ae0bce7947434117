"""Amazon's SNS and SQS as a broker; see docs/how-to/run-on-aws.md."""

import asyncio
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NoReturn, Self

from millstream.brokers.aws_broadcast import AwsBroadcast, AwsListener
from millstream.brokers.aws_claims import LARGEST_CLAIMED, AwsClaims
from millstream.brokers.aws_client import AwsClients, MissingError
from millstream.brokers.aws_names import BROADCAST, AwsNames, to_tag
from millstream.brokers.aws_publisher import AwsPublisher, Outgoing
from millstream.brokers.aws_settings import AwsSettings, settings_of
from millstream.brokers.aws_subscription import AwsSubscription
from millstream.brokers.aws_topology import AwsTopology
from millstream.brokers.aws_wire import LARGEST, Entry, entry_of, entry_of_raw
from millstream.brokers.refused_keys import RefusedKeys
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import BrokerError, ConfigurationError, MillstreamError
from millstream.core.broker import Delivery, Features, Figure, Group, Message, Origin, Partition, PartitionState, Topic

#: Seconds between two looks at whether SNS still delivers what groups want.
LOOK = 60.0
#: Whoever closes waits so long for questions that SQS has not answered yet; what they would have brought comes again by itself.
LAST_ANSWERS = 1.0
UNKNOWN = Figure(None, "unknown")
COUNTED = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed")


class AwsBroker:
    """Topics of SNS, and for each group a queue of SQS per topic."""

    def __init__(
        self, url: str, *, monotonic: Callable[[], float] = time.monotonic, clients: Callable[[AwsSettings], AwsClients] = AwsClients
    ) -> None:
        self._settings = settings_of(url)
        self._clients = clients(self._settings)
        self._names = AwsNames(self._settings.prefix, fifo=self._settings.fifo)
        self._subscriptions: set[AwsSubscription] = set()
        self._listeners: set[AwsListener] = set()
        self._unanswered: set[asyncio.Task[None]] = set()
        self.features = Features(
            ordered=self._settings.fifo, durable=True, shared=True, broadcast=self._settings.broadcast, shares_partitions=True,
            retains_regardless=True, deduplicates=self._settings.fifo, largest=LARGEST_CLAIMED if self._settings.claims else LARGEST,
        )  # fmt: skip
        self._claims: AwsClaims | None = None
        self._looking: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """Its URL without secrets."""
        return self._settings.name

    async def __aenter__(self) -> Self:
        clients = await self._clients.open()
        self._topology = AwsTopology(self._settings, self._names, clients.sns, clients.sqs)
        self._publisher = AwsPublisher(clients.sns, self.name, fifo=self._settings.fifo)
        self._broadcast = AwsBroadcast(self._settings, self._names, self._topology, clients.sns, clients.sqs)
        if clients.s3 is not None and self._settings.claims is not None:
            self._claims = AwsClaims(clients.s3, self._settings.claims, self._settings.prefix)
            try:
                await self._claims.verify(self.name)
            except BaseException:
                await self._clients.close()
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        for part in (*self._subscriptions, *self._listeners):
            await part.close()
        await self._publisher.close()
        if self._unanswered:
            _, pending = await asyncio.wait(self._unanswered, timeout=LAST_ANSWERS)
            for asking in pending:
                asking.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        await self._clients.close()

    # Topics and groups

    async def declare(self, topics: Sequence[Topic], groups: Sequence[Group]) -> None:
        for topic in topics:
            self._check(topic.name)
        for group in groups:
            to_tag("group", group.name)
            for topic in group.topics:
                self._check(topic)
            if group.start == "earliest":
                raise ConfigurationError(
                    f"group {group.name!r} would start with what was published before it was there, and {self.name} keeps no history: "
                    "leave start= out."
                )
        for topic in topics:
            await self._topology.topic(topic.name)
        for group in groups:
            await self._topology.declare(group)
        if self._looking is None and any(group.wants is not None for group in groups):
            self._looking = asyncio.create_task(self._look_at_policies())

    async def _look_at_policies(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            await self._topology.filters.tell_again()

    def _check(self, topic: str) -> None:
        to_tag("topic", topic)
        if topic == BROADCAST:
            raise ConfigurationError(f"{self.name} uses the topic {BROADCAST!r} to tell every process something; give yours another name.")

    async def topics(self) -> Sequence[Topic]:
        return [Topic(name=name, partitions=1, keyed=self._settings.fifo) for name in await self._topology.topics() if name != BROADCAST]

    async def groups(self) -> Sequence[Group]:
        found = await self._topology.groups()
        return [
            Group(name=name, topics=tuple(sorted(queues)), store=next((queue.store for queue in queues.values() if queue.store), None))
            for name, queues in sorted(found.items())
        ]

    async def forget(self, group: str) -> None:
        await self._topology.forget(group)

    async def positions(self, group: str) -> Sequence[PartitionState]:
        return [await self._state(Partition(topic, 0), queue.url) for topic, queue in sorted((await self._topology.group(group)).items())]

    async def _state(self, partition: Partition, url: str) -> PartitionState:
        answer = await self._clients.sqs.call("get_queue_attributes", QueueUrl=url, AttributeNames=list(COUNTED))
        waiting = sum(int(answer.get("Attributes", {}).get(name, 0)) for name in COUNTED)
        return PartitionState(
            partition=partition, committed=UNKNOWN, head=UNKNOWN, oldest=UNKNOWN, waiting=Figure(waiting, "estimated")
        )

    # Publishing

    async def publish(self, envelopes: Sequence[Envelope], *, origin: Origin | None = None) -> Sequence[MillstreamError | None]:
        if origin is not None:
            raise ConfigurationError(f"{self.name} keeps no marks of relays: publish without origin=; the inbox absorbs what is repeated.")
        items: list[Outgoing | MillstreamError] = []
        refused = RefusedKeys()
        for e in envelopes:
            item = refused.behind(e.topic, e.key)
            if item is None:
                item = await self._claimed(e) if self._is_claimed(e) else await self._outgoing(e.topic, lambda e=e: entry_of(e))
            if isinstance(item, MillstreamError) and self._settings.fifo:
                refused.add(e.topic, e.key)
            items.append(item)
        return await self._send([e.topic for e in envelopes], items)

    async def publish_raw(self, messages: Sequence[Message]) -> Sequence[MillstreamError | None]:
        items = [await self._outgoing(m.topic, lambda m=m: entry_of_raw(m, fifo=self._settings.fifo)) for m in messages]
        return await self._send([message.topic for message in messages], items)

    async def _outgoing(self, topic: str, entry: Callable[[], Entry]) -> Outgoing | MillstreamError:
        try:
            made = entry()
            return await self._topology.topic(topic), made
        except MillstreamError as error:
            return error

    def _is_claimed(self, e: Envelope) -> bool:
        return self._claims is not None and LARGEST < len(e.data) <= LARGEST_CLAIMED

    async def _claimed(self, e: Envelope) -> Outgoing | MillstreamError:
        assert self._claims is not None
        try:
            return await self._topology.topic(e.topic), await self._claims.entry_of(e)
        except MillstreamError as error:
            return error

    async def _send(self, topics: Sequence[str], items: Sequence[Outgoing | MillstreamError]) -> Sequence[MillstreamError | None]:
        results = await self._publisher.send(items)
        for topic, result in zip(topics, results, strict=True):
            if isinstance(result, MissingError):
                # Whoever publishes again makes it again.
                self._topology.forget_topic(topic)
        return results

    async def relayed(self, store: str) -> int:
        return 0

    # Receiving

    async def open(self, group: str, member: str) -> AwsSubscription:
        queues = await self._topology.group(group)
        if not queues:
            raise BrokerError(f"there is no group {group!r} on {self.name}; declare it first.")
        arns = {topic: await self._topology.topic(topic) for topic in queues}
        subscription = AwsSubscription(
            self._settings, self._clients.sqs, queues, arns, self._left, lambda: self._topology.forget_group(group), self._claims
        )
        self._subscriptions.add(subscription)
        return subscription

    def _left(self, subscription: AwsSubscription, unanswered: Sequence["asyncio.Task[None]"]) -> None:
        if not subscription.is_open:
            self._subscriptions.discard(subscription)
        for asking in unanswered:
            self._unanswered.add(asking)
            asking.add_done_callback(self._unanswered.discard)

    async def broadcast(self, body: bytes) -> None:
        self._require_broadcast()
        await self._broadcast.tell(body)

    async def listen(self) -> AwsListener:
        self._require_broadcast()
        listener = await self._broadcast.listen(self._listeners.discard)
        self._listeners.add(listener)
        return listener

    def _require_broadcast(self) -> None:
        if not self._settings.broadcast:
            raise ConfigurationError(f"{self.name} was told not to broadcast (broadcast=0), so nobody can be told anything at once.")

    # What SQS does not have

    async def read(self, partition: Partition, position: int, most: int) -> Sequence[Delivery]:
        self._no_history(f"topic {partition.topic!r} cannot be read again")

    async def bounds(self, topic: str) -> Sequence[tuple[Partition, int, int]]:
        self._no_history(f"topic {topic!r} has no first and no last event")

    async def position_at(self, partition: Partition, micros: int) -> int:
        self._no_history(f"topic {partition.topic!r} has no position of a time")

    async def seek(self, group: str, positions: Sequence[tuple[Partition, int]]) -> None:
        self._no_history(f"group {group!r} cannot be moved")

    def _no_history(self, what: str) -> NoReturn:
        raise ConfigurationError(f"{what}, because {self.name} keeps no history: an event is gone once its groups have handled it.")

    async def retain(self, topic: str, *, force: bool = False) -> int:
        return 0
