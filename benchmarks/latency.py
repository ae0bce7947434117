"""From `publish` to the handler, at 500 events a second; and what waiting costs."""

import asyncio
import contextlib
import itertools
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from benchmarks import bare
from benchmarks.orders import Tick, orders
from benchmarks.stopwatch import Stopwatch, percentile
from benchmarks.subject import Family, Figures, Row, Run
from millstream import App

RATE = 500
WARM_UP = 200


def open_app(folder: Path, seen: list[float]) -> App:
    """An app whose handler notes how old each event is, in milliseconds."""
    app = App("bench", broker=f"sqlite:///{folder}/events.db")

    @app.subscriber(Tick)
    async def look_at(tick: Tick) -> None:
        seen.append((time.monotonic_ns() - tick.sent) / 1e6)

    return app


async def evenly(count: int, call: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Call at an even rate, each in a task of its own, so that a slow one delays no other."""
    started = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for n in range(count):
            await asyncio.sleep(started + n / RATE - time.monotonic())
            tasks.create_task(call())


async def publish(app: App, count: int) -> None:
    """Publish at an even rate."""
    keys = itertools.count()
    await evenly(count, lambda: app.publish(Tick(f"k-{next(keys)}", time.monotonic_ns())))


@contextlib.asynccontextmanager
async def working(app: App) -> AsyncIterator[None]:
    """The app's worker runs meanwhile."""
    stop = asyncio.Event()
    async with app:
        running = asyncio.create_task(app.run(stop))
        await asyncio.sleep(0.5)
        try:
            yield
        finally:
            stop.set()
            await running


async def same_process(run: Run) -> Figures:
    """Publisher and worker share a loop."""
    count, seen = run.count(2_000), list[float]()
    app = open_app(run.folder, seen)
    async with working(app):
        await publish(app, count)
        await until(lambda: len(seen) == count)
    return spread(seen)


async def other_process(run: Run) -> Figures:
    """The publisher is another process."""
    count, seen = run.count(2_000), list[float]()
    async with working(open_app(run.folder, seen)):
        code = f"import asyncio; from benchmarks.latency import publish_from_here as p; asyncio.run(p({str(run.folder)!r}, {count}))"
        publisher = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
        await publisher.wait()
        await until(lambda: len(seen) == count)
    return spread(seen)


async def publish_from_here(folder: str, count: int) -> None:
    """What the other process does."""
    async with App("publisher", broker=f"sqlite:///{folder}/events.db") as app:
        await publish(app, count)


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Look again and again, which disturbs what is measured less than being told."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - an event would wake the loop in between
            await asyncio.sleep(0.01)


def spread(seen: list[float]) -> Figures:
    """Median and 99th percentile, once it has warmed up."""
    settled = seen[WARM_UP:] or seen
    return {"p50": percentile(settled, 0.5), "p99": percentile(settled, 0.99)}


async def bare_commits(run: Run) -> Figures:
    """The limit: at the same rate, from asking a thread for a commit to knowing that it is on disk."""
    count, seen = run.count(2_000), list[float]()
    writer = bare.Writer(bare.connect(run.folder))
    (order,) = orders(0, 1)

    async def commit() -> None:
        began = time.monotonic()
        await writer.write(order)
        seen.append((time.monotonic() - began) * 1e3)

    await evenly(count, commit)
    writer.close()
    return spread(seen)


async def idle(run: Run) -> Figures:
    """A worker that has nothing to do: percent of a core."""
    async with working(open_app(run.folder, [])):
        with Stopwatch() as watch:
            await asyncio.sleep(max(2.0, 5 * run.scale))
    return {"percent": watch.cpu / watch.seconds * 100}


FAMILY = Family(
    title="Latency, publish to handler at 500/s (FULL), and idling",
    rows=[
        Row(title="one process, p50", subject=same_process, figure="p50", unit="ms", target=1, beside=bare_commits),
        Row(title="one process, p99", subject=same_process, figure="p99", unit="ms", target=2, beside=bare_commits),
        Row(title="two processes, p50", subject=other_process, figure="p50", unit="ms", beside=bare_commits),
        Row(title="two processes, p99", subject=other_process, figure="p99", unit="ms", target=10, beside=bare_commits),
        Row(title="a waiting worker, of a core", subject=idle, figure="percent", unit="%", target=1),
    ],
)
