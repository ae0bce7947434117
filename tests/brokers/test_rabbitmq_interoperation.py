"""Programs that are not ours: a plain pika program publishes and reads, and RabbitMQ refuses what it refuses."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pika
import pytest
from tests.brokers.rabbitmq_server import rabbitmq_url, tidied
from tests.brokers.words import declared, made, published, taken, unique, until

from millstream import App, Context, event
from millstream.brokers.rabbitmq import RabbitBroker, queue_of
from millstream.contracts.errors import BrokerError, BrokerUnavailableError, ConfigurationError
from millstream.core.broker import Dropped, Group, Partition, Topic
from millstream.core.facts import TOPIC as FACTS
from millstream.core.facts import FactMessage, Heartbeat
from millstream.testing.broker_ground import Member

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@event("order.created", key="customer")
@dataclass(frozen=True)
class OrderCreated:
    """As other programs publish it."""

    orderId: int  # noqa: N815 - their name
    status: str
    customer: str = "nobody"


@event("order.forgotten")
@dataclass(frozen=True)
class OrderForgotten:
    """Nobody handles it."""


@pytest.fixture
async def broker() -> AsyncGenerator[RabbitBroker]:
    """Open, and nothing of the test stays."""
    async with tidied(rabbitmq_url()), RabbitBroker(rabbitmq_url()) as broker:
        yield broker


@pytest.fixture
def plain() -> Iterator[Any]:
    """The channel of a plain pika program."""
    connection = pika.BlockingConnection(pika.URLParameters(f"{rabbitmq_url()}/%2F"))
    yield connection.channel()
    if connection.is_open:
        connection.close()


async def test_bare_json_of_a_plain_program_is_a_typed_event(broker: RabbitBroker, plain: Any, tmp_path: Path) -> None:
    """With a routing key, which is its key then, and without one; the message id is the event's id."""
    name = unique("bare")
    topic = unique("order.created")
    app = App(name)
    app.configure(broker=RabbitBroker(rabbitmq_url()), store=f"sqlite:///{tmp_path}/store.db")
    seen: list[tuple[OrderCreated, str | None, str]] = []

    @app.subscriber(OrderCreated, group=name, topic=topic, wire="json", delivery="at_least_once")
    async def handle(order: OrderCreated, context: Context) -> None:
        seen.append((order, context.envelope.key, context.envelope.id))

    async with app:
        stop = asyncio.Event()
        running = asyncio.create_task(app.run(stop))
        body = b'{"orderId": 123, "status": "pending"}'
        plain.basic_publish(topic, "customer-7", body, pika.BasicProperties(message_id="m-1", content_type="application/json"))
        plain.basic_publish(topic, "", body)
        await until(lambda: len(seen) == 2, lambda: asyncio.sleep(0.01), lambda: f"only {seen} came")
        stop.set()
        await running

    assert {order for order, _, _ in seen} == {OrderCreated(123, "pending")}
    assert ("customer-7", "m-1") in {(key, id_) for _, key, id_ in seen}
    assert None in {key for _, key, _ in seen}


async def test_a_plain_program_reads_what_is_published(broker: RabbitBroker, plain: Any) -> None:
    """Its queue is bound like any other: attributes are headers as CloudEvents wants them, and the body is the body."""
    topic, _ = await declared(broker)
    queue = plain.queue_declare("", exclusive=True).method.queue
    plain.queue_bind(queue, topic, "partition.*")
    (sent,) = made(topic, 1, correlation="c-1")

    await published(broker, [sent])
    _, properties, body = next(plain.consume(queue, inactivity_timeout=10))

    assert body == sent.data
    assert properties.content_type == "application/json"
    assert properties.delivery_mode == 2
    names = ("specversion", "id", "source", "type", "subject", "partitionkey", "correlationid", "time")
    values = ("1.0", sent.id, sent.source, sent.type, sent.key, sent.key, "c-1", "2026-01-01T00:00:00Z")
    assert {name: properties.headers[f"cloudEvents_{name}"] for name in names} == dict(zip(names, values, strict=True))


