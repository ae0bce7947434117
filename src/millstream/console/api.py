"""The console's API: routes, roles and JSON; every answer comes from `answers`, every change goes out as an operation."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, cast

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from millstream.console.access import Access, Role, allows
from millstream.console.answers import Answers, body
from millstream.console.changes import Changes, read_body
from millstream.console.exports import as_mermaid, as_test
from millstream.console.filter import parse
from millstream.console.history import search_bodies
from millstream.console.lab import LabClient
from millstream.console.live import Live
from millstream.console.read_model import ReadModel
from millstream.console.respond import answer, download, encode, integer, number, refuse, table
from millstream.contracts.errors import MillstreamError, NotFoundError
from millstream.core.broker import Broker

log = logging.getLogger("millstream.console")

MOST_ROWS = 500
#: Larger bodies are shown by their beginning, and can be downloaded: a screen asks for an event again and again.
LARGEST_SHOWN = 1 << 20
#: Longer texts are not looked for.
LONGEST_TEXT = 500

Handle = Callable[[Request], Awaitable[Any]]


class Api:
    """All routes below /api."""

    def __init__(
        self,
        answers: Answers,
        model: ReadModel,
        broker: Broker,
        access: Access,
        live: Live,
        changes: Changes,
        *,
        name: str,
        lab: LabClient | None = None,
    ) -> None:
        self._answers = answers
        self._model = model
        self._broker = broker
        self._access = access
        self._live = live
        self._changes = changes
        self._name = name
        self._lab = lab

    def routes(self) -> list[Route]:
        """Each route with the role that it needs; what is not here is refused."""
        read: dict[str, Handle] = {
            "/api/me": self._me,
            "/api/overview": lambda _: self._answers.overview(),
            "/api/map": self._map,
            "/api/topics": lambda _: self._answers.topics(),
            "/api/events": self._events,
            "/api/event/{id:path}": self._event,
            "/api/raw/{id:path}": self._raw,
            "/api/bodies/{topic:path}": self._bodies,
            "/api/trace/{what:path}": self._trace,
            "/api/search": self._search,
            "/api/groups": lambda _: self._answers.groups(),
            "/api/groups/{group:path}": lambda request: self._answers.group(request.path_params["group"]),
            "/api/reset-preview/{group:path}": self._reset_preview,
            "/api/dead": lambda _: self._model.letters.groups(),
            "/api/dead/{fingerprint}": self._dead,
            "/api/discarded": self._discarded,
            "/api/letter": self._letter,
            "/api/letter/test": self._letter_as_test,
            "/api/contracts": lambda _: self._model.contracts(),
            "/api/processes": lambda _: self._model.processes(),
            "/api/operations": self._operations,
            "/api/operations/{id}": self._operation,
            "/api/audit": self._audit,
            "/api/live": self._live_stream,
            "/api/lab": self._lab_state,
        }
        change: dict[str, tuple[Role, Handle]] = {
            "/api/operations": ("operator", self._changes.operate),
            "/api/publish": ("operator", self._changes.publish),
            "/api/lab/{action}": ("admin", self._lab_act),
        }
        return [
            Route("/api/leave", self._leave, methods=["POST"]),
            *[Route(path, self._guarded("viewer", handle)) for path, handle in read.items()],
            *[Route(path, self._guarded(role, handle, changes=True), methods=["POST"]) for path, (role, handle) in change.items()],
        ]

    def _guarded(self, needed: Role, handle: Handle, *, changes: bool = False) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            if not allows(self._access.role(request), needed):
                return refuse(403, f"This needs the role {needed}.")
            if changes and self._access.read_only:
                return refuse(403, "This console is read-only.")
            if changes and request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
                return refuse(415, "Send JSON, with content-type: application/json.")
            try:
                result = await handle(request)
            except NotFoundError as error:
                return refuse(404, str(error))
            except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError) as error:
                return refuse(422, str(error))
            except MillstreamError as error:
                return refuse(503, str(error))
            except TimeoutError:
                return refuse(408, "The request did not come to its end.")
            except Exception:
                log.exception("%s %s failed", request.method, request.url.path)
                return refuse(500, "This failed for a reason that the console's log tells. Please report it.")
            if isinstance(result, Response):
                return result
            if request.query_params.get("format") == "csv" and isinstance(result, list):
                return table(cast("list[dict[str, Any]]", result), request.url.path.rpartition("/")[2])
            return answer(result)

        return guarded

    async def _me(self, request: Request) -> dict[str, Any]:
        return {
            "role": self._access.role(request),
            "read_only": self._access.read_only,
            "name": self._name,
            "now": time.time(),
            "lab": self._lab is not None,
        }

    async def _map(self, request: Request) -> Any:
        now = time.time()
        window = number(request, "window", least=5.0, most=24 * 3600.0, default=60.0)
        until = number(request, "at", least=0.0, most=now, default=0.0) or None
        drawn = await self._answers.map(window, _text(request, "corr") or None, until=until)
        return PlainTextResponse(as_mermaid(drawn)) if request.query_params.get("format") == "mermaid" else drawn

    async def _events(self, request: Request) -> Any:
        page = await self._model.events.page(
            parse(request.query_params.get("filter", "")),
            topic=request.query_params.get("topic"),
            before=integer(request, "before"),
            limit=integer(request, "limit", least=1, most=MOST_ROWS, default=50) or 50,
        )
        return table(page["events"], "events") if request.query_params.get("format") == "csv" else page

    async def _event(self, request: Request) -> dict[str, Any]:
        return await self._answers.event(request.path_params["id"], request.query_params.get("source"), largest=LARGEST_SHOWN)

    async def _raw(self, request: Request) -> Response:
        event = await self._model.events.event(request.path_params["id"], request.query_params.get("source"))
        envelope = await self._answers.envelope(event) if event is not None else None
        if envelope is None:
            raise NotFoundError("the broker does not have this event any more")
        return download(envelope.data, "event.bin", "application/octet-stream")

    async def _bodies(self, request: Request) -> dict[str, Any]:
        return await search_bodies(
            self._broker,
            request.path_params["topic"],
            _text(request, "text"),
            cursor=request.query_params.get("cursor", ""),
            limit=integer(request, "limit", least=1, most=MOST_ROWS, default=50) or 50,
        )

    async def _trace(self, request: Request) -> dict[str, Any]:
        trace = await self._answers.trace(request.path_params["what"])
        if trace is None:
            raise NotFoundError(f"nothing is known by {request.path_params['what']!r}: no event, no correlation, and no key")
        return trace

    async def _search(self, request: Request) -> dict[str, Any]:
        what = _text(request, "q")
        if not what:
            return {"events": [], "groups": [], "topics": []}
        groups = [group["name"] for group in await self._answers.groups() if what.lower() in group["name"].lower()]
        topics = [topic["name"] for topic in await self._answers.topics() if what.lower() in topic["name"].lower()]
        return {"events": await self._model.events.search(what), "groups": groups[:10], "topics": topics[:10]}

    async def _reset_preview(self, request: Request) -> list[dict[str, Any]]:
        return await self._answers.reset_preview(request.path_params["group"], request.query_params.get("to", "latest"))

    async def _dead(self, request: Request) -> list[dict[str, Any]]:
        return await self._model.letters.listed(state="dead", fingerprint=request.path_params["fingerprint"])

    async def _discarded(self, _: Request) -> list[dict[str, Any]]:
        return await self._model.letters.listed(state="discarded")

    async def _found_letter(self, request: Request) -> dict[str, Any]:
        group, source, id_ = (request.query_params.get(name, "") for name in ("group", "source", "id"))
        letter = await self._model.letters.letter(group, source, id_)
        if letter is None:
            raise NotFoundError("this delivery is not parked any more: it was handled, or discarded long ago")
        letter["contract"] = next((each for each in await self._model.contracts() if each["name"] == letter["type"]), None)
        return letter

    async def _letter(self, request: Request) -> dict[str, Any]:
        letter = await self._found_letter(request)
        event = await self._model.events.event(letter["id"], letter["source"])
        made = await self._model.events.attempts([event]) if event is not None else []
        letter["attempts_made"] = [attempt for attempt in made if attempt["group"] == letter["group"]]
        return {**letter, "data": body(letter["data"])}

    async def _letter_as_test(self, request: Request) -> Response:
        letter = await self._found_letter(request)
        data = letter["data"]
        if len(data) < letter["size"] and (envelope := await self._answers.envelope(letter)) is not None:
            data = envelope.data
        return download(as_test(letter, data).encode("utf-8", "replace"), "test_dead_letter.py", "text/x-python")

    async def _operations(self, request: Request) -> list[dict[str, Any]]:
        limit = integer(request, "limit", least=1, most=MOST_ROWS, default=200) or 200
        return await self._model.operations(limit, group=request.query_params.get("group"))

    async def _operation(self, request: Request) -> dict[str, Any]:
        operation = await self._model.operation(request.path_params["id"])
        if operation is None:
            raise NotFoundError("there is no such operation, or it was long ago")
        return operation

    async def _audit(self, request: Request) -> list[dict[str, Any]]:
        """All that operators did: the operations, of which none can be changed or removed from here."""
        limit = integer(request, "limit", least=1, most=10_000, default=1000) or 1000
        return await self._model.operations(limit, group=request.query_params.get("group"))

    async def _leave(self, request: Request) -> Response:
        self._access.leave(request)
        left = answer({})
        left.delete_cookie(self._access.cookie, httponly=True, samesite="strict")
        return left

    # The lab

    def _demo(self) -> LabClient:
        if self._lab is None:
            raise NotFoundError("there is a lab only in demos: millstream demo shop")
        return self._lab

    async def _lab_state(self, _request: Request) -> Any:
        return await self._demo().ask("state")

    async def _lab_act(self, request: Request) -> Any:
        details = msgspec.json.decode(await read_body(request) or b"{}", type=dict[str, Any])
        return await self._demo().ask(request.path_params["action"], **details)

    # Live

    async def _live_stream(self, _request: Request) -> Response:
        async def stream() -> AsyncGenerator[bytes]:
            yield b"retry: 1000\n\n"
            with self._live.listening() as queue:
                while True:
                    try:
                        async with asyncio.timeout(10):
                            name, value = await queue.get()
                    except TimeoutError:
                        yield b": still here\n\n"
                        continue
                    yield b"event: " + name.encode() + b"\ndata: " + encode(value) + b"\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")


def _text(request: Request, name: str) -> str:
    text = request.query_params.get(name, "").strip()
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"{name}: {LONGEST_TEXT} characters are the most")
    return text
