"""Who may do what in the console, decided on the server for every request."""

import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from millstream.console.respond import refuse

Role = Literal["viewer", "operator", "admin"]

ROLES: tuple[Role, ...] = ("viewer", "operator", "admin")
#: A session lasts so long, in seconds.
SESSION = 12 * 3600.0
#: Wrong tokens in a minute before every further one is refused for a while.
MOST_GUESSES = 10
MOST_SESSIONS = 1000
LARGEST_BODY = 1 << 20

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self';"
        " font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}

Next = Callable[[Request], Awaitable[Response]]


class Access:
    """Tokens, sessions and roles.

    `tokens` has a role for each token; the one that is printed works once and becomes a
    cookie. A request must come from this very origin: its Host is one of ours, its Origin
    (where it has one) too, and the browser does not say that another site sent it.
    """

    def __init__(
        self, tokens: Mapping[str, Role], *, hosts: frozenset[str], cookie: str, read_only: bool = False, reusable: bool = False
    ) -> None:
        self._tokens = dict(tokens)
        self._hosts = hosts
        self._reusable = reusable
        self.cookie = cookie
        self.read_only = read_only
        self._sessions: dict[str, tuple[Role, float]] = {}
        self._guesses: list[float] = []

    def enter(self, token: str) -> str | None:
        """A session for a token, if it is a right one; None otherwise, and too often wrong is wrong for a while."""
        now = time.monotonic()
        self._guesses = [at for at in self._guesses if now - at < 60]
        if len(self._guesses) >= MOST_GUESSES:
            return None
        for known, role in tuple(self._tokens.items()):
            if hmac.compare_digest(known.encode(), token.encode("utf-8", "surrogatepass")):
                if not self._reusable:
                    del self._tokens[known]
                session = secrets.token_urlsafe(32)
                self._sessions = {key: each for key, each in self._sessions.items() if each[1] > now}
                while len(self._sessions) >= MOST_SESSIONS:
                    del self._sessions[next(iter(self._sessions))]
                self._sessions[session] = (role, now + SESSION)
                return session
        self._guesses.append(now)
        return None

    def role(self, request: Request) -> Role | None:
        """Who asks; None for a stranger."""
        session = self._sessions.get(request.cookies.get(self.cookie, ""))
        if session is not None and session[1] > time.monotonic():
            return session[0]
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self._reusable and bearer:
            for known, role in self._tokens.items():
                if hmac.compare_digest(known.encode(), bearer.encode("utf-8", "surrogatepass")):
                    return role
        return None

    def leave(self, request: Request) -> None:
        """End a session: its cookie is good for nothing any more."""
        self._sessions.pop(request.cookies.get(self.cookie, ""), None)

    def is_foreign(self, request: Request) -> bool:
        """Whether another site may be behind the request."""
        if request.headers.get("host", "") not in self._hosts:
            return True
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc not in self._hosts:
            return True
        site = request.headers.get("sec-fetch-site", "same-origin")
        if request.method == "GET" and not request.url.path.startswith("/api/") and request.headers.get("sec-fetch-mode") == "navigate":
            # A link to a screen, from wherever: the page has nothing in it, and the cookie does not come with it.
            return False
        return site not in ("same-origin", "none") and not (site == "same-site" and origin is not None)


def allows(role: Role | None, needed: Role) -> bool:
    """Whether a role is enough."""
    return role is not None and ROLES.index(role) >= ROLES.index(needed)


class Guard:
    """ASGI middleware: headers on every response, strangers and other sites turned away, bodies bounded."""

    def __init__(self, app: Any, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in given]
                if b"cache-control" not in given:
                    more.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        response = self._turned_away(Request(scope))
        await (response or self._app)(scope, receive, with_headers)

    def _turned_away(self, request: Request) -> Response | None:
        access = self._access
        if access.is_foreign(request):
            return refuse(403, "This request does not come from the console's own page. Open the console by the address that it printed.")
        length = request.headers.get("content-length", "0")
        if not (length.isascii() and length.isdecimal() and len(length) < 20 and int(length) <= LARGEST_BODY):
            return refuse(413, f"A request has at most {LARGEST_BODY} bytes.")
        if "transfer-encoding" in request.headers:
            return refuse(411, "Send the body with its length.")
        token = request.query_params.get("t")
        if request.method == "GET" and token is not None and not request.url.path.startswith("/api/"):
            session = access.enter(token)
            if session is None:
                return refuse(401, "This link was used before, or is wrong. Look for the newest address in the console's terminal.")
            answer = RedirectResponse(request.url.path, status_code=303)
            answer.set_cookie(access.cookie, session, max_age=int(SESSION), httponly=True, samesite="strict")
            return answer
        if request.url.path.startswith("/api/") and access.role(request) is None:
            return refuse(401, "Nobody is signed in. Open the console by the address that it printed; it has a token that works once.")
        return None
