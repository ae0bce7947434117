"""Faults under load on one broker: all its clients in processes of their own, a recorded history, and its checker.

`python -m tests.brokers.faults [SERVICE...] [--seconds N] [--seed S]` goes on with new seeds for so long, on all
subjects or those of some services (`make soak-brokers`); the tests run one seed of each in a short form. The same
seed, the same faults in the same order; moments differ.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import secrets
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.brokers.fault_network import Cut, Network
from tests.brokers.fault_subjects import SUBJECTS, Subject, pause, resume

from millstream.app.connect import connect_broker
from millstream.app.system_clock import SystemClock
from millstream.contracts.errors import BrokerUnavailableError, MillstreamError
from millstream.core.broker import Broker, Features, Group, PartitionState, Topic
from millstream.testing.history import History, Reader, Violation, check_polls, recovered, worst_lag

ROOT = Path(__file__).parents[2]
#: Between two faults as much is acknowledged as in so many seconds without any, and at least so many events.
STEP, LEAST = 0.5, 20
#: How long the pace is measured, in seconds.
MEASURED = 0.5
#: How long all groups have to drain what was acknowledged, and a process to end, in seconds.
DRAIN, END = 90.0, 20.0
LOOK = 0.1
#: How many violations of a kind a report shows.
SHOWN = 5
#: No fault of the short form lasts longer, in seconds.
SHORT = 3.5


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a run."""

    name: str
    faults: Sequence[str]
    violations: Sequence[Violation]
    acknowledged: int
    refused: int
    recovered: int
    effects: int
    worst_lag: float
    pace: float
    """Events that were acknowledged in a second, before anything was harmed."""

    def __str__(self) -> str:
        counts = f"{self.acknowledged} acknowledged, {self.refused} refused, {self.recovered} recovered, {self.effects} effects"
        told = f"{self.name}: {counts}, {self.pace:.0f} a second, lag at most {self.worst_lag:.1f} s; faults: {', '.join(self.faults)}"
        kinds: dict[str, list[str]] = {}
        for violation in self.violations:
            kinds.setdefault(violation.kind, []).append(violation.text)
        return "\n".join([told, *(f"  {kind} ({len(texts)}): {text}" for kind, texts in kinds.items() for text in texts[:SHOWN])])


