"""A campaign: one scenario, killed at one point after another, recovered and checked each time."""

import math
import random
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import apsw
import msgspec
from tests.crash.nursery import Nursery
from tests.crash.points import Point, choose
from tests.crash.services import End

from millstream.testing.history import History, Reader, Violation, check

SERVICES = "tests.crash.services"
KILLED = -9
Check = Callable[[Path], list[Violation]]


@dataclass(frozen=True)
class Scenario:
    """What is prepared, what is killed, how it recovers, and how that is checked."""

    name: str
    files: str
    prepare: Sequence[tuple[Any, ...]]
    victim: str
    recover: str
    check: Check


@dataclass
class Report:
    """What came of a campaign."""

    scenario: str
    points: int
    """How many there are to kill at."""
    killed: list[Point] = field(default_factory=list[Point])
    missed: list[Point] = field(default_factory=list[Point])
    violations: list[str] = field(default_factory=list[str])

    def places(self) -> frozenset[str]:
        """Where a process was killed."""
        return frozenset(point.name for point in self.killed)


class Campaign:
    """Kills one scenario in one folder; several children at a time."""

    def __init__(self, scenario: Scenario, folder: Path, nurseries: Sequence[Nursery]) -> None:
        self.scenario = scenario
        self._folder = folder
        self._free: SimpleQueue[Nursery] = SimpleQueue()
        self._lanes = len(nurseries)
        for nursery in nurseries:
            self._free.put(nursery)
        self._template = folder / "template"

    def run(
        self,
        most: int | None,
        skip: frozenset[str] = frozenset(),
        until: float = math.inf,
        chance: random.Random | None = None,
    ) -> Report:
        """Kill at no more than `most` passages of each place, or at all of them; places to `skip` were tried elsewhere.

        It goes on until some (monotonic) time, and with `chance` in an order of chance.
        """
        points = [point for point in choose(self._rehearse(), most) if point.name not in skip]
        if chance is not None:
            chance.shuffle(points)
        report = Report(self.scenario.name, len(points))

        def kill(number: int, point: Point) -> tuple[bool, list[str]] | None:
            return self._kill(number, point) if time.monotonic() < until else None

        with ThreadPoolExecutor(self._lanes) as threads:
            for point, outcome in zip(points, threads.map(kill, range(len(points)), points), strict=True):
                if outcome is not None:
                    died, wrong = outcome
                    (report.killed if died else report.missed).append(point)
                    report.violations += [f"{point.name} #{point.passage}: {violation}" for violation in wrong]
        return report

    def _rehearse(self) -> Path:
        """Prepare what every run begins with, and go through it once, unharmed, to learn its points."""
        nursery = self._free.get()
        try:
            self._template.mkdir(parents=True)
            for target, *args in self.scenario.prepare:
                self._child(nursery, self._template, target, *args)
            rehearsal = self._copy("rehearsal")
            trace = self._folder / "points"
            self._child(nursery, rehearsal, self.scenario.victim, self.scenario.files, None, trace)
            self._child(nursery, rehearsal, self.scenario.recover, self.scenario.files)
            assert (wrong := self.scenario.check(rehearsal)) == [], wrong
            return trace
        finally:
            self._free.put(nursery)

    def _kill(self, number: int, point: Point) -> tuple[bool, list[str]]:
        nursery = self._free.get()
        run = self._copy(f"run-{number}")
        # Every other time somebody else has the file open, so that what the victim leaves in shared memory is met.
        witness = apsw.Connection(str(run / "broker.db")) if number % 2 and (run / "broker.db").exists() else None
        try:
            if witness is not None:
                witness.execute("select * from sqlite_schema").fetchall()
            died = nursery.run(f"{SERVICES}:{self.scenario.victim}", run, self.scenario.files, point, log=run / "output")
            if died not in (0, KILLED):
                return False, [f"the victim ended with {died}: {_tail(run)}"]
            code = nursery.run(f"{SERVICES}:{self.scenario.recover}", run, self.scenario.files, log=run / "output")
            if code != 0:
                return True, [f"the recovery ended with {code}: {_tail(run)}"]
            wrong = [f"{violation.kind}: {violation.text}" for violation in self.scenario.check(run)]
        finally:
            self._free.put(nursery)
            if witness is not None:
                witness.close()
        if not wrong:
            shutil.rmtree(run)
        return died == KILLED, wrong

    def _copy(self, name: str) -> Path:
        return Path(shutil.copytree(self._template, self._folder / name))

    def _child(self, nursery: Nursery, folder: Path, target: str, *args: Any) -> None:
        code = nursery.run(f"{SERVICES}:{target}", folder, *args, log=folder / "output")
        assert code == 0, f"{target} ended with {code}: {_tail(folder)}"


def _tail(folder: Path) -> str:
    output = folder / "output"
    return output.read_text()[-3000:] if output.exists() else "it wrote nothing"


def end_of(folder: Path) -> End:
    """Read how a run ended."""
    return msgspec.json.decode((folder / "end.json").read_bytes(), type=End)


def check_work(folder: Path) -> list[Violation]:
    """Every event has its effect and its successor once, in order; the group without an inbox saw all of them, in order."""
    history, end = History.read(folder), end_of(folder)
    once, again = end.parked.get("once", frozenset()), end.parked.get("again", frozenset())
    return check(
        history,
        end.made,
        [
            Reader("effects", end.effects, once=True, dead=once),
            Reader("events published by the handler", [(s.key, s.value) for s in _in_order(end.booked)], once=True, dead=once),
            Reader("handled at least once", history.handled, once=False, dead=again),
        ],
    )


def check_transform(folder: Path) -> list[Violation]:
    """Every event has its successor once, in order, though nothing but the broker knew of it."""
    end = end_of(folder)
    booked = [(s.key, s.value) for s in _in_order(end.booked)]
    dead = end.parked.get("once", frozenset())
    return check(History.read(folder), end.made, [Reader("events published by the handler", booked, once=True, dead=dead)])


def check_units(folder: Path) -> list[Violation]:
    """The store's rows and the log's events are the same."""
    end = end_of(folder)
    return check(History.read(folder), end.made, [Reader("rows", end.effects, once=True)])


def _in_order(log: Iterable[Any]) -> list[Any]:
    return sorted(log, key=lambda stored: (stored.partition, stored.position))


TROUBLES = ("passes for all", "", "passes", "stays", "")
_PREPARE = ("prepare", TROUBLES)
_PREPARE_MORE = ("prepare", ("", "passes for all", ""), "another")


def scenarios() -> list[Scenario]:
    """All of them, in both layouts."""
    found = [Scenario("publish", "two", [], "publish", "recover", check_work)]
    for files in ("one", "two"):
        redrive = [_PREPARE, ("recover", files), ("ask_for_redrive", files)]
        after_a_crash = [_PREPARE, ("work_without_good_bye", files), _PREPARE_MORE]
        found += [
            Scenario(f"unit of work, {files} file", files, [], "units", "recover_units", check_units),
            Scenario(f"work, {files} file", files, [_PREPARE], "work", "recover", check_work),
            Scenario(f"redrive, {files} file", files, redrive, "work", "recover", check_work),
            Scenario(f"exactly once, {files} file", files, [_PREPARE], "transform", "recover_transform", check_transform),
            Scenario(f"work after a crash, {files} file", files, after_a_crash, "work", "recover", check_work),
        ]
    return found
