"""CloudEvents 1.0 on the wire: structured JSON, binary headers, and bare JSON bodies.

Strict both ways: what breaks the specification raises EnvelopeError naming the
attribute, and what these functions write they can read back to an equal envelope
(except `topic`, which never travels).
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import msgspec

from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import EnvelopeError
from millstream.contracts.message import Contract, is_safe

STRUCTURED_CONTENT_TYPE = "application/cloudevents+json"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NAME = re.compile(r"[a-z0-9]+", re.ASCII)
_INTEGER = re.compile(r"-?[0-9]+", re.ASCII)
_JSON_TYPE = re.compile(r"[^/;\s]+/(?:[^/;\s]+\+)?json", re.ASCII | re.IGNORECASE)

# Every attribute that has its own field, so that no extension can write it a second time.
_OWN = frozenset(
    "specversion id source type subject partitionkey time datacontenttype dataschema data contractversion "
    "correlationid causationid causationattempt traceparent tracestate".split()
)

# The headers that only some events have, in the order of the envelope's fields.
_OPTIONAL = ("ce_dataschema", "ce_correlationid", "ce_causationid", "ce_causationattempt", "ce_traceparent", "ce_tracestate")
# What `to_binary` writes of an event with a key and without any of these: first what all of its kind have, in this order,
_SHARED = ("ce_specversion", "ce_source", "ce_type", "content-type")
_VERSION = "ce_contractversion"
# and then what is its own, without the third where the transport has a place for keys.
_OF_ITS_OWN = ("ce_id", "ce_subject", "ce_partitionkey", "ce_time")
_WITHOUT_KEY = ("ce_id", "ce_subject", "ce_time")

_encode = msgspec.json.Encoder().encode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode
_decode_any = msgspec.json.Decoder().decode


def to_structured(e: Envelope) -> bytes:
    """The whole envelope as one JSON document.

    A JSON body is embedded byte for byte; a body that is not JSON, whatever it claims
    to be, goes as `data_base64`, so that it arrives intact too.
    """
    members: dict[str, Any] = dict(_attributes(e))
    members["datacontenttype"] = e.content_type
    if e.version != 1:
        members["contractversion"] = e.version
    data = e.data
    if data:
        if is_json_type(e.content_type) and _is_exact_json(data):
            members["data"] = msgspec.Raw(data)
        else:
            members["data_base64"] = b64encode(data).decode("ascii")
    return _encode(members)


def from_structured(document: bytes, topic: str = "") -> Envelope:
    """The envelope in a structured JSON document, or EnvelopeError; `topic` is where it came from."""
    try:
        members = _decode_members(document)
    # RecursionError: a body nested too deeply for any reader.
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EnvelopeError(
            f"this is no structured CloudEvent: {error}; the body must be one JSON object with the event's attributes"
        ) from error
    data = members.pop("data", None)
    encoded = members.pop("data_base64", None)
    attributes = {name: text for name, raw in members.items() if (text := _attribute_text(name, raw)) is not None}
    content_type = attributes.pop("datacontenttype", "application/json")
    return _envelope(attributes, content_type, _structured_data(data, encoded, content_type), topic)


def to_binary(e: Envelope, *, partitionkey: bool = True) -> tuple[list[tuple[str, bytes]], bytes]:
    """The attributes as headers `ce_<name>` and `content-type`, and the body as it is.

    Without `partitionkey`, for transports that have a place of their own for the key,
    that attribute is left out where the subject says the same.
    """
    if not e.extensions and e.id and e.id.isprintable() and (e.key is None or (e.key and e.key.isprintable())):
        return _usual_headers(e, e.key, partitionkey=partitionkey), e.data
    attributes = _attributes(e)
    if not partitionkey and (e.extensions or {}).get("subject", e.key) == e.key:
        attributes = [(name, text) for name, text in attributes if name != "partitionkey"]
    headers = [(f"ce_{name}", text.encode()) for name, text in attributes]
    if e.version != 1:
        headers.append((_VERSION, b"%d" % e.version))
    headers.append(("content-type", e.content_type.encode()))
    return headers, e.data


def _usual_headers(e: Envelope, key: str | None, *, partitionkey: bool) -> list[tuple[str, bytes]]:
    """The same, several times faster, for events without extensions whose id and key are known to be right."""
    headers = [*_headers_of(e.source, e.type, e.version, e.content_type), ("ce_id", e.id.encode())]
    if key is not None:
        raw = key.encode()
        headers += (("ce_subject", raw), ("ce_partitionkey", raw)) if partitionkey else (("ce_subject", raw),)
    if e.time:
        headers.append(("ce_time", _time_header(e.time)))
    schema, correlation, causation, attempt, parent, state = e.schema, e.correlation, e.causation, e.attempt, e.traceparent, e.tracestate
    if correlation is None and parent is None and schema is None and causation is None and attempt is None and state is None:
        return headers
    if (
        correlation and causation and attempt and schema is None and parent is None and state is None
        and correlation.isprintable() and causation.isprintable()
    ):  # fmt: skip
        # What a handler has published, without a loop.
        cause = causation.encode()
        headers += (
            ("ce_correlationid", cause if correlation == causation else correlation.encode()),
            ("ce_causationid", cause),
            ("ce_causationattempt", _attempt_header(attempt)),
        )
        return headers
    for name, value in zip(_OPTIONAL, (schema, correlation, causation, attempt, parent, state), strict=True):
        if value is not None:
            _checked(name[3:], value)
            headers.append((name, value.encode()))
    return headers


# A group and a small number.
@lru_cache(maxsize=1024)
def _attempt_header(attempt: str) -> bytes:
    _checked("causationattempt", attempt)
    return attempt.encode()


# Few combinations exist, and every event has one of them.
@lru_cache(maxsize=4096)
def _headers_of(source: str, type_: str, version: int, content_type: str) -> tuple[tuple[str, bytes], ...]:
    """The headers that events of one kind share; nothing is said of a first version."""
    bare = Envelope(id="x", source=source, type=type_, time=0, version=version, content_type=content_type)
    shared = [(f"ce_{name}", text.encode()) for name, text in _attributes(bare) if name != "id"]
    shared.append(("content-type", content_type.encode()))
    return (*shared, (_VERSION, b"%d" % version)) if version != 1 else tuple(shared)


#: The last time that was written, since what is published together has one.
_last_time = (0, b"")


def _time_header(micros: int) -> bytes:
    global _last_time
    last, text = _last_time
    if micros != last:
        second, fraction = divmod(micros, 1_000_000)
        text = b"%b.%06dZ" % (_second_text(second), fraction) if fraction else _second_text(second) + b"Z"
        _last_time = micros, text
    return text


@lru_cache(maxsize=4096)
def _second_text(second: int) -> bytes:
    return _time_text(second * 1_000_000)[:-1].encode()


def from_binary(headers: Sequence[tuple[str, bytes | None]], body: bytes | None, topic: str = "") -> Envelope:
    """The envelope in these headers and this body, or EnvelopeError; `topic` is where they came from.

    Headers without the `ce_` prefix belong to the transport and are ignored. A body
    whose content type says that it is a structured CloudEvent is read as one.
    """
    given = dict(headers)
    usual = _from_usual(given, body or b"", topic) if len(given) == len(headers) else None
    if usual is not None:
        return usual
    attributes: dict[str, str] = {}
    content_type: str | None = None
    for header, value in headers:
        if header.startswith("ce_"):
            name = header[3:]
            if name in attributes:
                raise EnvelopeError(f"the header {header} came twice, so {name!r} has no one value; send it once")
            attributes[name] = _header_text(name, value)
        elif header.lower() == "content-type":
            content_type = _header_text("datacontenttype", value)
    if content_type is not None and content_type.lower().startswith("application/cloudevents"):
        if content_type.partition(";")[0].strip().lower() != STRUCTURED_CONTENT_TYPE:
            raise EnvelopeError(f"datacontenttype {content_type!r} is not supported; send {STRUCTURED_CONTENT_TYPE}")
        return from_structured(body or b"", topic)
    # Some senders put it beside the other attributes instead of where the specification wants it.
    stray = attributes.pop("datacontenttype", None)
    return _envelope(attributes, content_type or stray or "application/json", body or b"", topic)


class BinaryReader:
    """`from_binary` for a run of events: what one has in common with the one before is not read again."""

    def __init__(self) -> None:
        self.shared: Sequence[tuple[str, bytes | None]] = ()
        """The headers of the last event that all of its kind have, which `to_binary` writes first; another object for another kind."""
        self._count = -len(_OF_ITS_OWN) - 1
        """How many they are; before the first event, so few that no event has as many and its own."""
        self._head = ("", "", 0, "")
        self._second, self._micros = b"none yet", 0
        """The second of the last event's time, as it was written, and what it means;"""
        self._moment, self._moment_micros = b"none yet", 0
        """and all of it: what is published together has one time."""

    def read(self, headers: Sequence[tuple[str, bytes | None]], body: bytes, topic: str) -> Envelope:
        """The envelope in these headers and this body, or EnvelopeError; `topic` is where they came from."""
        usual = self.usual(headers, body, topic)
        if usual is not None:
            return usual
        envelope = from_binary(headers, body, topic)
        names = tuple(name for name, _ in headers)
        count = len(_SHARED) + (names[len(_SHARED) : len(_SHARED) + 1] == (_VERSION,))
        # A structured event says in its document what its body is.
        binary = names[: len(_SHARED)] == _SHARED and headers[len(_SHARED) - 1][1] == envelope.content_type.encode()
        if binary and names[count:] in (_OF_ITS_OWN, _WITHOUT_KEY):
            self.shared, self._count = list(headers[:count]), count
            self._head = (envelope.source, envelope.type, envelope.version, envelope.content_type)
        return envelope

    def usual(self, headers: Sequence[tuple[str, bytes | None]], body: bytes, topic: str) -> Envelope | None:
        """The same of an event that is written like the last one; None for any other, and for what is wrong."""
        own = len(headers) - self._count
        # Name by name: to compare them together a tuple would have to be made of them.
        if own == 3:
            *shared, (id_name, id), (subject_name, subject), (time_name, time) = headers
            if shared == self.shared and id_name == "ce_id" and subject_name == "ce_subject" and time_name == "ce_time":
                return self.like_the_last(id, subject, subject, time, body, topic)
        elif own == 4:
            *shared, (id_name, id), (subject_name, subject), (key_name, key), (time_name, time) = headers
            if (
                shared == self.shared
                and id_name == "ce_id" and subject_name == "ce_subject" and key_name == "ce_partitionkey" and time_name == "ce_time"
            ):  # fmt: skip
                return self.like_the_last(id, subject, key, time, body, topic)
        return None

    def like_the_last(
        self, id: bytes | None, subject: bytes | None, key: bytes | None, time: bytes | None, body: bytes, topic: str
    ) -> Envelope | None:
        """The envelope of an event that has in common with the last one what all of its kind have; None if anything about it is odd."""
        if not id or not time or not key or subject != key:
            return None
        try:
            text, key_text = id.decode(), key.decode()
            if time == self._moment:
                micros = self._moment_micros
            else:
                micros = self._moment_micros = self._time(time)
                self._moment = time
        except (UnicodeDecodeError, EnvelopeError):
            return None
        if not text.isprintable() or not key_text.isprintable():
            return None
        source, type_, version, content_type = self._head
        return Envelope(
            id=text, source=source, type=type_, key=key_text, time=micros, data=body, content_type=content_type, version=version,
            topic=topic,
        )  # fmt: skip

    def _time(self, value: bytes) -> int:
        if value.startswith(self._second) and len(value) == 27 and value[26] == 90 and (fraction := value[20:26]).isdigit():
            return self._micros + int(fraction)
        micros = _usual_time(value)
        if _is_usual(value):
            self._second, self._micros = value[:20], micros - int(value[20:26])
        return micros


