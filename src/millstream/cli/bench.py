"""`millstream bench`: what the embedded broker does on this machine, in a few seconds."""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from millstream.app.app import App
from millstream.cli.progress import Progress
from millstream.cli.screen import PLAIN, Column, Look, Screen
from millstream.cli.wording import number, span
from millstream.contracts.errors import ConfigurationError
from millstream.contracts.message import event

BATCH = 100
CONCURRENT = 100
#: Events that wait to be handled when handling is measured, for each second of measuring.
WAITING = 20_000


@event("bench.asked", key="id")
@dataclass(frozen=True)
class Asked:
    """An event of some hundred bytes."""

    id: int
    text: str = "a customer has committed to buy two mugs, to be sent to the usual address before the weekend"


@event("bench.answered", key="id")
@dataclass(frozen=True)
class Answered:
    """What a handler publishes."""

    id: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One figure: how many events in how long, or how long one takes."""

    name: str
    events: int
    seconds: float
    median: float | None = None
    """Seconds of a single one, where that is the question."""

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds


async def bench(
    *,
    seconds: Annotated[float, Parameter(help="How long each of the five figures is measured.")] = 1.5,
    folder: Annotated[Path | None, Parameter(help="Where the test files go: another disk, other figures.")] = None,
    look: Look = PLAIN,
) -> None:
    """Measure the embedded broker on this machine: durable publishing, and handling.

    It works on files of its own, which it removes. Other work on the machine
    shows.

    For example:
      millstream bench
      millstream bench --seconds 5 --folder /data --output json
    """
    screen = Screen(look)
    if not 0 < seconds <= 600:
        raise ConfigurationError(f"--seconds {seconds:g}: measure for more than 0 and at most 600 seconds.")
    where = folder or Path.cwd()
    if not where.is_dir():
        raise ConfigurationError(f"--folder {where}: there is no such folder.")
    results: list[Measured] = []
    with tempfile.TemporaryDirectory(dir=where, prefix=".millstream-bench-") as files, Progress("measured", 5, unit="figures") as progress:
        measures = (_batches, _concurrent, _single, _at_least_once, _effectively_once)
        for done, measure in enumerate(measures):
            progress.at(done)
            results.append(await measure(Path(files) / f"{done}.db", seconds))
    if look.json:
        figures = [{**asdict(result), "per_second": result.rate} for result in results]
        screen.document("bench", folder=str(where), figures=figures)
        return
    columns = [Column("MEASURED"), Column("EVENTS/S", right=True), Column("EACH", right=True)]
    screen.table(columns, [[r.name, number(round(r.rate)), span(r.median) if r.median is not None else ""] for r in results])
    screen.hint(f"durable: each commit is on the disk of {where} before it is acknowledged")


async def _batches(path: Path, seconds: float) -> Measured:
    app = App("bench", broker=f"sqlite:///{path}")
    async with app:
        events, batch = 0, [Asked(n) for n in range(BATCH)]

        async def publish() -> None:
            nonlocal events
            await app.publish_many(batch)
            events += BATCH

        return Measured(f"publish in batches of {BATCH}", *await _for(seconds, publish, lambda: events))


async def _concurrent(path: Path, seconds: float) -> Measured:
    app = App("bench", broker=f"sqlite:///{path}")
    async with app:
        events, end = 0, time.perf_counter() + seconds

        async def publisher(number: int) -> None:
            nonlocal events
            while time.perf_counter() < end:
                await app.publish(Asked(number))
                events += 1

        started = time.perf_counter()
        await asyncio.gather(*(publisher(number) for number in range(CONCURRENT)))
        return Measured(f"publish, {CONCURRENT} at a time", events, time.perf_counter() - started)


async def _single(path: Path, seconds: float) -> Measured:
    app = App("bench", broker=f"sqlite:///{path}")
    async with app:
        taken: list[float] = []

        async def publish() -> None:
            started = time.perf_counter()
            await app.publish(Asked(len(taken)))
            taken.append(time.perf_counter() - started)

        events, passed = await _for(seconds, publish, lambda: len(taken))
        return Measured("publish, one after another", events, passed, statistics.median(taken))


async def _at_least_once(path: Path, seconds: float) -> Measured:
    app, handled, stop = App("bench", broker=f"sqlite:///{path}"), 0, asyncio.Event()
    wanted = int(WAITING * seconds)

    @app.subscriber(Asked, start="earliest")
    async def read(_: Asked) -> None:
        nonlocal handled
        handled += 1
        if handled == wanted:
            stop.set()

    return Measured("handle, at least once", *await _work_off(app, wanted, stop))


async def _effectively_once(path: Path, seconds: float) -> Measured:
    app, handled, stop = App("bench", broker=f"sqlite:///{path}"), 0, asyncio.Event()
    wanted = int(WAITING * seconds / 2)

    @app.subscriber(Asked, start="earliest")
    async def answer(asked: Asked) -> Answered:
        nonlocal handled
        handled += 1
        if handled == wanted:
            stop.set()
        return Answered(asked.id)

    return Measured("handle and publish, effectively once", *await _work_off(app, wanted, stop))


async def _for(seconds: float, step: Callable[[], Awaitable[None]], count: Callable[[], int]) -> tuple[int, float]:
    """Repeat a step for so long; gives how many events that were, and the time it took."""
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        await step()
    return count(), time.perf_counter() - started


async def _work_off(app: App, wanted: int, stop: asyncio.Event) -> tuple[int, float]:
    """Handle what waits in the log, and what that took, settling included."""
    async with app:
        for first in range(0, wanted, 1000):
            await app.publish_many([Asked(n) for n in range(first, min(first + 1000, wanted))])
        started = time.perf_counter()
        await app.run(stop)
        return wanted, time.perf_counter() - started
