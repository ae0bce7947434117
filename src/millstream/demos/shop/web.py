"""What the three web pages of the shop share: templates, headers that keep a browser safe, and the server."""

import contextlib
import html
import json
import socket
from collections.abc import Generator
from importlib import resources
from string import Template
from urllib.parse import urlsplit

import uvicorn
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 65_536
_PAGES = resources.files("millstream.demos.shop") / "pages"
_STATIC = {
    "shop.css": "text/css; charset=utf-8",
    "order.js": "text/javascript; charset=utf-8",
    "dashboard.js": "text/javascript; charset=utf-8",
    "inbox.js": "text/javascript; charset=utf-8",
}
_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
        b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
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


def page(name: str, *, title: str, status: int = 200, **values: object) -> HTMLResponse:
    """One of the package's pages inside the common frame."""
    content = fill(_PAGES.joinpath(name).read_text("utf-8"), **values)
    frame = _PAGES.joinpath("frame.html").read_text("utf-8")
    return HTMLResponse(fill(frame, title=title, content=content), status_code=status)


def static_routes() -> list[Route]:
    """The stylesheet and the scripts, and the answer to 'are you alive'."""

    async def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _STATIC:
            return PlainTextResponse("There is no such file.", status_code=404)
        return Response(_PAGES.joinpath(name).read_bytes(), media_type=_STATIC[name])

    async def alive(request: Request) -> Response:
        return PlainTextResponse("ok")

    async def no_icon(request: Request) -> Response:
        return Response(status_code=204)

    return [Route("/static/{name}", static), Route("/livez", alive), Route("/favicon.ico", no_icon)]


def middleware() -> list[Middleware]:
    """Loopback host names only (a rebound DNS name is refused), no foreign forms, and the safe headers."""
    return [
        Middleware(SafeHeaders),
        Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"]),
        Middleware(SameOriginForms),
    ]


class SafeHeaders:
    """Adds the security headers to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS]
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
    headers = dict(scope["headers"])
    origin = headers.get(b"origin")
    # Under `no-referrer` a browser sends "null" for a form of the page's own origin, so the fetch site decides first.
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        return site not in (b"same-origin", b"none")
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
    """Uvicorn on loopback that leaves the signals to the service process."""

    def __init__(self, app: ASGIApp, listening: int) -> None:
        self.socket = socket.socket(fileno=listening)
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                lifespan="off",
                timeout_graceful_shutdown=1,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield
