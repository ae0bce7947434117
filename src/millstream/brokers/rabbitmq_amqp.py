"""AMQP 0.9.1 as bytes: the frames, methods and tables that Millstream needs, and no more.

A client library that makes an object of every frame costs more than everything else that
happens to an event, so events are written and read here, straight from and to bytes.
"""

import struct
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, cast

PROTOCOL = b"AMQP\x00\x00\x09\x01"
METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
END = b"\xce"
HEARTBEAT_FRAME = b"\x08\x00\x00\x00\x00\x00\x00\xce"
FRAME = struct.Struct(">BHI")
#: What a frame has around its payload.
AROUND = 8

# Methods, as class and number.
START, START_OK, TUNE, TUNE_OK, OPEN, OPEN_OK = (10, 10), (10, 11), (10, 30), (10, 31), (10, 40), (10, 41)
CLOSE, CLOSE_OK, BLOCKED, UNBLOCKED = (10, 50), (10, 51), (10, 60), (10, 61)
CHANNEL_OPEN, CHANNEL_CLOSE, CHANNEL_CLOSE_OK, FLOW, FLOW_OK = (20, 10), (20, 40), (20, 41), (20, 20), (20, 21)
EXCHANGE_DECLARE, EXCHANGE_DELETE = (40, 10), (40, 20)
QUEUE_DECLARE, QUEUE_BIND, QUEUE_DELETE = (50, 10), (50, 20), (50, 40)
QOS, CONSUME, CANCEL, CANCEL_OK, PUBLISH, RETURN, DELIVER = (60, 10), (60, 20), (60, 30), (60, 31), (60, 40), (60, 50), (60, 60)
GET, GET_OK, GET_EMPTY, ACK, REJECT, NACK = (60, 70), (60, 71), (60, 72), (60, 80), (60, 90), (60, 120)
CONFIRM_SELECT = (85, 10)

Method = tuple[int, int]
_method = struct.Struct(">HH")
_short = struct.Struct(">H")
_long = struct.Struct(">I")
_longlong = struct.Struct(">Q")
_content = struct.Struct(">HHQH")

# Which properties a content header has.
_CONTENT_TYPE, _ENCODING, _HEADERS, _DELIVERY_MODE, _MESSAGE_ID, _TIMESTAMP = 1 << 15, 1 << 14, 1 << 13, 1 << 12, 1 << 7, 1 << 6
_PERSISTENT = b"\x02"


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """One frame."""
    return FRAME.pack(kind, channel, len(payload)) + payload + END


def method(channel: int, which: Method, *arguments: bytes) -> bytes:
    """A method as a frame."""
    return frame(METHOD, channel, _method.pack(*which) + b"".join(arguments))


def short_text(text: str | bytes) -> bytes:
    """A text of at most 255 bytes."""
    raw = text.encode() if isinstance(text, str) else text
    return bytes((len(raw),)) + raw


def long_text(raw: bytes) -> bytes:
    """A text of any length."""
    return _long.pack(len(raw)) + raw


def short(number: int) -> bytes:
    """16 bits."""
    return _short.pack(number)


def long(number: int) -> bytes:
    """32 bits."""
    return _long.pack(number)


def longlong(number: int) -> bytes:
    """64 bits."""
    return _longlong.pack(number)


def bits(*flags: bool) -> bytes:
    """Up to eight flags in a byte, the first in the lowest bit."""
    return bytes((sum(1 << place for place, flag in enumerate(flags) if flag),))


# Tables


def table(fields: Mapping[str, Any]) -> bytes:
    """A table of texts, bytes, booleans, whole numbers, moments and further tables."""
    content = b"".join(short_text(name) + _field(value) for name, value in fields.items())
    return _long.pack(len(content)) + content


def _field(value: Any) -> bytes:
    if isinstance(value, bool):
        return b"t\x01" if value else b"t\x00"
    if isinstance(value, Timestamp):
        return b"T" + _longlong.pack(value)
    if isinstance(value, int):
        return b"l" + struct.pack(">q", value)
    if isinstance(value, Mapping):
        return b"F" + table(cast("Mapping[str, Any]", value))
    return b"S" + long_text(value.encode() if isinstance(value, str) else value)


