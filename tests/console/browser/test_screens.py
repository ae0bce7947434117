"""Every screen: by its address alone, without any other network, and without its server."""

import re
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Route, expect
from tests.console.browser.routes import ROUTES, LivedIn, first_parts
from tests.console.browser.visit import Visit, visiting

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

#: What differs from one second to the next; "59 s" and "1 m 2 s" are one time each.
TIMES = re.compile(r"(?i)\bnow\b|caught up|idle|\d[\d.,:/]*(?: ?(?:ms|s|m|min|h|d)\b(?: \d+ [smh]\b)?)?(?: ago)?")
#: What a link does, without loading a page.
GO = "path => { history.pushState(null, '', path); dispatchEvent(new PopStateEvent('popstate')); }"


async def shown(page: Page) -> str:
    """What a screen says and offers, without numbers and times."""
    return TIMES.sub("#", await page.locator("#main").aria_snapshot())


async def test_every_route_of_the_front_end_is_visited() -> None:
    """A new screen has to be added to `ROUTES`."""
    visited = {path.split("?")[0].split("/")[1] for path in ROUTES.values()}

    assert first_parts() <= visited


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def walk(browser: Browser, lived_in: LivedIn) -> AsyncGenerator[Visit]:
    """One visitor who goes from screen to screen, and whose browser finds no other machine (see the fixture `browser`)."""
    async with visiting(browser, lived_in.shop.console, lived_in.cookies) as visit:
        # Nobody orders any more: from when every group is idle on, a screen says the same a second later.
        await visit.open("/groups")
        await expect(visit.page.locator("main tbody tr").filter(has_text="Nothing new for")).to_have_count(4, timeout=50_000)
        yield visit


@pytest.mark.parametrize("name", ROUTES)
async def test_a_screen_is_the_same_by_its_address_alone(name: str, lived_in: LivedIn, walk: Visit) -> None:
    """Reached from within and then reloaded, with every other network cut off, it shows the same and asks nobody else."""
    page = walk.page
    before = after = ""
    # A process may tell something new just in between: then once more.
    for _ in range(3):
        await page.evaluate(GO, "/no/such/page")
        await page.evaluate(GO, lived_in.paths[name])
        await walk.settled()
        before, title = await shown(page), await page.title()

        await page.reload()
        await walk.settled()

        await expect(page).to_have_title(title)
        after = await shown(page)
        if after == before:
            break
    assert after == before
    walk.assert_silent()


async def test_the_printed_address_works_once(lived_in: LivedIn, browser: Browser) -> None:
    """Whoever finds it in a history is not let in, and is told what to do."""
    async with visiting(browser, lived_in.shop.console, []) as visit:
        page = visit.page

        response = await page.goto(lived_in.shop.ready["console"])

        assert response is not None
        assert response.status == 401
        await expect(page.locator("body")).to_contain_text("This link was used before")
        await page.goto(visit.base)
        await expect(page.get_by_role("alert")).to_contain_text("Nobody is signed in")


async def test_what_is_on_screen_stays_when_the_server_is_gone(lived_in: LivedIn, browser: Browser) -> None:
    """A banner says how old it is; and the page goes on by itself when the server is there again."""
    async with visiting(browser, lived_in.shop.console, lived_in.cookies) as visit:
        page = visit.page
        await visit.open("/groups")
        await expect(page.locator(".fresh")).to_contain_text("Live")

        await page.context.route("**/api/**", _gone)
        await expect(page.get_by_role("alert")).to_contain_text("Connection lost")
        await expect(page.locator("main")).to_contain_text("mailer.confirm")
        # While nobody answers: as soon as somebody does, the banner goes by itself, maybe before it is clicked.
        async with page.expect_request("**/api/**"):
            await page.get_by_role("button", name="Reconnect").click()
        await page.context.unroute("**/api/**")

        await expect(page.get_by_role("alert")).to_have_count(0)
        visit.complaints = [said for said in visit.complaints if "ERR_FAILED" not in said]


async def _gone(route: Route) -> None:
    await route.abort()
