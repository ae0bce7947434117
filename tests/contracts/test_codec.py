"""CloudEvents 1.0 on the wire."""

import base64
import json
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.contracts.codec import BinaryReader, from_binary, from_plain, from_structured, to_binary, to_structured
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import EnvelopeError
from millstream.contracts.message import contract_of, event, is_safe

FULL = Envelope(
    id="018bcfe5-687b-7000-8203-040506070809",
    source="/shop",
    type="order.created",
    key="o-1",
    time=1_700_000_000_123_456,
    data=b'{"order_id":"o-1"}',
    schema="/schemas/order.created/2",
    version=2,
    correlation="c-1",
    causation="e-0",
    attempt="shop.take/3",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    tracestate="a=b",
    extensions={"tenant": "north"},
)
REQUIRED = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.created"}


def structured(**changes: Any) -> bytes:
    members = {**REQUIRED, **changes}
    return json.dumps({name: value for name, value in members.items() if value is not ...}).encode()


def binary(**changes: Any) -> list[tuple[str, bytes | None]]:
    members = {**REQUIRED, **changes}
    return [(f"ce_{name}", value.encode()) for name, value in members.items() if value is not ...]


def read_structured(**changes: Any) -> Envelope:
    return from_structured(structured(**changes))


def read_binary(**changes: Any) -> Envelope:
    return from_binary(binary(**changes), b"{}")


both_forms = pytest.mark.parametrize("read", [read_structured, read_binary])

texts = st.text(min_size=1, max_size=12).filter(is_safe)
maybe = st.none() | texts
OWN = {
    "specversion", "id", "source", "type", "subject", "partitionkey", "time", "datacontenttype", "dataschema", "data",
    "contractversion", "correlationid", "causationid", "causationattempt", "traceparent", "tracestate",
}  # fmt: skip
extension_names = st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True).filter(lambda name: name not in OWN)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
json_bodies = st.builds(
    lambda value, indent, ascii: json.dumps(value, indent=indent, ensure_ascii=ascii).encode("utf-8", "replace"),
    json_values,
    st.none() | st.integers(0, 3),
    st.booleans(),
)
envelopes = st.builds(
    Envelope,
    id=texts,
    source=st.sampled_from(["/shop", "https://example.com/a?b=c#d", "urn:uuid:1", "/é"]),
    type=texts,
    key=maybe,
    time=st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999),
    data=st.binary() | json_bodies,
    content_type=st.sampled_from(
        ["application/json", "application/json; charset=utf-8", "text/xml", "application/x+json", "application/avro"]
    ),
    schema=maybe,
    version=st.integers(0, 999_999_999),
    correlation=maybe,
    causation=maybe,
    attempt=maybe,
    traceparent=maybe,
    tracestate=maybe,
    extensions=st.none() | st.dictionaries(extension_names, texts, min_size=1, max_size=3),
)


@given(envelopes)
def test_every_envelope_survives_the_structured_form(envelope: Envelope) -> None:
    """What is written is read back equal, whatever bytes the body has."""
    assert from_structured(to_structured(envelope)) == envelope


@given(envelopes, st.booleans())
def test_every_envelope_survives_the_binary_form(envelope: Envelope, partitionkey: bool) -> None:
    """What is written is read back equal, and the body is not touched; also where the key has another place."""
    headers, body = to_binary(envelope, partitionkey=partitionkey)
    assert body is envelope.data
    assert from_binary(headers, body) == envelope


