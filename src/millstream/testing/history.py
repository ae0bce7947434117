"""A recorded history of sends and polls, and the anomalies in it.

Every producer sends values `process-counter`, unique for ever, and writes down before
a send that it begins and after it how it ended. Consumers write down what each poll
gave them, what they settled, and when partitions moved; handlers whose effect is not in
a database write down that they ran. Each process appends whole lines to a file of its
own, which `kill -9` cannot take back. `check` works on these alone, or on what a log
and a store hold in the end; it knows nothing of how Millstream works.

The anomalies, by the names that `Violation.kind` has:

- `lost`: acknowledged, and never read although what the same producer sent to the same key before or after it was (or not in the log).
- `unseen`: acknowledged, and not read by the end of the drain, with nothing read behind it.
- `aborted read`: read, although its send was refused.
- `precommitted read`: read before its transaction was asked to commit.
- `unexpected`: read, although nobody sent it, or not with this key.
- `inconsistent positions`: two values at one position.
- `duplicate`: one value at several positions.
- `gap`: positions of a partition that nothing lies at (only where a log is given: brokers with transactions leave them).
- `nonmonotonic send`: two sends of one producer and key lie the other way round.
- `internal poll skip`, `internal nonmonotonic poll`: positions jumped over, or going back, inside one poll.
- `poll skip`, `nonmonotonic poll`: the same between two polls of one consumer, without a move of partitions in between.
- `out of order`: what one group saw of a key is not the order in the log.
- `divergence`: after the drain two groups have not read the same values.
- `unsettled`: taken by a consumer that ended without settling it, and not delivered again to anyone who did.
- `double effect`: an effect that was to happen once happened twice, or to a dead letter.

Not looked for: cycles between transactions that write and read each other's values. No transaction of Millstream reads
what another one has not committed, and each writes values that nobody else ever writes, so that there is nothing to overwrite.

Allowed, and counted: sends of unknown outcome that arrived (`recovered`), and the
longest time from an acknowledgement to the first read (`worst_lag`).
"""

import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

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

    def committing(self, key: str, value: str) -> None:
        """Note that the transaction of a send is about to be committed: before this nobody may read it."""
        self._write("committing", key, value)

    def polled(self, consumer: str, records: Sequence["Stored"]) -> None:
        """Note what one poll gave to a consumer, named `group/member`."""
        items = [(r.partition, r.position, r.key, r.value) for r in records]
        self.write(json.dumps(["polled", consumer, items, time.monotonic_ns()]).encode() + b"\n")

    def settled(self, consumer: str, values: Sequence[str]) -> None:
        """Note that a consumer is about to tell the broker that these are done."""
        self.write(json.dumps(["settled", consumer, list(values), time.monotonic_ns()]).encode() + b"\n")

    def moved(self, consumer: str) -> None:
        """Note that partitions were given to a consumer or taken from it."""
        self._write("moved", consumer, "")

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
class Poll:
    """What one poll gave to one consumer."""

    consumer: str
    records: Sequence[Stored]
    at: int
    """Nanoseconds of the machine's monotonic clock."""
    moved: bool = False
    """Whether partitions have moved since this consumer's poll before."""

    @property
    def group(self) -> str:
        return self.consumer.partition("/")[0]


@dataclass(frozen=True)
class Reader:
    """What one group did, in its order, with what the log holds.

    `seen` are (key, value). With `once` an effect may not be repeated; without it a
    delivery may come again, but never overtake another of its key. `dead` are the
    values that ended as dead letters. With `topic` it reads that part of the log alone.
    """

    name: str
    seen: Sequence[tuple[str, str]]
    once: bool
    dead: frozenset[str] = frozenset()
    topic: str | None = None


@dataclass(frozen=True)
class Violation:
    """A promise that was broken, and the evidence."""

    kind: str
    text: str


