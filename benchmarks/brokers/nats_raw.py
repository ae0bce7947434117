"""NATS JetStream by hand with nats-py: pushed to a callback, or pulled to one inbox with a credit that is kept open."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable

import msgspec
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StreamConfig
from nats.js.errors import NotFoundError

from benchmarks.brokers.drive import Counting, Seen, from_many, from_one
from benchmarks.brokers.events import ATTRIBUTES, Published, Stored, Tick, published, stored
from benchmarks.brokers.ours import unique
from benchmarks.subject import Figures

#: A stream that keeps orders to be handled.
STREAM = "bench-raw"
#: Messages that may be on their way, or in hand; and the credit that is asked for at a time.
MOST, CREDIT = 2000, 500

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Stored).decode
decode_tick = msgspec.json.Decoder(Tick).decode


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncGenerator[Client]:
    """A connection."""
    client = await nats.connect(url)
    try:
        yield client
    finally:
        await client.close()


async def have_stored(url: str, count: int) -> None:
    """Have so many orders in the stream: only the first run has to publish."""
    async with connected(url) as client:
        js = client.jetstream()
        try:
            there = (await js.stream_info(STREAM)).state.messages
        except NotFoundError:
            await js.add_stream(StreamConfig(STREAM, subjects=[STREAM]))
            there = 0
        for n, order in enumerate(stored(there, count - there)):
            await client.publish(STREAM, encode(order))
            if n % 1000 == 999:
                await client.flush()
        while (await js.stream_info(STREAM)).state.messages < count:  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def stream_for(client: Client) -> AsyncGenerator[str]:
    """An empty stream, and its only subject; it is gone afterwards."""
    js, name = client.jetstream(), unique()
    await js.add_stream(StreamConfig(name, subjects=[name]))
    try:
        yield name
    finally:
        await js.delete_stream(name)


async def consume_pushed(url: str, count: int) -> Figures:
    """A callback that decodes, awaits the handler and acknowledges."""
    await have_stored(url, count)
    counting = Counting(count)

    async def handler(_order: Stored) -> None:
        counting.one()

    async def on_message(message: Msg) -> None:
        await handler(decode(message.data))
        await message.ack()

    async with connected(url) as client:
        config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL, ack_policy=AckPolicy.EXPLICIT, max_ack_pending=MOST)
        name = unique()
        await client.jetstream().subscribe(
            STREAM, durable=name, stream=STREAM, cb=on_message, manual_ack=True, config=config, pending_msgs_limit=-1,
            pending_bytes_limit=-1,
        )  # fmt: skip
        await counting.handled()
        await client.jetstream().delete_consumer(STREAM, name)
    return counting.figures()


async def pull(client: Client, stream: str, policy: DeliverPolicy, handle: Callable[[Msg], Awaitable[object]], stop: asyncio.Event) -> None:
    """Have a credit open all the time, and acknowledge everything up to the last once for each."""
    name, inbox = unique(), client.new_inbox()
    await client.jetstream().add_consumer(
        stream,
        ConsumerConfig(durable_name=name, deliver_policy=policy, ack_policy=AckPolicy.ALL, max_ack_pending=MOST, max_waiting=8),
    )
    handled = 0

    async def on_message(message: Msg) -> None:
        nonlocal handled
        if not message.data:
            return  # the server's word that the consumer is gone
        await handle(message)
        handled += 1
        if handled % CREDIT == 0:
            await ask()
        if handled % CREDIT == 0 or not subscription.pending_msgs:
            await client.publish(message.reply)

    async def ask() -> None:
        await client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}", b'{"batch":%d}' % CREDIT, reply=inbox)

    subscription = await client.subscribe(inbox, cb=on_message, pending_msgs_limit=-1, pending_bytes_limit=-1)
    await ask()
    await ask()
    await stop.wait()
    await client.jetstream().delete_consumer(stream, name)


async def consume_pulled(url: str, count: int) -> Figures:
    """Decode, await the handler, acknowledge together."""
    await have_stored(url, count)
    counting = Counting(count)

    async def handler(_order: Stored) -> None:
        counting.one()

    async def handle(message: Msg) -> None:
        await handler(decode(message.data))

    async with connected(url) as client:
        await pull(client, STREAM, DeliverPolicy.ALL, handle, counting.stop)
    return counting.figures()


async def publish_from_many(url: str, count: int) -> Figures:
    """From 100 tasks, each waiting for its acknowledgement."""
    async with connected(url) as client, stream_for(client) as subject:
        js = client.jetstream()

        async def publish(event: Published) -> None:
            await js.publish(subject, encode(event))

        return await from_many(publish, published(0, count))


async def publish_from_one(url: str, count: int) -> Figures:
    """From one task."""
    async with connected(url) as client, stream_for(client) as subject:
        js = client.jetstream()

        async def publish(event: Published) -> None:
            await js.publish(subject, encode(event))

        return await from_one(publish, published(0, count))


async def latency(url: str, count: int, *, headers: bool = False) -> Figures:
    """From publisher to handler, in one process; with the headers of CloudEvents, which are read, and an id against repetitions."""
    seen, stop = Seen(), asyncio.Event()

    async def handle(message: Msg) -> None:
        _envelope = dict(message.headers or {})
        seen.one(decode_tick(message.data))

    async with connected(url) as client, stream_for(client) as subject:
        running = asyncio.create_task(pull(client, subject, DeliverPolicy.ALL, handle, stop))
        js = client.jetstream()

        async def publish(tick: Tick) -> None:
            await js.publish(subject, encode(tick), headers={**ATTRIBUTES, "Nats-Msg-Id": tick.key} if headers else None)

        figures = await seen.measure(publish, count)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return figures
