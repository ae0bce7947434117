"""However large the events are, a worker holds no more of them than fits."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from millstream import App, Topic, event
from millstream.app import worker
from millstream.brokers import sqlite_log
from millstream.core.broker import Delivery
from millstream.core.observe import Outcomes


@event("scanned", key="page")
@dataclass(frozen=True)
class Scanned:
    """A page as large as a page of a book is when it is scanned."""

    page: str
    image: str


class Taken:
    """How much was taken up."""

    def __init__(self) -> None:
        self.count = self.bytes = 0

    def started(self, group: str, deliveries: Sequence[Delivery]) -> None:
        self.count += len(deliveries)
        self.bytes += sum(len(each.envelope.data) for each in deliveries if each.envelope)

    def settled(self, outcomes: Outcomes) -> None: ...


async def test_large_events_are_taken_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the first are being handled the others wait in the log, and all of them are handled in the end."""
    monkeypatch.setattr(worker, "MOST_BYTES", 1_000_000)
    monkeypatch.setattr(sqlite_log, "READ_BYTES", 200_000)
    taken, go_on, stop, handled = Taken(), asyncio.Event(), asyncio.Event(), list[str]()
    app = App("reader", broker=f"sqlite:///{tmp_path}/b.db", topics=[Topic(name="scanned", partitions=4)], observers=[taken])

    @app.subscriber(Scanned)
    async def read(scanned: Scanned) -> None:
        await go_on.wait()
        handled.append(scanned.page)

    async with app, asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        await app.publish_many([Scanned(str(number), "x" * 20_000) for number in range(400)])
        (member,) = app.workers()
        tasks.create_task(member.run(stop, grace=1))
        while not taken.count or (member.room() > 0 and taken.count < 400):
            await app.clock.sleep(0)
        in_hand = taken.bytes
        go_on.set()
        while len(handled) < 400:
            await app.clock.sleep(0)
        stop.set()

    assert 800_000 < in_hand < 1_500_000
