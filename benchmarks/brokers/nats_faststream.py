"""The same with FastStream on nats-py."""

from faststream import AckPolicy
from faststream.nats import JStream, NatsBroker
from nats.js.api import AckPolicy as ServerPolicy
from nats.js.api import ConsumerConfig, DeliverPolicy

from benchmarks.brokers.drive import Counting, from_many, from_one
from benchmarks.brokers.models import Order, orders
from benchmarks.brokers.nats_raw import MOST, STREAM, connected, have_stored, stream_for
from benchmarks.brokers.ours import unique
from benchmarks.subject import Figures


async def consume(url: str, count: int) -> Figures:
    """A typed handler that is pushed to, at least once: acknowledged after it."""
    await have_stored(url, count)
    counting, name = Counting(count), unique()
    broker = NatsBroker(url, logger=None)

    @broker.subscriber(
        STREAM, durable=name, stream=JStream(STREAM, declare=False), ack_policy=AckPolicy.NACK_ON_ERROR,
        config=ConsumerConfig(deliver_policy=DeliverPolicy.ALL, ack_policy=ServerPolicy.EXPLICIT, max_ack_pending=MOST),
    )  # fmt: skip
    async def look_at(_order: Order) -> None:
        counting.one()

    await broker.start()
    await counting.handled()
    await broker.stop()
    async with connected(url) as client:
        await client.jetstream().delete_consumer(STREAM, name)
    return counting.figures()


async def publish_from_many(url: str, count: int) -> Figures:
    """`publish`, from 100 tasks."""
    async with connected(url) as client, stream_for(client) as subject, NatsBroker(url, logger=None) as broker:
        return await from_many(lambda order: broker.publish(order, subject, stream=subject), orders(count))


async def publish_from_one(url: str, count: int) -> Figures:
    """`publish`, from one task."""
    async with connected(url) as client, stream_for(client) as subject, NatsBroker(url, logger=None) as broker:
        return await from_one(lambda order: broker.publish(order, subject, stream=subject), orders(count))
