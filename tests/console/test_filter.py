"""Filters find exactly what fits, by whatever way they look, and say honestly how far they have looked."""

import random
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from millstream.console import stored_events
from millstream.console.filter import parse
from millstream.console.projection import Rows
from millstream.console.read_model import ReadModel
from millstream.console.schema import SCHEMA
from millstream.console.stored_events import StoredEvents
from millstream.core.facts import Deliveries, DeliveryFact
from millstream.stores.sqlite import SqliteStore
from millstream.stores.sqlite_file import SqliteFile

TYPES = ("order.created", "order.shipped", "stock.reserved")
FILTERS = (
    "",
    "type:order",
    "type:order.created",
    "type:ORDER.C",
    "topic:stock",
    "key:k-3",
    "key:K-",
    "k-7",
    "e-12",
    "corr:c-2",
    "id:e-4",
    "source:shop",
    "group:mail",
    "status:failed",
    "status:dead group:stock",
    "status:handled -group:mail",
    "NOT status:failed type:order",
    "key:k-1 OR key:k-2",
    "type:shipped status:duplicate OR e-99",
    "version:v2",
    "by:mail",
    "nothing-like-it",
    "type:nothing",
    '"k-5"',
    "since:1h",
    "-since:1h key:k",
    "100%_\\",
)


@asynccontextmanager
async def stored(folder: Path, count: int = 300) -> AsyncGenerator[tuple[StoredEvents, list[dict[str, Any]]]]:
    """A read model with some events, and the same events as a list that is looked through by hand."""
    chance, now = random.Random(7), time.time_ns() // 1000
    facts: list[Deliveries] = []
    plain: list[dict[str, Any]] = []
    for n in range(count):
        # Half a minute from where any whole age ends: none comes to its end while a test runs.
        at = now - (count - n) * 60_000_000 + 30_000_000
        type_, group = chance.choice(TYPES), chance.choice(("mail.send", "stock.reserve"))
        key = None if chance.random() < 0.2 else f"k-{chance.randrange(20)}"
        kind: Any = chance.choices(("handled", "retry", "parked", "duplicate"), (8, 1, 1, 2))[0]
        by = f"{group}/1" if chance.random() < 0.3 else None
        topic, source = chance.choice((type_, "all.orders")), chance.choice(("/shop", "/desk"))
        event = {
            "id": f"e-{n}", "source": source, "type": type_, "topic": topic, "key": key, "time": at / 1e6, "version": chance.choice((1, 2)),
            "correlation": f"c-{n % 50}", "by": by, "outcomes": [(group, kind)],
        }  # fmt: skip
        plain.append(event)
        told = DeliveryFact(
            kind, "h", event["topic"], 0, n, event["id"], event["source"], type_, key, at, event["correlation"], None, by, event["version"],
            1, at, 0.0, 0.0,
        )  # fmt: skip
        facts.append(Deliveries("shop", "p", at, group, (("h", kind, 1),), 1, (told,)))
    async with SqliteStore(SqliteFile(folder / "console.db")) as store:
        await store.script(SCHEMA)
        async with store.transaction() as tx:
            Rows(facts).write(tx)
        yield ReadModel(store).events, plain


def fits(text: str, event: dict[str, Any]) -> bool:
    """The meaning of a filter, told again in the plainest way."""
    either: list[list[bool]] = [[]]
    negated = False
    for word in text.split():
        if word == "OR":
            either.append([])
        elif word == "NOT":
            negated = True
        else:
            turned, bare = word.startswith("-"), word.removeprefix("-")
            field, colon, value = bare.partition(":")
            either[-1].append(_fits_one(field if colon else "", (value if colon else bare).strip('"'), event) != (turned != negated))
            negated = False
    return any(all(words) for words in either)


def _fits_one(field: str, value: str, event: dict[str, Any]) -> bool:
    statuses = {"failed": ("retry", "parked"), "dead": ("parked",)}
    match field:
        case "group":
            return any(value in group for group, _ in event["outcomes"])
        case "status":
            return any(kind in statuses.get(value, (value,)) for _, kind in event["outcomes"])
        case "version":
            return str(event["version"]) == value.removeprefix("v")
        case "since":
            return event["time"] >= time.time() - 3600
        case "":
            return any(value.lower() in (event[name] or "").lower() for name in ("id", "key", "correlation", "type", "source"))
        case _:
            return value.lower() in (event[{"corr": "correlation"}.get(field, field)] or "").lower()


