"""Takes orders, each exactly once however often it is sent, and follows what becomes of them."""

import json
import uuid
from datetime import UTC, datetime
from typing import Any

import msgspec

from millstream import App, Transaction
from millstream.demos.shop import crash
from millstream.demos.shop.contracts import ConfirmationSent, OrderPlaced, OrderRejected, StockReserved, order_total
from millstream.demos.shop.crash import CrashPoints
from millstream.demos.shop.inventory import PATIENT
from millstream.demos.shop.options import Protections, Settings
from millstream.demos.shop.order_form import OrderRequest
from millstream.demos.shop.unprotected import Sql, handle_unprotected

SCHEMA = """
create table if not exists orders (
    order_id text primary key,
    idempotency_key text not null unique,
    fingerprint text not null,
    email text not null,
    lines text not null,
    total integer not null,
    placed_at text not null
);
create table if not exists outcomes (order_id text not null, outcome text not null, detail text not null, at text not null);
create index if not exists outcomes_by_order on outcomes (order_id);
create index if not exists outcomes_missing on outcomes (detail) where outcome = 'rejected';
"""

Outcome = StockReserved | OrderRejected | ConfirmationSent


class KeyReused(Exception):
    """The idempotency key already stands for another order."""

    def __init__(self, order_id: str) -> None:
        super().__init__(order_id)
        self.order_id = order_id


class Desk:
    """Places orders: the row and the event commit together."""

    def __init__(self, app: App, protections: Protections, points: CrashPoints) -> None:
        self._app = app
        self._protections = protections
        self._points = points

    async def place(self, request: OrderRequest, key: str) -> tuple[str, bool]:
        """The order's id, and whether it is new; the same key again gives the same order."""
        order_id = f"ord_{uuid.uuid4().hex[:20]}"
        placed = OrderPlaced(order_id=order_id, email=request.email, lines=request.lines, placed_at=datetime.now(UTC))
        async with self._app.unit_of_work() as work:
            query = "select order_id, fingerprint from orders where idempotency_key = ?"
            if rows := work.execute(query, (key,)):
                order_id, fingerprint = rows[0]
                if fingerprint != request.fingerprint:
                    raise KeyReused(order_id)
                return order_id, False
            work.execute("insert into orders values (?, ?, ?, ?, ?, ?, ?)", _row(placed, key, request.fingerprint))
            if self._protections.outbox:
                work.publish(placed)
            self._points.reach(crash.INSIDE_UNIT_OF_WORK)
        self._points.reach(crash.BETWEEN_COMMIT_AND_PUBLISH)
        if not self._protections.outbox:
            await self._app.publish(placed)
        return placed.order_id, True

    async def find(self, order_id: str) -> dict[str, Any] | None:
        """The order and what has become of it so far."""
        query = "select email, lines, total, placed_at from orders where order_id = ?"
        rows = await self._app.read(query, (order_id,))
        if not rows:
            return None
        email, lines, total, placed_at = rows[0]
        query = "select outcome, detail, at from outcomes where order_id = ? order by rowid"
        history = await self._app.read(query, (order_id,))
        outcomes = {outcome: (detail, at) for outcome, detail, at in history}
        return {
            "order_id": order_id,
            "email": email,
            "lines": json.loads(lines),
            "total": total,
            "state": next((state for state in ("mailed", "rejected", "reserved") if state in outcomes), "placed"),
            "at": {"placed": placed_at, **{outcome: at for outcome, (_, at) in outcomes.items()}},
            "missing_sku": outcomes["rejected"][0] if "rejected" in outcomes else None,
        }

    async def ran_short(self) -> set[str]:
        """Products of which somebody wanted more than there was: all that the storefront knows of the shelf."""
        return {sku for (sku,) in await self._app.read("select distinct detail from outcomes where outcome = 'rejected'")}


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")


def _row(order: OrderPlaced, key: str, fingerprint: str) -> tuple[object, ...]:
    lines = msgspec.json.encode(order.lines).decode()
    return (order.order_id, key, fingerprint, order.email, lines, order_total(order.lines), _text(order.placed_at))


def follow(db: Sql, event: Outcome) -> None:
    """Note what became of the order."""
    match event:
        case StockReserved():
            outcome, detail = "reserved", ""
        case OrderRejected():
            outcome, detail = "rejected", event.missing_sku
        case ConfirmationSent():
            outcome, detail = "mailed", event.message_id
    db.execute("insert into outcomes values (?, ?, ?, ?)", (event.order_id, outcome, detail, _text(datetime.now(UTC))))


def build(settings: Settings, points: CrashPoints) -> App:
    """The storefront's subscriptions: it follows its own orders."""
    store = settings.store_url("storefront")
    app = App("storefront", broker=settings.broker_url, store=store, schema=SCHEMA, observers=[points])

    if not settings.protections.all_on:
        handle_unprotected(
            app,
            StockReserved,
            OrderRejected,
            ConfirmationSent,
            business=follow,
            protections=settings.protections,
            points=points,
            group=settings.group("storefront.follow_order"),
            start=settings.start,
        )
        return app

    ends = (StockReserved, OrderRejected, ConfirmationSent)

    @app.subscriber(*ends, retry=PATIENT, group=settings.group("storefront.follow_order"), start=settings.start)
    async def follow_order(event: Outcome, tx: Transaction) -> None:
        follow(tx, event)

    return app
