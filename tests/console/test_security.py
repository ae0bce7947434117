"""Nobody gets or changes what is not theirs, and nothing that comes from outside hurts."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from millstream.console import changes, protocol
from millstream.console.access import ROLES, Access
from millstream.console.api import LARGEST_SHOWN, Api
from millstream.console.changes import ABOUT_EVENTS, NEEDED
from millstream.contracts.envelope import Envelope
from millstream.contracts.ids import new_id

from .system import OrderCreated, Screen, system

TOKENS: dict[str, Any] = {f"{role}-token-0123456789": role for role in ROLES}

#: Every route, with a path that leads to it and the least role for each method. What is not here must not exist.
RULES: dict[str, tuple[str, dict[str, str]]] = {
    "/api/me": ("/api/me", {"GET": "viewer"}),
    "/api/overview": ("/api/overview", {"GET": "viewer"}),
    "/api/map": ("/api/map", {"GET": "viewer"}),
    "/api/topics": ("/api/topics", {"GET": "viewer"}),
    "/api/events": ("/api/events", {"GET": "viewer"}),
    "/api/event/{id:path}": ("/api/event/x", {"GET": "viewer"}),
    "/api/raw/{id:path}": ("/api/raw/x", {"GET": "viewer"}),
    "/api/bodies/{topic:path}": ("/api/bodies/order.created?text=x", {"GET": "viewer"}),
    "/api/trace/{what:path}": ("/api/trace/x", {"GET": "viewer"}),
    "/api/search": ("/api/search?q=x", {"GET": "viewer"}),
    "/api/groups": ("/api/groups", {"GET": "viewer"}),
    "/api/groups/{group:path}": ("/api/groups/inventory.reserve", {"GET": "viewer"}),
    "/api/reset-preview/{group:path}": ("/api/reset-preview/inventory.reserve", {"GET": "viewer"}),
    "/api/dead": ("/api/dead", {"GET": "viewer"}),
    "/api/dead/{fingerprint}": ("/api/dead/x", {"GET": "viewer"}),
    "/api/discarded": ("/api/discarded", {"GET": "viewer"}),
    "/api/letter": ("/api/letter", {"GET": "viewer"}),
    "/api/letter/test": ("/api/letter/test", {"GET": "viewer"}),
    "/api/contracts": ("/api/contracts", {"GET": "viewer"}),
    "/api/processes": ("/api/processes", {"GET": "viewer"}),
    "/api/operations": ("/api/operations", {"GET": "viewer", "POST": "operator"}),
    "/api/operations/{id}": ("/api/operations/x", {"GET": "viewer"}),
    "/api/audit": ("/api/audit", {"GET": "viewer"}),
    "/api/live": ("/api/live", {"GET": "viewer"}),
    "/api/lab": ("/api/lab", {"GET": "viewer"}),
    "/api/publish": ("/api/publish", {"POST": "operator"}),
    "/api/lab/{action}": ("/api/lab/state", {"POST": "admin"}),
    "/api/leave": ("/api/leave", {"POST": "viewer"}),
}
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def test_every_route_has_a_rule() -> None:
    """A new one without is a mistake."""
    api = Api(*cast(Any, [None] * 5), cast(Any, SimpleNamespace(operate=None, publish=None)), name="")

    methods: dict[str, set[str]] = {}
    for route in api.routes():
        methods.setdefault(route.path, set()).update((route.methods or set()) - {"HEAD"})
    assert methods == {path: set(rule) for path, (_, rule) in RULES.items()}


async def test_every_route_lets_in_who_may_and_nobody_else(tmp_path: Path) -> None:
    """For every role, and for none, with every method: what is not allowed is refused before anything is looked at."""
    wrong: list[str] = []
    async with system(tmp_path, tokens=TOKENS) as (_, screen, __):
        await screen.client.get("/")
        for path, rule in RULES.values():
            for role in (None, *ROLES):
                for method in METHODS:
                    status = await _status(screen.client, method, path, role)
                    if not _is_right(status, role, rule.get(method)):
                        wrong.append(f"{method} {path} as {role}: {status}")

    assert wrong == []


async def _status(client: httpx.AsyncClient, method: str, path: str, role: str | None) -> int:
    headers = {"authorization": f"Bearer {role}-token-0123456789"} if role else {}
    content = b"{}" if method != "GET" else None
    async with client.stream(method, path, headers={**headers, "content-type": "application/json"}, content=content) as response:
        return response.status_code


def _is_right(status: int, role: str | None, needed: str | None) -> bool:
    if role is None:
        return status == 401
    if needed is None:
        return status in (404, 405)
    if ROLES.index(cast(Any, role)) < ROLES.index(cast(Any, needed)):
        return status == 403
    return status in (200, 404, 422, 503)


@pytest.mark.parametrize("role", ROLES)
async def test_every_kind_of_operation_needs_its_role(tmp_path: Path, role: str) -> None:
    """Also those that no screen may ask for."""
    async with system(tmp_path, tokens=TOKENS) as (_, screen, __):
        headers = {"authorization": f"Bearer {role}-token-0123456789"}
        await _seen(screen, headers)
        for kind in (*NEEDED, "tell"):
            body = {"kind": kind, "group": "inventory.reserve", "reason": "x", "events": [["/s", "x"]], "data": "{}", "to": "latest"}
            response = await screen.client.post("/api/operations", json=body, headers=headers)
            may = kind in NEEDED and ROLES.index(cast(Any, role)) >= ROLES.index(NEEDED[kind])
            # A letter that is not there cannot be restored.
            assert response.status_code == (403 if not may else 404 if kind == "restore" else 202), (kind, response.text)


async def _seen(screen: Screen, headers: dict[str, str]) -> None:
    """Wait until the console knows the groups."""
    async with asyncio.timeout(20):
        while not (await screen.client.get("/api/groups", headers=headers)).json():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("headers", "reads", "page"),
    [
        ({}, 200, 200),
        ({"host": "127.0.0.1"}, 403, 403),
        ({"host": "localhost.evil.example:80"}, 403, 403),
        ({"host": ""}, 403, 403),
        ({"origin": "http://127.0.0.1"}, 403, 403),
        ({"origin": "http://127.0.0.1.evil.example"}, 403, 403),
        ({"origin": "null"}, 403, 403),
        ({"sec-fetch-site": "cross-site"}, 403, 403),
        ({"sec-fetch-site": "same-site"}, 403, 403),
        ({"sec-fetch-site": "nonsense"}, 403, 403),
        ({"sec-fetch-site": "none"}, 200, 200),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 403, 200),
    ],
)
async def test_other_sites_reach_nothing(tmp_path: Path, headers: dict[str, str], reads: int, page: int) -> None:
    """A link to a page works from anywhere; the page itself has nothing in it, and data goes to itself only."""
    async with system(tmp_path) as (_, screen, __):
        assert (await screen.client.get("/api/overview", headers=headers)).status_code == reads
        # Without the built front end the page itself says so with 503.
        assert (await screen.client.get("/groups", headers=headers)).status_code in (page, 503 if page == 200 else page)
        changed = await screen.client.post("/api/publish", headers=headers, json={"type": "order.created", "data": "{}"})
        assert changed.status_code == (403 if reads == 403 else 404 if changed.status_code == 404 else 422)


@pytest.mark.parametrize("path", ["/api/operations", "/api//operations", "/api/operations/", "/api/%6Fperations", "/API/operations"])
async def test_read_only_holds_however_it_is_spelt(tmp_path: Path, path: str) -> None:
    """Nothing gets through by another name of the route or the method."""
    async with system(tmp_path, read_only=True) as (app, screen, _):
        await screen.until("/api/groups", len)
        asked = {"kind": "pause", "group": "inventory.reserve", "reason": "x"}
        answers = [
            await screen.client.post(path, json=asked),
            await screen.client.get(path, headers={"x-http-method-override": "POST"}),
            await screen.client.post(f"{path}?_method=GET", json=asked),
        ]

        assert [answer.status_code for answer in answers if answer.status_code == 202] == []
        assert (await screen.client.post("/api/operations", json=asked)).json() == {"error": "This console is read-only."}
        assert await app.store.paused() == frozenset()


async def test_bodies_are_bounded(tmp_path: Path) -> None:
    """Too long, of unknown length, or of another kind: refused before they are read."""
    async with system(tmp_path) as (_, screen, __):

        async def endless() -> Any:
            yield b"{"

        many = {"content-type": "application/json"}
        large = await screen.client.post("/api/publish", content=b" " * ((1 << 20) + 1), headers=many)
        chunked = await screen.client.post("/api/publish", content=endless(), headers=many)
        form = await screen.client.post("/api/publish", data={"type": "order.created"})
        deep = await screen.client.post("/api/publish", json={"type": "order.created", "data": "[" * 100_000})
        unknown = await screen.client.post("/api/operations", json={"kind": "pause", "group": "g", "shell": "rm"})

        assert [each.status_code for each in (large, chunked, form, unknown)] == [413, 411, 415, 422]
        assert deep.status_code in (404, 422)


@pytest.mark.parametrize(
    "query",
    [
        "/api/events?before=99999999999999999999999999",
        "/api/events?limit=1e9",
        "/api/events?before=-5&limit=999999999",
        "/api/map?window=nan",
        "/api/map?window=1e308&at=1e308",
        "/api/map?at=-1e99",
        f"/api/events?filter={'x' * 5000}",
        "/api/reset-preview/inventory.reserve?to=1e300",
        "/api/reset-preview/inventory.reserve?to=tomorrow",
        "/api/reset-preview/inventory.reserve?to=back:99999999999999999999",
        "/api/reset-preview/inventory.reserve?to=back:-1",
        "/api/reset-preview/inventory.reserve?to=back:all",
        "/api/bodies/order.created?text=x&cursor=%00%00",
        "/api/bodies/order.created?text=x&cursor=WzFd",
        "/api/bodies/none?text=x",
        "/api/audit?limit=99999999999",
        "/api/letter?group=%00&source=%F0%9F%92%A9&id=%27",
        "/api/trace/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/api/search?q=%25%5F%00%27",
    ],
)
async def test_parameters_are_bounded(tmp_path: Path, query: str) -> None:
    """Whatever is written there is used within its bounds or refused, and never an error of ours."""
    async with system(tmp_path) as (_, screen, __):
        response = await screen.client.get(query)

        assert response.status_code in (200, 404, 422, 503), response.text
        assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("path", ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/assets/..%2f..%2fserver.py", "//etc/passwd", "/%00"])
async def test_no_file_outside_of_the_pages_is_served(tmp_path: Path, path: str) -> None:
    """Every other path is a screen."""
    async with system(tmp_path) as (_, screen, __):
        response = await screen.client.get(path)

        assert "root:" not in response.text
        assert "import" not in response.text[:40]


async def raw(port: int, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which these bytes were sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    await writer.drain()
    return reader, writer


async def test_who_sends_too_slowly_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a head, half a body, or nothing at all."""
    monkeypatch.setattr(protocol, "HEAD", 0.3)
    monkeypatch.setattr(changes, "PATIENCE", 0.3)
    async with system(tmp_path, tokens=TOKENS) as (_, __, console):
        host = f"Host: 127.0.0.1:{console.port}\r\n".encode()
        head = b"POST /api/publish HTTP/1.1\r\n" + host + b"Authorization: Bearer admin-token-0123456789\r\n"
        slow = head + b"Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{"
        async with asyncio.timeout(10):
            answers = []
            for data in (b"", b"GET / HTTP/1.1\r\nHos", slow):
                reader, writer = await raw(console.port, data)
                try:
                    answers.append(await reader.read())
                except ConnectionResetError:
                    answers.append(b"")
                writer.close()

    assert answers[:2] == [b"", b""]
    assert answers[2].startswith(b"HTTP/1.1 408")


