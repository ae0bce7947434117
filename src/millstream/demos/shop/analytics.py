"""Counts what happens, in a read model of its own, and shows it live."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from millstream import App, Transaction
from millstream.demos.shop.catalogue import BY_SKU, money
from millstream.demos.shop.contracts import (
    ConfirmationSent,
    OrderPlaced,
    OrderRejected,
    StockReserved,
    order_total,
)
from millstream.demos.shop.crash import crash_points
from millstream.demos.shop.inventory import PATIENT
from millstream.demos.shop.options import Settings
from millstream.demos.shop.process import run_together
from millstream.demos.shop.ready import announce
from millstream.demos.shop.unprotected import Sql, handle_unprotected
from millstream.demos.shop.web import Server, as_event, middleware, page, static_routes

STEPS = ("placed", "reserved", "rejected", "mailed")
REFRESH = 0.25
KEEP_ALIVE = 15.0

SCHEMA = """
create table if not exists totals (name text primary key, value integer not null);
create table if not exists products (sku text primary key, quantity integer not null, revenue integer not null);
create table if not exists effects (order_id text not null, effect text not null);
create index if not exists effects_by_order on effects (order_id);
"""

ShopEvent = OrderPlaced | StockReserved | OrderRejected | ConfirmationSent


def count(db: Sql, event: ShopEvent) -> None:
    """Fold one event into the read model."""
    match event:
        case OrderPlaced():
            step = "placed"
        case StockReserved():
            step = "reserved"
            _add(db, "revenue", order_total(event.lines))
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


def build(settings: Settings) -> App:
    """The analytics service."""
    app = App("analytics", broker=settings.broker_url, store=settings.store_url("analytics"), schema=SCHEMA)
    if not settings.protections.handlers_protected:
        handle_unprotected(
            app,
            OrderPlaced,
            StockReserved,
            OrderRejected,
            ConfirmationSent,
            path=settings.database("analytics"),
            business=count,
            protections=settings.protections,
            points=crash_points(settings, "analytics"),
            group="analytics.project",
        )
        return app

    @app.subscriber(OrderPlaced, StockReserved, OrderRejected, ConfirmationSent, retry=PATIENT, start="earliest")
    async def project(event: ShopEvent, tx: Transaction) -> None:
        count(tx, event)

    return app


async def figures(app: App) -> dict[str, Any]:
    """Everything the dashboard shows."""
    totals = dict(await app.read("select name, value from totals", ()))
    products = await app.read(
        "select sku, quantity, revenue from products order by revenue desc, sku limit 6",
        (),
    )
    return {
        "revenue": money(totals.get("revenue", 0)),
        "funnel": [{"name": step, "count": totals.get(step, 0)} for step in STEPS],
        "products": [
            {
                "name": BY_SKU[sku].name if sku in BY_SKU else sku,
                "quantity": quantity,
                "revenue": money(revenue),
                "cents": revenue,
            }
            for sku, quantity, revenue in products
        ],
    }


def site(app: App, stop: asyncio.Event) -> Starlette:
    """The dashboard, its stream, and the same figures as JSON."""

    async def dashboard(request: Request) -> Response:
        return page("dashboard.html", title="Shop dashboard")

    async def as_json(request: Request) -> Response:
        return JSONResponse(await figures(app), headers={"cache-control": "no-store"})

    async def changes() -> AsyncIterator[str]:
        shown: dict[str, Any] | None = None
        silent = 0.0
        yield "retry: 500\n\n"
        while not stop.is_set():
            current = await figures(app)
            if current != shown:
                shown, silent = current, 0.0
                yield as_event(current)
            elif silent >= KEEP_ALIVE:
                silent = 0.0
                yield ": still here\n\n"
            await asyncio.sleep(REFRESH)
            silent += REFRESH

    async def live(request: Request) -> Response:
        return StreamingResponse(changes(), media_type="text/event-stream", headers={"cache-control": "no-store"})

    routes = [Route("/", dashboard), Route("/figures", as_json), Route("/live", live)]
    return Starlette(routes=[*routes, *static_routes()], middleware=middleware())


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Project and show until stopped."""
    app = build(settings)
    async with app:
        announce(settings, "analytics")
        await run_together(Server(site(app, stop), settings.listening["dashboard"]), stop, app.run(stop))