@dataclass
class History:
    """All that was written down."""

    sends: dict[str, tuple[str, Ending]] = field(default_factory=dict[str, tuple[str, Ending]])
    """value -> (key, how the send ended), in the order of each process."""
    repeated: set[str] = field(default_factory=set[str])
    handled: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    polls: list[Poll] = field(default_factory=list[Poll])
    settled: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """group -> the values that any of its consumers has settled."""
    acknowledged_at: dict[str, int] = field(default_factory=dict[str, int])
    committing_at: dict[str, int] = field(default_factory=dict[str, int])
    _moved: set[str] = field(default_factory=set[str])

    @classmethod
    def read(cls, folder: Path) -> "History":
        """Read the journals of a folder, in the order in which things happened."""
        # A process that writes now, or died while it did, has not finished its last line.
        whole = [path.read_text().rpartition("\n")[0] for path in folder.glob("*.journal")]
        lines = [json.loads(line) for text in whole for line in text.splitlines()]
        history = cls()
        for what, key, value, at in sorted(lines, key=lambda line: line[3]):
            history.add(what, key, value, at)
        return history

    def add(self, what: str, key: str, value: Any, at: int = 0) -> None:
        """Take in one line: what a `Journal` has written."""
        match what:
            case "handled":
                self.handled.append((key, value))
            case "repeating":
                self.repeated.add(value)
            case "sending":
                self.sends[value] = (key, "unknown")
            case "acknowledged":
                self.sends[value] = (key, "acknowledged")
                self.acknowledged_at[value] = at
            case "failed":
                self.sends[value] = (key, "failed")
            case "committing":
                self.committing_at[value] = at
            case "polled":
                self.polls.append(Poll(key, [Stored(*item) for item in value], at, key in self._moved))
                self._moved.discard(key)
            case "settled":
                self.settled[key.partition("/")[0]].update(value)
            case "moved":
                self._moved.add(key)
            case _:
                raise ValueError(f"a journal has no lines of the kind {what!r}")

    @property
    def acknowledged(self) -> list[str]:
        """The values whose loss would be one."""
        return [value for value, (_, ending) in self.sends.items() if ending == "acknowledged"]

    @property
    def groups(self) -> list[str]:
        """The groups whose polls were written down."""
        return sorted({poll.group for poll in self.polls})


def check(history: History, log: Sequence[Stored], readers: Iterable[Reader] = ()) -> list[Violation]:
    """Everything that is wrong with a history, once all readers have drained the log, which holds no gaps."""
    found = [*_log(history, log), *_gaps(log)]
    for value in _missing(history, log):
        found.append(Violation("lost", f"{value} was acknowledged, and is not in the log"))
    for reader in readers:
        found += _reader(log, reader)
    return found


def check_polls(history: History, readers: Iterable[Reader] = (), *, ordered: bool = True, positions: bool = True) -> list[Violation]:
    """Everything that is wrong with what consumers have polled, once every group has drained all it subscribes to.

    All groups are taken to read the same topics, from their beginning; what they have
    polled together is the log that `readers` are held to. Without `positions`, those of
    the records mean nothing (a queue numbers each delivery anew); without `ordered`, a
    key's order is not promised either.
    """
    everything = dict.fromkeys(record for poll in history.polls for record in poll.records)
    log = sorted(everything, key=lambda record: (record.partition, record.position)) if positions else list(everything)
    found = [*(_log(history, log) if positions else _sent(history, log))]
    for group in history.groups:
        polls = [poll for poll in history.polls if poll.group == group]
        read = {record.value: record for poll in polls for record in poll.records}
        about = [*_unread(history, read.keys()), *_precommitted(history, polls)]
        if positions:
            about += _jumps(polls, log)
        if ordered:
            first = list(dict.fromkeys(record for poll in polls for record in poll.records))
            about += _order(first, log) if positions else _sends((record.key, record.value) for record in first)
        unsettled = sorted(read.keys() - history.settled[group])
        about += [Violation("unsettled", f"{value} was delivered, and nobody has settled it") for value in unsettled]
        found += [Violation(violation.kind, f"{group}: {violation.text}") for violation in about]
    found += _divergence(history)
    for reader in readers:
        found += _reader(log, reader, ordered=ordered, positions=positions)
    return found


