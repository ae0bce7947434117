"""Folding facts into the read model: exact where facts are sampled, right where they overtake each other, and bounded."""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from millstream.console import projection
from millstream.console.filter import parse
from millstream.console.projection import Rows
from millstream.console.read_model import ReadModel
from millstream.console.schema import KEEP, KEEP_DISCARDED, SCHEMA, STEPS
from millstream.core.facts import Deliveries, DeliveryFact, Fact, Heartbeat, ParkedFact, Publications, PublishedFact, Waiting
from millstream.core.observe import Kind
from millstream.stores.sqlite import SqliteStore
from millstream.stores.sqlite_file import SqliteFile

NOW = time.time_ns() // 1000
SECOND = 1_000_000


class Model:
    """A read model that facts are told to."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.asks = ReadModel(store)

    async def told(self, *facts: Fact, most_events: int = 1 << 40) -> None:
        """Fold these in, as one batch."""
        async with self.store.transaction() as tx:
            Rows(facts).write(tx, most_events=most_events)

    async def count(self, table: str) -> int:
        """How many rows a table has."""
        return (await self.store.read(f"select count(*) from {table}"))[0][0]


@asynccontextmanager
async def a_model(folder: Path) -> AsyncGenerator[Model]:
    """An empty one."""
    async with SqliteStore(SqliteFile(folder / "console.db")) as store:
        await store.script(SCHEMA)
        yield Model(store)


def delivery(id_: str, kind: Kind = "handled", *, at: int = NOW, **more: Any) -> DeliveryFact:
    """What became of the event of this id."""
    place = {"handler": "reserve", "topic": "order.created", "partition": 0, "position": 7, "source": "/orders", "type": "order.created"}
    rest = {"key": "o-1", "time": at - 1000, "correlation": None, "causation": None, "by": None, "version": 1, "attempt": 1}
    return DeliveryFact(kind=kind, id=id_, at=at, waited=0.5, worked=0.25, **{**place, **rest, **more})


def deliveries(
    *told: DeliveryFact, counts: dict[Kind, int] | None = None, parked: tuple[ParkedFact, ...] = (), at: int = NOW
) -> Deliveries:
    """What a worker of the group says."""
    kinds: list[Kind] = [each.kind for each in told]
    counted = counts or {kind: kinds.count(kind) for kind in kinds}
    return Deliveries("inventory", "p-1", at, "g", tuple(("reserve", kind, n) for kind, n in counted.items()), 1, told, parked)


def waits(id_: str, state: Any = "dead", **more: Any) -> ParkedFact:
    """What is kept of a delivery that waits."""
    rest = {"attempts": 1, "due": 0, "first_failure": NOW, "last_failure": NOW, "error": "ValueError: no", "reason": "", "stack": ""}
    return ParkedFact(
        group="g", handler="reserve", topic="order.created", partition=0, position=7, id=id_, source="/orders", type="order.created",
        key="o-1", time=NOW, version=1, correlation=None, state=state, data=b"{}", size=2, **{**rest, **more},
    )  # fmt: skip


async def test_flows_are_exact_where_only_some_deliveries_are_told(tmp_path: Path) -> None:
    """What was told one by one stands for the others, in every step of time."""
    async with a_model(tmp_path) as model:
        event = PublishedFact("e-1", "/inventory", "stock.reserved", "stock.reserved", None, NOW, 1)
        told = [delivery(f"c-{n}", published=(event,) if n == 0 else ()) for n in range(4)]
        await model.told(deliveries(*told, counts={"handled": 100}))

        for window in (60, 600, 3600, 20 * 3600):
            flows = await model.asks.flows(window, until=NOW // SECOND)
            found = {(flow["from"], flow["to"], flow["kind"]): (flow["count"], flow["told"]) for flow in flows.rows}
            assert found == {
                ("event:order.created", "group:g", "handled"): (100, 4),
                ("group:g", "event:stock.reserved", "published"): (25, 1),
            }


async def test_what_is_only_counted_is_not_lost(tmp_path: Path) -> None:
    """Without any example nobody can say of which type they were, but there they are."""
    async with a_model(tmp_path) as model:
        await model.told(deliveries(counts={"handled": 9}), Publications("shop", "p-2", NOW, 5, 1, ()))

        (flow,) = (await model.asks.flows(60, until=NOW // SECOND)).rows
        assert (flow["from"], flow["to"], flow["count"]) == ("", "group:g", 9)


async def test_flows_are_added_up_and_then_forgotten_step_by_step(tmp_path: Path) -> None:
    """Seconds go after an hour, minutes after a day."""
    async with a_model(tmp_path) as model:
        await model.told(deliveries(delivery("a")))

        for later, left in ((STEPS[1], {1, 10, 60, 900}), (STEPS[1] + 10, {10, 60, 900}), (STEPS[60] + 60, {900})):
            await model.told(Heartbeat("inventory", "p-1", NOW + later * SECOND))
            assert {step for (step,) in await model.store.read("select distinct step from flow")} == left
            assert {step for (step,) in await model.store.read("select distinct step from total")} == left


async def test_a_delivery_that_was_handled_waits_no_longer(tmp_path: Path) -> None:
    """Whether both facts come in one batch or not."""
    async with a_model(tmp_path) as model:
        await model.told(deliveries(delivery("a", "parked"), parked=(waits("a"),)))
        before = await model.asks.letters.counts()
        await model.told(deliveries(delivery("a", at=NOW + 1)))
        await model.told(deliveries(delivery("b", "parked"), parked=(waits("b"),)), deliveries(delivery("b", at=NOW + 1)))

        assert before == {"g": {"dead": 1}}
        assert await model.asks.letters.counts() == {}
        assert await model.count("letter") == 0


async def test_facts_that_come_late_do_not_raise_the_dead(tmp_path: Path) -> None:
    """Two processes tell of one delivery, and the older fact arrives last."""
    async with a_model(tmp_path) as model:
        await model.told(deliveries(delivery("a", at=NOW + 5)))
        await model.told(deliveries(delivery("a", "retry", at=NOW), parked=(waits("a", "retry"),)))
        await model.told(deliveries(delivery("b", "parked", at=NOW + 5), parked=(waits("b", "dead"),)))
        await model.told(deliveries(delivery("b", "retry", at=NOW), parked=(waits("b", "retry"),)))

        assert await model.asks.letters.counts() == {"g": {"dead": 1}}


async def test_what_waits_can_be_told_anew_as_a_whole(tmp_path: Path) -> None:
    """What is not among it waits no longer; what was parked since then stays."""
    async with a_model(tmp_path) as model:
        await model.told(deliveries(delivery("old", "parked"), parked=(waits("old"),)))
        await model.told(deliveries(delivery("new", "parked", at=NOW + 100), parked=(waits("new"),), at=NOW + 100))
        await model.told(Waiting("inventory", "p-1", NOW + 50, "g", NOW + 50, (waits("kept"),), last=False))
        parts = [letter["id"] for letter in await model.asks.letters.listed()]
        await model.told(Waiting("inventory", "p-1", NOW + 60, "g", NOW + 50, (), last=True))

        assert sorted(parts) == ["kept", "new", "old"]
        assert sorted(letter["id"] for letter in await model.asks.letters.listed()) == ["kept", "new"]


async def test_what_was_discarded_is_kept_for_a_while(tmp_path: Path) -> None:
    """It is not among the dead, can be listed, and goes with its body in the end."""
    async with a_model(tmp_path) as model:
        await model.told(deliveries(delivery("a", "parked"), parked=(waits("a"),)))
        await model.told(deliveries(delivery("a", "discarded", at=NOW + 1, error="it is a test")))
        (row,) = await model.asks.letters.listed(state="discarded")
        dead = await model.asks.letters.groups()
        await model.told(Heartbeat("inventory", "p-1", NOW + int(KEEP_DISCARDED + 1) * SECOND))

        assert (row["id"], row["reason"], dead) == ("a", "it is a test", [])
        assert await model.count("parked") == await model.count("letter") == 0


async def test_no_more_events_are_kept_than_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go first, with all that was tried with them, and every question is still answered."""
    monkeypatch.setattr(projection, "SWEEP", 10)
    async with a_model(tmp_path) as model:
        for n in range(30):
            await model.told(deliveries(*(delivery(f"{n}-{i}") for i in range(10))), most_events=50)

        page = await model.asks.events.page(parse(""), limit=500)
        assert len(page["events"]) == page["total"] == 50
        assert page["events"][0]["id"] == "29-9"
        assert page["events"][-1]["id"] == "25-0"
        assert await model.count("attempt") == 50
        assert await model.asks.events.trace("0-0") is None


