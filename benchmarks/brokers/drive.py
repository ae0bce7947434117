"""What every client is asked to do: publish from many, from one, in batches, evenly; handle so many events."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from benchmarks.brokers.events import Tick
from benchmarks.latency import evenly, spread, until
from benchmarks.stopwatch import Stopwatch
from benchmarks.subject import Figures

T = TypeVar("T")

CALLERS = 100
BATCH = 1000
#: Seconds until whoever waits for events has joined his group, and got one.
PATIENCE = 60.0


class Counting:
    """`one()` is called for each event that is handled, and measures from the first to the last; `stop` is set then."""

    def __init__(self, count: int) -> None:
        self.stop = asyncio.Event()
        self._count = self._left = count
        self._began = self._ended = (0.0, 0.0)

    def one(self) -> None:
        """One more is handled."""
        left = self._left
        if left == self._count:
            self._began = time.perf_counter(), time.process_time()
        self._left = left = left - 1
        if left == 0:
            self._ended = time.perf_counter(), time.process_time()
            self.stop.set()

    async def handled(self) -> None:
        """Wait for the last."""
        async with asyncio.timeout(PATIENCE * 5):
            await self.stop.wait()

    def figures(self) -> Figures:
        """Events a second, and microseconds of all threads' processor time per event."""
        seconds, cpu = self._ended[0] - self._began[0], self._ended[1] - self._began[1]
        return {"rate": self._count / seconds, "cpu": cpu / self._count * 1e6}


async def from_many(publish: Callable[[T], Awaitable[object]], events: Sequence[T]) -> Figures:
    """100 tasks, each publishing one event after another and waiting until it is acknowledged."""
    await asyncio.gather(*map(publish, events[:CALLERS]))

    async def publisher(number: int) -> None:
        for event in events[number::CALLERS]:
            await publish(event)

    with Stopwatch() as watch:
        await asyncio.gather(*map(publisher, range(CALLERS)))
    return watch.figures(len(events))


async def from_one(publish: Callable[[T], Awaitable[object]], events: Sequence[T]) -> Figures:
    """One task that does."""
    for event in events[:10]:
        await publish(event)
    with Stopwatch() as watch:
        for event in events:
            await publish(event)
    return watch.figures(len(events))


async def in_batches(publish_many: Callable[[Sequence[T]], Awaitable[object]], events: Sequence[T]) -> Figures:
    """1000 at a time, all of them acknowledged before the next."""
    await publish_many(events[:BATCH])
    with Stopwatch() as watch:
        for first in range(0, len(events), BATCH):
            await publish_many(events[first : first + BATCH])
    return watch.figures(len(events))


class Seen:
    """How old each tick was when it was handled, in milliseconds."""

    def __init__(self) -> None:
        self.ages: list[float] = []

    def one(self, tick: Tick) -> None:
        """One more is handled."""
        self.ages.append((time.monotonic_ns() - tick.sent) / 1e6)

    async def measure(self, publish: Callable[[Tick], Awaitable[object]], count: int) -> Figures:
        """Publish at an even rate, once one event has come through."""
        await publish(Tick("first", time.monotonic_ns()))
        await until(lambda: bool(self.ages), PATIENCE)
        self.ages.clear()
        numbers = iter(range(count))

        async def call() -> None:
            await publish(Tick(f"k-{next(numbers)}", time.monotonic_ns()))

        await evenly(count, call)
        await until(lambda: len(self.ages) >= count)
        return spread(self.ages)