@given(st.lists(envelopes, max_size=3), st.text(max_size=3), st.binary(max_size=3), st.booleans(), st.sampled_from((1, 2)))
def test_a_run_of_events_is_read_as_each_of_them_alone(
    run: list[Envelope], id_: str, odd: bytes, partitionkey: bool, version: int
) -> None:
    """What an event has in common with the one before changes nothing, also where they differ a little, or are wrong."""
    reader = BinaryReader()
    usual = Envelope(id="1", source="/shop", type="made", key="k", time=1_700_000_000_000_001, version=version)
    changes = ({"id": "2"}, {"key": "l"}, {"time": 5}, {"time": usual.time + 1}, {"source": "/other"})
    others = [msgspec.structs.replace(usual, **change) for change in changes]
    headers = [to_binary(e, partitionkey=partitionkey)[0] for e in (usual, *others, usual, *run)]
    odd_time = [*headers[0][:-1], ("ce_time", headers[0][-1][1][:20] + odd + b"Z")]
    odd_id = [(name, id_.encode("utf-8", "replace") if name == "ce_id" else value) for name, value in headers[0]]
    broken = [(name, odd if name in ("ce_id", "ce_time", "ce_subject") else value) for name, value in headers[0]]

    for given_ in (*headers, broken, headers[0], odd_time, odd_id):
        try:
            expected: object = from_binary(given_, b"{}", "made")
        except EnvelopeError as error:
            expected = str(error)
        try:
            read: object = reader.read(given_, b"{}", "made")
        except EnvelopeError as error:
            read = str(error)

        assert read == expected


@given(envelopes)
def test_the_structured_form_is_json_any_reader_understands(envelope: Envelope) -> None:
    """A plain JSON parser finds the attributes by their CloudEvents names."""
    document = json.loads(to_structured(envelope))
    assert document["specversion"] == "1.0"
    assert document["id"] == envelope.id
    assert not {"data", "data_base64"} <= document.keys()


@given(st.binary())
def test_bytes_that_are_no_event_are_an_envelope_error(document: bytes) -> None:
    """Whatever arrives, a worker has one error to catch."""
    with pytest.raises(EnvelopeError):
        from_structured(document)


@given(json_values)
def test_json_that_is_no_event_is_an_envelope_error(value: object) -> None:
    """Also where the JSON itself is fine."""
    with pytest.raises(EnvelopeError):
        from_structured(json.dumps(value).encode())


def test_the_structured_form_has_every_attribute_under_its_cloudevents_name() -> None:
    """Other systems find subject, partitionkey and the tracing attributes where they look."""
    assert json.loads(to_structured(FULL)) == {
        **{"specversion": "1.0", "id": FULL.id, "source": "/shop", "type": "order.created"},
        **{"subject": "o-1", "partitionkey": "o-1", "time": "2023-11-14T22:13:20.123456Z"},
        **{"datacontenttype": "application/json", "dataschema": "/schemas/order.created/2", "contractversion": 2},
        **{"correlationid": "c-1", "causationid": "e-0", "causationattempt": "shop.take/3"},
        **{"traceparent": FULL.traceparent, "tracestate": "a=b", "tenant": "north", "data": {"order_id": "o-1"}},
    }


def test_the_binary_form_has_every_attribute_as_a_header() -> None:
    """Header names carry the ce_ prefix, except the content type."""
    headers, body = to_binary(FULL)
    assert body == FULL.data
    assert dict(headers) == {
        "ce_specversion": b"1.0",
        "ce_id": FULL.id.encode(),
        "ce_source": b"/shop",
        "ce_type": b"order.created",
        "ce_subject": b"o-1",
        "ce_partitionkey": b"o-1",
        "ce_time": b"2023-11-14T22:13:20.123456Z",
        "content-type": b"application/json",
        "ce_dataschema": b"/schemas/order.created/2",
        "ce_contractversion": b"2",
        "ce_correlationid": b"c-1",
        "ce_causationid": b"e-0",
        "ce_causationattempt": b"shop.take/3",
        "ce_traceparent": str(FULL.traceparent).encode(),
        "ce_tracestate": b"a=b",
        "ce_tenant": b"north",
    }
    assert len(headers) == len(dict(headers))


