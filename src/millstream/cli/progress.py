"""Progress of long work: one line on a terminal's stderr, and a line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from millstream.cli.wording import number, span

#: Nothing is shown of what is done sooner than this.
QUIET = 0.7
BETWEEN = 0.1
BETWEEN_LINES = 10.0


class Progress:
    """Tells how far something is: count, share, rate and the time left. Writes to stderr only."""

    def __init__(self, what: str, total: int | None = None, *, unit: str = "events") -> None:
        self._what, self._unit = what, unit
        self._total = total
        self._started = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._next = self._started + (QUIET if self._terminal else BETWEEN_LINES)
        self._shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._shown and self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def at(self, done: int, total: int | None = None) -> None:
        """Note how much is done."""
        self._total = total if total is not None else self._total
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (BETWEEN if self._terminal else BETWEEN_LINES)
        line = self._line(done, now - self._started)
        sys.stderr.write(f"\r\x1b[K{line}" if self._terminal else f"{line}\n")
        sys.stderr.flush()
        self._shown = True

    def _line(self, done: int, passed: float) -> str:
        rate = done / passed if passed > 0 else 0.0
        parts = [f"{self._what} {number(done)}"]
        if self._total:
            parts[0] += f" of {number(self._total)} {self._unit} ({100 * done // self._total} %)"
        else:
            parts[0] += f" {self._unit}"
        parts.append(f"{number(round(rate))}/s")
        if self._total and rate > 0:
            parts.append(f"{span(max(0.0, (self._total - done) / rate))} left")
        return "  ".join(parts)
