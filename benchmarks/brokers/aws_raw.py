"""SQS and SNS by hand with aiobotocore: ten at a time, which is what a request takes."""

import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
from aiobotocore.session import get_session

from benchmarks.brokers.drive import Counting, from_many, in_batches
from benchmarks.brokers.events import Published, Stored, published, stored
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
async def topic_on(url: str) -> AsyncGenerator[tuple[Any, str]]:
    """A topic with one queue that takes what is published; both are gone afterwards."""
    async with client_of(url, "sqs") as sqs, client_of(url, "sns") as sns, queue_on(sqs) as queue:
        topic = (await sns.create_topic(Name=unique()))["TopicArn"]
        arn = (await sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"]))["Attributes"]["QueueArn"]
        await sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes={"RawMessageDelivery": "true"})
        try:
            yield sns, topic
        finally:
            await sns.delete_topic(TopicArn=topic)


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
        asked = {"QueueUrl": queue, "MaxNumberOfMessages": TEN, "WaitTimeSeconds": 1} | (ASKED if attributes else {})
        while not counting.stop.is_set():
            messages = (await sqs.receive_message(**asked)).get("Messages") or ()
            for message in messages:
                await handler(decode(message["Body"]))
            if messages:
                done = [{"Id": str(n), "ReceiptHandle": message["ReceiptHandle"]} for n, message in enumerate(messages)]
                await sqs.delete_message_batch(QueueUrl=queue, Entries=done)
    return counting.figures()


async def publish_from_many(url: str, count: int) -> Figures:
    """From 100 tasks, a request for each."""
    async with topic_on(url) as (sns, topic):

        async def publish(event: Published) -> None:
            await sns.publish(TopicArn=topic, Message=encode(event).decode())

        return await from_many(publish, published(0, count))


async def publish_batches(url: str, count: int) -> Figures:
    """Ten to a request, one request after another."""
    async with topic_on(url) as (sns, topic):

        async def publish_many(events: Sequence[Published]) -> None:
            for first in range(0, len(events), TEN):
                entries = [{"Id": str(n), "Message": encode(e).decode()} for n, e in enumerate(events[first : first + TEN])]
                await sns.publish_batch(TopicArn=topic, PublishBatchRequestEntries=entries)

        return await in_batches(publish_many, published(0, count))