def _from_usual(given: dict[str, bytes | None], body: bytes, topic: str) -> Envelope | None:
    """The same, several times faster, for what `to_binary` writes; None for headers that have more, less or anything odd."""
    get = given.get
    raw_id, raw_time, raw_key = get("ce_id"), get("ce_time"), get("ce_subject")
    head = _usual_head(get("ce_specversion"), get("ce_source"), get("ce_type"), get(_VERSION, b"1"), get("content-type"))
    keyed = "ce_partitionkey" in given
    if head is None or not raw_id or raw_time is None or (keyed and (raw_key is None or given["ce_partitionkey"] != raw_key)):
        return None
    known = 6 + (raw_key is not None) + keyed + (_VERSION in given)
    source, type_, version, content_type = head
    try:
        id, key = raw_id.decode(), None if raw_key is None else raw_key.decode()
        time = _usual_time(raw_time)
        more: list[str | None] = []
        if len(given) != known:
            more = [None if (raw := get(name)) is None else raw.decode() for name in _OPTIONAL]
    except (UnicodeDecodeError, EnvelopeError):
        return None
    if not id.isprintable() or (key is not None and not (key and key.isprintable())):
        return None
    if not more:
        return Envelope(
            id=id, source=source, type=type_, key=key, time=time, data=body, content_type=content_type, version=version, topic=topic
        )
    texts = [text for text in more if text is not None]
    complete = len(given) == len(texts) + known
    if not complete or not all(text and text.isprintable() for text in texts):
        return None
    schema, correlation, causation, attempt, traceparent, tracestate = more
    return Envelope(
        id=id, source=source, type=type_, key=key, time=time, data=body, content_type=content_type, schema=schema, version=version,
        correlation=correlation, causation=causation, attempt=attempt, traceparent=traceparent, tracestate=tracestate, topic=topic,
    )  # fmt: skip


