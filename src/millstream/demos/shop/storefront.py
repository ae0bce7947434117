"""The shop's page: takes orders, each exactly once however often it is sent, and shows what becomes of them."""

import asyncio
import hashlib
import json
import re
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qs

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from millstream import App, Transaction
from millstream.demos.shop import crash
from millstream.demos.shop.catalogue import BY_SKU, PRODUCTS, money
from millstream.demos.shop.contracts import (
    ConfirmationSent,
    Line,
    OrderPlaced,
    OrderRejected,
    StockReserved,
    order_total,
)
from millstream.demos.shop.crash import CrashPoints, crash_points
from millstream.demos.shop.inventory import PATIENT
from millstream.demos.shop.options import Protections, Settings
from millstream.demos.shop.process import run_together
from millstream.demos.shop.ready import announce
from millstream.demos.shop.unprotected import Sql, handle_unprotected
from millstream.demos.shop.web import Markup, Server, body_of, fill, middleware, page, static_routes

LARGEST_QUANTITY = 99
_EMAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*")
_KEY = re.compile(r"[\x21-\x7e]{1,200}")

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
create table if not exists outcomes (order_id text not null, outcome text not null, detail text not null);
create index if not exists outcomes_by_order on outcomes (order_id);
"""


class InvalidOrder(Exception):
    """What is wrong with an order, field by field, in words for the customer."""

    def __init__(self, problems: dict[str, str]) -> None:
        super().__init__("; ".join(problems.values()))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """A valid order that is not placed yet."""

    email: str
    lines: list[Line]

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(msgspec.json.encode([self.email, self.lines])).hexdigest()


def validate(email: object, quantities: dict[str, object]) -> OrderRequest:
    """Check everything and name every problem at once; prices come from the catalogue, never from the customer."""
    problems: dict[str, str] = {}
    if not isinstance(email, str) or len(email) > 254 or not _EMAIL.fullmatch(email):
        problems["email"] = "Please enter an e-mail address such as ada@example.com."
    lines = []
    for sku, quantity in quantities.items():
        if sku not in BY_SKU:
            problems[sku] = f"We do not sell {sku[:60]!r}."
        elif type(quantity) is not int or not 0 <= quantity <= LARGEST_QUANTITY:
            problems[sku] = f"{BY_SKU[sku].name}: choose a whole number from 0 to {LARGEST_QUANTITY}."
        elif quantity:
            lines.append(Line(sku=sku, quantity=quantity, unit_price=BY_SKU[sku].price))
    if not lines and not problems.keys() - {"email"}:
        problems["lines"] = "Please choose at least one product."
    if problems:
        raise InvalidOrder(problems)
    return OrderRequest(email=str(email), lines=sorted(lines, key=lambda line: line.sku))


def order_from_json(body: bytes) -> OrderRequest:
    """`{"email": "...", "lines": [{"sku": "oats", "quantity": 2}]}`."""
    try:
        data = json.loads(body)
        quantities: dict[str, object] = {}
        for line in data["lines"]:
            sku, quantity = str(line["sku"]), line["quantity"]
            earlier = quantities.get(sku, 0)
            both_whole = type(quantity) is int and type(earlier) is int
            quantities[sku] = earlier + quantity if both_whole else quantity  # pyright: ignore[reportOperatorIssue]
        email = data["email"]
    except (ValueError, KeyError, TypeError, RecursionError):
        wanted = 'Send JSON such as {"email": "ada@example.com", "lines": [{"sku": "oats", "quantity": 2}]}.'
        raise InvalidOrder({"body": wanted}) from None
    return validate(email, quantities)


def order_from_form(fields: dict[str, list[str]]) -> OrderRequest:
    """The fields of the shop page: `email` and `quantity.<sku>`."""
    quantities: dict[str, object] = {}
    for name, values in fields.items():
        if name.startswith("quantity."):
            text = values[0].strip()
            whole = text.isascii() and text.isdigit() and len(text) < 6
            quantities[name.removeprefix("quantity.")] = int(text) if whole else (text or 0)
    return validate(fields.get("email", [""])[0].strip(), quantities)


class KeyReused(Exception):
    """The idempotency key already stands for another order."""


class Desk:
    """Places orders: the row and the event commit together."""

    def __init__(self, app: App, protections: Protections, points: CrashPoints) -> None:
        self._app = app
        self._protections = protections
        self._points = points

    async def place(self, request: OrderRequest, key: str) -> tuple[str, bool]:
        """The order's id, and whether it is new; the same key again gives the same order."""
        placed = OrderPlaced(order_id=f"ord_{uuid.uuid4().hex[:20]}", email=request.email, lines=request.lines)
        async with self._app.unit_of_work() as work:
            query = "select order_id, fingerprint from orders where idempotency_key = ?"
            if rows := work.execute(query, (key,)):
                order_id, fingerprint = rows[0]
                if fingerprint != request.fingerprint:
                    raise KeyReused
                return order_id, False
            work.execute("insert into orders values (?, ?, ?, ?, ?, ?, ?)", _row(placed, key, request.fingerprint))
            if self._protections.outbox:
                work.publish(placed)
            self._points.reach(crash.INSIDE_UNIT_OF_WORK)
        self._points.reach(crash.BETWEEN_COMMIT_AND_PUBLISH)
        if not self._protections.outbox:
            await self._app.publish(placed)
        return placed.order_id, True

    async def find(self, order_id: str) -> dict[str, object] | None:
        """The order and what has become of it so far."""
        query = "select email, lines, total, placed_at from orders where order_id = ?"
        rows = await self._app.read(query, (order_id,))
        if not rows:
            return None
        email, lines, total, placed_at = rows[0]
        history = await self._app.read("select outcome, detail from outcomes where order_id = ?", (order_id,))
        outcomes = dict(history)
        return {
            "order_id": order_id,
            "email": email,
            "lines": json.loads(lines),
            "total": total,
            "placed_at": placed_at,
            "state": next((state for state in ("mailed", "rejected", "reserved") if state in outcomes), "placed"),
            "missing_sku": outcomes.get("rejected"),
        }


