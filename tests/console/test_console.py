"""The console on a real system: what it shows is what happened, and what it changes is carried out by the owner."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from msgspec import structs

from millstream.brokers.sqlite import SqliteBroker
from millstream.console.server import Console
from millstream.contracts.message import contract_of

from .system import OrderCreated, Screen, system


async def test_the_overview_names_what_is_wrong_and_a_repair_makes_it_right(tmp_path: Path) -> None:
    """A dead letter is counted, shown whole, repaired in its place, and the event's story tells all of it."""
    async with system(tmp_path) as (app, screen, _):
        await app.publish(OrderCreated("o-1"))
        broken = await app.publish(OrderCreated("o-2", -1))

        overview = await screen.until("/api/overview", lambda answer: answer["dead"])
        (group,) = await screen.get("/api/dead")
        (row,) = await screen.get(f"/api/dead/{group['fingerprint']}")
        letter = await screen.get(f"/api/letter?group={row['group']}&source={row['source']}&id={row['id']}")
        asked = {
            "kind": "repair",
            "group": row["group"],
            "reason": "a typo",
            "events": [[row["source"], row["id"]]],
            "data": '{"order_id": "o-2", "quantity": 1}',
        }
        response = await screen.client.post("/api/operations", json=asked)
        trace = await screen.until(
            f"/api/trace/{broken.id}", lambda answer: len(answer["events"]) == 2 and "finished" in answer["sentence"]
        )
        operations = await screen.until("/api/operations", lambda answer: answer[0]["status"] == "done")

        assert "1 dead letter in 1 group" in overview["sentence"]
        assert group["error"] == "ValueError: order o-2: quantity -1"
        assert letter["data"] == {"kind": "json", "text": '{"order_id":"o-2","quantity":-1}', "size": 32}
        assert "quantity -1" in letter["stack"]
        assert letter["contract"]["schema"]["$defs"]["OrderCreated"]["required"] == ["order_id"]
        assert response.status_code == 202
        kinds = [attempt["kind"] for attempt in trace["events"][0]["deliveries"][0]["attempts"]]
        assert kinds == ["retry", "parked", "handled"]
        assert operations[0]["reason"] == "a typo"
        assert (await screen.get("/api/dead")) == []


async def test_a_repair_that_does_not_fit_the_contract_changes_nothing(tmp_path: Path) -> None:
    """The owner checks it before anything runs."""
    async with system(tmp_path) as (app, screen, _):
        broken = await app.publish(OrderCreated("o-2", -1))
        await screen.until("/api/dead", len)
        events = [["/inventory", broken.id]]
        asked = {"kind": "repair", "group": "inventory.reserve", "reason": "no", "events": events, "data": '{"order_id": 7}'}

        await screen.client.post("/api/operations", json=asked)
        await screen.until("/api/operations", lambda answer: answer[0]["status"] == "done")

        changed = asyncio.Event()
        app.store.on_change(changed.set)
        async with asyncio.timeout(10):
            while "does not fit" not in (await app.store.parked())[0].reason:
                changed.clear()
                await changed.wait()
        assert (await app.store.parked())[0].state == "dead"


async def test_the_map_shows_what_is_declared_and_what_has_flowed(tmp_path: Path) -> None:
    """An edge that only the code knows is declared; one that was used is observed too."""
    async with system(tmp_path) as (app, screen, _):
        await screen.until("/api/map", lambda answer: len(answer["nodes"]) == 4)

        await app.publish(OrderCreated("o-1"))

        drawn = await screen.until("/api/map", lambda answer: all(edge["observed"] for edge in answer["edges"]))
        edges = {(edge["from"], edge["to"]): edge["declared"] for edge in drawn["edges"]}
        assert edges == {
            ("app:inventory", "event:order.created"): True,
            ("event:order.created", "group:inventory.reserve"): True,
            ("group:inventory.reserve", "event:stock.reserved"): True,
            ("event:stock.reserved", "group:inventory.note"): True,
        }


async def test_a_pause_stops_a_group_and_a_resume_lets_it_go_on(tmp_path: Path) -> None:
    """Its verdict says so, and what waits is shown as waiting."""
    async with system(tmp_path) as (app, screen, _):
        group = "/api/groups/inventory.reserve"
        await screen.until("/api/groups", len)
        await screen.client.post("/api/operations", json={"kind": "pause", "group": "inventory.reserve", "reason": "SMTP is down"})
        await screen.until(group, lambda answer: answer["verdict"]["state"] == "paused")
        sent = await app.publish(OrderCreated("o-1"))

        waiting = await screen.until(f"/api/trace/{sent.id}", lambda answer: answer["events"][0]["deliveries"]) if await known(
            screen, sent.id
        ) else None
        await screen.client.post("/api/operations", json={"kind": "resume", "group": "inventory.reserve"})

        trace = await screen.until(f"/api/trace/{sent.id}", lambda answer: "finished" in answer["sentence"])
        assert waiting is not None
        assert [delivery["state"] for delivery in waiting["events"][0]["deliveries"]] == ["waiting"]
        assert len(trace["events"]) == 2


