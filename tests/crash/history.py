"""A recorded history, and what may not be in it.

Every producer sends values `process-counter`, unique for ever, and writes down before
a send that it begins and after it how it ended; handlers whose effect is not in a
database write down that they ran. Each process appends whole lines to a file of its
own, which `kill -9` cannot take back. `check` works on these and on what the log and
the store hold in the end; it knows nothing of how Millstream works.
"""

import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Ending = Literal["acknowledged", "failed", "unknown"]


class Journal:
    """One process's lines; each is written whole, or not at all, before the call returns."""

    def __init__(self, folder: Path, process: str) -> None:
        self.process = process
        self._counter = 0
        self._file = os.open(folder / f"{process}.journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def value(self) -> str:
        """Give the next value that nobody else ever sends."""
        self._counter += 1
        return f"{self.process}-{self._counter}"

    def sending(self, key: str, value: str) -> None:
        """Note that a send begins; if nothing follows, nobody knows how it ended."""
        self._write("sending", key, value)

    def acknowledged(self, key: str, value: str) -> None:
        """Note that the send was acknowledged: from now on it may not be lost."""
        self._write("acknowledged", key, value)

    def failed(self, key: str, value: str) -> None:
        """Note that the send was refused: it must never be seen."""
        self._write("failed", key, value)

    def repeating(self, key: str, value: str) -> None:
        """Note that the same event is sent once more: the log may hold it again, but it has its effect once."""
        self._write("repeating", key, value)

    def handled(self, key: str, value: str) -> None:
        """Note that a handler ran to its end."""
        self._write("handled", key, value)

    def _write(self, what: str, key: str, value: str) -> None:
        self.write(json.dumps([what, key, value, time.monotonic_ns()]).encode() + b"\n")

    def write(self, line: bytes) -> None:
        """Append a whole line."""
        os.write(self._file, line)

    def close(self) -> None:
        os.close(self._file)


@dataclass(frozen=True)
class Stored:
    """One event as the log holds it."""

    partition: str
    position: int
    key: str
    value: str


@dataclass(frozen=True)
class Reader:
    """What one group did, in its order, with what the log holds.

    `seen` are (key, value). With `once` an effect may not be repeated; without it a
    delivery may come again, but never overtake another of its key. `dead` are the
    values that ended as dead letters.
    """

    name: str
    seen: Sequence[tuple[str, str]]
    once: bool
    dead: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Violation:
    """A promise that was broken, and the evidence."""

    kind: str
    text: str


@dataclass
class History:
    """All that the producers wrote down."""

    sends: dict[str, tuple[str, Ending]] = field(default_factory=dict[str, tuple[str, Ending]])
    """value -> (key, how the send ended), in the order of each process."""
    repeated: set[str] = field(default_factory=set[str])
    handled: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    @classmethod
    def read(cls, folder: Path) -> "History":
        """Read the journals of a folder, in the order in which things happened."""
        lines = [json.loads(line) for path in folder.glob("*.journal") for line in path.read_text().splitlines()]
        history = cls()
        for what, key, value, _ in sorted(lines, key=lambda line: line[3]):
            history.add(what, key, value)
        return history

    def add(self, what: str, key: str, value: str) -> None:
        """Take in one line."""
        if what == "handled":
            self.handled.append((key, value))
        elif what == "repeating":
            self.repeated.add(value)
        elif what == "sending":
            self.sends[value] = (key, "unknown")
        elif what == "acknowledged":
            self.sends[value] = (key, "acknowledged")
        else:
            self.sends[value] = (key, "failed")

    @property
    def acknowledged(self) -> list[str]:
        return [value for value, (_, ending) in self.sends.items() if ending == "acknowledged"]


def check(history: History, log: Sequence[Stored], readers: Iterable[Reader] = ()) -> list[Violation]:
    """Everything that is wrong with a history, once all readers have drained the log."""
    found = [*_log(history, log)]
    for reader in readers:
        found += _reader(log, reader)
    return found


def recovered(history: History, log: Sequence[Stored]) -> int:
    """How many sends of unknown outcome are in the log after all; allowed, and worth counting."""
    return sum(history.sends.get(stored.value, ("", ""))[1] == "unknown" for stored in log)


def _log(history: History, log: Sequence[Stored]) -> Iterable[Violation]:
    at: dict[tuple[str, int], str] = {}
    for stored in log:
        other = at.setdefault((stored.partition, stored.position), stored.value)
        if other != stored.value:
            yield Violation("inconsistent positions", f"{stored.partition}/{stored.position} holds {other} and {stored.value}")
        sent = history.sends.get(stored.value)
        if sent is None:
            yield Violation("unexpected", f"nobody sent {stored.value}, which the log holds")
        elif sent[1] == "failed":
            yield Violation("aborted read", f"the send of {stored.value} was refused, and the log holds it")
        elif sent[0] != stored.key:
            yield Violation("unexpected", f"{stored.value} was sent with the key {sent[0]!r}, and is stored with {stored.key!r}")
    for value, count in Counter(stored.value for stored in log).items():
        if count > 1 and value not in history.repeated:
            yield Violation("duplicate", f"the log holds {value} {count} times")
    there = {stored.value for stored in log}
    for value in history.acknowledged:
        if value not in there:
            yield Violation("lost", f"{value} was acknowledged, and is not in the log")
    yield from _gaps(log)
    last: dict[tuple[str, str], int] = {}
    seen = set[str]()
    for stored in sorted(log, key=lambda stored: (stored.partition, stored.position)):
        if stored.value in seen:
            continue
        seen.add(stored.value)
        process, _, counter = stored.value.rpartition("-")
        if last.get((process, stored.key), -1) > int(counter):
            yield Violation("nonmonotonic send", f"{stored.value} lies behind {process}-{last[process, stored.key]} of the same key")
        last[process, stored.key] = int(counter)


def _gaps(log: Sequence[Stored]) -> Iterable[Violation]:
    positions: dict[str, list[int]] = defaultdict(list)
    for stored in log:
        positions[stored.partition].append(stored.position)
    for partition, taken in positions.items():
        if sorted(set(taken)) != list(range(min(taken), max(taken) + 1)):
            yield Violation("gap", f"the positions of {partition} are not contiguous: {sorted(taken)}")


def _reader(log: Sequence[Stored], reader: Reader) -> Iterable[Violation]:
    order: dict[str, list[str]] = defaultdict(list)
    for key, value in dict.fromkeys((s.key, s.value) for s in sorted(log, key=lambda s: (s.partition, s.position))):
        if value not in reader.dead:
            order[key].append(value)
    seen: dict[str, list[str]] = defaultdict(list)
    for key, value in reader.seen:
        seen[key].append(value)
    for value, count in Counter(value for _, value in reader.seen).items():
        if reader.once and count > 1:
            yield Violation("double effect", f"{reader.name}: {value} took effect {count} times")
        if value in reader.dead:
            yield Violation("double effect", f"{reader.name}: {value} took effect, and is a dead letter")
    for key in order.keys() | seen.keys():
        expected, got = order[key], list(dict.fromkeys(seen[key]))
        known = set(expected) | reader.dead
        for value in got:
            if value not in known:
                yield Violation("unexpected", f"{reader.name}: saw {value} of key {key!r}, which is not in the log")
        if unseen := sorted(set(expected) - set(got)):
            yield Violation("unseen", f"{reader.name}: never saw {', '.join(unseen)} of key {key!r}")
        there, alive = set(got), set(expected)
        if [value for value in got if value in alive] != [value for value in expected if value in there]:
            yield Violation("out of order", f"{reader.name}: key {key!r} was published as {expected}, and seen as {got}")
