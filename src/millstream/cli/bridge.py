"""`millstream bridge`: copies topics from one broker to another."""

import asyncio
import hashlib
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from millstream.app.bridge import Bridge
from millstream.app.connect import EMBEDDED, connect_broker, path_of
from millstream.app.settings import masked
from millstream.app.system_clock import SystemClock
from millstream.cli.flags import Follow
from millstream.cli.progress import Progress
from millstream.cli.screen import PLAIN, Look, Screen
from millstream.cli.stopping import stopping
from millstream.cli.wording import number, span
from millstream.contracts.errors import NotFoundError


async def bridge(
    source: str,
    target: str,
    /,
    *,
    topic: Annotated[tuple[str, ...], Parameter(help="Only this topic; may be repeated. All of them otherwise.", negative="")] = (),
    group: Annotated[str | None, Parameter(help="The group that remembers at the source how far it is; made from TARGET.")] = None,
    skip: Annotated[tuple[str, ...], Parameter(help="Leave out the event of this id; may be repeated.", negative="")] = (),
    follow: Follow = False,
    look: Look = PLAIN,
) -> None:
    """Copy topics from the broker SOURCE to the broker TARGET: what is there, and
    with --follow also what comes.

    Events keep their ids, and each key its order. Who stops it, or loses it, runs
    it again: it goes on where it was, and what it may have published before is
    published again, for the inbox of its readers to suppress. Nothing is removed
    from SOURCE. Do not run two against each other.

    For example:
      millstream bridge sqlite:///shop.db kafka://localhost:9092
      millstream bridge kafka://localhost:9092 sqlite:///copy.db --follow
    """
    _there(source)
    screen, stop, clock = Screen(look), asyncio.Event(), SystemClock()
    started = clock.monotonic()
    async with connect_broker(source, clock) as origin, connect_broker(target, clock) as destination:
        crossing = Bridge(origin, destination, clock=clock, group=group or _group_of(target), topics=topic, skip=skip)
        with Progress("copied") as progress, stopping(stop):
            await crossing.run(stop, follow=follow, told=progress.at)
    took = clock.monotonic() - started
    copied, skipped = crossing.copied.total(), crossing.skipped.total()
    if look.json:
        screen.document(
            "bridge",
            source=masked(source),
            target=masked(target),
            group=crossing.group,
            events=copied,
            skipped=skipped,
            topics=dict(sorted(crossing.copied.items())),
            seconds=took,
        )
        return
    left_out = f", {number(skipped)} left out" if skipped else ""
    screen.say(f"{number(copied)} events copied to {masked(target)} in {span(took)}{left_out}; group {crossing.group} goes on from there.")


def _there(source: str) -> None:
    if source.startswith(EMBEDDED) and not (path := Path(path_of(source, "broker"))).exists():
        raise NotFoundError(f"the broker {source} does not exist: there is no file {path.absolute()}.")


def _group_of(target: str) -> str:
    """A name that stays the same for a target, without the secrets in its URL."""
    return f"bridge-{hashlib.blake2b(masked(target).encode(), digest_size=4).hexdigest()}"
