"""Everything once without a mouse."""

import re
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect
from tests.console.browser.routes import LivedIn
from tests.console.browser.visit import Visit, visiting

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


@pytest_asyncio.fixture(loop_scope="session")
async def visit(browser: Browser, lived_in: LivedIn) -> AsyncGenerator[Visit]:
    """Somebody whose mouse is broken."""
    async with visiting(browser, lived_in.shop.console, lived_in.cookies) as visit:
        yield visit


async def press(page: Page, *keys: str) -> None:
    """One key after another."""
    for key in keys:
        await page.keyboard.press(key)


async def test_screens_are_reached_and_tables_read_by_keys(visit: Visit) -> None:
    """`g` and a letter lead to a screen, `j` and `k` through its rows, Enter into one, and Alt+Left back."""
    page = visit.page
    await visit.open()

    await press(page, "g", "e")
    await expect(page.locator("h1")).to_have_text("Events")
    await expect(page.locator("main tbody tr").first).to_be_visible()
    await press(page, "j", "j", "j", "k")
    second = page.locator("main tbody tr").nth(1).locator("a.row-link")
    await expect(second).to_be_focused()
    type_ = await second.inner_text()
    await press(page, "Enter")
    await expect(page).to_have_url(re.compile("/events/"))
    await expect(page.locator("h1")).to_contain_text(type_)
    await page.go_back()

    for letter, name in {"g": "Groups", "d": "Dead letters", "k": "Contracts", "s": "Services", "p": "Publish", "a": "Operations"}.items():
        await press(page, "g", letter)
        await expect(page.locator("h1")).to_have_text(name)


async def test_the_rail_is_walked_with_tab_and_folded_with_a_bracket(visit: Visit) -> None:
    """The first Tab offers to skip the rail; a second one is its first link."""
    page = visit.page
    await visit.open()

    await press(page, "Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await press(page, "Enter")
    await expect(page.locator("#main")).to_be_focused()

    links = page.get_by_role("navigation", name="Screens", exact=True).get_by_role("link")
    await links.nth(1).focus()
    await press(page, "Tab", "Enter")
    await expect(page.locator("h1")).to_have_text("Flow map")
    wide = await page.locator(".rail").bounding_box()
    await press(page, "[")
    await expect(page.locator(".shell")).to_have_class(re.compile("narrow-rail"))
    narrow = await page.locator(".rail").bounding_box()
    assert wide is not None
    assert narrow is not None
    assert narrow["width"] < wide["width"]
    await page.reload()
    await expect(page.locator(".shell")).to_have_class(re.compile("narrow-rail"))


async def test_the_palette_opens_anything(visit: Visit) -> None:
    """Words and arrows choose, Enter opens, Escape closes and gives the focus back."""
    page = visit.page
    await visit.open("/groups")
    link = page.get_by_role("link", name="mailer.confirm")
    await link.focus()

    await press(page, "Control+k")
    box = page.get_by_role("combobox")
    await expect(box).to_be_focused()
    await press(page, "Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await expect(link).to_be_focused()

    await press(page, "Control+k")
    await page.keyboard.type("inventory")
    await expect(page.get_by_role("option").first).to_contain_text("inventory.reserve_stock")
    await press(page, "ArrowDown", "ArrowUp", "Enter")
    await expect(page.locator("h1")).to_have_text("inventory.reserve_stock")


async def test_the_map_is_walked_along_its_edges(visit: Visit) -> None:
    """Tab goes in the direction of flow, arrows follow edges, Enter opens the inspector and Escape closes it."""
    page = visit.page
    await visit.open("/map?window=3600")
    nodes = page.locator(".stage [data-node]")
    await expect(nodes.first).to_be_visible()

    await nodes.first.focus()
    await expect(nodes.first).to_have_attribute("data-node", "app:storefront")
    await press(page, "ArrowRight")
    await expect(page.locator('[data-node="event:order.placed"]')).to_be_focused()
    await press(page, "ArrowRight", "Enter")
    inspector = page.locator(".inspector")
    await expect(inspector).to_be_visible()
    chosen = await page.locator(".stage [data-node]:focus").get_attribute("aria-label")
    assert chosen is not None
    assert ", handler, of " in chosen
    await press(page, "Escape")
    await expect(inspector).to_have_count(0)


async def test_a_dialog_is_answered_by_keys_and_says_no_on_escape(visit: Visit) -> None:
    """What cannot be undone is not under the key that was pressed last."""
    page = visit.page
    await visit.open("/groups/mailer.confirm")
    pause = page.get_by_role("button", name="Pause…")
    await pause.focus()

    await press(page, "Enter")
    sheet = page.get_by_role("dialog")
    await expect(sheet).to_be_visible()
    focused = sheet.locator(":focus")
    await expect(focused).to_have_count(1)
    assert await focused.inner_text() != "Pause"
    await press(page, "Escape")

    await expect(sheet).to_have_count(0)
    await expect(pause).to_be_focused()


async def test_help_trays_filters_and_themes_have_their_keys(visit: Visit) -> None:
    """`?`, `o`, `/`, `.`, and Shift+T; in a field they are letters."""
    page = visit.page
    await visit.open("/groups")

    await press(page, "?")
    await expect(page.get_by_role("dialog")).to_contain_text("Keyboard")
    await press(page, "Escape", "o")
    await expect(page.locator(".tray")).to_be_visible()
    await press(page, "Escape")
    await expect(page.locator(".tray")).to_have_count(0)
    await press(page, "/")
    await page.keyboard.type("mail.o?")
    await expect(page.get_by_role("searchbox")).to_have_value("mail.o?")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await press(page, "Escape", ".")
    await expect(page.locator(".banner")).to_contain_text("stands still")
    await press(page, ".", "T", "T")
    await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
