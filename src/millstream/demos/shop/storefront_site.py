"""The shop in the browser, and the same as JSON for programs."""

import asyncio
import uuid
from collections.abc import Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from millstream.demos.shop.catalogue import PRODUCTS, money, name_of
from millstream.demos.shop.crash import crash_points
from millstream.demos.shop.options import Settings
from millstream.demos.shop.order_form import (
    LARGEST_QUANTITY,
    LONGEST_EMAIL,
    InvalidOrder,
    fields_of,
    idempotency_key,
    order_from_form,
    order_from_json,
)
from millstream.demos.shop.process import run_together
from millstream.demos.shop.ready import announce
from millstream.demos.shop.storefront import Desk, KeyReused, build
from millstream.demos.shop.web import Markup, Pages, Server, body_of, fill, joined, site, wants_json

_PRODUCT = """
<li class="product" data-sku="$sku" data-name="$name" data-price="$price">
<label class="name" for="$sku">$name</label>
<p class="quiet">$about</p>
<p class="price">$money</p>
$note$problem
<div class="stepper">
<button type="button" class="less" aria-label="One $name less" hidden>&minus;</button>
<input id="$sku" name="quantity.$sku" type="number" inputmode="numeric" min="0" max="$most" value="$quantity"$invalid>
<button type="button" class="more" aria-label="One $name more" hidden>+</button>
</div>
</li>
"""
_PROBLEM = '<p class="problem" id="$field-problem">$words</p>'
_SHORT = Markup('<p class="short">Few left, or none</p>\n')
_LINE = '<tr><th scope="row">$name</th><td class="number">$quantity</td><td class="number">$price</td></tr>\n'
_SENT_ALREADY = (
    "You have sent this form before, and that order is placed: {}. What is below is another order; send it again if you want both."
)


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Serve the pages and follow the orders until stopped."""
    points = crash_points(settings, "storefront")
    app = build(settings, points)
    desk = Desk(app, settings.protections, points)
    async with app:
        announce(settings, "storefront")
        pages = Pages(settings, "Shop")
        await run_together(Server(storefront_site(desk, pages), settings.listening["shop"]), stop, app.run(stop))


def storefront_site(desk: Desk, pages: Pages) -> Starlette:
    """The storefront's pages."""

    async def shop(request: Request) -> Response:
        return _shop(pages, await desk.ran_short())

    async def products(request: Request) -> Response:
        return JSONResponse([{"sku": each.sku, "name": each.name, "price": each.price} for each in PRODUCTS])

    async def place(request: Request) -> Response:
        body = await body_of(request)
        is_json = request.headers.get("content-type", "").partition(";")[0].strip() == "application/json"
        fields: dict[str, str] = {}

        async def refused(problems: dict[str, str], status: int) -> Response:
            if is_json or wants_json(request):
                return JSONResponse({"errors": problems}, status_code=status)
            return _shop(pages, await desk.ran_short(), fields, problems, status)

        try:
            if body is None:
                return await refused({"body": "An order is never that large."}, 413)
            fields = {} if is_json else fields_of(body)
            key = idempotency_key(request.headers.get("idempotency-key"), fields)
            order_id, created = await desk.place(order_from_json(body) if is_json else order_from_form(fields), key)
        except InvalidOrder as invalid:
            return await refused(invalid.problems, 422)
        except KeyReused as reused:
            fields = {name: value for name, value in fields.items() if name != "idempotency_key"}
            return await refused({"idempotency_key": _SENT_ALREADY.format(reused.order_id)}, 409)
        location = f"/orders/{order_id}"
        if is_json:
            answer = {"order_id": order_id, "created": created, "url": location}
            return JSONResponse(answer, status_code=201 if created else 200, headers={"location": location})
        return RedirectResponse(location, status_code=303)

    async def show(request: Request) -> Response:
        order = await desk.find(request.path_params["order_id"])
        if order is None:
            return pages.refusal(request, "Not found", "There is no such order.", 404)
        if wants_json(request):
            return JSONResponse(order, headers={"cache-control": "no-store"})
        return _order(pages, order)

    routes = [
        Route("/", shop),
        Route("/products", products),
        Route("/orders", place, methods=["POST"]),
        Route("/orders/{order_id}", show),
    ]
    return site(pages, routes)


def _shop(
    pages: Pages,
    ran_short: set[str],
    fields: Mapping[str, str] | None = None,
    problems: Mapping[str, str] | None = None,
    status: int = 200,
) -> Response:
    """The products and the form; after a refusal with what the customer had entered, and what is wrong with it."""
    fields, problems = fields or {}, dict(problems or {})
    rows: list[dict[str, object]] = [
        {
            "sku": product.sku,
            "name": product.name,
            "about": product.about,
            "price": product.price,
            "money": money(product.price),
            "most": LARGEST_QUANTITY,
            "note": _SHORT if product.sku in ran_short else "",
            "quantity": fields.get(f"quantity.{product.sku}", "0"),
            **_trouble(product.sku, problems.pop(product.sku, None)),
        }
        for product in PRODUCTS
    ]
    email = _trouble("email", problems.pop("email", None))
    general = joined('<p class="problem" role="alert">$words</p>\n', [{"words": words} for words in problems.values()])
    return pages.page(
        "shop.html",
        title="Mill shop" if status == 200 else "Mill shop: please check your order",
        status=status,
        products=joined(_PRODUCT, rows),
        problems=general,
        email=fields.get("email", ""),
        email_problem=email["problem"],
        email_invalid=email["invalid"],
        longest=LONGEST_EMAIL,
        key=fields.get("idempotency_key") or uuid.uuid4().hex,
    )


def _trouble(field: str, words: str | None) -> dict[str, object]:
    if words is None:
        return {"problem": "", "invalid": ""}
    return {
        "problem": fill(_PROBLEM, field=field, words=words),
        "invalid": fill(' aria-invalid="true" aria-describedby="$field-problem"', field=field),
    }


def _order(pages: Pages, order: dict[str, Any]) -> Response:
    lines: list[dict[str, Any]] = order["lines"]
    rows: list[dict[str, object]] = [
        {
            "name": name_of(line["sku"]),
            "quantity": line["quantity"],
            "price": money(line["unit_price"] * line["quantity"]),
        }
        for line in lines
    ]
    return pages.page(
        "order.html",
        title=f"Order {order['order_id']}",
        order_id=order["order_id"],
        email=order["email"],
        state=order["state"],
        total=money(order["total"]),
        rows=joined(_LINE, rows),
    )
