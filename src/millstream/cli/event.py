"""`millstream event`."""

from typing import Annotated, Any

from cyclopts import App, Parameter

from millstream.cli.screen import PLAIN, Cell, Column, Look, Screen, Style
from millstream.cli.sight import HERE, Sight, looking
from millstream.cli.wording import UNKNOWN, clock_time, iso, plain_lines, span
from millstream.contracts.errors import NotFoundError

app = App(name="event", help="Show a single event, and what became of it.", help_format="plaintext")

STYLES: dict[str, Style] = {"handled": "green", "dead": "red", "retrying": "yellow", "waiting": "yellow", "queued": "yellow"}
COLUMNS = [
    Column("GROUP", id=True, least=20),
    Column("FATE"),
    Column("ATTEMPTS", right=True),
    Column("WAITED", right=True, drop=2),
    Column("WORKED", right=True, drop=1),
    Column("AT", drop=3),
    Column("ERROR", drop=4),
]
#: A body that is longer is cut, in characters.
LONGEST = 20_000


@app.command
async def show(
    id: Annotated[str, Parameter(name="ID")],
    /,
    *,
    source: Annotated[str | None, Parameter(help="Its source, where two events have the same id.")] = None,
    sight: Sight = HERE,
    look: Look = PLAIN,
) -> None:
    """Show an event, its body, and what became of it in each group.

    `waiting` is what a group has not come to yet; `passed` what it is beyond
    without having told of it; `unknown` what it has not told of while its queue
    is empty: it was handled, kept back by a filter, or not sent yet.

    For example:
      millstream event show 0198c1de-4f2a-7000-8000-0123456789ab
      millstream event show 0198c1de-4f2a-7000-8000-0123456789ab --output json
    """
    screen = Screen(look)
    async with looking(sight) as glance:
        try:
            event = await glance.answers.event(id, source)
        except NotFoundError as error:
            raise NotFoundError(f"{error}. It has what services tell; to search the log itself: millstream trace {id}") from error
    if look.json:
        screen.document("shown", event=_fields(event))
        return
    screen.row([Cell(event["type"], "bold"), Cell(f"  v{event['version']}", "dim"), Cell(f"  {event['key'] or ''}", "cyan")])
    place = UNKNOWN if event["position"] is None else f"{event['topic']}/{event['partition']} at {event['position']}"
    for name, value in (
        ("id", event["id"]),
        ("source", event["source"]),
        ("time", clock_time(round(event["time"] * 1e6))),
        ("place", place),
        ("correlation", event["correlation"]),
        ("caused by", f"{event['causation']} in {event['by']}" if event["causation"] else UNKNOWN),
    ):
        screen.row([Cell(f"{name:<12}", "dim"), Cell(value)], cut=True)
    _body(screen, event["payload"])
    screen.table(COLUMNS, [_fate(fate) for fate in event["deliveries"]])
    screen.hint(f"Next: millstream trace {event['correlation']}")


def _body(screen: Screen, body: dict[str, Any] | None) -> None:
    if body is None:
        screen.say("its body is not in the log any more", "dim")
    elif body["kind"] == "json":
        text = body["text"]
        for line in plain_lines(text[:LONGEST]).splitlines():
            screen.say(line)
        if len(text) > LONGEST:
            screen.say(f"… {len(text) - LONGEST} more characters", "dim")
    else:
        screen.say(f"{body['size']} bytes that are no JSON", "dim")


def _fate(fate: dict[str, Any]) -> list[Cell | str]:
    attempts = fate["attempts"]
    last = attempts[-1] if attempts else None
    return [
        fate["group"],
        Cell(fate["state"], STYLES.get(fate["state"], "dim")),
        str(len(attempts)),
        span(last["waited"]) if last else UNKNOWN,
        span(last["worked"]) if last else UNKNOWN,
        clock_time(round(last["at"] * 1e6)) if last else UNKNOWN,
        last["error"] if last else "",
    ]


def _fields(event: dict[str, Any]) -> dict[str, Any]:
    """The event as programs read it."""
    names = ("id", "source", "type", "version", "topic", "partition", "position", "key", "correlation", "causation", "by", "payload")
    return {
        **{name: event[name] for name in names},
        "time": iso(round(event["time"] * 1e6)),
        "deliveries": [
            {
                "group": fate["group"],
                "state": fate["state"],
                "duplicates": fate["duplicates"],
                "attempts": [
                    {
                        **{name: attempt[name] for name in ("handler", "kind", "attempt", "waited", "worked", "error", "process")},
                        "at": iso(round(attempt["at"] * 1e6)),
                    }
                    for attempt in fate["attempts"]
                ],
            }
            for fate in event["deliveries"]
        ],
    }
