"""The same services without the framework's promises: what naive mode and the mutations run instead.

Each service hands over its business as a function of a database and an event. Here it commits on its own, and publishes
afterwards (or not at all, when it dies in between), as hand-written services often do.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import apsw

from millstream import App
from millstream.demos.shop import crash
from millstream.demos.shop.crash import CrashPoints
from millstream.demos.shop.options import Protections


class Sql(Protocol):
    """What business code needs of a database: millstream's Transaction, or a plain connection's."""

    def execute(self, sql: str, params: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]: ...


Business = Callable[[Sql, Any], object | None]


class PlainDatabase:
    """A connection of the service's own, committing by itself."""

    def __init__(self, path: Path) -> None:
        self._connection = apsw.Connection(str(path))
        self._connection.set_busy_timeout(10_000)

    def execute(self, sql: str, params: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        return list(self._connection.execute(sql, params))

    def commit(self, business: Business, event: object) -> object | None:
        """Run the business in one transaction and commit it."""
        self._connection.execute("begin immediate")
        try:
            outcome = business(self, event)
        except BaseException:
            self._connection.execute("rollback")
            raise
        self._connection.execute("commit")
        return outcome


def handle_unprotected(
    app: App,
    *types: type,
    path: Path,
    business: Business,
    protections: Protections,
    points: CrashPoints,
    group: str,
    before: Callable[[Any], Awaitable[None]] | None = None,
) -> None:
    """Subscribe the business to the types with the guarantees that are left."""
    database: list[PlainDatabase] = []
    running: set[asyncio.Task[None]] = set()

    async def work(event: Any) -> None:
        if before is not None:
            await before(event)
        if not database:
            database.append(PlainDatabase(path))
        outcome = await asyncio.to_thread(database[0].commit, business, event)
        points.reach(crash.BETWEEN_COMMIT_AND_PUBLISH)
        if outcome is not None:
            await app.publish(outcome)
        points.reach(crash.AFTER_HANDLE_BEFORE_ACK)

    async def handle(event: Any) -> None:
        if protections.handle_before_ack:
            await work(event)
            return
        task = asyncio.create_task(_later(work, event))
        running.add(task)
        task.add_done_callback(running.discard)

    subscribe(app, handle, *types, group=group, delivery="at_least_once")


async def _later(work: Callable[[Any], Awaitable[None]], event: Any) -> None:
    # Acknowledged already: the page commits while this waits for its turn.
    await asyncio.sleep(0.05)
    await work(event)


def subscribe(app: App, handler: Callable[..., Any], *types: type, group: str, delivery: Any) -> None:
    """Register a handler written for any type as one for exactly these."""
    annotation: Any = types[0]
    for other in types[1:]:
        annotation = annotation | other
    handler.__annotations__["event"] = annotation
    handler.__name__ = group.rpartition(".")[2]
    app.subscriber(*types, group=group, start="earliest", delivery=delivery)(handler)
