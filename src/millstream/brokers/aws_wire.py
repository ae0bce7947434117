"""Messages of SNS and SQS and what they are here: CloudEvents as structured JSON, text of others, or bytes that were wrapped."""

import hashlib
import re
import secrets
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from millstream.contracts.codec import STRUCTURED_CONTENT_TYPE, from_structured, to_structured
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import EnvelopeError, MillstreamError, TooLargeError
from millstream.core.broker import Delivery, Message, Partition

#: SNS takes so much, attributes included.
MOST_BYTES = 256 << 10
#: What a body may have: three quarters of what is left beside attributes and key, since a body that is no JSON travels as base64.
LARGEST = 160 << 10
#: SNS throws away what has more than ten, when it is to be delivered raw; half of that leaves room for others.
MOST_ATTRIBUTES = 5
CONTENT_TYPE = "content-type"
#: What SQS is asked to tell of a message: each attribute is parsed, and there are eight.
SYSTEM = ("ApproximateReceiveCount", "MessageGroupId", "SentTimestamp")
#: A message that AWS could not carry as it is.
WRAPPED = "application/vnd.millstream.message+json"

_NAME = re.compile(r"(?!(?i:aws|amazon)\.)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
# What XML 1.0 has no place for.
_FOREIGN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_GROUP = re.compile(r"[!\"$-<>-~][!-~]{0,127}")  # beginning with neither = nor #
_LONE, _HASHED = "=", "#"
_encode = msgspec.json.Encoder().encode


class _Wrapped(msgspec.Struct):
    body: bytes
    key: bytes | None = None
    headers: list[tuple[str, bytes]] = []


_unwrap = msgspec.json.Decoder(_Wrapped).decode


class Entry(NamedTuple):
    """A message as it is published."""

    body: str
    attributes: dict[str, str]
    group: str
    """Of a FIFO queue: what it is in order with."""
    deduplication: str
    """What AWS knows a repetition by, for five minutes."""

    @property
    def size(self) -> int:
        """What AWS counts of it."""
        return len(self.body.encode()) + sum(len(name) + len(value.encode()) + len("String") for name, value in self.attributes.items())


def entry_of(e: Envelope) -> Entry:
    """An event as a message; raises what is wrong with it."""
    if len(e.data) > LARGEST:
        raise _too_large(f"event {e.id} ({e.type})", len(e.data), LARGEST)
    document = to_structured(e)
    attributes = {CONTENT_TYPE: STRUCTURED_CONTENT_TYPE, "type": e.type}
    body = document.decode()
    if _FOREIGN.search(body) or _FOREIGN.search(e.type):
        body, attributes = _wrapped(document, None, [(CONTENT_TYPE, STRUCTURED_CONTENT_TYPE.encode())])
    return entry_around(e, body, attributes)


def entry_around(e: Envelope, body: str, attributes: dict[str, str]) -> Entry:
    """A message that stands for an event, in order with its key, and known by its source and id."""
    deduplication = hashlib.sha256(f"{e.source}\n{e.id}".encode()).hexdigest()
    group = _LONE + deduplication if e.key is None else group_of(e.key.encode())
    return _fits(Entry(body, attributes, group, deduplication), f"event {e.id} ({e.type})")


def entry_of_raw(message: Message, *, fifo: bool) -> Entry:
    """Bytes of others as a message: as they are where AWS can carry them, and wrapped where it cannot."""
    if len(message.body) > LARGEST:
        raise _too_large("a message", len(message.body), LARGEST)
    key, deduplication = message.key, secrets.token_hex(16)
    group = _LONE + deduplication if key is None else group_of(key)
    body, attributes = _plain(message) or ("", {})
    if not body or (key is not None and not (fifo and group.encode() == key)):
        body, attributes = _wrapped(message.body, key, message.headers)
    return _fits(Entry(body, attributes, group, deduplication), "a message")


def group_of(key: bytes) -> str:
    """The message group of a key: the key itself where AWS allows it, else a hash."""
    try:
        text = key.decode("ascii")
    except UnicodeDecodeError:
        text = ""
    return text if _GROUP.fullmatch(text) else _HASHED + hashlib.sha256(key).hexdigest()


def _plain(message: Message) -> tuple[str, dict[str, str]] | None:
    """Body and attributes, if AWS can carry all of them."""
    try:
        body = message.body.decode()
        attributes = {name: value.decode() for name, value in message.headers}
    except UnicodeDecodeError:
        return None
    if not body or _FOREIGN.search(body) or len(attributes) > MOST_ATTRIBUTES or attributes.get(CONTENT_TYPE, "").startswith(WRAPPED):
        return None
    for name, value in attributes.items():
        if not value or len(name) > 256 or not _NAME.fullmatch(name) or _FOREIGN.search(value):
            return None
    # They come back sorted by name, and each name once.
    return (body, attributes) if [name for name, _ in message.headers] == sorted(attributes) else None


def _wrapped(body: bytes, key: bytes | None, headers: Any) -> tuple[str, dict[str, str]]:
    return _encode(_Wrapped(body, key, list(headers))).decode(), {CONTENT_TYPE: WRAPPED}


def _fits(entry: Entry, what: str) -> Entry:
    if entry.size > MOST_BYTES:
        raise _too_large(what, entry.size, MOST_BYTES)
    return entry


def _too_large(what: str, size: int, most: int) -> MillstreamError:
    return TooLargeError(
        f"{what} has {size} bytes; SNS takes {most}: name a bucket for what is larger (claims=BUCKET in the URL), or publish where it is."
    )


class AwsReader:
    """Makes deliveries of the messages of one queue."""

    def __init__(self, partition: Partition, source: str) -> None:
        self.partition = partition
        self._source = source

    def delivery(self, received: dict[str, Any]) -> Delivery:
        """One message as a delivery: an event where it says that it is one and keeps the rules, else its bytes."""
        message = self._message(received)
        # A name for it that is the same whoever gets it, however often.
        position = int.from_bytes(hashlib.blake2b(received["MessageId"].encode(), digest_size=8).digest()) >> 1
        again = max(0, int(received.get("Attributes", {}).get("ApproximateReceiveCount", 1)) - 1)
        if any(name == CONTENT_TYPE and value.startswith(STRUCTURED_CONTENT_TYPE.encode()) for name, value in message.headers):
            try:
                envelope = from_structured(message.body, self.partition.topic)
            except EnvelopeError:
                # Whoever handles it finds the same error, and parks it with its bytes.
                return Delivery(self.partition, position, None, message, again)
            if envelope.key is None and message.key is not None:
                envelope = msgspec.structs.replace(envelope, key=message.key.decode())
            return Delivery(self.partition, position, envelope, None, again)
        return Delivery(self.partition, position, None, message, again)

    def _message(self, received: dict[str, Any]) -> Message:
        system: dict[str, str] = received.get("Attributes", {})
        group = system.get("MessageGroupId", _LONE)
        key = None if group[0] in (_LONE, _HASHED) else group.encode()
        attributes: dict[str, dict[str, Any]] = received.get("MessageAttributes") or {}
        headers = [(name, _bytes_of(attributes[name])) for name in sorted(attributes)]
        body = received.get("Body", "").encode()
        if (CONTENT_TYPE, WRAPPED.encode()) in headers:
            try:
                wrapped = _unwrap(body)
            except msgspec.MsgspecError:
                pass  # Whatever it is, it is not ours.
            else:
                body, key, headers = wrapped.body, wrapped.key, [(name, value) for name, value in wrapped.headers]
        return Message(
            topic=self.partition.topic, body=body, key=key, headers=tuple(headers),
            time=int(system.get("SentTimestamp", 0)) * 1000, source=self._source, id=received["MessageId"],
        )  # fmt: skip


def source_of(arn: str, topic: str) -> str:
    """Names the topic of an account for ever."""
    return f"aws:/{quote(':'.join(arn.split(':')[3:5]))}/{quote(topic, safe='')}"


def _bytes_of(attribute: dict[str, Any]) -> bytes:
    value = attribute.get("BinaryValue", attribute.get("StringValue", ""))
    return value if isinstance(value, bytes) else str(value).encode()


