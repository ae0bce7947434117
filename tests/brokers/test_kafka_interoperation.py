"""Programs that are not ours publish to us and read what we publish: KafkaJS, and Kafka's own console tools."""

import asyncio
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.brokers.kafka_server import kafka_url
from tests.brokers.servers import missing
from tests.brokers.words import PATIENCE, made, published, unique
from tools.services.kafka import LIBS
from tools.services.kafkajs import KafkaJs, install
from tools.services.service import ServiceError

from millstream import App, Context, Transaction, event
from millstream.brokers.kafka import KafkaBroker
from millstream.brokers.kafka_settings import settings_of
from millstream.contracts.codec import to_structured
from millstream.core.broker import Message, Topic
from millstream.stores.sqlite import SqliteStore
from millstream.stores.sqlite_file import SqliteFile

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

CLIENT = Path(__file__).with_name("kafkajs_client.js")


@event("interop.order", key="order_id", topic="order.created")
class Order(msgspec.Struct, rename="camel"):
    """An order, as a JavaScript program writes it."""

    order_id: int
    status: str


@event("interop.shipped", key="order_id")
@dataclass(frozen=True)
class Shipped:
    """What we publish."""

    order_id: str
    note: str


@pytest.fixture(scope="module")
def kafkajs() -> KafkaJs:
    """The JavaScript client."""
    kafka_url()
    try:
        return install()
    except ServiceError as error:
        missing("kafka", f"KafkaJS cannot be had: {error}")


def server() -> str:
    """The address of the server."""
    return str(settings_of(kafka_url()).client["bootstrap.servers"])