def recovered(history: History, log: Sequence[Stored]) -> int:
    """How many sends of unknown outcome are in the log after all; allowed, and worth counting."""
    return sum(history.sends.get(stored.value, ("", ""))[1] == "unknown" for stored in log)


def worst_lag(history: History) -> float:
    """The longest time from the acknowledgement of a send to the first poll that gave it to anybody, in seconds."""
    first: dict[str, int] = {}
    for poll in history.polls:
        for record in poll.records:
            first.setdefault(record.value, poll.at)
    lags = [at - history.acknowledged_at[value] for value, at in first.items() if value in history.acknowledged_at]
    return max([0, *lags]) / 1e9


def _log(history: History, log: Sequence[Stored]) -> Iterable[Violation]:
    at: dict[tuple[str, int], str] = {}
    for stored in log:
        other = at.setdefault((stored.partition, stored.position), stored.value)
        if other != stored.value:
            yield Violation("inconsistent positions", f"{stored.partition}/{stored.position} holds {other} and {stored.value}")
    yield from _sent(history, log)
    for value, count in Counter(stored.value for stored in log).items():
        if count > 1 and value not in history.repeated:
            yield Violation("duplicate", f"the log holds {value} {count} times")
    yield from _sends([(s.key, s.value) for s in sorted(log, key=lambda s: (s.partition, s.position))])


def _sent(history: History, log: Sequence[Stored]) -> Iterable[Violation]:
    for stored in log:
        sent = history.sends.get(stored.value)
        if sent is None:
            yield Violation("unexpected", f"nobody sent {stored.value}, which the log holds")
        elif sent[1] == "failed":
            yield Violation("aborted read", f"the send of {stored.value} was refused, and the log holds it")
        elif sent[0] != stored.key:
            yield Violation("unexpected", f"{stored.value} was sent with the key {sent[0]!r}, and is stored with {stored.key!r}")


def _sends(log: Iterable[tuple[str, str]]) -> Iterable[Violation]:
    """What one producer has sent to one key, as pairs of key and value, lies in the order of its counter."""
    last: dict[tuple[str, str], int] = {}
    for key, value in dict.fromkeys(log):
        process, counter = _of(value)
        if last.get((process, key), -1) > counter:
            yield Violation("nonmonotonic send", f"{value} lies behind {process}-{last[process, key]} of the same key")
        last[process, key] = counter


def _missing(history: History, log: Sequence[Stored]) -> list[str]:
    there = {stored.value for stored in log}
    return [value for value in history.acknowledged if value not in there]


def _unread(history: History, read: Set[str]) -> Iterable[Violation]:
    """What was acknowledged and never read: lost where something behind it was read, else perhaps only late."""
    furthest: dict[tuple[str, str], int] = {}
    for value in read:
        if (sent := history.sends.get(value)) is not None:
            process, counter = _of(value)
            furthest[process, sent[0]] = max(counter, furthest.get((process, sent[0]), -1))
    for value in history.acknowledged:
        if value in read:
            continue
        process, counter = _of(value)
        key = history.sends[value][0]
        behind = furthest.get((process, key), -1)
        if behind > counter:
            yield Violation("lost", f"{value} of key {key!r} was acknowledged, and never read, although {process}-{behind} was")
        else:
            yield Violation("unseen", f"{value} of key {key!r} was acknowledged, and not read by the end")


def _precommitted(history: History, polls: Sequence[Poll]) -> Iterable[Violation]:
    for poll in polls:
        for record in poll.records:
            if poll.at < history.committing_at.get(record.value, 0):
                yield Violation("precommitted read", f"{record.value} was read before its transaction was asked to commit")