# Few combinations exist, and every event has one of them.
@lru_cache(maxsize=4096)
def _usual_head(
    specversion: bytes | None, source: bytes | None, type_: bytes | None, version: bytes | None, content_type: bytes | None
) -> tuple[str, str, int, str] | None:
    if specversion != b"1.0" or not source or not type_ or not version or not content_type:
        return None
    try:
        head = source.decode(), type_.decode(), _version(version.decode()), content_type.decode()
        _checked_source(head[0])
        _checked("type", head[1])
        _checked_type(head[3])
    except (UnicodeDecodeError, EnvelopeError):
        return None
    return head


def _is_usual(time: bytes) -> bool:
    """Whether it is written like 2026-01-31T12:00:00.000000Z."""
    return len(time) == 27 and time[19] == 46 and time[26] == 90 and time[20:26].isdigit()


def _usual_time(value: bytes) -> int:
    if _is_usual(value):
        return _micros_of_second(value[:19]) + int(value[20:26])
    return _time_micros(value.decode())


# Events that arrive together were published together.
@lru_cache(maxsize=4096)
def _micros_of_second(text: bytes) -> int:
    return _time_micros(text.decode() + "Z")


def from_plain(
    body: bytes, *, contract: Contract, id: str, source: str, key: str | None, time: int, schema: str | None = None
) -> Envelope:
    """The envelope around a body that came without one, as `wire=` says: what it does not say comes from the caller."""
    _checked("id", id)
    _checked_source(source)
    if key is not None:
        _checked("partitionkey", key)
    return Envelope(
        id=id,
        source=source,
        type=contract.name,
        key=key,
        time=time,
        data=body,
        schema=schema,
        version=contract.version,
        topic=contract.topic,
    )


