"""TestApp runs a service in memory, and shows what it did."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from millstream import App, Context, Retry, Transaction, event
from millstream.contracts.errors import ContractError, MillstreamError, NotStartedError
from millstream.testing import ManualClock, TestApp


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


@event("order.shipped", key="order_id")
@dataclass(frozen=True)
class OrderShipped:
    """A parcel is on its way."""

    order_id: str


def inventory(**options: object) -> App:
    """A service that reserves, and one handler that reacts to it."""
    app = App("inventory", broker="sqlite:////nowhere/that/exists.db", schema="create table reserved(order_id text)")

    @app.subscriber(OrderCreated, **options)  # type: ignore[arg-type]
    async def reserve(order: OrderCreated, tx: Transaction) -> StockReserved:
        if order.quantity > 10:
            raise ValueError(f"only 10 left, not {order.quantity}")
        tx.execute("insert into reserved values(?)", (order.order_id,))
        return StockReserved(order.order_id)

    @app.subscriber(StockReserved)
    async def ship(stock: StockReserved) -> OrderShipped:
        return OrderShipped(stock.order_id)

    return app


async def test_a_published_event_runs_through_to_the_last_handler() -> None:
    """What follows from an event has happened when publish returns, whatever broker the app names."""
    async with TestApp(inventory()) as test:
        await test.publish(OrderCreated("o-1"), OrderCreated("o-2"))

        assert sorted(order.order_id for order in test.published(OrderShipped)) == ["o-1", "o-2"]
        assert test.published(OrderCreated) == [OrderCreated("o-1"), OrderCreated("o-2")]
        assert sorted(test.rows("select order_id from reserved")) == [("o-1",), ("o-2",)]
        assert test.dead_letters == []


async def test_what_was_handled_is_told_by_handler() -> None:
    """Only what came to a good end counts, and a handler can be named."""
    async with TestApp(inventory(retry=Retry(attempts=1))) as test:
        await test.publish(OrderCreated("o-1"), OrderCreated("o-2", 99))

        assert test.handled(OrderCreated) == [OrderCreated("o-1")]
        assert test.handled(StockReserved, by="ship") == [StockReserved("o-1")]
        assert test.handled(StockReserved, by="reserve") == []


async def test_a_dead_letter_tells_what_went_wrong_and_can_be_redriven() -> None:
    """It has its envelope, its error and the attempts it had; redriven it runs once more."""
    repaired = False
    app = App("inventory")

    @app.subscriber(OrderCreated, retry=Retry(attempts=1))
    async def reserve(order: OrderCreated) -> StockReserved:
        if not repaired:
            raise ValueError("no such shelf")
        return StockReserved(order.order_id)

    async with TestApp(app) as test:
        (sent,) = await test.publish(OrderCreated("o-1"))
        (letter,) = test.dead_letters
        assert (letter.envelope, letter.error, letter.attempts) == (sent, "ValueError: no such shelf", 1)
        assert test.failures == ["ValueError: no such shelf"]

        repaired = True
        count = await test.redrive(letter)

        assert (count, test.dead_letters, test.published(StockReserved)) == (1, [], [StockReserved("o-1")])


async def test_a_letter_is_repaired_with_another_message() -> None:
    """What could not be handled is replaced, and handled under the id that it had."""
    async with TestApp(inventory(retry=Retry(attempts=1))) as test:
        (sent,) = await test.publish(OrderCreated("o-1", 99))
        (letter,) = test.dead_letters

        await test.repair(letter, OrderCreated("o-1", 9))

        assert test.dead_letters == []
        assert test.handled(OrderCreated) == [OrderCreated("o-1", 9)]
        assert [envelope.causation for envelope in test.envelopes(StockReserved)] == [sent.id]


async def test_a_discarded_letter_lets_what_waited_behind_it_go_on() -> None:
    """The rest of its key is handled in order."""
    async with TestApp(inventory(retry=Retry(attempts=1))) as test:
        await test.publish(OrderCreated("o-1", 99), OrderCreated("o-1", 1), OrderCreated("o-1", 2))
        assert [parked.state for parked in test.parked] == ["dead", "queued", "queued"]

        await test.discard()

        assert test.parked == []
        assert test.handled(OrderCreated) == [OrderCreated("o-1", 1), OrderCreated("o-1", 2)]


async def test_retries_happen_at_their_own_time() -> None:
    """An hour passes in no time, and each attempt is made when it is due: not before, and not all at the end."""
    clock, attempts = ManualClock(), list[tuple[int, float]]()
    app = App("inventory")

    @app.subscriber(OrderCreated, retry=Retry(attempts=4, first=10, factor=3, jitter=0))
    async def reserve(_order: OrderCreated, context: Context) -> None:
        attempts.append((context.attempt, clock.monotonic()))
        raise ValueError("never")

    async with TestApp(app, clock=clock) as test:
        await test.publish(OrderCreated("o-1"))
        await test.advance(9.9)
        assert attempts == [(1, 0.0)]

        await test.advance(3600)

        assert attempts == [(1, 0.0), (2, 10.0), (3, 40.0), (4, 130.0)]
        assert clock.monotonic() == 3609.9
        assert [letter.attempts for letter in test.dead_letters] == [4]


async def test_a_handler_that_waits_for_the_clock_times_out_when_time_moves() -> None:
    """A timeout of thirty seconds takes no time to test."""
    app = App("inventory")
    clock = ManualClock()

    @app.subscriber(OrderCreated, timeout=30, retry=Retry(attempts=1))
    async def reserve(_order: OrderCreated) -> None:
        await clock.sleep(3600)

    async with TestApp(app, clock=clock) as test:
        await app.publish(OrderCreated("o-1"))
        await test.advance(40)

        (letter,) = test.dead_letters
        assert letter.error == "HandlerTimeoutError: handler reserve took longer than 30 s"
        assert 30 < clock.monotonic() <= 40


async def test_a_handler_that_never_ends_fails_the_test_and_is_named() -> None:
    """Instead of hanging, it says which event is in whose hands and what to do."""
    app = App("inventory")

    @app.subscriber(OrderCreated)
    async def reserve(_order: OrderCreated) -> None:
        await asyncio.Event().wait()

    async with TestApp(app, patience=0.05) as test:
        with pytest.raises(MillstreamError, match=r"in hand: order.created o-1 in inventory.reserve.*test.advance"):
            await test.publish(OrderCreated("o-1"), id="o-1")


async def test_a_duplicate_is_published_under_the_same_id() -> None:
    """The second one is absorbed, and can be seen to have been."""
    async with TestApp(inventory()) as test:
        await test.publish(OrderCreated("o-1"), id="1")
        await test.publish(OrderCreated("o-1"), id="1")

        assert test.rows("select count(*) from reserved") == [(1,)]
        assert [outcome.kind for outcome in test.outcomes] == ["handled", "handled", "duplicate"]
        with pytest.raises(ValueError, match="one by one"):
            await test.publish(OrderCreated("o-1"), OrderCreated("o-2"), id="1")


async def test_def_handlers_and_lifespans_run_as_they_do_in_production() -> None:
    """A plain function is handled, and what the lifespan made is there and is taken away."""
    events: list[str] = []

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        app.state.shelf = "A1"
        yield
        events.append("closed")

    app = App("inventory", lifespan=lifespan, schema="create table reserved(order_id text)")

    @app.subscriber(OrderCreated)
    def reserve(order: OrderCreated, tx: Transaction) -> StockReserved:
        tx.execute("insert into reserved values(?)", (app.state.shelf,))
        return StockReserved(order.order_id)

    async with TestApp(app) as test:
        await test.publish(OrderCreated("o-1"))

        assert test.rows("select * from reserved") == [("A1",)]
        assert test.published(StockReserved) == [StockReserved("o-1")]
    assert events == ["closed"]


async def test_a_unit_of_work_publishes_into_the_same_memory() -> None:
    """What a web handler would do is seen and handled like everything else."""
    app = inventory()
    async with TestApp(app) as test:
        async with app.unit_of_work() as work:
            work.execute("insert into reserved values('by hand')")
            work.publish(StockReserved("o-7"))
        await test.run_until_idle()

        assert test.published(OrderShipped) == [OrderShipped("o-7")]
        assert test.rows("select * from reserved") == [("by hand",)]


async def test_the_app_is_given_back_as_it_was() -> None:
    """Its clock and its observers are its own again, and a second TestApp starts empty."""
    app = inventory()
    clock, observers = app.clock, list(app.observers)
    async with TestApp(app) as first:
        await first.publish(OrderCreated("o-1"))

    assert (app.clock, app.observers) == (clock, observers)
    async with TestApp(app) as second:
        assert (second.published(OrderCreated), second.outcomes) == ([], [])
    with pytest.raises(NotStartedError, match="async with TestApp"):
        TestApp(app).rows("select 1")


async def test_only_contracts_can_be_asked_for() -> None:
    """A typing mistake in a test is told, and is not an empty list."""
    async with TestApp(inventory()) as test:
        with pytest.raises(ContractError, match="is not a contract"):
            test.published(str)
