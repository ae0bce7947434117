"""SNS and SQS, or what stands in for them: beside aiobotocore; FastStream has no broker for them. The stand-in is slow,
says little of Amazon's rates, and has no latency worth telling: 500 events a second, one by one, are more than it takes."""

import contextlib
import os
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from typing import Any
from unittest import mock

from benchmarks.brokers import ours
from benchmarks.brokers.events import Published
from benchmarks.brokers.ours import unique
from benchmarks.subject import Family, Figures, Row, Run
from millstream.brokers.aws import AwsBroker
from millstream.brokers.aws_client import AwsService
from millstream.contracts.message import contract_of
from millstream.core.broker import Group

VARIABLE = "MILLSTREAM_TEST_AWS"
#: Events in a request of ten, on the average of all: the first and the last one need not be full.
FULL = 9.9
#: What a request carries.
ENTRIES = {"publish_batch": "PublishBatchRequestEntries", "delete_message_batch": "Entries"}


def url(*, ordered: bool = True) -> str:
    """Where it is; the harness has seen that this is set. Without order on standard queues, which the client by hand uses, too."""
    address = os.environ[VARIABLE]
    return address if ordered else f"{address}{'&' if '?' in address else '?'}fifo=0"


@contextlib.contextmanager
def _requests_counted(figures: dict[str, float], operation: str) -> Generator[None]:
    """Tell how many events there are in a request, of ten at most, when all is done."""
    seen: Counter[str] = Counter()
    call = AwsService.call

    async def counted(self: AwsService, name: str, **arguments: Any) -> Any:
        answer = await call(self, name, **arguments)
        carried = len(arguments.get(ENTRIES.get(name, ""), ())) or len(answer.get("Messages") or ())
        if name == operation and carried:
            seen["requests"] += 1
            seen["events"] += carried
        return answer

    with mock.patch.object(AwsService, "call", counted):
        yield
    figures["carried"] = seen["events"] / max(1, seen["requests"])


@contextlib.asynccontextmanager
async def _somebody_waits() -> AsyncGenerator[None]:
    """A group whose queue takes what is published."""
    group = Group(name=unique(), topics=(contract_of(Published).topic,))
    async with AwsBroker(url(ordered=False)) as broker:
        await broker.declare([], [group])
        try:
            yield
        finally:
            await broker.forget(group.name)


async def consume(run: Run) -> Figures:
    """Ours."""
    return await ours.consume(url(), run.folder, run.count(4_000), replays=False)


async def filled(run: Run) -> Figures:
    """How full the requests are, with 100 callers who publish, and then a handler that takes what they have published."""
    figures: dict[str, float] = {}
    told: dict[str, float] = {}
    for operation, word in (("publish_batch", "published"), ("receive_message", "received"), ("delete_message_batch", "deleted")):
        with _requests_counted(figures, operation):
            if operation == "publish_batch":
                async with _somebody_waits():
                    await ours.publish_from_many(url(ordered=False), run.folder, run.count(4_000))
            else:
                await ours.consume(url(), run.folder, run.count(4_000), replays=False)
        told[word] = figures["carried"]
    return told


async def raw_consume(run: Run) -> Figures:
    """aiobotocore."""
    from benchmarks.brokers import aws_raw

    return await aws_raw.consume(url(), run.count(4_000))


async def raw_consume_with_attributes(run: Run) -> Figures:
    """The same, with the attributes of an event."""
    from benchmarks.brokers import aws_raw

    return await aws_raw.consume(url(), run.count(4_000), attributes=True)


async def publish_from_many(run: Run) -> Figures:
    """Ours."""
    async with _somebody_waits():
        return await ours.publish_from_many(url(ordered=False), run.folder, run.count(4_000))


async def raw_publish_from_many(run: Run) -> Figures:
    """aiobotocore."""
    from benchmarks.brokers import aws_raw

    return await aws_raw.publish_from_many(url(), run.count(4_000))


async def publish_batches(run: Run) -> Figures:
    """Ours."""
    async with _somebody_waits():
        return await ours.publish_batches(url(ordered=False), run.folder, run.count(4_000))


async def raw_publish_batches(run: Run) -> Figures:
    """aiobotocore."""
    from benchmarks.brokers import aws_raw

    return await aws_raw.publish_batches(url(), run.count(4_000))


FAMILY = Family(
    title="SNS and SQS on a stand-in, one process; handled from a FIFO queue, published to a standard topic",
    needs=VARIABLE,
    rows=[
        Row(
            title="handle at least once, beside aiobotocore", subject=consume, figure="rate", unit="/s", better="more", beside=raw_consume,
        ),
        Row(
            title="  its processor time", subject=consume, figure="cpu", unit="us", target=6, beside=raw_consume, compared="difference",
        ),
        Row(
            title="  its processor time, beside aiobotocore that reads attributes", subject=consume, figure="cpu", unit="us",
            beside=raw_consume_with_attributes, compared="difference",
        ),
        Row(
            title="publish, each awaited, 100 callers, beside aiobotocore", subject=publish_from_many, figure="rate", unit="/s",
            better="more", beside=raw_publish_from_many,
        ),
        Row(
            title="publish_many of 1000, beside aiobotocore", subject=publish_batches, figure="rate", unit="/s", better="more",
            beside=raw_publish_batches,
        ),
        Row(
            title="events in a request, of ten: published by 100 callers", subject=filled, figure="published", unit="", target=FULL,
            better="more",
        ),
        Row(title="  received", subject=filled, figure="received", unit="", target=FULL, better="more"),
        Row(title="  deleted", subject=filled, figure="deleted", unit="", target=FULL, better="more"),
    ],
)  # fmt: skip
