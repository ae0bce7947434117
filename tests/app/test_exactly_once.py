"""`exactly_once=True`: what a handler publishes and the broker's position of what it was given are one transaction."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from millstream import App, Context, Retry, Topic, Transaction, event
from millstream.app.control import sign
from millstream.app.exactly_once import ExactlyOnceWorker
from millstream.app.operations import Target, plan_replay, replay
from millstream.app.system_clock import SystemClock
from millstream.brokers.memory import MemoryBroker, MemorySubscription
from millstream.contracts.errors import BrokerError, ConfigurationError, FencedError, PublishError, StoreError, TooLargeError
from millstream.contracts.partition import partition_of
from millstream.core.broker import Features, Partition
from millstream.core.facts import Operation
from millstream.core.observe import Outcome, Outcomes
from millstream.core.store import Page
from millstream.stores.memory import MemoryStore
from millstream.testing import ManualClock, TestApp

NOW = SystemClock()


@event("order.paid", key="order_id")
@dataclass(frozen=True)
class Paid:
    """Somebody has paid."""

    order_id: str
    number: int = 0


@event("order.shipped", key="order_id")
@dataclass(frozen=True)
class Shipped:
    """Something is on its way."""

    order_id: str
    number: int = 0


ONE = Topic(name="order.paid", partitions=1)
AT_ONCE = Retry(attempts=3, first=0, longest=0, jitter=0)
PLACE = Partition("order.paid", 0)


class Seen:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def started(self, group: str, deliveries: Sequence[Any]) -> None: ...

    def settled(self, outcomes: Outcomes) -> None:
        self.outcomes += outcomes


def shop(broker: MemoryBroker, store: MemoryStore, **more: Any) -> App:
    """A service in memory; several of them on the same broker and store are its processes."""
    app = App("shop", topics=[ONE], **more)
    app.configure(broker=broker, store=store, facts="off")
    return app


@pytest.fixture
def broker() -> MemoryBroker:
    """Make what routes."""
    return MemoryBroker()


@pytest.fixture
def store(broker: MemoryBroker) -> MemoryStore:
    """Make what keeps."""
    return MemoryStore(append=broker.append)


@asynccontextmanager
async def running(app: App) -> AsyncGenerator[ExactlyOnceWorker]:
    """Open the app and have its one worker work."""
    stop = asyncio.Event()
    async with asyncio.timeout(20), app, asyncio.TaskGroup() as tasks:
        (worker,) = app.workers()
        assert isinstance(worker, ExactlyOnceWorker)
        tasks.create_task(worker.run(stop, grace=1))
        yield worker
        stop.set()


async def until(reached: Callable[[], bool]) -> None:
    """Let everybody go on until something is so."""
    async with asyncio.timeout(10):
        while not reached():
            await NOW.sleep(0)


def shipped(broker: MemoryBroker) -> list[tuple[str, int]]:
    """What was published, in order."""
    return [
        (str(d.envelope.key), int(d.envelope.data.partition(b'"number":')[2].rstrip(b"}")))
        for d in broker.history()
        if d.envelope is not None and d.envelope.type == "order.shipped"
    ]


async def committed(broker: MemoryBroker, group: str = "shop.ship") -> int:
    """Where the broker has the group."""
    (state,) = await broker.positions(group)
    return state.committed.value or 0


# What is refused


def test_it_is_refused_together_with_a_transaction() -> None:
    """There is no transaction of broker and store together."""
    app = App("shop")

    @app.subscriber(exactly_once=True)
    async def ship(_paid: Paid, _tx: Transaction) -> None: ...

    with pytest.raises(ConfigurationError, match=r"handler ship: exactly_once=True .* Transaction"):
        app.handlers()


def test_it_is_refused_together_with_delivery() -> None:
    """Each says how it is delivered."""
    app = App("shop")

    @app.subscriber(exactly_once=True, delivery="at_least_once")
    async def ship(_paid: Paid) -> None: ...

    with pytest.raises(ConfigurationError, match=r"handler ship: exactly_once=True .*delivery='at_least_once'"):
        app.handlers()


def test_a_group_has_it_for_all_handlers_or_for_none() -> None:
    """A group has one position of record."""
    app = App("shop")

    @app.subscriber(group="g", exactly_once=True)
    async def ship(_paid: Paid) -> None: ...

    @app.subscriber(group="g")
    async def look(_shipped: Shipped) -> None: ...

    with pytest.raises(ConfigurationError, match=r"ship and look share the group 'g', and only one of them has exactly_once=True"):
        app.handlers()


async def test_it_is_refused_on_a_broker_without_transactions(broker: MemoryBroker, store: MemoryStore) -> None:
    """Nothing is faked."""
    broker.features = Features(ordered=True, positional=True)
    app = shop(broker, store)

    @app.subscriber(exactly_once=True)
    async def ship(_paid: Paid) -> None: ...

    with pytest.raises(ConfigurationError, match=r"handler ship: exactly_once=True needs a broker .* memory://"):
        async with app:
            pass


def test_the_handler_says_what_is_promised_of_it() -> None:
    """Facts and commands tell it."""
    app = App("shop")

    @app.subscriber(exactly_once=True)
    async def ship(_paid: Paid) -> Shipped: ...  # type: ignore[empty-body]

    assert app.handlers()[0].delivery == "exactly_once"


# What is published


async def test_events_and_position_move_together(broker: MemoryBroker, store: MemoryStore) -> None:
    """Whenever the broker's position is looked at, exactly what lies before it has its output; the store is not written to."""
    app = shop(broker, store)

    @app.subscriber(exactly_once=True, concurrency=3)
    async def ship(paid: Paid, context: Context) -> Shipped:
        context.publish(Shipped(paid.order_id, -paid.number))
        return Shipped(paid.order_id, paid.number)

    async with running(app):
        await app.publish_many([Paid(f"o-{n % 7}", n) for n in range(1, 101)])
        while await committed(broker) < 100:
            assert len(shipped(broker)) == 2 * await committed(broker)
            await NOW.sleep(0)

        assert shipped(broker) == [(f"o-{n % 7}", sign * n) for n in range(1, 101) for sign in (-1, 1)]
        assert not await store.outbox(0, 10)
        assert not store.tables.inbox


