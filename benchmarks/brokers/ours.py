"""Millstream's part, which is the same on every broker: only the URL differs."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator
from pathlib import Path

from benchmarks.brokers.drive import Counting, Seen, from_many, from_one, in_batches
from benchmarks.brokers.events import Stored, Tick, published, stored
from benchmarks.subject import Figures
from millstream import App
from millstream.contracts.message import contract_of
from millstream.core.broker import Topic

#: Events that are filled in at a time.
FILL = 10_000


def unique(word: str = "bench") -> str:
    """A name that no other run uses."""
    return f"{word}-{secrets.token_hex(4)}"


def app_on(url: str, folder: Path) -> App:
    """An app that keeps its progress in a file."""
    return App(unique(), broker=url, store=f"sqlite:///{folder}/store.db")


@contextlib.asynccontextmanager
async def opened(app: App) -> AsyncGenerator[App]:
    """Open it, and leave nothing of its groups behind."""
    async with app:
        try:
            yield app
        finally:
            for group in app.groups():
                await app.broker.forget(group.name)


async def have_stored(app: App, count: int) -> None:
    """Have so many events in a log that keeps them: only the first run has to publish."""
    topic = contract_of(Stored).topic
    await app.broker.declare([Topic(name=topic)], [])
    there = sum(head - first for _, first, head in await app.broker.bounds(topic))
    await fill(app, count, there)


async def fill(app: App, count: int, there: int = 0) -> None:
    """Publish events that wait to be handled, up to so many."""
    for first in range(there, count, FILL):
        await app.publish_many(stored(first, min(FILL, count - first)))


async def consume(url: str, folder: Path, count: int, *, replays: bool) -> Figures:
    """Decode, await the handler, settle: an App with a SQLite store, at least once."""
    counting = Counting(count)
    app = app_on(url, folder)

    @app.subscriber(Stored, delivery="at_least_once", start="earliest" if replays else "latest")
    async def look_at(_order: Stored) -> None:
        counting.one()

    async with opened(app):
        await (have_stored if replays else fill)(app, count)
        await app.run(counting.stop)
    return counting.figures()


async def publish_from_many(url: str, folder: Path, count: int) -> Figures:
    """`publish`, from 100 tasks."""
    async with app_on(url, folder) as app:
        return await from_many(app.publish, published(0, count))


async def publish_from_one(url: str, folder: Path, count: int) -> Figures:
    """`publish`, from one task."""
    async with app_on(url, folder) as app:
        return await from_one(app.publish, published(0, count))


async def publish_batches(url: str, folder: Path, count: int) -> Figures:
    """`publish_many`."""
    async with app_on(url, folder) as app:
        return await in_batches(app.publish_many, published(0, count))


async def latency(url: str, folder: Path, count: int) -> Figures:
    """From `publish` to the handler, in one process."""
    seen, stop = Seen(), asyncio.Event()
    app = app_on(url, folder)

    @app.subscriber(Tick, delivery="at_least_once")
    async def look_at(tick: Tick) -> None:
        seen.one(tick)

    async with opened(app):
        running = asyncio.create_task(app.run(stop))
        try:
            return await seen.measure(app.publish, count)
        finally:
            stop.set()
            await running
