"""Messages without an envelope: bare JSON, and JSON in Confluent's frame."""

import struct
from dataclasses import dataclass

import pytest

from millstream import App, Context, event
from millstream.contracts.codec import to_binary
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import ConfigurationError
from millstream.contracts.message import Wire
from millstream.core.broker import Message
from millstream.testing import TestApp


@event("wires.order", key="order_id", version=2, topic="orders", wire="confluent")
@dataclass(frozen=True)
class Order:
    """One of another system."""

    order_id: str
    status: str = "new"


@event("wires.other")
@dataclass(frozen=True)
class Other:
    """A second type."""

    name: str


FRAME = struct.pack(">bI", 0, 7)
BODY = b'{"order_id":"o-1","status":"paid"}'


def shop(wire: Wire | None = None, **options: str) -> tuple[App, list[tuple[Order, Envelope]]]:
    """An app that takes orders, and those that it took."""
    app, seen = App("shop"), list[tuple[Order, Envelope]]()

    @app.subscriber(Order, wire=wire, delivery="at_least_once", **options)  # type: ignore[arg-type]
    async def take(order: Order, context: Context) -> None:
        seen.append((order, context.envelope))

    return app, seen


@pytest.mark.parametrize(
    ("message", "schema"),
    [
        (Message(topic="orders", body=FRAME + BODY, key=b"o-1", time=5), "confluent:7"),
        (Message(topic="orders", body=FRAME + BODY, key=FRAME + b'"o-1"', time=5), "confluent:7"),
        (
            Message(topic="orders", body=BODY, key=b"o-1", time=5, headers=(("__value_schema_id", b"\x01" + bytes(range(16))),)),
            "confluent:00010203-0405-0607-0809-0a0b0c0d0e0f",
        ),
    ],
    ids=["before the body", "and before the key", "in a header"],
)
async def test_what_a_confluent_serializer_writes_is_a_typed_event(message: Message, schema: str) -> None:
    """What it does not say comes from where it comes for bare JSON: the type from the contract, the key from the message's."""
    app, seen = shop(id="order_id")
    async with TestApp(app) as test:
        await app.broker.publish_raw([message])
        await test.run_until_idle()

    ((order, envelope),) = seen
    assert order == Order("o-1", "paid")
    assert (envelope.id, envelope.key, envelope.type, envelope.version, envelope.time) == ("o-1", "o-1", "wires.order", 2, 5)
    assert (envelope.data, envelope.schema) == (BODY, schema)


@pytest.mark.parametrize("wire", ["confluent", "json", "cloudevents"])
async def test_a_message_that_says_that_it_is_a_cloudevent_is_one(wire: Wire) -> None:
    """Its headers say more than a contract could, whatever `wire` is for those that have none; and its body may be framed."""
    app, seen = shop(wire)
    told = Envelope(id="e-9", source="/elsewhere", type="wires.order", key="o-2", time=9, data=BODY, version=3)
    headers, _ = to_binary(told)
    async with TestApp(app) as test:
        await app.broker.publish_raw([Message(topic="orders", body=FRAME + BODY, headers=tuple(headers))])
        await test.run_until_idle()

    ((order, envelope),) = seen
    assert order == Order("o-1", "paid")
    assert (envelope.id, envelope.source, envelope.version, envelope.schema) == ("e-9", "/elsewhere", 3, "confluent:7")


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (Message(topic="orders", body=FRAME + b"\x06o-1\x02"), "may be one of Avro or Protobuf"),
        (Message(topic="orders", body=BODY), "for JSON that is bare subscribe with wire='json'"),
        (Message(topic="orders", body=b""), "does not begin as a Confluent serializer writes it"),
        (Message(topic="orders", body=FRAME + b"[]"), "wires.order version 2"),
        (Message(topic="orders", body=FRAME + BODY, key=FRAME + b'""'), "'partitionkey' is empty"),
    ],
    ids=["avro", "bare", "empty", "another schema", "an empty key"],
)
async def test_what_cannot_be_read_is_a_dead_letter_that_says_why(message: Message, says: str) -> None:
    """And the next message is handled."""
    app, seen = shop()
    async with TestApp(app) as test:
        await app.broker.publish_raw([message, Message(topic="orders", body=FRAME + BODY)])
        await test.run_until_idle()
        (letter,) = test.dead_letters

    assert says in letter.reason
    assert [order for order, _ in seen] == [Order("o-1", "paid")]


async def test_avro_among_cloudevents_is_named_too() -> None:
    """A serializer for Avro may stand behind headers of CloudEvents as well."""
    app, seen = shop()
    told = Envelope(id="e-9", source="/elsewhere", type="wires.order", time=9)
    headers, _ = to_binary(told)
    async with TestApp(app) as test:
        await app.broker.publish_raw([Message(topic="orders", body=FRAME + b"\x06o-1\x02", headers=tuple(headers))])
        await test.run_until_idle()
        (letter,) = test.dead_letters

    assert seen == []
    assert "cannot be decoded: the body in Confluent's frame is no JSON" in letter.reason


@pytest.mark.parametrize("wire", ["json", "confluent"])
def test_a_wire_without_a_type_is_for_one_type(wire: Wire) -> None:
    """Nothing in the message would tell them apart; and a field of the body names the id of no other wire."""
    several, named = App("shop"), App("shop")

    @several.subscriber(Order, Other, wire=wire)
    async def either(message: Order | Other) -> None: ...

    @named.subscriber(Other, id="name")
    async def one(message: Other) -> None: ...

    with pytest.raises(ConfigurationError, match=f"wire='{wire}' carries no type"):
        several.handlers()
    with pytest.raises(ConfigurationError, match="id='name' names a field of a body without an envelope"):
        named.handlers()
