"""The console's API: routes, roles and JSON; every answer comes from `answers`, every change goes out as an operation."""

import asyncio
import json
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from millstream.app.control import sign
from millstream.console.access import Access, Role, allows, refuse
from millstream.console.answers import Answers, body
from millstream.console.filter import parse
from millstream.console.lab import LabClient
from millstream.console.live import Live
from millstream.console.read_model import ReadModel
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import MillstreamError, NotFoundError
from millstream.contracts.ids import new_id
from millstream.contracts.message import key_text
from millstream.core.broker import Broker
from millstream.core.facts import Operation, OperationKind

MOST_ROWS = 500

#: Who may ask for what; what is not here is refused.
NEEDED: dict[str, Role] = {
    "pause": "operator",
    "resume": "operator",
    "redrive": "operator",
    "repair": "operator",
    "discard": "operator",
    "reset": "admin",
}

_encode = msgspec.json.Encoder(enc_hook=str).encode


def answer(value: object, status: int = 200) -> Response:
    """A value as JSON."""
    return Response(_encode(value), status_code=status, media_type="application/json")


class OperationRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What a screen asks for."""

    kind: OperationKind
    group: str
    reason: str = ""
    events: list[tuple[str, str]] = []
    data: str | None = None
    """The new body, as text."""
    to: str | None = None
    """Where to, for `reset`: earliest, latest, or seconds since 1970."""
    effects: bool = False


class PublishRequest(msgspec.Struct, forbid_unknown_fields=True):
    """An event to publish from a screen."""

    type: str
    data: str
    key: str | None = None
    count: int = 1


class Api:
    """All routes below /api."""

    def __init__(
        self,
        answers: Answers,
        model: ReadModel,
        broker: Broker,
        access: Access,
        live: Live,
        *,
        name: str,
        key: str | None,
        lab: LabClient | None = None,
    ) -> None:
        self._answers = answers
        self._model = model
        self._broker = broker
        self._access = access
        self._live = live
        self._name = name
        self._key = key
        self._lab = lab
        self._waiting: dict[str, dict[str, Any]] = {}
        """Operations that nobody has answered yet."""

    def routes(self) -> list[Route]:
        """Each route with the role that it needs."""
        get: list[tuple[str, Callable[[Request], Awaitable[Any]]]] = [
            ("/api/me", self._me),
            ("/api/overview", lambda _: self._answers.overview()),
            ("/api/map", self._map),
            ("/api/topics", lambda _: self._answers.topics()),
            ("/api/events", self._events),
            ("/api/event/{id:path}", self._event),
            ("/api/trace/{what:path}", self._trace),
            ("/api/search", self._search),
            ("/api/groups", lambda _: self._answers.groups()),
            ("/api/groups/{group:path}", lambda request: self._answers.group(request.path_params["group"])),
            ("/api/reset-preview/{group:path}", self._reset_preview),
            ("/api/dead", lambda _: self._model.letters.groups()),
            ("/api/dead/{fingerprint}", self._dead),
            ("/api/letter", self._letter),
            ("/api/contracts", lambda _: self._model.contracts()),
            ("/api/processes", lambda _: self._model.processes()),
            ("/api/operations", self._operations),
        ]
        routes = [Route(path, self._guarded("viewer", handler)) for path, handler in get]
        routes.append(Route("/api/live", self._guarded("viewer", self._live_stream)))
        routes.append(Route("/api/operations", self._guarded("operator", self._operate, changes=True), methods=["POST"]))
        routes.append(Route("/api/publish", self._guarded("operator", self._publish, changes=True), methods=["POST"]))
        routes.append(Route("/api/lab", self._guarded("viewer", self._lab_state)))
        routes.append(Route("/api/lab/{action}", self._guarded("admin", self._lab_act, changes=True), methods=["POST"]))
        return routes

    def _guarded(
        self, needed: Role, handler: Callable[[Request], Awaitable[Any]], *, changes: bool = False
    ) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            if not allows(self._access.role(request), needed):
                return refuse(403, f"This needs the role {needed}.")
            if changes and self._access.read_only:
                return refuse(403, "This console is read-only.")
            if changes and request.headers.get("content-type", "").partition(";")[0] != "application/json":
                return refuse(415, "Send JSON, with content-type: application/json.")
            try:
                result = await handler(request)
            except NotFoundError as error:
                return refuse(404, str(error))
            except (msgspec.MsgspecError, ValueError, TypeError) as error:
                return refuse(422, str(error))
            except MillstreamError as error:
                return refuse(503, str(error))
            return result if isinstance(result, Response) else answer(result)

        return handle

    async def _me(self, request: Request) -> dict[str, Any]:
        return {
            "role": self._access.role(request),
            "read_only": self._access.read_only,
            "name": self._name,
            "now": time.time(),
            "lab": self._lab is not None,
        }

    async def _map(self, request: Request) -> dict[str, Any]:
        query = request.query_params
        window = min(max(float(query.get("window", "60")), 5.0), 24 * 3600.0)
        until = float(query["at"]) if "at" in query else None
        return await self._answers.map(window, query.get("corr"), until=until)

    async def _events(self, request: Request) -> dict[str, Any]:
        query = request.query_params
        before = query.get("before")
        return await self._model.events.page(
            parse(query.get("filter", "")),
            topic=query.get("topic"),
            before=int(before) if before else None,
            limit=min(max(int(query.get("limit", "50")), 1), MOST_ROWS),
        )

    async def _event(self, request: Request) -> dict[str, Any]:
        return await self._answers.event(request.path_params["id"], request.query_params.get("source"))

    async def _trace(self, request: Request) -> dict[str, Any]:
        trace = await self._answers.trace(request.path_params["what"])
        if trace is None:
            raise NotFoundError(f"nothing is known by {request.path_params['what']!r}: no event, no correlation, and no key")
        return trace

    async def _search(self, request: Request) -> dict[str, Any]:
        what = request.query_params.get("q", "").strip()
        if not what:
            return {"events": [], "groups": [], "topics": []}
        groups = [group["name"] for group in await self._answers.groups() if what.lower() in group["name"].lower()]
        topics = [topic["name"] for topic in await self._answers.topics() if what.lower() in topic["name"].lower()]
        return {"events": await self._model.events.search(what), "groups": groups[:10], "topics": topics[:10]}

    async def _reset_preview(self, request: Request) -> list[dict[str, Any]]:
        return await self._answers.reset_preview(request.path_params["group"], request.query_params.get("to", "latest"))

    async def _dead(self, request: Request) -> list[dict[str, Any]]:
        return await self._model.letters.listed(state="dead", fingerprint=request.path_params["fingerprint"])

    async def _letter(self, request: Request) -> dict[str, Any]:
        group, source, id_ = (request.query_params.get(name, "") for name in ("group", "source", "id"))
        letter = await self._model.letters.letter(group, source, id_)
        if letter is None:
            raise NotFoundError("this delivery is not parked any more: it was handled, or discarded long ago")
        event = await self._model.events.event(id_, source)
        made = await self._model.events.attempts([event]) if event is not None else []
        letter["attempts_made"] = [attempt for attempt in made if attempt["group"] == group]
        contracts = {contract["name"]: contract for contract in await self._model.contracts()}
        return {**letter, "data": body(letter["data"]), "contract": contracts.get(letter["type"])}

    async def _operations(self, request: Request) -> list[dict[str, Any]]:
        answered = await self._model.operations(group=request.query_params.get("group"))
        known = {operation["id"] for operation in answered}
        now = time.time()
        self._waiting = {id_: one for id_, one in self._waiting.items() if id_ not in known and now - one["at"] < 600}
        return [*reversed(self._waiting.values()), *answered]

    # Changes

    async def _operate(self, request: Request) -> Response:
        asked = msgspec.json.decode(await request.body(), type=OperationRequest)
        role = self._access.role(request)
        if not allows(role, NEEDED[asked.kind]):
            return refuse(403, f"To {asked.kind} needs the role {NEEDED[asked.kind]}.")
        if not asked.reason.strip() and asked.kind in ("discard", "repair", "reset", "pause"):
            return refuse(422, f"Say why: a reason is kept with every {asked.kind}.")
        if asked.kind == "repair":
            json.loads(asked.data or "")
        positions: tuple[tuple[str, int, int], ...] = ()
        if asked.kind == "reset":
            preview = await self._answers.reset_preview(asked.group, asked.to or "latest")
            positions = tuple((row["topic"], row["partition"], int(row["after"])) for row in preview)
        micros = time.time_ns() // 1000
        operation = Operation(
            id=new_id(micros // 1000, os.urandom(10)),
            kind=asked.kind,
            group=asked.group,
            by=f"console ({role})",
            reason=asked.reason.strip(),
            at=micros,
            events=tuple(asked.events),
            data=(asked.data or "").encode(),
            positions=positions,
            effects=asked.effects,
        )
        await self._broker.broadcast(sign(operation, self._key))
        self._waiting[operation.id] = {
            "id": operation.id, "kind": operation.kind, "group": operation.group, "by": operation.by, "reason": operation.reason,
            "at": micros / 1e6, "status": "sent", "detail": "waiting for a running process of this service", "answered": None,
            "events": operation.events,
        }  # fmt: skip
        return answer({"id": operation.id}, 202)

    async def _publish(self, request: Request) -> Response:
        asked = msgspec.json.decode(await request.body(), type=PublishRequest)
        contract = next((contract for contract in await self._model.contracts() if contract["name"] == asked.type), None)
        if contract is None:
            raise NotFoundError(f"no running service knows a contract {asked.type!r}")
        data: Any = json.loads(asked.data)
        if not 1 <= asked.count <= 1000:
            raise ValueError("count: publish from 1 to 1000 events at once")
        key = asked.key
        if key is None and contract["key"] is not None:
            if not isinstance(data, dict) or contract["key"] not in data:
                raise ValueError(f"data: the field {contract['key']!r} is the key of {asked.type}, and is missing")
            key = key_text(cast("dict[str, Any]", data)[contract["key"]])
        micros = time.time_ns() // 1000
        envelopes = [
            Envelope(
                id=new_id(micros // 1000, os.urandom(10)),
                source="/console",
                type=asked.type,
                key=key,
                time=micros,
                data=asked.data.encode(),
                version=contract["version"],
                topic=contract["topic"],
            )
            for _ in range(asked.count)
        ]
        for error in await self._broker.publish(envelopes):
            if error is not None:
                raise error
        self._live.published(envelopes)
        return answer({"ids": [envelope.id for envelope in envelopes]}, 201)

    # The lab

    def _demo(self) -> LabClient:
        if self._lab is None:
            raise NotFoundError("there is a lab only in demos: millstream demo shop")
        return self._lab

    async def _lab_state(self, _request: Request) -> Any:
        return await self._demo().ask("state")

    async def _lab_act(self, request: Request) -> Any:
        details: Any = json.loads(await request.body() or b"{}")
        if not isinstance(details, dict):
            raise TypeError("a lab action takes an object")
        named = {str(name): value for name, value in cast("dict[object, Any]", details).items()}
        return await self._demo().ask(request.path_params["action"], **named)

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
                    yield b"event: " + name.encode() + b"\ndata: " + _encode(value) + b"\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")
