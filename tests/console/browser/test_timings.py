"""How soon the console tells of something, in a browser: asserted loosely, since machines are busy, and printed exactly.

`MILLSTREAM_TIMINGS=FILE` has them written as JSON, too; see benchmarks/README.md.
"""

import os
import re
import signal
import time
from statistics import median

import pytest
from playwright.async_api import Browser, expect
from tests.console.browser.shop import Shop
from tests.console.browser.timings import Timings
from tests.console.browser.visit import Visit, visiting

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

ROUNDS = 3
#: A busy machine may take so many times as long as is promised.
SLACK = 6
#: Notes when dots are drawn on the map, in milliseconds since 1970.
WATCH_DOTS = """() => {
  const { arc } = CanvasRenderingContext2D.prototype;
  CanvasRenderingContext2D.prototype.arc = function (...given) {
    if (this.canvas.closest(".stage")) {
      window.last = performance.timeOrigin + performance.now();
      window.tell?.(window.last);
    }
    return arc.apply(this, given);
  };
}"""
EXPECT_DOT = "() => { window.dot = new Promise(tell => (window.tell = tell)); }"
#: Until all dots of what was published have come to their ends.
UNTIL_STILL = """() => new Promise(still => {
  const look = setInterval(() => {
    if (performance.timeOrigin + performance.now() - window.last < 1500) return;
    clearInterval(look);
    still();
  }, 50);
})"""
#: Notes when the screen first says how the system is.
WATCH_SENTENCE = """() => {
  const watch = new MutationObserver(() => {
    if (!document.querySelector("main h1")) return;
    watch.disconnect();
    requestAnimationFrame(() => (window.useful = performance.now()));
  });
  watch.observe(document, { childList: true, subtree: true });
}"""


async def test_an_event_is_a_dot_on_the_map_at_once(shop: Shop, visit: Visit, timings: Timings) -> None:
    """From the click of a customer to the first picture with its dot."""
    page = visit.page
    await page.add_init_script(f"({WATCH_DOTS})()")
    await visit.open("/map")
    await expect(page.locator(".stage [data-node]").first).to_be_visible()
    took: list[float] = []
    for number in range(ROUNDS):
        await page.evaluate(EXPECT_DOT)
        asked = time.time()
        await shop.order(f"dot-{number}")
        took.append(await page.evaluate("() => window.dot") / 1000 - asked)
        await page.evaluate(UNTIL_STILL)

    timings.note("event published, dot on the map", took, promised=0.5)
    assert median(took) < 0.5 * SLACK


async def test_an_id_that_is_pasted_opens_its_path_at_once(shop: Shop, visit: Visit, timings: Timings) -> None:
    """From the paste into the search to the way of the event, drawn on the map."""
    page = visit.page
    order, _ = await shop.order("pasted")
    await visit.open(f"/trace/{order}")
    await expect(page.locator("main .head")).to_contain_text("finished in")
    took: list[float] = []
    for _ in range(ROUNDS):
        await visit.open()
        await page.keyboard.press("Control+k")
        began = time.monotonic()
        await page.get_by_role("combobox").fill(order)
        await page.get_by_role("option", name="Its path on the flow map").click()
        await page.locator(".stage .edge.on-path").first.wait_for(state="attached")
        took.append(time.monotonic() - began)

    timings.note("id pasted, path on the map", took, promised=1.0)
    assert median(took) < 1.0 * SLACK


async def test_the_first_useful_picture_comes_at_once(shop: Shop, browser: Browser, cookies: list[object], timings: Timings) -> None:
    """From the address being opened, with nothing kept of an earlier visit, to the sentence that says how the system is."""
    took: list[float] = []
    for _ in range(ROUNDS):
        async with visiting(browser, shop.console, cookies) as visit:
            await visit.page.add_init_script(f"({WATCH_SENTENCE})()")
            await visit.open()
            took.append(await visit.page.evaluate("window.useful") / 1000)

    timings.note("first useful picture", took, promised=1.0)
    assert median(took) < 1.0 * SLACK


async def test_a_killed_worker_is_stopped_within_seconds(shop: Shop, visit: Visit, timings: Timings) -> None:
    """From kill -9, with an event waiting, to the word on its node."""
    page = visit.page
    await visit.open("/map")
    word = page.locator('.stage [data-node="group:inventory.reserve_stock"] .word')
    await expect(word).to_have_text(re.compile("Caught up|Idle"))

    with shop.nobody_restarts():
        os.kill(shop.ready["processes"]["inventory"], signal.SIGKILL)
        began = time.monotonic()
        await shop.order("waits")
        await expect(word).to_have_text("Stopped")
        took = time.monotonic() - began

    timings.note("worker killed, node is stopped", [took], promised=5.0)
    assert took < 5.0 * SLACK