class Run:
    """One run: producers, groups that only read, one with a store, where there are transactions one that publishes, and faults."""

    def __init__(self, subject: Subject, folder: Path, seed: int, *, short: bool = False) -> None:
        self._subject, self._folder, self._seed, self._short = subject, folder, seed, short
        self._url = subject.url(folder)
        self._chance = random.Random(seed)
        mark = secrets.token_hex(4)
        self._made, self._turned = f"faults.{mark}", f"turned.{mark}"
        self._readers = (f"one.{mark}", f"two.{mark}")
        self._turner, self._worker = f"turn.{mark}", f"work.{mark}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._groups: dict[str, str] = {}
        self._lines: dict[str, int] = {}
        self._network = Network(subject.lines(self._url))
        self._started = 0
        self._so_far, self._read = History(), dict[Path, int]()
        self._victims = itertools.cycle(self._chance.sample(subject.servers, len(subject.servers)))
        self._step = LEAST
        self._transactions = False
        self.done: list[str] = []

    @property
    def name(self) -> str:
        """Which run it is, and how it is run again."""
        again = f"python -m tests.brokers.faults --subject {self._subject.name} --seconds 1 --seed {self._seed}"
        return f"{self._subject.name}, seed {self._seed} (again: {again}{' --short' if self._short else ''})"

    def __call__(self) -> Report:
        """Do all of it, and leave no process behind."""
        print(f"faults on {self.name}", flush=True)
        features = asyncio.run(self._declare())
        self._transactions = features.transactional
        with self._network:
            try:
                pace = self._begin()
                for fault in self._faults():
                    self.done.append(fault.__name__.strip("_").replace("_", " "))
                    fault()
                    self._progress()
                self._finish()
            except AssertionError:
                self._tell_where_they_are()
                raise
            finally:
                for process in self._processes.values():
                    process.kill()
                    process.wait()
                asyncio.run(self._forget())
        return self._report(features, pace)

    def _begin(self) -> float:
        self._start("work", self._worker)
        for group in (self._readers[0], *self._readers):
            self._start("consume", group)
        if self._transactions:
            self._start("turn", self._turner)
        for _ in range(2):
            self._start("produce")
        self._progress()
        before, began = len(self._acknowledged()), time.monotonic()
        time.sleep(MEASURED)
        pace = (len(self._acknowledged()) - before) / (time.monotonic() - began)
        self._step = max(LEAST, int(pace * STEP))
        return pace

    def _finish(self) -> None:
        """Have everything read to its end, and all processes end."""
        for name in self._named("produce"):
            self._end(name)
        if self._transactions:
            asyncio.run(self._turn_all())
            for name in self._named("turn"):
                self._end(name)
        self._until(lambda: not self._unread(), lambda: f"not all is read, there are missing {dict(self._unread())}")
        self._until(lambda: not self._without_effect(), lambda: f"{self._without_effect()} events have had no effect")
        for name in list(self._processes):
            self._end(name)

    def _report(self, features: Features, pace: float) -> Report:
        history = History.read(self._folder)
        effects = self._effects()
        readers = [Reader("effects in the store", effects, once=True, topic=self._made)]
        if self._transactions:
            readers.append(Reader("events of transactions", asyncio.run(self._turned_from()), once=True, topic=self._made))
        violations = check_polls(history, readers, ordered=features.ordered, positions=features.positional)
        there = list({record.value: record for poll in history.polls for record in poll.records}.values())
        refused = sum(ending == "failed" for _, ending in history.sends.values())
        return Report(
            self.name, self.done, violations, len(history.acknowledged), refused, recovered(history, there), len(effects),
            worst_lag(history), pace,
        )  # fmt: skip

    def _faults(self) -> list[Callable[[], None]]:
        """All that will be done, in an order of chance."""
        faults = [self._kill_a_producer, self._kill_a_consumer, self._kill_a_worker, self._stop_a_consumer_for_long]
        thorough = [self._kill_a_consumer, self._add_a_consumer, self._stop_a_worker_for_long]
        if self._transactions:
            faults += [self._kill_a_transaction]
            thorough += [self._stop_a_transaction_for_long]
        if self._subject.servers:
            faults += [self._drop_connections, self._stall_connections, self._lose_answers, self._refuse_connections]
            faults += [self._stop_a_server]
            thorough += [self._stall_connections, self._lose_answers, self._drop_all_connections, self._stop_a_server]
            if self._subject.keeps:
                faults += [self._kill_a_server]
                thorough += [self._restart_a_server]
        if len(self._subject.servers) > 1:
            faults += [self._kill_a_server] * (len(self._subject.servers) - 1)
        faults += [] if self._short else thorough
        self._chance.shuffle(faults)
        return faults

    # Faults of processes

    def _kill_a_producer(self) -> None:
        self._kill_one("produce")

    def _kill_a_consumer(self) -> None:
        self._kill_one("consume")

    def _kill_a_worker(self) -> None:
        self._kill_one("work")

    def _kill_a_transaction(self) -> None:
        self._kill_one("turn")

    def _kill_one(self, role: str) -> None:
        name = self._chance.choice(self._named(role))
        group = self._groups[name]
        self._kill(name)
        self._start(role, group)

    def _add_a_consumer(self) -> None:
        name = self._start("consume", self._readers[0])
        self._progress()
        self._end(name)

    def _stop_a_consumer_for_long(self) -> None:
        self._stop_for_long("consume")

    def _stop_a_worker_for_long(self) -> None:
        self._stop_for_long("work")

    def _stop_a_transaction_for_long(self) -> None:
        self._stop_for_long("turn")

    def _stop_for_long(self, role: str) -> None:
        """It is slow, or its machine is: it goes on where another may have gone on meanwhile."""
        name = self._chance.choice(self._named(role))
        heir = self._start(role, self._groups[name])
        process = self._processes[name]
        process.send_signal(signal.SIGSTOP)
        try:
            # Where it is stopped with the lock of a file, all others wait for it.
            self._wait(self._subject.silence + 1 if self._subject.servers else 2)
        finally:
            process.send_signal(signal.SIGCONT)
        self._progress()
        self._end(heir)

    # Faults of the network

    def _drop_connections(self) -> None:
        """One process loses its connections, and gets new ones at once."""
        self._network.cut(self._line(), "dropped")

    def _drop_all_connections(self) -> None:
        for line in self._lines.values():
            self._network.cut(line, "dropped")

    def _stall_connections(self) -> None:
        """Nothing passes, and nobody is told; afterwards what was said arrives, or never."""
        self._cut("stalled", self._chance.choice((self._chance.uniform(0.5, 2.0), self._subject.silence + 1)))

    def _lose_answers(self) -> None:
        """The server does what it is asked, and nobody learns of it."""
        self._cut("unanswered", self._chance.uniform(0.2, 2.0), dropped=True)

    def _refuse_connections(self) -> None:
        """One process has no server, while all others have it."""
        self._cut("refused", self._chance.uniform(0.5, 2.0))

    def _cut(self, how: Cut, seconds: float, *, dropped: bool | None = None) -> None:
        line = self._line()
        dropped = self._chance.random() < 0.5 if dropped is None else dropped
        self._network.cut(line, how)
        try:
            self._wait(seconds)
        finally:
            self._network.mend(line, dropped=dropped)

    def _line(self) -> int:
        name = self._chance.choice(list(self._lines))
        self.done[-1] += f" of {name}"
        return self._lines[name]

    # Faults of servers

    def _stop_a_server(self) -> None:
        """It stands still, and answers nobody."""
        server = self._chance.choice(self._subject.servers)
        pause(server)
        try:
            self._wait(self._chance.uniform(0.5, 2.0))
        finally:
            resume(server)

    def _kill_a_server(self) -> None:
        self._without_one(kill=True)

    def _restart_a_server(self) -> None:
        self._without_one(kill=False)

    def _without_one(self, *, kill: bool) -> None:
        """One after the other; those that are left go on meanwhile."""
        server = next(self._victims)
        server.stop(kill=kill)
        try:
            if len(self._subject.servers) > 1:
                self._progress()
        finally:
            server.start()

    # Processes

    def _start(self, role: str, group: str = "") -> str:
        self._started += 1
        name = f"{role}{self._started}"
        line = min(set(range(len(self._lines) + 1)) - set(self._lines.values()))
        url = self._network.through(line, self._url)
        with (self._folder / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.brokers.fault_process"),
                    *(role, name, url, self._made, self._turned, group, str(self._folder), str(self._seed)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )
        self._groups[name], self._lines[name] = group, line
        self._until((self._folder / f"{name}.journal").exists, lambda: f"{name} does not begin")
        return name

    def _named(self, role: str) -> list[str]:
        return [name for name in self._processes if name.startswith(role)]

    def _kill(self, name: str) -> None:
        process = self._gone(name)
        process.kill()
        process.wait()

    def _end(self, name: str) -> None:
        process = self._gone(name)
        process.terminate()
        try:
            code = process.wait(END)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"{self.name}: {name} did not end within {END:g} s: {self._said(name)}") from None
        assert code == 0, f"{self.name}: {name} ended with {code}: {self._said(name)}"

    def _gone(self, name: str) -> subprocess.Popen[bytes]:
        del self._lines[name]
        return self._processes.pop(name)

    def _said(self, name: str, *, most: int | None = 2000) -> str:
        text = (self._folder / f"{name}.log").read_text()
        return text if most is None else text[-most:]

    def _tell_where_they_are(self) -> None:
        """Have each process write down what its threads are doing, and print that."""
        written = {name: len(self._said(name, most=None)) for name in self._processes}
        for process in self._processes.values():
            process.send_signal(signal.SIGUSR1)
        time.sleep(1)
        for name, before in written.items():
            print(f"{name} {self._groups[name]}:\n{self._said(name, most=None)[before:]}", flush=True)

    # Waiting

    def _wait(self, seconds: float) -> None:
        time.sleep(min(seconds, SHORT) if self._short else seconds)

    def _progress(self) -> None:
        """Wait until so many more events are acknowledged."""
        target = len(self._acknowledged()) + self._step
        self._until(lambda: len(self._acknowledged()) >= target, lambda: "nothing is acknowledged any more")

    def _acknowledged(self) -> list[str]:
        self._look()
        return self._so_far.acknowledged

    def _unread(self) -> dict[str, int]:
        """How many reads are missing, by group and sender: of what is acknowledged, and of what any group has read."""
        wanted = {*self._acknowledged(), *(value for values in self._so_far.settled.values() for value in values)}
        missing = [(group, value) for group in self._readers for value in wanted - self._so_far.settled.get(group, set())]
        return Counter(f"{group} of {value.partition('-')[0]}" for group, value in missing)

    def _without_effect(self) -> int:
        self._look()
        made = {value for value in self._so_far.settled.get(self._readers[0], ()) if value.startswith("produce")}
        return len(made - {value for _, value in self._effects()})

    def _effects(self) -> list[tuple[str, str]]:
        with closing(sqlite3.connect(f"file:{self._folder}/worker.db?mode=ro", uri=True)) as store:
            return store.execute("select key, value from effect order by rowid").fetchall()

    def _look(self) -> None:
        """Read what the journals say since the last time."""
        for path in self._folder.glob("*.journal"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                lines = file.read().rpartition(b"\n")[0]
            if lines:
                self._read[path] = self._read.get(path, 0) + len(lines) + 1
            for line in lines.splitlines():
                self._so_far.add(*json.loads(line))

    def _until(self, reached: Callable[[], bool], otherwise: Callable[[], str]) -> None:
        deadline = time.monotonic() + DRAIN
        while not reached():
            ended = [name for name, process in self._processes.items() if process.poll() is not None]
            after = f"after {', '.join(self.done) or 'the start'}"
            assert not ended, f"{self.name}: {ended[0]} has ended by itself, {after}: {self._said(ended[0])}"
            assert time.monotonic() < deadline, f"{self.name}: {otherwise()}, {after}"
            time.sleep(LOOK)

    # The broker

    async def _declare(self) -> Features:
        async with connect_broker(self._url, SystemClock()) as broker:
            names = [self._made, self._turned] if broker.features.transactional else [self._made]
            topics = [Topic(name=name, partitions=4, keyed=True) for name in names]
            groups = [Group(name=name, topics=tuple(names)) for name in self._readers]
            if broker.features.transactional:
                groups.append(Group(name=self._turner, topics=(self._made,)))
            await broker.declare(topics, groups)
            return broker.features

    async def _turn_all(self) -> None:
        """Wait until the group that publishes in transactions has nothing left."""
        deadline = time.monotonic() + DRAIN
        async with connect_broker(self._url, SystemClock()) as broker:
            while behind := await self._behind(broker):
                assert time.monotonic() < deadline, f"{self.name}: not all is published again: {behind}"
                await asyncio.sleep(LOOK)

    async def _behind(self, broker: Broker) -> list[PartitionState] | BrokerUnavailableError:
        """Where the group that publishes in transactions has something left; an error where that is not known at the moment."""
        try:
            return [state for state in await broker.positions(self._turner) if state.committed.value != state.head.value]
        except BrokerUnavailableError as error:
            return error

    async def _turned_from(self) -> list[tuple[str, str]]:
        """What the events were made of that were published in transactions, in the order of each partition."""
        found: list[tuple[str, str]] = []
        async with connect_broker(self._url, SystemClock()) as broker:
            for partition, first, head in await broker.bounds(self._turned):
                for delivery in await broker.read(partition, first, head - first):
                    assert delivery.envelope is not None
                    found.append((str(delivery.envelope.key), json.loads(delivery.envelope.data)["value"]))
        return found

    async def _forget(self) -> None:
        # After something else went wrong, that is told: a broker that is away, or members that were killed a moment ago.
        with suppress(MillstreamError):
            async with connect_broker(self._url, SystemClock()) as broker:
                for group in await broker.groups():
                    if group.name in (*self._readers, self._turner, self._worker):
                        with suppress(MillstreamError):
                            await broker.forget(group.name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one seed after another for so long; 1 at the first violation."""
    parser = argparse.ArgumentParser(prog="python -m tests.brokers.faults")
    parser.add_argument("services", nargs="*", metavar="SERVICE", help="whose subjects; those of all that run when none is named")
    parser.add_argument("--subject", choices=SUBJECTS, help="this one alone")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all subjects together; each has one seed at least")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="as the tests do it: fewer faults, and none that lasts")
    given = parser.parse_args(arguments)
    known = {subject.of for subject in SUBJECTS.values()}
    if unknown := set(given.services) - known:
        parser.error(f"there is no service {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    meant = [subject for subject in SUBJECTS.values() if not given.services or subject.of in given.services]
    subjects = [SUBJECTS[given.subject]] if given.subject else meant
    if missing := [subject.variable for subject in subjects if subject.variable and subject.variable not in os.environ]:
        parser.error(f"{missing[0]} is not set: make services; source .services/env")
    for subject in subjects:
        end, seed = time.monotonic() + given.seconds / len(subjects), given.seed
        with subject.running():
            while seed == given.seed or time.monotonic() < end:
                with tempfile.TemporaryDirectory(prefix="millstream-faults-") as folder:
                    report = Run(subject, Path(folder), seed, short=given.short)()
                print(report, flush=True)
                if report.violations:
                    return 1
                seed += 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
