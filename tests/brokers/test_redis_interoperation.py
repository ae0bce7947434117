"""Programs that are not ours: a plain redis-py program publishes and reads, and the server is asked how it is set up."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from tests.brokers.redis_server import redis_url
from tests.brokers.words import declared, made, published, taken, unique, until
from tools.services.redis import RedisServer

from millstream import App, Context, event
from millstream.brokers.redis import RedisBroker
from millstream.contracts.errors import BrokerError, ConfigurationError
from millstream.core.broker import Message, Topic
from millstream.testing.broker_ground import Member

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@event("order.created", key="customer")
@dataclass(frozen=True)
class OrderCreated:
    """As other programs publish it."""

    orderId: int  # noqa: N815 - their name
    status: str
    customer: str = "nobody"


@pytest.fixture
async def broker() -> AsyncGenerator[RedisBroker]:
    """Open."""
    async with RedisBroker(redis_url()) as broker:
        yield broker


@pytest.fixture
async def plain() -> AsyncGenerator[Any]:
    """A plain program's connection."""
    async with Redis.from_url(redis_url()) as client:
        yield client


async def test_bare_json_of_a_plain_program_is_a_typed_event(plain: Any, tmp_path: Path) -> None:
    """With and without a key, under ids by the clock and under ours; each has an id of its own."""
    name, topic = unique("bare"), unique("order.created")
    app = App(name)
    app.configure(broker=RedisBroker(redis_url()), store=f"sqlite:///{tmp_path}/store.db")
    seen: list[tuple[OrderCreated, str | None, str]] = []

    @app.subscriber(OrderCreated, group=name, topic=topic, wire="json", delivery="at_least_once")
    async def handle(order: OrderCreated, context: Context) -> None:
        seen.append((order, context.envelope.key, context.envelope.id))

    async with app:
        stop = asyncio.Event()
        running = asyncio.create_task(app.run(stop))
        body = b'{"orderId": 123, "status": "pending"}'
        await plain.xadd(f"{topic}:0", {"key": "customer-7", "data": body}, id="0-*")
        await plain.xadd(f"{topic}:1", {"data": body})
        await until(lambda: len(seen) == 2, lambda: asyncio.sleep(0.01), lambda: f"only {seen} came")
        stop.set()
        await running

    assert {order for order, _, _ in seen} == {OrderCreated(123, "pending")}
    assert {key for _, key, _ in seen} == {"customer-7", None}
    assert len({id_ for _, _, id_ in seen}) == 2


async def test_a_plain_program_reads_what_is_published(broker: RedisBroker, plain: Any) -> None:
    """The attributes are fields, and so is the body; a group of its own works beside ours."""
    topic, _ = await declared(broker, partitions=1)
    await plain.xgroup_create(f"{topic}:0", "theirs", "0")
    (sent,) = made(topic, 1, correlation="c-1")

    await published(broker, [sent])
    ((_, ((id_, fields),)),) = await plain.xreadgroup("theirs", "one", {f"{topic}:0": ">"}, count=10)

    assert id_ == b"0-1"
    assert fields[b"data"] == sent.data
    names = ("specversion", "id", "source", "type", "subject", "partitionkey", "correlationid", "time")
    values = ("1.0", sent.id, sent.source, sent.type, sent.key, sent.key, "c-1", "2026-01-01T00:00:00Z")
    assert {name: fields[f"ce_{name}".encode()].decode() for name in names} == dict(zip(names, values, strict=True))


async def test_cloudevents_of_other_programs_are_events(broker: RedisBroker, plain: Any) -> None:
    """In binary mode, in whatever order the fields are, and in structured mode."""
    topic, group = await declared(broker, partitions=1)
    attributes = {"ce_type": "t", "ce_source": "/s", "ce_id": "one", "ce_tenant": "7", "ce_specversion": "1.0", "content-type": "text/a"}
    structured = b'{"specversion":"1.0","type":"t","source":"/s","id":"whole","data":{"a":1}}'
    await plain.xadd(f"{topic}:0", {"data": b"hello", "key": "k", **attributes})
    await plain.xadd(f"{topic}:0", {"data": structured, "key": "k", "content-type": "application/cloudevents+json"})

    member = Member(await broker.open(group, "m"))
    one, whole = [d.envelope for d in await taken(member, 2)]
    await member.close()

    assert one is not None
    assert whole is not None
    assert (one.id, one.key, one.data, one.content_type, one.extensions) == ("one", "k", b"hello", "text/a", {"tenant": "7"})
    assert (whole.id, whole.key, whole.data) == ("whole", "k", b'{"a":1}')


async def test_an_entry_without_a_body_is_one_json_object_of_its_fields(broker: RedisBroker, plain: Any) -> None:
    """As those write who know Redis alone; bytes that are no text stay fields."""
    topic, group = await declared(broker, partitions=1)
    await plain.xadd(f"{topic}:0", {"orderId": "123", "status": "pending"})
    await plain.xadd(f"{topic}:0", {"raw": b"\xff"})

    member = Member(await broker.open(group, "m"))
    text, raw = [d.message for d in await taken(member, 2)]
    await member.close()

    assert text is not None
    assert raw is not None
    assert (text.body, text.headers) == (b'{"orderId":"123","status":"pending"}', ())
    assert (raw.body, raw.headers) == (b"", (("raw", b"\xff"),))


