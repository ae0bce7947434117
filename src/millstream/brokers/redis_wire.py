"""Entries of a stream and what they are here: CloudEvents with an attribute in each field, or bytes of others."""

from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import quote

import msgspec

from millstream.brokers.redis_names import position_of
from millstream.contracts.codec import STRUCTURED_CONTENT_TYPE, BinaryReader, to_binary
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import MillstreamError, TooLargeError
from millstream.core.broker import Delivery, Message, Partition

Entry = tuple[bytes, list[bytes]]
"""Its id, and fields and values in turn."""

TIME, DATA, KEY = b"t", b"data", b"key"
"""Fields: when it was stored, the body, and the key of what is no event."""
#: A header of such a name is written behind this.
HEADER = "header."
_RESERVED = frozenset(("t", "data", "key"))
MOST_HEADERS = 1000
_STRUCTURED = STRUCTURED_CONTENT_TYPE.encode()
#: The fields that an event with a key has of its own, behind those that all of its kind have.
_OWN = [b"ce_id", b"ce_subject", b"ce_partitionkey", b"ce_time", DATA]
_OWN_SIZE = 2 * len(_OWN)


def event_fields(envelope: Envelope) -> list[bytes | str]:
    """The fields of an event."""
    headers, body = to_binary(envelope)
    fields: list[bytes | str] = []
    for header in headers:
        fields += header
    fields += (DATA, body)
    return fields


def message_fields(message: Message) -> list[bytes | str]:
    """The fields of a message that is not ours."""
    if len(message.headers) > MOST_HEADERS:
        raise TooLargeError(f"a message has {len(message.headers)} headers, and this broker takes {MOST_HEADERS}; leave some out")
    fields: list[bytes | str] = []
    if message.key is not None:
        fields += (KEY, message.key)
    for name, value in message.headers:
        fields += (HEADER + name if name in _RESERVED or name.startswith(HEADER) else name, value)
    fields += (DATA, message.body)
    return fields


@lru_cache(maxsize=4096)
def _name(field: bytes) -> str:
    return field.decode("utf-8", "backslashreplace")


class RedisReader:
    """Makes deliveries of entries of one stream."""

    def __init__(self, partition: Partition, stream: str) -> None:
        self._partition = partition
        self._stream = stream
        """What tells it from one that had its name before."""
        self._reader = BinaryReader()
        self._read = self._reader.read
        self._shared = [b"nothing yet"]
        """The fields of the last event that all of its kind have, names and values: an even number of them,"""
        self._as_read = self._reader.shared
        """and what the reader made of them: it may have read others since."""

    def delivery(self, entry: Entry) -> Delivery:
        """An entry as a delivery: an event where it says that it is one and keeps the rules, else its bytes."""
        id_, fields = entry
        position = position_of(id_)
        is_usual = fields[-_OWN_SIZE::2] == _OWN and fields[0] == TIME
        if is_usual and fields[2:-_OWN_SIZE] == self._shared and self._as_read is self._reader.shared:
            _, id, _, subject, _, key, _, time, _, body = fields[-_OWN_SIZE:]
            usual = self._reader.like_the_last(id, subject, key, time, body, self._partition.topic)
            if usual is not None:
                return Delivery(self._partition, position, usual)
        if len(fields) > 4 and fields[2] == b"ce_specversion" and fields[-2] == DATA and fields[0] == TIME:
            headers = list(zip(map(_name, fields[2:-2:2]), fields[3:-2:2], strict=True))
            try:
                envelope = self._read(headers, fields[-1], self._partition.topic)
                if is_usual and headers[:-4] == self._reader.shared:
                    self._shared, self._as_read = fields[2:-_OWN_SIZE], self._reader.shared
                return Delivery(self._partition, position, envelope)
            except MillstreamError:
                # Whoever handles it finds the same error, and parks it with its bytes.
                pass
        return self._other(id_, position, fields)

    def _other(self, id_: bytes, position: int, fields: Sequence[bytes]) -> Delivery:
        millis, key, body = int(id_.split(b"-")[0]), None, None
        headers: list[tuple[str, bytes]] = []
        for index in range(0, len(fields), 2):
            field, value = fields[index], fields[index + 1]
            if field == TIME and index == 0 and value.isdigit():
                millis = int(value)
            elif field == DATA and body is None:
                body = value
            elif field == KEY and key is None:
                key = value
            else:
                headers.append((_name(field).removeprefix(HEADER), value))
        topic = self._partition.topic
        if _is_event(headers):
            try:
                return Delivery(self._partition, position, _keyed(self._read(headers, body or b"", topic), key))
            except MillstreamError:
                pass
        if body is None and (document := _document(headers)) is not None:
            body, headers = document, []
        message = Message(
            topic=topic,
            body=body or b"",
            key=key,
            headers=tuple(headers),
            time=millis * 1000,
            source=f"redis:/{quote(topic, safe='')}",
            id=f"{self._stream}-{self._partition.number}-{position}" if self._stream else "",
        )
        return Delivery(self._partition, position, None, message)


def _is_event(headers: Sequence[tuple[str, bytes]]) -> bool:
    for name, value in headers:
        if name == "ce_specversion" or (name.lower() == "content-type" and value.lower().startswith(_STRUCTURED)):
            return True
    return False


def _keyed(envelope: Envelope, key: bytes | None) -> Envelope:
    """The key that another producer of CloudEvents told Redis alone; as it is when it is no text."""
    try:
        text = "" if key is None else key.decode()
    except UnicodeDecodeError:
        return envelope
    if envelope.key is not None or not text or not text.isprintable():
        return envelope
    return msgspec.structs.replace(envelope, key=text)


def _document(fields: Sequence[tuple[str, bytes]]) -> bytes | None:
    """The fields of an entry without a body as one JSON object, as producers for Redis alone write them; None where one is no text."""
    try:
        return msgspec.json.encode({name: value.decode() for name, value in fields})
    except UnicodeDecodeError:
        return None
