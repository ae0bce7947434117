"""`status`, `map`, `event show` and `top`: what services tell, in the terminal."""

import asyncio
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from millstream import App
from millstream.cli import top
from millstream.cli.screen import PLAIN
from millstream.console.server import Console

from .conftest import Result

Run = Callable[..., Result]
Work = Callable[..., App]
AT = ("--broker", "sqlite:///desk.db")


@pytest.fixture(autouse=True)
def _facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_FACTS", "on")


def test_a_healthy_system_is_said_to_be_healthy(millstream: Run, work: Work) -> None:
    """In a sentence, with its groups, and with exit code 0."""
    work("a", "b")

    text, document = millstream("status", *AT), millstream("status", *AT, "-o", "json")

    assert (text.code, document.code) == (0, 0)
    assert text.out.splitlines()[0] == "Everything is caught up."
    assert [line.split()[1] for line in text.out.splitlines()[2:]] == ["desk.accept", "desk.announce"]
    assert document.json["schema"] == "millstream.v1.status"
    assert document.json["state"] == "ok"
    groups = [(group["name"], group["lag"], group["dead"]) for group in document.json["groups"]]
    assert groups == [("desk.accept", 0, 0), ("desk.announce", 0, 0)]


def test_dead_letters_and_stopped_groups_are_critical(millstream: Run, work: Work) -> None:
    """Exit code 9, for scripts that watch."""
    work("a", "bad")
    dead = millstream("status", *AT)
    millstream("publish", "order.placed", "-d", '{"order_id": "late"}', *AT)
    stopped = millstream("status", *AT)

    assert (dead.code, stopped.code) == (9, 9)
    assert dead.out.splitlines()[0] == "1 dead letter in 1 group; everything else is caught up."
    assert "1 group is stopped (desk.accept)" in stopped.out.splitlines()[0]
    assert "Nobody works on it; 1 event waits" in stopped.out


@pytest.mark.parametrize(
    ("severity", "dead", "troubles", "code"),
    [(0, 0, [], 0), (4, 0, [], 0), (6, 0, [], 10), (0, 0, ["disk"], 10), (8, 0, [], 9), (0, 1, [], 9)],
)
def test_exit_codes_tell_how_bad_it_is(severity: int, dead: int, troubles: list[str], code: int) -> None:
    """A pause is wanted, lag should be looked at, what stands still has to be repaired."""
    from millstream.cli.status import exit_of

    found = {"dead": dead, "groups": [{"verdict": {"severity": severity}, "troubles": troubles}]}

    assert exit_of(found) == code