async def test_what_finishes_out_of_order_is_published_in_order(broker: MemoryBroker, store: MemoryStore) -> None:
    """An event of a delivery is published when everything before it in its partition is done."""
    app = shop(broker, store)
    gate = asyncio.Event()
    ended: list[int] = []

    @app.subscriber(exactly_once=True)
    async def ship(paid: Paid) -> Shipped:
        if paid.number == 2:
            await gate.wait()
        ended.append(paid.number)
        return Shipped(paid.order_id, paid.number)

    async with running(app):
        await app.publish_many([Paid(f"o-{n}", n) for n in range(1, 6)])
        await until(lambda: ended == [1, 3, 4, 5])
        await until(lambda: len(shipped(broker)) == 1)
        assert (shipped(broker), await committed(broker)) == ([("o-1", 1)], 1)
        gate.set()
        await until(lambda: len(shipped(broker)) == 5)

        assert [number for _, number in shipped(broker)] == [1, 2, 3, 4, 5]
        assert await committed(broker) == 5


@pytest.mark.parametrize("kind", ["async", "plain", "batch"])
async def test_every_kind_of_handler_has_it(broker: MemoryBroker, store: MemoryStore, kind: str) -> None:
    """Coroutines, functions in threads, and handlers of batches."""
    app = shop(broker, store)
    failing = {3, 7}

    def one(paid: Paid) -> Shipped:
        if paid.number in failing:
            failing.discard(paid.number)
            raise ValueError("not yet")
        return Shipped(paid.order_id, paid.number)

    if kind == "async":

        @app.subscriber(group="g", exactly_once=True, retry=AT_ONCE)
        async def ship(paid: Paid) -> Shipped:
            return one(paid)

    elif kind == "plain":

        @app.subscriber(group="g", exactly_once=True, retry=AT_ONCE)
        def ship_plainly(paid: Paid) -> Shipped:
            return one(paid)

    else:

        @app.subscriber(group="g", exactly_once=True, retry=AT_ONCE)
        async def ship_all(paid: list[Paid]) -> list[Any]:
            return [Shipped(p.order_id, p.number) if p.number not in failing else failed(p) for p in paid]

    def failed(paid: Paid) -> Exception:
        failing.discard(paid.number)
        return ValueError("not yet")

    async with running(app):
        await app.publish_many([Paid(f"o-{n % 3}", n) for n in range(10)])
        await until(lambda: len(shipped(broker)) == 10)

        assert [number for _, number in shipped(broker)] == list(range(10))
        assert await committed(broker, "g") == 10


