"""Counts what happens, in a read model of its own, and shows it live."""

import time
from datetime import datetime
from typing import Any

from millstream import App, Transaction
from millstream.demos.shop.catalogue import money, name_of
from millstream.demos.shop.contracts import ConfirmationSent, OrderPlaced, OrderRejected, StockReserved, order_total
from millstream.demos.shop.crash import crash_points
from millstream.demos.shop.inventory import PATIENT
from millstream.demos.shop.options import Settings
from millstream.demos.shop.unprotected import Sql, handle_unprotected

STEPS = ("placed", "reserved", "rejected", "mailed")
#: Orders and revenue are also counted by when the order was placed, in spans of so many seconds.
SPAN = 5
SPANS_SHOWN = 60
TOP = 6

SCHEMA = """
create table if not exists totals (name text primary key, value integer not null);
create table if not exists products (sku text primary key, quantity integer not null, revenue integer not null);
create table if not exists spans (span integer primary key, orders integer not null, revenue integer not null);
create table if not exists effects (order_id text not null, effect text not null);
create index if not exists effects_by_order on effects (order_id);
"""

ShopEvent = OrderPlaced | StockReserved | OrderRejected | ConfirmationSent


def count(db: Sql, event: ShopEvent) -> None:
    """Fold one event into the read model."""
    match event:
        case OrderPlaced():
            step = "placed"
            _add_to_span(db, event.placed_at, orders=1)
        case StockReserved():
            step = "reserved"
            total = order_total(event.lines)
            _add(db, "revenue", total)
            _add_to_span(db, event.placed_at, revenue=total)
            for line in event.lines:
                db.execute(
                    "insert into products values (?, ?, ?) on conflict (sku) do update "
                    "set quantity = quantity + excluded.quantity, revenue = revenue + excluded.revenue",
                    (line.sku, line.quantity, line.total),
                )
        case OrderRejected():
            step = "rejected"
        case ConfirmationSent():
            step = "mailed"
    _add(db, step, 1)
    db.execute("insert into effects values (?, ?)", (event.order_id, step))


def _add(db: Sql, name: str, amount: int) -> None:
    db.execute(
        "insert into totals values (?, ?) on conflict (name) do update set value = value + excluded.value",
        (name, amount),
    )


def _add_to_span(db: Sql, at: datetime, *, orders: int = 0, revenue: int = 0) -> None:
    db.execute(
        "insert into spans values (?, ?, ?) on conflict (span) do update "
        "set orders = orders + excluded.orders, revenue = revenue + excluded.revenue",
        (int(at.timestamp()) // SPAN, orders, revenue),
    )


def build(settings: Settings) -> App:
    """The analytics service."""
    points = crash_points(settings, "analytics")
    store = settings.store_url("analytics")
    app = App("analytics", broker=settings.broker_url, store=store, schema=SCHEMA, observers=[points])

    if not settings.protections.all_on:
        handle_unprotected(
            app,
            OrderPlaced,
            StockReserved,
            OrderRejected,
            ConfirmationSent,
            business=count,
            protections=settings.protections,
            points=points,
            group=settings.group("analytics.project"),
            start=settings.start,
        )
        return app

    everything = (OrderPlaced, StockReserved, OrderRejected, ConfirmationSent)

    @app.subscriber(*everything, retry=PATIENT, group=settings.group("analytics.project"), start=settings.start)
    async def project(event: ShopEvent, tx: Transaction) -> None:
        count(tx, event)

    return app


async def figures(app: App) -> dict[str, Any]:
    """Everything the dashboard shows."""
    totals: dict[str, int] = dict(await app.read("select name, value from totals"))  # type: ignore[arg-type]
    products = await app.read("select sku, quantity, revenue from products order by revenue desc, sku limit ?", (TOP,))
    last = int(time.time()) // SPAN
    spans = {
        span: (orders, revenue)
        for span, orders, revenue in await app.read("select * from spans where span > ?", (last - SPANS_SHOWN,))
    }
    return {
        "revenue": money(totals.get("revenue", 0)),
        "orders_per_minute": sum(orders for span, (orders, _) in spans.items() if last - 60 // SPAN <= span < last),
        "funnel": [{"name": step, "count": totals.get(step, 0)} for step in STEPS],
        "products": [
            {"name": name_of(sku), "quantity": quantity, "revenue": money(revenue), "cents": revenue}
            for sku, quantity, revenue in products
        ],
        "span_seconds": SPAN,
        "spans": [_span(span, *spans.get(span, (0, 0))) for span in range(last - SPANS_SHOWN + 1, last + 1)],
    }


def _span(span: int, orders: int, cents: int) -> dict[str, Any]:
    return {"at": span * SPAN, "orders": orders, "cents": cents, "revenue": money(cents)}
