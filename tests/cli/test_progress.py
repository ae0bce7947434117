"""Progress of long work: on stderr, one line, and silent when it is quick."""

import sys

import pytest

from millstream.cli import progress
from millstream.cli.progress import Progress


class Stderr:
    """What is written, by a terminal or not."""

    def __init__(self, *, terminal: bool) -> None:
        self.text = ""
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic time, which a test moves."""
    time = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: time[0])
    return time


def shown(monkeypatch: pytest.MonkeyPatch, now: list[float], *, terminal: bool, seconds: float, total: int | None = 1000) -> str:
    """What somebody sees of work that takes so long, noted ten times a second."""
    stderr = Stderr(terminal=terminal)
    monkeypatch.setattr(sys, "stderr", stderr)
    steps = round(seconds * 10)
    with Progress("copied", total, unit="pages") as work:
        for step in range(1, steps + 1):
            now[0] += 0.1
            work.at(step * 1000 // steps)
    return stderr.text


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_done_at_once_is_not_talked_about(monkeypatch: pytest.MonkeyPatch, now: list[float], *, terminal: bool) -> None:
    """A flash of progress only distracts."""
    assert shown(monkeypatch, now, terminal=terminal, seconds=0.6) == ""


def test_a_terminal_shows_one_line_that_moves_and_goes(monkeypatch: pytest.MonkeyPatch, now: list[float]) -> None:
    """Count, share, rate and the time left; the line is cleared at the end."""
    text = shown(monkeypatch, now, terminal=True, seconds=2)

    assert "copied 500 of 1 000 pages (50 %)  500/s  1.0 s left" in text
    assert "\n" not in text
    assert text.endswith("\r\x1b[K")


def test_elsewhere_a_line_comes_every_ten_seconds(monkeypatch: pytest.MonkeyPatch, now: list[float]) -> None:
    """A log is not flooded, and it has no control characters."""
    text = shown(monkeypatch, now, terminal=False, seconds=25)

    assert len(text.splitlines()) == 2
    assert "\x1b" not in text
    assert text.startswith("copied 4")


def test_without_a_total_the_count_and_the_rate_are_shown(monkeypatch: pytest.MonkeyPatch, now: list[float]) -> None:
    """Nobody guesses what is left."""
    text = shown(monkeypatch, now, terminal=True, seconds=2, total=None)

    assert "copied 500 pages  500/s" in text
    assert "left" not in text
