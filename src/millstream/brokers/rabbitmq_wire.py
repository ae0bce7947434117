"""Messages of AMQP 0.9.1 and what they are here: CloudEvents in binary or structured mode, or bytes of others."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from msgspec import structs

from millstream.brokers.rabbitmq_amqp import Delivered, Properties, Timestamp, headers_table, read_properties, read_table
from millstream.contracts.codec import STRUCTURED_CONTENT_TYPE, BinaryReader, to_binary
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import MillstreamError, TooLargeError
from millstream.core.broker import Delivery, Message, Partition

#: Attributes are headers of this name: the underscore that the AMQP binding of CloudEvents prefers; a colon is understood, too.
PREFIX = "cloudEvents_"
_PREFIXES = (PREFIX, "cloudEvents:")
#: The key of a message that is no event.
KEY = "x-millstream-key"
#: Partitions are told by routing keys, of which other programs may have any.
ROUTE = "partition."
_STRUCTURED = STRUCTURED_CONTENT_TYPE.encode()
_CONTENT_TYPE = "content-type"
_SPECVERSION = b"\x17cloudEvents_specversionS"
#: Headers that the server adds, for itself.
_SERVERS = frozenset(
    "x-delivery-count x-acquired-count x-death x-first-death-exchange x-first-death-queue x-first-death-reason x-stream-offset".split()
)


def route_of(partition: int) -> str:
    """The routing key of a partition."""
    return f"{ROUTE}{partition}"


def event_content(envelope: Envelope) -> tuple[bytes, bytes, bytes]:
    """The content type, the headers as a table, and the body of an event."""
    headers, body = to_binary(envelope)
    content_type = envelope.content_type.encode()
    if len(content_type) > 255:
        raise TooLargeError(f"event {envelope.id}: a content type of {len(content_type)} bytes is more than AMQP takes (255); shorten it")
    return content_type, headers_table([(_amqp_name(name), value) for name, value in headers if name != _CONTENT_TYPE]), body


def message_content(message: Message) -> tuple[bytes, bytes, bytes]:
    """The same of a message that is not ours."""
    content_type = next((value for name, value in message.headers if name.lower() == _CONTENT_TYPE and len(value) <= 255), b"")
    headers = [(name, value) for name, value in message.headers if not (content_type and name.lower() == _CONTENT_TYPE)]
    if message.key is not None:
        headers.append((KEY, message.key))
    long = next((name for name, _ in headers if len(name.encode()) > 255), None)
    if long is not None:
        raise TooLargeError(f"the header {long[:40]}... has a longer name than AMQP takes (255 bytes); shorten it")
    return content_type, headers_table(headers), message.body


@lru_cache(maxsize=4096)
def _amqp_name(name: str) -> str:
    return PREFIX + name[3:]


@lru_cache(maxsize=4096)
def _usual_name(name: str) -> str:
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return "ce_" + name[len(prefix) :]
    return name


class RabbitReader:
    """Makes deliveries of messages."""

    def __init__(self, vhost: str) -> None:
        self._source = f"rabbitmq:/{quote(vhost, safe='')}"
        self._read = BinaryReader().read

    def delivery(self, partition: Partition, position: int, delivered: Delivered, header: bytes, body: bytes) -> Delivery:
        """A message as a delivery: an event where it says that it is one and keeps the rules, else its bytes."""
        properties = read_properties(header)
        fields = read_table(properties.headers)
        redelivered = int(delivered.redelivered)
        if redelivered:
            redelivered = next((value for name, value in fields if name == "x-delivery-count" and isinstance(value, int)), 1)
        if properties.headers.startswith(_SPECVERSION) or _is_event(fields, properties):
            try:
                envelope = self._event(partition, properties, fields, body)
                return Delivery(partition, position, _keyed(envelope, delivered) if envelope.key is None else envelope, None, redelivered)
            except MillstreamError:
                # Whoever handles it finds the same error, and parks it with its bytes.
                pass
        return Delivery(partition, position, None, self._message(partition, delivered, properties, fields, body), redelivered)

    def _event(self, partition: Partition, properties: Properties, fields: Sequence[tuple[str, Any]], body: bytes) -> Envelope:
        headers = [(_usual_name(name), _text(value)) for name, value in fields if name not in _SERVERS]
        if properties.content_type:
            # Where the reader has it in its quickest form.
            headers.insert(3, (_CONTENT_TYPE, properties.content_type))
        return self._read(headers, body, partition.topic)

    def _message(
        self, partition: Partition, delivered: Delivered, properties: Properties, fields: Sequence[tuple[str, Any]], body: bytes
    ) -> Message:
        key = next((_text(value) for name, value in fields if name == KEY), None)
        route = delivered.routing_key
        if key is None and route and not route.startswith(ROUTE.encode()):
            # What another program told RabbitMQ alone.
            key = route
        headers = [(_usual_name(name), _text(value)) for name, value in fields if name != KEY and name not in _SERVERS]
        if properties.content_type:
            headers.append((_CONTENT_TYPE, properties.content_type))
        return Message(
            topic=partition.topic,
            body=body,
            key=key,
            headers=tuple(headers),
            time=properties.timestamp * 1_000_000,
            source=f"{self._source}/{quote(partition.topic, safe='')}",
            id=properties.message_id.decode("utf-8", "backslashreplace"),
        )


def _keyed(envelope: Envelope, delivered: Delivered) -> Envelope:
    """The key that another producer of CloudEvents told RabbitMQ alone."""
    text = delivered.routing_key.decode("utf-8", "replace")
    if not text or text.startswith(ROUTE) or not text.isprintable():
        return envelope
    return structs.replace(envelope, key=text)


def _is_event(fields: Sequence[tuple[str, Any]], properties: Properties) -> bool:
    if properties.content_type.lower().startswith(_STRUCTURED):
        return True
    return any(_usual_name(name) == "ce_specversion" for name, _ in fields)


def _text(value: Any) -> bytes:
    """The value of a header as other brokers would carry it."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, Timestamp):
        return datetime.fromtimestamp(value, UTC).isoformat().replace("+00:00", "Z").encode()
    return b"" if value is None else str(value).encode()
