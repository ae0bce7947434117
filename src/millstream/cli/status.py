"""`millstream status`."""

from typing import Any

from millstream.cli.exits import Exit
from millstream.cli.screen import PLAIN, Cell, Column, Look, Screen, Style
from millstream.cli.sight import HERE, Sight, looking
from millstream.cli.wording import UNKNOWN, number, span

#: How each state of a group is drawn.
MARKS: dict[str, tuple[str, str, Style]] = {
    "caught up": ("●", "o", "green"),
    "idle": ("○", ".", "dim"),
    "catching up": ("▼", "v", "cyan"),
    "replaying": ("⟳", "@", "cyan"),
    "paused": ("‖", "=", "cyan"),
    "unknown": ("?", "?", "yellow"),
    "behind": ("▲", "^", "yellow"),
    "rewound": ("↶", "<", "red"),
    "stalled": ("▮", "!", "red"),
    "stopped": ("■", "#", "red"),
}

COLUMNS = [
    Column(""),
    Column("GROUP", id=True, least=20),
    Column("STATE"),
    Column("LAG", right=True),
    Column("OLDEST", right=True),
    Column("RATE", right=True, drop=1),
    Column("P95", right=True, drop=2),
    Column("FAILED", right=True, drop=3),
    Column("DEAD", right=True),
]
#: Verdicts that are as bad as this have to be repaired, or should be looked at.
CRITICAL, WARNING = 7, 5


async def status(*, sight: Sight = HERE, look: Look = PLAIN) -> int:
    """Say whether the system is healthy, and if not, where.

    Exits with 0 when it is, with 9 when something has to be repaired (a group
    that is stopped, stalled or rewound, or dead letters), and with 10 when
    something should be looked at. Services that tell nothing (the setting
    `facts`) are known by their groups only.

    For example:
      millstream status
      millstream status --broker sqlite:///shop.db --output json
    """
    screen = Screen(look)
    async with looking(sight) as glance:
        found = await glance.answers.overview()
    code = exit_of(found)
    if look.json:
        screen.document(
            "status",
            state={Exit.OK: "ok", Exit.WARNING: "warning"}.get(code, "critical"),
            sentence=found["sentence"],
            groups=[fields(group) for group in found["groups"]],
        )
        return code
    screen.say(found["sentence"], "bold")
    if found["groups"]:
        screen.table(COLUMNS, [row(screen, group) for group in found["groups"]])
    for group in found["groups"]:
        if group["verdict"]["severity"] >= WARNING:
            screen.say(f"{group['name']}: {group['verdict']['sentence']}", MARKS[group["verdict"]["state"]][2], cut=True)
        for trouble in group["troubles"]:
            screen.warn(trouble)
    screen.hint(_next(found))
    return code


def exit_of(found: dict[str, Any]) -> Exit:
    """What the state of a system means to a script."""
    worst = max((group["verdict"]["severity"] for group in found["groups"]), default=0)
    if worst >= CRITICAL or found["dead"]:
        return Exit.CRITICAL
    return Exit.WARNING if worst >= WARNING or any(group["troubles"] for group in found["groups"]) else Exit.OK


def row(screen: Screen, group: dict[str, Any]) -> list[Cell | str]:
    """A group as a line of a table."""
    pretty, simple, style = MARKS[group["verdict"]["state"]]
    return [
        Cell(screen.mark(pretty, simple), style),
        group["name"],
        Cell(group["verdict"]["state"], style),
        number(group["lag"]),
        span(group["age"]) if group["lag"] else UNKNOWN,
        f"{group['handled_per_second']:.1f}/s",
        span(group["p95_work"]),
        Cell(number(group["failed"]), "yellow" if group["failed"] else ""),
        Cell(number(group["dead"]), "red" if group["dead"] else ""),
    ]


def fields(group: dict[str, Any]) -> dict[str, Any]:
    """A group as programs read it."""
    return {
        "name": group["name"],
        "state": group["verdict"]["state"],
        "rule": group["verdict"]["rule"],
        "sentence": group["verdict"]["sentence"],
        **{
            name: group[name]
            for name in (
                "lag", "age", "drained_in", "members", "instances", "handled_per_second", "p95_work", "p95_latency", "one_in", "failed",
                "duplicates", "parked", "dead", "troubles",
            )
        },
    }  # fmt: skip


def _next(found: dict[str, Any]) -> str:
    if not found["processes"]:
        return "No service tells of itself here: run it with `millstream run`, or set facts = \"on\" (MILLSTREAM_FACTS=on)."
    if found["one_in"] > 1:
        return f"Rates are exact; single deliveries are told of one correlation in {found['one_in']}."
    return "Next: millstream dlq list" if found["dead"] else "Next: millstream top"
