"""What people come for, done through the console on the real shop."""

import asyncio
import json
import os
import re
import signal
import uuid
from pathlib import Path

import pytest
from playwright.async_api import Browser, Locator, Page, expect
from tests.console.browser.shop import COMMAND, Shop, origin, placed, started
from tests.console.browser.visit import Visit, visiting

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

FINISHED = re.compile("finished in")


def node(page: Page, id_: str) -> Locator:
    """A node of the flow map."""
    return page.locator(f'.stage [data-node="{id_}"]')


def row(page: Page, text: str) -> Locator:
    """The row of a table that says this."""
    return page.locator("main tbody tr").filter(has_text=text)


async def search(page: Page, text: str) -> None:
    """Paste something into the search."""
    await page.keyboard.press("Control+k")
    await page.get_by_role("combobox").fill(text)


async def test_an_order_is_followed_from_its_number_to_the_mail(shop: Shop, visit: Visit) -> None:
    """Pasted into the search, its number shows what it caused until the confirmation is sent, and the way it went on the map."""
    page = visit.page
    await visit.open()
    order, _ = await shop.order("ada")

    await search(page, order)
    await page.get_by_role("option", name="Trace of").click()
    await expect(page.locator("main .head")).to_contain_text(FINISHED)

    labels = await page.locator(".waterfall .label").all_inner_texts()
    told = [" ".join(label.split()) for label in labels]
    for group in ("inventory.reserve_stock", "mailer.confirm", "analytics.project", "storefront.follow_order"):
        assert any(group in label for label in told), told
    assert await shop.state(order) == "mailed"
    await page.get_by_role("link", name="On the map").click()
    await expect(page.locator(".stage .edge.on-path")).to_have_count(10)
    await expect(page.locator(".stage .node.faded")).to_have_count(1)
    await expect(node(page, "event:order.rejected")).to_have_class(re.compile("faded"))


async def test_an_event_is_found_by_its_id(shop: Shop, visit: Visit) -> None:
    """As it stands in a log."""
    order, _ = await shop.order("ida")
    page = visit.page
    await visit.open(f"/trace/{order}")
    await expect(page.locator("main .head")).to_contain_text(FINISHED)
    trace = await visit.get(f"/api/trace/{order}")
    mailed = next(event for event in trace["events"] if event["type"] == "confirmation.sent")

    await search(page, mailed["id"])
    await page.get_by_role("option", name="event").click()

    await expect(page.locator("main h1")).to_contain_text("confirmation.sent")
    await expect(page.locator("main h1")).to_contain_text(order)


async def test_what_is_pasted_too_early_is_found_as_soon_as_it_is_known(shop: Shop, visit: Visit) -> None:
    """The search goes on while it has nothing."""
    page = visit.page
    await visit.open()
    await search(page, "ord_early")
    await expect(page.get_by_role("status").filter(has_text="Nothing is known by")).to_be_visible()

    await shop.publish(placed("ord_early", b"{}"))

    await expect(page.get_by_role("option", name="Trace of ord_early")).to_be_visible()


async def test_a_killed_inventory_is_stopped_and_then_goes_on(shop: Shop, visit: Visit) -> None:
    """Its node turns to stopped and says why; when it is started again, what waited is handled."""
    page = visit.page
    inventory = node(page, "group:inventory.reserve_stock")
    await visit.open("/map?node=group%3Ainventory.reserve_stock")
    await expect(inventory.locator(".word")).to_have_text(re.compile("Caught up|Idle"))

    with shop.nobody_restarts():
        os.kill(shop.ready["processes"]["inventory"], signal.SIGKILL)
        order, _ = await shop.order("eve")
        await expect(inventory.locator(".word")).to_have_text("Stopped")
        await expect(page.locator(".inspector")).to_contain_text("Nobody works on it; 1 event waits")
        await expect(page.locator(".frame.gone")).to_contain_text("inventory")
        assert await shop.state(order) == "placed"

    await expect(inventory.locator(".word")).to_have_text(re.compile("Caught up|Idle"))
    await visit.open(f"/trace/{order}")
    await expect(page.locator("main .head")).to_contain_text(FINISHED)
    assert await shop.state(order) == "mailed"