async def test_a_process_says_which_of_its_events_nobody_reads(tmp_path: Path) -> None:
    """As of its last heartbeat."""
    async with a_model(tmp_path) as model:
        for beat in range(2):
            await model.told(Heartbeat("inventory", "p-1", NOW + beat, troubles=("t",), unread=(("order.audited", beat + 6),)))

        (process,) = await model.asks.processes()
        assert (process["unread"], process["troubles"]) == ([["order.audited", 7]], ["t"])


async def test_events_that_are_too_old_go(tmp_path: Path) -> None:
    """By when they were heard of: an old event that is replayed stays as long as any."""
    async with a_model(tmp_path) as model:
        await model.told(deliveries(*(delivery(f"old-{n}", at=NOW - int(KEEP + 9) * SECOND) for n in range(5))))
        await model.told(deliveries(delivery("replayed", time=1)))
        await model.told(Heartbeat("inventory", "p-1", NOW))

        assert [event["id"] for event in (await model.asks.events.page(parse("")))["events"]] == ["replayed"]


async def test_an_event_that_is_heard_of_again_after_it_went_has_its_attempts(tmp_path: Path) -> None:
    """A repetition days later begins anew."""
    async with a_model(tmp_path) as model:
        await model.told(deliveries(delivery("a", at=NOW - int(KEEP + 9) * SECOND)))
        await model.told(Heartbeat("inventory", "p-1", NOW))
        await model.told(deliveries(delivery("a", "duplicate")))

        trace = await model.asks.events.trace("a")
        assert trace is not None
        assert [attempt["kind"] for attempt in await model.asks.events.attempts(trace["events"])] == ["duplicate"]


async def test_what_nobody_understood_is_told_apart(tmp_path: Path) -> None:
    """Deliveries without an id of their own do not overwrite each other."""
    async with a_model(tmp_path) as model:
        for n in range(3):
            place = f"order.created/0/{n}"
            await model.told(deliveries(delivery(place, "parked", type="", key=None), parked=(waits(place),)))

        assert await model.asks.letters.counts() == {"g": {"dead": 3}}


async def test_names_may_hold_anything(tmp_path: Path) -> None:
    """A NUL or a quote in a name neither ends nor bends it."""
    async with a_model(tmp_path) as model:
        hostile = "o\x00rder'; drop table event; --\u202e<b>"
        await model.told(deliveries(delivery("a", type=hostile, topic=hostile, source=hostile)))

        (event,) = (await model.asks.events.page(parse("")))["events"]
        assert (event["type"], event["topic"], event["source"]) == (hostile, hostile, hostile)
