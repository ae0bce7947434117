"""SNS and SQS, or what stands in for them: beside aiobotocore. The stand-in is slow, and says little of Amazon's rates."""

import contextlib
import os
from collections.abc import AsyncGenerator

from benchmarks.brokers import ours
from benchmarks.brokers.events import Published
from benchmarks.brokers.ours import unique
from benchmarks.subject import Family, Figures, Row, Run
from millstream.brokers.aws import AwsBroker
from millstream.contracts.message import contract_of
from millstream.core.broker import Group

VARIABLE = "MILLSTREAM_TEST_AWS"


def url() -> str:
    """Where it is; the harness has seen that this is set."""
    return os.environ[VARIABLE]


@contextlib.asynccontextmanager
async def _somebody_waits() -> AsyncGenerator[None]:
    """A group whose queue takes what is published."""
    group = Group(name=unique(), topics=(contract_of(Published).topic,))
    async with AwsBroker(url()) as broker:
        await broker.declare([], [group])
        try:
            yield
        finally:
            await broker.forget(group.name)


async def consume(run: Run) -> Figures:
    """Ours."""
    return await ours.consume(url(), run.folder, run.count(4_000), replays=False)


async def raw_consume(run: Run) -> Figures:
    """aiobotocore."""
    from benchmarks.brokers import aws_raw

    return await aws_raw.consume(url(), run.count(4_000))


async def publish_from_many(run: Run) -> Figures:
    """Ours."""
    async with _somebody_waits():
        return await ours.publish_from_many(url(), run.folder, run.count(4_000))


async def raw_publish_from_many(run: Run) -> Figures:
    """aiobotocore."""
    from benchmarks.brokers import aws_raw

    return await aws_raw.publish_from_many(url(), run.count(4_000))


async def publish_batches(run: Run) -> Figures:
    """Ours."""
    async with _somebody_waits():
        return await ours.publish_batches(url(), run.folder, run.count(4_000))


async def raw_publish_batches(run: Run) -> Figures:
    """aiobotocore."""
    from benchmarks.brokers import aws_raw

    return await aws_raw.publish_batches(url(), run.count(4_000))


FAMILY = Family(
    title="SNS and SQS, a standard queue on a stand-in, one process",
    needs=VARIABLE,
    rows=[
        Row(
            title="handle at least once, beside aiobotocore", subject=consume, figure="rate", unit="/s", better="more", beside=raw_consume,
        ),
        Row(title="  its processor time", subject=consume, figure="cpu", unit="us", beside=raw_consume),
        Row(
            title="publish, each awaited, 100 callers, beside aiobotocore", subject=publish_from_many, figure="rate", unit="/s",
            better="more", beside=raw_publish_from_many,
        ),
        Row(
            title="publish_many of 1000, beside aiobotocore", subject=publish_batches, figure="rate", unit="/s", better="more",
            beside=raw_publish_batches,
        ),
    ],
)  # fmt: skip
