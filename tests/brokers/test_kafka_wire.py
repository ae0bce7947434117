"""Records of Kafka and what they are here, without a server."""

from collections.abc import Sequence
from typing import Any, cast

from confluent_kafka import Message as Record
from hypothesis import given
from hypothesis import strategies as st

from millstream.brokers.kafka_wire import KafkaReader, event_record
from millstream.contracts.envelope import Envelope
from millstream.core.broker import Delivery, Partition

HERE = Partition("orders", 0)


class FakeRecord:
    """A record as the client hands it over."""

    def __init__(self, headers: Sequence[tuple[str, bytes]], value: bytes, key: bytes | None) -> None:
        self._headers, self._value, self._key = list(headers), value, key

    def headers(self) -> list[tuple[str, bytes]]:
        return self._headers

    def value(self) -> bytes:
        return self._value

    def key(self) -> bytes | None:
        return self._key

    def timestamp(self) -> tuple[int, int]:
        return 1, 5


def sent(e: Envelope, reader: KafkaReader) -> tuple[bytes, Delivery]:
    """The value that an event has on its way, and what comes out there."""
    headers, value = event_record(e)
    record: Any = FakeRecord(headers, value, None if e.key is None else e.key.encode())
    return value, reader.delivery(HERE, 7, cast("Record", record))


def event(**attributes: Any) -> Envelope:
    return Envelope(
        **{"id": "e-1", "source": "/shop", "type": "order.created", "time": 1, "key": "o-1", "topic": "orders", "data": b"{}", **attributes}
    )


@given(
    st.lists(
        st.builds(
            event,
            data=st.binary(max_size=20),
            schema=st.none() | st.integers(0, (1 << 32) - 1).map("confluent:{}".format) | st.just("/schemas/orders"),
            key=st.none() | st.just("o-1"),
            correlation=st.none() | st.just("c-1"),
            content_type=st.sampled_from(["application/json", "application/vnd.x+json; charset=utf-8", "text/plain"]),
        ).filter(lambda e: e.schema is not None or e.data[:1] != b"\x00"),
        min_size=1,
        max_size=4,
    )
)
def test_whatever_is_published_is_read_as_it_was(events: list[Envelope]) -> None:
    """In a frame or without, one kind after another; and a schema that is not a registry's stays in a header."""
    reader = KafkaReader("cluster")

    for e in events:
        assert sent(e, reader)[1] == Delivery(HERE, 7, e)


def test_in_the_frame_is_what_a_confluent_deserializer_looks_for() -> None:
    """A zero byte, the id and the body; a body that is no JSON goes as it is, with its schema in a header."""
    reader = KafkaReader("cluster")

    assert sent(event(schema="confluent:258"), reader)[0] == b"\x00\x00\x00\x01\x02{}"
    assert sent(event(schema="confluent:258", content_type="text/plain"), reader)[0] == b"{}"
    assert sent(event(schema="/schemas/orders"), reader)[0] == b"{}"


def test_a_frame_without_headers_is_left_to_whoever_handles_it() -> None:
    """Only a contract says that such a message is an event."""
    record: Any = FakeRecord([], b"\x00\x00\x00\x00\x07{}", b"o-1")

    delivery = KafkaReader("cluster").delivery(HERE, 7, cast("Record", record))

    assert delivery.envelope is None
    assert delivery.message is not None
    assert delivery.message.body == b"\x00\x00\x00\x00\x07{}"
