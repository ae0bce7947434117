"""Programs that are not ours, written with nats-py, read what Millstream publishes and publish what it handles."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import nats
import pytest
from nats.js import JetStreamContext
from tests.brokers.nats_server import nats_url, tidied
from tests.brokers.words import made, unique

from millstream import App, Context, event
from millstream.brokers.nats import NatsBroker
from millstream.contracts.envelope import Envelope
from millstream.core.broker import Group, Message, Partition, Topic
from millstream.stores.sqlite import SqliteStore
from millstream.stores.sqlite_file import SqliteFile
from millstream.testing.broker_ground import replaced

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


@event("foreign.order_created", key="order_id")
@dataclass(frozen=True)
class OrderCreated:
    """What the others tell."""

    order_id: int
    status: str


@pytest.fixture(autouse=True)
async def _tidied() -> AsyncGenerator[None]:
    async with tidied(nats_url()):
        yield


@pytest.fixture
async def jetstream() -> AsyncGenerator[JetStreamContext]:
    """JetStream as nats-py has it."""
    client = await nats.connect(nats_url())
    yield client.jetstream()
    await client.close()


async def test_bare_json_that_nats_py_publishes_is_handled_as_a_typed_event(tmp_path: Path, jetstream: JetStreamContext) -> None:
    """To the topic's own name, with a key and without: no library of ours is needed to send an event."""
    app = App(unique("shop"))
    app.configure(broker=NatsBroker(nats_url()), store=SqliteStore(SqliteFile(tmp_path / "store.db")))
    handled: list[tuple[OrderCreated, Envelope]] = []
    stop = asyncio.Event()

    @app.subscriber(OrderCreated, wire="json", group=unique("shop"))
    async def handle(order: OrderCreated, context: Context) -> None:
        handled.append((order, context.envelope))
        if len(handled) == 3:
            stop.set()

    async with app, asyncio.timeout(30):
        body = b'{"order_id": 123, "status": "pending"}'
        acknowledged = await jetstream.publish("foreign.order_created", body)
        await jetstream.publish("foreign.order_created", body, headers={"Millstream-Key": "a%20b"})
        await jetstream.publish("millstream.topic.foreign-order_created.3", body)
        await app.run(stop)

    assert acknowledged.stream == "foreign-order_created_0"
    assert [order for order, _ in handled] == [OrderCreated(123, "pending")] * 3
    assert len({envelope.id for _, envelope in handled}) == 3
    assert sorted(str(envelope.key) for _, envelope in handled) == ["None", "None", "a b"]


async def test_nats_py_reads_what_millstream_publishes(jetstream: JetStreamContext) -> None:
    """The body is the JSON itself, the attributes are headers as the CloudEvents binding for NATS has them."""
    topic = unique("made")
    async with NatsBroker(nats_url()) as broker:
        await broker.declare([Topic(name=topic, partitions=1)], [])
        (sent,) = made(topic, 1, key="größe 1", data=b'{"n": 1}', extensions={"tenant": "日本"})
        assert list(await broker.publish([sent])) == [None]

    subscription = await jetstream.subscribe(f"millstream.topic.{topic.replace('.', '-')}.*", ordered_consumer=True)
    message = await subscription.next_msg(timeout=10)

    assert message.data == b'{"n": 1}'
    headers = message.headers or {}
    assert {name: headers[name] for name in ("ce-specversion", "ce-id", "ce-type", "ce-subject", "ce-partitionkey", "ce-tenant")} == {
        "ce-specversion": "1.0", "ce-id": "e-0", "ce-type": "made", "ce-subject": "gr%C3%B6%C3%9Fe%201",
        "ce-partitionkey": "gr%C3%B6%C3%9Fe%201", "ce-tenant": "%E6%97%A5%E6%9C%AC",
    }  # fmt: skip
    assert headers["content-type"] == "application/json"


async def test_cloudevents_that_nats_py_publishes_are_events(jetstream: JetStreamContext) -> None:
    """In binary mode, whatever the case of the headers, and in structured mode."""
    topic = unique("made")
    async with NatsBroker(nats_url()) as broker:
        await broker.declare([Topic(name=topic, partitions=1)], [])
        binary = {
            "ce-specversion": "1.0", "ce-id": "1", "ce-source": "/other", "ce-type": "made", "Ce-Subject": "gr%C3%B6%C3%9Fe",
            "Content-Type": "text/plain",
        }  # fmt: skip
        await jetstream.publish(topic, b"hello", headers=binary)
        structured = b'{"specversion":"1.0","id":"2","source":"/other","type":"made","subject":"k","data":{"n":1}}'
        await jetstream.publish(topic, structured, headers={"Content-Type": "application/cloudevents+json"})
        await jetstream.publish(topic, b"odd", headers={"ce-specversion": "9"})
        one, two, odd = await broker.read(Partition(topic, 0), 1, 10)

    assert one.envelope is not None
    assert two.envelope is not None
    assert (one.envelope.id, one.envelope.key, one.envelope.data, one.envelope.content_type) == ("1", "größe", b"hello", "text/plain")
    assert (two.envelope.id, two.envelope.key, two.envelope.data) == ("2", "k", b'{"n":1}')
    assert odd.envelope is None
    assert odd.message is not None
    assert (odd.message.body, odd.message.headers) == (b"odd", (("ce_specversion", b"9"),))


async def test_what_cannot_be_a_header_is_refused_alone() -> None:
    """NATS has lines of text: a line end, a name with a colon or spaces around a value do not arrive, so they are not sent."""
    topic = unique("made")
    async with NatsBroker(nats_url()) as broker:
        await broker.declare([Topic(name=topic, partitions=1)], [Group(name=unique("g"), topics=(topic,))])
        odd = [("x", b"a\r\nEvil: 1"), ("x:y", b"1"), ("", b"1"), ("größe", b"1"), ("x", b" 1"), ("x", b"\n")]
        results = await broker.publish_raw([Message(topic=topic, body=b"1", headers=(header,)) for header in odd])
        fine = await broker.publish_raw([Message(topic=topic, body=b"2", headers=(("x-fine", b"a:b"), ("empty", b"")))])
        (came,) = await broker.read(Partition(topic, 0), 1, 10)

    assert all(results)
    assert list(fine) == [None]
    assert came.message is not None
    assert came.message.headers == (("x-fine", b"a:b"), ("empty", b""))


async def test_attributes_with_every_kind_of_letter_come_back() -> None:
    """Percent signs, quotes, spaces and other scripts, in ids, keys, sources and extensions."""
    topic = unique("made")
    texts = ["%", "%41", '"', "a b", "日本", "größe", "a%", "~!#$&'()*+,-./:;<=>?@[]^_`{|}"]
    async with NatsBroker(nats_url()) as broker:
        await broker.declare([Topic(name=topic, partitions=1)], [])
        sent = [replaced(e, id=f"{n}-{text}", key=text) for n, (e, text) in enumerate(zip(made(topic, 8), texts, strict=True))]
        sent += [replaced(e, id=f"x-{text}", extensions={"x": text}) for e, text in zip(made(topic, 8), texts, strict=True)]
        assert not any(await broker.publish(sent))
        came = await broker.read(Partition(topic, 0), 1, 100)

    assert [delivery.envelope for delivery in came] == sent
