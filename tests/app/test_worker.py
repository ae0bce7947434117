"""The worker keeps the rules of delivery on real files."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from millstream import App, Context, Retry, Topic, Transaction, event


@event("order.created", key="order_id")
@dataclass(frozen=True)
class OrderCreated:
    """A customer has committed to buy."""

    order_id: str
    quantity: int = 1


@event("stock.reserved", key="order_id")
@dataclass(frozen=True)
class StockReserved:
    """Goods are set aside."""

    order_id: str


SCHEMA = "create table if not exists reserved(order_id text, quantity integer)"


@pytest.fixture(params=["one file", "two files"])
def make_app(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], App]:
    """Make the service in both layouts."""
    store = "b.db" if request.param == "one file" else "s.db"
    return lambda: App("inventory", broker=f"sqlite:///{tmp_path}/b.db", store=f"sqlite:///{tmp_path}/{store}", schema=SCHEMA)


async def until(app: App, reached: Callable[[], Awaitable[bool]]) -> None:
    """Run the app until something is so."""
    stop = asyncio.Event()

    async def watch() -> None:
        async with asyncio.timeout(20):
            while not await reached():
                await app.clock.sleep(0.01)
        stop.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(watch())
        tasks.create_task(app.run(stop))


async def test_a_handlers_writes_and_its_events_commit_together(make_app: Callable[[], App]) -> None:
    """Each order is reserved once, and each reservation is published with its cause."""
    app, seen = make_app(), list[Context]()

    @app.subscriber(OrderCreated)
    async def reserve(order: OrderCreated, tx: Transaction) -> StockReserved:
        tx.execute("insert into reserved values(?, ?)", (order.order_id, order.quantity))
        return StockReserved(order.order_id)

    @app.subscriber(StockReserved)
    async def note(_stock: StockReserved, context: Context) -> None:
        seen.append(context)

    async with app:
        sent = await app.publish_many([OrderCreated(f"o-{n}") for n in range(50)])
        await app.broker.publish(sent)  # every one of them a second time

        async def done() -> bool:
            return len(seen) >= 50

        await until(app, done)

        rows = await app.read("select order_id, count(*) from reserved group by order_id")
        assert sorted(rows) == sorted((f"o-{n}", 1) for n in range(50))
        assert {context.envelope.causation for context in seen} == {envelope.id for envelope in sent}
        assert len(seen) == 50


async def test_a_failure_waits_with_its_key_and_others_flow_on(make_app: Callable[[], App]) -> None:
    """The first event of a key fails twice; its followers wait, other keys do not, and order holds."""
    app, handled, failures = make_app(), list[tuple[str, int]](), list[int]()

    @app.subscriber(OrderCreated, retry=Retry(attempts=5, first=0.05))
    async def reserve(order: OrderCreated, context: Context) -> None:
        if order.order_id == "bad" and order.quantity == 1 and context.attempt < 3:
            failures.append(context.attempt)
            raise ValueError("not yet")
        handled.append((order.order_id, order.quantity))

    async with app:
        await app.publish_many([OrderCreated(key, n) for n in (1, 2, 3) for key in ("bad", "good")])

        async def done() -> bool:
            return len(handled) == 6

        await until(app, done)

    assert failures == [1, 2]
    assert handled[:3] == [("good", 1), ("good", 2), ("good", 3)]
    assert handled[3:] == [("bad", 1), ("bad", 2), ("bad", 3)]


async def test_what_cannot_be_decoded_is_parked_with_its_bytes(make_app: Callable[[], App]) -> None:
    """Bytes that break the contract become a dead letter, intact."""
    app = make_app()

    @app.subscriber(OrderCreated)
    async def reserve(_order: OrderCreated) -> None: ...

    async with app:
        envelope = app.envelope_of(OrderCreated("o-1"))
        import msgspec

        await app.broker.publish([msgspec.structs.replace(envelope, data=b'{"order_id": \xff')])

        async def done() -> bool:
            return bool(await app.store.parked(dead=True))

        await until(app, done)

        (dead,) = await app.store.parked(dead=True)
        assert dead.envelope is not None
        assert dead.envelope.data == b'{"order_id": \xff'
        assert "cannot be decoded" in dead.reason


async def test_a_dead_letter_is_redriven_in_the_order_of_its_key(make_app: Callable[[], App]) -> None:
    """After the repair the redriven one runs first, then what waited behind it."""
    app, handled, repaired = make_app(), list[int](), asyncio.Event()

    @app.subscriber(OrderCreated, retry=Retry(attempts=1))
    async def reserve(order: OrderCreated) -> None:
        if not repaired.is_set():
            raise ValueError("broken")
        handled.append(order.quantity)

    async with app:
        await app.publish_many([OrderCreated("o", n) for n in (1, 2, 3)])

        async def parked() -> bool:
            return [p.state for p in await app.store.parked()] == ["dead", "queued", "queued"]

        await until(app, parked)
        repaired.set()
        (dead,) = await app.store.parked(dead=True)
        await app.store.request("redrive", [dead.id], "repaired")

        async def done() -> bool:
            return len(handled) == 3

        await until(app, done)

    assert handled == [1, 2, 3]


async def test_a_unit_of_work_that_fails_publishes_nothing(make_app: Callable[[], App]) -> None:
    """An exception inside takes back the writes and the events."""
    app = make_app()

    async with app:
        with pytest.raises(ZeroDivisionError):
            async with app.unit_of_work() as work:
                work.execute("insert into reserved values('o', 1)")
                work.publish(OrderCreated("o"))
                raise ZeroDivisionError

        assert await app.read("select * from reserved") == []
        assert await app.store.outbox_size() == 0


async def test_a_replay_with_effects_has_them_further_on_too(tmp_path: Path) -> None:
    """What is published the second time is new to those who read it; without effects it would be a duplicate."""
    app, noted = App("inventory", broker=f"sqlite:///{tmp_path}/b.db"), list[str]()

    @app.subscriber(OrderCreated, group="reserve")
    async def reserve(order: OrderCreated) -> StockReserved:
        return StockReserved(order.order_id)

    @app.subscriber(StockReserved)
    async def note(stock: StockReserved, _context: Context) -> None:
        noted.append(stock.order_id)

    async def twice() -> bool:
        return noted == ["o-1", "o-1"]

    async def once() -> bool:
        return noted == ["o-1"]

    async with app:
        await app.publish(OrderCreated("o-1"))
        await until(app, once)

        await app.store.rewind("reserve", [(p, 0) for p, _, _ in await app.broker.bounds("order.created")], effects=True)

        await until(app, twice)


async def test_a_group_behind_which_the_log_was_cut_stands_still_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What it had not read is gone: nothing is handled behind the hole until somebody has decided, and the service is not ready."""
    app, handled = App(
        "inventory", broker=f"sqlite:///{tmp_path}/b.db", store=f"sqlite:///{tmp_path}/s.db",
        topics=[Topic(name="order.created", partitions=1, retain_bytes=0)],
    ), list[str]()  # fmt: skip

    @app.subscriber(OrderCreated)
    async def reserve(order: OrderCreated) -> None:
        handled.append(order.order_id)

    async with app:
        await app.publish(OrderCreated("read"))

        async def done() -> bool:
            return len(handled) == 1

        await until(app, done)
        await app.publish_many([OrderCreated("lost-1"), OrderCreated("lost-2")])
        assert await app.broker.retain("order.created", force=True)
        await app.publish(OrderCreated("behind"))

        troubles = list[str]()

        async def told() -> bool:
            troubles.extend(app.troubles())
            return bool(troubles)

        await until(app, told)

    assert "PositionLostError" in troubles[0]
    assert "order.created/0" in troubles[0]
    assert handled == ["read"]
    assert "starts over" in caplog.text