# What fails


async def test_a_retry_holds_its_key_and_nobody_else(broker: MemoryBroker) -> None:
    """A failed attempt waits on the clock where it is: others of its key wait behind it, those of other keys are called."""
    clock = ManualClock()
    store, seen = MemoryStore(append=broker.append, micros=clock.micros, monotonic=clock.monotonic), Seen()
    app = shop(broker, store, clock=clock, observers=[seen])
    calls: list[tuple[str, int, int]] = []

    @app.subscriber(exactly_once=True, retry=Retry(attempts=3, first=100, longest=100, jitter=0), timeout=5)
    async def ship(paid: Paid, context: Context) -> Shipped:
        calls.append((paid.order_id, paid.number, context.attempt))
        if paid.number == 1 and context.attempt < 3:
            raise ValueError("not yet")
        assert (context.first_failure is None) == (context.attempt == 1)
        return Shipped(paid.order_id, paid.number)

    async with running(app):
        await app.publish_many([Paid("a", 1), Paid("a", 2), Paid("b", 3)])
        await until(lambda: len(calls) == 2)
        await clock.advance(99)
        assert calls == [("a", 1, 1), ("b", 3, 1)]
        assert (shipped(broker), store.tables.parked) == ([], {})
        await clock.advance(2)
        await until(lambda: len(calls) == 3)
        await clock.advance(101)
        await until(lambda: len(shipped(broker)) == 3)

        assert calls == [("a", 1, 1), ("b", 3, 1), ("a", 1, 2), ("a", 1, 3), ("a", 2, 1)]
        assert [(o.kind, o.attempt) for o in seen.outcomes if o.position == 0] == [("retry", 1), ("retry", 2), ("handled", 3)]
        assert seen.outcomes[0].error == "ValueError: not yet"


async def test_stopping_ends_the_wait_for_a_retry(broker: MemoryBroker, store: MemoryStore) -> None:
    """The next process gets it again, and what came behind it."""
    calls: list[int] = []

    def make() -> App:
        app = shop(broker, store)

        @app.subscriber(exactly_once=True, retry=Retry(first=1000, longest=1000))
        async def ship(paid: Paid) -> Shipped:
            calls.append(paid.number)
            if len(calls) == 1:
                raise ValueError("not yet")
            return Shipped(paid.order_id, paid.number)

        return app

    async with running(app := make()):
        await app.publish_many([Paid("a", 1), Paid("a", 2)])
        await until(lambda: calls == [1])
    assert shipped(broker) == []
    async with running(make()):
        await until(lambda: len(shipped(broker)) == 2)

    assert calls == [1, 1, 2]


def failing_shop(broker: MemoryBroker, store: MemoryStore, failing: set[int], calls: list[int] | None = None) -> App:
    """A shop that cannot ship some orders."""
    app = shop(broker, store)

    @app.subscriber(exactly_once=True, retry=AT_ONCE)
    async def ship(paid: Paid) -> Shipped:
        if calls is not None:
            calls.append(paid.number)
        if paid.number in failing:
            raise ValueError("never")
        return Shipped(paid.order_id, paid.number)

    return app


