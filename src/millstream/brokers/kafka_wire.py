"""Records of Kafka and what they are here: CloudEvents in binary or structured mode, or bytes of others."""

from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import quote

import msgspec
from confluent_kafka import Message as Record

from millstream.contracts.codec import STRUCTURED_CONTENT_TYPE, BinaryReader
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import MillstreamError
from millstream.core.broker import Delivery, Message, Partition

_STRUCTURED = STRUCTURED_CONTENT_TYPE.encode()


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
        usual = self._usual(headers, record.value() or b"", partition.topic)
        if usual is not None:
            return Delivery(partition, position, usual)
        if _is_event(headers):
            try:
                envelope = self._read(headers, record.value() or b"", partition.topic)
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
