"""Redis Streams: handled and published; beside redis-py, and FastStream on it."""

import os

from benchmarks.brokers import ours
from benchmarks.subject import Family, Figures, Row, Run

VARIABLE = "MILLSTREAM_TEST_REDIS"
#: What the log keeps to be handled.
FULL = 200_000


def url() -> str:
    """Where it is; the harness has seen that this is set."""
    return os.environ[VARIABLE]


async def consume(run: Run) -> Figures:
    """Ours."""
    return await ours.consume(url(), run.folder, run.count(FULL), replays=True)


async def raw_consume(run: Run) -> Figures:
    """redis-py, a page at a time."""
    from benchmarks.brokers import redis_raw

    return await redis_raw.consume(url(), run.count(FULL))


async def faststream_consume(run: Run) -> Figures:
    """FastStream."""
    from benchmarks.brokers import redis_faststream

    return await redis_faststream.consume(url(), run.count(5_000))


async def publish_from_many(run: Run) -> Figures:
    """Ours."""
    return await ours.publish_from_many(url(), run.folder, run.count(60_000))


async def raw_publish_from_many(run: Run) -> Figures:
    """redis-py."""
    from benchmarks.brokers import redis_raw

    return await redis_raw.publish_from_many(url(), run.count(60_000))


async def faststream_publish_from_many(run: Run) -> Figures:
    """FastStream."""
    from benchmarks.brokers import redis_faststream

    return await redis_faststream.publish_from_many(url(), run.count(30_000))


async def publish_from_one(run: Run) -> Figures:
    """Ours."""
    return await ours.publish_from_one(url(), run.folder, run.count(3_000))


async def raw_publish_from_one(run: Run) -> Figures:
    """redis-py."""
    from benchmarks.brokers import redis_raw

    return await redis_raw.publish_from_one(url(), run.count(3_000))


async def faststream_publish_from_one(run: Run) -> Figures:
    """FastStream."""
    from benchmarks.brokers import redis_faststream

    return await redis_faststream.publish_from_one(url(), run.count(3_000))


async def publish_batches(run: Run) -> Figures:
    """Ours."""
    return await ours.publish_batches(url(), run.folder, run.count(100_000))


async def latency(run: Run) -> Figures:
    """Ours."""
    return await ours.latency(url(), run.folder, run.count(6_000))


async def raw_latency(run: Run) -> Figures:
    """redis-py."""
    from benchmarks.brokers import redis_raw

    return await redis_raw.latency(url(), run.count(6_000))


async def raw_latency_with_attributes(run: Run) -> Figures:
    """The same, with the attributes of an event."""
    from benchmarks.brokers import redis_raw

    return await redis_raw.latency(url(), run.count(6_000), attributes=True)


FAMILY = Family(
    title="Redis Streams, appendfsync always, one process (ours has eight streams, for eight partitions)",
    needs=VARIABLE,
    rows=[
        Row(
            title="handle at least once, beside redis-py, a page at a time", subject=consume, figure="rate", unit="/s", target=50_000,
            better="more", beside=raw_consume,
        ),
        Row(
            title="  its processor time", subject=consume, figure="cpu", unit="us", target=6, beside=raw_consume, compared="difference",
        ),
        Row(
            title="  its processor time, beside FastStream", subject=consume, figure="cpu", unit="us", beside=faststream_consume,
            compared="ratio",
        ),
        Row(
            title="  beside FastStream", subject=consume, figure="rate", unit="/s", target=15, better="more",
            beside=faststream_consume, compared="ratio",
        ),
        Row(
            title="publish, each awaited, 100 callers, beside redis-py", subject=publish_from_many, figure="rate", unit="/s", better="more",
            beside=raw_publish_from_many,
        ),
        Row(
            title="  beside FastStream", subject=publish_from_many, figure="rate", unit="/s", target=2, better="more",
            beside=faststream_publish_from_many, compared="ratio",
        ),
        Row(
            title="publish, each awaited, one caller, beside redis-py", subject=publish_from_one, figure="rate", unit="/s", better="more",
            beside=raw_publish_from_one,
        ),
        Row(
            title="  beside FastStream", subject=publish_from_one, figure="rate", unit="/s", better="more",
            beside=faststream_publish_from_one,
        ),
        Row(title="publish_many of 1000", subject=publish_batches, figure="rate", unit="/s", better="more"),
        Row(title="latency at 500/s, p50, beside redis-py", subject=latency, figure="p50", unit="ms", beside=raw_latency),
        Row(
            title="latency at 500/s, p99, beside redis-py", subject=latency, figure="p99", unit="ms", target=1.25, beside=raw_latency,
            compared="ratio",
        ),
        Row(
            title="  beside redis-py with eight more fields", subject=latency, figure="p99", unit="ms", beside=raw_latency_with_attributes,
            compared="ratio",
        ),
    ],
)  # fmt: skip
