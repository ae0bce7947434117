"""The same with FastStream on redis-py."""

from faststream import AckPolicy
from faststream.redis import RedisBroker, StreamSub

from benchmarks.brokers.drive import Counting, from_many, from_one
from benchmarks.brokers.models import Order, orders
from benchmarks.brokers.ours import unique
from benchmarks.brokers.redis_raw import PAGE, STREAM, connected, group_of, have_stored, stream_for
from benchmarks.subject import Figures


def broker_on(url: str) -> RedisBroker:
    """Without log lines: its best case."""
    return RedisBroker(url.partition("?")[0], logger=None, max_connections=1000)


async def consume(url: str, count: int) -> Figures:
    """A typed handler, at least once: acknowledged after it."""
    await have_stored(url, count)
    counting = Counting(count)
    broker = broker_on(url)
    async with connected(url) as client, group_of(client, STREAM) as group:
        stream = StreamSub(STREAM, group=group, consumer=unique(), max_records=PAGE)

        @broker.subscriber(stream=stream, ack_policy=AckPolicy.NACK_ON_ERROR)
        async def look_at(_order: Order) -> None:
            counting.one()

        await broker.start()
        await counting.handled()
        await broker.stop()
    return counting.figures()


async def publish_from_many(url: str, count: int) -> Figures:
    """`publish`, from 100 tasks."""
    async with connected(url) as client, stream_for(client) as stream, broker_on(url) as broker:
        return await from_many(lambda order: broker.publish(order, stream=stream), orders(count))


async def publish_from_one(url: str, count: int) -> Figures:
    """`publish`, from one task."""
    async with connected(url) as client, stream_for(client) as stream, broker_on(url) as broker:
        return await from_one(lambda order: broker.publish(order, stream=stream), orders(count))
