"""RabbitMQ with aio-pika: its consumer with a callback, each message acknowledged."""

import aio_pika
import msgspec
from aio_pika.abc import AbstractIncomingMessage

from benchmarks.brokers.drive import Counting, from_many
from benchmarks.brokers.events import Published, Stored, published
from benchmarks.brokers.rabbitmq_raw import PREFETCH, queue
from benchmarks.subject import Figures

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Stored).decode


async def consume(url: str, name: str, count: int) -> Figures:
    """Decode, await the handler, acknowledge."""
    counting = Counting(count)

    async def handler(_order: Stored) -> None:
        counting.one()

    async def on_message(message: AbstractIncomingMessage) -> None:
        await handler(decode(message.body))
        await message.ack()

    with queue(url, name, count):
        async with await aio_pika.connect(url) as connection:
            channel = await connection.channel()
            await channel.set_qos(PREFETCH)
            await (await channel.get_queue(name)).consume(on_message)
            await counting.handled()
    return counting.figures()


async def publish_from_many(url: str, name: str, count: int) -> Figures:
    """From 100 tasks, each waiting for its confirm."""
    with queue(url, name):
        async with await aio_pika.connect(url) as connection:
            exchange = (await connection.channel()).default_exchange

            async def publish(event: Published) -> None:
                await exchange.publish(aio_pika.Message(encode(event), delivery_mode=aio_pika.DeliveryMode.PERSISTENT), name)

            return await from_many(publish, published(0, count))
