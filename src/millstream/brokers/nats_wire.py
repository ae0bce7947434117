"""Messages of NATS and what they are here: CloudEvents in binary or structured mode, or bytes of others."""

import re
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes

import msgspec

from millstream.contracts.codec import STRUCTURED_CONTENT_TYPE, BinaryReader, to_binary
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import BrokerError, MillstreamError
from millstream.core.broker import Delivery, Message, Partition

#: Attributes are headers of this name, their values percent-encoded: the NATS binding of CloudEvents.
PREFIX = b"ce-"
#: The key of a message that is no event, percent-encoded too.
KEY = b"Millstream-Key"
ID = b"Nats-Msg-Id"
FIRST = b"NATS/1.0\r\n"
_END = b"\r\n\r\n"
_STRUCTURED = STRUCTURED_CONTENT_TYPE.encode()
_CONTENT_TYPE = "content-type"
#: What has to be written as %XX.
_ENCODED = re.compile(rb'[^\x21\x23\x24\x26-\x7e]')
_HEADER_NAME = re.compile(r"[!-9;-~]+")
#: The headers that events with a key have of their own, behind those that all of their kind have.
_OWN = ("ce_id", "ce_subject", "ce_partitionkey", "ce_time")


def event_head(envelope: Envelope) -> tuple[bytes, bytes]:
    """The headers, first line and all, and the body of an event; under its source and id it is stored once in minutes."""
    headers, body = to_binary(envelope)
    if headers[-1][0] == "ce_time" and headers[-3][0] == "ce_subject":
        *shared, (_, id), (_, key), _, (_, time) = headers
        id, key = _written(id), _written(key)
        kind, source = _kind(shared, envelope.source)
        own = b"ce-id: %b\r\nce-subject: %b\r\nce-partitionkey: %b\r\nce-time: %b" % (id, key, key, time)
        return b"%b%b\r\nNats-Msg-Id: %b#%b\r\n\r\n" % (kind, own, source, id), body
    lines = [_line(name, value) for name, value in headers]
    message_id = _written(f"{envelope.source}#{envelope.id}".encode())
    return b"%b%b\r\nNats-Msg-Id: %b\r\n\r\n" % (FIRST, b"\r\n".join(lines), message_id), body


#: The last kind of event that was written, since neighbours are often of one: its headers, and what becomes of them.
_last: tuple[list[tuple[str, bytes]], bytes, bytes] = ([], b"", b"")


def _kind(headers: list[tuple[str, bytes]], source: str) -> tuple[bytes, bytes]:
    """The lines of the headers that events of a kind share, and the source as it is written."""
    global _last
    if headers != _last[0]:
        lines = [_line(name, value) + b"\r\n" for name, value in headers]
        _last = headers, FIRST + b"".join(lines), _written(source.encode())
    return _last[1], _last[2]


def message_head(message: Message, id: str) -> bytes:
    """The same of a message that is not ours; `id` tells NATS when it comes twice because a connection was lost."""
    lines = [b"%b: %b" % (_name(name), _value(name, value)) for name, value in message.headers]
    if message.key is not None:
        lines.append(b"%b: %b" % (KEY, quote(message.key, safe="").encode()))
    if not any(name.lower() == "nats-msg-id" for name, _ in message.headers):
        lines.append(b"%b: %b" % (ID, id.encode()))
    return b"%b%b%b" % (FIRST, b"\r\n".join(lines), _END)


def _name(name: str) -> bytes:
    if not _HEADER_NAME.fullmatch(name):
        raise BrokerError(f"the header {name!r} cannot be had on NATS: a name is ASCII without spaces and colons. Choose another.")
    return name.encode()


def _value(name: str, value: bytes) -> bytes:
    if b"\r" in value or b"\n" in value or value != value.strip(b" \t"):
        raise BrokerError(f"the header {name!r} has line ends, or spaces around it, which NATS does not keep. Encode it.")
    return value


@lru_cache(maxsize=4096)
def _nats_name(name: str) -> bytes:
    return PREFIX + name[3:].encode() if name.startswith("ce_") else name.encode()


@lru_cache(maxsize=4096)
def _usual_name(name: bytes) -> str:
    text = name.decode("utf-8", "replace")
    return f"ce_{text[3:].lower()}" if text[:3].lower() == "ce-" else text


def _line(name: str, value: bytes) -> bytes:
    # A content type is no attribute of an event to NATS, and nobody decodes it.
    return b"%b: %b" % (_nats_name(name), value if name == _CONTENT_TYPE else _written(value))