def _attributes(e: Envelope) -> list[tuple[str, str]]:
    """Every attribute that is written alike in both forms, checked."""
    extensions = e.extensions or {}
    _checked_source(e.source)
    _checked_type(e.content_type)
    # What _version would not read must not be written.
    if not 0 <= e.version < 1_000_000_000:
        raise EnvelopeError(f"'contractversion' {e.version} is out of range; count versions 1, 2, 3")
    pairs = [("specversion", "1.0"), ("id", e.id), ("source", e.source), ("type", e.type)]
    if e.key is not None:
        # A foreign event may have a subject that is not its key; _envelope has kept it here.
        pairs.append(("subject", extensions.get("subject", e.key)))
        pairs.append(("partitionkey", e.key))
    elif "subject" in extensions:
        raise EnvelopeError("the extension 'subject' stands without a key; set the envelope's key instead")
    if e.time:
        pairs.append(("time", _time_text(e.time)))
    for name, value in (
        ("dataschema", e.schema),
        ("correlationid", e.correlation),
        ("causationid", e.causation),
        ("causationattempt", e.attempt),
        ("traceparent", e.traceparent),
        ("tracestate", e.tracestate),
    ):
        if value is not None:
            pairs.append((name, value))
    for name, value in extensions.items():
        if name != "subject":
            _checked_name(name)
            if name in _OWN:
                raise EnvelopeError(f"{name!r} has its own place in the envelope; do not pass it as an extension")
            pairs.append((name, value))
    for name, value in pairs:
        _checked(name, value)
    return pairs


