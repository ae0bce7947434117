"""The shop's pages, asked as a browser and as a program would ask them, without a network."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from millstream import App
from millstream.demos.shop.crash import crash_points
from millstream.demos.shop.options import Settings
from millstream.demos.shop.storefront import Desk, build
from millstream.demos.shop.storefront_site import storefront_site
from millstream.demos.shop.web import Markup, Pages, fill

ORDER = {"email": "ada@example.com", "lines": [{"sku": "oats", "quantity": 2}]}
FORM = {"email": "ada@example.com", "quantity.oats": "2", "idempotency_key": "k"}


@dataclass
class Storefront:
    """The pages, and the app behind them."""

    http: httpx.AsyncClient
    app: App

    async def orders(self) -> int:
        return int((await self.app.read("select count(*) from orders"))[0][0])


@pytest.fixture
async def storefront(tmp_path: Path) -> AsyncIterator[Storefront]:
    """A storefront on files of its own, with nobody else running."""
    settings = Settings(data=str(tmp_path))
    points = crash_points(settings, "storefront")
    app = build(settings, points)
    web = storefront_site(Desk(app, settings.protections, points), Pages(settings, "Shop"))
    async with app, httpx.AsyncClient(transport=httpx.ASGITransport(web), base_url="http://127.0.0.1") as http:
        yield Storefront(http, app)


async def test_an_order_in_the_browser_leads_to_its_page(storefront: Storefront) -> None:
    """The form that the shop page shows is the one that the shop takes."""
    shown = await storefront.http.get("/")
    key = re.search(r'name="idempotency_key" value="(\w+)"', shown.text)
    assert key is not None

    answer = await storefront.http.post("/orders", data={**FORM, "idempotency_key": key[1]})

    assert answer.status_code == 303
    page = await storefront.http.get(answer.headers["location"])
    assert "ada@example.com" in page.text
    assert "5.18" in page.text


async def test_clicking_twice_places_one_order(storefront: Storefront) -> None:
    """The second answer leads to the order of the first."""
    first = await storefront.http.post("/orders", data=FORM)
    second = await storefront.http.post("/orders", data=FORM)

    assert first.headers["location"] == second.headers["location"]
    assert await storefront.orders() == 1


async def test_a_form_that_was_sent_and_then_changed_is_asked_about(storefront: Storefront) -> None:
    """The customer may mean another order: the page comes back with what was entered, and with a new key."""
    await storefront.http.post("/orders", data=FORM)

    answer = await storefront.http.post("/orders", data={**FORM, "quantity.oats": "3"})

    assert answer.status_code == 409
    assert 'name="quantity.oats" type="number" inputmode="numeric" min="0" max="99" value="3"' in answer.text
    assert 'name="idempotency_key" value="k"' not in answer.text
    assert await storefront.orders() == 1


async def test_a_wrong_form_comes_back_with_what_was_entered(storefront: Storefront) -> None:
    """Each problem stands at its field, and nothing has to be typed again."""
    answer = await storefront.http.post("/orders", data={**FORM, "email": '"><b>', "quantity.oats": "400"})

    assert answer.status_code == 422
    assert 'value="&quot;&gt;&lt;b&gt;" aria-invalid="true" aria-describedby="email-problem"' in answer.text
    assert 'value="400" aria-invalid="true" aria-describedby="oats-problem"' in answer.text
    assert await storefront.orders() == 0


async def test_programs_order_with_json(storefront: Storefront) -> None:
    """201 the first time, 200 with the same order after that."""
    headers = {"idempotency-key": "k"}

    first = await storefront.http.post("/orders", json=ORDER, headers=headers)
    second = await storefront.http.post("/orders", json=ORDER, headers=headers)

    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["order_id"] == second.json()["order_id"]
    order = await storefront.http.get(first.json()["url"], headers={"accept": "application/json"})
    assert order.json()["state"] == "placed"
    assert order.json()["total"] == 518


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (ORDER, {}, 422),
        ({"email": "ada@example.com", "lines": []}, {"idempotency-key": "k"}, 422),
        ({"email": "x" * 70_000, "lines": []}, {"idempotency-key": "k"}, 413),
    ],
)
async def test_programs_are_told_what_is_wrong(
    storefront: Storefront, body: dict[str, object], headers: dict[str, str], status: int
) -> None:
    """As JSON, by field."""
    answer = await storefront.http.post("/orders", json=body, headers=headers)

    assert answer.status_code == status
    assert answer.json()["errors"]


async def test_a_page_of_another_site_cannot_order(storefront: Storefront) -> None:
    """Neither by an Origin nor by a browser's own word."""
    for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
        answer = await storefront.http.post("/orders", data=FORM, headers=headers)
        assert answer.status_code == 403

    assert await storefront.orders() == 0


async def test_other_names_of_this_machine_are_refused(storefront: Storefront) -> None:
    """A DNS name that was rebound to 127.0.0.1 reads nothing here."""
    answer = await storefront.http.get("/", headers={"host": "evil.example"})

    assert answer.status_code == 400


@pytest.mark.parametrize("path", ["/nowhere", "/orders/ord_unknown", "/static/../web.py", "/static/frame.html"])
async def test_what_is_not_there_is_said_for_people_and_for_programs(storefront: Storefront, path: str) -> None:
    """As a page, or as JSON."""
    page = await storefront.http.get(path)
    data = await storefront.http.get(path, headers={"accept": "application/json"})

    assert (page.status_code, data.status_code) == (404, 404)
    assert "<h1>Not found</h1>" in page.text
    assert data.json()["errors"]


async def test_a_database_that_does_not_answer_is_no_mistake_of_the_customer(tmp_path: Path) -> None:
    """Nothing was placed, and trying again is safe: 503, for people and for programs."""
    settings = Settings(data=str(tmp_path))
    points = crash_points(settings, "storefront")
    web = storefront_site(Desk(build(settings, points), settings.protections, points), Pages(settings, "Shop"))

    async with httpx.AsyncClient(transport=httpx.ASGITransport(web), base_url="http://127.0.0.1") as http:
        page = await http.post("/orders", data=FORM)  # the app is not open: it has no database
        data = await http.post("/orders", data=FORM, headers={"accept": "application/json"})

    assert (page.status_code, data.status_code) == (503, 503)
    assert "Nothing was changed" in page.text
    assert data.json()["errors"]


async def test_every_answer_keeps_browsers_safe(storefront: Storefront) -> None:
    """Pages, errors and files alike run nothing from elsewhere and cannot be framed."""
    for path in ("/", "/nowhere", "/static/shop.css", "/products"):
        answer = await storefront.http.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_pages_escape_what_is_not_markup() -> None:
    """Text stays text."""
    assert fill("<b>$x</b>$y", x="<script>", y=Markup("<i>")) == "<b>&lt;script&gt;</b><i>"
