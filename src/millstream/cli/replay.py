"""`millstream replay`: a group handles events again."""

from typing import Annotated

from cyclopts import Parameter

from millstream.app import operations
from millstream.app.operations import Plan, Target
from millstream.cli.flags import Yes, flag
from millstream.cli.place import HERE, Place, opened
from millstream.cli.screen import PLAIN, Column, Look, Screen
from millstream.cli.wording import UNKNOWN, moment_of, number
from millstream.contracts.errors import ConfigurationError, RefusedError
from millstream.core.broker import Partition

COLUMNS = [
    Column("PARTITION", id=True),
    Column("NOW", right=True),
    Column("THEN", right=True),
    Column("AGAIN", right=True),
    Column("SKIPPED", right=True),
]


async def replay(
    group: str,
    /,
    *,
    from_time: Annotated[str | None, Parameter(help="Go on with what was published then or later: 15m, or 2026-01-31T12:00.")] = None,
    from_position: Annotated[int | None, Parameter(help="Go on at this position of every partition.")] = None,
    back: Annotated[int | None, Parameter(help="Go on so many events before where it stands, in every partition.")] = None,
    earliest: Annotated[bool, flag("Go on with the oldest event that is kept.")] = False,
    partition: Annotated[tuple[str, ...], Parameter(help="Only in this partition, as TOPIC/NUMBER; may be repeated.", negative="")] = (),
    with_effects: Annotated[bool, flag("Have what was handled before take effect again: writes, events, mails.")] = False,
    yes: Yes = False,
    place: Place = HERE,
    look: Look = PLAIN,
) -> None:
    """Move a stopped group to another place in the log; it goes on there when it is
    started.

    Without --with-effects a handler that runs effectively once sees what it has
    handled as duplicates, and only what it missed takes effect. A handler that
    runs at least once is called again in any case. Without --yes nothing is
    changed.

    For example:
      millstream replay analytics.project --from-time 2h
      millstream replay analytics.project --back 100 --partition order.paid/3
      millstream replay analytics.project --earliest --with-effects --yes
    """
    screen = Screen(look)
    async with opened(place) as where:
        target = _target(from_time, from_position, back, earliest, where.clock.micros())
        plan = await operations.plan_replay(where.broker, group, target, [_partition(each) for each in partition])
        if yes:
            await operations.replay(where.broker, where.store, plan, effects=with_effects)
    if look.json:
        screen.document("replay", done=yes, effects=with_effects, **_fields(plan))
    else:
        _show(screen, plan, done=yes, effects=with_effects)
    if not yes:
        stop = f" Its workers run now ({plan.running} partitions are owned): stop them first." if plan.running else ""
        raise RefusedError(f"nothing was changed.{stop} Add --yes to do it.")


def _target(from_time: str | None, from_position: int | None, back: int | None, earliest: bool, now: int) -> Target:
    if sum(each is not None for each in (from_time, from_position, back)) + earliest != 1:
        raise ConfigurationError("say where to go on with exactly one of --from-time, --from-position, --back and --earliest.")
    if from_time is not None:
        return Target(kind="time", micros=moment_of(from_time, now))
    if from_position is not None:
        if from_position < 0:
            raise ConfigurationError(f"--from-position {from_position}: positions count from 0.")
        return Target(kind="position", position=from_position)
    if back is not None:
        return Target(kind="back", events=back)
    return Target(kind="earliest")


def _partition(text: str) -> Partition:
    topic, slash, number = text.rpartition("/")
    if not slash or not topic or not number.isdecimal():
        raise ConfigurationError(f"--partition {text}: write it as TOPIC/NUMBER, such as order.paid/3.")
    return Partition(topic, int(number))


def _show(screen: Screen, plan: Plan, *, done: bool, effects: bool) -> None:
    moved = [move for move in plan.moves if move.committed != move.to]
    if moved:
        screen.table(
            COLUMNS,
            [
                [
                    f"{move.partition.topic}/{move.partition.number}",
                    UNKNOWN if move.committed is None else number(move.committed),
                    number(move.to),
                    number(move.again),
                    number(move.skipped),
                ]
                for move in moved
            ],
        )
    verb = "was moved" if done else "would be moved"
    with_effects = ", with effects" if effects else ""
    screen.say(f"{plan.group} {verb}: {number(plan.again)} events again, {number(plan.skipped)} never{with_effects}")
    if done:
        screen.hint("Next: millstream run MODULE:APP")


def _fields(plan: Plan) -> dict[str, object]:
    return {
        "group": plan.group,
        "again": plan.again,
        "skipped": plan.skipped,
        "running": plan.running,
        "partitions": [
            {
                "topic": move.partition.topic,
                "number": move.partition.number,
                "committed": move.committed,
                "to": move.to,
                "again": move.again,
                "skipped": move.skipped,
            }
            for move in plan.moves
        ],
    }
