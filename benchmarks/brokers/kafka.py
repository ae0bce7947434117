"""Apache Kafka: handled, published, and both in transactions; beside confluent-kafka by hand, and FastStream on it."""

import os
from urllib.parse import urlsplit

from benchmarks.brokers import ours
from benchmarks.brokers.drive import Counting
from benchmarks.brokers.events import Published, Reserved, Stored, Tick
from benchmarks.subject import Family, Figures, Row, Run
from millstream.brokers.kafka import KafkaBroker
from millstream.contracts.message import contract_of
from millstream.core.broker import Topic

VARIABLE = "MILLSTREAM_TEST_KAFKA"
STORED, PUBLISHED, TICK, RESERVED = (contract_of(cls).topic for cls in (Stored, Published, Tick, Reserved))
#: What the log keeps to be handled.
FULL = 400_000


def url() -> str:
    """Where it is; the harness has seen that this is set."""
    return os.environ[VARIABLE]


def servers() -> str:
    """The same for others."""
    return urlsplit(url()).netloc.rpartition("@")[2]


async def _filled(run: Run) -> None:
    """Have the log filled for those that read it."""
    async with ours.app_on(url(), run.folder) as app:
        await ours.have_stored(app, run.count(FULL))


async def _anew(topic: str) -> None:
    """An empty topic for those that write to it."""
    from benchmarks.brokers import kafka_raw

    kafka_raw.remove_topic(servers(), topic)
    async with KafkaBroker(url()) as broker:
        await broker.declare([Topic(name=topic)], [])


async def consume(run: Run) -> Figures:
    """Ours."""
    return await ours.consume(url(), run.folder, run.count(FULL), replays=True)


async def raw_consume(run: Run) -> Figures:
    """A thread that polls, and a loop that decodes and handles."""
    from benchmarks.brokers import kafka_raw

    await _filled(run)
    return await kafka_raw.consume(servers(), STORED, run.count(FULL))


async def raw_consume_with_headers(run: Run) -> Figures:
    """The same, and it reads the headers that an event has."""
    from benchmarks.brokers import kafka_raw

    await _filled(run)
    return await kafka_raw.consume(servers(), STORED, run.count(FULL), headers=True)


async def faststream_consume(run: Run) -> Figures:
    """FastStream, an event at a time."""
    from benchmarks.brokers import kafka_faststream

    await _filled(run)
    return await kafka_faststream.consume(servers(), STORED, run.count(20_000))


async def faststream_consume_batches(run: Run) -> Figures:
    """FastStream's handler of lists."""
    from benchmarks.brokers import kafka_faststream

    await _filled(run)
    return await kafka_faststream.consume_batches(servers(), STORED, run.count(100_000))


async def publish_from_many(run: Run) -> Figures:
    """Ours."""
    await _anew(PUBLISHED)
    return await ours.publish_from_many(url(), run.folder, run.count(200_000))


async def raw_publish_from_many(run: Run) -> Figures:
    """A producer, its thread, and a future for each."""
    from benchmarks.brokers import kafka_raw

    await _anew(PUBLISHED)
    return await kafka_raw.publish_from_many(servers(), PUBLISHED, run.count(200_000))


async def faststream_publish_from_many(run: Run) -> Figures:
    """FastStream."""
    from benchmarks.brokers import kafka_faststream

    await _anew(PUBLISHED)
    return await kafka_faststream.publish_from_many(servers(), PUBLISHED, run.count(40_000))


async def publish_from_one(run: Run) -> Figures:
    """Ours."""
    await _anew(PUBLISHED)
    return await ours.publish_from_one(url(), run.folder, run.count(10_000))


async def raw_publish_from_one(run: Run) -> Figures:
    """The same producer, alone."""
    from benchmarks.brokers import kafka_raw

    await _anew(PUBLISHED)
    return await kafka_raw.publish_from_one(servers(), PUBLISHED, run.count(10_000))


async def faststream_publish_from_one(run: Run) -> Figures:
    """FastStream."""
    from benchmarks.brokers import kafka_faststream

    await _anew(PUBLISHED)
    return await kafka_faststream.publish_from_one(servers(), PUBLISHED, run.count(10_000))


async def publish_batches(run: Run) -> Figures:
    """Ours."""
    await _anew(PUBLISHED)
    return await ours.publish_batches(url(), run.folder, run.count(400_000))


async def raw_publish_batches(run: Run) -> Figures:
    """The same producer, a thousand at a time."""
    from benchmarks.brokers import kafka_raw

    await _anew(PUBLISHED)
    return await kafka_raw.publish_batches(servers(), PUBLISHED, run.count(400_000))


async def raw_publish_batches_with_headers(run: Run) -> Figures:
    """The same, with the headers of an event for each."""
    from benchmarks.brokers import kafka_raw

    await _anew(PUBLISHED)
    return await kafka_raw.publish_batches(servers(), PUBLISHED, run.count(400_000), headers=True)