async def test_a_buyer_who_clicks_twice_has_one_order(shop: Shop, visit: Visit) -> None:
    """One event of it, one mail; and events that come a second time are shown as suppressed, group by group."""
    page = visit.page
    clicks = await asyncio.gather(shop.order("bob"), shop.order("bob"))
    (order,) = {number for number, _ in clicks}
    assert sorted(made for _, made in clicks) == [False, True]

    await visit.open(f"/events?q=key:{order}")
    await expect(row(page, "confirmation.sent")).to_have_count(1)
    await expect(row(page, "order.placed")).to_have_count(1)

    assert await shop.repeat(order) == 3
    await visit.open(f"/trace/{order}?view=tree")
    suppressed = page.locator(".cause").get_by_text("suppressed: handled before")
    await expect(suppressed).to_have_count(7)
    await expect(page.locator(".cause > li.event")).to_have_count(3)


async def test_a_poisoned_order_is_repaired_and_carried_out(shop: Shop, visit: Visit) -> None:
    """The dead letter is found, its body corrected where the contract says what is wrong, and the order goes its way."""
    page = visit.page
    order = "ord_poisoned"
    good = {"order_id": order, "email": "mal@example.com", "lines": [{"sku": "oats", "quantity": 1, "unit_price": 259}]}
    bad = {**good, "lines": "none", "placed_at": "2026-01-02T03:04:05Z"}
    await shop.publish(placed(order, json.dumps(bad).encode()))

    await visit.open("/dead")
    await row(page, "inventory.reserve_stock").get_by_role("link").first.click()
    await row(page, order).get_by_role("link", name=order).click()
    await page.get_by_role("button", name="Repair…").click()
    editor = page.get_by_label("Repaired")
    repair = page.get_by_role("button", name="Repair and redrive")
    await expect(page.locator("#repair-problems")).to_contain_text("lines")
    await expect(repair).to_have_attribute("aria-disabled", "true")
    await editor.fill(json.dumps({**good, "placed_at": "2026-01-02T03:04:05Z"}))
    await expect(page.locator("#repair-problems")).to_contain_text("It keeps to order.placed")
    await page.get_by_label("Reason").fill("lines were lost on the way")
    await repair.click()
    await expect(page.locator("main")).to_contain_text("This delivery is not parked any more")

    await page.get_by_role("link", name="Its trace").click()
    await expect(page.locator(".waterfall")).to_contain_text("confirmation.sent")
    await visit.open("/operations")
    audited = row(page, "lines were lost on the way")
    await expect(audited).to_contain_text("repair inventory.reserve_stock")
    await expect(audited).to_contain_text("Done")
    assert "console (admin)" in await audited.inner_text()


async def test_what_is_discarded_needs_a_reason_and_can_be_restored(shop: Shop, visit: Visit) -> None:
    """Nothing is lost by a hasty click."""
    page = visit.page
    key = "ord_hasty"
    await shop.publish(placed(key, b"{}"))
    await visit.open("/dead?q=analytics.project")
    await row(page, "order_id").get_by_role("link").first.click()
    await row(page, key).get_by_role("link", name=key).click()

    await page.get_by_role("button", name="Discard…").click()
    sheet = page.get_by_role("dialog")
    await expect(sheet.get_by_role("button", name="Discard")).to_be_disabled()
    await sheet.get_by_label("Reason").fill("it was a test")
    await sheet.get_by_role("button", name="Discard").click()
    await expect(page.locator("main .head .state")).to_have_text("Discarded")
    await page.get_by_role("button", name="Restore…").click()
    await page.get_by_role("dialog").get_by_role("button", name="Restore").click()

    await expect(page.locator("main .head .state")).to_have_text("Dead letter")


