"""The events of these measurements, on topics of their own."""

from dataclasses import dataclass

from benchmarks.orders import AT, LINES, OrderCreated
from millstream import event

#: As many attributes, and as long ones, as a CloudEvent with a key has; all events have the same here, which costs nothing to make.
ATTRIBUTES = {
    "ce_specversion": "1.0", "ce_source": "/bench", "ce_type": "bench.published", "content-type": "application/json",
    "ce_id": "01a21634-e360-7caa-8014-463c7070fb0b", "ce_subject": "o-00000000", "ce_partitionkey": "o-00000000",
    "ce_time": "2026-01-31T12:00:00.000000Z",
}  # fmt: skip


@event("bench.stored", key="order_id")
@dataclass(frozen=True, slots=True)
class Stored(OrderCreated):
    """What waits to be handled; where the broker replays, it is published once and stays."""


@event("bench.published", key="order_id")
@dataclass(frozen=True, slots=True)
class Published(OrderCreated):
    """What is published to see how fast that goes."""


@event("bench.reserved", key="order_id")
@dataclass(frozen=True, slots=True)
class Reserved:
    """What is published for each that was handled."""

    order_id: str
    sku: str


@event("bench.tick", key="key")
@dataclass(frozen=True, slots=True)
class Tick:
    """When it was sent, in nanoseconds of the monotonic clock."""

    key: str
    sent: int


def stored(first: int, count: int) -> list[Stored]:
    """So many orders, each with a key of its own."""
    return [Stored(f"o-{n:08}", f"customer-{n % 997}", AT, "EUR", LINES) for n in range(first, first + count)]


def published(first: int, count: int) -> list[Published]:
    """The same, to be published."""
    return [Published(f"o-{n:08}", f"customer-{n % 997}", AT, "EUR", LINES) for n in range(first, first + count)]