def _envelope(attributes: dict[str, str], content_type: str, data: bytes, topic: str) -> Envelope:
    for name, value in attributes.items():
        if name not in _OWN:
            _checked_name(name)
        _checked(name, value)
    _checked_type(content_type)
    take = attributes.pop
    version = take("specversion", None)
    if version != "1.0":
        raise EnvelopeError(
            f"specversion is {'missing' if version is None else repr(version)}; Millstream reads CloudEvents 1.0 only"
        )
    id, source, type_ = _required(attributes, "id"), _required(attributes, "source"), _required(attributes, "type")
    _checked_source(source)
    if "data" in attributes:
        raise EnvelopeError("'data' is the body and cannot be an attribute; rename the extension")
    subject, key = take("subject", None), take("partitionkey", None)
    time = take("time", None)
    contract_version = take("contractversion", None)
    schema = take("dataschema", None)
    correlation, causation = take("correlationid", None), take("causationid", None)
    attempt = take("causationattempt", None)
    traceparent, tracestate = take("traceparent", None), take("tracestate", None)
    # What is left has no field of its own. A subject beside another key is kept, or a bridge would lose it.
    if subject is not None and key is not None and subject != key:
        attributes["subject"] = subject
    return Envelope(
        id=id,
        source=source,
        type=type_,
        key=key if key is not None else subject,
        time=0 if time is None else _time_micros(time),
        data=data,
        content_type=content_type,
        schema=schema,
        version=1 if contract_version is None else _version(contract_version),
        correlation=correlation,
        causation=causation,
        attempt=attempt,
        traceparent=traceparent,
        tracestate=tracestate,
        extensions=attributes or None,
        topic=topic,
    )


def _required(attributes: dict[str, str], name: str) -> str:
    value = attributes.pop(name, None)
    if value is None:
        raise EnvelopeError(f"{name!r} is missing, and CloudEvents requires it; the publisher must set it")
    return value


def _checked(name: str, value: str) -> None:
    if not value:
        raise EnvelopeError(f"{name!r} is empty; leave the attribute out or give it a value")
    # One call less for nearly every value.
    if not value.isprintable() and not is_safe(value):
        raise EnvelopeError(f"{name!r} has a character CloudEvents forbids: {value!r}; remove control characters")


# Sources, content types and extension names are few and come again with every event.
@lru_cache(maxsize=1024)
def _checked_source(source: str) -> None:
    _checked("source", source)
    if any(c.isspace() or c in '<>"{}|\\^`' for c in source):
        raise EnvelopeError(f"'source' is not a URI reference: {source!r}; write it like \"/inventory\"")


@lru_cache(maxsize=1024)
def _checked_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise EnvelopeError(f"{name!r} cannot name an attribute: only lower-case letters a-z and digits; rename it")


