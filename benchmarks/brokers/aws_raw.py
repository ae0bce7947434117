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

#: The most that a request takes.
TEN = 10

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
async def queue_on(sqs: Any) -> AsyncGenerator[str]:
    """A queue of its own; it is gone afterwards."""
    queue = (await sqs.create_queue(QueueName=unique()))["QueueUrl"]
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


async def consume(url: str, count: int) -> Figures:
    """Decode, await the handler, delete ten."""
    counting = Counting(count)

    async def handler(_order: Stored) -> None:
        counting.one()

    async with client_of(url, "sqs") as sqs, queue_on(sqs) as queue:
        for first in range(0, count, TEN):
            entries = [{"Id": str(n), "MessageBody": encode(order).decode()} for n, order in enumerate(stored(first, TEN))]
            await sqs.send_message_batch(QueueUrl=queue, Entries=entries)
        while not counting.stop.is_set():
            messages = (await sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=TEN, WaitTimeSeconds=1)).get("Messages") or ()
            for message in messages:
                await handler(decode(message["Body"]))
            if messages:
                entries = [{"Id": str(n), "ReceiptHandle": message["ReceiptHandle"]} for n, message in enumerate(messages)]
                await sqs.delete_message_batch(QueueUrl=queue, Entries=entries)
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