def test_a_structured_event_is_no_model_for_the_next() -> None:
    """Read as a binary one, the next would have the whole document for its body."""
    reader = BinaryReader()
    keyed = Envelope(id="0", source="/shop", type="made", key="k", time=1)
    first, second = (Envelope(id=id_, source="/shop", type="made", time=1, data=b'{"a":1}') for id_ in ("1", "2"))
    headers = [(name, b"application/cloudevents+json" if name == "content-type" else value) for name, value in to_binary(keyed)[0]]

    assert [reader.read(headers, to_structured(e), "") for e in (first, second)] == [first, second]


def test_a_partition_key_without_a_value_is_named() -> None:
    """A header that is there and empty is a mistake, also where there is no subject."""
    bare = Envelope(id="1", source="/shop", type="made", time=1)
    for read in (lambda headers: from_binary(headers, b""), lambda headers: BinaryReader().read(headers, b"", "")):
        with pytest.raises(EnvelopeError, match="partitionkey"):
            read([*to_binary(bare)[0], ("ce_partitionkey", None)])


def test_nothing_is_said_of_a_first_version() -> None:
    """It is what every reader takes a missing one for, and most events have it."""
    first = msgspec.structs.replace(FULL, version=1)
    assert "contractversion" not in json.loads(to_structured(first))
    assert "ce_contractversion" not in dict(to_binary(first)[0])
    assert from_structured(to_structured(first)) == first


def test_the_partition_key_is_left_out_only_where_the_subject_says_the_same() -> None:
    """A transport with a place for keys says it once, and a key beside another subject is not lost there."""
    without = dict(to_binary(FULL, partitionkey=False)[0])
    assert {**without, "ce_partitionkey": b"o-1"} == dict(to_binary(FULL)[0])
    other = msgspec.structs.replace(FULL, extensions={"subject": "s"})
    headers, body = to_binary(other, partitionkey=False)
    assert (dict(headers)["ce_subject"], dict(headers)["ce_partitionkey"]) == (b"s", b"o-1")
    assert from_binary(headers, body) == msgspec.structs.replace(other, topic="")


def test_the_topic_never_travels() -> None:
    """Where an event is published is the broker's knowledge and not part of the event."""
    envelope = Envelope(id="1", source="/shop", type="t", time=1, topic="secret")
    assert b"secret" not in to_structured(envelope)
    assert b"secret" not in b"".join(value for _, value in to_binary(envelope)[0])


@both_forms
def test_the_four_required_attributes_are_enough(read: Any) -> None:
    """A minimal event of another system is understood, and nothing about it is invented."""
    envelope = read()
    assert (envelope.id, envelope.source, envelope.type) == ("1", "/shop", "order.created")
    assert (envelope.key, envelope.time, envelope.version, envelope.extensions) == (None, 0, 1, None)


@both_forms
@pytest.mark.parametrize("name", ["id", "source", "type", "specversion"])
def test_a_missing_required_attribute_is_named(read: Any, name: str) -> None:
    """A missing id is an error and never invented."""
    with pytest.raises(EnvelopeError, match=f"{name}.* missing"):
        read(**{name: ...})


@both_forms
@pytest.mark.parametrize(
    "name",
    ["id", "source", "type", "specversion", "subject", "partitionkey", "dataschema", "time", "correlationid", "x"],
)
def test_an_empty_attribute_is_named(read: Any, name: str) -> None:
    """CloudEvents strings have at least one character, optional ones too."""
    with pytest.raises(EnvelopeError, match=name):
        read(**{name: ""})


@pytest.mark.parametrize("name", ["id", "source", "type", "specversion"])
def test_null_is_a_missing_attribute(name: str) -> None:
    """JSON null means unset, so it cannot stand for what is required."""
    with pytest.raises(EnvelopeError, match=f"{name}.* missing"):
        read_structured(**{name: None})


def test_null_is_an_unset_optional_attribute() -> None:
    """Some writers spell out what they leave unset."""
    envelope = read_structured(subject=None, time=None, tenant=None, contractversion=None, datacontenttype=None)
    assert envelope == read_structured()


