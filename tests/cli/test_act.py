"""`publish`, `dlq`, `replay` and `backup` on real files."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from millstream import App

from .conftest import Result

Run = Callable[..., Result]
Work = Callable[..., App]


def test_publish_says_the_id_and_what_to_do_next(millstream: Run, folder: Path) -> None:
    """The first event makes the file."""
    text = millstream("publish", "order.placed", "-d", '{"order_id": "o-1"}', "--key", "o-1")
    document = millstream("publish", "order.placed", "-n", "3", "--duplicate", "2", "-o", "json").json

    assert text.out.startswith("published order.placed 0")
    assert "millstream trace 0" in text.err
    assert (document["schema"], document["published"], document["errors"]) == ("millstream.v1.published", 9, [])
    assert len(set(document["ids"])) == 3
    assert millstream("topics", "-o", "json").json["topics"][0]["events"] == 10
    assert (folder / "millstream.db").exists()


def test_a_body_comes_from_the_line_a_file_or_stdin(millstream: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is published byte for byte."""
    (folder / "order.json").write_bytes(b'{"price": 1.10}\n')

    class Stdin:
        buffer = io.BytesIO(b'  {"n": 123456789012345678901234567890}\n')

    monkeypatch.setattr(sys, "stdin", Stdin)
    millstream("publish", "a.file", "-d", "@order.json")
    millstream("publish", "a.pipe", "-d", "-")
    millstream("publish", "a.line", "-d", "[1.0]")

    assert millstream("tail", "--format", "raw").out.splitlines() == ['{"price": 1.10}', '{"n": 123456789012345678901234567890}', "[1.0]"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["-d", "{not json"], "--data is no JSON document"),
        (["-d", "@nowhere.json"], "nowhere.json cannot be read"),
        (["-n", "0"], "more than 0"),
        (["--rate", "0"], "more than 0"),
        (["--duplicate", "-1"], "not less than 0"),
    ],
)
def test_what_cannot_be_published_is_refused_before_anything_is_made(millstream: Run, folder: Path, flags: list[str], says: str) -> None:
    """No file appears because of a typing error."""
    result = millstream("publish", "a.b", *flags)

    assert result.code == 2
    assert says in result.err
    assert list(folder.iterdir()) == []


def test_with_an_app_the_contract_says_key_topic_and_source_and_refuses_what_does_not_fit(millstream: Run, service: str) -> None:
    """The same checks as in code."""
    at = ["--app", f"{service}:app"]

    millstream("publish", "order.placed", "-d", '{"order_id": "o-1", "quantity": 2}', *at)
    wrong = millstream("publish", "order.placed", "-d", '{"quantity": 2}', *at)
    unknown = millstream("publish", "order.plcaed", *at)
    event = millstream("tail", "-o", "json", *at).json

    assert (event["topic"], event["event"]["source"], event["event"]["subject"]) == ("order.placed", "/desk", "o-1")
    assert wrong.code == 2
    assert "order_id" in wrong.err
    assert unknown.code == 2
    assert "Did you mean order.placed?" in unknown.err


