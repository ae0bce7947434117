"""RabbitMQ: handled and published; beside pika, aio-pika, and FastStream on it, all with quorum queues."""

import contextlib
import os
from collections.abc import AsyncGenerator

from benchmarks.brokers import ours
from benchmarks.brokers.events import Published
from benchmarks.brokers.ours import unique
from benchmarks.subject import Family, Figures, Row, Run
from millstream.brokers.rabbitmq import RabbitBroker
from millstream.contracts.message import contract_of
from millstream.core.broker import Group

VARIABLE = "MILLSTREAM_TEST_RABBITMQ"


def url() -> str:
    """Where it is; the harness has seen that this is set."""
    return os.environ[VARIABLE]


@contextlib.asynccontextmanager
async def _somebody_waits() -> AsyncGenerator[None]:
    """A group whose queues keep what is published: without any it would go nowhere, and that is quicker."""
    group = Group(name=unique(), topics=(contract_of(Published).topic,))
    async with RabbitBroker(url()) as broker:
        await broker.declare([], [group])
        try:
            yield
        finally:
            await broker.forget(group.name)


async def consume(run: Run) -> Figures:
    """Ours."""
    return await ours.consume(url(), run.folder, run.count(60_000), replays=False)


async def raw_consume(run: Run) -> Figures:
    """pika on asyncio."""
    from benchmarks.brokers import rabbitmq_raw

    return await rabbitmq_raw.consume(url(), unique(), run.count(60_000))


async def aio_pika_consume(run: Run) -> Figures:
    """aio-pika."""
    from benchmarks.brokers import rabbitmq_aio_pika

    return await rabbitmq_aio_pika.consume(url(), unique(), run.count(20_000))


async def faststream_consume(run: Run) -> Figures:
    """FastStream."""
    from benchmarks.brokers import rabbitmq_faststream

    return await rabbitmq_faststream.consume(url(), unique(), run.count(20_000))


async def publish_from_many(run: Run) -> Figures:
    """Ours."""
    async with _somebody_waits():
        return await ours.publish_from_many(url(), run.folder, run.count(40_000))


async def raw_publish_from_many(run: Run) -> Figures:
    """pika on asyncio."""
    from benchmarks.brokers import rabbitmq_raw

    return await rabbitmq_raw.publish_from_many(url(), unique(), run.count(40_000))


async def aio_pika_publish_from_many(run: Run) -> Figures:
    """aio-pika."""
    from benchmarks.brokers import rabbitmq_aio_pika

    return await rabbitmq_aio_pika.publish_from_many(url(), unique(), run.count(20_000))


async def faststream_publish_from_many(run: Run) -> Figures:
    """FastStream."""
    from benchmarks.brokers import rabbitmq_faststream

    return await rabbitmq_faststream.publish_from_many(url(), unique(), run.count(20_000))


async def publish_from_one(run: Run) -> Figures:
    """Ours."""
    async with _somebody_waits():
        return await ours.publish_from_one(url(), run.folder, run.count(3_000))


async def raw_publish_from_one(run: Run) -> Figures:
    """pika on asyncio."""
    from benchmarks.brokers import rabbitmq_raw

    return await rabbitmq_raw.publish_from_one(url(), unique(), run.count(3_000))


async def faststream_publish_from_one(run: Run) -> Figures:
    """FastStream."""
    from benchmarks.brokers import rabbitmq_faststream

    return await rabbitmq_faststream.publish_from_one(url(), unique(), run.count(3_000))


async def publish_batches(run: Run) -> Figures:
    """Ours."""
    async with _somebody_waits():
        return await ours.publish_batches(url(), run.folder, run.count(60_000))


async def latency(run: Run) -> Figures:
    """Ours."""
    return await ours.latency(url(), run.folder, run.count(6_000))


async def raw_latency(run: Run) -> Figures:
    """pika on asyncio."""
    from benchmarks.brokers import rabbitmq_raw

    return await rabbitmq_raw.latency(url(), unique(), run.count(6_000))


FAMILY = Family(
    title="RabbitMQ, one process, quorum queues (ours has eight, for eight partitions)",
    needs=VARIABLE,
    rows=[
        Row(
            title="handle at least once, beside pika on asyncio", subject=consume, figure="rate", unit="/s", target=15_000, better="more",
            beside=raw_consume,
        ),
        Row(
            title="  its processor time", subject=consume, figure="cpu", unit="us", target=6, beside=raw_consume, compared="difference",
        ),
        Row(
            title="  beside aio-pika", subject=consume, figure="rate", unit="/s", target=2, better="more", beside=aio_pika_consume,
            compared="ratio",
        ),
        Row(
            title="  its processor time, beside FastStream", subject=consume, figure="cpu", unit="us", beside=faststream_consume,
            compared="ratio",
        ),
        Row(
            title="  beside FastStream", subject=consume, figure="rate", unit="/s", target=3, better="more", beside=faststream_consume,
            compared="ratio",
        ),
        Row(
            title="publish, each awaited, 100 callers, beside pika on asyncio", subject=publish_from_many, figure="rate", unit="/s",
            target=10_000, better="more", beside=raw_publish_from_many,
        ),
        Row(
            title="  beside aio-pika", subject=publish_from_many, figure="rate", unit="/s", better="more",
            beside=aio_pika_publish_from_many,
        ),
        Row(
            title="  beside FastStream", subject=publish_from_many, figure="rate", unit="/s", better="more",
            beside=faststream_publish_from_many,
        ),
        Row(
            title="publish, each awaited, one caller, beside pika on asyncio", subject=publish_from_one, figure="rate", unit="/s",
            better="more", beside=raw_publish_from_one,
        ),
        Row(
            title="  beside FastStream", subject=publish_from_one, figure="rate", unit="/s", better="more",
            beside=faststream_publish_from_one,
        ),
        Row(title="publish_many of 1000", subject=publish_batches, figure="rate", unit="/s", better="more"),
        Row(title="latency at 500/s, p50, beside pika on asyncio", subject=latency, figure="p50", unit="ms", beside=raw_latency),
        Row(
            title="latency at 500/s, p99, beside pika on asyncio", subject=latency, figure="p99", unit="ms", target=1.25,
            beside=raw_latency, compared="ratio",
        ),
    ],
)  # fmt: skip
