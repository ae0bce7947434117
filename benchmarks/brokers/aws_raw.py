"""SQS and SNS by hand with aiobotocore: ten at a time, which is what a request takes."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
from aiobotocore.session import get_session

from benchmarks.brokers.drive import Counting, Seen, from_many, in_batches
from benchmarks.brokers.events import Published, Stored, Tick, published, stored
from benchmarks.brokers.ours import unique
from benchmarks.subject import Figures
from millstream.brokers.aws_wire import SYSTEM

#: The most that a request takes.
TEN = 10

#: What an event of ours has beside its body, and what SQS is asked for to know it.
ATTRIBUTES = {
    "content-type": {"DataType": "String", "StringValue": "application/cloudevents+json"},
    "type": {"DataType": "String", "StringValue": "bench.stored"},
}
ASKED = {"MessageAttributeNames": ["All"], "MessageSystemAttributeNames": list(SYSTEM)}

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Stored).decode
decode_tick = msgspec.json.Decoder(Tick).decode


@contextlib.asynccontextmanager
async def client_of(url: str, service: str) -> AsyncGenerator[Any]:
    """A client of one service."""
    parts = urlsplit(url)
    async with get_session().create_client(
        service, region_name=parts.hostname, endpoint_url=parse_qs(parts.query)["endpoint"][0],
        aws_access_key_id=parts.username, aws_secret_access_key=parts.password,
    ) as client:  # fmt: skip
        yield client


@contextlib.asynccontextmanager
async def queue_on(sqs: Any, *, fifo: bool = False) -> AsyncGenerator[str]:
    """A queue of its own; it is gone afterwards."""
    given = {"QueueName": f"{unique()}.fifo", "Attributes": {"FifoQueue": "true"}} if fifo else {"QueueName": unique()}
    queue = (await sqs.create_queue(**given))["QueueUrl"]
    try:
        yield queue
    finally:
        await sqs.delete_queue(QueueUrl=queue)


@contextlib.asynccontextmanager
async def topic_on(url: str, *, fifo: bool = False) -> AsyncGenerator[tuple[Any, str, Any, str]]:
    """SNS with a topic, and SQS with one queue that takes what is published; both are gone afterwards."""
    async with client_of(url, "sqs") as sqs, client_of(url, "sns") as sns, queue_on(sqs, fifo=fifo) as queue:
        given = {"Name": f"{unique()}.fifo", "Attributes": {"FifoTopic": "true"}} if fifo else {"Name": unique()}
        topic = (await sns.create_topic(**given))["TopicArn"]
        arn = (await sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"]))["Attributes"]["QueueArn"]
        await sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes={"RawMessageDelivery": "true"})
        try:
            yield sns, topic, sqs, queue
        finally:
            await sns.delete_topic(TopicArn=topic)


async def receive(
    sqs: Any, queue: str, handle: Callable[[str], Awaitable[None]], stop: asyncio.Event, *, asked: Mapping[str, Any] = {}
) -> None:  # fmt: skip
    """Ten at a time: handle them, then delete them."""
    while not stop.is_set():
        answer = await sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=TEN, WaitTimeSeconds=1, **asked)
        messages = answer.get("Messages") or ()
        for message in messages:
            await handle(message["Body"])
        if messages:
            entries = [{"Id": str(n), "ReceiptHandle": message["ReceiptHandle"]} for n, message in enumerate(messages)]
            await sqs.delete_message_batch(QueueUrl=queue, Entries=entries)


async def consume(url: str, count: int, *, attributes: bool = False) -> Figures:
    """From a FIFO queue; each event has a message group of its own, and the attributes that one of ours has."""
    counting = Counting(count)

    async def handler(_order: Stored) -> None:
        counting.one()

    async with client_of(url, "sqs") as sqs, queue_on(sqs, fifo=True) as queue:
        for first in range(0, count, TEN):
            entries = [
                {
                    "Id": str(n), "MessageBody": encode(o).decode(), "MessageGroupId": o.order_id, "MessageDeduplicationId": o.order_id,
                    "MessageAttributes": ATTRIBUTES if attributes else {},
                }
                for n, o in enumerate(stored(first, TEN))
            ]  # fmt: skip
            await sqs.send_message_batch(QueueUrl=queue, Entries=entries)
        await receive(sqs, queue, lambda body: handler(decode(body)), counting.stop, asked=ASKED if attributes else {})
    return counting.figures()


async def latency(url: str, count: int) -> Figures:
    """From publisher to handler, in one process, over a FIFO topic and queue."""
    seen, stop = Seen(), asyncio.Event()

    async def handle(body: str) -> None:
        seen.one(decode_tick(body))

    async with topic_on(url, fifo=True) as (sns, topic, sqs, queue):

        async def publish(tick: Tick) -> None:
            await sns.publish(
                TopicArn=topic, Message=encode(tick).decode(), MessageGroupId=tick.key, MessageDeduplicationId=f"{tick.key}-{tick.sent}"
            )

        running = asyncio.create_task(receive(sqs, queue, handle, stop))
        figures = await seen.measure(publish, count)
        stop.set()
        await running
    return figures


async def publish_from_many(url: str, count: int) -> Figures:
    """From 100 tasks, a request for each."""
    async with topic_on(url) as (sns, topic, _, _):

        async def publish(event: Published) -> None:
            await sns.publish(TopicArn=topic, Message=encode(event).decode())

        return await from_many(publish, published(0, count))


async def publish_batches(url: str, count: int) -> Figures:
    """Ten to a request, one request after another."""
    async with topic_on(url) as (sns, topic, _, _):

        async def publish_many(events: Sequence[Published]) -> None:
            for first in range(0, len(events), TEN):
                entries = [{"Id": str(n), "Message": encode(e).decode()} for n, e in enumerate(events[first : first + TEN])]
                await sns.publish_batch(TopicArn=topic, PublishBatchRequestEntries=entries)

        return await in_batches(publish_many, published(0, count))