@lru_cache(maxsize=1024)
def _checked_type(content_type: str) -> None:
    _checked("datacontenttype", content_type)
    if content_type.lower().startswith("application/cloudevents"):
        # A reader would take the body for a structured event.
        raise EnvelopeError(f"'datacontenttype' {content_type!r} is for whole events; name the type of the data")


@lru_cache(maxsize=1024)
def is_json_type(content_type: str) -> bool:
    return _JSON_TYPE.fullmatch(content_type.partition(";")[0].strip()) is not None


def _is_exact_json(data: bytes) -> bool:
    """Whether `data`, embedded in a document, is read back from it byte for byte."""
    try:
        # Raw drops white space around a value, and does not look inside strings for invalid UTF-8.
        return bytes(_decode_raw(data)) == data and (data.isascii() or bool(data.decode()))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False


def _attribute_text(name: str, raw: msgspec.Raw) -> str | None:
    """An attribute's JSON value as canonical text; None where it is null, which means unset."""
    try:
        value = _decode_any(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EnvelopeError(f"{name!r} cannot be read: {error}; send a string") from error
    if isinstance(value, str) or value is None:
        return value
    if name in _OWN and name != "contractversion":
        raise EnvelopeError(f"{name!r} is {bytes(raw)[:80]!r}, not a string; CloudEvents requires a string here")
    if isinstance(value, bool):
        return "true" if value else "false"
    # The digits as they came: no integer is too long to keep as text.
    text = str(raw_text, "ascii") if isinstance(value, int) and (raw_text := bytes(raw)).isascii() else ""
    if not _INTEGER.fullmatch(text):
        raise EnvelopeError(f"{name!r} is {bytes(raw)[:80]!r}; an extension is a string, an integer or a boolean")
    return text


def _structured_data(data: msgspec.Raw | None, encoded: msgspec.Raw | None, content_type: str) -> bytes:
    if data is not None and encoded is not None:
        raise EnvelopeError("'data' and 'data_base64' are both there, so the body is ambiguous; send one of them")
    if encoded is not None:
        try:
            return b64decode(msgspec.json.decode(encoded, type=str), validate=True)
        except (msgspec.MsgspecError, ValueError) as error:
            raise EnvelopeError(f"'data_base64' is not base64: {error}; encode the body with padding") from error
    if data is None:
        return b""
    body = bytes(data)
    # Text of another type, such as XML, travels as a JSON string; the string is the body.
    if not is_json_type(content_type) and body.startswith(b'"'):
        try:
            return msgspec.json.decode(body, type=str).encode()
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise EnvelopeError(f"'data' is not readable text: {error}; send it as data_base64") from error
    return body


def _header_text(name: str, value: bytes | None) -> str:
    if value is None:
        raise EnvelopeError(f"{name!r} has no value; leave the header out or give it a value")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise EnvelopeError(f"{name!r} is not UTF-8: {value[:80]!r}; encode header values as UTF-8") from error


def _time_text(micros: int) -> str:
    try:
        moment = _EPOCH + timedelta(microseconds=micros)
    except OverflowError as error:
        raise EnvelopeError(f"'time' {micros} is outside the years 1 to 9999; pass microseconds since 1970") from error
    return moment.replace(tzinfo=None).isoformat() + "Z"


def _time_micros(text: str) -> int:
    try:
        moment = msgspec.convert(text, datetime)
    except msgspec.ValidationError as error:
        raise EnvelopeError(f"'time' {text!r} is not an RFC 3339 time: write it like 2026-01-31T12:00:00Z") from error
    if moment.tzinfo is None:
        raise EnvelopeError(f"'time' {text!r} has no time zone, so it names no moment; add Z or an offset")
    return (moment - _EPOCH) // _MICROSECOND


def _version(text: str) -> int:
    # Nine digits: what the Integer type of CloudEvents surely holds, and no more work than that.
    if len(text) > 9 or not text.isascii() or not text.isdigit():
        raise EnvelopeError(f"'contractversion' is {text!r}, not a whole number; send 1, 2, 3")
    return int(text)
