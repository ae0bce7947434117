"""The results as text for people and as JSON for machines."""

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import apsw

from benchmarks.harness import Result, Spread

COLUMNS = (
    f"{'':<58} {'median [min-max]':>28} {'CPU us/event':>18} {'beside it':>12} {'against it':>20} {'target':>12}  verdict"
)


def text(results: Sequence[Result]) -> str:
    """A table, a family after another."""
    lines = [machine(), "", COLUMNS]
    family = ""
    for result in results:
        if result.family != family:
            family = result.family
            lines += ["", family]
        lines.append(_line(result))
    return "\n".join(lines)


def _line(result: Result) -> str:
    row = result.row
    if result.value is None:
        return f"  {row.title:<56} {result.error}"
    sign = {"ratio": "x", "difference": row.unit, "only told": row.unit}[row.compared]
    target = "" if row.target is None else f"{'>=' if row.better == 'more' else '<='} {_number(row.target)}{sign}"
    against = _spread(result.against, row.unit if row.compared == "difference" else "x") if result.against else ""
    return (
        f"  {row.title:<56} {_spread(result.value, row.unit):>28} {_spread(result.cpu, '') if result.cpu else '':>18} "
        f"{_number(result.bare.median) + row.unit if result.bare else '':>12} {against:>20} {target:>12}  {result.verdict}"
    )


def _spread(spread: Spread, unit: str) -> str:
    if spread.least == spread.most:
        return f"{_number(spread.median)}{unit}"
    return f"{_number(spread.median)}{unit} [{_number(spread.least)}-{_number(spread.most)}]"


def _number(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:.0f}k"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def machine() -> str:
    """On what it was measured."""
    return (
        f"Python {platform.python_version()}, SQLite {apsw.sqlite_lib_version()}, {os.cpu_count()} processors, "
        f"{platform.system()} {platform.machine()}; load {os.getloadavg()[0]:.2f}"
    )


def as_json(results: Sequence[Result]) -> dict[str, Any]:
    """All of it, with every spread."""
    return {
        "machine": machine(),
        "results": [
            {
                "family": result.family,
                "title": result.row.title,
                "unit": result.row.unit,
                "value": asdict(result.value) if result.value else None,
                "cpu_us_per_event": asdict(result.cpu) if result.cpu else None,
                "bare": asdict(result.bare) if result.bare else None,
                "against_bare": asdict(result.against) if result.against else None,
                "target": result.row.target,
                "target_is_for": "the figure" if result.row.compared == "only told" else f"the {result.row.compared} to the bare limit",
                "better": result.row.better,
                "verdict": result.verdict,
                "error": result.error,
            }
            for result in results
        ],
    }
