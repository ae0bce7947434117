"""Operations: they reach the owner whenever it runs, go out a canary first, and are followed to what became of each event."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from millstream.console import runner

from .system import OrderCreated, Screen, console_alone, system

SERVICE = '''
from dataclasses import dataclass
from pathlib import Path

from millstream import App, Retry, event


@event("order.created", key="order_id")
@dataclass(frozen=True)
class OrderCreated:
    order_id: str
    quantity: int = 1


app = App("inventory", broker="sqlite:///broker.db", store="sqlite:///inventory.db")


@app.subscriber(OrderCreated, retry=Retry(attempts=1))
async def reserve(order: OrderCreated) -> None:
    if order.quantity < 1:
        raise ValueError(f"order {order.order_id}")
'''


async def dead(screen: Screen, app: Any, count: int) -> list[list[str]]:
    """So many dead letters, the oldest first, as an operation names them."""
    sent = [await app.publish(OrderCreated(f"o-{n}", -1)) for n in range(count)]
    await screen.until("/api/overview", lambda answer: answer["dead"] == count)
    return [[envelope.source, envelope.id] for envelope in sent]


async def ended(screen: Screen, id_: str, status: str = "done") -> Any:
    """An operation, once it has come to its end."""
    return await screen.until(f"/api/operations/{id_}", lambda operation: operation["status"] == status)


async def test_a_redrive_is_followed_until_everything_is_handled(tmp_path: Path) -> None:
    """It says how many were asked for, and what became of them; who wants to know later finds it with all its events."""
    async with system(tmp_path) as (app, screen, _):
        events = await dead(screen, app, 3)
        app.state.mended = True
        asked = await screen.ask("redrive", events=events)
        operation = await ended(screen, asked["id"])

        assert operation["progress"] == {"asked": 3, "handled": 3, "failed": 0, "discarded": 0}
        assert (operation["detail"], operation["events"]) == ("3 of 3", events)
        assert (await screen.get("/api/dead")) == []
        assert (await screen.get("/api/audit"))[0]["id"] == asked["id"]


async def test_what_fails_again_is_counted_as_that(tmp_path: Path) -> None:
    """It is done, and nothing is well."""
    async with system(tmp_path) as (app, screen, _):
        events = await dead(screen, app, 2)
        operation = await ended(screen, (await screen.ask("redrive", events=events))["id"])

        assert operation["progress"] == {"asked": 2, "handled": 0, "failed": 2, "discarded": 0}


async def test_a_canary_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    """One attempt tells enough."""
    async with system(tmp_path) as (app, screen, _):
        events = await dead(screen, app, 4)
        (group,) = await screen.get("/api/dead")
        asked = await screen.ask("redrive", fingerprint=group["fingerprint"], canary=True)
        operation = await ended(screen, asked["id"], "failed")

        assert operation["detail"] == "the first one has failed again; the other 3 were left alone"
        assert operation["progress"] == {"asked": 4, "handled": 0, "failed": 1, "discarded": 0}
        kinds = []
        for _, id_ in events:
            (fate,) = (await screen.get(f"/api/event/{id_}"))["deliveries"]
            kinds.append([attempt["kind"] for attempt in fate["attempts"]])
        assert sorted(kinds) == [["retry", "parked"]] * 3 + [["retry", "parked"] * 2]


async def test_a_canary_that_is_handled_brings_the_others(tmp_path: Path) -> None:
    """In parts, however many there are."""
    async with system(tmp_path) as (app, screen, _):
        events = await dead(screen, app, 4)
        app.state.mended = True
        operation = await ended(screen, (await screen.ask("redrive", events=events, canary=True))["id"])

        assert operation["progress"] == {"asked": 4, "handled": 4, "failed": 0, "discarded": 0}
        assert operation["canary"]
        assert [row["id"] for row in await screen.get("/api/operations")] == [operation["id"]]


async def test_an_operation_survives_the_console(tmp_path: Path) -> None:
    """Asked while nobody ran, it goes on after a restart, and is carried out when the service is there."""
    async with system(tmp_path) as (app, screen, _):
        events = await dead(screen, app, 3)
    async with console_alone(tmp_path) as (screen, _):
        await screen.until("/api/groups", len)
        asked = await screen.ask("redrive", events=events, canary=True)
        before = await screen.get(f"/api/operations/{asked['id']}")
    async with system(tmp_path) as (app, screen, _):
        app.state.mended = True
        operation = await ended(screen, asked["id"])

        assert before["status"] == "sent"
        assert operation["progress"]["handled"] == 3


async def test_what_nobody_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reasons that there can be."""
    monkeypatch.setattr(runner, "GIVE_UP", 0.5)
    async with system(tmp_path) as (_, screen, __):
        await screen.until("/api/groups", len)
    async with console_alone(tmp_path) as (screen, _):
        await screen.until("/api/groups", len)
        operation = await ended(screen, (await screen.ask("pause"))["id"], "failed")

        assert "no process of this service runs" in operation["detail"]