def _written(value: bytes) -> bytes:
    return _ENCODED.sub(lambda odd: b"%%%02X" % odd[0][0], value) if _ENCODED.search(value) else value


class NatsReader:
    """Makes deliveries of messages; one for each run of a partition, since neighbours have much in common."""

    def __init__(self, partition: Partition, stream: str, created: str) -> None:
        self._partition = partition
        self._source = f"nats:/{stream}"
        self._created = created
        self._read = BinaryReader().read
        self._before = b"-"
        """The lines of the last event that all of its kind have."""
        self._shared: list[tuple[str, bytes]] = []

    def delivery(self, position: int, nanos: int, head: bytes, body: bytes) -> Delivery:
        """A message as a delivery: an event where it says that it is one and keeps the rules, else its bytes."""
        headers = self._usual(head[len(self._before) : -4]) if head.startswith(self._before) else None
        if headers is None:
            headers = self._headers(head)
        if headers and (headers[0][0] == "ce_specversion" or _is_event(headers)):
            try:
                return Delivery(self._partition, position, _keyed(self._read(headers, body, self._partition.topic), head))
            except MillstreamError:
                # Whoever handles it finds the same error, and parks it with its bytes.
                pass
        return Delivery(self._partition, position, None, self._message(position, nanos, head, body))

    def _usual(self, rest: bytes) -> list[tuple[str, bytes]] | None:
        """The headers of an event that begins as the one before; None if the rest is anything but usual."""
        lines = rest.split(b"\r\n")
        if len(lines) != len(_OWN) + 1 or b"%" in rest:
            return None
        id, subject, key, time, message_id = lines
        if id[:7] != b"ce-id: " or subject[:12] != b"ce-subject: " or key[:17] != b"ce-partitionkey: " or time[:9] != b"ce-time: ":
            return None
        if not message_id.startswith(ID):
            return None
        return [*self._shared, ("ce_id", id[7:]), ("ce_subject", subject[12:]), ("ce_partitionkey", key[17:]), ("ce_time", time[9:])]

    def _headers(self, head: bytes) -> list[tuple[str, bytes]]:
        headers: list[tuple[str, bytes]] = []
        for name, value in _lines(head):
            if name[:5].lower() == b"nats-" or name == KEY:
                continue
            usual = _usual_name(name)
            headers.append((usual, unquote_to_bytes(value) if usual.startswith("ce_") and b"%" in value else value))
        own = len(headers) - len(_OWN)
        names = tuple(name for name, _ in headers)
        if own > 0 and names[0] == "ce_specversion" and names[own:] == _OWN and len(set(names)) == len(names):
            self._before = head[: head.index(b"\r\nce-id: ") + 2] if b"\r\nce-id: " in head else b"-"
            self._shared = headers[:own]
        return headers

    def _message(self, position: int, nanos: int, head: bytes, body: bytes) -> Message:
        key = None
        headers: list[tuple[str, bytes]] = []
        for name, value in _lines(head):
            if name == KEY:
                key = unquote_to_bytes(value)
            elif name[:5].lower() != b"nats-":
                headers.append((_usual_name(name), value))
        return Message(
            topic=self._partition.topic,
            body=body,
            key=key,
            headers=tuple(headers),
            time=nanos // 1000,
            source=self._source,
            # A stream that was deleted and made anew begins anew.
            id=f"{self._created}-{position}",
        )


def _lines(head: bytes) -> list[tuple[bytes, bytes]]:
    lines = head[head.find(b"\r\n") + 2 : -4].split(b"\r\n") if head else ()
    pairs = [line.partition(b":") for line in lines if line]
    return [(name, value[1:] if value.startswith(b" ") else value) for name, _, value in pairs]


def _is_event(headers: Sequence[tuple[str, bytes]]) -> bool:
    return any(
        name == "ce_specversion" or (name.lower() == _CONTENT_TYPE and value.lower().startswith(_STRUCTURED)) for name, value in headers
    )


def _keyed(envelope: Envelope, head: bytes) -> Envelope:
    """The key that another producer of CloudEvents told in our header alone."""
    if envelope.key is not None or KEY not in head:
        return envelope
    text = next((unquote_to_bytes(value).decode("utf-8", "replace") for name, value in _lines(head) if name == KEY), "")
    return msgspec.structs.replace(envelope, key=text) if text and text.isprintable() else envelope