def exactly(text: str, events: list[dict[str, Any]]) -> list[str]:
    """What a filter finds; where a word is exactly a key, an id or a correlation, only that is meant."""
    found = [event for event in events if fits(text, event)]
    if "OR" in text:
        return [event["id"] for event in found]
    for word in text.split():
        field, colon, value = word.strip('"').partition(":")
        for name, column in (("key", "key"), ("id", "id"), ("corr", "correlation")):
            if (field == name or not colon) and (wanted := value if colon else field) in {event[column] for event in events}:
                return [event["id"] for event in found if event[column] == wanted]
    return [event["id"] for event in found]


@pytest.mark.parametrize("text", FILTERS)
async def test_pages_have_exactly_what_fits_the_newest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """However small the steps in which is looked, and however few are wanted at a time."""
    monkeypatch.setattr(stored_events, "STEP", 40)
    monkeypatch.setattr(stored_events, "LISTED", 7)
    monkeypatch.setattr(stored_events, "PATIENCE", 0.0)
    async with stored(tmp_path) as (events, plain):
        found: list[str] = []
        scanned, before, by = 0, None, ""
        while True:
            page = await events.page(parse(text), before=before, limit=5)
            found += [event["id"] for event in page["events"]]
            scanned, before, by = scanned + page["scanned"], page["next"], page["by"]
            assert page["more"] == (before is not None)
            if before is None:
                break

        assert found == exactly(text, plain)[::-1]
        assert page["total"] == 300 or text.startswith("since")
        if by == "scan":
            assert scanned == page["total"]


@pytest.mark.parametrize("topic", ["order.created", "all.orders", "none"])
async def test_a_topic_has_its_events_whatever_their_type(tmp_path: Path, topic: str) -> None:
    """Events on the topic of their type's name, and others."""
    async with stored(tmp_path) as (events, plain):
        page = await events.page(parse(""), topic=topic, limit=500)

        assert [event["id"] for event in page["events"]] == [event["id"] for event in plain if event["topic"] == topic][::-1]
        assert page["by"] == "index"


async def test_events_come_with_what_became_of_them(tmp_path: Path) -> None:
    """Each group and kind once."""
    async with stored(tmp_path) as (events, plain):
        page = await events.page(parse(""), limit=500)

        assert [event["outcomes"] for event in page["events"]] == [event["outcomes"] for event in plain][::-1]
        assert [event["by"] for event in page["events"]] == [event["by"] for event in plain][::-1]


@pytest.mark.parametrize("text", ["e-7", "k-3", "c-9"])
async def test_a_search_finds_an_id_a_key_and_a_correlation(tmp_path: Path, text: str) -> None:
    """The newest first."""
    async with stored(tmp_path) as (events, plain):
        found = await events.search(text)

        wanted = [event["id"] for event in plain if text in (event["id"], event["key"], event["correlation"])][::-1]
        assert [event["id"] for event in found] == wanted[:10]


async def test_keys_are_found_in_every_era(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their index is cut into pieces; a question goes through all of them, from the newest on."""
    monkeypatch.setattr(stored_events, "ERA", 4)
    async with stored(tmp_path) as (events, plain):
        wanted = [event["id"] for event in plain if event["key"] == "k-3"][::-1]
        page = await events.page(parse("key:k-3"), limit=500)

        assert [event["id"] for event in page["events"]] == wanted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("typ:order", "did you mean type?"),
        ("colour:red", "there is no field colour"),
        ("status:maybe", "status is one of"),
        ("since:yesterday", "since is a time like"),
        ("since:" + "9" * 30 + "s", "since is a time like"),
        ("x" * 2000, "2000 characters"),
        ("a " * 50, "20 words"),
    ],
)
def test_what_cannot_be_understood_is_named(text: str, says: str) -> None:
    """And nothing is guessed."""
    with pytest.raises(ValueError, match=says.replace("?", "\\?")):
        parse(text)


ODD = ('type:"a b" c', "A:b:c", '"unclosed', "-", "NOT", "OR", "OR OR", '\\"', "key:", "'; drop table event; --")


@pytest.mark.parametrize("text", ODD)
async def test_odd_filters_are_harmless(tmp_path: Path, text: str) -> None:
    """They find something or nothing."""
    async with stored(tmp_path, 20) as (events, _):
        page = await events.page(parse(text))

        assert page["total"] == 20