async def test_a_dead_letter_lies_in_the_store_and_others_go_on(broker: MemoryBroker, store: MemoryStore) -> None:
    """What fails for good is parked, what follows of its key waits behind it, and all others are published; redriven, both come."""
    failing = {1}
    app = failing_shop(broker, store, failing)

    async with running(app):
        await app.publish_many([Paid("a", 0), Paid("a", 1), Paid("b", 2), Paid("a", 3), Paid("b", 4)])
        await until(lambda: len(shipped(broker)) == 3)
        await until(lambda: len(store.tables.parked) == 2)
        dead, queued = sorted(store.tables.parked.values(), key=lambda p: p.id)
        assert (dead.state, dead.attempts, dead.error, dead.position) == ("dead", 3, "ValueError: never", 1)
        assert (queued.state, queued.position) == ("queued", 3)
        failing.clear()
        await store.request("redrive", [dead.id], "again")
        await until(lambda: len(shipped(broker)) == 5)

        assert shipped(broker) == [("a", 0), ("b", 2), ("b", 4), ("a", 1), ("a", 3)]
        assert await committed(broker) == 5
        assert not store.tables.parked


@pytest.mark.parametrize("discarded", [False, True])
async def test_a_crash_between_parking_and_settling_loses_nothing_and_repeats_nothing(
    broker: MemoryBroker, store: MemoryStore, *, discarded: bool
) -> None:
    """The store has parked it and the broker does not know: the next owner passes over it, also when nothing is parked any more."""
    calls: list[int] = []
    settle = MemorySubscription.publish_and_settle

    async def dies(self: MemorySubscription, envelopes: Any, done: Any) -> None:
        if any(d.position == 1 for d in done):
            raise FencedError("it died here")
        await settle(self, envelopes, done)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemorySubscription, "publish_and_settle", dies)
        app = failing_shop(broker, store, {1}, calls)
        async with running(app):
            await app.publish_many([Paid("a", 0), Paid("b", 1), Paid("c", 2)])
            await until(lambda: len(store.tables.parked) == 1)
            assert await committed(broker) == 1
    if discarded:
        store.tables.parked.clear()
    async with running(failing_shop(broker, store, {1}, calls)):
        await until(lambda: len(shipped(broker)) == 2)

    assert shipped(broker) == [("a", 0), ("c", 2)]
    assert calls.count(1) == 3
    assert await committed(broker) == 3
    found = [(parked.state, parked.attempts, parked.position) for parked in store.tables.parked.values()]
    assert found == ([] if discarded else [("dead", 3, 1)])


