"""The events of the measurements: an order of three lines, about 260 bytes of JSON."""

from dataclasses import dataclass
from datetime import UTC, datetime

from millstream import event


@dataclass(frozen=True, slots=True)
class Line:
    sku: str
    quantity: int
    price: float


@event("order.created", key="order_id")
@dataclass(frozen=True, slots=True)
class OrderCreated:
    order_id: str
    customer_id: str
    at: datetime
    currency: str
    lines: list[Line]


@event("stock.reserved", key="order_id")
@dataclass(frozen=True, slots=True)
class StockReserved:
    order_id: str
    sku: str


@event("tick.happened", key="key")
@dataclass(frozen=True, slots=True)
class Tick:
    key: str
    sent: int
    """Nanoseconds of the monotonic clock, which all processes of a machine share."""


AT = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
LINES = [Line("blue-mug-large", 2, 12.5), Line("tea-cup-small", 1, 8.25), Line("saucer-white", 12, 3.75)]


def orders(first: int, count: int) -> list[OrderCreated]:
    """So many orders, each with a key of its own."""
    return [OrderCreated(f"o-{n:08}", f"customer-{n % 997}", AT, "EUR", LINES) for n in range(first, first + count)]
