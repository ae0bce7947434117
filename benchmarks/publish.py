"""Publishing durably: in batches, from many at once, one at a time."""

import asyncio
import time

from benchmarks import bare
from benchmarks.orders import OrderCreated, orders
from benchmarks.stopwatch import Stopwatch, percentile
from benchmarks.subject import Family, Figures, Row, Run
from millstream import App

#: Events of a batch, and tasks that publish at once.
BATCH = 100


def open_app(run: Run) -> App:
    """An app on a new file."""
    return App("bench", broker=f"sqlite:///{run.folder}/events.db")


def in_batches(count: int) -> list[list[OrderCreated]]:
    """The events, made beforehand."""
    return [orders(first, BATCH) for first in range(0, count, BATCH)]


async def batches(run: Run) -> Figures:
    """`publish_many` of 100 at a time, awaited one after another."""
    made = in_batches(run.count(100_000))
    async with open_app(run) as app:
        await app.publish_many(orders(0, BATCH))
        with Stopwatch() as watch:
            for batch in made:
                await app.publish_many(batch)
    return watch.figures(len(made) * BATCH)


async def bare_batches(run: Run) -> Figures:
    """Encode and insert 100 at a time."""
    made = in_batches(run.count(100_000))
    connection = bare.connect(run.folder)
    with Stopwatch() as watch:
        for batch in made:
            bare.append(connection, batch)
    return watch.figures(len(made) * BATCH)


async def concurrent(run: Run) -> Figures:
    """100 tasks, each publishing one event after another."""
    made = in_batches(run.count(60_000))
    async with open_app(run) as app:
        await app.publish_many(orders(0, BATCH))

        async def publisher(number: int) -> None:
            for batch in made:
                await app.publish(batch[number])

        with Stopwatch() as watch:
            await asyncio.gather(*[publisher(number) for number in range(BATCH)])
    return watch.figures(len(made) * BATCH)


async def bare_concurrent(run: Run) -> Figures:
    """100 tasks that wait for one writer thread, which commits what is there."""
    made = in_batches(run.count(60_000))
    writer = bare.Writer(bare.connect(run.folder))

    async def publisher(number: int) -> None:
        for batch in made:
            await writer.write(batch[number])

    with Stopwatch() as watch:
        await asyncio.gather(*[publisher(number) for number in range(BATCH)])
    writer.close()
    return watch.figures(len(made) * BATCH)


async def single(run: Run) -> Figures:
    """One task that publishes one event after another."""
    async with open_app(run) as app:
        await app.publish_many(orders(0, BATCH))
        taken: list[float] = []
        for order in orders(BATCH, run.count(2_000)):
            started = time.perf_counter()
            await app.publish(order)
            taken.append(time.perf_counter() - started)
    return _each(taken)


async def bare_single(run: Run) -> Figures:
    """One task that waits for a thread which inserts and commits one row."""
    writer = bare.Writer(bare.connect(run.folder))
    taken: list[float] = []
    for order in orders(0, run.count(2_000)):
        started = time.perf_counter()
        await writer.write(order)
        taken.append(time.perf_counter() - started)
    writer.close()
    return _each(taken)


def _each(taken: list[float]) -> Figures:
    return {"each": percentile(taken, 0.5) * 1e6, "p99": percentile(taken, 0.99) * 1e6}


FAMILY = Family(
    title="Publish, durable (synchronous=FULL)",
    rounds=5,
    rows=[
        Row(title="batches of 100", subject=batches, figure="rate", unit="/s", target=100_000, better="more", beside=bare_batches),
        Row(
            title="100 publishers at once", subject=concurrent, figure="rate", unit="/s", target=70_000, better="more",
            beside=bare_concurrent,
        ),
        Row(
            title="one at a time, against a bare commit from a thread", subject=single, figure="each", unit="us", target=1.3,
            beside=bare_single, compared="ratio",
        ),
    ],
)  # fmt: skip
