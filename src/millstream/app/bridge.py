"""Copying topics from one broker to another: at least once, each key in its order, and it goes on where it was."""

import asyncio
import logging
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

log = logging.getLogger("millstream.bridge")

#: Events published, and then settled, at once.
PAGE = 1000
#: How long one look at an empty source takes, and how often it is asked for new topics, in seconds.
LOOK, TOPICS_EVERY = 0.5, 5.0
#: How long after a failure an end is tried again, in seconds: at first, and at most.
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
        self._started: set[Partition] = set()
        """Those that were this bridge's at some time."""
        self.copied: Counter[str] = Counter()
        """Events copied in this run, by topic."""
        self.skipped: Counter[str] = Counter()
        """Events left out because their ids were named."""

    async def run(self, stop: asyncio.Event, *, follow: bool = False, told: Callable[[int], None] = lambda _: None) -> None:
        """Copy until all that was there at the start is copied; with `follow`, also what comes, until `stop` is set.

        `told` is called with the number of events copied so far. An end that is away is
        tried again until it is back. Raises `MillstreamError` at an event that the target
        refuses; everything before it is copied.
        """
        await self._declare()
        self._ends = {state.partition: state.head.value for state in await self._states() if state.head.value is not None}
        ended, pause, before = False, FIRST_PAUSE, -1
        while not ended and not stop.is_set():
            try:
                ended = await self._join(stop, follow, told)
            except BrokerUnavailableError as error:
                pause = min(2 * pause, LONGEST_PAUSE) if self.copied.total() == before else FIRST_PAUSE
                before = self.copied.total()
                await self._pause(pause, error)

    async def _pause(self, seconds: float, error: MillstreamError) -> None:
        if seconds == FIRST_PAUSE:
            log.warning("the bridge waits until it can go on: %s", error)
        await self._clock.sleep(seconds)

    async def _join(self, stop: asyncio.Event, follow: bool, told: Callable[[int], None]) -> bool:
        """Copy as a member of the group, until the end (True), or until there are other topics."""
        subscription = await self.source.open(self.group, "bridge")
        try:
            return await self._copy(subscription, stop, follow, told)
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
        looked = self._clock.monotonic()
        while not stop.is_set():
            match await subscription.receive(PAGE, LOOK):
                case Assigned(partitions):
                    # The group has been asked for other topics before: those stay where they are.
                    ours = [partition for partition in partitions if partition.topic in self._topics]
                    for partition in ours:
                        subscription.start(partition, None)
                    self._started.update(ours)
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
                    await self._pause(pause, failed[0][1])
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
        where, id_ = f"{delivery.partition.topic}/{delivery.partition.number} at {delivery.position}", _id(delivery)
        way_out = f"Run it again with --skip {id_} to leave it out." if id_ else "It has no id to leave it out by: remove it at the source."
        return type(error)(
            f"{self.target.name} does not take event {id_!r} ({where}): {str(error).rstrip('.')}. Everything before it is copied. {way_out}"
        )

    async def _is_through(self) -> bool:
        """Whether what was there at the start is copied."""
        return all([self._is_done(state) for state in await self._states()])

    def _is_done(self, state: PartitionState) -> bool:
        end = self._ends.get(state.partition)
        if state.committed.value is not None and end is not None:
            return state.committed.value >= end
        # A queue has no positions. What a member that died has in hand may be counted by nobody until the queue is given to
        # another; and a queue that does not know how much waits had nothing to give just now.
        return not state.waiting.value and (self.source.features.positional or state.partition in self._started)

    async def _states(self) -> Sequence[PartitionState]:
        return [state for state in await self.source.positions(self.group) if state.partition.topic in self._topics]


def _alike(topic: Topic) -> Topic:
    return Topic(
        name=topic.name,
        partitions=topic.partitions,
        retain_seconds=topic.retain_seconds,
        retain_bytes=topic.retain_bytes,
        keyed=topic.keyed,
    )


def _id(delivery: Delivery) -> str:
    if delivery.envelope is not None:
        return delivery.envelope.id
    return delivery.message.id if delivery.message is not None else ""
