"""A clock that a test moves."""

import asyncio

import pytest

from millstream.core.clock import Clock
from millstream.testing import ManualClock


async def test_time_stands_still_until_it_is_moved() -> None:
    """Both times move by exactly what was asked, and not by themselves."""
    clock: Clock = ManualClock(micros=1_000_000)
    manual = ManualClock(micros=1_000_000)

    await manual.advance(1.5)

    assert (clock.micros(), clock.monotonic()) == (1_000_000, 0.0)
    assert (manual.micros(), manual.monotonic()) == (2_500_000, 1.5)


async def test_sleepers_wake_in_order_at_exactly_their_time() -> None:
    """Who sleeps shorter wakes first, whatever the order in which they went to sleep; each sees its own time."""
    clock, woken = ManualClock(), list[tuple[str, float]]()

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((name, clock.monotonic()))

    async with asyncio.TaskGroup() as tasks:
        for name, seconds in (("long", 30.0), ("short", 10.0), ("same as long", 30.0), ("never mind", 0.0)):
            tasks.create_task(sleeper(name, seconds))
        await clock.advance(60)

    assert woken == [("never mind", 0.0), ("short", 10.0), ("long", 30.0), ("same as long", 30.0)]


async def test_a_loop_that_sleeps_runs_as_often_as_there_is_time() -> None:
    """What a woken sleeper starts is counted from when it woke: sixty minutes have sixty turns of a minute each."""
    clock, turns = ManualClock(), list[float]()

    async def every_minute() -> None:
        while len(turns) < 60:
            await clock.sleep(60)
            turns.append(clock.monotonic())

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(every_minute())
        await clock.advance(3600)

    assert turns == [60.0 * n for n in range(1, 61)]


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    """It is neither woken nor counted."""
    clock = ManualClock()
    sleeping = asyncio.ensure_future(clock.sleep(10))
    await asyncio.sleep(0)
    assert clock.next_wake == 10.0

    sleeping.cancel()
    await clock.advance(20)

    assert sleeping.cancelled()
    assert clock.next_wake is None


async def test_the_wall_clock_may_step_and_monotonic_time_does_not() -> None:
    """An hour back on the wall changes nothing for those who sleep."""
    clock = ManualClock(micros=10_000_000_000)

    clock.step(-3600)

    assert (clock.micros(), clock.monotonic()) == (6_400_000_000, 0.0)


async def test_time_never_goes_back() -> None:
    """Advancing by less than nothing is refused, and says what to do."""
    with pytest.raises(ValueError, match=r"step\(\)"):
        await ManualClock().advance(-1)
