"""Copying topics from one broker to another: at least once, each key in its order, and it goes on where it was."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby

import msgspec

from millstream.contracts.errors import BrokerUnavailableError, ConfigurationError, MillstreamError, NotFoundError
from millstream.core.broker import (
    Assigned,
    Broker,
    Deliveries,
    Delivery,
    Group,
    Lost,
    Partition,
    PartitionState,
    Revoked,
    Subscription,
    Topic,
)
from millstream.core.clock import Clock
from millstream.core.facts import is_internal

#: Events published, and then settled, at once.
PAGE = 1000
#: How long one look at an empty source takes, and how often it is asked for new topics, in seconds.
LOOK, TOPICS_EVERY = 0.5, 5.0
#: How long after a failure the target is tried again, in seconds: at first, and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0


class Bridge:
    """Copies the topics of one broker to another.

    The source's group remembers how far it came: who runs it again goes on there, and
    what was published but not noted before a crash is published again, with the same ids.
    """

    def __init__(
        self, source: Broker, target: Broker, *, clock: Clock, group: str, topics: Sequence[str] = (), skip: Sequence[str] = ()
    ) -> None:
        if source.name == target.name:
            raise ConfigurationError(f"both ends of the bridge are {source.name}: events would go round in it. Name another target.")
        self.source, self.target, self.group = source, target, group
        self._clock = clock
        self._asked = tuple(dict.fromkeys(topics))
        self._skip = frozenset(skip)
        self._topics: tuple[str, ...] = ()
        self._ends: dict[Partition, int] = {}
        """Where the source's partitions ended when it began; a broker that does not know has none."""
        self.copied: Counter[str] = Counter()
        """Events copied in this run, by topic."""
        self.skipped: Counter[str] = Counter()
        """Events left out because their ids were named."""

    async def run(self, stop: asyncio.Event, *, follow: bool = False, told: Callable[[int], None] = lambda _: None) -> None:
        """Copy until all that was there at the start is copied; with `follow`, also what comes, until `stop` is set.

        `told` is called with the number of events copied so far. Raises `MillstreamError`
        at an event that the target refuses; everything before it is copied.
        """
        await self._declare()
        self._ends = {state.partition: state.head.value for state in await self._states() if state.head.value is not None}
        ended = False
        while not ended and not stop.is_set():
            subscription = await self.source.open(self.group, "bridge")
            try:
                ended = await self._copy(subscription, stop, follow, told)
            finally:
                await subscription.close()

    async def _declare(self) -> None:
        """Make what the bridge needs at both ends; topics keep the partitions that they have at the target."""
        there = {topic.name: topic for topic in await self.source.topics()}
        if missing := [name for name in self._asked if name not in there]:
            names = ", ".join(sorted(name for name in there if not is_internal(name))) or "none"
            raise NotFoundError(f"{self.source.name} has no topic {', '.join(missing)}. It has: {names}.")
        self._topics = self._asked or tuple(sorted(name for name in there if not is_internal(name)))
        existing = {topic.name for topic in await self.target.topics()}
        await self.target.declare([_alike(there[name]) for name in self._topics if name not in existing], [])
        # What is gone once it was delivered cannot be had from its beginning.
        start = "earliest" if self.source.features.replayable else "latest"
        await self.source.declare([], [Group(name=self.group, topics=self._topics, start=start)])

    async def _copy(self, subscription: Subscription, stop: asyncio.Event, follow: bool, told: Callable[[int], None]) -> bool:
        """Copy until the end (True), or until there are other topics."""
        looked = self._clock.monotonic()
        while not stop.is_set():
            match await subscription.receive(PAGE, LOOK):
                case Assigned(partitions):
                    for partition in partitions:
                        subscription.start(partition, None)
                case Revoked(partitions):
                    await subscription.release(partitions)
                case Lost():
                    pass
                case Deliveries(items) if items:
                    if await self._publish(items, subscription, stop):
                        await subscription.settle(items)
                        self.copied.update(delivery.partition.topic for delivery in items if _id(delivery) not in self._skip)
                        told(self.copied.total())
                case Deliveries():
                    if not follow and await self._is_through():
                        return True
                    if follow and not self._asked and self._clock.monotonic() > looked + TOPICS_EVERY:
                        looked, before = self._clock.monotonic(), self._topics
                        await self._declare()
                        if self._topics != before:
                            return False
        return True

    async def _publish(self, items: Sequence[Delivery], subscription: Subscription, stop: asyncio.Event) -> bool:
        """Publish these, in their order and however long it takes; False where it was stopped before."""
        for ours, some in groupby([d for d in items if _id(d) not in self._skip], key=lambda delivery: delivery.envelope is not None):
            waiting = list(some)
            pause = FIRST_PAUSE
            while waiting:
                results = await (self._envelopes(waiting) if ours else self._messages(waiting))
                failed = [(delivery, error) for delivery, error in zip(waiting, results, strict=True) if error is not None]
                for delivery, error in failed:
                    if not isinstance(error, BrokerUnavailableError):
                        raise self._refused(delivery, error)
                waiting = [delivery for delivery, _ in failed]
                if waiting:
                    if stop.is_set():
                        return False
                    await self._clock.sleep(pause)
                    await subscription.extend()
                    pause = min(2 * pause, LONGEST_PAUSE)
        self.skipped.update(delivery.partition.topic for delivery in items if _id(delivery) in self._skip)
        return True

    async def _envelopes(self, deliveries: Sequence[Delivery]) -> Sequence[MillstreamError | None]:
        return await self.target.publish(
            [msgspec.structs.replace(d.envelope, topic=d.partition.topic) for d in deliveries if d.envelope is not None]
        )

    async def _messages(self, deliveries: Sequence[Delivery]) -> Sequence[MillstreamError | None]:
        return await self.target.publish_raw([delivery.message for delivery in deliveries if delivery.message is not None])

    def _refused(self, delivery: Delivery, error: MillstreamError) -> MillstreamError:
        where = f"{delivery.partition.topic}/{delivery.partition.number} at {delivery.position}"
        return type(error)(
            f"{self.target.name} does not take event {_id(delivery)!r} ({where}): {error} Everything before it is copied. "
            f"Run it again with --skip {_id(delivery)} to leave it out."
        )

    async def _is_through(self) -> bool:
        """Whether what was there at the start is copied."""
        return all(_is_done(state, self._ends.get(state.partition)) for state in await self._states())

    async def _states(self) -> Sequence[PartitionState]:
        return await self.source.positions(self.group)


def _alike(topic: Topic) -> Topic:
    return Topic(
        name=topic.name,
        partitions=topic.partitions,
        retain_seconds=topic.retain_seconds,
        retain_bytes=topic.retain_bytes,
        keyed=topic.keyed,
    )


def _is_done(state: PartitionState, end: int | None) -> bool:
    if state.committed.value is not None and end is not None:
        return state.committed.value >= end
    # A queue has no positions; and one that does not know how much waits had nothing to give just now.
    return not state.waiting.value


def _id(delivery: Delivery) -> str:
    if delivery.envelope is not None:
        return delivery.envelope.id
    return delivery.message.id if delivery.message is not None else ""
