"""Log lines: for people or machines, with the delivery they were written for."""

import io
import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from millstream import App, event
from millstream.app.logs import MOST_LINES, Failures, set_up
from millstream.app.settings import Settings
from millstream.contracts.envelope import Envelope
from millstream.core.broker import Partition
from millstream.core.observe import Outcome
from millstream.testing import TestApp

log = logging.getLogger("shop.desk")


@event("log.wanted", key="id")
@dataclass(frozen=True)
class Wanted:
    """Something to write about."""

    id: str


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where logs go; the test's own logging is put back afterwards."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield io.StringIO()
    root.handlers[:] = before
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """The JSON documents that were written by the tests."""
    return [line for line in map(json.loads, stream.getvalue().splitlines()) if line["logger"] != "asyncio"]


async def test_a_line_written_in_a_handler_carries_the_event_and_its_correlation(stream: io.StringIO) -> None:
    """In async handlers, in threads, and in whatever a handler starts."""
    set_up(Settings(log_format="json"), stream=stream, always={"worker": 3})
    app = App("desk")

    @app.subscriber(Wanted, group="a")
    async def in_the_loop(wanted: Wanted) -> None:
        log.info("hello %s", wanted.id, extra={"basket": 7})

    @app.subscriber(Wanted, group="b")
    def in_a_thread(wanted: Wanted) -> None:
        log.info("from a thread")

    async with TestApp(app) as test:
        (envelope,) = await test.publish(Wanted("w-1"))
    log.info("outside")

    hello = next(line for line in lines(stream) if line["message"] == "hello w-1")
    threaded = next(line for line in lines(stream) if line["message"] == "from a thread")
    outside = next(line for line in lines(stream) if line["message"] == "outside")
    expected = {"type": "log.wanted", "key": "w-1", "event": envelope.id, "correlation": envelope.id, "attempt": 1, "worker": 3}
    assert {name: hello[name] for name in expected} == expected
    assert (hello["group"], hello["handler"], hello["level"], hello["basket"]) == ("a", "in_the_loop", "info", 7)
    assert {name: threaded[name] for name in expected} == expected
    assert threaded["group"] == "b"
    assert "event" not in outside


async def test_lines_for_people_name_the_event_and_cannot_be_forged(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line break in an event's text does not begin a line of its own."""
    set_up(Settings(log_format="text"), stream=stream)
    app = App("desk")

    @app.subscriber(Wanted)
    async def note(wanted: Wanted) -> None:
        log.warning("it says %s", "x\n12:00:00.000 INFO root: all is well\x1b[2J")

    async with TestApp(app) as test:
        await test.publish(Wanted("w-1"))

    (line,) = [line for line in stream.getvalue().splitlines() if "shop.desk" in line]
    assert r"WARNING shop.desk: it says x\n12:00:00.000 INFO root: all is well\x1b[2J  [group=desk.note " in line
    assert " type=log.wanted key=w-1 event=" in line


def test_errors_keep_their_stack_and_lose_their_secrets(stream: io.StringIO) -> None:
    """A client library quotes URLs with passwords in its errors."""
    set_up(Settings(log_format="json"), stream=stream)

    try:
        raise OSError("amqp://me:s3cret@host refused")
    except OSError:
        log.exception("cannot reach %s", "amqp://me:s3cret@host")

    (line,) = lines(stream)
    assert line["message"] == "cannot reach amqp://me:***@host"
    assert line["error"] == "OSError: amqp://me:***@host refused"
    assert "Traceback" in line["stack"]
    assert "s3cret" not in stream.getvalue()


def test_the_level_is_kept(stream: io.StringIO) -> None:
    """Less important lines are not written."""
    set_up(Settings(log_level="warning"), stream=stream)

    log.info("no")
    log.warning("yes")

    assert [line.partition(": ")[2] for line in stream.getvalue().splitlines()] == ["yes"]


def test_failures_are_written_a_few_of_each_batch(stream: io.StringIO) -> None:
    """A flood of failures does not become a flood of lines."""
    set_up(Settings(log_format="json"), stream=stream)
    envelope = Envelope(id="i", source="/s", type="t", time=1, correlation="c")

    def outcome(kind: Any, envelope: Envelope | None = envelope) -> Outcome:
        return Outcome(kind, "g", "h", Partition("topic", 0), 5, envelope, error="boom")

    observer = Failures()
    observer.started("g", [])
    observer.settled([outcome("handled"), outcome("retry"), outcome("parked", None)])
    observer.settled([outcome("retry")] * (MOST_LINES + 5))

    first, second, *more = lines(stream)
    assert (first["level"], first["message"], first["correlation"]) == ("warning", "t i: retry, attempt 1 of group g: boom", "c")
    assert (second["level"], second["message"]) == ("error", "topic at 5: parked, attempt 1 of group g: boom")
    assert len(more) == MOST_LINES + 1
    assert more[-1]["message"] == "5 more deliveries failed at the same time"


def test_times_are_written_in_utc_for_machines(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the zone of the machine is."""
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    set_up(Settings(log_format="json"), stream=stream)

    log.handle(logging.makeLogRecord({"name": "shop.desk", "msg": "x", "created": 1_893_456_000.25, "levelno": 20, "levelname": "INFO"}))
    os.environ.pop("TZ")
    time.tzset()

    assert lines(stream)[0]["time"] == "2030-01-01T00:00:00.250Z"