@pytest.mark.parametrize("name", ["id", "source", "type", "specversion", "subject", "time", "traceparent"])
@pytest.mark.parametrize("value", [1, 1.0, True, [], {}])
def test_an_attribute_that_must_be_a_string_is_a_string(name: str, value: object) -> None:
    """A number is not turned into an id."""
    with pytest.raises(EnvelopeError, match=name):
        read_structured(**{name: value})


@both_forms
@pytest.mark.parametrize("version", ["0.3", "1", "1.0.2", "2.0", " 1.0", "1.0 "])
def test_another_specversion_is_refused(read: Any, version: str) -> None:
    """Only what was written as CloudEvents 1.0 is read as such."""
    with pytest.raises(EnvelopeError, match="specversion"):
        read(specversion=version)


@both_forms
@pytest.mark.parametrize("name", ["Tenant", "tenant_id", "tenant-id", "tenant.id", "é", "a b", "", "ID", "٣"])
def test_an_extension_with_another_name_than_lower_case_letters_and_digits_is_refused(read: Any, name: str) -> None:
    """What one protocol binding could not carry is carried by none."""
    with pytest.raises(EnvelopeError, match="cannot name an attribute"):
        read(**{name: "x"})


@pytest.mark.parametrize("name", ["Tenant", "tenant_id", "", "id", "data", "correlationid", "specversion"])
@pytest.mark.parametrize("write", [to_structured, to_binary])
def test_a_bad_extension_is_refused_when_it_is_written(write: Any, name: str) -> None:
    """No extension can break the rules or overwrite an attribute."""
    with pytest.raises(EnvelopeError):
        write(Envelope(id="1", source="/s", type="t", time=1, extensions={name: "x"}))


@both_forms
@pytest.mark.parametrize("name", ["a", "0", "tenant", "sequence", "averylongextensionnameofmorethantwentycharacters"])
def test_an_extension_is_kept(read: Any, name: str) -> None:
    """Attributes Millstream does not know pass through it."""
    assert read(**{name: "x"}).extensions == {name: "x"}


@pytest.mark.parametrize(
    ("value", "text"), [(True, "true"), (False, "false"), (7, "7"), (-1, "-1"), (2**70, str(2**70))]
)
def test_an_extension_of_another_type_is_kept_as_its_canonical_text(value: object, text: str) -> None:
    """The structured form may carry booleans and integers."""
    assert read_structured(tenant=value).extensions == {"tenant": text}


@pytest.mark.parametrize("value", [1.5, [], {}, ["x"]])
def test_an_extension_without_a_cloudevents_type_is_refused(value: object) -> None:
    """Attributes are flat."""
    with pytest.raises(EnvelopeError, match="tenant"):
        read_structured(tenant=value)


@both_forms
@pytest.mark.parametrize("value", ["a\x00b", "a\nb", "\x7f", "\x85", "\uffff"])
def test_control_characters_are_refused(read: Any, value: str) -> None:
    """No attribute can break a header, a log line or a terminal."""
    with pytest.raises(EnvelopeError, match="id"):
        read(id=value)


@pytest.mark.parametrize("write", [to_structured, to_binary])
@pytest.mark.parametrize(
    "changes",
    [
        {"id": ""},
        {"source": ""},
        {"type": ""},
        {"key": ""},
        {"id": "\ud800"},
        {"source": "a b"},
        {"content_type": ""},
        {"content_type": "application/cloudevents+json"},
        {"version": -1},
        {"version": 10**9},
        {"time": 10**18},
        {"extensions": {"a": ""}},
        {"extensions": {"subject": "x"}},
    ],
    ids=repr,
)
def test_what_could_not_be_read_back_is_not_written(write: Any, changes: dict[str, Any]) -> None:
    """A publisher hears of a bad envelope, not the consumers."""
    fields: dict[str, Any] = {"id": "1", "source": "/s", "type": "t", "time": 1, **changes}
    with pytest.raises(EnvelopeError):
        write(Envelope(**fields))


