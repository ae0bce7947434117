"""Entries of Redis as deliveries."""

import random

from millstream.brokers.redis_wire import RedisReader, event_fields
from millstream.contracts.envelope import Envelope
from millstream.core.broker import Partition


def _bytes(field: bytes | str) -> bytes:
    return field if isinstance(field, bytes) else field.encode()


def _entry(envelope: Envelope, number: int) -> tuple[bytes, list[bytes]]:
    return b"0-%d" % number, [b"t", b"1767225600000", *map(_bytes, event_fields(envelope))]


def test_what_is_read_does_not_depend_on_what_was_read_before() -> None:
    """Events of several kinds, keys or none, with and without a cause, in any order; some in the fields' order of another producer."""
    chance = random.Random(7)
    envelopes = [
        Envelope(
            id=f"id-{number}", source=chance.choice(("/a", "/b")), type=chance.choice(("made", "moved")), topic="t",
            key=chance.choice((None, "k", f"k{number}")), time=1_767_225_600_000_000 + number * chance.choice((1, 1_000_000)),
            data=b"{}", version=chance.choice((1, 2)), correlation=chance.choice((None, None, "c")),
        )
        for number in range(500)
    ]  # fmt: skip
    reader = RedisReader(Partition("t", 0), "s")
    for number, envelope in enumerate(envelopes, 1):
        id_, fields = _entry(envelope, number)
        if chance.random() < 0.2:
            # Another producer's: source and type change places.
            fields[4:8] = [*fields[6:8], *fields[4:6]]
        elif chance.random() < 0.2:
            # Another's, who does not say when it was stored.
            del fields[:2]
        assert reader.delivery((id_, fields)).envelope == envelope


def test_fields_without_what_makes_an_event_are_none() -> None:
    """Also to a reader that has read nothing yet, for which they begin like the last."""
    own = [b"ce_id", b"1", b"ce_subject", b"k", b"ce_partitionkey", b"k", b"ce_time", b"2026-01-01T00:00:00Z"]
    fields = [b"t", b"1", *own, b"data", b"{}"]
    delivery = RedisReader(Partition("t", 0), "s").delivery((b"0-1", fields))
    assert delivery.envelope is None
    assert delivery.message is not None
