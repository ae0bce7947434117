"""The dashboard: its page, the stream that moves it, and the same figures as JSON."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from millstream import App
from millstream.demos.shop.analytics import build, figures
from millstream.demos.shop.options import Settings
from millstream.demos.shop.process import run_together
from millstream.demos.shop.ready import announce
from millstream.demos.shop.web import Pages, Server, as_event, site

REFRESH = 0.25
KEEP_ALIVE = 15.0


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Project and show until stopped."""
    app = build(settings)
    async with app:
        announce(settings, "analytics")
        web = analytics_site(app, Pages(settings, "Dashboard"), stop)
        await run_together(Server(web, settings.listening["dashboard"]), stop, app.run(stop))


def analytics_site(app: App, pages: Pages, stop: asyncio.Event) -> Starlette:
    """The dashboard of what `app` has counted, until `stop`."""

    async def dashboard(request: Request) -> Response:
        return pages.page("dashboard.html", title="Mill shop: dashboard")

    async def as_json(request: Request) -> Response:
        return JSONResponse(await figures(app), headers={"cache-control": "no-store"})

    async def live(request: Request) -> Response:
        return StreamingResponse(_changes(app, stop), media_type="text/event-stream", headers={"cache-control": "no-store"})

    return site(pages, [Route("/", dashboard), Route("/figures", as_json), Route("/live", live)])


async def _changes(app: App, stop: asyncio.Event) -> AsyncIterator[str]:
    """The figures each time they differ, and a sign of life in between."""
    shown: dict[str, Any] | None = None
    silent = 0.0
    yield "retry: 500\n\n"
    while not stop.is_set():
        current = await figures(app)
        if current != shown:
            shown, silent = current, 0.0
            yield as_event(current)
        elif silent >= KEEP_ALIVE:
            silent = 0.0
            yield ": still here\n\n"
        await asyncio.sleep(REFRESH)
        silent += REFRESH