@both_forms
@pytest.mark.parametrize("source", ["a b", "<x>", "a\\b", "{}"])
def test_a_source_that_is_no_uri_reference_is_refused(read: Any, source: str) -> None:
    """A source identifies together with the id, so it must be well formed."""
    with pytest.raises(EnvelopeError, match="source"):
        read(source=source)


@both_forms
@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("1970-01-01T00:00:00.000001Z", 1),
        ("2023-11-14T22:13:20Z", 1_700_000_000_000_000),
        ("2023-11-14T23:13:20+01:00", 1_700_000_000_000_000),
        ("2023-11-14T22:13:20.5Z", 1_700_000_000_500_000),
        ("1969-12-31T23:59:59.999999Z", -1),
    ],
)
def test_a_time_is_read_to_the_microsecond(read: Any, text: str, micros: int) -> None:
    """Whatever the offset, the moment is exact."""
    assert read(time=text).time == micros


@both_forms
@pytest.mark.parametrize(
    "text", ["yesterday", "2023-11-14", "1700000000", "2023-11-14T22:13:20", "2023-13-01T00:00:00Z"]
)
def test_a_time_that_names_no_moment_is_refused(read: Any, text: str) -> None:
    """Times follow RFC 3339 and have a zone."""
    with pytest.raises(EnvelopeError, match="time"):
        read(time=text)


@both_forms
def test_a_subject_is_the_key_where_there_is_no_partitionkey(read: Any) -> None:
    """Events of other systems keep their order by subject."""
    assert read(subject="o-1").key == "o-1"
    assert read(partitionkey="o-1").key == "o-1"


@both_forms
def test_a_subject_beside_another_partitionkey_is_not_lost(read: Any) -> None:
    """The partition key orders, and a bridge passes the subject on."""
    envelope = read(subject="s", partitionkey="k")
    assert envelope.key == "k"
    assert json.loads(to_structured(envelope))["subject"] == "s"
    assert from_structured(to_structured(envelope)) == envelope


@both_forms
@pytest.mark.parametrize("version", ["x", "-1", "1.0", "1" * 10, "²"])
def test_a_contract_version_that_is_no_number_is_refused(read: Any, version: str) -> None:
    """Which contract to read a body with is never guessed."""
    with pytest.raises(EnvelopeError, match="contractversion"):
        read(contractversion=version)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1 ,\t"b":[ ]}',
        b'{"n":9007199254740993}',
        b'{"n":1e400,"m":1.10}',
        b'{"a":1,"a":2}',
        b'"\\u00e9"',
        '"é"'.encode(),
        b"null",
        b"0",
    ],
)
def test_a_json_body_keeps_every_byte(data: bytes) -> None:
    """Spacing, digits and escapes arrive as they were written, readable inside the document."""
    document = to_structured(Envelope(id="1", source="/s", type="t", time=1, data=data))
    assert b'"data":' + data in document
    assert from_structured(document).data == data


@pytest.mark.parametrize(
    "data", [b"{", b" {}", b"{}\n", b"\xff", b'"\xff"', b"[" * 100_000 + b"]" * 100_000, b"a", b"{}{}"]
)
def test_a_body_that_is_not_the_json_it_claims_to_be_arrives_intact(data: bytes) -> None:
    """Even a broken body reaches the dead letters byte for byte."""
    document = to_structured(Envelope(id="1", source="/s", type="t", time=1, data=data))
    assert json.loads(document)["data_base64"] == base64.b64encode(data).decode()
    assert from_structured(document).data == data


def test_white_space_around_foreign_data_does_not_belong_to_it() -> None:
    """The body is the JSON value."""
    document = structured()[:-1] + b', "data" :  {"a" : 1}  }'
    assert from_structured(document).data == b'{"a" : 1}'


