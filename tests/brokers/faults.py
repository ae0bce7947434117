"""Faults under load on one broker: producers and consumers in processes of their own, a recorded history, and its checker.

`python -m tests.brokers.faults BROKER [--seconds N] [--seed S]` goes on with new seeds for so
long (`make soak-brokers`); the tests run one seed of each broker. The same seed, the same
faults in the same order; moments differ.
"""

import argparse
import asyncio
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.services.aws import Aws, Ministack
from tools.services.kafka import Kafka
from tools.services.nats import Nats
from tools.services.rabbitmq import RabbitMQ
from tools.services.redis import Redis
from tools.services.service import Service

from millstream.app.connect import connect_broker
from millstream.app.system_clock import SystemClock
from millstream.core.broker import Features, Group, Topic
from millstream.testing.history import History, Violation, check_polls, recovered, worst_lag

ROOT = Path(__file__).parents[2]
#: Acknowledged events between two faults.
STEP = 200
#: How long all groups have to drain what was acknowledged, and a process to end, in seconds.
DRAIN, END = 90.0, 20.0
LOOK = 0.1


@dataclass(frozen=True, slots=True)
class Subject:
    """A broker under faults: its server, where it is, and what can be done to it."""

    name: str
    service: Service | None
    """None for the embedded broker, which has no server."""
    variable: str = ""
    pid: Callable[[], int | None] = lambda: None
    keeps: bool = True
    """Whether the server has, when it is started again, what it had; one that keeps all in memory is not killed."""
    options: str = ""
    """What is added to the URL."""


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("sqlite", None),
        Subject("kafka", Kafka(), "MILLSTREAM_TEST_KAFKA", lambda: Kafka().cluster.pid()),
        Subject("rabbitmq", RabbitMQ(), "MILLSTREAM_TEST_RABBITMQ", lambda: RabbitMQ().server.pid),
        Subject("redis", Redis(), "MILLSTREAM_TEST_REDIS", lambda: Redis().server.pid),
        Subject("nats", Nats(), "MILLSTREAM_TEST_NATS", lambda: Nats().server.pid),
        Subject("aws", Aws(), "MILLSTREAM_TEST_AWS", lambda: Ministack().pid, keeps=False, options="&visibility=5"),
    )
}


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a run."""

    seed: int
    faults: Sequence[str]
    violations: Sequence[Violation]
    acknowledged: int
    recovered: int
    worst_lag: float

    def __str__(self) -> str:
        told = f"seed {self.seed}: {self.acknowledged} acknowledged, {self.recovered} recovered, lag at most {self.worst_lag:.1f} s"
        return "\n".join([f"{told}; faults: {', '.join(self.faults)}", *(f"  {v.kind}: {v.text}" for v in self.violations[:20])])


class Run:
    """One run: two producers, a group of two consumers and one of one, and faults among them."""

    def __init__(self, subject: Subject, url: str, folder: Path, seed: int) -> None:
        self._subject, self._url, self._folder, self.seed = subject, url, folder, seed
        self._chance = random.Random(seed)
        mark = secrets.token_hex(4)
        self._topic = f"faults.{mark}"
        self._groups = (f"one.{mark}", f"two.{mark}")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._started = 0
        self.done: list[str] = []

    def __call__(self) -> Report:
        """Do all of it, and leave no process behind."""
        features = asyncio.run(self._declare())
        try:
            for _ in range(2):
                self._start("produce")
            for group in (self._groups[0], *self._groups):
                self._start("consume", group)
            self._progress()
            faults = self._faults()
            self._chance.shuffle(faults)
            for fault in faults:
                fault()
                self.done.append(fault.__name__.strip("_").replace("_", " "))
                self._progress()
            for name in self._named("produce"):
                self._end(name)
            self._drain()
            for name in self._named("consume"):
                self._end(name)
        finally:
            for process in self._processes.values():
                process.kill()
                process.wait()
            asyncio.run(self._forget())
        history = self._history()
        violations = check_polls(history, ordered=features.ordered, positions=features.positional)
        read = [record for poll in history.polls for record in {r.value: r for r in poll.records}.values()]
        there = list({record.value: record for record in read}.values())
        return Report(self.seed, self.done, violations, len(history.acknowledged), recovered(history, there), worst_lag(history))

    def _faults(self) -> list[Callable[[], None]]:
        faults = [self._kill_a_producer, self._kill_a_consumer, self._kill_a_consumer, self._add_a_consumer, self._stop_a_consumer_for_long]
        if self._subject.service is not None:
            faults += [self._cut_the_broker_off, self._cut_the_broker_off]
            if self._subject.keeps:
                faults += [self._kill_the_broker, self._restart_the_broker]
        return faults

    # Faults

    def _kill_a_producer(self) -> None:
        self._kill(self._chance.choice(self._named("produce")))
        self._start("produce")

    def _kill_a_consumer(self) -> None:
        name = self._chance.choice(self._named("consume"))
        group = self._group_of(name)
        self._kill(name)
        self._start("consume", group)

    def _add_a_consumer(self) -> None:
        name = self._start("consume", self._groups[0])
        self._progress()
        self._end(name)

    def _stop_a_consumer_for_long(self) -> None:
        """It is slow, or its machine is: it goes on where another may have gone on meanwhile."""
        process = self._processes[self._chance.choice(self._named("consume"))]
        process.send_signal(signal.SIGSTOP)
        try:
            self._progress()
        finally:
            process.send_signal(signal.SIGCONT)

    def _cut_the_broker_off(self) -> None:
        """It stands still, and answers nobody, as behind a network that is cut."""
        pid = self._subject.pid()
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(self._chance.uniform(0.5, 2.0))
        finally:
            os.kill(pid, signal.SIGCONT)

    def _kill_the_broker(self) -> None:
        assert self._subject.service is not None
        self._subject.service.stop(kill=True)
        self._subject.service.start()

    def _restart_the_broker(self) -> None:
        assert self._subject.service is not None
        self._subject.service.stop()
        self._subject.service.start()

    # Processes

    def _start(self, role: str, group: str = "") -> str:
        self._started += 1
        name = f"{role}{self._started}"
        with (self._folder / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.brokers.fault_process"),
                    *(role, name, self._url, self._topic, group, str(self._folder), str(self.seed)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )
        if group:
            (self._folder / f"{name}.group").write_text(group)
        self._until((self._folder / f"{name}.journal").exists, f"{name} does not begin")
        return name

    def _group_of(self, name: str) -> str:
        return (self._folder / f"{name}.group").read_text()

    def _named(self, role: str) -> list[str]:
        return [name for name in self._processes if name.startswith(role)]

    def _kill(self, name: str) -> None:
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def _end(self, name: str) -> None:
        process = self._processes.pop(name)
        process.terminate()
        try:
            code = process.wait(END)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"{name} did not end within {END:g} s: {self._said(name)}") from None
        assert code == 0, f"{name} ended with {code}: {self._said(name)}"

    def _said(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()[-2000:]

    # Waiting

    def _history(self) -> History:
        return History.read(self._folder)

    def _progress(self) -> None:
        """Wait until so many more events are acknowledged, and read by every group."""
        target = self._counts()[0] + STEP
        self._until(lambda: self._counts()[0] >= target, "nothing is acknowledged any more")

    def _drain(self) -> None:
        self._until(lambda: self._counts()[1] == 0, "not all that was acknowledged is read")

    def _counts(self) -> tuple[int, int]:
        """How many sends are acknowledged, and how many reads of them are missing."""
        history = self._history()
        wanted = set(history.acknowledged)
        missing = sum(len(wanted - history.settled.get(group, set())) for group in self._groups)
        return len(wanted), missing

    def _until(self, reached: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + DRAIN
        while not reached():
            ended = [name for name, process in self._processes.items() if process.poll() is not None]
            assert not ended, f"{ended[0]} has ended by itself: {self._said(ended[0])}"
            told = f"{otherwise}, after {', '.join(self.done) or 'the start'}"
            assert time.monotonic() < deadline, f"{told}: {self._counts()} (acknowledged, missing)"
            time.sleep(LOOK)

    # The broker

    async def _declare(self) -> Features:
        async with connect_broker(self._url, SystemClock()) as broker:
            await broker.declare(
                [Topic(name=self._topic, partitions=4, keyed=True)], [Group(name=group, topics=(self._topic,)) for group in self._groups]
            )
            return broker.features

    async def _forget(self) -> None:
        async with connect_broker(self._url, SystemClock()) as broker:
            for group in self._groups:
                await broker.forget(group)


def main() -> int:
    """Run one seed after another for so long; 1 at the first violation."""
    parser = argparse.ArgumentParser(prog="python -m tests.brokers.faults")
    parser.add_argument("broker", choices=SUBJECTS)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    subject, seed, end = SUBJECTS[given.broker], given.seed, time.monotonic() + given.seconds
    while time.monotonic() < end:
        with tempfile.TemporaryDirectory(prefix="millstream-faults-") as folder:
            url = f"sqlite:///{folder}/broker.db" if subject.service is None else os.environ[subject.variable] + subject.options
            report = Run(subject, url, Path(folder), seed)()
        print(report, flush=True)
        if report.violations:
            return 1
        seed += 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