async def test_an_event_that_the_broker_refuses_makes_a_dead_letter_of_its_delivery_alone(
    broker: MemoryBroker, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others of its transaction are published; those of its key, which were handled already, wait behind it."""
    check = MemoryBroker.check

    def refuse(self: MemoryBroker, envelopes: Any) -> None:
        results = [TooLargeError("not this one") if e.data.endswith(b'"number":1}') else None for e in envelopes]
        if any(results):
            raise PublishError(results)
        check(self, envelopes)

    monkeypatch.setattr(MemoryBroker, "check", refuse)
    app = failing_shop(broker, store, set())

    async with running(app):
        await app.publish_many([Paid("a", 0), Paid("b", 1), Paid("b", 2), Paid("c", 3), Paid("b", 4)])
        await until(lambda: len(shipped(broker)) == 2)
        await until(lambda: len(store.tables.parked) == 3)
        dead, *queued = sorted(store.tables.parked.values(), key=lambda p: p.id)
        assert (dead.state, dead.position, dead.reason) == ("dead", 1, "what it published was refused: not this one")
        assert [(p.state, p.position) for p in queued] == [("queued", 2), ("queued", 4)]
        monkeypatch.undo()
        await store.request("redrive", [dead.id], "again")
        await until(lambda: len(shipped(broker)) == 5)

        assert shipped(broker) == [("a", 0), ("c", 3), ("b", 1), ("b", 2), ("b", 4)]


async def test_what_has_killed_its_workers_becomes_a_dead_letter(broker: MemoryBroker, store: MemoryStore) -> None:
    """Crashes are counted as elsewhere: what may have killed the last owner runs alone, and not for ever."""
    calls: list[int] = []
    app = failing_shop(broker, store, set(), calls)

    async with app:
        await app.publish_many([Paid("a", 0), Paid("b", 1)])
        (assignment,) = await store.assign("shop.ship", [PLACE])
        await store.commit(Page(group="shop.ship", fences={PLACE: assignment.epoch}, suspects={(PLACE, 0): 3}))
    async with running(failing_shop(broker, store, set(), calls)):
        await until(lambda: len(shipped(broker)) == 1)
        await until(lambda: not store.tables.suspects)
        (dead,) = store.tables.parked.values()

    assert (dead.position, dead.reason) == (0, "crashed the worker 3 times")
    assert (calls, shipped(broker)) == ([1], [("b", 1)])


async def test_what_waits_behind_a_retry_holds_up_no_other_partition(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much there is of its key, others go on."""
    monkeypatch.setattr("millstream.app.worker.MOST_IN_FLIGHT", 10)
    clock = ManualClock()
    store = MemoryStore(append=broker.append, micros=clock.micros, monotonic=clock.monotonic)
    app = App("shop", topics=[Topic(name="order.paid", partitions=2)], clock=clock)
    app.configure(broker=broker, store=store, facts="off")
    keys = {partition_of(f"o-{n}", 2): f"o-{n}" for n in range(10)}

    @app.subscriber(exactly_once=True, retry=Retry(attempts=2, first=100, longest=100, jitter=0))
    async def ship(paid: Paid, context: Context) -> Shipped:
        if paid.number == 0 and context.attempt == 1:
            raise ValueError("not yet")
        return Shipped(paid.order_id, paid.number)

    async with running(app):
        await app.publish_many([Paid(keys[0], n) for n in range(50)])
        await app.publish_many([Paid(keys[1], n) for n in range(50, 100)])
        await until(lambda: len(shipped(broker)) == 50)
        assert [number for _, number in shipped(broker)] == list(range(50, 100))
        await clock.advance(101)
        await until(lambda: len(shipped(broker)) == 100)

        assert [number for _, number in shipped(broker)][50:] == list(range(50))


@pytest.mark.parametrize("error", [FencedError("gone"), BrokerError("broken")])
async def test_a_transaction_that_fails_starts_over(broker: MemoryBroker, store: MemoryStore, error: Exception) -> None:
    """Nothing was published or settled, and everything is taken anew."""
    left = 2
    settle = MemorySubscription.publish_and_settle

    async def fails(self: MemorySubscription, envelopes: Any, done: Any) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise error
        await settle(self, envelopes, done)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemorySubscription, "publish_and_settle", fails)
        app = failing_shop(broker, store, set())
        async with running(app):
            await app.publish_many([Paid(f"o-{n}", n) for n in range(5)])
            await until(lambda: len(shipped(broker)) == 5)

    assert shipped(broker) == [(f"o-{n}", n) for n in range(5)]
    assert left < 0


async def test_a_duplicate_by_the_producer_is_handled_again(broker: MemoryBroker, store: MemoryStore) -> None:
    """There is no inbox: two events are two, whatever their ids say; what they publish has the same id."""
    app = failing_shop(broker, store, set())

    async with running(app):
        await app.publish(Paid("a", 1), id="same")
        await app.publish(Paid("a", 1), id="same")
        await until(lambda: len(shipped(broker)) == 2)

        assert len({d.envelope.id for d in broker.history() if d.envelope and d.envelope.type == "order.shipped"}) == 1


# Moving it


async def reset(app: App, position: int, number: int) -> None:
    """Have an operator move the group."""
    operation = Operation(
        id=f"op-{number}", kind="reset", group="shop.ship", by="ana", reason="a test", at=app.clock.micros(),
        positions=((PLACE.topic, PLACE.number, position),),
    )  # fmt: skip
    await app.broker.broadcast(sign(operation, None))


