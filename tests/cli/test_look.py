"""`topics`, `groups`, `tail` and `trace` on real files."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from millstream import App
from millstream.app.connect import connect_broker
from millstream.app.system_clock import SystemClock

from .conftest import Result

Run = Callable[..., Result]
Work = Callable[..., App]


@pytest.mark.parametrize("command", [["topics"], ["groups"], ["tail"], ["dlq", "list"], ["trace", "x"], ["groups", "pause", "g"]])
def test_a_file_that_is_not_there_is_an_error_and_is_not_made(millstream: Run, folder: Path, command: list[str]) -> None:
    """Who only looks must not create an empty broker that looks like an idle one."""
    result = millstream(*command)

    assert (result.code, result.out) == (3, "")
    assert "does not exist" in result.err
    assert "(default)" in result.err
    assert list(folder.iterdir()) == []


def test_memory_cannot_be_looked_into_from_another_process(millstream: Run) -> None:
    """It would always look empty."""
    result = millstream("topics", "--broker", "memory://")

    assert result.code == 2
    assert "memory belongs to the process" in result.err


def test_topics_are_shown_with_their_readers(millstream: Run, work: Work) -> None:
    """A table for people, exact numbers for programs."""
    work("a", "b", "c")

    text = millstream("topics", "--broker", "sqlite:///desk.db")
    document = millstream("topics", "--broker", "sqlite:///desk.db", "-o", "json")

    assert text.out.splitlines()[0].split() == ["TOPIC", "EVENTS", "PUBLISHED", "PARTITIONS", "KEEPS", "GROUPS"]
    assert text.out.splitlines()[2].split() == ["order.placed", "3", "3", "8", "everything", "desk.accept"]
    assert document.json["schema"] == "millstream.v1.topics"
    placed = document.json["topics"][1]
    assert {**placed, "partitions": len(placed["partitions"])} == {
        "name": "order.placed", "events": 3, "published": 3, "retain_seconds": None, "retain_bytes": None,
        "groups": ["desk.accept"], "partitions": 8,
    }  # fmt: skip


def test_groups_are_shown_with_lag_and_what_needs_attention_first(millstream: Run, work: Work, service: str) -> None:
    """The App's own settings say where the file is."""
    work("a", "bad")
    millstream("publish", "order.placed", "-d", '{"order_id": "late"}', "--app", f"{service}:app")

    text = millstream("groups", "--app", f"{service}:app")
    document = millstream("groups", "--app", f"{service}:app", "-o", "json").json

    rows = [line.split() for line in text.out.splitlines()]
    assert rows[0][:4] == ["GROUP", "STATE", "LAG", "OLDEST"]
    assert rows[1][:4] == ["■", "desk.accept", "stopped", "1"]
    assert rows[2][:4] == ["■", "desk.announce", "stopped", "0"]
    assert "millstream dlq list" in text.err
    accept = document["groups"][0]
    assert accept["lag"] == {"events": 1, "quality": "exact"}
    assert (accept["parked"], accept["dead"], accept["workers"], accept["paused"]) == (1, 1, 0, False)
    assert len(accept["partitions"]) == 8


def test_a_group_is_paused_resumed_and_shown(millstream: Run, work: Work, service: str) -> None:
    """The pause is kept in the file."""
    work("a")
    at = ["--app", f"{service}:app"]

    paused = millstream("groups", "pause", "desk.accept", *at)
    shown = millstream("groups", "show", "desk.accept", *at)
    resumed = millstream("groups", "resume", "desk.accept", *at, "-o", "json")

    assert paused.out == "desk.accept is paused\n"
    assert shown.out.splitlines()[0] == "‖ desk.accept  paused"
    assert len(shown.out.splitlines()) == 11
    assert (resumed.json["paused"], resumed.json["state"]) == (False, "stopped")


def test_a_group_is_forgotten_only_on_purpose(millstream: Run, work: Work, service: str) -> None:
    """It says first what would be lost."""
    work("a", "bad")
    at = ["--app", f"{service}:app"]

    asked = millstream("groups", "forget", "desk.accept", *at)
    still = millstream("groups", "show", "desk.accept", *at)
    done = millstream("groups", "forget", "desk.accept", "--yes", *at)
    gone = millstream("groups", "show", "desk.accept", *at)

    assert (asked.code, still.code, done.code, gone.code) == (6, 0, 0, 3)
    assert "0 waiting events would never reach it, 1 parked deliveries would be gone" in asked.err


def test_retention_is_run_by_hand_and_force_needs_yes(millstream: Run, work: Work, service: str) -> None:
    """Removing what groups have not handled is never an accident."""
    work("a")
    at = ["--app", f"{service}:app"]

    plain = millstream("topics", "retain", "order.placed", *at)
    forced = millstream("topics", "retain", "order.placed", "--force", *at)
    unknown = millstream("topics", "retain", "nothing", *at)

    assert plain.out == "0 events removed from order.placed\n"
    assert (forced.code, unknown.code) == (6, 3)


