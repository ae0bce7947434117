"""The same with FastStream on Kafka's client, its usual models being pydantic's."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from faststream import AckPolicy
from faststream.confluent import KafkaBroker

from benchmarks.brokers.drive import Counting, from_many, from_one
from benchmarks.brokers.models import Order, orders
from benchmarks.brokers.ours import unique
from benchmarks.subject import Figures


def broker_on(servers: str) -> KafkaBroker:
    """Without log lines: its best case. It lingers as long as it does unless told otherwise: not at all."""
    return KafkaBroker(servers, logger=None, enable_idempotence=True)


@asynccontextmanager
async def running(broker: KafkaBroker) -> AsyncGenerator[KafkaBroker]:
    """Its subscribers run meanwhile."""
    await broker.start()
    try:
        yield broker
    finally:
        await broker.stop()


async def consume(servers: str, topic: str, count: int) -> Figures:
    """A typed handler, at least once: acknowledged after it, which is a commit for each."""
    counting = Counting(count)
    broker = broker_on(servers)

    @broker.subscriber(topic, group_id=unique(), auto_offset_reset="earliest", ack_policy=AckPolicy.NACK_ON_ERROR)
    async def look_at(_order: Order) -> None:
        counting.one()

    async with running(broker):
        await counting.handled()
    return counting.figures()


async def consume_batches(servers: str, topic: str, count: int) -> Figures:
    """A handler of lists, at least once: a commit for each list of up to 500."""
    counting = Counting(count)
    broker = broker_on(servers)

    @broker.subscriber(
        topic, group_id=unique(), auto_offset_reset="earliest", ack_policy=AckPolicy.NACK_ON_ERROR, batch=True, max_records=500
    )
    async def look_at(orders: list[Order]) -> None:
        for _ in orders:
            counting.one()

    async with running(broker):
        await counting.handled()
    return counting.figures()


async def publish_from_many(servers: str, topic: str, count: int) -> Figures:
    """`publish`, from 100 tasks."""
    async with running(broker_on(servers)) as broker:
        return await from_many(lambda order: broker.publish(order, topic, key=order.order_id.encode()), orders(count))


async def publish_from_one(servers: str, topic: str, count: int) -> Figures:
    """`publish`, from one task."""
    async with running(broker_on(servers)) as broker:
        return await from_one(lambda order: broker.publish(order, topic, key=order.order_id.encode()), orders(count))
