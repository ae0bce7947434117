"""Handling what is in the log: at least once, and effectively once in both layouts."""

import asyncio
from pathlib import Path

from benchmarks import bare
from benchmarks.orders import OrderCreated, StockReserved, orders
from benchmarks.stopwatch import Stopwatch
from benchmarks.subject import Family, Figures, Row, Run
from millstream import App, Transaction

SCHEMA = "create table if not exists reserved(order_id text, sku text)"
FILL = 1000


class Counting:
    """Counts what was handled, and stops the worker at the last."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.stop = asyncio.Event()

    def one(self) -> None:
        """One more is handled."""
        self.left -= 1
        if self.left == 0:
            self.stop.set()


def app_at_least_once(folder: Path, counting: Counting, name: str = "bench") -> App:
    """A handler that returns nothing."""
    app = App(name, broker=f"sqlite:///{folder}/events.db")

    @app.subscriber(OrderCreated)
    async def look_at(_order: OrderCreated) -> None:
        counting.one()

    return app


def app_effectively_once(folder: Path, counting: Counting, store: str, name: str = "bench") -> App:
    """A handler that writes one row and publishes one event."""
    app = App(name, broker=f"sqlite:///{folder}/events.db", store=f"sqlite:///{folder}/{store}.db", schema=SCHEMA)

    @app.subscriber(OrderCreated)
    async def reserve(order: OrderCreated, transaction: Transaction) -> StockReserved:
        transaction.execute("insert into reserved values(?,?)", (order.order_id, order.lines[0].sku))
        counting.one()
        return StockReserved(order.order_id, order.lines[0].sku)

    return app


async def fill(app: App, count: int, first: int = 0) -> None:
    """Publish so many orders."""
    for start in range(first, first + count, FILL):
        await app.publish_many(orders(start, min(FILL, first + count - start)))


async def work(app: App, counting: Counting, count: int) -> Figures:
    """Publish, then handle all of it: until the last position, and the last event in the broker, is on disk."""
    async with app:
        await fill(app, count)
        with Stopwatch() as watch:
            await app.run(counting.stop)
        if app.handlers()[0].delivery == "effectively_once":
            there = sum(head for _, _, head in await app.broker.bounds("stock.reserved"))
            assert there == count, f"{there} events of {count} are in the broker"
    return watch.figures(count)


async def at_least_once(run: Run) -> Figures:
    """Read, decode, handle, move the position."""
    count = run.count(200_000)
    counting = Counting(count)
    return await work(app_at_least_once(run.folder, counting), counting, count)


async def bare_at_least_once(run: Run) -> Figures:
    """The same by hand, a position for every 100."""
    count = run.count(200_000)
    connection = bare.connect(run.folder)
    bare.append(connection, orders(0, count))
    with Stopwatch() as watch:
        await bare.consume(connection, count, 100, lambda order: order.order_id)
    return watch.figures(count)


async def one_file(run: Run) -> Figures:
    """Broker and store in one file: the commit publishes."""
    count = run.count(80_000)
    counting = Counting(count)
    return await work(app_effectively_once(run.folder, counting, "events"), counting, count)


async def two_files(run: Run) -> Figures:
    """A store of its own, and the relay."""
    count = run.count(80_000)
    counting = Counting(count)
    return await work(app_effectively_once(run.folder, counting, "store"), counting, count)


async def bare_effectively_once(run: Run) -> Figures:
    """The same by hand: row, mark and event for each, a commit for every 500."""
    count = run.count(80_000)
    connection = bare.connect(run.folder)
    bare.append(connection, orders(0, count))

    def handle(order: OrderCreated) -> None:
        connection.execute("insert into reserved values(?,?)", (order.order_id, order.lines[0].sku))
        connection.execute("insert into inbox values(?)", (int(order.order_id[2:]),))
        event = StockReserved(order.order_id, order.lines[0].sku)
        connection.execute(bare.INSERT, ("stock.reserved", event.order_id, 0, bare.encode(event)))

    with Stopwatch() as watch:
        await bare.consume(connection, count, 500, handle)
    return watch.figures(count)


FAMILY = Family(
    title="Handle, in one process",
    rows=[
        Row(
            title="at least once: read, decode, handle, checkpoint", subject=at_least_once, figure="rate", unit="/s", target=150_000,
            better="more", beside=bare_at_least_once,
        ),
        Row(
            title="effectively once, a row and an event, one file", subject=one_file, figure="rate", unit="/s", target=40_000,
            better="more", beside=bare_effectively_once,
        ),
        Row(
            title="effectively once, two files and the relay", subject=two_files, figure="rate", unit="/s", target=20_000,
            better="more", beside=bare_effectively_once,
        ),
    ],
)  # fmt: skip
