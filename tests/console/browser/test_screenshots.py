"""The pictures of the README, taken of the shop at work: `make screenshots` keeps them, any other run only takes them."""

import os
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect
from tests.console.browser.routes import LivedIn
from tests.console.browser.visit import Visit, visiting

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]

#: Where to keep them, if they are to be kept.
KEPT = os.environ.get("MILLSTREAM_SCREENSHOTS")
LARGEST = 150_000
SIZE = {"width": 1280, "height": 800}
THEMES = ("light", "dark")
#: Orders a second while pictures are taken, and for how long before, in seconds.
RATE = 4
BEFORE = 60 if KEPT else 2
#: So many events are on their way in the picture of the map.
DOTS = 8
COUNT_DOTS = """() => {
  const { clearRect, arc } = CanvasRenderingContext2D.prototype;
  let drawn = 0;
  window.dots = () => seen;
  let seen = 0;
  CanvasRenderingContext2D.prototype.clearRect = function (...given) {
    if (this.canvas.closest(".stage")) [seen, drawn] = [drawn, 0];
    return clearRect.apply(this, given);
  };
  CanvasRenderingContext2D.prototype.arc = function (...given) {
    if (this.canvas.closest(".stage")) drawn++;
    return arc.apply(this, given);
  };
}"""
UNTIL_DOTS = "least => new Promise(done => { const look = () => (window.dots() >= least ? done() : requestAnimationFrame(look)); look(); })"
UNTIL_PAST = "seconds => new Promise(done => setTimeout(done, seconds * 1000))"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def customers(browser: Browser, lived_in: LivedIn) -> AsyncGenerator[None]:
    """Customers come, and have come for a while."""
    async with visiting(browser, lived_in.shop.console, lived_in.cookies) as visit:
        rate = f"{visit.base}/api/lab/rate"
        assert (await visit.page.request.post(rate, data={"rate": RATE})).ok
        await visit.open()
        await visit.page.evaluate(UNTIL_PAST, BEFORE)
        yield
        assert (await visit.page.request.post(rate, data={"rate": 0})).ok


@pytest.fixture(params=THEMES)
def theme(request: pytest.FixtureRequest) -> str:
    """Each theme in turn."""
    return str(request.param)


@pytest_asyncio.fixture(loop_scope="session")
async def visit(browser: Browser, lived_in: LivedIn, customers: None, theme: str) -> AsyncGenerator[Visit]:
    """Somebody with a screen of the size of the pictures."""
    options: dict[str, Any] = {"viewport": SIZE, "color_scheme": theme}
    async with visiting(browser, lived_in.shop.console, lived_in.cookies, **options) as visit:
        await visit.page.add_init_script(f"({COUNT_DOTS})()")
        yield visit


async def take(visit: Visit, name: str, theme: str, folder: Path) -> None:
    """Take a picture of what is on the screen."""
    path = Path(KEPT or folder) / f"console-{name}-{theme}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    await visit.page.screenshot(path=path, animations="disabled", caret="hide")
    assert 10_000 < path.stat().st_size < LARGEST


async def test_the_overview(visit: Visit, theme: str, tmp_path: Path) -> None:
    """What is wrong, how much flows, and where."""
    await visit.open()
    await expect(visit.page.locator(".mini-map svg")).to_be_visible()

    await take(visit, "overview", theme, tmp_path)


async def test_the_map(visit: Visit, theme: str, tmp_path: Path) -> None:
    """Events on their way, each a dot; the rail is folded, so that there is more room for them."""
    await visit.page.set_viewport_size({"width": SIZE["width"], "height": 600})
    await visit.open("/map")
    await visit.page.keyboard.press("[")
    await expect(visit.page.locator(".shell")).to_have_class(re.compile("narrow-rail"))
    await visit.open("/map")
    await expect(visit.page.locator(".stage [data-node]").first).to_be_visible()

    await visit.page.evaluate(UNTIL_DOTS, DOTS)
    await take(visit, "map", theme, tmp_path)


async def test_a_trace(visit: Visit, theme: str, lived_in: LivedIn, tmp_path: Path) -> None:
    """All that one order has caused."""
    await visit.open(lived_in.paths["trace"])
    await expect(visit.page.locator(".waterfall")).to_be_visible()

    await take(visit, "trace", theme, tmp_path)


async def test_a_dead_letter(visit: Visit, theme: str, lived_in: LivedIn, tmp_path: Path) -> None:
    """What is wrong with it, and its repair."""
    await visit.open(lived_in.paths["repair of a dead letter"])
    await expect(visit.page.get_by_label("Repaired")).to_be_visible()

    await take(visit, "dead-letter", theme, tmp_path)