async def test_cloudevents_of_other_programs_are_events(broker: RabbitBroker, plain: Any) -> None:
    """In binary mode with either prefix, with values of other types, and in structured mode."""
    topic, group = await declared(broker)
    for prefix in ("cloudEvents:", "cloudEvents_"):
        headers = {f"{prefix}{name}": value for name, value in {"specversion": "1.0", "type": "t", "source": "/s", "id": prefix}.items()}
        properties = pika.BasicProperties(headers={**headers, f"{prefix}tenant": 7}, content_type="text/plain", timestamp=1)
        plain.basic_publish(topic, "k", b"hello", properties)
    structured = b'{"specversion":"1.0","type":"t","source":"/s","id":"whole","data":{"a":1}}'
    plain.basic_publish(topic, "k", structured, pika.BasicProperties(content_type="application/cloudevents+json"))

    member = Member(await broker.open(group, "m"))
    events = [d.envelope for d in await taken(member, 3)]
    await member.close()

    assert [e.id for e in events if e] == ["cloudEvents:", "cloudEvents_", "whole"]
    assert [e.key for e in events if e] == ["k"] * 3
    assert [(e.data, e.content_type, e.extensions) for e in events[:2] if e] == [(b"hello", "text/plain", {"tenant": "7"})] * 2
    assert events[2] is not None
    assert events[2].data == b'{"a":1}'


async def test_what_nobody_reads_is_published_all_the_same(broker: RabbitBroker, caplog: pytest.LogCaptureFixture) -> None:
    """As a log would keep it for nobody: it is a success, told once for the topic and counted until a group reads it."""
    topic = unique("unread")
    await broker.declare([Topic(name=topic)], [])
    with caplog.at_level("INFO", "millstream.rabbitmq"):
        for number in range(2):
            await published(broker, made(topic, 10, prefix=f"p{number}"))
        await broker.broadcast(b"nobody listens")
        await until(lambda: topic in caplog.text, lambda: asyncio.sleep(0.01), lambda: "nothing is told")
    unread = broker.dropped()
    await broker.declare([], [Group(name=unique("group"), topics=(topic,))])
    await published(broker, made(topic, 20))

    assert [record.message for record in caplog.records if topic in record.message] == [
        f"{broker.name}: no group reads the topic {topic} yet, so what is published to it goes nowhere"
    ]
    assert (unread, broker.dropped()) == ([Dropped(topic, 20)], [])


async def test_a_service_tells_with_its_facts_what_nobody_reads(broker: RabbitBroker, tmp_path: Path) -> None:
    """So that an operator sees it on the console, whatever the log shows."""
    name, group = unique("forgetful"), unique("console")
    await broker.declare([FACTS], [Group(name=group, topics=(FACTS.name,))])
    member = Member(await broker.open(group, "m"))
    app = App(name)
    app.configure(broker=RabbitBroker(rabbitmq_url()), store=f"sqlite:///{tmp_path}/store.db", facts="on")
    told: list[tuple[tuple[str, int], ...]] = []

    async def listen() -> None:
        items = await member.step()
        await member.settle()
        facts = [msgspec.json.decode(d.envelope.data, type=FactMessage).fact for d in items if d.envelope]
        told.extend(fact.unread for fact in facts if isinstance(fact, Heartbeat) and fact.app == name)

    async with app:
        for _ in range(3):
            await app.publish(OrderForgotten())
        await until(lambda: (("order.forgotten", 3),) in told, listen, lambda: f"only {told} is told")
    await member.close()