@pytest.mark.parametrize("crashes", [False, True])
async def test_an_operator_moves_it_back_while_it_runs(broker: MemoryBroker, store: MemoryStore, *, crashes: bool) -> None:
    """First the broker's position moves and then the store's, even behind what was parked; done again after a crash, it is the same."""
    failing = {1}
    app = failing_shop(broker, store, failing)
    app.configure(broker=broker, store=store, facts="on")
    rewind = store.rewind

    async def dies(*_: Any, **__: Any) -> None:
        store.rewind = rewind  # type: ignore[method-assign]
        raise StoreError("it died here")

    stop = asyncio.Event()
    async with asyncio.timeout(20), app, asyncio.TaskGroup() as tasks:
        tasks.create_task(app.run(stop, grace=1))
        await app.publish_many([Paid("a", 0), Paid("b", 1), Paid("c", 2)])
        await until(lambda: len(shipped(broker)) == 2 and len(store.tables.parked) == 1)
        (dead,) = store.tables.parked
        await store.request("discard", [dead], "not wanted")
        await until(lambda: not store.tables.parked)
        failing.clear()
        if crashes:
            store.rewind = dies  # type: ignore[method-assign]
            await reset(app, 0, 1)
            await until(lambda: store.rewind == rewind)
        await reset(app, 0, 2)
        await until(lambda: shipped(broker)[-3:] == [("a", 0), ("b", 1), ("c", 2)])
        await reset(app, 2, 3)
        await until(lambda: shipped(broker)[-2:] == [("c", 2), ("c", 2)])
        stop.set()

        assert await committed(broker) == 3


async def test_a_stopped_group_is_replayed(broker: MemoryBroker, store: MemoryStore) -> None:
    """`millstream replay` moves both positions."""
    async with running(failing_shop(broker, store, {1})) as worker:
        await publishing(broker, worker)
    async with store:
        await replay(broker, store, await plan_replay(broker, "shop.ship", Target(kind="earliest")), effects=False)
    async with running(failing_shop(broker, store, set())):
        await until(lambda: len(shipped(broker)) == 4)

    assert shipped(broker) == [("a", 0), ("c", 2), ("a", 0), ("c", 2)]


async def publishing(broker: MemoryBroker, worker: ExactlyOnceWorker) -> None:
    """Have three handled, of which one fails."""
    app = App("till")
    await broker.publish([app.envelope_of(m) for m in (Paid("a", 0), Paid("b", 1), Paid("c", 2))])
    await until(lambda: len(shipped(broker)) == 2)
    await worker.quiet()


async def test_the_option_can_be_taken_away_and_given_back(broker: MemoryBroker, store: MemoryStore) -> None:
    """Who leaves tells the store where the group stands: an ordinary handler goes on there, and back again."""

    def make(*, exactly_once: bool) -> App:
        app = shop(broker, store)

        @app.subscriber(group="g", exactly_once=exactly_once)
        async def ship(paid: Paid) -> Shipped:
            return Shipped(paid.order_id, paid.number)

        return app

    for number, exactly_once in enumerate((False, True, True, False, True)):
        stop = asyncio.Event()
        async with asyncio.timeout(10), make(exactly_once=exactly_once) as app, asyncio.TaskGroup() as tasks:
            tasks.create_task(app.run(stop, grace=1))
            await app.publish_many([Paid("a", 2 * number), Paid("b", 2 * number + 1)])
            await until(lambda number=number: len(shipped(broker)) >= 2 * number + 2)
            stop.set()

    assert [number for _, number in shipped(broker)] == list(range(10))


async def test_in_a_test_app_the_attempts_follow_one_another() -> None:
    """Where time stands still, there is nothing to wait for."""
    app = App("shop")

    @app.subscriber(exactly_once=True, retry=Retry(attempts=3))
    async def ship(paid: Paid, context: Context) -> Shipped:
        if paid.number or context.attempt < 2:
            raise ValueError("no")
        return Shipped(paid.order_id)

    async with TestApp(app) as test:
        await test.publish(Paid("a"), Paid("b", 1))

        assert test.published(Shipped) == [Shipped("a")]
        assert [outcome.attempt for outcome in test.outcomes if outcome.kind == "retry"] == [1, 1, 2]
        (dead,) = test.dead_letters
        assert dead.attempts == 3
