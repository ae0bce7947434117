"""What one delivery does with its interruption means nothing to those that come after it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from millstream import App, Retry, Transaction, event
from millstream.core.store import Parked


@event("asked", key="name")
@dataclass(frozen=True)
class Asked:
    """Somebody wants something."""

    name: str
    number: int


@pytest.fixture
def app(tmp_path: Path) -> App:
    """Make a service in one file."""
    return App("desk", broker=f"sqlite:///{tmp_path}/b.db")


async def dead_letters(app: App, count: int) -> list[Parked]:
    """Run the app until there are so many."""
    stop, changed = asyncio.Event(), asyncio.Event()
    app.store.on_change(changed.set)
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(app.run(stop))
        while len(dead := list(await app.store.parked(dead=True))) < count:
            changed.clear()
            await changed.wait()
        stop.set()
    return dead


async def stubborn(asked: Asked) -> None:
    """Ignore being interrupted three times; whoever comes later gives up by itself."""
    if asked.number:
        raise asyncio.CancelledError
    for _ in range(3):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue
    raise ValueError("at last")


def alone(app: App) -> None:
    """Handle with nothing else."""

    @app.subscriber(Asked, concurrency=1, timeout=0.05, retry=Retry(attempts=1), ordered=False)
    async def answer(asked: Asked) -> None:
        await stubborn(asked)


def with_transaction(app: App) -> None:
    """Handle with a Transaction."""

    @app.subscriber(Asked, concurrency=1, timeout=0.05, retry=Retry(attempts=1), ordered=False)
    async def answer(asked: Asked, _tx: Transaction) -> None:
        await stubborn(asked)


def one_at_a_time(app: App) -> None:
    """Handle in batches of one."""

    @app.subscriber(Asked, concurrency=1, timeout=0.05, retry=Retry(attempts=1), ordered=False, batch=1)
    async def answer(asked: list[Asked]) -> None:
        await stubborn(asked[0])


@pytest.mark.parametrize("handled", [alone, with_transaction, one_at_a_time])
async def test_a_handler_that_ignores_its_interruptions_leaves_none_to_the_next(app: App, handled: Callable[[App], None]) -> None:
    """Each of them fails for its own reason, and none is stuck."""
    handled(app)
    async with app:
        await app.publish_many([Asked("same", number) for number in range(3)])
        dead = await dead_letters(app, 3)

    assert [letter.error.partition(":")[0] for letter in dead] == ["ValueError", "CancelledError", "CancelledError"]