async def test_what_a_group_loses_because_its_queue_was_deleted_is_a_trouble(
    broker: RabbitBroker, plain: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Though nobody runs the group, whoever publishes says whose queue is missing and what to do, until it is there again."""
    topic, group = await declared(broker, partitions=1)
    queue = queue_of(group, Partition(topic, 0))
    plain.queue_delete(queue)

    await published(broker, made(topic, 10))
    await until(lambda: bool(caplog.records), lambda: asyncio.sleep(0.01), lambda: "nothing is told")
    (dropped,) = broker.dropped()
    await broker.declare([], [Group(name=group, topics=(topic,))])
    await published(broker, made(topic, 3))

    (record,) = caplog.records
    assert (record.levelname, queue in record.message, "next start declares it anew" in record.message) == ("WARNING", True, True)
    assert (dropped.topic, dropped.count) == (topic, 10)
    assert dropped.trouble.startswith(f"group {group!r} has lost 10 events")
    assert not broker.dropped()


async def test_what_a_queue_refuses_is_tried_again_in_order_and_then_fails(broker: RabbitBroker, plain: Any) -> None:
    """A full queue that somebody else bound answers with a nack: nothing behind it overtakes it, and in the end it is told."""
    async with RabbitBroker(f"{rabbitmq_url()}?timeout=3") as impatient:
        topic, _ = await declared(impatient, partitions=1)
        queue = unique("full")
        arguments = {"x-max-length": 2, "x-overflow": "reject-publish"}
        plain.queue_declare(queue, durable=True, arguments=arguments)
        plain.queue_bind(queue, topic, "partition.*")
        sent = made(topic, 12, keys=1)
        try:
            refused = await impatient.publish(sent)
            plain.queue_unbind(queue, topic, "partition.*")
            again = await impatient.publish(sent)
        finally:
            plain.queue_delete(queue)

        first = next(index for index, result in enumerate(refused) if result is not None)
        assert all(isinstance(result, BrokerError) for result in refused[first:])
        assert any("nack" in str(result) for result in refused if isinstance(result, BrokerUnavailableError))
        assert not any(again)


async def test_what_a_queue_refuses_for_a_while_reaches_its_group_in_order(broker: RabbitBroker, plain: Any) -> None:
    """A nack is nothing that whoever publishes has to hear of: the same call succeeds when there is room."""
    topic, group = await declared(broker, partitions=1)
    queue = unique("full")
    plain.queue_declare(queue, durable=True, arguments={"x-max-length": 2, "x-overflow": "reject-publish"})
    plain.queue_bind(queue, topic, "partition.*")
    sent = made(topic, 12, keys=1)
    try:
        publishing = asyncio.create_task(broker.publish(sent))
        await until(lambda: bool(broker._publisher._again), lambda: asyncio.sleep(0.01), lambda: "nothing is refused")
    finally:
        plain.queue_delete(queue)
    behind = made(topic, 12, keys=1, prefix="behind")
    await published(broker, behind)
    results = await publishing
    member = Member(await broker.open(group, "m"))
    seen: dict[str, None] = {}

    async def step() -> None:
        items = await member.step()
        seen.update((d.envelope.id, None) for d in items if d.envelope)
        await member.settle(items)

    await until(lambda: len(seen) == 24, step, lambda: f"only {len(seen)} came")
    await member.close()

    assert not any(results)
    assert list(seen) == [e.id for e in (*sent, *behind)]


async def test_a_queue_that_was_deleted_stops_its_group_with_a_reason(broker: RabbitBroker, plain: Any) -> None:
    """While it runs and when it is opened; declared again, it goes on."""
    topic, group = await declared(broker)
    member = Member(await broker.open(group, "m"))
    await until(lambda: len(member.partitions) == 4, member.step, lambda: "not all were assigned")

    plain.queue_delete(queue_of(group, Partition(topic, 2)))

    with pytest.raises(BrokerError, match="is not on"):
        await until(lambda: False, member.step, lambda: "nobody was told")
    await member.close()
    with pytest.raises(BrokerError, match="declares it anew"):
        await broker.open(group, "m")
    await broker.declare([Topic(name=topic)], [Group(name=group, topics=(topic,))])
    await published(broker, made(topic, 20))
    heir = Member(await broker.open(group, "m"))
    await taken(heir, 20)
    await heir.close()


async def test_names_that_are_anothers_are_refused(broker: RabbitBroker, plain: Any) -> None:
    """An exchange or a queue of that name with other settings is not taken for ours."""
    exchange = unique("orders")
    plain.exchange_declare(exchange, "direct")
    topic, group = unique("made"), unique("group")
    queue = queue_of(group, Partition(topic, 0))
    plain.queue_declare(queue, durable=True)
    try:
        with pytest.raises(ConfigurationError, match="another's"):
            await broker.declare([Topic(name=exchange)], [])
        with pytest.raises(ConfigurationError, match="other settings"):
            await broker.declare([], [Group(name=group, topics=(topic,))])
        with pytest.raises(ConfigurationError, match="internal name"):
            await broker.declare([Topic(name="amq.mine")], [])
    finally:
        plain.exchange_delete(exchange)
        plain.queue_delete(queue)


async def test_a_topic_that_was_deleted_is_made_anew(broker: RabbitBroker, plain: Any) -> None:
    """Whoever publishes is told; whoever publishes again makes it, others' events are not held up, and its groups get what follows."""
    topic, reader = await declared(broker, partitions=1)
    other, group = await declared(broker)
    await published(broker, made(topic, 1))
    plain.exchange_delete(topic)
    plain.exchange_delete(f"millstream.others:{topic}")

    gone, kept = await asyncio.gather(broker.publish(made(topic, 3)), broker.publish(made(other, 3)))
    again = await broker.publish(made(topic, 3))

    assert all(isinstance(result, BrokerUnavailableError) for result in gone)
    assert not any(kept)
    assert not any(again)
    member = Member(await broker.open(group, "m"))
    await taken(member, 3)
    await member.close()
    await until(lambda: not broker.dropped(), lambda: asyncio.sleep(0.01), lambda: "its queue is not bound again")
    await published(broker, made(topic, 3, prefix="after"))
    one = Member(await broker.open(reader, "m"))
    assert [d.envelope.id for d in await taken(one, 4) if d.envelope] == ["e-0", "after-0", "after-1", "after-2"]
    await one.close()