def headers_table(headers: Iterable[tuple[str, bytes]]) -> bytes:
    """Headers as a table, without its length; each value as text."""
    pack = _long.pack
    return b"".join([part for name, value in headers for part in (_field_name(name), pack(len(value)), value)])


# The names of headers are few.
@lru_cache(maxsize=4096)
def _field_name(name: str) -> bytes:
    return short_text(name) + b"S"


def read_table(raw: bytes) -> list[tuple[str, Any]]:
    """The fields of a table without its length: texts as bytes, in their order."""
    fields: list[tuple[str, Any]] = []
    at, end = 0, len(raw)
    unpack = _long.unpack_from
    while at < end:
        after = at + 1 + raw[at]
        name = _name(raw[at + 1 : after])
        # "S", the usual one.
        if raw[after] == 83:
            first = after + 5
            at = first + unpack(raw, after + 1)[0]
            fields.append((name, raw[first:at]))
        else:
            value, at = _read_field(raw, after)
            fields.append((name, value))
    return fields


@lru_cache(maxsize=4096)
def _name(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


_NUMBERS = {
    kind: struct.Struct(f">{code}")
    for kind, code in {"b": "b", "B": "B", "s": "h", "u": "H", "I": "i", "i": "I", "l": "q", "f": "f", "d": "d", "T": "Q"}.items()
}


class Timestamp(int):
    """Seconds since 1970, as a table says them."""


def _read_field(raw: bytes, at: int) -> tuple[Any, int]:
    """The value at a place, and the place after it."""
    kind, at = chr(raw[at]), at + 1
    if kind == "t":
        return raw[at] != 0, at + 1
    if kind == "V":
        return None, at
    if kind in _NUMBERS:
        number = _NUMBERS[kind].unpack_from(raw, at)[0]
        return (Timestamp(number) if kind == "T" else number), at + _NUMBERS[kind].size
    if kind == "D":
        return _longlong.unpack(raw[at : at + 5].rjust(8, b"\0"))[0], at + 5
    if kind in "SxFA":
        first = at + 4
        end = first + _long.unpack_from(raw, at)[0]
        content = raw[first:end]
        if kind == "F":
            return dict(read_table(content)), end
        return (_read_array(content) if kind == "A" else content), end
    raise ValueError(f"a table has a field of the unknown kind {kind!r}")


def _read_array(raw: bytes) -> list[Any]:
    values: list[Any] = []
    at = 0
    while at < len(raw):
        value, at = _read_field(raw, at)
        values.append(value)
    return values


# Messages


class Properties(NamedTuple):
    """What a message says of itself."""

    content_type: bytes
    headers: bytes
    """A table without its length."""
    message_id: bytes
    timestamp: int
    """Seconds since 1970; 0 where nobody said."""


@lru_cache(maxsize=65_536)
def publish_method(channel: int, exchange: str, routing_key: str, *, mandatory: bool) -> bytes:
    """What comes before a message, as a frame."""
    return method(channel, PUBLISH, short(0), short_text(exchange), short_text(routing_key), bits(mandatory))


def content(channel: int, content_type: bytes, headers: bytes, body: bytes, *, frame_max: int, message_id: bytes = b"") -> bytes:
    """A persistent message as frames; `headers` is a table without its length."""
    flags = _HEADERS | _DELIVERY_MODE
    parts = [b"", b"", _long.pack(len(headers)), headers, _PERSISTENT]
    if content_type:
        flags |= _CONTENT_TYPE
        parts[1] = bytes((len(content_type),)) + content_type
    if message_id:
        flags |= _MESSAGE_ID
        parts.append(bytes((len(message_id),)) + message_id)
    parts[0] = _content.pack(60, 0, len(body), flags)
    header = b"".join(parts)
    if not body:
        return FRAME.pack(HEADER, channel, len(header)) + header + END
    most = frame_max - AROUND
    if len(body) <= most:
        return b"".join(
            (FRAME.pack(HEADER, channel, len(header)), header, END, FRAME.pack(BODY, channel, len(body)), body, END)
        )
    pieces = [frame(HEADER, channel, header)]
    pieces += [frame(BODY, channel, body[at : at + most]) for at in range(0, len(body), most)]
    return b"".join(pieces)


def header_size(content_type: bytes, headers: bytes) -> int:
    """How large the frame is that these are sent in: it has to fit into one."""
    return len(content_type) + len(headers) + 320


def body_size(header: bytes) -> int:
    """How many bytes a content header announces."""
    return _longlong.unpack_from(header, 4)[0]


_USUAL = _CONTENT_TYPE | _HEADERS | _DELIVERY_MODE
_TEXTS = ((1 << 10), (1 << 9), (1 << 8))


def read_properties(header: bytes) -> Properties:
    """What a content header says."""
    flags = _short.unpack_from(header, 12)[0]
    if flags == _USUAL:
        # What Millstream writes.
        first = 15 + header[14]
        return Properties(header[15:first], header[first + 4 : first + 4 + _long.unpack_from(header, first)[0]], b"", 0)
    at = 14
    content_type = headers = message_id = b""
    timestamp = 0
    if flags & _CONTENT_TYPE:
        content_type, at = header[at + 1 : at + 1 + header[at]], at + 1 + header[at]
    if flags & _ENCODING:
        at += 1 + header[at]
    if flags & _HEADERS:
        size = _long.unpack_from(header, at)[0]
        headers, at = header[at + 4 : at + 4 + size], at + 4 + size
    at += bool(flags & _DELIVERY_MODE) + bool(flags & 1 << 11)
    for text in _TEXTS:
        if flags & text:
            at += 1 + header[at]
    if flags & _MESSAGE_ID:
        message_id, at = header[at + 1 : at + 1 + header[at]], at + 1 + header[at]
    if flags & _TIMESTAMP:
        timestamp = _longlong.unpack_from(header, at)[0]
    return Properties(content_type, headers, message_id, timestamp)


def texts(raw: bytes, at: int, count: int) -> list[str]:
    """So many short texts from a place on."""
    found: list[str] = []
    for _ in range(count):
        end = at + 1 + raw[at]
        found.append(raw[at + 1 : end].decode("utf-8", "replace"))
        at = end
    return found


class Delivered(NamedTuple):
    """What the server says of a message that it delivers."""

    tag: int
    redelivered: bool
    exchange: bytes
    routing_key: bytes


def read_delivery(payload: bytes) -> Delivered:
    """Read `basic.deliver`."""
    at = 5 + payload[4]
    tag, redelivered = _longlong.unpack_from(payload, at)[0], payload[at + 8] & 1
    at += 9
    after = at + 1 + payload[at]
    return Delivered(tag, bool(redelivered), payload[at + 1 : after], payload[after + 1 : after + 1 + payload[after]])


def read_got(payload: bytes) -> Delivered:
    """Read `basic.get-ok`."""
    at = 13
    after = at + 1 + payload[at]
    return Delivered(
        _longlong.unpack_from(payload, 4)[0], bool(payload[12] & 1), payload[at + 1 : after],
        payload[after + 1 : after + 1 + payload[after]],
    )  # fmt: skip


def read_confirm(payload: bytes) -> tuple[int, bool]:
    """Read `basic.ack` or `basic.nack`: which, and whether all before it are meant too."""
    return _longlong.unpack_from(payload, 4)[0], bool(payload[12] & 1)


def read_close(payload: bytes) -> tuple[int, str]:
    """Read `connection.close` or `channel.close`: the code and the words."""
    return _short.unpack_from(payload, 4)[0], texts(payload, 6, 1)[0]


def read_declared(payload: bytes) -> tuple[str, int, int]:
    """Read `queue.declare-ok`: the queue, how many messages are ready, and its consumers."""
    at = 5 + payload[4]
    messages, consumers = struct.unpack_from(">II", payload, at)
    return texts(payload, 4, 1)[0], messages, consumers


def read_start(payload: bytes) -> Mapping[str, Any]:
    """Read `connection.start`: what the server says of itself."""
    size = _long.unpack_from(payload, 6)[0]
    return dict(read_table(payload[10 : 10 + size]))


def read_tune(payload: bytes) -> tuple[int, int, int]:
    """Read `connection.tune`: most channels, the largest frame, and seconds between heartbeats."""
    return struct.unpack_from(">HIH", payload, 4)