async def latency(run: Run) -> Figures:
    """Ours."""
    await _anew(TICK)
    return await ours.latency(url(), run.folder, run.count(6_000))


async def raw_latency(run: Run) -> Figures:
    """A producer, a consumer's thread, and the loop between them."""
    from benchmarks.brokers import kafka_raw

    await _anew(TICK)
    return await kafka_raw.latency(servers(), TICK, run.count(6_000))


async def raw_latency_with_headers(run: Run) -> Figures:
    """The same, with the headers of an event."""
    from benchmarks.brokers import kafka_raw

    await _anew(TICK)
    return await kafka_raw.latency(servers(), TICK, run.count(6_000), headers=True)


def reserve(order: Stored) -> Reserved:
    """What is to be published for an order."""
    return Reserved(order.order_id, order.lines[0].sku)


async def read_process_write(run: Run) -> Figures:
    """Ours: a handler with `exactly_once=True`."""
    await _filled(run)
    await _anew(RESERVED)
    counting = Counting(run.count(100_000))
    app = ours.app_on(url(), run.folder)

    @app.subscriber(Stored, exactly_once=True, start="earliest")
    async def handle(order: Stored) -> Reserved:
        counting.one()
        return reserve(order)

    async with ours.opened(app):
        await app.run(counting.stop)
    return counting.figures()


async def raw_read_process_write(run: Run) -> Figures:
    """Consumer and transactional producer, one page after another."""
    from benchmarks.brokers import kafka_raw

    await _filled(run)
    await _anew(RESERVED)
    return await kafka_raw.read_process_write(servers(), STORED, RESERVED, run.count(100_000), reserve)


FAMILY = Family(
    title="Kafka, one process, eight partitions",
    needs=VARIABLE,
    rows=[
        Row(
            title="handle at least once, beside confluent-kafka", subject=consume, figure="rate", unit="/s", target=200_000, better="more",
            beside=raw_consume,
        ),
        Row(
            title="  its processor time", subject=consume, figure="cpu", unit="us", target=6, beside=raw_consume, compared="difference",
        ),
        Row(
            title="  beside confluent-kafka that reads the headers", subject=consume, figure="rate", unit="/s", better="more",
            beside=raw_consume_with_headers, compared="ratio",
        ),
        Row(
            title="  its processor time", subject=consume, figure="cpu", unit="us", beside=raw_consume_with_headers, compared="difference",
        ),
        Row(
            title="  its processor time, beside FastStream", subject=consume, figure="cpu", unit="us", beside=faststream_consume,
            compared="ratio",
        ),
        Row(
            title="  beside FastStream", subject=consume, figure="rate", unit="/s", target=30, better="more", beside=faststream_consume,
            compared="ratio",
        ),
        Row(
            title="  beside FastStream's handler of lists", subject=consume, figure="rate", unit="/s", target=2.5, better="more",
            beside=faststream_consume_batches, compared="ratio",
        ),
        Row(
            title="publish, each awaited, 100 callers, beside confluent-kafka", subject=publish_from_many, figure="rate", unit="/s",
            target=60_000, better="more", beside=raw_publish_from_many,
        ),
        Row(
            title="  beside FastStream", subject=publish_from_many, figure="rate", unit="/s", better="more",
            beside=faststream_publish_from_many,
        ),
        Row(
            title="publish, each awaited, one caller, beside confluent-kafka", subject=publish_from_one, figure="rate", unit="/s",
            target=5_000, better="more", beside=raw_publish_from_one,
        ),
        Row(
            title="  beside FastStream", subject=publish_from_one, figure="rate", unit="/s", better="more",
            beside=faststream_publish_from_one,
        ),
        Row(
            title="publish_many of 1000, beside confluent-kafka", subject=publish_batches, figure="rate", unit="/s", target=200_000,
            better="more", beside=raw_publish_batches,
        ),
        Row(
            title="  beside confluent-kafka that writes the headers", subject=publish_batches, figure="rate", unit="/s", better="more",
            beside=raw_publish_batches_with_headers, compared="ratio",
        ),
        Row(
            title="read, process, write, exactly once, beside confluent-kafka", subject=read_process_write, figure="rate", unit="/s",
            target=50_000, better="more", beside=raw_read_process_write,
        ),
        Row(
            title="latency at 500/s, p50, beside confluent-kafka", subject=latency, figure="p50", unit="ms", beside=raw_latency,
            compared="only told",
        ),
        Row(
            title="latency at 500/s, p99, beside confluent-kafka", subject=latency, figure="p99", unit="ms", target=1.25,
            beside=raw_latency, compared="ratio",
        ),
        Row(
            title="  beside confluent-kafka with headers", subject=latency, figure="p99", unit="ms", beside=raw_latency_with_headers,
            compared="ratio",
        ),
    ],
)  # fmt: skip
