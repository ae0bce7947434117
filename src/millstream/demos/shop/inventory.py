"""Reserves stock for each order. Selling more than there is cannot happen: the database refuses it."""

import asyncio

from millstream import App, Retry, Transaction
from millstream.demos.shop import crash
from millstream.demos.shop.catalogue import PRODUCTS
from millstream.demos.shop.contracts import OrderPlaced, OrderRejected, StockReserved
from millstream.demos.shop.crash import crash_points
from millstream.demos.shop.options import Settings
from millstream.demos.shop.ready import announce
from millstream.demos.shop.unprotected import Sql, handle_unprotected

PATIENT = Retry(attempts=12, first=0.1, longest=5.0)

SCHEMA = """
create table if not exists stock (
    sku text primary key,
    initial integer not null,
    on_hand integer not null check (on_hand >= 0)
);
create table if not exists reservations (order_id text not null, sku text not null, quantity integer not null);
create index if not exists reservations_by_order on reservations (order_id);
create table if not exists effects (order_id text not null, effect text not null);
create index if not exists effects_by_order on effects (order_id);
""" + "".join(
    f"insert or ignore into stock values ('{product.sku}', {product.initial_stock}, {product.initial_stock});\n"
    for product in PRODUCTS
)


def reserve(db: Sql, order: OrderPlaced) -> StockReserved | OrderRejected:
    """Set every line aside, or nothing at all."""
    for line in order.lines:
        rows = db.execute("select on_hand from stock where sku = ?", (line.sku,))
        if not rows or rows[0][0] < line.quantity:
            db.execute("insert into effects values (?, 'rejected')", (order.order_id,))
            return OrderRejected(order_id=order.order_id, email=order.email, missing_sku=line.sku)
    for line in order.lines:
        db.execute("update stock set on_hand = on_hand - ? where sku = ?", (line.quantity, line.sku))
        db.execute("insert into reservations values (?, ?, ?)", (order.order_id, line.sku, line.quantity))
    db.execute("insert into effects values (?, 'reserved')", (order.order_id,))
    return StockReserved(order_id=order.order_id, email=order.email, lines=order.lines, placed_at=order.placed_at)


def build(settings: Settings) -> App:
    """The inventory service."""
    points = crash_points(settings, "inventory")
    store = settings.store_url("inventory")
    app = App("inventory", broker=settings.broker_url, store=store, schema=SCHEMA, observers=[points])

    if not settings.protections.all_on:
        handle_unprotected(
            app,
            OrderPlaced,
            business=reserve,
            protections=settings.protections,
            points=points,
            group=settings.group("inventory.reserve_stock"),
            start=settings.start,
        )
        return app

    @app.subscriber(OrderPlaced, retry=PATIENT, group=settings.group("inventory.reserve_stock"), start=settings.start)
    async def reserve_stock(order: OrderPlaced, tx: Transaction) -> StockReserved | OrderRejected:
        outcome = reserve(tx, order)
        points.reach(crash.INSIDE_UNIT_OF_WORK)
        return outcome

    return app


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Run until stopped."""
    app = build(settings)
    async with app:
        announce(settings, "inventory")
        await app.run(stop)