def _jumps(polls: Sequence[Poll], log: Sequence[Stored]) -> Iterable[Violation]:
    """Steps over a position at which something lies, and steps back, in a poll and from one to the next."""
    known: dict[str, list[int]] = defaultdict(list)
    for stored in log:
        known[stored.partition].append(stored.position)
    index = {partition: {position: n for n, position in enumerate(sorted(set(taken)))} for partition, taken in known.items()}
    last: dict[tuple[str, str], int] = {}
    for poll in polls:
        if poll.moved:
            last = {place: position for place, position in last.items() if place[0] != poll.consumer}
        by_partition: dict[str, list[int]] = defaultdict(list)
        for record in poll.records:
            by_partition[record.partition].append(record.position)
        for partition, taken in by_partition.items():
            steps = [(before, after, "internal ") for before, after in pairwise(taken)]
            if (before := last.get((poll.consumer, partition))) is not None:
                steps.insert(0, (before, taken[0], ""))
            for before, after, where in steps:
                if after <= before:
                    yield Violation(f"{where}nonmonotonic poll", f"{poll.consumer} went from {partition}/{before} back to {after}")
                elif index[partition][after] != index[partition][before] + 1:
                    yield Violation(f"{where}poll skip", f"{poll.consumer} went over what lies between {partition}/{before} and {after}")
            last[poll.consumer, partition] = taken[-1]


def _order(first: Sequence[Stored], log: Sequence[Stored]) -> Iterable[Violation]:
    """What a group saw of a topic's key for the first time came in the order of the log."""
    order: dict[tuple[str, str], list[str]] = defaultdict(list)
    for stored in log:
        order[_topic(stored), stored.key].append(stored.value)
    seen: dict[tuple[str, str], list[str]] = defaultdict(list)
    for stored in first:
        seen[_topic(stored), stored.key].append(stored.value)
    for (topic, key), values in seen.items():
        got, there = list(dict.fromkeys(values)), set(values)
        expected = [value for value in dict.fromkeys(order[topic, key]) if value in there]
        if got != expected:
            yield Violation("out of order", f"key {key!r} of {topic} {_difference(expected, got)}")


def _difference(expected: Sequence[str], got: Sequence[str]) -> str:
    """Where what was seen leaves the order of the log, with what is around it there."""
    at = next(n for n, (one, other) in enumerate(zip(expected, got, strict=True)) if one != other)
    around = slice(max(0, at - 1), at + 5)
    return f"lies in the log as {expected[around]}, and was seen as {got[around]}"


def _topic(stored: Stored) -> str:
    return stored.partition.rpartition("/")[0]


def _divergence(history: History) -> Iterable[Violation]:
    read = {group: {r.value for poll in history.polls if poll.group == group for r in poll.records} for group in history.groups}
    everything = set[str]().union(*read.values())
    for group, values in read.items():
        if missing := sorted(everything - values):
            yield Violation("divergence", f"{group} has not read {', '.join(missing)}, which others have")


def _of(value: str) -> tuple[str, int]:
    """The producer of a value, and its counter."""
    process, _, counter = value.rpartition("-")
    return process, int(counter)


def _gaps(log: Sequence[Stored]) -> Iterable[Violation]:
    positions: dict[str, list[int]] = defaultdict(list)
    for stored in log:
        positions[stored.partition].append(stored.position)
    for partition, taken in positions.items():
        if sorted(set(taken)) != list(range(min(taken), max(taken) + 1)):
            yield Violation("gap", f"the positions of {partition} are not contiguous: {sorted(taken)}")


def _reader(log: Sequence[Stored], reader: Reader, *, ordered: bool = True, positions: bool = True) -> Iterable[Violation]:
    theirs = [stored for stored in log if reader.topic in (None, _topic(stored))]
    if positions:
        theirs.sort(key=lambda s: (s.partition, s.position))
    order: dict[str, list[str]] = defaultdict(list)
    for key, value in dict.fromkeys((s.key, s.value) for s in theirs):
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
        came, stored = [value for value in got if value in alive], [value for value in expected if value in there]
        if positions and came != stored:
            yield Violation("out of order", f"{reader.name}: key {key!r} {_difference(stored, came)}")
    if ordered and not positions:
        for violation in _sends(reader.seen):
            yield Violation(violation.kind, f"{reader.name}: {violation.text}")
