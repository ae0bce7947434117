"""Messages of NATS as deliveries."""

import random

from millstream.brokers.nats_wire import NatsReader, event_head
from millstream.contracts.envelope import Envelope
from millstream.core.broker import Partition


def test_what_is_read_does_not_depend_on_what_was_read_before() -> None:
    """Events of several kinds, keys or none, in any order, and between them some that are wrong."""
    chance = random.Random(7)
    envelopes = [
        Envelope(
            id=f"id-{number}", source=chance.choice(("/a", "/b%c")), type=chance.choice(("made", "moved")), topic="t",
            key=chance.choice((None, "k", f"k {number}")), time=1_767_225_600_000_000 + number * chance.choice((1, 1_000_000)),
            data=b"{}", version=chance.choice((1, 2)), correlation=chance.choice((None, None, "c")),
            content_type=chance.choice(("application/json", 'text/plain; charset="utf-8"')),
        )
        for number in range(500)
    ]  # fmt: skip
    reader = NatsReader(Partition("t", 0), "s", "0")
    for number, envelope in enumerate(envelopes, 1):
        head, body = event_head(envelope)
        if chance.random() < 0.2:
            wrong = head.replace(b"ce-id: ", b"ce-id: twice\r\nce-id: ", 1)
            assert reader.delivery(number, 0, wrong, body).envelope is None
        assert reader.delivery(number, 0, head, body).envelope == envelope
