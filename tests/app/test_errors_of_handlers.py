"""Whatever a handler raises becomes a dead letter that can be kept and read."""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.app.test_crash_counting import run_until

from millstream import App, Retry, event
from millstream.app.worker import GroupWorker
from millstream.contracts.errors import StoreFullError


@event("asked", key="name")
@dataclass(frozen=True)
class Asked:
    """Somebody wants something."""

    name: str


class SilentError(Exception):
    """One that cannot say what it is."""

    def __str__(self) -> str:
        raise ZeroDivisionError


def of_a_file_whose_name_is_no_text() -> Exception:
    """What somebody says of such a file, by the name that the operating system gave."""
    return ValueError("cannot read " + b"report-\xff".decode("utf-8", "surrogateescape"))


def of_megabytes() -> Exception:
    """What some validators say of a large body."""
    return ValueError("x" * 10_000_000)


@pytest.mark.parametrize(
    ("raised", "starts"),
    [
        (of_a_file_whose_name_is_no_text, "ValueError: cannot read report-\\udcff"),
        (SilentError, "SilentError: "),
        (of_megabytes, "ValueError: xxx"),
    ],
)
async def test_an_error_whose_text_cannot_be_kept_is_kept_as_well_as_can_be(
    tmp_path: Path, raised: Callable[[], Exception], starts: str
) -> None:
    """It ends neither the worker nor its group, and costs no more than any other."""
    app, handled = App("desk", broker=f"sqlite:///{tmp_path}/b.db"), list[str]()

    @app.subscriber(Asked, retry=Retry(attempts=1))
    async def answer(asked: Asked) -> None:
        if asked.name == "poison":
            raise raised()
        handled.append(asked.name)

    def done(member: GroupWorker) -> bool:
        return handled == ["other"] and not any(owned.in_flight for owned in member.owned.values())

    async with app:
        await app.publish_many([Asked("poison"), Asked("other")])
        await run_until(app, done)

        (dead,) = await app.store.parked(dead=True)
    assert dead.error.startswith(starts)
    assert len(dead.error) + len(dead.stack) < 20_000


async def test_a_filter_that_wants_to_end_the_process_costs_its_event_only(tmp_path: Path) -> None:
    """Whatever it raises is said in the dead letter, and others are handled."""
    app, handled = App("desk", broker=f"sqlite:///{tmp_path}/b.db"), list[str]()

    @app.subscriber(Asked, where=lambda asked: asked.name != "poison" or sys.exit("no"))
    async def answer(asked: Asked) -> None:
        handled.append(asked.name)

    async with app:
        await app.publish_many([Asked("poison"), Asked("other")])
        await run_until(app, lambda member: handled == ["other"] and not any(owned.in_flight for owned in member.owned.values()))

        (dead,) = await app.store.parked(dead=True)
    assert dead.reason == "where= failed: SystemExit: no"


@pytest.mark.parametrize("is_async", [True, False])
async def test_another_store_that_fails_a_handler_is_a_failure_like_any_other(tmp_path: Path, is_async: bool) -> None:  # noqa: FBT001
    """Only the worker's own store is waited for: what somebody else's is full of must not hold up every key."""
    app, handled = App("desk", broker=f"sqlite:///{tmp_path}/b.db"), list[str]()

    def serve(asked: Asked) -> None:
        if asked.name == "poison":
            raise StoreFullError("the disk of another service is full")
        handled.append(asked.name)

    if is_async:

        @app.subscriber(Asked, retry=Retry(attempts=2, first=0))
        async def answer(asked: Asked) -> None:
            serve(asked)
    else:
        app.subscriber(Asked, retry=Retry(attempts=2, first=0))(serve)

    async with app:
        await app.publish_many([Asked("poison"), Asked("other")])
        stop = asyncio.Event()
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            (member,) = app.workers()
            tasks.create_task(member.run(stop, grace=1))
            while not (dead := await app.store.parked(dead=True)):
                await app.clock.sleep(0.005)
            stop.set()

    assert [(letter.attempts, letter.error) for letter in dead] == [(2, "StoreFullError: the disk of another service is full")]
    assert handled == ["other"]
