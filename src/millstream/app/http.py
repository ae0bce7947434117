"""Health and metrics over HTTP: `/livez`, `/readyz` and `/metrics`, for supervisors and Prometheus."""

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

from millstream.app.settings import UNIX, http_address
from millstream.contracts.errors import ConfigurationError

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

TEXT = b"text/plain; charset=utf-8"
METRICS = b"text/plain; version=1.0.0; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Health:
    """What the endpoints answer with.

    `troubles` gives what keeps this from settling deliveries, and nothing while all is
    well; `metrics` renders Prometheus' text.
    """

    troubles: Callable[[], Awaitable[list[str]]]
    metrics: Callable[[], Awaitable[bytes]]


def endpoints(health: Health) -> Asgi:
    """An ASGI application that serves all three; a web application of your own can mount it.

    `/livez` answers 200 as long as anything answers. `/readyz` answers 503 with a line for
    each trouble.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        # What is mounted below a path sees it in front of its own.
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        kind, headers = TEXT, list[tuple[bytes, bytes]]()
        if scope["method"] not in ("GET", "HEAD"):
            status, body = 405, b"Only GET and HEAD.\n"
            headers.append((b"allow", b"GET, HEAD"))
        elif path == "/livez":
            status, body = 200, b"alive\n"
        elif path == "/readyz":
            troubles = await health.troubles()
            status, body = (503, "".join(f"{each}\n" for each in troubles).encode()) if troubles else (200, b"ready\n")
        elif path == "/metrics":
            status, body, kind = 200, await health.metrics(), METRICS
        else:
            status, body = 404, b"There are /livez, /readyz and /metrics.\n"
        headers += [(b"content-type", kind), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    return answer


def listen(text: str, origin: str = "--http") -> socket.socket:
    """A socket that listens at `HOST:PORT`, or at `unix:PATH`; `ConfigurationError` where nobody can."""
    if text.startswith(UNIX):
        path = text.removeprefix(UNIX)
        with suppress(FileNotFoundError):
            os.unlink(path)
        listening = socket.socket(socket.AF_UNIX)
        try:
            listening.bind(path)
        except OSError as error:
            listening.close()
            raise ConfigurationError(
                f"http is {text}, from {origin}: cannot listen there ({error.strerror or error}). Choose another path."
            ) from error
        listening.listen()
        return listening
    address = http_address(text, origin)
    try:
        return socket.create_server(
            (address.host, address.port), family=socket.AF_INET6 if ":" in address.host else socket.AF_INET, backlog=128
        )
    except OSError as error:
        raise ConfigurationError(
            f"http is {text}, from {origin}: cannot listen there ({error.strerror or error}). "
            "Is another process using the port? Choose another one, or 0 for any that is free."
        ) from error


def url_of(listening: socket.socket) -> str:
    """Where a listening socket is reached."""
    if listening.family == socket.AF_UNIX:
        return f"{UNIX}{listening.getsockname()}"
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@asynccontextmanager
async def serving(application: Asgi, listening: socket.socket) -> AsyncGenerator[None]:
    """Serve on a socket while inside; signals stay whose they were."""
    # Imported late: only those who serve pay for it.
    import uvicorn

    class Server(uvicorn.Server):
        def capture_signals(self) -> Any:
            return nullcontext()

    application_: Any = application
    config = uvicorn.Config(
        application_, lifespan="off", log_config=None, log_level="warning", access_log=False, timeout_graceful_shutdown=1
    )
    server = Server(config)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield
    finally:
        server.should_exit = True
        await task
        listening.close()
