"""The flow map beside its picture: as a table, as files, and as it was."""

import json
import re
import xml.etree.ElementTree as Xml
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect
from tests.console.browser.routes import LivedIn
from tests.console.browser.visit import Visit, visiting

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


@pytest_asyncio.fixture(loop_scope="session")
async def visit(browser: Browser, lived_in: LivedIn) -> AsyncGenerator[Visit]:
    """Somebody who looks at a shop with a history."""
    async with visiting(browser, lived_in.shop.console, lived_in.cookies) as visit:
        yield visit


async def test_the_table_says_what_the_picture_shows(visit: Visit) -> None:
    """Every handler and every edge of it, and nothing else."""
    page = visit.page
    await visit.open("/map?window=3600")
    drawn = await page.locator(".stage [data-edge]").count()
    handlers = await page.locator(".stage .node.handler").count()

    await page.get_by_role("button", name="Table").click()
    await expect(page).to_have_url(re.compile("view=table"))

    await expect(page.get_by_role("table", name="Handlers on the map").locator("tbody tr")).to_have_count(handlers)
    await expect(page.locator("main table").nth(1).locator("tbody tr")).to_have_count(drawn)


async def test_the_map_is_exported(visit: Visit, tmp_path: Path) -> None:
    """As a picture that is whole without the page, as Mermaid, and as JSON."""
    page = visit.page
    await visit.open("/map?window=3600")
    await expect(page.locator(".stage [data-node]").first).to_be_visible()
    files: dict[str, str] = {}
    for name in ("SVG picture", "Mermaid", "JSON"):
        await page.locator("summary", has_text="Export").click()
        async with page.expect_download() as waiting:
            await page.get_by_role("button", name=name, exact=True).click()
        download = await waiting.value
        await download.save_as(tmp_path / download.suggested_filename)
        files[name] = (tmp_path / download.suggested_filename).read_text()

    picture = Xml.fromstring(files["SVG picture"])  # our own page has made it
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    assert "reserve_stock" in "".join(picture.itertext())
    assert files["Mermaid"].startswith("flowchart LR\n")
    graph = json.loads(files["JSON"])
    assert {"event:order.placed", "group:mailer.confirm"} <= {node["id"] for node in graph["nodes"]}
    assert {("event:order.placed", "group:inventory.reserve_stock")} <= {(edge["from"], edge["to"]) for edge in graph["edges"]}


async def test_the_map_shows_how_it_was(visit: Visit) -> None:
    """The slider is in the address; what it shows stands still, and says of when it is."""
    page = visit.page
    await visit.open("/map")
    await page.get_by_role("button", name="Past", exact=True).click()
    moment = page.get_by_role("slider", name="The moment that the map shows")

    await moment.focus()
    for _ in range(3):
        await page.keyboard.press("PageDown")
    await expect(page).to_have_url(re.compile(r"at=\d+"))
    await expect(page.locator(".past-strip")).to_contain_text("as of")
    await page.reload()
    await visit.settled()

    await expect(page.locator(".past-strip")).to_contain_text("as of")
    # Before anybody ordered: what code declares is there, and nothing flows.
    await expect(page.locator(".stage .node.handler")).to_have_count(4)
    await page.get_by_role("button", name="Live", exact=True).click()
    await expect(page.locator(".past-strip")).not_to_contain_text("as of")