async def test_headers_named_like_our_fields_come_back(broker: RedisBroker) -> None:
    """Nothing of a message is lost, whatever its headers are called."""
    topic, group = await declared(broker, partitions=1)
    headers = (("data", b"d"), ("key", b"k"), ("t", b"5"), ("header.x", b"h"), ("same", b"1"), ("same", b"2"))
    assert list(await broker.publish_raw([Message(topic=topic, body=b"body", headers=headers)])) == [None]

    member = Member(await broker.open(group, "m"))
    (message,) = [d.message for d in await taken(member, 1)]
    await member.close()

    assert message is not None
    assert (message.body, message.key, message.headers) == (b"body", None, headers)


async def test_a_header_that_has_no_bytes_is_refused_and_nobody_else_is(broker: RedisBroker) -> None:
    """Half of a pair of surrogates is no text that could be sent."""
    topic, _ = await declared(broker, partitions=1)
    odd = Message(topic=topic, body=b"", headers=(("\ud800", b""),))

    (refused,), _ = await asyncio.gather(broker.publish_raw([odd]), published(broker, made(topic, 3)))

    assert "cannot be sent" in str(refused)
    await published(broker, made(topic, 3))


async def test_an_id_that_is_neither_ours_nor_the_clocks_stops_the_group(broker: RedisBroker, plain: Any) -> None:
    """It could not be told where it stands among the others."""
    topic, group = await declared(broker, partitions=1)
    await plain.xadd(f"{topic}:0", {"data": b"odd"}, id="5-1")

    member = Member(await broker.open(group, "m"))
    with pytest.raises(BrokerError, match="5-1"):
        await taken(member, 1)
    await member.close()

    # Who only looks is not in its way.
    ((_, first, head),) = await broker.bounds(topic)
    assert head == first + 1
    assert [state.waiting.value for state in await broker.positions(group)] == [1]


async def test_a_key_of_another_type_is_another_s(broker: RedisBroker, plain: Any) -> None:
    """A topic does not take what somebody else keeps there."""
    topic = unique("made")
    await plain.set(f"{topic}:3", "mine")

    with pytest.raises(ConfigurationError, match="is no stream"):
        await broker.declare([Topic(name=topic)], [])
    assert await plain.get(f"{topic}:3") == b"mine"


# How a server is set up


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """One that may be set up otherwise."""
    redis_url()
    server = RedisServer(tmp_path)
    try:
        yield server
    finally:
        server.stop(kill=True)


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ("appendfsync everysec\n", "before they are on its disk"),
        ("appendonly no\n", "appendonly no"),
        ("maxmemory-policy allkeys-lru\n", "removes keys when its memory is full"),
        ("rename-command CONFIG nothing\n", "does not tell whether"),
        ("replicaof 127.0.0.1 1\n", "is a replica"),
        ("cluster-enabled yes\n", "belongs to a cluster"),
    ],
)
async def test_a_server_that_could_lose_events_is_refused(server: RedisServer, extra: str, told: str) -> None:
    """At the start, with what to change."""
    server.start(extra)

    with pytest.raises(ConfigurationError, match=told):
        async with RedisBroker(f"redis://127.0.0.1:{server.port}"):
            pass


async def test_a_server_that_may_lose_events_by_name_is_not_called_durable(server: RedisServer) -> None:
    """It works, and says what it does not promise; losing what was handled already stops the group loudly."""
    server.start("appendfsync everysec\n")
    async with RedisBroker(f"redis://127.0.0.1:{server.port}?allow_loss=1") as broker:
        topic, group = await declared(broker, partitions=1)
        await published(broker, made(topic, 10))

        member = Member(await broker.open(group, "m"))
        assert len(await taken(member, 10)) == 10
        assert not broker.features.durable
        await member.close()


async def test_a_password_is_asked_for_and_never_told(server: RedisServer) -> None:
    """Right it lets in, wrong it is refused, and no message has it."""
    server.start("requirepass s3cret\n")
    where = f"127.0.0.1:{server.port}"

    async with RedisBroker(f"redis://:s3cret@{where}/2") as broker:
        topic, group = await declared(broker, partitions=1)
        await published(broker, made(topic, 1))
        member = Member(await broker.open(group, "m"))
        assert len(await taken(member, 1)) == 1
        await member.close()
        assert broker.name == f"redis://{where}/2"
    for url in (f"redis://{where}", f"redis://:wr0ng@{where}"):
        with pytest.raises(ConfigurationError, match=r"NOAUTH|WRONGPASS") as refused:
            async with RedisBroker(url):
                pass
        assert "wr0ng" not in str(refused.value)


async def test_a_server_that_is_full_refuses_and_keeps_what_it_has(server: RedisServer) -> None:
    """Events fail one and all while there is no room, and none of a page is stored."""
    server.start("maxmemory 8mb\n")
    async with RedisBroker(f"redis://127.0.0.1:{server.port}?timeout=5") as broker:
        topic, _ = await declared(broker, partitions=1)
        stored = 0
        while not any(results := await broker.publish(made(topic, 50, data=b"x" * 10_000))):
            stored += 50

        assert all("OOM" in str(result) for result in results)
        ((_, first, head),) = await broker.bounds(topic)
        assert (first, head) == (1, stored + 1)
