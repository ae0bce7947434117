"""Runs subjects in fresh processes, in turn, and puts their figures together."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.subject import Family, Figures, Row, Subject

#: A run that takes longer hangs, in seconds.
LONGEST = 900.0


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several runs, and how far they lie apart."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Result:
    """What was found for one row."""

    family: str
    row: Row
    value: Spread | None
    """None where a run failed; then `error` says why."""
    cpu: Spread | None = None
    bare: Spread | None = None
    against: Spread | None = None
    """The subject against the limit, run by run: a ratio or a difference."""
    error: str = ""

    @property
    def judged(self) -> Spread | None:
        """What the target is for."""
        return self.value if self.row.compared == "only told" else self.against

    @property
    def verdict(self) -> str:
        """ok, below (the target), or failed; empty where there is no target."""
        if self.judged is None:
            return "failed"
        if self.row.target is None:
            return ""
        reached = self.judged.median >= self.row.target if self.row.better == "more" else self.judged.median <= self.row.target
        return "ok" if reached else "below"


class RunFailedError(Exception):
    """A subject did not come to its end."""


def run_once(subject: Subject, folder: Path, scale: float) -> Figures:
    """One subject in a process of its own."""
    name = f"{subject.__module__.removeprefix('benchmarks.')}:{subject.__name__}"
    command = [sys.executable, "-m", "benchmarks.run_one", name, "--folder", str(folder), "--scale", str(scale)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, cwd=Path(__file__).parent.parent)
    except subprocess.TimeoutExpired as error:
        raise RunFailedError(f"{name} had not ended after {LONGEST:g} s") from error
    if done.returncode:
        raise RunFailedError(f"{name}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f'exit {done.returncode}'}")
    return json.loads(done.stdout.splitlines()[-1])


def run_family(family: Family, folder: Path, *, rounds: int, scale: float, told: Callable[[str], None]) -> list[Result]:
    """All subjects of a family in turn (A B A B), and a result for each row."""
    found: dict[Subject, list[Figures]] = {subject: [] for subject in family.subjects()}
    errors: dict[Subject, str] = {}
    for number in range(rounds):
        for subject in found:
            told(f"{family.title}: {subject.__name__} {number + 1}/{rounds}")
            try:
                found[subject].append(run_once(subject, folder, scale))
            except RunFailedError as error:
                errors[subject] = str(error)
    return [_result(family, row, found, errors) for row in family.rows]


def _result(family: Family, row: Row, found: dict[Subject, list[Figures]], errors: dict[Subject, str]) -> Result:
    for subject in (row.subject, row.beside):
        if subject in errors:
            return Result(family.title, row, None, error=errors[subject])
    mine = found[row.subject]
    bare = found[row.beside] if row.beside is not None else []
    compare: Callable[[float, float], float] = float.__sub__ if row.compared == "difference" else float.__truediv__
    return Result(
        family.title,
        row,
        Spread.of([figures[row.figure] for figures in mine]),
        cpu=Spread.of([figures["cpu"] for figures in mine]) if "cpu" in mine[0] else None,
        bare=Spread.of([figures[row.figure] for figures in bare]) if bare else None,
        against=Spread.of([compare(a[row.figure], b[row.figure]) for a, b in zip(mine, bare, strict=True)]) if bare else None,
    )


def load() -> tuple[float, int]:
    """How busy the machine was during the last minute, and its processors."""
    return os.getloadavg()[0], os.cpu_count() or 1
