"""What the web pages of the shop share: templates, headers that keep a browser safe, and the server."""

import contextlib
import html
import json
import logging
import socket
from collections.abc import Generator
from importlib import resources
from string import Template
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from millstream.contracts.errors import MillstreamError
from millstream.demos.shop.options import Settings

log = logging.getLogger("millstream.shop")

LARGEST_BODY = 65_536
_PAGES = resources.files("millstream.demos.shop") / "pages"
_STATIC = {
    "shop.css": "text/css; charset=utf-8",
    "shop.js": "text/javascript; charset=utf-8",
    "order.js": "text/javascript; charset=utf-8",
    "dashboard.js": "text/javascript; charset=utf-8",
    "inbox.js": "text/javascript; charset=utf-8",
}
_POLICY = b"content-security-policy"
_PAGE_POLICY = (
    b"default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; frame-src 'self'; "
    b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
]


class Markup(str):
    """Text that is HTML already; every other value of a page is escaped."""

    __slots__ = ()


def fill(template: str, **values: object) -> Markup:
    """Put values into a template, escaped unless they are Markup."""
    safe = {name: value if isinstance(value, Markup) else html.escape(str(value)) for name, value in values.items()}
    return Markup(Template(template).substitute(safe))


def joined(template: str, rows: list[dict[str, object]]) -> Markup:
    """The template once for each row."""
    return Markup("".join(fill(template, **row) for row in rows))


class Pages:
    """The package's pages inside the common frame, with links to the other services' pages."""

    def __init__(self, settings: Settings, here: str) -> None:
        links = {"Shop": settings.shop_port, "Inbox": settings.mail_port, "Dashboard": settings.dashboard_port}
        if not settings.own_mail:
            del links["Inbox"]
        self._navigation = Markup(
            "".join(
                fill('<a href="http://127.0.0.1:$port/"$current>$name</a>', port=port, name=name, current=_current(name == here))
                for name, port in links.items()
            )
        )
        self._frame = _PAGES.joinpath("frame.html").read_text("utf-8")

    def page(self, template: str, /, *, title: str, status: int = 200, **values: object) -> HTMLResponse:
        """One page; values are escaped unless they are Markup."""
        content = fill(_PAGES.joinpath(template).read_text("utf-8"), title=title, **values)
        body = fill(self._frame, title=title, navigation=self._navigation, content=content)
        return HTMLResponse(body, status_code=status, headers={"cache-control": "no-store"})

    def problem(self, title: str, problems: list[str], status: int) -> HTMLResponse:
        """What went wrong, for people."""
        items = joined("<li>$problem</li>\n", [{"problem": problem} for problem in problems])
        return self.page("problem.html", title=title, status=status, items=items)

    def refusal(self, request: Request, title: str, words: str, status: int) -> Response:
        """The same for whoever asks: a page, or JSON for a program."""
        if wants_json(request):
            return JSONResponse({"errors": {"request": words}}, status_code=status)
        return self.problem(title, [words], status)


def _current(is_current: bool) -> Markup:  # noqa: FBT001
    return Markup(' aria-current="page"') if is_current else Markup("")


def wants_json(request: Request) -> bool:
    """Whether a program asks, not a browser."""
    return "application/json" in request.headers.get("accept", "")


def site(pages: Pages, routes: list[Route]) -> Starlette:
    """A web application of these routes, the common ones, and errors that say what they mean."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        not_there = error.status_code == 404
        words = "There is no such page here." if not_there else str(error.detail)
        return pages.refusal(request, "Not found" if not_there else "That did not work", words, error.status_code)

    async def busy(request: Request, error: Exception) -> Response:
        log.warning("%s %s: %s", request.method, request.url.path, error)
        words = "The database does not answer right now. Nothing was changed; please try again in a moment."
        return pages.refusal(request, "Please try again", words, 503)

    return Starlette(
        routes=[*routes, *_common_routes()],
        middleware=[Middleware(SafeHeaders), Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS), Middleware(SameOriginForms)],
        exception_handlers={HTTPException: refused, MillstreamError: busy},
    )


#: Loopback names only: a DNS name that was rebound to this machine is refused.
HOSTS = ["127.0.0.1", "localhost"]


def _common_routes() -> list[Route]:
    """The stylesheet and the scripts, and the answer to 'are you alive'."""

    async def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _STATIC:
            raise HTTPException(404)
        return Response(_PAGES.joinpath(name).read_bytes(), media_type=_STATIC[name], headers={"cache-control": "no-cache"})

    async def alive(request: Request) -> Response:
        return PlainTextResponse("ok")

    async def no_icon(request: Request) -> Response:
        return Response(status_code=204)

    return [Route("/static/{name}", static), Route("/livez", alive), Route("/favicon.ico", no_icon)]


class SafeHeaders:
    """Adds the security headers to every response; a response may bring a policy of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", []), *_HEADERS]
                if not any(name == _POLICY for name, _ in headers):
                    headers.append((_POLICY, _PAGE_POLICY))
                message["headers"] = headers
            await send(message)

        await self._app(scope, receive, send_with_headers)


class SameOriginForms:
    """Refuses a POST that a page of another origin sent."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD") and _is_foreign(scope):
            refusal = PlainTextResponse("A page of another site may not send this.", status_code=403)
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _is_foreign(scope: Scope) -> bool:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    origin = headers.get(b"origin")
    # Under `no-referrer` a browser sends "null" for a form of the page's own origin, so the fetch site decides first.
    fetched_from = headers.get(b"sec-fetch-site")
    if fetched_from is not None:
        return fetched_from not in (b"same-origin", b"none")
    return origin is not None and urlsplit(origin.decode("latin-1")).netloc != headers.get(b"host", b"").decode()


async def body_of(request: Request) -> bytes | None:
    """The request's body, or None when it is larger than any order can be."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_BODY:
            return None
    return bytes(body)


def as_event(data: object) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(data)}\n\n"


class Server(uvicorn.Server):
    """Uvicorn on a socket that the supervisor listens on, leaving the signals to the service process."""

    def __init__(self, app: ASGIApp, listening: int) -> None:
        self.socket = socket.socket(fileno=listening)
        super().__init__(uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1))

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Do nothing: `run_service` stops the server."""
        yield
