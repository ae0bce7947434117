"""A handler's Transaction begins at its first use, and is never held while its code waits."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from millstream import App, Retry, Transaction, event
from millstream.app import transactions
from millstream.core.store import Mark


@event("paid", key="order_id")
@dataclass(frozen=True)
class Paid:
    """A customer has paid."""

    order_id: str


@event("booked", key="order_id")
@dataclass(frozen=True)
class Booked:
    """The payment is in the books."""

    order_id: str


SCHEMA = "create table if not exists books(order_id text unique, note text)"


@pytest.fixture(params=["one file", "two files", "memory"])
def make_app(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], App]:
    """Make the service on each kind of store."""
    urls = {
        "one file": (f"sqlite:///{tmp_path}/b.db", f"sqlite:///{tmp_path}/b.db"),
        "two files": (f"sqlite:///{tmp_path}/b.db", f"sqlite:///{tmp_path}/s.db"),
        "memory": ("memory://", "memory://"),
    }
    broker, store = urls[request.param]
    return lambda: App("books", broker=broker, store=store, schema=SCHEMA)


async def until(app: App, reached: Callable[[], Awaitable[bool]]) -> None:
    """Run the app until something is so."""
    stop = asyncio.Event()

    async def watch() -> None:
        async with asyncio.timeout(20):
            while not await reached():
                await app.clock.sleep(0.005)
        stop.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(watch())
        tasks.create_task(app.run(stop))


def booked(app: App, count: int) -> Callable[[], Awaitable[bool]]:
    """Whether so many are in the books."""

    async def reached() -> bool:
        return (await app.read("select count(*) from books"))[0][0] >= count

    return reached


async def test_nobody_holds_the_lock_while_handlers_wait_before_their_first_write(make_app: Callable[[], App]) -> None:
    """Sixteen handlers wait at the same time, and another writer gets in meanwhile."""
    app, waiting = make_app(), set[str]()
    all_wait, go_on = asyncio.Event(), asyncio.Event()

    @app.subscriber(Paid)
    async def book(paid: Paid, tx: Transaction) -> Booked:
        waiting.add(paid.order_id)
        if len(waiting) == 16:
            all_wait.set()
        await go_on.wait()
        tx.execute("insert into books values(?, 'handler')", (paid.order_id,))
        return Booked(paid.order_id)

    async with app:
        await app.publish_many([Paid(f"o-{n}") for n in range(16)])

        async def write_meanwhile() -> None:
            await all_wait.wait()
            async with asyncio.timeout(5), app.unit_of_work() as work:
                work.execute("insert into books values('web', 'unit of work')")
            go_on.set()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(write_meanwhile())
            tasks.create_task(until(app, booked(app, 17)))

        rows = await app.read("select order_id from books order by rowid")
    assert rows[0] == ("web",)
    assert len(rows) == 17


async def test_a_handler_that_waits_inside_its_transaction_is_rolled_back_and_run_alone(
    make_app: Callable[[], App], caplog: pytest.LogCaptureFixture
) -> None:
    """Its first run leaves nothing, the others do not wait for it, and its second run counts once."""
    app, runs = make_app(), list[str]()

    @app.subscriber(Paid)
    async def book(paid: Paid, tx: Transaction) -> Booked:
        runs.append(paid.order_id)
        tx.execute("insert into books values(?, ?)", (paid.order_id, str(len(runs))))
        if paid.order_id == "slow":
            await asyncio.sleep(0.2)
        return Booked(paid.order_id)

    async with app:
        await app.publish_many([Paid("slow"), *(Paid(f"o-{n}") for n in range(40))])
        with caplog.at_level(logging.WARNING, "millstream.worker"):
            await until(app, booked(app, 41))

        counts = await app.read("select order_id, count(*) from books group by order_id having count(*) > 1")
        events = {e.key for t in await app.broker.bounds("booked") for d in await app.broker.read(t[0], t[1], 100) if (e := d.envelope)}
    assert counts == []
    assert runs.count("slow") == 2
    assert len(events) == 41
    assert "book waited more than 50 ms inside its transaction" in caplog.text


async def test_what_a_failed_handler_wrote_is_undone_and_its_neighbours_writes_stay(make_app: Callable[[], App]) -> None:
    """Each handler has a savepoint of its own inside the shared transaction."""
    app, failures = make_app(), dict[str, int]()

    @app.subscriber(Paid, retry=Retry(attempts=3, first=0.01))
    async def book(paid: Paid, tx: Transaction) -> None:
        tx.execute("insert into books values(?, 'once')", (paid.order_id,))
        if int(paid.order_id) % 3 == 0 and failures.setdefault(paid.order_id, 0) < 2:
            failures[paid.order_id] += 1
            raise ValueError("not yet")

    async with app:
        await app.publish_many([Paid(str(n)) for n in range(30)])
        await until(app, booked(app, 30))

        rows = await app.read("select count(*), count(distinct order_id) from books")
        parked = await app.store.parked()
    assert rows == [(30, 30)]
    assert set(failures.values()) == {2}
    assert parked == []


async def test_a_plain_handler_in_a_thread_has_a_transaction_of_its_own(make_app: Callable[[], App]) -> None:
    """`def` handlers write, publish and are marked together too."""
    app = make_app()

    @app.subscriber(Paid)
    def book(paid: Paid, tx: Transaction) -> Booked:
        tx.execute("insert into books values(?, 'thread')", (paid.order_id,))
        return Booked(paid.order_id)

    async with app:
        sent = await app.publish_many([Paid(str(n)) for n in range(30)])
        await app.broker.publish(sent)
        await until(app, booked(app, 30))

        rows = await app.read("select count(*), count(distinct order_id) from books")
    assert rows == [(30, 30)]


async def test_a_batch_that_partly_fails_keeps_what_went_well(make_app: Callable[[], App]) -> None:
    """With a Transaction a failed batch is undone as a whole, and each delivery then stands for itself."""
    app, sizes = make_app(), list[int]()

    @app.subscriber(Paid, retry=Retry(attempts=1))
    async def book(paid: list[Paid], tx: Transaction) -> list[object]:
        sizes.append(len(paid))
        for each in paid:
            tx.execute("insert into books values(?, 'batch')", (each.order_id,))
        return [ValueError("no") if each.order_id == "7" else Booked(each.order_id) for each in paid]

    async with app:
        await app.publish_many([Paid(str(n)) for n in range(20)])
        await until(app, booked(app, 19))

        rows = await app.read("select count(*), sum(order_id = '7') from books")
        dead = await app.store.parked(dead=True)
    assert rows == [(19, 0)]
    assert [each.envelope.key for each in dead if each.envelope] == ["7"]
    assert max(sizes) > 1


async def test_what_is_left_of_a_failed_batch_is_marked_in_the_commit_of_its_writes(make_app: Callable[[], App]) -> None:
    """While the next one of the batch waits, whatever of the ones before is in the books is in the inbox too."""
    app, sent, alone = make_app(), dict[str, Mark](), list[str]()
    written, marked = set[str](), set[str]()

    @app.subscriber(Paid, retry=Retry(attempts=1))
    async def book(paid: list[Paid], tx: Transaction) -> list[object]:
        if len(paid) > 1:
            return [ValueError("one by one") for _ in paid]
        alone.append(paid[0].order_id)
        if len(alone) == 2:
            while not written:
                await asyncio.sleep(0)
                written.update([order_id for (order_id,) in await app.read("select order_id from books")])
            known = await app.store.handled("books.book", 0, list(sent.values()))
            marked.update(order_id for order_id, mark in sent.items() if mark in known)
        tx.execute("insert into books values(?, 'alone')", (paid[0].order_id,))
        return [None]

    async with app:
        for envelope in await app.publish_many([Paid(str(n)) for n in range(3)]):
            sent[str(envelope.key)] = Mark(envelope.source, envelope.id)
        await until(app, booked(app, 3))

    assert written == marked == {alone[0]}


async def test_a_transaction_is_useless_once_its_handler_has_ended(make_app: Callable[[], App]) -> None:
    """Whoever kept it gets an error, and writes nothing."""
    app, kept = make_app(), list[Transaction]()

    @app.subscriber(Paid)
    async def book(paid: Paid, tx: Transaction) -> None:
        tx.execute("insert into books values(?, '')", (paid.order_id,))
        kept.append(tx)

    async with app:
        await app.publish(Paid("1"))
        await until(app, booked(app, 1))

        with pytest.raises(Exception, match="has ended"):
            kept[0].execute("insert into books values('2', '')")
        assert await app.read("select count(*) from books") == [(1,)]


async def test_a_slow_key_does_not_hold_up_the_others(make_app: Callable[[], App]) -> None:
    """While one handler waits, hundreds of other keys are handled and committed; then its own followers, in order."""
    app, handled = make_app(), list[str]()
    others_done, enough = asyncio.Event(), 300

    @app.subscriber(Paid)
    async def note(paid: Paid) -> None:
        if paid.order_id == "slow" and "slow" not in handled:
            await others_done.wait()
        handled.append(paid.order_id)
        if len(handled) == enough:
            others_done.set()

    async with app:
        await app.publish_many([Paid("slow"), *(Paid(f"o-{n}") for n in range(enough)), Paid("slow")])

        async def all_done() -> bool:
            return len(handled) == enough + 2

        await until(app, all_done)
    assert handled[-2:] == ["slow", "slow"]


@pytest.mark.parametrize("make_app", ["one file", "two files"], indirect=True)
async def test_a_transaction_that_the_database_has_given_up_holds_up_nobody(make_app: Callable[[], App]) -> None:
    """A trigger rolls back all of it: nothing of it is kept, others write, and what was in it is handled again."""
    app = make_app()

    @app.subscriber(Paid)
    async def book(paid: Paid, tx: Transaction) -> None:
        tx.execute("insert into books values(?, '')", (paid.order_id,))

    async with app, asyncio.timeout(20):
        await app.store.script(
            "create table open(yes integer);"
            "create trigger closed before insert on books when new.order_id='early' and not exists(select 1 from open)"
            " begin select raise(rollback, 'closed'); end"
        )
        await app.publish_many([Paid("early"), *(Paid(str(n)) for n in range(5))])

        async def write_when_it_fails() -> bool:
            if app.troubles() and not await app.read("select 1 from open"):
                async with app.unit_of_work() as work:
                    work.execute("insert into open values(1)")
            return await booked(app, 6)()

        await until(app, write_when_it_fails)
        assert await app.read("select count(*), count(distinct order_id) from books") == [(6, 6)]


async def test_a_handler_that_waits_for_the_lock_it_holds_itself_holds_it_for_seconds_only(
    make_app: Callable[[], App], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It publishes past its Transaction, which can never end so: its attempt fails and says why, and others write."""
    monkeypatch.setattr(transactions, "ALONE", 0.2)
    app = make_app()

    @app.subscriber(Paid, retry=Retry(attempts=1))
    async def book(paid: Paid, tx: Transaction) -> None:
        tx.execute("insert into books values(?, '')", (paid.order_id,))
        if paid.order_id == "bad":
            async with app.unit_of_work() as work:
                work.execute("insert into books values('inner', '')")

    async with app, asyncio.timeout(20):
        await app.publish_many([Paid("bad"), Paid("good")])
        await until(app, booked(app, 1))

        async def dead() -> bool:
            return bool(await app.store.parked(dead=True))

        await until(app, dead)
        (letter,) = await app.store.parked(dead=True)
        books = await app.read("select order_id from books")
    assert books == [("good",)]
    assert "held the store's write lock for over 0.2 s" in letter.error
