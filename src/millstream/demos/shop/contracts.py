"""What the services of the shop tell each other. Money is in integer cents."""

from datetime import datetime

import msgspec

from millstream import event


class Line(msgspec.Struct, frozen=True):
    """One product of an order and how many of it."""

    sku: str
    quantity: int
    unit_price: int

    @property
    def total(self) -> int:
        return self.quantity * self.unit_price


@event("order.placed", key="order_id")
class OrderPlaced(msgspec.Struct, frozen=True):
    """A customer ordered; the storefront has promised an answer."""

    order_id: str
    email: str
    lines: list[Line]
    placed_at: datetime


@event("stock.reserved", key="order_id")
class StockReserved(msgspec.Struct, frozen=True):
    """Every line of the order is set aside for the customer."""

    order_id: str
    email: str
    lines: list[Line]
    placed_at: datetime


@event("order.rejected", key="order_id")
class OrderRejected(msgspec.Struct, frozen=True):
    """The order cannot be delivered: at least one product is out of stock."""

    order_id: str
    email: str
    missing_sku: str


@event("confirmation.sent", key="order_id")
class ConfirmationSent(msgspec.Struct, frozen=True):
    """The mail server has accepted the confirmation."""

    order_id: str
    message_id: str


def order_total(lines: list[Line]) -> int:
    """The price of all lines in cents."""
    return sum(line.total for line in lines)
