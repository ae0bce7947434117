"""The events of these measurements, on topics of their own."""

from dataclasses import dataclass

from benchmarks.orders import AT, LINES, OrderCreated
from millstream import event


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
