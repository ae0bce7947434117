"""What screens ask to have changed: read, checked, and handed to the runner or to the broker."""

import asyncio
import json
import os
import time
from typing import Any, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from millstream.console.access import Access, Role, allows
from millstream.console.answers import Answers
from millstream.console.live import Live
from millstream.console.read_model import ReadModel
from millstream.console.respond import answer, refuse
from millstream.console.runner import MOST_EVENTS, Asked, Runner
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import NotFoundError
from millstream.contracts.ids import new_id
from millstream.contracts.message import key_text
from millstream.core.broker import Broker
from millstream.core.facts import OperationKind

#: A body has to be here after so many seconds.
PATIENCE = 10.0
#: Events published at once, and what is kept of a reason.
MOST_PUBLISHED = 1000
LONGEST_REASON = 1000

#: Who may ask for what; what is not here is refused.
NEEDED: dict[str, Role] = {
    "pause": "operator",
    "resume": "operator",
    "redrive": "operator",
    "repair": "operator",
    "discard": "operator",
    "restore": "operator",
    "reset": "admin",
}
#: What takes something away, or has effects happen again, is kept with its reason.
WITH_REASON = ("discard", "repair", "reset", "pause")
ABOUT_EVENTS = ("redrive", "repair", "discard", "restore")


class OperationRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What a screen asks for."""

    kind: OperationKind
    group: str
    reason: str = ""
    events: list[tuple[str, str]] = []
    fingerprint: str | None = None
    """All dead letters of the group that look alike, instead of naming each."""
    data: str | None = None
    """The new body, as text."""
    to: str | None = None
    """Where to, for `reset`: earliest, latest, back:N events, or seconds since 1970."""
    effects: bool = False
    canary: bool = False
    """Whether the first one goes alone, and the others only if it was handled."""


class PublishRequest(msgspec.Struct, forbid_unknown_fields=True):
    """An event to publish from a screen."""

    type: str
    data: str
    key: str | None = None
    count: int = 1


class Changes:
    """The requests that change something."""

    def __init__(self, answers: Answers, model: ReadModel, broker: Broker, access: Access, live: Live, runner: Runner) -> None:
        self._answers = answers
        self._model = model
        self._broker = broker
        self._access = access
        self._live = live
        self._runner = runner

    async def operate(self, request: Request) -> Response:
        """Have an operation carried out; the answer says only that it is on its way."""
        asked = msgspec.json.decode(await read_body(request), type=OperationRequest)
        role = self._access.role(request)
        if asked.kind not in NEEDED:
            return refuse(403, f"{asked.kind} is not for screens.")
        if not allows(role, NEEDED[asked.kind]):
            return refuse(403, f"To {asked.kind} needs the role {NEEDED[asked.kind]}.")
        if not asked.reason.strip() and asked.kind in WITH_REASON:
            return refuse(422, f"Say why: a reason is kept with every {asked.kind}.")
        if not any(group["name"] == asked.group for group in await self._answers.groups()):
            raise NotFoundError(f"there is no group {asked.group!r}")
        events = await self._events(asked)
        if asked.kind in ABOUT_EVENTS and not events:
            raise ValueError("events: name at least one dead letter")
        if asked.kind == "repair":
            if len(events) != 1:
                raise ValueError("events: one is repaired at a time")
            checked_json(asked.data or "")
        id_ = await self._runner.ask(
            Asked(
                kind=asked.kind,
                group=asked.group,
                by=f"console ({role})",
                reason=asked.reason.strip()[:LONGEST_REASON],
                events=events,
                data=(asked.data or "").encode(),
                positions=await self._positions(asked, events),
                effects=asked.effects,
                canary=asked.canary and asked.kind == "redrive",
            )
        )
        return answer({"id": id_, "events": len(events)}, 202)

    async def _events(self, asked: OperationRequest) -> list[tuple[str, str]]:
        if asked.kind not in ABOUT_EVENTS:
            return []
        if asked.fingerprint is None:
            return list(dict.fromkeys(asked.events))
        state = "discarded" if asked.kind == "restore" else "dead"
        alike = await self._model.letters.listed(fingerprint=asked.fingerprint, group=asked.group, state=state, limit=MOST_EVENTS)
        return [(letter["source"], letter["id"]) for letter in reversed(alike)]

    async def _positions(self, asked: OperationRequest, events: list[tuple[str, str]]) -> list[tuple[str, int, int]]:
        if asked.kind == "reset":
            preview = await self._answers.reset_preview(asked.group, asked.to or "latest")
            return [(row["topic"], row["partition"], int(row["after"])) for row in preview]
        if asked.kind != "restore":
            return []
        if not self._broker.features.replayable:
            raise ValueError(f"{self._broker.name} keeps no history to restore from: publish the event anew")
        places: list[tuple[str, int, int]] = []
        for source, id_ in events:
            letter = await self._model.letters.letter(asked.group, source, id_)
            if letter is None or letter["state"] != "discarded":
                raise NotFoundError(f"{id_} is not among the discarded dead letters of {asked.group}")
            places.append((letter["topic"], letter["partition"], int(letter["position"])))
        return places

    async def publish(self, request: Request) -> Response:
        """Publish an event as its contract says."""
        asked = msgspec.json.decode(await read_body(request), type=PublishRequest)
        contract = next((contract for contract in await self._model.contracts() if contract["name"] == asked.type), None)
        if contract is None:
            raise NotFoundError(f"no running service knows a contract {asked.type!r}")
        if contract.get("wire") == "confluent" and self._broker.features.framed:
            raise ValueError(
                f"type: {asked.type} is published in Confluent's frame, with an id that only its App gets from the registry: "
                f"millstream publish {asked.type} --app MODULE:APP"
            )
        data = checked_json(asked.data)
        if not 1 <= asked.count <= MOST_PUBLISHED:
            raise ValueError(f"count: publish from 1 to {MOST_PUBLISHED} events at once")
        micros = time.time_ns() // 1000
        envelopes = [
            Envelope(
                id=new_id(micros // 1000, os.urandom(10)),
                source="/console",
                type=asked.type,
                key=asked.key if asked.key is not None else _key(data, contract),
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


async def read_body(request: Request) -> bytes:
    """All of a request's body; `TimeoutError` if it does not come."""
    async with asyncio.timeout(PATIENCE):
        return await request.body()


def _key(data: object, contract: dict[str, Any]) -> str | None:
    field = contract["key"]
    if field is None:
        return None
    if not isinstance(data, dict) or field not in data:
        raise ValueError(f"data: the field {field!r} is the key of {contract['name']}, and is missing")
    return key_text(cast("dict[str, Any]", data)[field])


def checked_json(text: str) -> Any:
    """What a text says as JSON; `ValueError` if it is none, or is nested deeper than anybody could read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("data: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"data: this is no JSON: {error}") from None
