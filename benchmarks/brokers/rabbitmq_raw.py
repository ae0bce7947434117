"""RabbitMQ by hand: pika's asyncio adapter with acknowledgements by prefix, its quickest way; no framework, and no reconnecting."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import msgspec
import pika
from pika.adapters.asyncio_connection import AsyncioConnection

from benchmarks.brokers.drive import Counting, Seen, from_many, from_one
from benchmarks.brokers.events import Published, Stored, Tick, published, stored
from benchmarks.subject import Figures

#: Messages that may be on their way, or in hand.
PREFETCH = 1000
#: As durable as ours: a log that is written to disk before it is confirmed.
QUORUM = {"x-queue-type": "quorum"}
PERSISTENT = pika.BasicProperties(delivery_mode=2, content_type="application/json")

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Stored).decode
decode_tick = msgspec.json.Decoder(Tick).decode


@contextlib.contextmanager
def queue(url: str, name: str, count: int = 0):
    """A queue of its own with so many orders in it; it is gone afterwards."""
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(url))) as connection:
        channel = connection.channel()
        channel.queue_declare(name, durable=True, arguments=QUORUM)
        for order in stored(0, count):
            channel.basic_publish("", name, encode(order), PERSISTENT)
        while channel.queue_declare(name, passive=True).method.message_count < count:
            connection.sleep(0.05)
    try:
        yield
    finally:
        with contextlib.closing(pika.BlockingConnection(pika.URLParameters(url))) as connection:
            connection.channel().queue_delete(name)


@contextlib.asynccontextmanager
async def channel_on(url: str) -> AsyncGenerator[Any]:
    """A connection and its channel."""
    loop = asyncio.get_running_loop()
    opened, closed = loop.create_future(), loop.create_future()

    def on_open(connection: Any) -> None:
        connection.channel(on_open_callback=opened.set_result)

    connection = AsyncioConnection(
        pika.URLParameters(url), on_open_callback=on_open, on_open_error_callback=lambda _connection, error: opened.set_exception(error),
        on_close_callback=lambda _connection, _reason: closed.set_result(None),
    )  # fmt: skip
    try:
        yield await opened
    finally:
        connection.close()
        await closed


async def receive(channel: Any, name: str, handle: Callable[[bytes], Awaitable[object]], stop: asyncio.Event) -> None:
    """Handle message after message; what was handled together is acknowledged together."""
    waiting: deque[tuple[int, bytes]] = deque()
    bell = asyncio.Event()

    def on_message(_channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        waiting.append((method.delivery_tag, body))
        bell.set()

    channel.basic_qos(prefetch_count=PREFETCH)
    channel.basic_consume(name, on_message)
    while not stop.is_set():
        await bell.wait()
        bell.clear()
        tag = 0
        while waiting:
            tag, body = waiting.popleft()
            await handle(body)
        if tag:
            channel.basic_ack(tag, multiple=True)


async def consume(url: str, name: str, count: int) -> Figures:
    """Decode, await the handler, acknowledge."""
    counting = Counting(count)

    async def handler(_order: Stored) -> None:
        counting.one()

    async def handle(body: bytes) -> None:
        await handler(decode(body))

    with queue(url, name, count):
        async with channel_on(url) as channel:
            await receive(channel, name, handle, counting.stop)
    return counting.figures()


class Sender:
    """Publishes with confirms: a future for each, resolved in their order."""

    def __init__(self, channel: Any, name: str) -> None:
        self._channel = channel
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._unconfirmed: dict[int, asyncio.Future[None]] = {}
        self._last = self._confirmed = 0
        channel.confirm_delivery(self._report)

    async def publish(self, event: Published | Tick) -> None:
        """Return when it is confirmed."""
        self._channel.basic_publish("", self._name, encode(event), PERSISTENT)
        self._last += 1
        confirmed = self._unconfirmed[self._last] = self._loop.create_future()
        await confirmed

    def _report(self, frame: Any) -> None:
        assert isinstance(frame.method, pika.spec.Basic.Ack), frame
        tag = frame.method.delivery_tag
        for confirmed in range(self._confirmed + 1, tag + 1) if frame.method.multiple else (tag,):
            if (future := self._unconfirmed.pop(confirmed, None)) is not None:
                future.set_result(None)
        if frame.method.multiple:
            self._confirmed = tag


async def publish_from_many(url: str, name: str, count: int) -> Figures:
    """From 100 tasks."""
    with queue(url, name):
        async with channel_on(url) as channel:
            return await from_many(Sender(channel, name).publish, published(0, count))


async def publish_from_one(url: str, name: str, count: int) -> Figures:
    """From one task."""
    with queue(url, name):
        async with channel_on(url) as channel:
            return await from_one(Sender(channel, name).publish, published(0, count))


async def latency(url: str, name: str, count: int) -> Figures:
    """From publisher to handler, in one process."""
    seen, stop = Seen(), asyncio.Event()

    async def handle(body: bytes) -> None:
        seen.one(decode_tick(body))

    with queue(url, name):
        async with channel_on(url) as receiving, channel_on(url) as sending:
            running = asyncio.create_task(receive(receiving, name, handle, stop))
            figures = await seen.measure(Sender(sending, name).publish, count)
            running.cancel()
    return figures
