"""Going back so many events on real brokers, whose positions have gaps."""

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import nats
import pytest
import redis.asyncio
from confluent_kafka import Producer
from tests.brokers.servers import server_url
from tests.brokers.words import declared, made, published, taken

from millstream.app import operations
from millstream.app.connect import connect_broker
from millstream.app.operations import Target
from millstream.app.system_clock import SystemClock
from millstream.brokers.kafka_settings import settings_of
from millstream.brokers.nats_names import stream_of
from millstream.core.broker import Delivery, Partition
from millstream.testing.broker_ground import Member

pytestmark = pytest.mark.slow


async def in_transactions(url: str, topic: str) -> None:
    """Six records on Kafka, each with the mark of its transaction behind it, and among them what was undone."""

    def write() -> None:
        producer = Producer({"bootstrap.servers": str(settings_of(url).client["bootstrap.servers"]), "transactional.id": topic})
        producer.init_transactions(10)
        for number in range(6):
            producer.begin_transaction()
            producer.produce(topic, b"never", b"k", partition=0)
            producer.flush(10)
            producer.abort_transaction(10)
            producer.begin_transaction()
            producer.produce(topic, b"%d" % number, b"k", partition=0)
            producer.commit_transaction(10)

    await asyncio.to_thread(write)


async def by_others(url: str, topic: str) -> None:
    """Six entries on Redis whose ids are the server's time, as others add them."""
    async with redis.asyncio.Redis.from_url(url.partition("?")[0]) as client:
        for number in range(6):
            await client.xadd(f"{topic}:0", {"data": b"%d" % number})


async def with_holes(url: str, topic: str) -> None:
    """Six messages on NATS, behind some that somebody has erased."""
    client = await nats.connect(f"nats://{urlsplit(url).netloc}")
    for number in range(6):
        await client.jetstream().publish(topic, b"never")
        ack = await client.jetstream().publish(topic, b"%d" % number)
        await client.jetstream().delete_msg(stream_of(Partition(topic, 0)), ack.seq - 1)
    await client.close()


async def one_after_another(url: str, topic: str) -> None:
    """Six events in a stream of RabbitMQ, which has no gaps."""
    async with connect_broker(url, SystemClock()) as broker:
        await published(broker, made(topic, 6, keys=1, prefix="more"))


Write = Callable[[str, str], Awaitable[None]]


@pytest.mark.parametrize(
    ("service", "options", "write"),
    [
        pytest.param("kafka", "", in_transactions, id="kafka"),
        pytest.param("redis", "", by_others, id="redis"),
        pytest.param("nats", "", with_holes, id="nats"),
        pytest.param("rabbitmq", "?streams=1", one_after_another, id="rabbitmq-streams"),
    ],
)
async def test_a_group_gets_its_last_events_again(service: str, options: str, write: Write) -> None:
    """As many as were asked for, however many positions that are, and the plan says so before."""
    url = server_url(service, f"MILLSTREAM_TEST_{service.upper()}") + options
    async with connect_broker(url, SystemClock()) as broker:
        topic, group = await declared(broker, partitions=1)
        await published(broker, made(topic, 10, keys=1))
        await write(url, topic)
        member = Member(await broker.open(group, "m"))
        first = await taken(member, 16)
        await member.close()

        for events in (4, 9):
            plan = await operations.plan_replay(broker, group, Target(kind="back", events=events))
            await broker.seek(group, [(move.partition, move.to) for move in plan.moves])
            member = Member(await broker.open(group, "m"))
            again = await taken(member, events)
            nothing_more = await member.step(wait=0.2)
            await member.close()

            assert plan.again == events
            assert list(map(content, again)) == list(map(content, first[-events:]))
            assert nothing_more == []
        await broker.forget(group)


def content(delivery: Delivery) -> bytes:
    """What is in it."""
    if delivery.envelope is not None:
        return delivery.envelope.id.encode()
    return delivery.message.body if delivery.message is not None else b""
