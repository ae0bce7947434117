"""What is parked is taken up once each time, whatever happens while others of its kind are taken up."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from millstream import App, Context, Retry, event
from millstream.app.waiting_room import LOOK, WaitingRoom
from millstream.app.work import Owned, Work
from millstream.core.broker import Delivery, Partition
from millstream.core.store import Parked

CALM, SUSPECT = Partition("made", 0), Partition("made", 1)


class Worker:
    """A worker with one delivery in flight, which settles while it waits for quiet."""

    def __init__(self, in_flight: Parked) -> None:
        self.stopping = False
        self.alone = asyncio.Lock()
        self.committing = asyncio.Lock()
        self.owned = {partition: Owned(partition, 1) for partition in (CALM, SUSPECT)}
        self.owned[SUSPECT].suspect_upto = 100
        for owned in self.owned.values():
            owned.block("any")
        self.owned[CALM].retrying.add(in_flight.id)

    def room(self) -> int:
        return 100

    def taken_up(self, owned: Owned) -> None: ...

    def finished(self, work: Work) -> None: ...

    async def quiet(self) -> None:
        self.owned[CALM].retrying.clear()

    async def note_attempt(self, owned: Owned, position: int, count: int) -> None: ...


def parked(id_: int, partition: Partition) -> Parked:
    """Make a parked delivery."""
    return Parked(id=id_, group="g", partition=partition, position=id_, sequence=f"k{id_}", envelope=None, state="retry")


async def test_what_was_in_flight_when_it_was_read_as_parked_is_not_taken_up_again() -> None:
    """One of another partition runs alone after a crash; the wait for quiet settles what was in flight, and that is all."""
    in_flight, suspect = parked(1, CALM), parked(2, SUSPECT)
    started: list[int] = []

    async def heads(*_: Any) -> list[Parked]:
        return [suspect, in_flight]

    async def next_due(*_: Any) -> None: ...

    def again(row: Parked, owned: Owned) -> Work:
        work = Work(Delivery(row.partition, row.position, None), None, owned, None, row.sequence)
        work.parked = row
        return work

    def put(works: list[Work]) -> None:
        started.extend(work.parked.id for work in works if work.parked is not None)

    parts: dict[str, Any] = {
        "store": SimpleNamespace(heads=heads, next_due=next_due),
        "clock": SimpleNamespace(micros=lambda: 0, monotonic=lambda: 0.0),
        "triage": SimpleNamespace(again=again),
        "judge": None,
        "lanes": SimpleNamespace(put=put),
        "observers": None,
    }
    room = WaitingRoom("g", Worker(in_flight), **parts)

    assert await room.retry()

    assert started == [suspect.id]


@event("step.taken", key="key")
@dataclass(frozen=True)
class StepTaken:
    """One of many of a key."""

    key: str
    number: int


async def test_what_waited_behind_a_failure_follows_without_pauses(tmp_path: Path) -> None:
    """Fifty events of a key were queued behind one that failed; once it succeeds they do not wait for one look each."""
    app = App("steps", broker=f"sqlite:///{tmp_path}/b.db", store=f"sqlite:///{tmp_path}/s.db")
    seen, times, stop = list[int](), list[float](), asyncio.Event()

    @app.subscriber(StepTaken, retry=Retry(first=0.01))
    async def walk(step: StepTaken, context: Context) -> None:
        if step.number == 0 and context.attempt == 1:
            raise ValueError("not yet")
        seen.append(step.number)
        times.append(app.clock.monotonic())
        if len(seen) == 50:
            stop.set()

    async with app:
        await app.publish_many([StepTaken("k", number) for number in range(50)])
        await app.run(stop)

    assert seen == list(range(50))
    assert times[-1] - times[0] < 50 * LOOK / 2