def test_services_that_tell_nothing_are_known_by_their_groups(millstream: Run, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the command says what to switch on."""
    monkeypatch.setenv("MILLSTREAM_FACTS", "off")
    work("a")

    result = millstream("status", *AT)

    assert result.code == 0
    assert "desk.accept" in result.out
    assert 'facts = "on"' in result.err


def test_the_map_is_drawn_as_a_tree_a_flowchart_and_json(millstream: Run, work: Work) -> None:
    """From where events begin to where they end."""
    work("a", "b")

    tree, mermaid, document = (millstream("map", *AT, "--format", name) for name in ("tree", "mermaid", "json"))

    lines = [line.rstrip() for line in tree.out.splitlines()]
    assert lines[0].startswith("desk")
    for line, begins in zip(
        lines[1:], ("└─ order.placed", "   └─ ○ accept  desk", "      └─ order.accepted", "         └─ ○ announce  desk"), strict=True
    ):
        assert line.startswith(begins)
    assert mermaid.out.startswith("flowchart LR\n")
    assert mermaid.out.count("-->") == 4
    assert {node["id"] for node in document.json["nodes"]} == {
        "app:desk", "event:order.accepted", "event:order.placed", "group:desk.accept", "group:desk.announce",
    }  # fmt: skip


def test_an_event_is_shown_with_its_body_and_its_fate(millstream: Run, work: Work) -> None:
    """In each group; in JSON, all attempts."""
    work("bad")
    published = [line for line in millstream("tail", "order.placed", *AT, "-o", "json").lines]
    id_ = published[0]["event"]["id"]

    text, document = millstream("event", "show", id_, *AT), millstream("event", "show", id_, *AT, "-o", "json").json

    assert text.out.splitlines()[0] == "order.placed  v1  bad"
    assert '{"order_id":"bad","quantity":1}' in text.out
    assert text.out.splitlines()[-1].split()[:3] == ["desk.accept", "dead", "1"]
    (fate,) = document["event"]["deliveries"]
    assert (fate["group"], fate["state"], fate["attempts"][0]["error"]) == ("desk.accept", "dead", "ValueError: no such thing as bad")


def test_an_event_that_nobody_told_of_is_searched_for_elsewhere(millstream: Run, work: Work) -> None:
    """The error says where."""
    work("a")

    result = millstream("event", "show", "nothing", *AT)

    assert result.code == 3
    assert "millstream trace nothing" in result.err


def test_a_look_leaves_nothing_behind(millstream: Run, work: Work, folder: Path) -> None:
    """No file, and no group that would hold up retention."""
    work("a")
    before = sorted(folder.iterdir())
    groups = millstream("groups", *AT, "-o", "json").json["groups"]

    millstream("status", *AT)

    assert sorted(folder.iterdir()) == before
    after = millstream("groups", *AT, "-o", "json").json["groups"]
    assert [group["name"] for group in after] == [group["name"] for group in groups]


def test_the_read_model_of_a_console_that_was_stopped_is_used_and_left_as_it_is(millstream: Run, work: Work, folder: Path) -> None:
    """What is told since then is added to a copy."""

    async def run_console() -> None:
        console = Console(broker=f"sqlite:///{folder}/desk.db", store=f"sqlite:///{folder}/desk-console.db", port=0)
        stop = asyncio.Event()
        serving = asyncio.ensure_future(console.serve(stop))
        async with asyncio.timeout(20), httpx.AsyncClient(base_url=console.url.partition("?")[0], follow_redirects=True) as client:
            await client.get(console.url)
            while (await client.get("/api/overview")).json()["dead"] != 1:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        stop.set()
        await serving

    work("bad-1")
    asyncio.run(run_console())
    kept = (folder / "desk-console.db").read_bytes()
    work("bad-2")

    result = millstream("status", *AT, "-o", "json")

    assert [group["dead"] for group in result.json["groups"]] == [2, 0]
    assert (folder / "desk-console.db").read_bytes() == kept


def test_top_needs_a_terminal(millstream: Run, work: Work) -> None:
    """And says what does not."""
    work("a")

    result = millstream("top", *AT)

    assert result.code == 2
    assert "millstream status --output json" in result.err


def found(groups: int) -> dict[str, Any]:
    """What an overview says of so many groups."""
    group = {
        "lag": 3, "age": 1.5, "handled_per_second": 2.0, "p95_work": 0.1, "failed": 0, "dead": 0, "members": 1, "troubles": [],
        "verdict": {"state": "behind", "severity": 6, "sentence": "Behind"},
    }  # fmt: skip
    named = [{**group, "name": f"service.handler-{n}\x1b[2J"} for n in range(groups)]
    rates = {"published_per_second": 1.0, "handled_per_second": 2.0, "p95_latency": 0.2, "oldest": 3.0, "one_in": 16}
    return {"sentence": "All is well.", "groups": named, "dead": 0, "trouble": "", **rates}


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (200, 60), (20, 4)])
def test_top_never_draws_more_than_the_screen(width: int, height: int) -> None:
    """However many groups there are, and whatever they are called."""
    drawn = top.drawn(found(100), PLAIN, width, height)

    lines = drawn.plain.split("\n")
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert "\x1b" not in drawn.plain


@pytest.mark.slow
def test_top_shows_groups_and_ends_with_q(work: Work, folder: Path) -> None:
    """The terminal is as it was before."""
    work("a")
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "millstream", "top", "--broker", f"sqlite:///{folder}/desk.db"]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=env, close_fds=True)
    seen = b""
    until = time.monotonic() + 30
    while b"desk.accept" not in seen and time.monotonic() < until:
        if select.select([controller], [], [], 0.5)[0]:
            seen += os.read(controller, 65536)
    os.write(controller, b"q")
    code = process.wait(timeout=20)
    while select.select([controller], [], [], 0.2)[0]:
        seen += os.read(controller, 65536)
    os.close(terminal)
    os.close(controller)

    assert b"desk.accept" in seen
    assert code == 0
    assert seen.count(b"\x1b[?1049h") == seen.count(b"\x1b[?1049l") == 1


def test_documents_are_one_line(millstream: Run, work: Work) -> None:
    """As every command's."""
    work("a")

    for command in (("status",), ("map", "--format", "json")):
        assert len([json.loads(line) for line in millstream(*command, *AT, "-o", "json").out.splitlines()]) == 1
