"""Confluent's frame: what its serializers put around a body of JSON."""

import struct
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.contracts.confluent import HEADER, KEY_HEADER, bare_key, frame_of, frame_trouble, from_framed, schema_uri, unframed
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import EnvelopeError

ids = st.integers(0, (1 << 32) - 1)
GUID = UUID("89791762-2336-4186-9674-299b90a802e2")


def event(**attributes: Any) -> Envelope:
    return Envelope(**{"id": "e-1", "source": "/shop", "type": "order.created", "time": 0, **attributes})


@given(ids)
def test_a_frame_is_a_zero_byte_and_the_id(id: int) -> None:
    """As their serializers pack it, and as they tell it from what is none."""
    assert frame_of(schema_uri(id)) == struct.pack(">bI", 0, id)


@pytest.mark.parametrize(
    "schema",
    [
        "", "7", "confluent:", "confluent:07", "confluent:-1", "confluent:+1", "confluent:4294967296", "confluent:1 ", "confluent:²",
        f"confluent:{'9' * 5000}", f"confluent:{GUID}", "http://registry:8081/schemas/ids/7",
    ],
)  # fmt: skip
def test_other_schemas_have_no_frame(schema: str) -> None:
    """Only what is read back as the same text: an event of somebody else keeps the schema that it names."""
    assert frame_of(schema) is None


@given(ids, st.binary(max_size=40))
def test_json_comes_out_of_its_frame_and_other_bytes_stay_behind_theirs(id: int, body: bytes) -> None:
    """Whatever JSON it is; what is none stays behind its first bytes, which are whoever's they are."""
    schema = schema_uri(id)

    framed, odd = (event(data=(frame_of(schema) or b"") + data) for data in (msgspec.json.encode(body), b"ot text at all " + body))

    assert unframed(framed) == event(data=msgspec.json.encode(body), schema=schema)
    assert unframed(odd) is odd


@pytest.mark.parametrize(
    "envelope",
    [
        event(data=b'{"a":1}'),
        event(data=b""),
        event(data=b"\x00\x00\x00\x01"),
        event(data=b"\x01\x00\x00\x00\x01{}"),
        event(data=b"\x00\x00\x00\x00\x01{}", content_type="application/octet-stream"),
        event(data=b"\x00\x00\x00\x00\x01{}", schema="/schemas/order"),
    ],
)
def test_what_is_not_framed_stays_as_it_is(envelope: Envelope) -> None:
    """Bytes that are not said to be JSON may begin with anything."""
    assert unframed(envelope) is envelope


@given(ids)
def test_a_message_is_read_with_its_frame_before_the_body_or_in_a_header(id: int) -> None:
    """The id or the GUID of the schema is kept; the header counts where there is one, as it does for their deserializers."""
    told = struct.pack(">bI", 0, id)

    assert from_framed([], told + b'{"a":1}') == (f"confluent:{id}", b'{"a":1}')
    assert from_framed([(HEADER, told)], b'{"a":1}') == (f"confluent:{id}", b'{"a":1}')
    assert from_framed([("x", b""), (HEADER, b"\x01" + GUID.bytes)], b"{}") == (f"confluent:{GUID}", b"{}")
    assert from_framed([], b"\x01" + GUID.bytes + b"{}") == (f"confluent:{GUID}", b"{}")


@given(st.lists(st.tuples(st.sampled_from([HEADER, "other"]), st.binary(max_size=20)), max_size=2), st.binary(max_size=30))
def test_any_bytes_are_read_or_refused_with_a_reason(headers: list[tuple[str, bytes]], body: bytes) -> None:
    """Whatever lies in a topic, nothing but an EnvelopeError comes of it."""
    try:
        schema, data = from_framed(headers, body)
    except EnvelopeError:
        return
    assert schema.startswith("confluent:")
    assert body.endswith(data)


AVRO = b"\x00\x00\x00\x00\x07" + b"\x06o-1\x02"
PROTOBUF = b"\x00\x00\x00\x00\x07" + b"\x00\x0a\x03o-1"


@pytest.mark.parametrize("body", [AVRO, PROTOBUF], ids=["avro", "protobuf"])
def test_a_body_of_avro_or_protobuf_is_named(body: bytes) -> None:
    """Whoever finds the dead letter learns what its publisher has to change; as a CloudEvent, too."""
    says = r"no JSON \(.*\): the schema 7 may be one of Avro or Protobuf"

    with pytest.raises(EnvelopeError, match=says):
        from_framed([], body)
    trouble = frame_trouble(unframed(event(data=body)))
    assert trouble is not None
    assert "the schema 7 may be one of Avro or Protobuf" in trouble


def test_a_body_without_a_frame_is_told_how_to_be_read() -> None:
    """Bare JSON has a wire of its own."""
    with pytest.raises(EnvelopeError, match=r"the body does not begin as a Confluent serializer writes it.*wire='json'"):
        from_framed([], b"{}")
    with pytest.raises(EnvelopeError, match="the header __value_schema_id does not begin"):
        from_framed([(HEADER, b"\x01short")], b"{}")


@pytest.mark.parametrize("envelope", [event(data=b"\x00"), event(data=b"{}", schema="confluent:7"), event(data=b"\x00", schema="/s")])
def test_nothing_is_said_of_other_bodies(envelope: Envelope) -> None:
    """What is wrong with those is said by whoever decodes them."""
    assert frame_trouble(envelope) is None


@pytest.mark.parametrize(
    ("headers", "key", "read"),
    [
        ([], b"o-1", b"o-1"),
        ([], b'\x00\x00\x00\x00\x07"o-1"', b"o-1"),
        ([], b"\x00\x00\x00\x00\x0712", b"12"),
        ([], b'\x00\x00\x00\x00\x07"\\ud800"', b'"\\ud800"'),
        ([], b"\x00\x01", b"\x00\x01"),
        ([(KEY_HEADER, b"\x00\x00\x00\x00\x07")], b'"o-1"', b"o-1"),
    ],
)
def test_a_key_comes_out_of_its_frame(headers: list[tuple[str, bytes]], key: bytes, read: bytes) -> None:
    """A serializer for keys frames them like values; a key that is text stays what it is."""
    assert bare_key(headers, key) == read
