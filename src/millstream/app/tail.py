"""Reading the log of several topics as one: the last of it, and what follows."""

import heapq
from collections.abc import AsyncIterator, Callable, Sequence

from millstream.app.queries import events_back
from millstream.core.broker import Broker, Delivery, Partition
from millstream.core.clock import Clock
from millstream.core.facts import is_internal

Matches = Callable[[Delivery], bool]

#: Events read at once, forwards and backwards.
CHUNK = 1000
BACKWARDS = 100
#: How often a follower looks for what is new, in seconds.
LOOK = 0.2


async def tail(
    broker: Broker,
    clock: Clock,
    *,
    topics: Sequence[str] = (),
    since: int | None = None,
    most: int | None = None,
    follow: bool = False,
    matches: Matches = lambda _: True,
) -> AsyncIterator[Delivery]:
    """Events of these topics (all of them by default) in the order of their time.

    First the history from `since` (microseconds) on, the last `most` of it; then, with
    `follow`, what is published from now on, until the caller stops.
    """
    starts: dict[Partition, int] = {}
    heads: dict[Partition, int] = {}
    for topic in topics or await _ours(broker):
        for partition, first, head in await broker.bounds(topic):
            starts[partition] = first if since is None else await broker.position_at(partition, since)
            heads[partition] = head
    if most is None:
        async for delivery in _forward(broker, starts, heads, matches):
            yield delivery
    else:
        for delivery in await _last(broker, starts, heads, matches, most):
            yield delivery
    while follow:
        grown = await _grown(broker, topics, heads)
        if not grown:
            await clock.sleep(LOOK)
            continue
        async for delivery in _forward(broker, {p: heads.get(p, 0) for p in grown}, grown, matches):
            yield delivery
        heads |= grown


async def _grown(broker: Broker, topics: Sequence[str], heads: dict[Partition, int]) -> dict[Partition, int]:
    """The partitions whose head has moved, with their new head; topics may be new too."""
    names = topics or await _ours(broker)
    return {p: head for name in names for p, _, head in await broker.bounds(name) if head > heads.get(p, 0)}


async def _forward(
    broker: Broker, starts: dict[Partition, int], ends: dict[Partition, int], matches: Matches
) -> AsyncIterator[Delivery]:
    """Merge partitions by time, a chunk of each in memory."""
    waiting: list[tuple[int, int, AsyncIterator[Delivery], Delivery]] = []
    for order, (partition, end) in enumerate(ends.items()):
        events = _range(broker, partition, starts.get(partition, 0), end)
        if (first := await anext(events, None)) is not None:
            waiting.append((micros_of(first), order, events, first))
    heapq.heapify(waiting)
    while waiting:
        _, order, events, delivery = waiting[0]
        if matches(delivery):
            yield delivery
        following = await anext(events, None)
        if following is None:
            heapq.heappop(waiting)
        else:
            heapq.heapreplace(waiting, (micros_of(following), order, events, following))


async def _range(broker: Broker, partition: Partition, start: int, end: int) -> AsyncIterator[Delivery]:
    while start < end:
        page = await broker.read(partition, start, CHUNK)
        for delivery in page:
            if delivery.position >= end:
                return
            yield delivery
        if not page:
            return
        start = page[-1].position + 1


async def _last(
    broker: Broker, starts: dict[Partition, int], ends: dict[Partition, int], matches: Matches, most: int
) -> list[Delivery]:
    """The newest `most` that match, oldest first; each partition is read backwards until it has enough."""
    found: list[Delivery] = []
    for partition, end in ends.items():
        mine: list[Delivery] = []
        while end > starts[partition] and len(mine) < most:
            start, _ = await events_back(broker, partition, first=starts[partition], end=end, count=max(most, BACKWARDS))
            page = [d async for d in _range(broker, partition, start, end) if matches(d)]
            mine = page + mine
            end = start
        found += mine[-most:] if most else []
    found.sort(key=micros_of)
    return found[-most:] if most else []


def micros_of(delivery: Delivery) -> int:
    """When an event was published; for bytes without an envelope, when their transport took them."""
    if delivery.envelope is not None:
        return delivery.envelope.time
    return delivery.message.time if delivery.message is not None else 0


async def _ours(broker: Broker) -> list[str]:
    """Every topic but Millstream's own, which have to be named."""
    return [topic.name for topic in await broker.topics() if not is_internal(topic.name)]
