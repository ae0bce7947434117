"""Redis Streams by hand with redis-py: pages of a group, and one acknowledgement for each."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from benchmarks.brokers.drive import Counting, Seen, from_many, from_one
from benchmarks.brokers.events import ATTRIBUTES, Published, Stored, Tick, published, stored
from benchmarks.brokers.ours import unique
from benchmarks.subject import Figures

#: A stream that keeps orders to be handled.
STREAM = "bench-raw"
PAGE = 200
#: The field that holds a body, as FastStream has it.
FIELD = b"__data__"

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Stored).decode
decode_tick = msgspec.json.Decoder(Tick).decode


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncGenerator[Any]:
    """A client; it has as many connections as there are callers."""
    client: Any = Redis.from_url(url.partition("?")[0], max_connections=1000)
    try:
        yield client
    finally:
        await client.aclose()


async def have_stored(url: str, count: int) -> None:
    """Have so many orders in the stream: only the first run has to publish."""
    async with connected(url) as client:
        there = await client.xlen(STREAM)
        for first in range(there, count, 1000):
            pipe = client.pipeline(transaction=False)
            for order in stored(first, min(1000, count - first)):
                pipe.xadd(STREAM, {FIELD: encode(order)})
            await pipe.execute()


@contextlib.asynccontextmanager
async def group_of(client: Any, stream: str) -> AsyncGenerator[str]:
    """A group that begins at the first entry; it is gone afterwards."""
    name = unique()
    await client.xgroup_create(stream, name, id="0", mkstream=True)
    try:
        yield name
    finally:
        with contextlib.suppress(ResponseError):
            await client.xgroup_destroy(stream, name)


@contextlib.asynccontextmanager
async def stream_for(client: Any) -> AsyncGenerator[str]:
    """A stream of its own; it is gone afterwards."""
    name = unique()
    try:
        yield name
    finally:
        await client.delete(name)


async def receive(client: Any, stream: str, group: str, handle: Callable[[bytes], Awaitable[object]], stop: asyncio.Event) -> None:
    """Handle page after page."""
    while not stop.is_set():
        found = await client.xreadgroup(group, "one", {stream: ">"}, count=PAGE, block=1000)
        for _, entries in found or ():
            for _, fields in entries:
                await handle(fields[FIELD])
            await client.xack(stream, group, *[id for id, _ in entries])


async def consume(url: str, count: int) -> Figures:
    """Decode, await the handler, acknowledge a page."""
    await have_stored(url, count)
    counting = Counting(count)

    async def handler(_order: Stored) -> None:
        counting.one()

    async def handle(body: bytes) -> None:
        await handler(decode(body))

    async with connected(url) as client, group_of(client, STREAM) as group:
        await receive(client, STREAM, group, handle, counting.stop)
    return counting.figures()


async def publish_from_many(url: str, count: int) -> Figures:
    """From 100 tasks, each on a connection of its own."""
    async with connected(url) as client, stream_for(client) as stream:

        async def publish(event: Published) -> None:
            await client.xadd(stream, {FIELD: encode(event)})

        return await from_many(publish, published(0, count))


async def publish_from_one(url: str, count: int) -> Figures:
    """From one task."""
    async with connected(url) as client, stream_for(client) as stream:

        async def publish(event: Published) -> None:
            await client.xadd(stream, {FIELD: encode(event)})

        return await from_one(publish, published(0, count))


async def latency(url: str, count: int, *, attributes: bool = False) -> Figures:
    """From publisher to handler, in one process; with the attributes of CloudEvents as further fields."""
    seen, stop = Seen(), asyncio.Event()

    async def handle(body: bytes) -> None:
        seen.one(decode_tick(body))

    async with connected(url) as client, stream_for(client) as stream, group_of(client, stream) as group:

        more = ATTRIBUTES if attributes else {}

        async def publish(tick: Tick) -> None:
            await client.xadd(stream, {**more, FIELD: encode(tick)})

        running = asyncio.create_task(receive(client, stream, group, handle, stop))
        figures = await seen.measure(publish, count)
        stop.set()
        await running
    return figures
