"""Records of Kafka and what they are here: CloudEvents in binary or structured mode, in Confluent's frame too, or bytes of others."""

from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import quote

import msgspec
from confluent_kafka import Message as Record

from millstream.contracts.codec import STRUCTURED_CONTENT_TYPE, BinaryReader, is_json_type, to_binary
from millstream.contracts.confluent import frame_of, is_json, unframed
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import MillstreamError
from millstream.core.broker import Delivery, Message, Partition

_STRUCTURED = STRUCTURED_CONTENT_TYPE.encode()


def event_record(e: Envelope) -> tuple[list[tuple[str, bytes]], bytes]:
    """Headers and value of an event; where its schema is one of a registry of Confluent's, the frame says so and no header does."""
    frame = None if e.schema is None else frame_of(e.schema)
    # Who reads a frame that no JSON follows leaves it there: the bytes may be anybody's.
    if frame is None or not is_json_type(e.content_type) or not is_json(e.data):
        return to_binary(e, partitionkey=False)
    headers, body = to_binary(msgspec.structs.replace(e, schema=None), partitionkey=False)
    return headers, frame + body


class KafkaReader:
    """Makes deliveries of records; knows what names the cluster and its topics for ever."""

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        reader = BinaryReader()
        self._usual, self._read = reader.usual, reader.read
        self.topic_ids: Mapping[str, str] = {}
        """By name: a topic that was deleted and made anew has another id, and its offsets begin anew."""

    def delivery(self, partition: Partition, position: int, record: Record) -> Delivery:
        """One record as a delivery: an event where it says that it is one and keeps the rules, else its bytes."""
        # Any: a cast is a call, and this is once for each event.
        found: Any = record.headers()
        headers: Sequence[tuple[str, bytes | None]] = found or ()
        body = record.value() or b""
        usual = self._usual(headers, body, partition.topic)
        if usual is not None:
            # What nearly none begins with: a call less for each of them.
            return Delivery(partition, position, unframed(usual) if body[:1] == b"\x00" else usual)
        if _is_event(headers):
            try:
                envelope = unframed(self._read(headers, body, partition.topic))
            except MillstreamError:
                # Whoever handles it finds the same error, and parks it with its bytes.
                return Delivery(partition, position, None, self._message(partition, position, record, headers))
            if envelope.key is None and record.key() is not None:
                envelope = _keyed(envelope, cast("bytes", record.key()))
            return Delivery(partition, position, envelope)
        return Delivery(partition, position, None, self._message(partition, position, record, headers))

    def _message(
        self, partition: Partition, position: int, record: Record, headers: Sequence[tuple[str, bytes | None]]
    ) -> Message:
        _, millis = record.timestamp()
        topic_id = self.topic_ids.get(partition.topic)
        return Message(
            topic=partition.topic,
            body=record.value() or b"",
            key=record.key(),
            headers=tuple((name, value or b"") for name, value in headers),
            time=max(millis, 0) * 1000,
            source=f"kafka:/{quote(self._cluster, safe='')}/{quote(partition.topic, safe='')}",
            id=f"{topic_id}-{partition.number}-{position}" if topic_id else "",
        )


def _is_event(headers: Sequence[tuple[str, bytes | None]]) -> bool:
    for name, value in headers:
        if name == "ce_specversion" or (name.lower() == "content-type" and (value or b"").lower().startswith(_STRUCTURED)):
            return True
    return False


def _keyed(envelope: Envelope, key: bytes) -> Envelope:
    """The key that another producer of CloudEvents told Kafka alone; as it is when it is no text."""
    try:
        text = key.decode()
    except UnicodeDecodeError:
        return envelope
    changes: dict[str, Any] = {"key": text} if text and text.isprintable() else {}
    return msgspec.structs.replace(envelope, **changes)
