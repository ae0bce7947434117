"""`millstream topics`: what is kept, and who reads it."""

from typing import Annotated

from cyclopts import App

from millstream.app import operations, queries
from millstream.cli.flags import Yes, flag
from millstream.cli.place import HERE, Place, opened
from millstream.cli.screen import PLAIN, Column, Look, Screen
from millstream.cli.wording import number, size, span
from millstream.contracts.errors import RefusedError

app = App(name="topics", help="Show topics, and remove what retention no longer keeps.", help_format="plaintext")

COLUMNS = [
    Column("TOPIC", id=True, least=24),
    Column("EVENTS", right=True),
    Column("PUBLISHED", right=True, drop=3),
    Column("PARTITIONS", right=True, drop=2),
    Column("KEEPS", drop=4),
    Column("GROUPS", drop=1, least=24),
]


@app.default
@app.command(name="list")
async def list_(*, place: Place = HERE, look: Look = PLAIN) -> None:
    """Show every topic, how many events it keeps, and which groups read it.

    For example:
      millstream topics
      millstream topics list --broker sqlite:///shop.db --output json
    """
    screen = Screen(look)
    async with opened(place) as where:
        found = await queries.topics(where.broker)
    if look.json:
        screen.document("topics", topics=[_fields(state) for state in found])
        return
    if not found:
        screen.hint(f"No topics yet on {where.broker.name}. Next: millstream publish order.created --data '{{}}'")
        return
    screen.table(
        COLUMNS,
        [
            [
                state.topic.name,
                number(state.events),
                number(state.published),
                number(len(state.bounds) if state.bounds is not None else state.topic.partitions),
                _keeps(state),
                ", ".join(state.groups) or "nobody",
            ]
            for state in found
        ],
    )


@app.command
async def retain(
    topic: str,
    /,
    *,
    force: Annotated[bool, flag("Also remove what groups have not passed; needs --yes.")] = False,
    yes: Yes = False,
    place: Place = HERE,
    look: Look = PLAIN,
) -> None:
    """Remove now what the topic's retention no longer keeps.

    For example:
      millstream topics retain order.created
      millstream topics retain order.created --force --yes
    """
    screen = Screen(look)
    async with opened(place) as where:
        if force and not yes:
            raise RefusedError(f"--force removes events of {topic!r} that groups have not handled; they are gone then. Add --yes to do it.")
        removed = await operations.retain(where.broker, topic, force=force)
    if look.json:
        screen.document("retain", topic=topic, removed=removed)
    else:
        screen.say(f"{number(removed)} events removed from {topic}")


def _keeps(state: queries.TopicState) -> str:
    kept = [span(state.topic.retain_seconds)] if state.topic.retain_seconds is not None else []
    kept += [size(state.topic.retain_bytes)] if state.topic.retain_bytes is not None else []
    return ", ".join(kept) or "everything"


def _fields(state: queries.TopicState) -> dict[str, object]:
    return {
        "name": state.topic.name,
        "events": state.events,
        "published": state.published,
        "retain_seconds": state.topic.retain_seconds,
        "retain_bytes": state.topic.retain_bytes,
        "groups": state.groups,
        "partitions": [{"number": p.number, "first": first, "head": head} for p, first, head in state.bounds or ()],
    }