def test_the_tail_shows_the_last_events_and_filters_them(millstream: Run) -> None:
    """By type, key, topic, correlation and what is in the body."""
    for n in range(12):
        body = json.dumps({"n": n, "to": {"city": "Łódź"}})
        millstream("publish", f"order.{'placed' if n % 2 else 'paid'}", "-d", body, "--key", f"k{n}")
    millstream("publish", "other", "--correlation", "c-1")

    def keys(*flags: str) -> list[str]:
        return [line["event"].get("subject", "-") for line in millstream("tail", "-o", "json", *flags).lines]

    assert keys() == [*(f"k{n}" for n in range(3, 12)), "-"]
    assert keys("-n", "2") == ["k11", "-"]
    assert keys("order.*", "-n", "3") == ["k9", "k10", "k11"]
    assert keys("order.paid", "other", "-n", "2") == ["k10", "-"]
    assert keys("--topic", "order.paid", "-n", "1") == ["k10"]
    assert keys("--key", "k5") == ["k5"]
    assert keys("--where", "n=7", "--where", "to.city=Łódź") == ["k7"]
    assert keys("--where", "to.city=Oz") == []
    assert keys("--correlation", "c-1") == ["-"]
    assert len(keys("--since", "1h")) == 13
    assert keys("--since", "0s") == []


def test_the_tail_keeps_every_digit_and_no_control_character(millstream: Run) -> None:
    """A price and a huge number come out as they went in; an escape sequence does not."""
    body = '{"price": 1.10, "n": 123456789012345678901234567890, "t": "\u202e\u009b[2J"}'
    millstream("publish", "a.b", "-d", body, "--key", "k\u200b")

    text = millstream("tail")
    document = millstream("tail", "-o", "json")
    formatted = millstream("tail", "--format", "{type} {key} {data.price} {data.n} {data.t} {data.no} {data}")
    raw = millstream("tail", "--format", "raw")

    assert r"a.b  k\u{200b}  {" in text.out
    assert '"price": 1.10, "n": 123456789012345678901234567890' in document.out
    assert json.loads(document.out)["event"]["data"]["t"] == "\u202e\x9b[2J"
    assert formatted.out.startswith(r"a.b k\u{200b} 1.10 123456789012345678901234567890 \u{202e}\x9b[2J —")
    assert raw.out == body.replace("\u202e", r"\u{202e}").replace("\x9b", r"\x9b") + "\n"
    assert all("\u202e" not in result.out and "\x9b" not in result.out for result in (text, document, formatted, raw))


def test_the_tail_fits_the_terminal(millstream: Run) -> None:
    """A long body is cut, not wrapped."""
    millstream("publish", "a.b", "-d", json.dumps({"t": "x" * 500}))

    assert [len(line) for line in millstream("tail").out.splitlines()] == [80]
    assert len(millstream("tail", "--wide").out) > 500


def test_a_wrong_filter_is_refused(millstream: Run) -> None:
    """Nothing is silently ignored."""
    millstream("publish", "a.b")

    assert millstream("tail", "--where", "nonsense").code == 2
    assert millstream("tail", "--since", "soon").code == 2


def test_a_trace_shows_the_tree_with_its_attempts_and_dead_letters(millstream: Run, work: Work, service: str) -> None:
    """From any id of it, and from the key."""
    work("a", "bad")
    at = ["--app", f"{service}:app"]
    events = {(e["type"], e["subject"]): e["id"] for e in (line["event"] for line in millstream("tail", "-o", "json", *at).lines)}

    good = millstream("trace", events["order.accepted", "a"], *at)
    bad = millstream("trace", "bad", *at)
    document = millstream("trace", events["order.placed", "a"], "-o", "json", *at).json
    nothing = millstream("trace", "nowhere", *at)

    shapes = [re.split(r"(?<=\w)  ", line)[0] for line in good.out.splitlines()]
    assert shapes == ["order.placed", "└─ ✓ desk.accept", "   └─ order.accepted", "      └─ ✓ desk.announce", good.out.splitlines()[-1]]
    assert shapes[-1].startswith("2 events · 0 pending")
    assert "✖ desk.accept  dead, attempt 1: ValueError" in bad.out
    (root,) = document["roots"]
    assert root["event"]["id"] == events["order.placed", "a"]
    assert root["handlings"][0]["effects"][0]["handlings"][0]["state"] == "passed"
    assert (nothing.code, nothing.out) == (3, "")


def test_a_trace_is_followed_until_nothing_waits(millstream: Run, work: Work, service: str) -> None:
    """When all is done it ends at once, having shown it once."""
    work("a")

    result = millstream("trace", "a", "--follow", "--since", "1h", "--app", f"{service}:app")

    assert result.code == 0
    assert result.out.count("pending") == 1


def test_a_followed_trace_shows_each_change_and_ends_when_nothing_waits(
    millstream: Run, work: Work, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group comes to the event while somebody looks."""
    work("a")
    millstream("publish", "order.placed", "-d", '{"order_id": "late"}', "--app", f"{service}:app")

    async def meanwhile(self: SystemClock, seconds: float) -> None:
        async with connect_broker("sqlite:///desk.db", SystemClock()) as broker:
            heads = [(partition, head) for partition, _, head in await broker.bounds("order.placed")]
            await broker.seek("desk.accept", heads)

    monkeypatch.setattr(SystemClock, "sleep", meanwhile)
    result = millstream("trace", "late", "--follow", "--broker", "sqlite:///desk.db")
    documents = millstream("trace", "late", "--follow", "--broker", "sqlite:///desk.db", "-o", "json").lines

    assert [line.split()[-1] for line in result.out.splitlines() if "desk.accept" in line] == ["waiting", "passed"]
    assert [document["pending"] for document in documents] == [0]