def test_text_of_another_type_is_read_from_a_json_string() -> None:
    """XML in a structured event becomes XML again."""
    envelope = read_structured(datacontenttype="text/xml", data="<é/>")
    assert envelope.data == "<é/>".encode()
    assert envelope.content_type == "text/xml"


def test_data_cannot_come_twice() -> None:
    """Which of two bodies is meant is not guessed."""
    with pytest.raises(EnvelopeError, match="data_base64"):
        read_structured(data={}, data_base64="e30=")


@pytest.mark.parametrize("encoded", ["e30", "e3 0=", "!!!!", 1, None, "é"])
def test_broken_base64_is_refused(encoded: object) -> None:
    """A body is never silently shortened."""
    with pytest.raises(EnvelopeError, match="data_base64"):
        read_structured(data_base64=encoded)


def test_an_event_without_data_has_an_empty_body() -> None:
    """Data is optional in CloudEvents."""
    assert read_structured().data == b""
    assert from_binary(binary(), None).data == b""


def test_headers_of_the_transport_are_ignored() -> None:
    """Only what has the prefix belongs to the event."""
    headers = [*binary(), ("x-retry", b"\xff"), ("Content-Type", b"text/plain"), ("nothing", None)]
    envelope = from_binary(headers, b"x")
    assert envelope.extensions is None
    assert envelope.content_type == "text/plain"


def test_a_header_that_comes_twice_is_refused() -> None:
    """An event with two ids has none."""
    with pytest.raises(EnvelopeError, match="ce_id"):
        from_binary([*binary(), ("ce_id", b"2")], b"{}")


@pytest.mark.parametrize("value", [None, b"\xff", b""])
def test_a_header_without_readable_value_is_refused(value: bytes | None) -> None:
    """A header that is there says something."""
    with pytest.raises(EnvelopeError, match="subject"):
        from_binary([*binary(), ("ce_subject", value)], b"{}")


def test_data_cannot_be_a_header() -> None:
    """CloudEvents forbids an attribute of that name."""
    with pytest.raises(EnvelopeError, match="data"):
        read_binary(data="x")


def test_a_structured_event_is_understood_where_a_binary_one_was_expected() -> None:
    """The content type says which form arrived."""
    header = ("Content-Type", b"application/cloudevents+json; charset=UTF-8")
    assert from_binary([header], to_structured(FULL)) == FULL


def test_a_batch_of_events_is_refused() -> None:
    """One message is one event."""
    with pytest.raises(EnvelopeError, match="batch"):
        from_binary([("content-type", b"application/cloudevents-batch+json")], b"[]")


@event("test.plain", version=3, key="order_id", topic="test.orders", wire="json")
@dataclass
class Plain:
    order_id: str


def test_a_bare_body_takes_its_type_from_the_contract() -> None:
    """Existing systems send JSON alone; the caller says what it does not."""
    envelope = from_plain(b'{"order_id":"1"}', contract=contract_of(Plain), id="k/1/2", source="/old", key="1", time=5)
    assert envelope == Envelope(
        **{"id": "k/1/2", "source": "/old", "type": "test.plain", "version": 3, "key": "1", "time": 5},
        **{"data": b'{"order_id":"1"}', "topic": "test.orders"},
    )
    keyless = from_plain(b"{}", contract=contract_of(Plain), id="1", source="/old", key=None, time=0)
    assert keyless.key is None


@pytest.mark.parametrize("changes", [{"id": ""}, {"source": ""}, {"key": ""}, {"id": "a\nb"}], ids=repr)
def test_a_bare_body_without_identity_is_refused(changes: dict[str, Any]) -> None:
    """An id is never invented for it."""
    arguments: dict[str, Any] = {"id": "1", "source": "/old", "key": "1", "time": 0, **changes}
    with pytest.raises(EnvelopeError):
        from_plain(b"{}", contract=contract_of(Plain), **arguments)
