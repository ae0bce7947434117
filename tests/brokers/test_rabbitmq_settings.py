"""What a URL of RabbitMQ says, what a queue is asked for, and bytes of AMQP, without a server."""

from typing import Any

import pytest

from millstream.brokers import rabbitmq_amqp as amqp
from millstream.brokers.rabbitmq import _group_arguments
from millstream.brokers.rabbitmq_amqp import Delivered
from millstream.brokers.rabbitmq_connection import Connection, refusal
from millstream.brokers.rabbitmq_settings import settings_of
from millstream.brokers.rabbitmq_wire import RabbitReader, event_content
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import ConfigurationError
from millstream.core.broker import Partition

HERE = Partition("t", 0)


def test_a_url_says_where_who_and_what() -> None:
    """Servers, virtual host, user and options; the name has no secrets."""
    settings = settings_of("rabbitmq://al:p%40ss@one,two:5673/my%2Fshop?timeout=2&prefetch=5&heartbeat=3", {})

    assert settings.servers == (("one", 5672), ("two", 5673))
    assert (settings.vhost, settings.user, settings.password) == ("my/shop", "al", "p@ss")
    assert (settings.timeout, settings.prefetch, settings.heartbeat) == (2.0, 5, 3)
    assert settings.name == "rabbitmq://one,two:5673/my%2Fshop"
    assert "p@ss" not in repr(settings)


def test_what_is_not_said_comes_from_the_environment_or_is_usual() -> None:
    """RabbitMQ's own user and virtual host are the last resort."""
    bare = settings_of("amqp://host", {})
    known = settings_of("amqps://host/", {"MILLSTREAM_RABBITMQ_USER": "u", "MILLSTREAM_RABBITMQ_PASSWORD": "p"})

    assert (bare.servers, bare.vhost, bare.user, bare.password, bare.tls) == ((("host", 5672),), "/", "guest", "guest", None)
    assert (known.servers, known.vhost, known.user, known.password) == ((("host", 5671),), "/", "u", "p")
    assert known.tls is not None


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("rabbitmq://", "names no server"),
        ("rabbitmq://host:port", "Write HOST:PORT"),
        ("rabbitmq://host?prefetched=1", "Did you mean prefetch"),
        ("rabbitmq://host?timeout=soon", "is no number"),
        ("rabbitmq://host?prefetch=0", "is no number"),
        ("rabbitmq://host?streams=yes", "neither 0 nor 1"),
        ("rabbitmq://host?ca=x.pem", "rabbitmqs://"),
        ("rabbitmqs://host?ca=/nowhere/x.pem", "cannot be read"),
    ],
)
def test_a_url_that_cannot_be_kept_is_refused(url: str, told: str) -> None:
    """With what to write instead."""
    with pytest.raises(ConfigurationError, match=told):
        settings_of(url, {})


@pytest.mark.parametrize(
    ("version", "limit"),
    [(b"3.10.8", {}), (b"3.13.7", {}), (b"4.0.0-rc.2", {"x-delivery-limit": -1}), (b"4.3.1", {"x-delivery-limit": -1})],
)
async def test_a_queue_drops_nothing_that_is_delivered_often(version: bytes, limit: dict[str, Any]) -> None:
    """From 4.0 on twenty deliveries are the limit unless a queue says otherwise; older servers have none, and refuse to be told."""
    connection = Connection(settings_of("rabbitmq://host", {}))
    connection.server = {"version": version}

    assert _group_arguments(connection) == {"x-queue-type": "quorum", "x-single-active-consumer": True, **limit}


@pytest.mark.parametrize(
    ("code", "text", "told"),
    [
        (403, "ACCESS_REFUSED - no", "Check user, password, virtual host"),
        (404, "NOT_FOUND - no queue 'q'", "next start of the service that needs it declares it anew"),
        (405, "RESOURCE_LOCKED - cannot obtain exclusive access", "once that one has ended"),
        (406, "PRECONDITION_FAILED - inequivalent arg 'x-queue-type'", "choose another name"),
        (406, "PRECONDITION_FAILED - delivery acknowledgement on channel 2 timed out", "consumer_timeout"),
        (541, "INTERNAL_ERROR", "server's log"),
    ],
)
def test_what_the_server_refuses_is_told_with_what_to_do(code: int, text: str, told: str) -> None:
    """Its own words alone say only what happened."""
    error = str(refusal(code, text, "rabbitmq://host"))

    assert error.startswith(f"rabbitmq://host refuses: {text} ({code}). ")
    assert told in error


@pytest.mark.parametrize("size", [0, 1, 4088, 4089, 20_000])
def test_a_body_is_split_into_frames_and_nothing_is_lost(size: int) -> None:
    """No frame is larger than the server takes, and together they are the body."""
    body = bytes(number % 251 for number in range(size))
    frames = amqp.content(7, b"text/plain", b"", body, frame_max=4096)

    kinds: list[int] = []
    found = b""
    while frames:
        kind, channel, length = amqp.FRAME.unpack_from(frames)
        assert (channel, frames[7 + length]) == (7, 0xCE)
        assert length + amqp.AROUND <= 4096
        kinds.append(kind)
        if kind == amqp.HEADER:
            assert amqp.body_size(frames[7 : 7 + length]) == size
        else:
            found += frames[7 : 7 + length]
        frames = frames[8 + length :]

    assert kinds == [amqp.HEADER, *[amqp.BODY] * -(-size // 4088)]
    assert found == body


def test_a_table_of_every_type_is_read() -> None:
    """As other programs, and the server itself, write them."""
    fields = {"text": b"abc", "yes": True, "no": False, "number": -5, "deep": {"inner": b"x"}}
    table = amqp.table(fields)
    odd = b"\x01vV" + b"\x01dD\x02\x00\x00\x01\x00" + b"\x01TT" + (9).to_bytes(8, "big") + b"\x01AA\x00\x00\x00\x02t\x01"

    assert dict(amqp.read_table(table[4:])) == fields
    assert dict(amqp.read_table(odd))["A"] == [True]
    assert dict(amqp.read_table(odd))["T"] == 9
    with pytest.raises(ValueError, match="unknown kind"):
        amqp.read_table(b"\x01x\x07")


def test_an_event_is_read_as_it_was_written() -> None:
    """With and without the attributes that only some have."""
    reader = RabbitReader("/")
    usual = Envelope(id="1", source="/s", type="t", key="k", time=1_767_225_600_000_001, data=b"{}", topic="t")
    odd = Envelope(
        id="2", source="/s", type="t", time=0, data=b"x", content_type="text/plain", version=3, correlation="c",
        extensions={"a": "ö"}, topic="t",
    )  # fmt: skip
    for event in (usual, usual, odd, usual):
        content_type, headers, body = event_content(event)
        frames = amqp.content(1, content_type, headers, body, frame_max=131_072)
        header = frames[7 : 7 + amqp.FRAME.unpack_from(frames)[2]]
        delivery = reader.delivery(HERE, 5, Delivered(1, False, b"t", b"partition.0"), header, body)

        assert (delivery.envelope, delivery.position, delivery.redelivered) == (event, 5, 0)
