"""The same services without one promise of the framework, or without any: what naive mode and the mutations run.

Each service hands over its business as a function of a database and an event. Whatever protection is left is made here
by hand, so that a mutation lacks exactly the one that it is named for.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol

from millstream import App, Context
from millstream.contracts.envelope import Envelope
from millstream.demos.shop import crash
from millstream.demos.shop.crash import CrashPoints
from millstream.demos.shop.options import Protections

INBOX = "create table if not exists own_inbox (source text not null, id text not null, primary key (source, id))"
LATER = 0.05


class Sql(Protocol):
    """What business code needs of a database."""

    def execute(self, sql: str, params: tuple[Any, ...] = (), /) -> list[tuple[Any, ...]]:
        """Run one statement; give its rows."""
        ...


Business = Callable[[Sql, Any], object | None]


def handle_unprotected(
    app: App,
    *types: type,
    business: Business,
    protections: Protections,
    points: CrashPoints,
    group: str,
    start: Literal["earliest", "latest"],
    before: Callable[[Any], Awaitable[None]] | None = None,
) -> None:
    """Subscribe the business to the types with the protections that are left."""
    running: set[asyncio.Task[None]] = set()

    async def work(event: Any, envelope: Envelope) -> None:
        if before is not None:
            await before(event)
        async with app.unit_of_work() as unit:
            if protections.inbox and not _is_new(unit, envelope):
                return
            outcome = business(unit, event)
            points.reach(crash.INSIDE_UNIT_OF_WORK)
            if outcome is not None and protections.outbox:
                unit.publish(outcome)
        points.reach(crash.BETWEEN_COMMIT_AND_PUBLISH)
        if outcome is not None and not protections.outbox:
            await app.publish(outcome)
        points.reach(crash.AFTER_HANDLE_BEFORE_ACK)

    async def handle(event: Any, context: Context) -> None:
        if protections.handle_before_ack:
            await work(event, context.envelope)
            return
        task = asyncio.create_task(_later(work, event, context.envelope))
        running.add(task)
        task.add_done_callback(running.discard)

    _subscribe(app, handle, *types, group=group, start=start)


def _is_new(db: Sql, envelope: Envelope) -> bool:
    db.execute(INBOX)
    return bool(db.execute("insert or ignore into own_inbox values (?, ?) returning 1", (envelope.source, envelope.id)))


async def _later(work: Callable[[Any, Envelope], Awaitable[None]], event: Any, envelope: Envelope) -> None:
    # Acknowledged already: the position moves on while this waits for its turn.
    await asyncio.sleep(LATER)
    await work(event, envelope)


def _subscribe(app: App, handler: Callable[..., Any], *types: type, group: str, start: Literal["earliest", "latest"]) -> None:
    """Register a handler written for any type as one for exactly these."""
    annotation: Any = types[0]
    for other in types[1:]:
        annotation = annotation | other
    handler.__annotations__["event"] = annotation
    handler.__name__ = group.rpartition(".")[2]
    app.subscriber(*types, group=group, start=start, delivery="at_least_once")(handler)
