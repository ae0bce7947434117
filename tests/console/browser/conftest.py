"""One browser for all tests of this folder, and the shops that they look at."""

import os
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright, expect
from tests.console.browser.needs import missing
from tests.console.browser.routes import LivedIn, fill
from tests.console.browser.shop import Shop, open_shop, placed
from tests.console.browser.timings import Timings
from tests.console.browser.visit import Visit, visiting

#: More than there is.
TOO_MANY = (
    b'{"order_id": "ord_too_many", "email": "many@example.com", "placed_at": "2026-01-02T03:04:05Z",'
    b' "lines": [{"sku": "oats", "quantity": 1000000, "unit_price": 259}]}'
)
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


TIMINGS = pytest.StashKey[Timings]()


def pytest_configure(config: pytest.Config) -> None:
    """Have a place for what is measured."""
    config.stash[TIMINGS] = Timings()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Tell what was measured."""
    timings = config.stash[TIMINGS]
    if timings.noted:
        terminalreporter.section("the console in a browser", sep="-")
        for line in timings.lines():
            terminalreporter.write_line(line)
        if path := os.environ.get("MILLSTREAM_TIMINGS"):
            timings.write(Path(path))


@pytest.fixture(scope="session")
def timings(pytestconfig: pytest.Config) -> Timings:
    """Where to note what took how long."""
    return pytestconfig.stash[TIMINGS]


@pytest.fixture(scope="session")
def executable() -> str:
    """The machine's own Chromium."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return found or missing("Chromium", "apt-get install --no-install-recommends chromium (as root, `make browser` does it)")


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def browser(executable: str) -> AsyncGenerator[Browser]:
    """A browser that reaches no other machine."""
    arguments = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=arguments)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shop(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Shop]:
    """A shop for the tests of one file."""
    async with open_shop(tmp_path_factory.mktemp("shop") / "data") as shop:
        yield shop


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def cookies(browser: Browser, shop: Shop) -> list[Any]:
    """Of a browser that is signed in."""
    return await sign_in(browser, shop)


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def lived_in(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[LivedIn]:
    """One shop for all that only looks."""
    async with open_shop(tmp_path_factory.mktemp("lived-in") / "data") as shop:
        cookies = await sign_in(browser, shop)
        orders = [await shop.order(f"customer-{number}", "oats", 1 + number % 3) for number in range(8)]
        await shop.publish(placed("ord_too_many", TOO_MANY))
        await shop.publish(*(placed(f"ord_broken_{number}", b'{"order_id": "ord_broken"}') for number in range(3)))
        await shop.publish(placed("ord_torn", b'{"order_id": "half an order'))
        async with visiting(browser, shop.console, cookies) as visit:
            asked = {"kind": "pause", "group": "mailer.confirm", "reason": "the mail server is being moved"}
            for operation in (asked, {**asked, "kind": "resume", "reason": ""}):
                answer = await visit.page.request.post(f"{shop.console}/api/operations", data=operation)
                assert answer.status == 202
            await visit.open("/operations")
            await expect(visit.page.locator("main tbody tr").filter(has_text="Done")).to_have_count(2)
            await visit.open(f"/trace/{orders[-1][0]}")
            await expect(visit.page.locator("main .head")).to_contain_text("finished in")
            await visit.open("/dead")
            await expect(visit.page.locator("main tbody tr")).to_have_count(2)
            yield LivedIn(shop, cookies, await fill(visit))


async def sign_in(browser: Browser, shop: Shop) -> list[Any]:
    """What a browser keeps that has used the printed address, which works once."""
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(shop.ready["console"])
    kept = await context.cookies()
    await context.close()
    return list(kept)


@pytest_asyncio.fixture(loop_scope="session")
async def visit(browser: Browser, shop: Shop, cookies: list[Any]) -> AsyncGenerator[Visit]:
    """Somebody who looks at the shop's console."""
    async with visiting(browser, shop.console, cookies) as visit:
        yield visit
