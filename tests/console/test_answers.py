"""What a screen is told is of one piece, though facts are folded in between any two looks at the tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.console.test_projection import NOW, Model, a_model, deliveries, delivery, waits

from millstream.app.system_clock import SystemClock
from millstream.brokers.memory import MemoryBroker
from millstream.console.answers import Answers
from millstream.console.read_model import ReadModel
from millstream.console.watch import Watch
from millstream.core.facts import HandlerFact, Manifest, Publications, PublishedFact

RESERVED = PublishedFact("e-2", "/inventory", "stock.reserved", "stock.reserved", None, NOW, 1, "e-1", "e-1")


class Interrupted:
    """Tables that are told of a handled delivery after so many looks."""

    def __init__(self, model: Model, looks: int) -> None:
        self._model = model
        self.left = looks

    async def read(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        rows = await self._model.store.read(sql, params)
        self.left -= 1
        if self.left == 0:
            await self._model.told(deliveries(delivery("e-1", published=(RESERVED,))))
        return rows


@pytest.mark.parametrize("looks", range(1, 25))
async def test_no_trace_says_finished_without_what_the_last_attempt_published(tmp_path: Path, looks: int) -> None:
    """Whichever look it is after which the fact comes in."""
    async with a_model(tmp_path) as model, MemoryBroker() as broker:
        await model.told(Publications("orders", "p-2", NOW, 1, 1, (_created(),)))
        answers = Answers(ReadModel(Interrupted(model, looks)), Watch(broker, SystemClock()), broker)

        trace = await answers.trace("e-1")

        assert trace is not None
        assert len(trace["events"]) == 2 or "finished" not in trace["sentence"]


@pytest.mark.parametrize("looks", range(1, 25))
async def test_a_letter_that_is_redriven_meanwhile_is_dead_or_handled(tmp_path: Path, looks: int) -> None:
    """Of its first attempts nothing is known any more: without the letter, and without the last, it would seem never to have been tried."""
    async with a_model(tmp_path) as model, MemoryBroker() as broker:
        await model.told(Publications("orders", "p-2", NOW, 1, 1, (_created(),)), deliveries(parked=(waits("e-1"),)))
        await model.told(_declared())
        answers = Answers(ReadModel(Interrupted(model, looks)), Watch(broker, SystemClock()), broker)

        event = await answers.event("e-1")

        (fate,) = event["deliveries"]
        kinds = [attempt["kind"] for attempt in fate["attempts"]]
        assert (fate["state"], kinds) in (("dead", []), ("dead", ["handled"]), ("handled", ["handled"]))


def _created() -> PublishedFact:
    return PublishedFact("e-1", "/orders", "order.created", "order.created", "o-1", NOW, 1)


def _declared() -> Manifest:
    """What the service says that its group takes."""
    handler = HandlerFact(
        name="reserve", group="g", summary="", location="", types=("order.created",), topics=("order.created",), publishes=(),
        delivery="at_least_once", ordered=True, concurrency=1, timeout=1.0, attempts=1,
    )  # fmt: skip
    return Manifest("inventory", "p-1", NOW, NOW, "host", 1, "1", "b", "s", (handler,), ())
