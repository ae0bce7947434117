"""What is counted as a crash is a crash: nothing that a living worker goes through is."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from millstream import App, Context, Retry, Topic, event
from millstream.app import worker
from millstream.app.system_clock import SystemClock
from millstream.app.worker import GroupWorker
from millstream.contracts.errors import StoreError
from millstream.core.broker import Partition
from millstream.core.store import Page


@event("asked", key="name")
@dataclass(frozen=True)
class Asked:
    """Somebody wants something."""

    name: str


PARTITION = Partition("asked", 0)


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    """Make a service with one partition, that starts over without waiting long."""
    monkeypatch.setattr(worker, "BACK_OFF", (0.001, 0.002))
    return App("desk", broker=f"sqlite:///{tmp_path}/b.db", topics=[Topic(name="asked", partitions=1)])


async def run_until(app: App, reached: Callable[[GroupWorker], bool]) -> None:
    """Have the app's worker work until something is so."""
    stop = asyncio.Event()
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        (member,) = app.workers()
        tasks.create_task(member.run(stop, grace=1))
        while not reached(member):
            await SystemClock().sleep(0)
        stop.set()


async def test_a_store_that_fails_while_a_delivery_is_in_hand_is_no_crash(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the worker has to start over: the delivery is innocent, and is handled in the end."""
    runs, failures = list[str](), [StoreError("the disk reported an error")] * 6

    @app.subscriber(Asked)
    async def answer(asked: Asked) -> None:
        runs.append(asked.name)

    async with app:
        commit = app.store.commit

        async def failing(page: Page) -> None:
            if page.positions and failures:
                raise failures.pop()
            await commit(page)

        monkeypatch.setattr(app.store, "commit", failing)
        await app.publish(Asked("a"))
        await run_until(app, lambda member: len(runs) == 7 and not member.owned[PARTITION].in_flight)

        assert await app.store.parked() == []
        assert await app.store.suspects("desk.answer", PARTITION) == {}
    assert runs == ["a"] * 7


@pytest.mark.parametrize(("name", "waits_at"), [("early", 3), ("late", 2)])
async def test_what_fails_after_a_crash_holds_up_nobody_when_it_is_tried_again(app: App, name: str, waits_at: int) -> None:
    """Only what may have been in hand at the crash runs alone, and once: other keys flow on beside the later attempts."""
    handled, begun, waits, go_on = list[str](), asyncio.Event(), asyncio.Event(), asyncio.Event()

    @app.subscriber(Asked, retry=Retry(first=0))
    async def answer(asked: Asked, context: Context) -> None:
        begun.set()
        if asked.name == name and context.attempt < waits_at:
            raise ValueError("not yet")
        if asked.name == name:
            waits.set()
            await go_on.wait()
        handled.append(asked.name)

    async def interfere() -> None:
        await begun.wait()
        await app.publish(Asked("late"))
        await waits.wait()
        await app.publish(Asked("other"))

    def done(_: GroupWorker) -> bool:
        if "other" in handled:
            go_on.set()
        return name in handled

    async with app, asyncio.TaskGroup() as tasks:
        await app.publish(Asked("early"))
        await app.store.assign("desk.answer", [PARTITION])  # by somebody who says no good-bye
        tasks.create_task(interfere())
        await run_until(app, done)

    assert handled.index("other") < handled.index(name)


async def test_a_worker_that_runs_suspects_alone_stops_when_it_is_asked_to(app: App) -> None:
    """The one in hand has its grace to end, and no other is begun."""
    begun, stop, inside = list[str](), asyncio.Event(), asyncio.Event()

    @app.subscriber(Asked)
    async def answer(asked: Asked) -> None:
        begun.append(asked.name)
        inside.set()
        await asyncio.Event().wait()

    async with app, asyncio.timeout(10):
        await app.publish_many([Asked(f"suspect {number}") for number in range(5)])
        await app.store.assign("desk.answer", [PARTITION])  # by somebody who says no good-bye
        (member,) = app.workers()
        running = asyncio.create_task(member.run(stop, grace=0.1))
        await inside.wait()
        stop.set()
        await running

    assert begun == ["suspect 0"]
