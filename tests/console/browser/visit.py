"""A visitor of the console: a browser's page that is signed in, and of which nothing bad may be heard."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Browser, ConsoleMessage, Error, Page, Request, expect

#: A busy machine needs so long for what takes a moment, in milliseconds.
PATIENCE = 20_000
#: What a page may say: that the server refused something, which screens show in words.
EXPECTED = re.compile(r"Failed to load resource: the server responded with a status of 4\d\d")
#: What a screen is made of, once it is there.
CONTENT = "main h1, main .blank h2"
#: Until the next picture is on the screen.
DRAWN = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"

expect.set_options(timeout=PATIENCE)


class Visit:
    """One page in a browser profile of its own."""

    def __init__(self, page: Page, base: str) -> None:
        self.page = page
        self.base = base
        self.complaints: list[str] = []
        """Errors, warnings, and whatever the content security policy has refused."""
        self.foreign: list[str] = []
        """Requests to anywhere else."""
        self._asking: set[Request] = set()
        self._quiet = asyncio.Event()
        page.on("pageerror", self._failed)
        page.on("console", self._said)
        page.on("request", self._asked)
        page.on("requestfinished", self._answered)
        page.on("requestfailed", self._answered)

    def _failed(self, error: Error) -> None:
        self.complaints.append(f"error: {error}")

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not EXPECTED.match(message.text):
            self.complaints.append(f"{message.type}: {message.text}")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((f"{self.base}/", "data:", "blob:")):
            self.foreign.append(request.url)
        if request.is_navigation_request():
            # What the page before has asked for is given up, and not always answered.
            self._asking.clear()
        # The stream of what happens never ends.
        if not request.url.endswith("/api/live"):
            self._asking.add(request)
            self._quiet.clear()

    def _answered(self, request: Request) -> None:
        self._asking.discard(request)
        if not self._asking:
            self._quiet.set()

    async def open(self, path: str = "/") -> None:
        """Load a screen, and wait until it shows what it is for."""
        await self.page.goto(self.base + path)
        await self.settled()

    async def settled(self) -> None:
        """Wait until nothing on the screen is still to come."""
        await expect(self.page.locator(CONTENT).first).to_be_visible()
        await expect(self.page.locator("main .skeleton")).to_have_count(0)
        # What is drawn from an answer may ask for more.
        for _ in range(2):
            async with asyncio.timeout(PATIENCE / 1000):
                await self._quiet.wait()
            await self.page.evaluate(DRAWN)

    async def get(self, path: str) -> Any:
        """What the API tells this visitor."""
        answer = await self.page.request.get(self.base + path)
        assert answer.ok, await answer.text()
        return await answer.json()

    def assert_silent(self) -> None:
        """Nothing went wrong where nobody looked."""
        assert not self.complaints, self.complaints
        assert not self.foreign, self.foreign


@asynccontextmanager
async def visiting(browser: Browser, base: str, cookies: list[Any], **options: Any) -> AsyncGenerator[Visit]:
    """A fresh profile with these cookies; silent until its end."""
    given: dict[str, Any] = {"viewport": {"width": 1440, "height": 900}, "locale": "en-GB", "timezone_id": "UTC", "color_scheme": "light"}
    context = await browser.new_context(**{**given, **options}, storage_state={"cookies": cookies, "origins": []})
    context.set_default_timeout(PATIENCE)
    try:
        visit = Visit(await context.new_page(), base)
        yield visit
        visit.assert_silent()
    finally:
        await context.close()
