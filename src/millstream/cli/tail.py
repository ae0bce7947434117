"""`millstream tail`: events as they are published."""

import fnmatch
from typing import Annotated

from cyclopts import Parameter

from millstream.app.tail import Matches
from millstream.app.tail import tail as read
from millstream.cli.events import body_text, event_fields, field_text, filled, key_of
from millstream.cli.flags import Follow
from millstream.cli.place import HERE, Place, opened
from millstream.cli.screen import PLAIN, Cell, Look, Screen
from millstream.cli.wording import clock_time, moment_of
from millstream.contracts.errors import ConfigurationError
from millstream.core.broker import Delivery

DEFAULT_LAST = 10


async def tail(
    *types: str,
    topic: Annotated[tuple[str, ...], Parameter(help="Only this topic; may be repeated.", negative="")] = (),
    key: Annotated[str | None, Parameter(help="Only events of this key.")] = None,
    correlation: Annotated[str | None, Parameter(help="Only events that one first event caused.")] = None,
    where: Annotated[tuple[str, ...], Parameter(help="Only events whose body has FIELD=TEXT, such as sku=mug.", negative="")] = (),
    since: Annotated[str | None, Parameter(help="From then on: 15m, 2h30m, or a time such as 2026-01-31T12:00.")] = None,
    last: Annotated[int | None, Parameter(name=["--last", "-n"], help="At most so many of the past; 10 unless --since is given.")] = None,
    follow: Follow = False,
    format: Annotated[str | None, Parameter(help="A line such as '{time} {type} {key} {data.total}', or raw for bodies only.")] = None,
    place: Place = HERE,
    look: Look = PLAIN,
) -> None:
    """Show events: the last ones, and with --follow what comes next.

    TYPES are event types, and may hold *, as in order.*. With --output json each
    event is a document on a line of its own.

    For example:
      millstream tail
      millstream tail 'order.*' --since 15m --follow
      millstream tail --where sku=mug --format '{time} {key} {data.quantity}'
    """
    screen = Screen(look)
    matches = _matcher(types, key, correlation, where)
    async with opened(place) as target:
        micros = None if since is None else moment_of(since, target.clock.micros())
        most = last if last is not None else None if since is not None else DEFAULT_LAST
        found = read(target.broker, target.clock, topics=topic, since=micros, most=most, follow=follow, matches=matches)
        async for delivery in found:
            _show(screen, delivery, format)


def _show(screen: Screen, delivery: Delivery, format: str | None) -> None:
    if screen.json:
        screen.document("event", **event_fields(delivery))
    elif format == "raw":
        screen.say(body_text(delivery.envelope, delivery.message))
    elif format is not None:
        screen.say(filled(format, delivery))
    else:
        envelope = delivery.envelope
        micros = envelope.time if envelope is not None else delivery.message.time if delivery.message is not None else 0
        key = key_of(delivery)
        type_ = Cell(envelope.type, "bold") if envelope is not None else Cell(f"? on {delivery.partition.topic}", "red")
        screen.row(
            [
                Cell(f"{clock_time(micros)}  ", "dim"),
                type_,
                Cell(f"  {key}" if key is not None else "", "cyan"),
                Cell(f"  {body_text(envelope, delivery.message)}"),
            ],
            cut=True,
        )


def _matcher(types: tuple[str, ...], key: str | None, correlation: str | None, where: tuple[str, ...]) -> Matches:
    conditions: list[tuple[str, str]] = []
    for condition in where:
        field, equals, text = condition.partition("=")
        if not equals or not field:
            raise ConfigurationError(f"--where {condition!r} is no condition. Write FIELD=TEXT, such as sku=mug.")
        conditions.append((field.removeprefix("data."), text))

    def matches(delivery: Delivery) -> bool:
        envelope = delivery.envelope
        if types and (envelope is None or not any(fnmatch.fnmatchcase(envelope.type, pattern) for pattern in types)):
            return False
        if key is not None and key_of(delivery) != key:
            return False
        if correlation is not None and (envelope is None or correlation not in (envelope.correlation, envelope.id)):
            return False
        return all(field_text(delivery, field) == text for field, text in conditions)

    return matches
