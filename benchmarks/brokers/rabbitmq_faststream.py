"""The same with FastStream, which is on aio-pika."""

from faststream import AckPolicy
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue

from benchmarks.brokers.drive import Counting, from_many, from_one
from benchmarks.brokers.models import Order, orders
from benchmarks.brokers.rabbitmq_raw import PREFETCH, queue
from benchmarks.subject import Figures


def broker_on(url: str) -> RabbitBroker:
    """Without log lines: its best case."""
    return RabbitBroker(url, logger=None, default_channel=Channel(prefetch_count=PREFETCH))


async def consume(url: str, name: str, count: int) -> Figures:
    """A typed handler, at least once: acknowledged after it."""
    counting = Counting(count)
    broker = broker_on(url)

    @broker.subscriber(RabbitQueue(name, durable=True, queue_type=QueueType.QUORUM), ack_policy=AckPolicy.NACK_ON_ERROR)
    async def look_at(_order: Order) -> None:
        counting.one()

    with queue(url, name, count):
        await broker.start()
        await counting.handled()
        await broker.stop()
    return counting.figures()


async def publish_from_many(url: str, name: str, count: int) -> Figures:
    """`publish`, from 100 tasks."""
    with queue(url, name):
        async with broker_on(url) as broker:
            return await from_many(lambda order: broker.publish(order, name, persist=True), orders(count))


async def publish_from_one(url: str, name: str, count: int) -> Figures:
    """`publish`, from one task."""
    with queue(url, name):
        async with broker_on(url) as broker:
            return await from_one(lambda order: broker.publish(order, name, persist=True), orders(count))
