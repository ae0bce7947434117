"""What strangers put into events is shown inert and exact, wherever the console shows it."""

import json
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from urllib.parse import quote

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect
from tests.console.browser.shop import Shop, placed
from tests.console.browser.visit import Visit, visiting

from millstream.contracts.envelope import Envelope

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

MARKUP = "\"'><script>window.hacked=1</script><img src=x onerror=window.hacked=1><svg/onload=window.hacked=1>{{7*7}}${window.hacked=1}"
#: Turns text round, hides a part of it, rings a bell, and tells a terminal to be red.
BIDI = "inv\u202egnp.exe\u2066\u200bpaid\u2069\u0007\u001b[31m\u0000"
SHOWN_BIDI = "inv‹U+202E›gnp.exe‹U+2066›‹U+200B›paid‹U+2069›‹U+0007›‹U+001B›[31m‹U+0000›"
#: Numbers that JavaScript would change, as they stand in a body.
NUMBERS = ["9007199254740993", "-9007199254740993", "123456789012345678901234567890", "1e400", "-0", "1.10", "0.10000000000000000555"]
#: Names that a web server, a file system or a router could take for something else.
NAMES = ["x" * 2000, "a\0b", "page.js", "../../../etc/passwd", "%2e%2e/", "?q=1#here", "api/me", "assets/index.js", "\\\\host", "ü 𝄞"]
#: Screens that take something from their address.
ADDRESSED = [
    "/events?q=", "/groups?q=", "/dead?q=", "/contracts?q=", "/operations?q=", "/publish?type=", "/map?q=", "/map?corr=", "/map?node=",
]  # fmt: skip
LARGE = 1_000_000
HUGE = 10_000_000
DEEP = 10_000
AT = "2026-01-02T03:04:05Z"


@pytest_asyncio.fixture(loop_scope="session")
async def visit(browser: Browser, shop: Shop, cookies: list[object]) -> AsyncGenerator[Visit]:
    """Somebody who looks at all of it, and copies some."""
    async with visiting(browser, shop.console, cookies, permissions=["clipboard-read", "clipboard-write"]) as visit:
        yield visit
        assert await visit.page.evaluate("window.hacked") is None


def order(key: str, *, lines: str = "[]", more: str = "") -> bytes:
    """An order that keeps to its contract, with whatever else."""
    return f'{{"order_id":{json.dumps(key)},"email":"a@example.com","lines":{lines},"placed_at":"{AT}"{more}}}'.encode()


async def until_known(visit: Visit, key: str) -> None:
    """Wait for the console to have heard of a key."""
    await visit.open(f"/trace/{quote(key, safe='')}")
    await expect(visit.page.locator(".waterfall")).to_be_visible()


async def copied(page: Page, name: str) -> str:
    """What a button puts where it can be pasted from."""
    await page.get_by_role("button", name=name).first.click()
    await expect(page.get_by_role("button", name="Copied")).to_be_visible()
    return str(await page.evaluate("navigator.clipboard.readText()"))


async def until_dead(visit: Visit, event: Envelope) -> str:
    """Wait for a dead letter, and open it."""
    path = f"/dead/letter?group=inventory.reserve_stock&source={quote(event.source, safe='')}&id={quote(event.id, safe='')}"
    await visit.open(f"/trace/{quote(event.id, safe='')}")
    await expect(visit.page.locator(".waterfall")).to_contain_text("inventory.reserve_stock dead letter")
    await visit.open(path)
    await expect(visit.page.locator("main .head .state")).to_be_visible()
    return path


@pytest.mark.parametrize("text", [MARKUP, BIDI], ids=["markup", "bidi and control characters"])
async def test_text_is_shown_and_not_obeyed(text: str, shop: Shop, visit: Visit) -> None:
    """As a key, an id, a source, a field's name and its value, in an error, and in an address, on every screen that shows it."""
    page = visit.page
    shown = SHOWN_BIDI if text == BIDI else text
    body = json.dumps({"order_id": text, "email": text, "lines": [], "placed_at": AT, text: text}).encode()
    good = placed(text, body, id=f"id {text}", source=f"/{text}")
    bad = placed(f"bad {text}", json.dumps({text: text, "order_id": 1}).encode(), id=f"bad {text}", source=f"/{text}")
    await shop.publish(good, bad)

    event, trace = f"/events/{quote(good.id, safe='')}", f"/trace/{quote(text, safe='')}"
    await until_known(visit, text)
    await expect(page.locator("h1")).to_contain_text(shown[:20])
    for path in ("/", "/map", "/events", "/trace", "/dead", "/operations", event, f"{trace}?view=tree"):
        await visit.open(path)
    await visit.open(event)
    await expect(page.locator(".payload")).to_contain_text(shown)
    assert await copied(page, "Copy the body") == body.decode()

    path = await until_dead(visit, bad)
    await expect(page.locator(".payload")).to_contain_text(shown)
    await visit.open(f"{path}&do=repair")
    await expect(page.get_by_label("Repaired")).to_be_visible()
    for path in ADDRESSED:
        await visit.open(path + quote(text, safe=""))
    await page.keyboard.press("Control+k")
    await page.get_by_role("dialog").get_by_role("combobox").fill(text)
    await expect(page.get_by_role("option").first).to_contain_text(shown[:12])