def _row(order: OrderPlaced, key: str, fingerprint: str) -> tuple[object, ...]:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    lines = msgspec.json.encode(order.lines).decode()
    return (order.order_id, key, fingerprint, order.email, lines, order_total(order.lines), now)


def follow(db: Sql, event: StockReserved | OrderRejected | ConfirmationSent) -> None:
    """Note what became of the order."""
    match event:
        case StockReserved():
            outcome, detail = "reserved", ""
        case OrderRejected():
            outcome, detail = "rejected", event.missing_sku
        case ConfirmationSent():
            outcome, detail = "mailed", event.message_id
    db.execute("insert into outcomes values (?, ?, ?)", (event.order_id, outcome, detail))


def build(settings: Settings) -> App:
    """The storefront's subscriptions: it follows its own orders."""
    app = App("storefront", broker=settings.broker_url, store=settings.store_url("storefront"), schema=SCHEMA)
    if not settings.protections.handlers_protected:
        handle_unprotected(
            app,
            StockReserved,
            OrderRejected,
            ConfirmationSent,
            path=settings.database("storefront"),
            business=follow,
            protections=settings.protections,
            points=crash_points(settings, "storefront-handler"),
            group="storefront.follow_order",
        )
        return app

    @app.subscriber(StockReserved, OrderRejected, ConfirmationSent, retry=PATIENT, start="earliest")
    async def follow_order(event: StockReserved | OrderRejected | ConfirmationSent, tx: Transaction) -> None:
        follow(tx, event)

    return app


