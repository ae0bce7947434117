"""What operators ask for is done once, whatever they ask twice and whatever state the delivery is in."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from millstream import App, Retry, event


@event("order.changed", key="order_id")
@dataclass(frozen=True)
class OrderChanged:
    """An order is another than before."""

    order_id: str
    number: int


@pytest.fixture
def app(tmp_path: Path) -> App:
    """Make a service in one file."""
    return App("shop", broker=f"sqlite:///{tmp_path}/b.db")


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


async def test_a_delivery_that_is_discarded_twice_leaves_once(app: App) -> None:
    """What waits behind it is still counted, so that nothing that comes later passes it."""
    handled = list[int]()
    begun, go_on = asyncio.Event(), asyncio.Event()

    @app.subscriber(OrderChanged, retry=Retry(attempts=1))
    async def apply(order: OrderChanged) -> None:
        if order.number == 0:
            raise ValueError("broken")
        if order.number == 1:
            begun.set()
            await go_on.wait()
        handled.append(order.number)

    async with app:
        await app.publish_many([OrderChanged("o", number) for number in range(3)])

        async def all_parked() -> bool:
            return [parked.state for parked in await app.store.parked()] == ["dead", "queued", "queued"]

        await until(app, all_parked)
        (dead,) = await app.store.parked(dead=True)
        await app.store.request("discard", [dead.id], "by one")
        await app.store.request("discard", [dead.id], "by another")

        async def later_comes() -> bool:
            if begun.is_set() and not go_on.is_set():
                await app.publish(OrderChanged("o", 3))
                go_on.set()
            return len(handled) == 3

        await until(app, later_comes)
        assert await app.store.parked() == []

    assert handled == [1, 2, 3]


async def test_what_waits_for_its_next_attempt_can_be_repaired_too(app: App) -> None:
    """With the new body it is tried when it is due, and not with the old one."""
    handled = list[int]()

    @app.subscriber(OrderChanged, retry=Retry(attempts=5, first=0.3, longest=0.3))
    async def apply(order: OrderChanged) -> None:
        if order.number == 0:
            raise ValueError("broken")
        handled.append(order.number)

    async with app:
        await app.publish(OrderChanged("o", 0))

        async def parked() -> bool:
            return [parked.state for parked in await app.store.parked()] == ["retry"]

        await until(app, parked)
        (waiting,) = await app.store.parked()
        await app.store.request("repair", [waiting.id], "a number", b'{"order_id": "o", "number": 7}')

        async def done() -> bool:
            return await app.store.parked() == []

        await until(app, done)

    assert handled == [7]


async def test_a_group_that_has_parked_too_much_still_tries_what_it_has_parked(app: App) -> None:
    """At the limit it takes nothing new; retries that are due and redriven letters are what brings it below again."""
    handled = list[int]()
    repaired = asyncio.Event()

    @app.subscriber(OrderChanged, retry=Retry(attempts=1), most_parked=2)
    async def apply(order: OrderChanged) -> None:
        if not repaired.is_set():
            raise ValueError("broken")
        handled.append(order.number)

    async with app:
        await app.publish_many([OrderChanged(f"o-{number}", number) for number in range(2)])

        async def full() -> bool:
            return any("most_parked" in trouble for trouble in app.troubles())

        await until(app, full)
        repaired.set()
        await app.store.request("redrive", [parked.id for parked in await app.store.parked(dead=True)], "repaired")
        await app.publish(OrderChanged("o-2", 2))

        async def done() -> bool:
            return len(handled) == 3

        await until(app, done)

    assert sorted(handled[:2]) == [0, 1]
    assert handled[2] == 2