async def run_kafkajs(kafkajs: KafkaJs, command: str, topic: str, argument: str) -> str:
    """Run the JavaScript program; gives what it printed."""
    process = await asyncio.create_subprocess_exec(
        *kafkajs.command(CLIENT, server(), command, topic, argument), env=kafkajs.env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, error = await process.communicate()
    assert process.returncode == 0, error.decode()
    return out.decode()


async def test_kafkajs_publishes_bare_json_to_a_typed_handler(kafkajs: KafkaJs, tmp_path: Path) -> None:
    """`{"orderId": 123, "status": "pending"}`, with a key and without one, is an order."""
    app = App(unique("interop"), schema="create table if not exists seen(order_id integer, status text)")
    app.configure(broker=KafkaBroker(kafka_url()), store=SqliteStore(SqliteFile(tmp_path / "store.db")))
    seen: list[tuple[int, str, str | None, str]] = []
    done = asyncio.Event()

    @app.subscriber(Order, wire="json")
    async def take(order: Order, context: Context, transaction: Transaction) -> None:
        transaction.execute("insert into seen values (?, ?)", (order.order_id, order.status))
        seen.append((order.order_id, order.status, context.envelope.key, context.envelope.id))
        if len(seen) == 2:
            done.set()

    body = json.dumps({"orderId": 123, "status": "pending"})
    async with app:
        messages = [{"key": "123", "value": body}, {"value": body}]
        await run_kafkajs(kafkajs, "publish", "order.created", json.dumps(messages))
        async with asyncio.timeout(PATIENCE):
            await app.run(done)
        rows = await app.read("select * from seen")

    assert sorted((order, status, key or "") for order, status, key, _ in seen) == [(123, "pending", ""), (123, "pending", "123")]
    assert rows == [(123, "pending")] * 2
    assert len({id_ for *_, id_ in seen}) == 2


async def test_kafkajs_reads_what_we_publish(kafkajs: KafkaJs) -> None:
    """The body is plain JSON, the attributes are CloudEvents headers, and the key is the record's key."""
    topic = unique("shipped")
    async with KafkaBroker(kafka_url()) as broker:
        await broker.declare([Topic(name=topic, partitions=4)], [])
        await published(broker, made(topic, 20, keys=5))

    seen = json.loads(await run_kafkajs(kafkajs, "read", topic, "20"))

    assert sorted(m["headers"]["ce_id"] for m in seen) == sorted(f"e-{n}" for n in range(20))
    first = next(m for m in seen if m["headers"]["ce_id"] == "e-0")
    assert (first["key"], json.loads(first["value"])) == ("k0", {"number": 0})
    expected = {
        "ce_specversion": "1.0", "ce_id": "e-0", "ce_source": "/test", "ce_type": "made", "ce_subject": "k0",
        "ce_time": "2026-01-01T00:00:00Z", "content-type": "application/json",
    }  # fmt: skip
    assert first["headers"] == expected


async def test_a_key_is_where_kafkajs_puts_it(kafkajs: KafkaJs) -> None:
    """Both programs write events of one key into one partition, so that their order counts for both."""
    topic = unique("shared")
    async with KafkaBroker(kafka_url()) as broker:
        await broker.declare([Topic(name=topic, partitions=7)], [])
        await published(broker, made(topic, 30, keys=30))
        theirs = [{"key": f"k{n}", "value": "{}"} for n in range(30)]
        await run_kafkajs(kafkajs, "publish", topic, json.dumps(theirs))

        places: dict[str, set[int]] = {}
        for partition, first, _ in await broker.bounds(topic):
            for delivery in await broker.read(partition, first, 1000):
                key = delivery.envelope.key if delivery.envelope else ((delivery.message and delivery.message.key) or b"").decode()
                places.setdefault(str(key), set()).add(partition.number)

    assert len(places) == 30
    assert all(len(partitions) == 1 for partitions in places.values())


async def test_kafkas_console_consumer_reads_what_we_publish() -> None:
    """Headers, key and body as the tool of everybody who runs Kafka shows them."""
    topic = unique("shipped")
    async with KafkaBroker(kafka_url()) as broker:
        await broker.declare([Topic(name=topic, partitions=1)], [])
        await published(broker, made(topic, 2, keys=1))

    printed = await asyncio.to_thread(
        console, "org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", server(), "--topic", topic, "--from-beginning",
        "--max-messages", "2", "--timeout-ms", "15000", "--formatter-property", "print.headers=true", "--formatter-property",
        "print.key=true",
    )  # fmt: skip

    lines = [line for line in printed.splitlines() if "ce_id" in line]
    assert [line.rsplit("\t", 2)[1:] for line in lines] == [["k0", '{"number":0}'], ["k0", '{"number":1}']]
    assert "ce_type:made" in lines[0]


async def test_what_the_console_producer_writes_arrives() -> None:
    """A line typed into Kafka's own tool is a message with its key, and structured CloudEvents are events."""
    topic = unique("typed")
    async with KafkaBroker(kafka_url()) as broker:
        await broker.declare([Topic(name=topic, partitions=1)], [])
        await asyncio.to_thread(
            console, "org.apache.kafka.tools.ConsoleProducer", "--bootstrap-server", server(), "--topic", topic, "--reader-property",
            "parse.key=true", "--reader-property", "key.separator=|", standard_input='k1|{"orderId": 1}\n',
        )  # fmt: skip
        (envelope,) = made(topic, 1)
        structured = Message(topic=topic, body=to_structured(envelope), headers=(("content-type", b"application/cloudevents+json"),))
        assert await broker.publish_raw([structured]) == [None]

        ((partition, first, _),) = await broker.bounds(topic)
        typed, event_ = await broker.read(partition, first, 10)

    assert typed.message is not None
    assert (typed.message.key, typed.message.body) == (b"k1", b'{"orderId": 1}')
    assert event_.envelope == envelope


async def test_kafkas_group_tool_shows_where_we_are(tmp_path: Path) -> None:
    """Whoever watches Kafka with its own tools sees a Millstream group as any other, with its lag."""
    app = App(unique("watched"))
    app.configure(broker=KafkaBroker(kafka_url()), store=SqliteStore(SqliteFile(tmp_path / "store.db")))
    done = asyncio.Event()

    @app.subscriber(Shipped)
    async def take(shipped: Shipped) -> None:
        done.set()

    async with app:
        await app.publish(Shipped("o-1", "on its way"))
        async with asyncio.timeout(PATIENCE):
            await app.run(done)
    group = f"{app.name}.take"
    tool = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
    printed = await asyncio.to_thread(console, tool, "--bootstrap-server", server(), "--describe", "--group", group)

    rows = [line.split() for line in printed.splitlines() if line.startswith(group)]
    assert len(rows) == 8
    assert {row[1] for row in rows} == {"interop.shipped"}
    assert {row[5] for row in rows} == {"0"}


def console(main: str, *arguments: str, standard_input: str | None = None) -> str:
    """One of Kafka's console tools, from the jars of `make services`."""
    if not LIBS.exists():
        missing("kafka", "its tools are not there, which are in the jars of `make services ONLY=kafka`")
    command: list[Any] = ["java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", f"{LIBS}/*", main, *arguments]
    done = subprocess.run(command, input=standard_input, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