async def test_a_viewer_sees_everything_and_changes_nothing(shop: Shop, browser: Browser, tmp_path: Path) -> None:
    """What a viewer may not do is there, with the reason; and the server refuses it however it is asked."""
    order, _ = await shop.order("vic")
    await shop.publish(placed("ord_seen", b"[]", id=str(uuid.uuid4())))
    token = "a-viewer-of-the-shop"
    words = ("console", "--broker", shop.broker_url, "--data", str(tmp_path / "viewer.db"), "--port", "0", "--output", "json")
    async with (
        started(*words, MILLSTREAM_CONSOLE_TOKENS=f"{token}=viewer") as (_, ready),
        visiting(browser, origin(ready["console"]), []) as visit,
    ):
        page = visit.page
        await visit.open(f"/?t={token}")
        await expect(page.locator(".topbar")).to_contain_text("viewer")
        await visit.open(f"/trace/{order}")
        await expect(page.locator("main .head")).to_contain_text(FINISHED)

        await visit.open("/groups/mailer.confirm")
        pause = page.get_by_role("button", name="Pause…")
        await expect(pause).to_have_attribute("aria-disabled", "true")
        await expect(pause).to_contain_text("operator")
        await pause.click(force=True)  # it is not what an enabled button is, and Playwright would wait for that
        await expect(page.get_by_role("dialog")).to_have_count(0)
        await visit.open("/publish?type=order.placed")
        await expect(page.get_by_role("button", name="Publish it")).to_have_attribute("aria-disabled", "true")

        statuses = await page.evaluate(ATTEMPTS, ["pause", "resume", "redrive", "discard", "restore", "repair", "reset"])
        assert statuses == [403] * 8
        assert [said for said in await visit.get("/api/operations") if said["group"] == "mailer.confirm"] == []


#: Everything that a page of a viewer can try behind the buttons.
ATTEMPTS = """async (kinds) => {
  const post = async (path, value) => (await fetch(path, {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(value),
  })).status;
  const asked = kinds.map((kind) => post("/api/operations", { kind, group: "mailer.confirm", reason: "because" }));
  return Promise.all([...asked, post("/api/publish", { type: "order.placed", data: "{}" })]);
}"""


LOYALTY = """
from dataclasses import dataclass

from millstream import App, Transaction, event

app = App("loyalty", schema="create table if not exists points (email text, points integer)")


@event("order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    email: str


@app.subscriber(OrderPlaced, start="latest")
async def reward(order: OrderPlaced, tx: Transaction) -> None:
    tx.execute("insert into points values (?, 1)", (order.email,))
"""


async def test_a_new_handler_catches_up_with_the_past(shop: Shop, visit: Visit, tmp_path: Path) -> None:
    """A few lines are started, appear on the map by themselves, and are set back to the oldest event after a preview."""
    page = visit.page
    order, _ = await shop.order("joy")
    (tmp_path / "loyalty.py").write_text(LOYALTY)
    where = {"MILLSTREAM_BROKER": shop.broker_url, "MILLSTREAM_STORE": f"sqlite:///{tmp_path}/loyalty.db", "MILLSTREAM_FACTS": "on"}
    await visit.open("/map")
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "run", "loyalty:app", cwd=tmp_path, env={**os.environ, **where}
    )  # fmt: skip
    try:
        await node(page, "group:loyalty.reward").dblclick()
        await visit.open("/groups/loyalty.reward")
        await page.get_by_role("button", name="Reset position…").click()
        sheet = page.get_by_role("dialog")
        await sheet.get_by_role("button", name="The oldest event").click()
        await expect(sheet).to_contain_text(re.compile(r"\d+ events that it was past come again"))
        await sheet.get_by_label("Reason").fill("points for all who have ordered before")
        await sheet.get_by_label("to go on").fill("loyalty.reward")
        await sheet.get_by_role("button", name="Reset", exact=True).click()
        await expect(page.locator(".tray li").first).to_contain_text("Done")

        # It goes back as soon as it has something to commit.
        await shop.order("joy-again")
        await visit.open(f"/events?q=key:{order} type:order.placed")
        await expect(row(page, order).get_by_role("img", name="loyalty.reward: Handled")).to_be_visible()
    finally:
        process.terminate()
        await process.wait()
