"""Crashes for as long as one likes: `python -m tests.crash.soak --seconds 600 --seed 7`, or `make soak-embedded`.

Half of the time many processes on one machine publish and work while they are killed,
stopped, asked to go and started again; a quarter goes through the points of every
scenario, in an order of its own; a quarter cuts the power. The last line of the output
says, as JSON, what was done and what was found; the exit code is 1 if anything was.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from tests.crash.campaign import SERVICES, Campaign, check_work, end_of, scenarios
from tests.crash.nursery import Nursery
from tests.crash.power import cut_a_publisher, cut_a_worker

from millstream.testing.history import History, recovered

#: How long a round of many processes lasts before everything is drained and checked, in seconds.
ROUND = 20.0
#: Short, so that a stopped worker's partitions are taken over while it is stopped.
LEASE = 0.5
#: A process is never stopped for so long that others give up on the lock that it may hold.
LONGEST_STOP = 2.0
#: Who lives together.
KINDS = ("producer", "producer", "worker", "worker", "worker")


class Resident:
    """A place for a process: whoever dies there is followed by another of the same kind."""

    def __init__(self, nursery: Nursery, kind: str, number: int, folder: Path, files: str, seed: int) -> None:
        self._nursery, self._kind, self._number, self._folder, self._files = nursery, kind, number, folder, files
        self._seed = seed
        self._lives = itertools.count(1)
        self.pid = 0

    def start(self) -> None:
        """Let a new process live here."""
        name = f"{self._kind}{self._number}.{next(self._lives)}"
        log = self._folder / "output"
        if self._kind == "worker":
            self.pid = self._nursery.start(f"{SERVICES}:work_on", self._folder, self._files, name, LEASE, log=log, seconds=600)
        else:
            self.pid = self._nursery.start(f"{SERVICES}:produce", self._folder, name, self._seed, log=log, seconds=600)
            self._seed += 1

    def end(self, blow: int) -> int:
        """End the process, and say how it went."""
        os.kill(self.pid, blow)
        return self._nursery.wait()


class Soak:
    """Counts what is done, and keeps what is found."""

    def __init__(self, seed: int, folder: Path, nurseries: list[Nursery]) -> None:
        self._chance = random.Random(seed)
        self._folder = folder
        self._nurseries = nurseries
        self._numbers = itertools.count(1)
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []

    def many_processes(self, until: float) -> None:
        """Rounds of two producers and three workers under faults, each drained and checked at its end."""
        while time.monotonic() < until:
            files = self._chance.choice(("one", "two"))
            folder = self._new_folder()
            residents = [
                Resident(nursery, kind, number, folder, files, self._chance.randrange(1 << 30))
                for number, (nursery, kind) in enumerate(zip(self._nurseries, KINDS, strict=True))
            ]  # fmt: skip
            for resident in residents:
                resident.start()
            end_of_round = min(until, time.monotonic() + ROUND)
            while time.monotonic() < end_of_round:
                time.sleep(self._chance.uniform(0.05, 0.5))
                self._strike(self._chance.choice(residents))
            for resident in residents:
                self._ended("at the end of a round", resident.end(signal.SIGTERM))
            self._drain(folder, files)

    def _strike(self, resident: Resident) -> None:
        """Do one of three bad things to a process."""
        kind = self._chance.choices(("kills", "stops", "polite stops"), (7, 2, 1))[0]
        self.counts[kind] += 1
        if kind == "kills":
            resident.end(signal.SIGKILL)
            resident.start()
        elif kind == "polite stops":
            self._ended("when asked to stop", resident.end(signal.SIGTERM))
            resident.start()
        else:
            os.kill(resident.pid, signal.SIGSTOP)
            time.sleep(self._chance.uniform(0.05, LONGEST_STOP))
            os.kill(resident.pid, signal.SIGCONT)

    def _ended(self, when: str, code: int) -> None:
        # A process that has only just begun does not know yet what SIGTERM means here.
        if code not in (0, -signal.SIGTERM):
            self.violations.append(f"a process ended with {code} {when}")

    def _drain(self, folder: Path, files: str) -> None:
        code = self._nurseries[0].run(f"{SERVICES}:recover", folder, files, log=folder / "output", seconds=300)
        if code != 0:
            self.violations.append(f"{folder}: draining ended with {code}")
            return
        history, end = History.read(folder), end_of(folder)
        found = check_work(folder)
        self.counts["messages"] += len(end.made)
        self.counts["effects"] += len(end.effects)
        self.counts["duplicates"] += len(end.made) - len({stored.value for stored in end.made})
        self.counts["recovered"] += recovered(history, end.made)
        self.counts["dead letters"] += sum(map(len, end.parked.values()))
        self._keep(folder, [f"{violation.kind}: {violation.text}" for violation in found])

    def all_points(self, until: float) -> None:
        """Kill at every passage of every point, in an order of chance, as far as the time goes."""
        chosen = scenarios()
        self._chance.shuffle(chosen)
        for left, scenario in zip(range(len(chosen), 0, -1), chosen, strict=True):
            if time.monotonic() >= until:
                break
            share = time.monotonic() + (until - time.monotonic()) / left
            folder = self._new_folder()
            campaign = Campaign(scenario, folder, self._nurseries[: os.cpu_count() or 1])
            report = campaign.run(None, until=share, chance=self._chance)
            self.counts["points"] += report.points
            self.counts["kills at points"] += len(report.killed)
            self._keep(folder, report.violations)

    def power_cuts(self, until: float) -> None:
        """Cut the power of publishers and workers again and again."""
        while time.monotonic() < until:
            folder = self._new_folder()
            if self._chance.random() < 0.5:
                verdict = cut_a_publisher(folder, self._chance)
            else:
                verdict = cut_a_worker(folder, self._nurseries[0], self._chance.choice(("one", "two")), 40, self._chance)
            self.counts["power cuts"] += verdict.cuts
            self._keep(folder, verdict.lost + verdict.broken)

    def _new_folder(self) -> Path:
        folder = self._folder / str(next(self._numbers))
        folder.mkdir()
        return folder

    def _keep(self, folder: Path, found: list[str]) -> None:
        """Keep what was found, and the folder with its evidence; throw the others away."""
        self.violations += found
        for text in found:
            print(f"{folder}: {text}", flush=True)
        if not found:
            shutil.rmtree(folder)


def soak(seconds: float, seed: int) -> dict[str, Any]:
    """Do all of it, and say what came of it."""
    folder, began = Path(tempfile.mkdtemp(prefix="millstream-soak-")), time.monotonic()
    with ExitStack() as stack:
        nurseries = [stack.enter_context(Nursery()) for _ in KINDS]
        work = Soak(seed, folder, nurseries)
        work.many_processes(began + seconds * 0.5)
        work.all_points(began + seconds * 0.75)
        work.power_cuts(began + seconds)
    with suppress(OSError):
        folder.rmdir()
    counts = {name.replace(" ", "_"): count for name, count in work.counts.items()}
    return {
        "ok": not work.violations,
        "seed": seed,
        "seconds": round(time.monotonic() - began),
        **counts,
        "violations": len(work.violations),
        "evidence": str(folder) if work.violations else None,
    }


def main() -> None:
    """Read the options, soak, print the summary."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=None, help="repeats the same faults, as far as the machine's timing does")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 30) if options.seed is None else options.seed
    print(f"soaking for {options.seconds:g} s with seed {seed}", flush=True)
    summary = soak(options.seconds, seed)
    print(json.dumps(summary), flush=True)
    sys.exit(0 if summary["ok"] else 1)


if __name__ == "__main__":
    main()