async def known(screen: Screen, id_: str) -> bool:
    """Wait until the console has heard of an event."""
    await screen.until(f"/api/search?q={id_}", lambda answer: answer["events"])
    return True


async def test_live_tells_of_each_event(tmp_path: Path) -> None:
    """A dot is a real event, with its id."""
    async with system(tmp_path) as (app, screen, _):
        await screen.until("/api/processes", len)
        async with screen.client.stream("GET", "/api/live") as stream:
            lines = stream.aiter_lines()
            assert await anext(lines) == "retry: 1000"
            sent = await app.publish(OrderCreated("o-1"))
            async with asyncio.timeout(5):
                told = [line async for line in _upto(lines, sent.id)]
    assert told[-1].startswith("data:")


async def _upto(lines: AsyncIterator[str], text: str) -> AsyncIterator[str]:
    """Lines up to the one with this text."""
    async for line in lines:
        yield line
        if text in line:
            return


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"cookie": ""}, 401),
    ],
)
async def test_other_sites_and_strangers_are_turned_away(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    """Reading included; and every answer has the headers that keep a page to itself."""
    async with system(tmp_path) as (_, screen, __):
        response = await screen.client.get("/api/overview", headers=headers)

        assert response.status_code == status
        assert "script-src 'self'" in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"


async def test_the_printed_token_works_once(tmp_path: Path) -> None:
    """Whoever finds it in a history later gets nothing."""
    async with system(tmp_path) as (_, __, console), httpx.AsyncClient() as other:
        response = await other.get(console.url)

        assert response.status_code == 401


async def test_each_role_may_do_what_it_may(tmp_path: Path) -> None:
    """A viewer changes nothing, an operator resets nothing."""
    tokens = {"viewer-token-0123456789": "viewer", "operator-token-0123456789": "operator"}
    async with system(tmp_path, tokens=tokens) as (_, screen, __):
        pause = {"kind": "pause", "group": "inventory.reserve", "reason": "test"}
        reset = {"kind": "reset", "group": "inventory.reserve", "reason": "test", "to": "earliest"}
        statuses = {}
        for token in tokens:
            headers = {"authorization": f"Bearer {token}"}
            for name, body in (("pause", pause), ("reset", reset)):
                response = await screen.client.post("/api/operations", json=body, headers=headers)
                statuses[token.partition("-")[0], name] = response.status_code

    assert statuses == {("viewer", "pause"): 403, ("viewer", "reset"): 403, ("operator", "pause"): 202, ("operator", "reset"): 403}


async def test_a_read_only_console_changes_nothing(tmp_path: Path) -> None:
    """Whatever the role."""
    async with system(tmp_path, read_only=True) as (_, screen, __):
        response = await screen.client.post("/api/operations", json={"kind": "pause", "group": "inventory.reserve", "reason": "x"})

        assert response.status_code == 403
        assert response.json() == {"error": "This console is read-only."}


def test_a_console_that_others_could_reach_refuses_to_start_without_tokens(tmp_path: Path) -> None:
    """Half a configuration is none."""
    with pytest.raises(Exception, match="without any token"):
        Console(broker=f"sqlite:///{tmp_path}/b.db", store=f"sqlite:///{tmp_path}/c.db", host="0.0.0.0", port=0)  # noqa: S104


def forget(folder: Path) -> None:
    """Delete the console's read model."""
    for file in folder.glob("console.db*"):
        if file.is_file():
            file.unlink()


async def test_the_read_model_can_be_deleted_and_is_the_same_again(tmp_path: Path) -> None:
    """Everything in it comes from the facts."""
    async with system(tmp_path) as (app, screen, _):
        await app.publish_many([OrderCreated(f"o-{n}", n % 3) for n in range(9)])
        await screen.until("/api/overview", lambda answer: answer["dead"] == 3)
        before = await screen.get("/api/events?limit=100")
    forget(tmp_path)

    async with system(tmp_path) as (_, screen, __):
        after = await screen.until("/api/events?limit=100", lambda answer: len(answer["events"]) == len(before["events"]))

        assert after == before
        assert (await screen.get("/api/overview"))["dead"] == 3


async def test_what_only_its_app_can_frame_is_not_published_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the id of its schema a deserializer of Confluent's could not read it; on a broker without frames nothing is missing."""
    monkeypatch.setattr(OrderCreated, "__millstream__", structs.replace(contract_of(OrderCreated), wire="confluent"))
    async with system(tmp_path) as (_, screen, _):
        await screen.until("/api/contracts", lambda contracts: "order.created" in [contract["name"] for contract in contracts])
        event = {"type": "order.created", "data": '{"order_id": "o-1"}'}

        bare = await screen.client.post("/api/publish", json=event)
        monkeypatch.setattr(SqliteBroker, "features", structs.replace(SqliteBroker.features, framed=True))
        framed = await screen.client.post("/api/publish", json=event)

    assert bare.status_code == 201
    assert framed.status_code == 422
    assert "millstream publish order.created --app MODULE:APP" in framed.text
