"""`millstream trace`: the tree of causes and effects."""

from typing import Annotated, Any

from cyclopts import Parameter

from millstream.app.trace import Handling, Node, State, Trace, Tracer
from millstream.cli.events import content_fields
from millstream.cli.flags import flag
from millstream.cli.place import HERE, Place, opened
from millstream.cli.progress import Progress
from millstream.cli.screen import PLAIN, Cell, Look, Screen, Style
from millstream.cli.wording import clock_time, iso, moment_of, shortened, span

AGAIN = 0.5

MARKS: dict[State, tuple[str, str, Style]] = {
    "handled": ("✓", "+", "green"),
    "passed": ("✓", "+", "green"),
    "waiting": ("…", ".", "yellow"),
    "retry": ("↻", "!", "yellow"),
    "queued": ("‖", "=", "yellow"),
    "dead": ("✖", "x", "red"),
    "unknown": ("?", "?", "dim"),
}


async def trace(
    wanted: Annotated[str, Parameter(name="ID")],
    /,
    *,
    follow: Annotated[bool, flag("Go on until nothing of it waits.", "--follow", "-f")] = False,
    since: Annotated[str | None, Parameter(help="Search from then on; needed only to search faster for a key.")] = None,
    place: Place = HERE,
    look: Look = PLAIN,
) -> None:
    """Show the tree of causes and effects that an event belongs to.

    ID is the id of an event, the correlation of several, or a key. `passed` means
    that a group is beyond the event but keeps no record of it: it ran at least
    once, or the group began later.

    For example:
      millstream trace 0198c1de-4f2a-7000-8000-0123456789ab
      millstream trace order-17 --since 1h --follow
    """
    screen = Screen(look)
    async with opened(place) as where:
        micros = None if since is None else moment_of(since, where.clock.micros())
        tracer = Tracer(where.broker, where.store, wanted, since=micros)
        with Progress("searched") as progress:
            await tracer.advance(progress.at)
        found = await tracer.trace()
        shown = _show(screen, found, where.clock.micros(), "")
        while follow and found.pending:
            await where.clock.sleep(AGAIN)
            await tracer.advance()
            found = await tracer.trace()
            shown = _show(screen, found, where.clock.micros(), shown)


def _show(screen: Screen, found: Trace, now: int, before: str) -> str:
    """Print the trace unless it is as it was before; gives what identifies this state of it."""
    state = repr([(node.envelope.id, [(h.group, h.state, h.attempts) for h in node.handlings]) for node in found.nodes()])
    if state == before:
        return before
    if screen.json:
        screen.document("trace", roots=[_fields(root) for root in found.roots], pending=found.pending)
        return state
    if before:
        screen.say("")
    for root in found.roots:
        if root.envelope.causation:
            screen.say(f"caused by {root.envelope.causation}, which is not in the log", "dim")
        _node(screen, root, root, "", "")
    nodes = found.nodes()
    took = (max(node.envelope.time for node in nodes) - min(node.envelope.time for node in nodes)) / 1e6
    screen.say(f"{len(nodes)} events · {found.pending} pending · {span(took)} from first to last", "dim")
    return state


def _node(screen: Screen, node: Node, root: Node, first: str, rest: str) -> None:
    envelope = node.envelope
    when = clock_time(envelope.time) if node is root else f"+{span((envelope.time - root.envelope.time) / 1e6)}"
    cells = [
        Cell(first, "dim"),
        Cell(envelope.type, "bold"),
        Cell(f"  {envelope.key}" if envelope.key is not None else "", "cyan"),
        Cell(f"  {shortened(envelope.id, 17)}  {when}", "dim"),
    ]
    if len(node.places) > 1:
        cells.append(Cell(f"  published {len(node.places)} times", "yellow"))
    screen.row(cells, cut=True)
    for index, handling in enumerate(node.handlings):
        last = index == len(node.handlings) - 1
        _handling(screen, handling, root, rest + screen.mark("└─ " if last else "├─ ", "`- " if last else "|- "))
        below = rest + ("   " if last else screen.mark("│  ", "|  "))
        for number, effect in enumerate(handling.effects):
            final = number == len(handling.effects) - 1
            branch = screen.mark("└─ " if final else "├─ ", "`- " if final else "|- ")
            _node(screen, effect, root, below + branch, below + ("   " if final else screen.mark("│  ", "|  ")))


def _handling(screen: Screen, handling: Handling, root: Node, first: str) -> None:
    pretty, simple, style = MARKS[handling.state]
    words = handling.state if handling.state != "unknown" else "unknown: kept by another store, name it with --store"
    if handling.attempts > 1 or handling.parked is not None:
        words += f", attempt {handling.attempts}"
    if handling.parked is not None and handling.parked.error:
        words += f": {handling.parked.error}"
    if handling.state == "dead" and handling.parked is not None:
        words += f" (millstream dlq show {handling.parked.id})"
    mark = Cell(f"{screen.mark(pretty, simple)} ", style)
    screen.row([Cell(first, "dim"), mark, Cell(handling.group), Cell(f"  {words}", style)], cut=True)


def _fields(node: Node) -> dict[str, Any]:
    return {
        "topic": node.partition.topic,
        "partition": node.partition.number,
        "position": node.position,
        "copies": len(node.places),
        "event": content_fields(node.envelope, None)["event"],
        "handlings": [
            {
                "group": handling.group,
                "state": handling.state,
                "attempts": handling.attempts,
                "dead_letter": handling.parked.id if handling.parked is not None else None,
                "error": handling.parked.error if handling.parked is not None else None,
                "due": iso(handling.parked.due) if handling.parked is not None else None,
                "effects": [_fields(effect) for effect in handling.effects],
            }
            for handling in node.handlings
        ],
    }
