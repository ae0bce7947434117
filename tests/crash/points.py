"""The points at which a process can be killed, enumerated from outside the code.

Every await at which a task was suspended and goes on, every statement on the way to a
commit, every write and every sync of a commit is a point with a name. The name says
what the process was about: the line of Millstream's code, or the tables that the
transaction has changed. `(name, n)` is the n-th passage of it.
"""

import asyncio
import os
import re
import signal
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import apsw
from tests.crash.disk import Op, WatchedDisk

import millstream

SOURCE = f"{Path(millstream.__file__).parent}{os.sep}"
CHANGE = re.compile(r"^\s*(insert|update|delete|replace|with)\b", re.IGNORECASE)
TABLE = re.compile(r"\b(?:into|update|from|table)\s+([a-z_]+)", re.IGNORECASE)


#: A VFS lives as long as somebody refers to it.
_kept: list[WatchedDisk] = []


class Point(NamedTuple):
    """A place, and which passage of it."""

    name: str
    passage: int


class Points:
    """Sees a process pass its points; deals it a signal at the chosen one, or writes all of them down."""

    def __init__(self, kill: Point | None, trace: Path | None, blow: int) -> None:
        self._kill = kill
        self._blow = blow
        self._passed: Counter[str] = Counter()
        self._trace = None if trace is None else os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def passing(self, name: str) -> None:
        """Come by a point."""
        self._passed[name] += 1
        if self._kill is not None and name == self._kill.name and self._passed[name] == self._kill.passage:
            os.kill(os.getpid(), self._blow)
        if self._trace is not None:
            os.write(self._trace, f"{name}\n".encode())


def watch(kill: Point | None, trace: Path | None, blow: int = signal.SIGKILL) -> None:
    """Have this process pass its points from now on; before anything is opened."""
    points = Points(kill, trace, blow)
    _watch_awaits(points)
    _kept.append(_watch_disk(points, _watch_statements(points)))


def _watch_awaits(points: Points) -> None:
    run: Callable[[asyncio.Handle], None] = asyncio.Handle._run

    def watched(handle: asyncio.Handle) -> None:
        task = getattr(getattr(handle, "_callback", None), "__self__", None)
        if isinstance(task, asyncio.Task) and (name := _suspended_at(task.get_coro())):
            points.passing(f"await {name}")
        run(handle)

    asyncio.Handle._run = watched  # type: ignore[method-assign]


def _suspended_at(waiting: Any) -> str:
    """Name the lines of Millstream's at which a task is suspended, one awaiting the next; empty for a task of others."""
    lines: list[str] = []
    while waiting is not None:
        frame: FrameType | None = getattr(waiting, "cr_frame", None) or getattr(waiting, "ag_frame", None)
        # A task that has not begun yet has nothing behind it.
        if frame is not None and frame.f_lasti >= 0 and frame.f_code.co_filename.startswith(SOURCE):
            lines.append(f"{frame.f_code.co_filename.removeprefix(SOURCE)}:{frame.f_lineno} {frame.f_code.co_name}")
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "ag_await", None)
    return " > ".join(lines)


class _Transaction:
    """What the write transaction of this process has changed so far; SQLite has one at a time per file."""

    def __init__(self) -> None:
        self.tables: dict[str, set[str]] = defaultdict(set)

    def name(self, file: str) -> str:
        return "+".join(sorted(self.tables[file])) or "nothing"


def _watch_statements(points: Points) -> _Transaction:
    transaction = _Transaction()

    def opened(connection: apsw.Connection) -> None:
        file = os.path.basename(connection.filename)

        def executing(_cursor: Any, sql: str, _bindings: Any) -> bool:
            words = sql.lower().split()
            if words[:1] == ["begin"]:
                transaction.tables[file].clear()
                points.passing(f"begin {file}")
            elif words[:1] == ["commit"]:
                points.passing(f"commit {file} {transaction.name(file)}")
            elif CHANGE.match(sql):
                table = TABLE.search(sql)
                transaction.tables[file].add(table[1] if table else words[0])
                points.passing(f"{words[0]} {table[1] if table else ''}")
            return True

        connection.exec_trace = executing

    apsw.connection_hooks.append(opened)
    return transaction


def _watch_disk(points: Points, transaction: _Transaction) -> WatchedDisk:
    def change(op: Op, act: Callable[[], None]) -> None:
        file = os.path.basename(op.file)
        doing = transaction.name(file.removesuffix("-wal").removesuffix("-journal"))
        # Until the sync comes, one write of a transaction is like another.
        points.passing(f"{op.kind} {file} {doing}" if op.kind == "sync" else f"{op.kind} {file}")
        act()
        if op.kind == "sync":
            points.passing(f"synced {file} {doing}")

    return WatchedDisk("killing", change, default=True)


def choose(trace: Path, most: int | None) -> list[Point]:
    """Choose the points to kill at: of each name at most so many passages, or all of them."""
    counts = Counter(trace.read_text().splitlines())
    return [Point(name, passage) for name, count in counts.items() for passage in spread(name, count, most)]


def spread(name: str, count: int, most: int | None) -> Sequence[int]:
    """Choose numbers from 1 to `count`, evenly, and beginning anywhere, but for one name always the same."""
    if most is None or count <= most:
        return range(1, count + 1)
    return sorted({1 + (zlib.crc32(name.encode()) + i * count // most) % count for i in range(most)})