def test_a_rate_is_kept(millstream: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten a second is a tenth of a second between two; the clock is asked, not slept on."""
    from millstream.app.system_clock import SystemClock

    slept: list[float] = []

    async def sleep(self: SystemClock, seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(SystemClock, "monotonic", lambda self: 100.0)
    monkeypatch.setattr(SystemClock, "sleep", sleep)

    millstream("publish", "a.b", "-n", "4", "--rate", "10")

    assert slept == pytest.approx([0.1, 0.2, 0.3])


def test_dead_letters_are_listed_shown_and_filtered(millstream: Run, work: Work, service: str) -> None:
    """With the event, its bytes, each failure and the stack."""
    work("bad-1", "good", "bad-2")
    at = ["--app", f"{service}:app"]

    text = millstream("dlq", "list", *at)
    document = millstream("dlq", "list", *at, "-o", "json").json
    first = document["dead_letters"][0]
    shown = millstream("dlq", "show", first["id"], *at)

    assert text.out.splitlines()[0].split() == ["ID", "STATE", "GROUP", "TYPE", "KEY", "TRIES", "FAILED", "ERROR"]
    assert max(map(len, text.out.splitlines())) <= 80
    assert document["total"] == 2
    assert {letter["event"]["subject"] for letter in document["dead_letters"]} == {"bad-1", "bad-2"}
    assert (first["group"], first["state"], first["attempts"]) == ("desk.accept", "dead", 1)
    assert first["event"]["data"] == {"order_id": first["event"]["subject"], "quantity": 1}
    assert f"ValueError: no such thing as {first['event']['subject']}" in first["error"]
    assert 'raise ValueError(f"no such thing as' in shown.out
    assert millstream("dlq", "list", *at, "--error", "as BAD-1", "-o", "json").json["total"] == 1
    assert millstream("dlq", "list", *at, "--type", "order.*", "-o", "json").json["total"] == 2
    assert millstream("dlq", "list", *at, "--group", "other", "-o", "json").json["total"] == 0
    assert len(millstream("dlq", "list", *at, "-n", "1", "-o", "json").json["dead_letters"]) == 1
    assert millstream("dlq", "show", 99, *at).code == 3


def test_a_redrive_is_asked_for_and_done_by_the_workers(millstream: Run, work: Work, service: str) -> None:
    """The request waits in the file until the service runs."""
    work("bad-1")
    at = ["--app", f"{service}:app"]
    (letter,) = millstream("dlq", "list", *at, "-o", "json").json["dead_letters"]

    asked = millstream("dlq", "redrive", letter["id"], 99, "--reason", "fixed", *at, "-o", "json")
    waited = millstream("dlq", "redrive", letter["id"], "--wait", "0", *at)
    work("bad-2", more=1)

    assert asked.code == 8
    assert (asked.json["accepted"], asked.json["missing"], asked.json["waiting"]) == ([letter["id"]], [99], [letter["id"]])
    assert waited.code == 8
    assert "1 still parked" in waited.out
    (again,) = [each for each in millstream("dlq", "list", *at, "-o", "json").json["dead_letters"] if each["id"] == letter["id"]]
    assert again["last_failure"] > letter["last_failure"]


def test_discarding_and_working_on_many_need_yes(millstream: Run, work: Work, service: str) -> None:
    """What cannot be undone, and what does much at once, is said first."""
    work("bad-1", "bad-2")
    at = ["--app", f"{service}:app"]

    assert "2 dead letters would be gone" in millstream("dlq", "discard", "--all", *at).err
    assert millstream("dlq", "discard", 1, *at).code == 6
    assert millstream("dlq", "redrive", "--all", *at).code == 6
    assert millstream("dlq", "redrive", *at).code == 2
    assert millstream("dlq", "redrive", 1, "--all", *at).code == 2
    assert millstream("dlq", "discard", 99, "--yes", *at).code == 3
    assert millstream("dlq", "discard", "--all", "--group", "other", "--yes", *at).code == 3
    assert millstream("dlq", "discard", "--all", "--yes", *at).out == "discard: 2 asked for\n"
    work("good")
    assert millstream("dlq", "list", *at, "-o", "json").json["total"] == 0


def test_a_replay_is_shown_first_and_done_with_yes(millstream: Run, work: Work, service: str) -> None:
    """Handlers that run effectively once do nothing twice unless it is asked for."""
    work("a", "b")
    at = ["--app", f"{service}:app"]

    shown = millstream("replay", "desk.accept", "--earliest", *at)
    document = millstream("replay", "desk.accept", "--from-time", "1h", *at, "-o", "json")
    done = millstream("replay", "desk.accept", "--earliest", "--yes", *at)
    lag = millstream("groups", "show", "desk.accept", *at, "-o", "json").json["lag"]["events"]

    assert shown.code == 6
    assert "desk.accept would be moved: 2 events again, 0 never" in shown.out
    assert (document.json["again"], document.json["done"], document.code) == (2, False, 6)
    assert done.code == 0
    assert lag == 2
    work("c")
    assert millstream("topics", *at, "-o", "json").json["topics"][0]["events"] == 3


def test_a_group_goes_back_so_many_events_in_each_partition_or_in_one(millstream: Run, work: Work, service: str) -> None:
    """From where it stands; shown first, and done with --yes."""
    work(*(f"o-{number}" for number in range(40)))
    at = ["--app", f"{service}:app", "-o", "json"]

    shown = millstream("replay", "desk.accept", "--back", 2, *at)
    done = millstream("replay", "desk.accept", "--back", 1, "--partition", "order.placed/3", "--yes", *at)
    again = millstream("replay", "desk.accept", "--back", 1, "--partition", "order.placed/3", *at)

    assert (shown.code, shown.json["done"], shown.json["again"]) == (6, False, 2 * 8)
    assert [each["committed"] - each["to"] for each in shown.json["partitions"]] == [2] * 8
    assert (done.code, done.json["again"], len(done.json["partitions"])) == (0, 1, 1)
    assert again.json["partitions"][0]["committed"] == done.json["partitions"][0]["to"]


@pytest.mark.parametrize(
    "flags",
    [
        [], ["--earliest", "--from-position", "3"], ["--from-position", "-1"], ["--from-time", "soon"], ["--back", "1", "--earliest"],
        ["--back", "0"], ["--back", "100000"], ["--back", "1", "--partition", "order.placed"],
    ],
)  # fmt: skip
def test_a_replay_says_from_where_exactly_once(millstream: Run, work: Work, service: str, flags: list[str]) -> None:
    """No default could be right."""
    work("a")

    assert millstream("replay", "desk.accept", *flags, "--app", f"{service}:app").code == 2


def test_dead_letters_of_a_store_are_shown_where_its_broker_is_not(millstream: Run, folder: Path) -> None:
    """A store is all that they need."""
    millstream("publish", "a.b", "--broker", "sqlite:///elsewhere.db")
    (folder / "elsewhere.db").rename(folder / "store.db")

    listed = millstream("dlq", "list", "--store", "sqlite:///store.db", "-o", "json")

    assert (listed.code, listed.json["total"]) == (0, 0)


def test_a_bridge_copies_what_is_there_and_says_how_much(millstream: Run, folder: Path) -> None:
    """As words and as JSON; run again it goes on, and it makes no source that is not there."""
    for number in range(3):
        millstream("publish", "order.placed", "--broker", "sqlite:///old.db", "--key", "k", "--data", f'{{"n": {number}}}')

    first = millstream("bridge", "sqlite:///old.db", "sqlite:///new.db", "-o", "json")
    again = millstream("bridge", "sqlite:///old.db", "sqlite:///new.db")
    nothing = millstream("bridge", "sqlite:///odl.db", "sqlite:///new.db")
    there = millstream("tail", "--broker", "sqlite:///new.db", "--format", "{data.n}")

    assert (first.json["events"], first.json["topics"], first.json["skipped"]) == (3, {"order.placed": 3}, 0)
    assert (again.code, again.out[:16]) == (0, "0 events copied ")
    assert (nothing.code, "odl.db does not exist" in nothing.err, (folder / "odl.db").exists()) == (3, True, False)
    assert there.out.split() == ["0", "1", "2"]


def test_a_backup_is_a_whole_file_and_replaces_none(millstream: Run, work: Work, service: str, folder: Path) -> None:
    """The copy can be opened in the original's place."""
    work("a", "bad")
    at = ["--app", f"{service}:app"]

    done = millstream("backup", "copy.db", *at, "-o", "json")
    again = millstream("backup", "copy.db", *at)
    nowhere = millstream("backup", "no/such/folder.db", *at)

    assert done.json["bytes"] == (folder / "copy.db").stat().st_size
    assert (again.code, nowhere.code) == (6, 6)
    copy = ["--broker", "sqlite:///copy.db", "-o", "json"]
    assert millstream("tail", *copy).out == millstream("tail", *at, "-o", "json").out
    assert millstream("dlq", "list", *copy).out == millstream("dlq", "list", *at, "-o", "json").out
