"""NATS JetStream: handled and published; beside nats-py, and FastStream on it."""

import os

from benchmarks.brokers import ours
from benchmarks.subject import Family, Figures, Row, Run

VARIABLE = "MILLSTREAM_TEST_NATS"
#: What the streams keep to be handled.
FULL = 200_000


def url() -> str:
    """Where it is; the harness has seen that this is set."""
    return os.environ[VARIABLE]


async def consume(run: Run) -> Figures:
    """Ours."""
    return await ours.consume(url(), run.folder, run.count(FULL), replays=True)


async def raw_consume(run: Run) -> Figures:
    """nats-py, pulled with a credit."""
    from benchmarks.brokers import nats_raw

    return await nats_raw.consume_pulled(url(), run.count(FULL))


async def raw_consume_pushed(run: Run) -> Figures:
    """nats-py, pushed."""
    from benchmarks.brokers import nats_raw

    return await nats_raw.consume_pushed(url(), run.count(100_000))


async def faststream_consume(run: Run) -> Figures:
    """FastStream, pushed."""
    from benchmarks.brokers import nats_faststream

    return await nats_faststream.consume(url(), run.count(30_000))


async def publish_from_many(run: Run) -> Figures:
    """Ours."""
    return await ours.publish_from_many(url(), run.folder, run.count(60_000))


async def raw_publish_from_many(run: Run) -> Figures:
    """nats-py."""
    from benchmarks.brokers import nats_raw

    return await nats_raw.publish_from_many(url(), run.count(60_000))


async def faststream_publish_from_many(run: Run) -> Figures:
    """FastStream."""
    from benchmarks.brokers import nats_faststream

    return await nats_faststream.publish_from_many(url(), run.count(30_000))


async def publish_from_one(run: Run) -> Figures:
    """Ours."""
    return await ours.publish_from_one(url(), run.folder, run.count(10_000))


async def raw_publish_from_one(run: Run) -> Figures:
    """nats-py."""
    from benchmarks.brokers import nats_raw

    return await nats_raw.publish_from_one(url(), run.count(10_000))


async def faststream_publish_from_one(run: Run) -> Figures:
    """FastStream."""
    from benchmarks.brokers import nats_faststream

    return await nats_faststream.publish_from_one(url(), run.count(10_000))


async def publish_batches(run: Run) -> Figures:
    """Ours."""
    return await ours.publish_batches(url(), run.folder, run.count(100_000))


async def latency(run: Run) -> Figures:
    """Ours."""
    return await ours.latency(url(), run.folder, run.count(6_000))


async def raw_latency(run: Run) -> Figures:
    """nats-py, pulled with a credit."""
    from benchmarks.brokers import nats_raw

    return await nats_raw.latency(url(), run.count(6_000))


async def raw_latency_with_headers(run: Run) -> Figures:
    """The same, with the headers of an event, by one of which JetStream knows what is published again."""
    from benchmarks.brokers import nats_raw

    return await nats_raw.latency(url(), run.count(6_000), headers=True)


FAMILY = Family(
    title="NATS JetStream, one process (ours has eight streams, for eight partitions)",
    needs=VARIABLE,
    rows=[
        Row(
            title="handle at least once, beside nats-py pulling with a credit", subject=consume, figure="rate", unit="/s", target=50_000,
            better="more", beside=raw_consume,
        ),
        Row(
            title="  its processor time", subject=consume, figure="cpu", unit="us", target=6, beside=raw_consume, compared="difference",
        ),
        Row(title="  beside nats-py, pushed", subject=consume, figure="rate", unit="/s", better="more", beside=raw_consume_pushed),
        Row(
            title="  its processor time, beside FastStream", subject=consume, figure="cpu", unit="us", beside=faststream_consume,
            compared="ratio",
        ),
        Row(
            title="  beside FastStream, pushed", subject=consume, figure="rate", unit="/s", target=2.8, better="more",
            beside=faststream_consume, compared="ratio",
        ),
        Row(
            title="publish, each awaited, 100 callers, beside nats-py", subject=publish_from_many, figure="rate", unit="/s", target=0.85,
            better="more", beside=raw_publish_from_many, compared="ratio",
        ),
        Row(
            title="  beside FastStream", subject=publish_from_many, figure="rate", unit="/s", target=1.4, better="more",
            beside=faststream_publish_from_many, compared="ratio",
        ),
        Row(
            title="publish, each awaited, one caller, beside nats-py", subject=publish_from_one, figure="rate", unit="/s", better="more",
            beside=raw_publish_from_one,
        ),
        Row(
            title="  beside FastStream", subject=publish_from_one, figure="rate", unit="/s", better="more",
            beside=faststream_publish_from_one,
        ),
        Row(title="publish_many of 1000", subject=publish_batches, figure="rate", unit="/s", better="more"),
        Row(title="latency at 500/s, p50, beside nats-py", subject=latency, figure="p50", unit="ms", beside=raw_latency),
        Row(
            title="latency at 500/s, p99, beside nats-py", subject=latency, figure="p99", unit="ms", target=1.25, beside=raw_latency,
            compared="ratio",
        ),
        Row(
            title="  beside nats-py with headers", subject=latency, figure="p99", unit="ms", beside=raw_latency_with_headers,
            compared="ratio",
        ),
    ],
)  # fmt: skip