async def test_any_name_has_an_address(visit: Visit) -> None:
    """A link to it can be kept: nothing is taken for a file, a folder or another page."""
    for name in NAMES:
        for screen in ("trace", "events", "groups", "contracts", "topics", "dead"):
            answer = await visit.page.request.get(f"{visit.base}/{screen}/{quote(name, safe='')}")
            assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8"), name

    for name in NAMES[:2]:
        await visit.open(f"/trace/{quote(name, safe='')}")
        await expect(visit.page.locator("main .blank h2")).to_have_text("Nothing is known by this name")


async def test_numbers_stay_as_they_were_written(shop: Shop, visit: Visit) -> None:
    """Beyond 2^53, beyond 64 bits, beyond any float; on the screen, when they are copied, and in a repair."""
    page = visit.page
    numbers = ",".join(f'"n{index}":{number}' for index, number in enumerate(NUMBERS))
    good = placed("ord_numbers", order("ord_numbers", more=f',"numbers":{{{numbers}}}'))
    bad = placed("ord_bad_numbers", f'{{"order_id":{NUMBERS[0]},"numbers":{{{numbers}}}}}'.encode())
    await shop.publish(good, bad)
    await until_known(visit, "ord_numbers")

    await visit.open(f"/events/{good.id}")
    values = page.locator(".payload .number")
    await expect(values).to_have_text(NUMBERS)
    assert await copied(page, "Copy the body") == good.data.decode()

    path = await until_dead(visit, bad)
    await visit.open(f"{path}&do=repair")
    text = await page.get_by_label("Repaired").input_value()
    assert [line.split(": ")[1].rstrip(",") for line in text.splitlines() if '"n' in line and ": " in line and "{" not in line] == NUMBERS


async def test_a_body_of_a_megabyte_is_shown_bit_by_bit(shop: Shop, visit: Visit) -> None:
    """Folded at first, whole on request, and exact when it is copied."""
    page = visit.page
    large = placed("ord_large", order("ord_large", more=f',"note":"{"x" * LARGE}!"'))
    await shop.publish(large)
    await until_known(visit, "ord_large")

    await visit.open(f"/events/{large.id}")

    await expect(page.locator(".payload")).to_contain_text("ord_large")
    assert len(await page.locator("#main").inner_text()) < 20_000
    assert await copied(page, "Copy the body") == large.data.decode()
    await page.locator(".payload").get_by_role("button", name="Show all").click()
    await expect(page.locator(".payload .string").last).to_contain_text("xxx!")


async def test_of_a_body_of_ten_megabytes_the_beginning_is_shown_and_all_is_downloaded(shop: Shop, visit: Visit, tmp_path: Path) -> None:
    """As an event, and as a dead letter; the screens stay as quick as ever."""
    page = visit.page
    items = MARKUP.replace('"', "").replace("\\", "")
    good = placed("ord_huge", order("ord_huge", more=f',"notes":[{",".join([json.dumps(items)] * (HUGE // len(items)))}]'))
    bad = placed("ord_bad_huge", f'{{"order_id":1,"{"x" * HUGE}":2}}'.encode())
    await shop.publish(good, bad)
    await until_known(visit, "ord_huge")

    await visit.open(f"/events/{good.id}")
    await downloaded(page, good.data, tmp_path)
    await until_dead(visit, bad)
    await downloaded(page, bad.data, tmp_path)
    began = time.monotonic()
    await page.get_by_role("button", name="Bytes", exact=True).click()
    await expect(page.locator(".payload pre")).to_contain_text("000000  7b 22 6f")
    assert time.monotonic() - began < 5


async def downloaded(page: Page, data: bytes, folder: Path) -> None:
    """Of a body the beginning is on the screen, and what is downloaded is the whole."""
    await expect(page.locator("main")).to_contain_text("Only its first 64.0 KiB are here.")
    await expect(page.locator(".payload pre")).to_contain_text(data[:100].decode())
    assert len(await page.locator("#main").inner_text()) < 100_000
    async with page.expect_download() as waiting:
        await page.get_by_role("link", name="Download", exact=True).click()
    await (await waiting.value).save_as(folder / "body")
    assert (folder / "body").read_bytes() == data


async def test_a_body_ten_thousand_levels_deep_breaks_nothing(shop: Shop, visit: Visit) -> None:
    """Neither where it could not be read, nor where it is looked at."""
    page = visit.page
    deep = placed("ord_deep", order("ord_deep", more=f',"deep":{"[" * DEEP}{"]" * DEEP}'))
    await shop.publish(deep)

    await until_dead(visit, deep)

    await page.get_by_role("button", name="Text", exact=True).click()
    await expect(page.locator(".payload pre")).to_contain_text("[[[[")
    await visit.open("/groups/inventory.reserve_stock")
    await expect(page.locator("h1")).to_have_text("inventory.reserve_stock")