def site(desk: Desk) -> Starlette:
    """The storefront's pages."""

    async def shop(request: Request) -> Response:
        return _shop_page()

    async def place(request: Request) -> Response:
        body = await body_of(request)
        is_json = request.headers.get("content-type", "").partition(";")[0].strip() == "application/json"
        if body is None:
            return _refusal({"body": "An order is never that large."}, is_json=is_json, status=413)
        try:
            key, order = _read_order(request, body, is_json=is_json)
            order_id, created = await desk.place(order, key)
        except InvalidOrder as invalid:
            return _refusal(invalid.problems, is_json=is_json, status=422)
        except KeyReused:
            reused = "This Idempotency-Key already stands for another order. Reload the page, or use a new key."
            return _refusal({"idempotency_key": reused}, is_json=is_json, status=409)
        location = f"/orders/{order_id}"
        if is_json:
            answer = {"order_id": order_id, "created": created, "url": location}
            return JSONResponse(answer, status_code=201 if created else 200, headers={"location": location})
        return RedirectResponse(location, status_code=303)

    async def show(request: Request) -> Response:
        order = await desk.find(request.path_params["order_id"])
        wants_json = "application/json" in request.headers.get("accept", "")
        if order is None:
            return _refusal({"order": "There is no such order."}, is_json=wants_json, status=404)
        return JSONResponse(order, headers={"cache-control": "no-store"}) if wants_json else _order_page(order)

    routes = [Route("/", shop), Route("/orders", place, methods=["POST"]), Route("/orders/{order_id}", show)]
    return Starlette(routes=[*routes, *static_routes()], middleware=middleware())


def _read_order(request: Request, body: bytes, *, is_json: bool) -> tuple[str, OrderRequest]:
    header = request.headers.get("idempotency-key")
    fields: dict[str, list[str]] = {}
    if not is_json:
        try:
            fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=100)
        except ValueError:
            raise InvalidOrder({"body": "This form cannot be read. Send it as UTF-8 from the shop page."}) from None
        header = header or fields.get("idempotency_key", [""])[0]
    if not header or not _KEY.fullmatch(header):
        missing = "Send an Idempotency-Key header (any text unique to this order), so that sending again is safe."
        raise InvalidOrder({"idempotency_key": missing})
    return header, order_from_json(body) if is_json else order_from_form(fields)


def _shop_page() -> Response:
    rows = [
        fill(
            '<tr><th scope="row"><label for="$sku">$name</label></th><td class="number">$price</td>'
            '<td><input class="quantity" id="$sku" name="quantity.$sku" type="number" inputmode="numeric" '
            'min="0" max="$most" value="0"></td></tr>\n',
            sku=product.sku,
            name=product.name,
            price=money(product.price),
            most=LARGEST_QUANTITY,
        )
        for product in PRODUCTS
    ]
    return page("shop.html", title="Mill shop", rows=Markup("".join(rows)), key=uuid.uuid4().hex)


def _order_page(order: dict[str, object]) -> Response:
    lines: list[dict[str, object]] = order["lines"]  # type: ignore[assignment]
    rows = [
        fill(
            '<tr><th scope="row">$name</th><td class="number">$quantity</td><td class="number">$price</td></tr>\n',
            name=BY_SKU[str(line["sku"])].name,
            quantity=line["quantity"],
            price=money(int(str(line["unit_price"])) * int(str(line["quantity"]))),
        )
        for line in lines
    ]
    return page(
        "order.html",
        title=f"Order {order['order_id']}",
        order_id=order["order_id"],
        email=order["email"],
        state=order["state"],
        missing=order["missing_sku"] or "",
        total=money(int(str(order["total"]))),
        rows=Markup("".join(rows)),
    )


def _refusal(problems: dict[str, str], *, is_json: bool, status: int) -> Response:
    if is_json:
        return JSONResponse({"errors": problems}, status_code=status)
    items = Markup("".join(fill("<li>$problem</li>", problem=problem) for problem in problems.values()))
    return page("problem.html", title="That did not work", status=status, items=items)


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Serve the page and follow the orders until stopped."""
    app = build(settings)
    desk = Desk(app, settings.protections, crash_points(settings, "storefront"))
    async with app:
        announce(settings, "storefront")
        await run_together(Server(site(desk), settings.listening["shop"]), stop, app.run(stop))
