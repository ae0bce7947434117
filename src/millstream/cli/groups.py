"""`millstream groups`: lag, pause, resume, forget."""

from cyclopts import App

from millstream.app import operations, queries
from millstream.app.queries import GroupState, Verdict, lag_of
from millstream.cli.flags import Yes
from millstream.cli.place import HERE, Place, opened
from millstream.cli.screen import PLAIN, Cell, Column, Look, Screen, Style
from millstream.cli.wording import UNKNOWN, age, clock_time, figure, iso, number
from millstream.contracts.errors import RefusedError

app = App(name="groups", help="Show groups with their lag; pause, resume and forget them.", help_format="plaintext")

MARKS: dict[Verdict, tuple[str, str, Style]] = {
    "caught up": ("●", "o", "green"),
    "behind": ("▲", "^", "yellow"),
    "stopped": ("■", "#", "red"),
    "paused": ("‖", "=", "cyan"),
    "unknown": ("?", "?", "yellow"),
}

COLUMNS = [
    Column(""),
    Column("GROUP", id=True, least=24),
    Column("STATE"),
    Column("LAG", right=True),
    Column("OLDEST", right=True),
    Column("PARKED", right=True, drop=2),
    Column("DEAD", right=True),
    Column("WORKERS", right=True, drop=3),
    Column("TOPICS", drop=1, least=12),
]

PARTITIONS = [
    Column("PARTITION", id=True),
    Column("DONE", right=True),
    Column("HEAD", right=True),
    Column("LAG", right=True),
    Column("NEXT PUBLISHED", drop=1),
    Column("OWNER", drop=2, id=True),
]


@app.default
@app.command(name="list")
async def list_(*, place: Place = HERE, look: Look = PLAIN) -> None:
    """Show every group: how many events it has still to handle, and how long the
    oldest has waited.

    What needs attention stands first. PARKED and DEAD are kept by the store of the
    service; name it with --store or --app, or they are unknown.

    For example:
      millstream groups
      millstream groups list --app inventory:app --output json
    """
    screen = Screen(look)
    async with opened(place) as where:
        found = await queries.groups(where.broker, where.store, where.clock)
        broker = where.broker.name
    if look.json:
        screen.document("groups", groups=[_fields(state) for state in found])
        return
    if not found:
        screen.hint(f"No groups yet on {broker}. Next: millstream run MODULE:APP")
        return
    screen.table(COLUMNS, [_row(screen, state) for state in found])
    if any(state.dead for state in found):
        screen.hint("Next: millstream dlq list")
    elif any(state.dead is None for state in found):
        screen.hint(f"{UNKNOWN} is kept by another store; name it with --store or --app.")


@app.command
async def show(group: str, /, *, place: Place = HERE, look: Look = PLAIN) -> None:
    """Show one group, partition by partition.

    For example:
      millstream groups show inventory.reserve_stock
      millstream groups show inventory.reserve_stock --output json
    """
    screen = Screen(look)
    async with opened(place) as where:
        state = await queries.group(where.broker, where.store, where.clock, group)
    if look.json:
        screen.document("group", **_fields(state))
        return
    pretty, simple, style = MARKS[state.verdict]
    screen.row([Cell(screen.mark(pretty, simple) + " ", style), Cell(state.name, "bold"), Cell(f"  {state.verdict}", style)])
    parked = f"parked {number(state.parked)}, dead {number(state.dead)}"
    screen.say(f"lag {figure(state.lag)} events, oldest {age(state.age)}; {parked}; {number(state.members)} workers")
    screen.table(
        PARTITIONS,
        [
            [
                f"{each.partition.topic}/{each.partition.number}",
                figure(each.committed),
                figure(each.head),
                figure(lag_of(each)),
                UNKNOWN if each.oldest.value is None else clock_time(each.oldest.value),
                each.owner or "nobody",
            ]
            for each in state.partitions
        ],
    )


@app.command
async def pause(group: str, /, *, place: Place = HERE, look: Look = PLAIN) -> None:
    """Have a group's workers take nothing more; what they have in hand they finish.
    It survives restarts.

    For example:
      millstream groups pause mailer.send
      millstream groups pause mailer.send --store sqlite:///mailer.db
    """
    await _pause(group, place, look, paused=True)


@app.command
async def resume(group: str, /, *, place: Place = HERE, look: Look = PLAIN) -> None:
    """Have a paused group go on.

    For example:
      millstream groups resume mailer.send
      millstream groups resume mailer.send --store sqlite:///mailer.db
    """
    await _pause(group, place, look, paused=False)


async def _pause(group: str, place: Place, look: Look, *, paused: bool) -> None:
    screen = Screen(look)
    async with opened(place) as where:
        await operations.pause(where.broker, where.store, group, paused=paused)
        state = await queries.group(where.broker, where.store, where.clock, group)
    if look.json:
        screen.document("group", **_fields(state))
        return
    screen.say(f"{group} is {'paused' if paused else 'no longer paused'}")
    if paused:
        screen.hint(f"Its lag grows from now on. Go on with: millstream groups resume {group}")
    elif state.members == 0:
        screen.hint("No worker of it runs now. Next: millstream run MODULE:APP")


@app.command
async def forget(group: str, /, *, yes: Yes = False, place: Place = HERE, look: Look = PLAIN) -> None:
    """Remove a group that the code no longer has: its positions, its inbox and its
    dead letters.

    Retention no longer waits for it. A group of the same name would begin anew.

    For example:
      millstream groups forget old.handler
      millstream groups forget old.handler --yes
    """
    screen = Screen(look)
    async with opened(place) as where:
        state = await queries.group(where.broker, where.store, where.clock, group)
        lost = f"{figure(state.lag)} waiting events would never reach it, {number(state.parked)} parked deliveries would be gone"
        if not yes:
            raise RefusedError(f"forgetting {group!r} on {where.broker.name} cannot be undone: {lost}. Add --yes to do it.")
        await operations.forget(where.broker, where.store, state)
    if look.json:
        screen.document("forgotten", group=group, lag=state.lag, parked=state.parked)
    else:
        screen.say(f"{group} is forgotten")


def _row(screen: Screen, state: GroupState) -> list[Cell | str]:
    pretty, simple, style = MARKS[state.verdict]
    return [
        Cell(screen.mark(pretty, simple), style),
        state.name,
        state.verdict,
        figure(state.lag),
        age(state.age) if state.lag.value != 0 else UNKNOWN,
        number(state.parked),
        Cell(number(state.dead), "red" if state.dead else ""),
        number(state.members),
        ", ".join(state.topics),
    ]


def _fields(state: GroupState) -> dict[str, object]:
    return {
        "name": state.name,
        "state": state.verdict,
        "topics": state.topics,
        "lag": {"events": state.lag.value, "quality": state.lag.quality},
        "oldest": {"seconds": state.age.seconds, "quality": state.age.quality},
        "workers": state.members,
        "paused": state.paused,
        "parked": state.parked,
        "dead": state.dead,
        "partitions": [
            {
                "topic": each.partition.topic,
                "number": each.partition.number,
                "committed": each.committed.value,
                "head": each.head.value,
                "oldest": iso(each.oldest.value),
                "owner": each.owner,
            }
            for each in state.partitions
        ],
    }
