"""The proof: counts and invariants, as JSON or for people."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millstream.demos.shop.auditor import Evidence, Invariant, audit


@dataclass(frozen=True, slots=True)
class Run:
    """What the audit cannot see: how the run went."""

    mode: str
    seed: int
    seconds: float
    kills: int
    duplicates: int
    drained: bool
    failures: list[str]


def proof(evidence: Evidence, run: Run) -> dict[str, Any]:
    """The report of one run."""
    invariants = [*audit(evidence), _drained(run)]
    handled = sum(counter.total() for counter in evidence.effects.values()) + evidence.outcomes.total()
    return {
        "ok": all(each.ok for each in invariants),
        "mode": run.mode,
        "broker": "sqlite",
        "seed": run.seed,
        "seconds": round(run.seconds, 1),
        "counts": {
            "orders": len(evidence.orders),
            "published": evidence.log_size,
            "handled": handled,
            "kills": run.kills,
            "duplicates": run.duplicates,
            "poison": len(evidence.poison),
            "dead_letters": sum(len(letters) for letters in evidence.dead.values()),
            "mails": evidence.mails.total() if evidence.mails is not None else 0,
        },
        "invariants": [each.as_dict() for each in invariants],
    }


def _drained(run: Run) -> Invariant:
    evidence = [] if run.drained else ["events were still waiting when the limit was reached"]
    return Invariant("every event was worked off after the faults", 1, len(evidence), [*evidence, *run.failures[:5]])


def as_text(report: dict[str, Any], data: Path) -> str:
    """The report for people; a word goes with every sign."""
    counts = report["counts"]
    lines = [
        f"prove shop  mode={report['mode']}  seed={report['seed']}  {report['seconds']} s  "
        f"{counts['orders']} orders  {counts['kills']} kills  {counts['duplicates']} duplicates  {counts['poison']} poison"
    ]
    for each in report["invariants"]:
        sign = "✓ holds " if each["ok"] else "✗ broken"
        lines.append(f" {sign}  {each['name']}  ({each['checked']} checked, {each['violations']} violations)")
        lines.extend(f"             {text}" for text in each["evidence"])
    lines.append(f"{'All promises kept.' if report['ok'] else 'Promises were broken.'} The data is in {data}")
    return "\n".join(lines)
