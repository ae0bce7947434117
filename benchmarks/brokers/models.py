"""The same order as a pydantic model, which is what FastStream's users write."""

from datetime import datetime

from pydantic import BaseModel

from benchmarks.orders import AT, LINES


class OrderLine(BaseModel):
    sku: str
    quantity: int
    price: float


class Order(BaseModel):
    order_id: str
    customer_id: str
    at: datetime
    currency: str
    lines: list[OrderLine]


def orders(count: int) -> list[Order]:
    """So many, each with a key of its own."""
    lines = [OrderLine(sku=line.sku, quantity=line.quantity, price=line.price) for line in LINES]
    return [
        Order(order_id=f"o-{n:08}", customer_id=f"customer-{n % 997}", at=AT, currency="EUR", lines=lines) for n in range(count)
    ]
