"""A partition that goes to another worker takes nothing of the others with it, and leaves nothing behind."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from millstream import App, Context, Retry, Topic, Transaction, event
from millstream.app.system_clock import SystemClock
from millstream.app.worker import GroupWorker
from millstream.brokers.sqlite import SqliteBroker
from millstream.contracts.errors import FencedError
from millstream.contracts.partition import partition_of
from millstream.core.broker import Partition
from millstream.core.store import Mark
from millstream.stores.sqlite import SqliteStore
from millstream.stores.sqlite_connection import Connection
from millstream.stores.sqlite_file import SqliteFile
from millstream.stores.sqlite_process import boot_id, member_name
from millstream.stores.sqlite_wake import MEMBERS


@event("paid", key="order_id")
@dataclass(frozen=True)
class Paid:
    """A customer has paid."""

    order_id: str


SCHEMA = "create table if not exists books(order_id text)"
NOW = SystemClock()
LOST, KEPT = Partition("paid", 0), Partition("paid", 1)


def keys(partition: Partition, count: int) -> list[str]:
    """So many keys whose events lie in this partition."""
    found: list[str] = []
    while len(found) < count:
        key = f"{partition.number}-{time.monotonic_ns()}"
        if partition_of(key, 2) == partition.number:
            found.append(key)
    return found


@pytest.fixture
def app(tmp_path: Path) -> App:
    """Make a service whose topic has two partitions, with a store of its own."""
    return App(
        "books",
        broker=f"sqlite:///{tmp_path}/b.db",
        store=f"sqlite:///{tmp_path}/s.db",
        schema=SCHEMA,
        topics=[Topic(name="paid", partitions=2)],
    )


@asynccontextmanager
async def running(app: App) -> AsyncGenerator[GroupWorker]:
    """Open the app and have its one worker work."""
    stop = asyncio.Event()
    async with asyncio.timeout(20), app, asyncio.TaskGroup() as tasks:
        (worker,) = app.workers()
        tasks.create_task(worker.run(stop, grace=1))
        yield worker
        stop.set()


async def until(reached: Callable[[], bool]) -> None:
    """Let everybody go on until something is so."""
    async with asyncio.timeout(10):
        while not reached():
            await NOW.sleep(0)


async def join(app: App, other: str, *, lasting: float = 1000) -> None:
    """Have another member come, who takes nothing by itself; or go, when it does not last."""
    assert isinstance(app.broker, SqliteBroker)
    member = ("books.book", other, boot_id(), time.monotonic() + lasting)
    await app.broker.file.write(
        lambda connection: connection.execute("insert or replace into broker_member values(?, ?, ?, ?)", member) and None, wakes=MEMBERS
    )


async def lose(app: App, worker: GroupWorker) -> None:
    """Have another member take one of the two partitions, and wait until the worker has noticed."""
    broker, other = app.broker, member_name()
    assert isinstance(broker, SqliteBroker)
    tp = broker.log.tp(LOST)

    def take(connection: Connection) -> None:
        forever = time.monotonic() + 1000
        connection.execute("insert into broker_member values('books.book', ?, ?, ?)", (other, boot_id(), forever))
        connection.execute("update broker_position set owner=?, expires=? where tp=?", (other, forever, tp))

    await broker.file.write(take, wakes=MEMBERS)
    await until(lambda: LOST not in worker.owned)


async def test_what_a_lost_delivery_wrote_is_never_committed_without_its_mark(app: App) -> None:
    """Its partition is lost while the transaction that it wrote in is still open for another."""
    (lost,), (kept,) = keys(LOST, 1), keys(KEPT, 1)
    written, inside, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @app.subscriber(Paid)
    async def book(paid: Paid, tx: Transaction) -> None:
        if paid.order_id == kept:
            await written.wait()
        tx.execute("insert into books values(?)", (paid.order_id,))
        written.set()
        if paid.order_id == kept:
            inside.set()
            await go_on.wait()

    async with running(app) as worker:
        sent = {envelope.key: envelope for envelope in await app.publish_many([Paid(lost), Paid(kept)])}
        await inside.wait()
        await lose(app, worker)
        go_on.set()
        while (kept,) not in (books := await app.read("select order_id from books")):
            await NOW.sleep(0)

        marks = {key: Mark(envelope.source, envelope.id) for key, envelope in sent.items()}
        handled = await app.store.handled("books.book", 0, list(marks.values()))
    assert books.count((kept,)) == 1
    assert ((lost,) in books) == (marks[lost] in handled)


async def test_what_waited_for_the_lane_of_a_lost_delivery_is_handled(app: App) -> None:
    """The only lane is interrupted, and there is another one for whatever else was ready."""
    (lost,), (kept,) = keys(LOST, 1), keys(KEPT, 1)
    inside, handled = asyncio.Event(), list[str]()

    @app.subscriber(Paid, concurrency=1)
    async def book(paid: Paid) -> None:
        if paid.order_id == lost:
            inside.set()
            await asyncio.Event().wait()
        handled.append(paid.order_id)

    async with running(app) as worker:
        await app.publish(Paid(lost))
        await inside.wait()
        await app.publish(Paid(kept))
        await until(lambda: bool(worker.owned[KEPT].in_flight))
        await lose(app, worker)
        await until(lambda: bool(handled))

    assert handled == [kept]


@pytest.mark.parametrize("takes", ["nothing", "a transaction"])
async def test_a_batch_that_is_interrupted_because_of_a_lost_delivery_is_called_again_with_the_others(app: App, takes: str) -> None:
    """What another owns now is in no call after that, and what is still here is handled once."""
    lost, kept = keys(LOST, 2), keys(KEPT, 2)
    inside, calls = asyncio.Event(), list[list[str]]()

    async def serve(paid: list[Paid]) -> None:
        calls.append(sorted(each.order_id for each in paid))
        if not inside.is_set():
            inside.set()
            await asyncio.Event().wait()

    if takes == "nothing":

        @app.subscriber(Paid, group="books.book")
        async def book(paid: list[Paid]) -> None:
            await serve(paid)
    else:

        @app.subscriber(Paid, group="books.book")
        async def book_with(paid: list[Paid], tx: Transaction) -> None:
            await serve(paid)
            tx.executemany("insert into books values(?)", [(each.order_id,) for each in paid])

    async with app:
        await app.publish_many([Paid(key) for key in (*lost, *kept)])
    async with running(app) as worker:
        await inside.wait()
        await lose(app, worker)
        await until(lambda: len(calls) > 1)
        await worker.quiet()

        books = await app.read("select order_id from books order by order_id")
    assert calls == [sorted(lost + kept), sorted(kept)]
    assert books == ([] if takes == "nothing" else [(key,) for key in sorted(kept)])


async def test_a_handler_that_was_to_run_alone_is_not_run_again_once_its_delivery_is_lost(app: App) -> None:
    """It waited inside its transaction, was interrupted for that, and then for the partition: that is its end here."""
    (lost,) = keys(LOST, 1)
    rolled_back, runs = asyncio.Event(), list[str]()

    @app.subscriber(Paid)
    async def book(paid: Paid, tx: Transaction) -> None:
        runs.append(paid.order_id)
        tx.execute("insert into books values(?)", (paid.order_id,))
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            rolled_back.set()
            await asyncio.Event().wait()

    async with running(app) as worker:
        await app.publish(Paid(lost))
        await rolled_back.wait()
        await lose(app, worker)
        await worker.quiet()

    assert runs == [lost]


async def test_a_partition_that_comes_back_is_not_given_up_for_the_sake_of_an_earlier_hand_over(tmp_path: Path) -> None:
    """It was to be handed over while a retry was in flight; the worker started over, and has it again."""
    app = App("books", schema=SCHEMA, topics=[Topic(name="paid", partitions=2)])
    file = SqliteFile(tmp_path / "b.db")
    broker = SqliteBroker(file, lease=0.5)
    app.configure(broker=broker, store=SqliteStore(file, append=broker.append))
    other, (key,), attempts, handled = member_name(), keys(KEPT, 1), list[int](), list[str]()

    @app.subscriber(Paid, retry=Retry(first=0))
    async def book(paid: Paid, context: Context) -> None:
        attempts.append(context.attempt)
        if len(attempts) == 1:
            raise ValueError("not yet")
        if len(attempts) == 2:
            await asyncio.Event().wait()
        handled.append(paid.order_id)

    async with running(app) as worker:
        await app.publish(Paid(key))
        await until(lambda: len(attempts) == 2)
        await join(app, other)
        await until(lambda: worker.owned[KEPT].leaving)
        leaving = {task for task in asyncio.all_tasks() if "GroupWorker._hand_over" in repr(task)}
        await join(app, other, lasting=0)
        worker.trouble(FencedError("as a test wants it"))
        await asyncio.wait(leaving)
        await until(lambda: len(handled) == 1)
        await app.publish(Paid(key))
        await until(lambda: len(handled) == 2)
        assert not worker.owned[KEPT].leaving