async def test_what_was_discarded_can_be_restored(tmp_path: Path) -> None:
    """It waits again with the body that it had, and can be redriven."""
    async with system(tmp_path) as (app, screen, _):
        events = await dead(screen, app, 1)
        await ended(screen, (await screen.ask("discard", events=events))["id"])
        (discarded,) = await screen.until("/api/discarded", len)
        none = await screen.get("/api/dead")

        restored = await ended(screen, (await screen.ask("restore", events=events))["id"])
        (group,) = await screen.until("/api/dead", len)
        letter = await screen.get(f"/api/letter?group=inventory.reserve&source={events[0][0]}&id={events[0][1]}")
        app.state.mended = True
        redriven = await ended(screen, (await screen.ask("redrive", events=events))["id"])

        assert (discarded["id"], none, group["count"]) == (events[0][1], [], 1)
        assert restored["detail"] == "1 of 1"
        assert letter["data"]["text"] == '{"order_id":"o-0","quantity":-1}'
        assert redriven["progress"]["handled"] == 1
        assert await app.store.parked() == []


async def test_only_what_was_discarded_can_be_restored(tmp_path: Path) -> None:
    """What was handled would have its effects twice."""
    async with system(tmp_path) as (app, screen, _):
        events = await dead(screen, app, 1)

        refused = await screen.ask("restore", status=404, events=events)

        assert "is not among the discarded" in refused["error"]


async def test_a_position_that_an_operator_moves_is_a_replay_and_no_mishap(tmp_path: Path) -> None:
    """Its verdict says so until it is where it was."""
    async with system(tmp_path) as (app, screen, _):
        for n in range(3):
            await app.publish(OrderCreated(f"o-{n}"))
        await screen.until("/api/groups/inventory.reserve", lambda group: group["lag"] == 0 and group["handled_per_second"])
        preview = await screen.get("/api/reset-preview/inventory.reserve?to=earliest")

        await ended(screen, (await screen.ask("reset", to="earliest"))["id"])
        again = await screen.until("/api/events?filter=status:duplicate", lambda page: len(page["events"]) == 3)

        assert sum(row["again"] for row in preview) == 3
        assert again["by"] == "scan"


async def test_a_group_goes_back_so_many_events_in_each_partition(tmp_path: Path) -> None:
    """The preview says how many those are, and the group gets just these again."""
    async with system(tmp_path) as (app, screen, _):
        for n in range(20):
            await app.publish(OrderCreated(f"o-{n}"))
        # Its lag may have been sampled before the last of them was published.
        await screen.until("/api/events?filter=status:handled+group:inventory.reserve", lambda page: len(page["events"]) == 20)
        preview = await screen.get("/api/reset-preview/inventory.reserve?to=back:1")
        refused = await screen.client.get("/api/reset-preview/inventory.reserve?to=back:10001")

        await ended(screen, (await screen.ask("reset", to="back:1"))["id"])
        count = sum(int(row["before"]) > 0 for row in preview)
        await screen.until("/api/events?filter=status:duplicate", lambda page: len(page["events"]) == count)

        assert [row["again"] for row in preview] == [min(1, int(row["before"])) for row in preview]
        assert [int(row["before"]) - int(row["after"]) for row in preview] == [row["again"] for row in preview]
        assert (refused.status_code, refused.json()["error"]) == (422, "to: from 1 to 10000 events back")


async def test_an_operation_without_the_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service, a process of its own, has a control key: a console without it changes nothing, one with it does."""
    monkeypatch.setattr(runner, "GIVE_UP", 2.0)
    monkeypatch.setenv("MILLSTREAM_CONTROL_KEY", "a-key-that-services-share")
    (tmp_path / "service.py").write_text(SERVICE)
    command = (sys.executable, "-m", "millstream", "run", "service:app")
    service = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, stderr=asyncio.subprocess.DEVNULL)
    try:
        async with console_alone(tmp_path) as (screen, _):
            await screen.until("/api/processes", len)
            await screen.until("/api/groups", len)
            refused = await ended(screen, (await screen.ask("pause"))["id"], "failed")
            paused = (await screen.get("/api/groups/inventory.reserve"))["paused"]
        monkeypatch.setattr(runner, "GIVE_UP", 60.0)
        async with console_alone(tmp_path, control_key="a-key-that-services-share") as (screen, _):
            await screen.until("/api/groups", len)
            await ended(screen, (await screen.ask("pause"))["id"])
            await screen.until("/api/groups/inventory.reserve", lambda group: group["paused"])
    finally:
        service.terminate()
        await service.wait()

    assert "its control key is another" in refused["detail"]
    assert not paused
