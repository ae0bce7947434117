"""The proof: counts and invariants, as JSON or for people."""

from dataclasses import dataclass
from typing import Any

from millstream.demos.shop.auditor import SHOWN, Evidence, Invariant, audit


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What the audit cannot see: how the run went."""

    mode: str
    broker: str
    """What its URL begins with."""
    seed: int
    seconds: float
    kills: int
    duplicates: int
    left: int
    """What was still waiting when the proof had waited long enough."""
    failures: list[str]
    """Processes that ended by themselves."""


def proof(evidence: Evidence, run: Run) -> dict[str, Any]:
    """The report of one run."""
    invariants = [*audit(evidence), _worked_off(run)]
    handled = sum(counter.total() for counter in evidence.effects.values()) + evidence.outcomes.total()
    return {
        "ok": all(each.ok for each in invariants),
        "mode": run.mode,
        "broker": run.broker,
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
            "mails": len(evidence.mails) if evidence.mails is not None else 0,
        },
        "invariants": [each.as_dict() for each in invariants],
    }


def _worked_off(run: Run) -> Invariant:
    evidence = [f"{run.left} were still waiting when the limit was reached"] if run.left else []
    return Invariant("every event is worked off after the faults", 1, min(1, run.left), [*evidence, *run.failures[:SHOWN]])


def as_text(report: dict[str, Any]) -> str:
    """The report for people; a word goes with every sign."""
    counts = report["counts"]
    lines = [
        f"prove shop  mode={report['mode']}  seed={report['seed']}  {report['seconds']} s  {counts['orders']} orders  "
        f"{counts['kills']} kills  {counts['duplicates']} duplicates  {counts['poison']} poison"
    ]
    for each in report["invariants"]:
        sign, word = ("✓", "holds ") if each["ok"] else ("✗", "BROKEN")
        found = f"{each['checked']} checked" + (f", {each['violations']} violated" if each["violations"] else "")
        lines.append(f" {sign} {word}  {each['name']}  ({found})")
        lines.extend(f"             {text}" for text in each["evidence"])
    lines.append("All promises kept." if report["ok"] else "Promises were broken.")
    return "\n".join(lines)
