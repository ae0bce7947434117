"""Every screen for everybody: axe finds nothing serious in either theme, wide or narrow, and nothing has to be scrolled sideways."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page
from tests.console.browser.needs import missing
from tests.console.browser.routes import ROUTES, LivedIn
from tests.console.browser.visit import DRAWN, Visit, visiting

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

AXE = Path(__file__).parents[3] / "console" / "node_modules" / "axe-core" / "axe.min.js"
WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 320, "height": 640}
#: All rules in two of the four ways to look at a screen; in the others what theme and width change.
ALL: dict[str, Any] = {}
COLOURS = {"runOnly": ["color-contrast"]}
LOOKS = [(WIDE, "light", ALL), (WIDE, "dark", COLOURS), (NARROW, "dark", ALL), (NARROW, "light", COLOURS)]
FINDINGS = """async options => {
  const { violations } = await axe.run(document, { resultTypes: ["violations"], ...options });
  return violations
    .filter(({ impact }) => impact === "serious" || impact === "critical")
    .map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map(({ html, failureSummary }) => `${html}\\n${failureSummary}`).join("\\n")}`);
}"""
#: How far the page can be scrolled sideways, and what reaches beyond its edge.
BEYOND = """() => {
  const room = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= room) return [];
  return [...document.querySelectorAll("body *")]
    .filter(element => element.getBoundingClientRect().right > room + 1)
    .slice(0, 5).map(element => element.outerHTML.slice(0, 160));
}"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def walk(browser: Browser, lived_in: LivedIn) -> AsyncGenerator[Visit]:
    """One visitor who goes from screen to screen, with axe at hand; the page's own policy would not let it in."""
    if not AXE.is_file():
        missing("axe-core", "make console")
    async with visiting(browser, lived_in.shop.console, lived_in.cookies, bypass_csp=True, reduced_motion="reduce") as visit:
        await visit.page.add_init_script(path=AXE)
        yield visit


async def look(page: Page, size: dict[str, int], theme: str) -> None:
    """Give the page this size and theme."""
    await page.set_viewport_size(size)  # type: ignore[arg-type]
    await page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
    await page.wait_for_function("theme => matchMedia(`(prefers-color-scheme: ${theme})`).matches", arg=theme)
    await page.evaluate(DRAWN)


@pytest.mark.parametrize("name", ROUTES)
async def test_a_screen_can_be_used_by_everybody(name: str, lived_in: LivedIn, walk: Visit) -> None:
    """Light and dark, at 1440 and at 320 pixels."""
    page = walk.page
    await look(page, WIDE, "light")
    await walk.open(lived_in.paths[name])

    found: dict[str, list[str]] = {}
    for size, theme, rules in LOOKS:
        await look(page, size, theme)
        await walk.settled()
        seen = await page.evaluate(FINDINGS, rules) + [f"beyond the edge: {html}" for html in await page.evaluate(BEYOND)]
        if seen:
            found[f"{theme}, {size['width']} px"] = seen

    assert not found, "\n\n".join(f"{how}:\n" + "\n".join(seen) for how, seen in found.items())
    walk.assert_silent()
