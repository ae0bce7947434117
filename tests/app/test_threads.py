"""A `def` handler cannot be interrupted; what it holds of the store can be taken from it."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from millstream import App, Retry, Transaction, event
from millstream.app import transactions
from millstream.app.lanes import Lanes
from millstream.app.system_clock import SystemClock
from millstream.app.worker import WorkerStuckError
from millstream.stores.sqlite_transaction import SqliteTransaction
from millstream.stores.sqlite_writer import Borrowed


@event("paid", key="order_id")
@dataclass(frozen=True)
class Paid:
    """A customer has paid."""

    order_id: str


@pytest.fixture(params=["one file", "two files"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> App:
    """Make the service in both layouts."""
    store = "b.db" if request.param == "one file" else "s.db"
    schema = "create table if not exists books(order_id text)"
    return App("books", broker=f"sqlite:///{tmp_path}/b.db", store=f"sqlite:///{tmp_path}/{store}", schema=schema)


@asynccontextmanager
async def working(app: App, stop: asyncio.Event, *, grace: float = 5) -> AsyncGenerator["asyncio.Task[None]"]:
    """Open the app, and have its one worker work until it is told to stop, or stops by itself."""
    async with asyncio.timeout(20), app:
        (worker,) = app.workers()
        task = asyncio.create_task(worker.run(stop, grace=grace))
        try:
            yield task
        finally:
            stop.set()
            await asyncio.wait([task])


async def test_a_thread_that_hangs_inside_its_transaction_holds_up_nobody_else(app: App) -> None:
    """The write lock is taken from it, its attempt is counted, others write, and the worker ends to be replaced."""
    let_go = threading.Event()

    @app.subscriber(Paid, timeout=0.2, retry=Retry(first=60, longest=60))
    def book(paid: Paid, tx: Transaction) -> None:
        tx.execute("insert into books values(?)", (paid.order_id,))
        let_go.wait()

    async with working(app, asyncio.Event()) as task:
        await app.publish(Paid("hangs"))
        with pytest.raises(WorkerStuckError):
            await task
        async with app.unit_of_work() as work:
            work.execute("insert into books values('from elsewhere')")
        let_go.set()

        assert await app.read("select order_id from books") == [("from elsewhere",)]
        assert [(parked.state, parked.attempts) for parked in await app.store.parked()] == [("retry", 1)]


async def test_a_thread_that_is_still_inside_when_the_grace_is_over_does_not_keep_the_worker(app: App) -> None:
    """What it wrote is undone, and its delivery comes again."""
    loop, inside, let_go = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    @app.subscriber(Paid)
    def book(paid: Paid, tx: Transaction) -> None:
        tx.execute("insert into books values(?)", (paid.order_id,))
        loop.call_soon_threadsafe(inside.set)
        let_go.wait()

    stop = asyncio.Event()
    async with working(app, stop, grace=0.1) as task:
        await app.publish(Paid("slow"))
        await inside.wait()
        stop.set()
        await task
        let_go.set()

        assert await app.read("select order_id from books") == []
        assert await app.store.parked() == []


async def test_a_thread_that_holds_the_lock_for_long_is_named(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It may block, but not everybody else without being told."""
    monkeypatch.setattr(transactions, "LONG", -1.0)

    @app.subscriber(Paid)
    def book(paid: Paid, tx: Transaction) -> None:
        tx.execute("insert into books values(?)", (paid.order_id,))

    async with working(app, asyncio.Event()):
        await app.publish(Paid("slow"))
        while not await app.read("select order_id from books"):
            await app.clock.sleep(0.001)

    assert "book held the store's write lock for" in caplog.text


async def test_a_thread_whose_statements_take_long_is_not_told_to_wait_elsewhere(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It does what the lock is for."""
    ahead, execute, monotonic = 0, SqliteTransaction.execute, SystemClock.monotonic

    def execute_slowly(transaction: SqliteTransaction, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        nonlocal ahead
        ahead += 2
        return execute(transaction, sql, params)

    @app.subscriber(Paid)
    def book(paid: Paid, tx: Transaction) -> None:
        tx.execute("insert into books values(?)", (paid.order_id,))
        tx.execute("update books set order_id=order_id")

    monkeypatch.setattr(SqliteTransaction, "execute", execute_slowly)
    monkeypatch.setattr(SystemClock, "monotonic", staticmethod(lambda: monotonic() + ahead))
    async with working(app, asyncio.Event()):
        await app.publish(Paid("much"))
        while not await app.read("select order_id from books"):
            await app.clock.sleep(0.001)

    assert ahead >= 4
    assert "write lock" not in caplog.text


async def test_what_is_being_committed_when_its_time_is_over_is_done(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler has ended in time; a commit that takes longer makes it no failure, which would be tried again."""
    looked, runs, stop = threading.Semaphore(0), list[str](), asyncio.Event()
    watch, wait = Lanes.watch, Borrowed.wait

    def watch_and_tell(lanes: Lanes, now: float) -> None:
        watch(lanes, now + 60)
        looked.release()

    def wait_for_three_looks(borrowed: Borrowed) -> None:
        wait(borrowed)
        for _ in range(3):
            looked.acquire(timeout=5)

    @app.subscriber(Paid, timeout=2, retry=Retry(first=0))
    def book(paid: Paid, tx: Transaction) -> None:
        tx.execute("insert into books values(?)", (paid.order_id,))
        monkeypatch.setattr(Lanes, "watch", watch_and_tell)
        runs.append(paid.order_id)

    monkeypatch.setattr(Borrowed, "wait", wait_for_three_looks)
    async with working(app, stop) as task:
        (sent,) = await app.publish_many([Paid("once")])
        while not runs or await app.store.parked() or not await positions(app):
            await app.clock.sleep(0.01)
        stop.set()
        await task

        assert await app.read("select order_id from books") == [(sent.key,)]
    assert runs == ["once"]


async def positions(app: App) -> int:
    """How many events the group has behind it, as far as the store knows."""
    rows = await app.read("select sum(position) from store_progress")
    return rows[0][0] or 0