async def test_who_does_not_read_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large answer stays in memory only as long as somebody takes it."""
    monkeypatch.setattr(protocol, "UNREAD", 0.3)
    async with system(tmp_path, tokens=TOKENS) as (app, screen, console):
        id_, data = new_id(1, b"0123456789"), HOSTILE["ten megabytes"]()
        sent = Envelope(id=id_, source="/test", type="order.created", time=1, data=data, topic="order.created")
        await app.broker.publish((sent,))
        screen.client.headers["authorization"] = "Bearer admin-token-0123456789"
        await screen.until(f"/api/search?q={sent.id}", lambda answer: answer["events"] and answer["events"][0]["position"])
        request = f"GET /api/raw/{sent.id} HTTP/1.1\r\nHost: 127.0.0.1:{console.port}\r\n"
        reader, writer = await raw(console.port, f"{request}Authorization: Bearer admin-token-0123456789\r\n\r\n".encode())
        cast(Any, writer.transport).pause_reading()
        ended = asyncio.Event()
        lost = protocol.Impatient.connection_lost
        monkeypatch.setattr(protocol.Impatient, "connection_lost", lambda self, error: (lost(self, error), ended.set()))
        async with asyncio.timeout(10):
            await ended.wait()
        writer.close()
        assert len(await _all(reader)) < 10 << 20


async def _all(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


HOSTILE: dict[str, Callable[[], bytes]] = {
    "markup": lambda: json.dumps({"order_id": "<script>alert(1)</script><img src=x onerror=alert(1)>\"'`${7*7}{{7*7}}"}).encode(),
    "bidi": lambda: json.dumps({"order_id": "\u202egpj.exe\u2066\u200b\ufeff"}, ensure_ascii=False).encode(),
    "control": lambda: b'{"order_id": "\\u0000\\u001b[31m\\u0007\\r\\n\\u2028"}',
    "surrogates": lambda: b'{"order_id": "\\ud83d\\ude00 \\ud800"}',
    "large numbers": lambda: b'{"order_id": "x", "quantity": 9007199254740993, "more": [18446744073709551615, -0.0, 1e400, 0.1000]}',
    "ten megabytes": lambda: b'{"order_id": "' + b"x" * (10 << 20) + b'"}',
    "deep": lambda: b"[" * 10_000 + b"]" * 10_000,
    "no json": lambda: b'\xff\xfe\x00{"order_id"',
    "empty": lambda: b"",
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_what_is_hostile_comes_through_exact(tmp_path: Path, name: str) -> None:
    """Digit for digit and byte for byte, as data that no browser runs: as an event, as a dead letter, and as a download."""
    data = HOSTILE[name]()
    async with system(tmp_path) as (app, screen, _):
        envelope = Envelope(
            id=new_id(1, b"0123456789"), source="/<b>", type="order.created", time=1, data=data, key="<i>k</i>", topic="order.created"
        )
        await app.broker.publish((envelope,))
        found = await screen.until(f"/api/search?q={envelope.id}", lambda answer: answer["events"] and answer["events"][0]["position"])
        response = await screen.client.get(f"/api/event/{envelope.id}")
        download = await screen.client.get(f"/api/raw/{envelope.id}")
        event = response.json()

        assert response.headers["content-type"] == "application/json"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert (event["source"], found["events"][0]["key"]) == ("/<b>", "<i>k</i>")
        assert download.content == data
        assert download.headers["content-type"] == "application/octet-stream"
        assert download.headers["content-disposition"].startswith("attachment")
        if event["payload"]["kind"] == "json":
            assert event["payload"]["text"].encode() == data
        else:
            import base64

            shown = base64.b64decode(event["payload"]["base64"])
            assert data.startswith(shown)
            assert (event["payload"]["size"], len(shown) == len(data)) == (len(data), len(data) <= LARGEST_SHOWN)
        for path in ("/api/overview", "/api/events", "/api/dead", "/api/groups", "/api/map", f"/api/trace/{envelope.id}"):
            await screen.get(path)


async def test_no_answer_has_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a token nor the control key, nor a password in the text of an error."""
    monkeypatch.setenv("MILLSTREAM_CONTROL_KEY", "the-control-key")
    secrets = ["the-control-key", "hunter2", *TOKENS]
    async with system(tmp_path, tokens=TOKENS, control_key="the-control-key") as (app, screen, _):
        screen.client.headers["authorization"] = "Bearer admin-token-0123456789"
        broken = await app.publish(OrderCreated("postgres://shop:hunter2@db/orders", -1))
        (group,) = await screen.until("/api/dead", len)
        (row,) = await screen.get(f"/api/dead/{group['fingerprint']}")
        asked = await screen.ask("redrive", events=[[row["source"], row["id"]]])
        await screen.until(f"/api/operations/{asked['id']}", lambda operation: operation["status"] == "done")
        letter = f"?group={row['group']}&source={row['source']}&id={row['id']}"
        paths = [path for path, rule in RULES.values() if "GET" in rule and path != "/api/live"]
        for path in (*paths, f"/api/letter{letter}", f"/api/trace/{broken.id}", "/api/nothing", "/"):
            answer = await screen.client.get(path)
            # The event's own body and key are the user's data, and shown as they are.
            text = answer.text.replace(f"{broken.key}", "")
            assert [secret for secret in secrets if secret in text and path != f"/api/letter{letter}"] == [], path
        shown = await screen.get(f"/api/letter{letter}")
        assert "hunter2" not in json.dumps([shown["error"], shown["stack"], shown["reason"]])


async def test_a_session_that_was_left_is_over(tmp_path: Path) -> None:
    """Its cookie is good for nothing, wherever it was kept."""
    async with system(tmp_path) as (_, screen, __):
        ((name, value),) = screen.client.cookies.items()
        await screen.get("/api/me")
        await screen.client.post("/api/leave", json={})

        assert (await screen.client.get("/api/me", headers={"cookie": f"{name}={value}"})).status_code == 401


async def test_guessing_a_token_is_stopped(tmp_path: Path) -> None:
    """After some wrong ones even the right one is refused for a while."""
    async with system(tmp_path) as (_, __, console), httpx.AsyncClient(base_url=f"http://127.0.0.1:{console.port}") as other:
        for guess in range(12):
            assert (await other.get(f"/?t={guess}")).status_code == 401

        again = Access({"right-token-0123456789": "admin"}, hosts=frozenset(), cookie="c", reusable=True)
        for guess in range(10):
            assert again.enter(str(guess)) is None
        assert again.enter("right-token-0123456789") is None


def test_every_operation_about_events_is_checked_for_them() -> None:
    """The two lists belong together."""
    assert set(ABOUT_EVENTS) < set(NEEDED)
