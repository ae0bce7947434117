"""Live: what has just happened, to every open screen."""

import asyncio
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from millstream.contracts.envelope import Envelope
from millstream.core.facts import Deliveries, Fact, Heartbeat, Manifest, OperationFact, Publications, Waiting, is_internal

#: Dots told in one second; there may be more, and then the screen says so.
MOST_DOTS = 400
#: What happened longer ago, in seconds, is no news: the read model is being caught up.
NEWS = 30.0
#: Messages that wait for one slow screen; then it misses some.
BACKLOG = 200

Queue = asyncio.Queue[tuple[str, Any]]


class Live:
    """Turns facts, as they are projected, into what screens draw; bounded whatever happens."""

    def __init__(self) -> None:
        self._queues: set[Queue] = set()
        self._dots: list[dict[str, Any]] = []
        self._missed = 0
        self._second, self._told = 0, 0
        """The present second, and the dots told in it."""
        self._states: dict[str, str] = {}

    @property
    def is_heard(self) -> bool:
        """Whether anybody listens."""
        return bool(self._queues)

    @contextmanager
    def listening(self) -> Generator[Queue]:
        """A queue of messages, for as long as it is listened to."""
        queue: Queue = asyncio.Queue(BACKLOG)
        self._queues.add(queue)
        try:
            yield queue
        finally:
            self._queues.discard(queue)

    def _send(self, name: str, value: Any) -> None:
        for queue in self._queues:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait((name, value))

    def facts(self, facts: Sequence[Fact]) -> None:
        """Note what was just projected."""
        if not self._queues:
            return
        old = int((time.time() - NEWS) * 1e6)
        for fact in facts:
            if fact.at < old:
                continue
            match fact:
                case Deliveries():
                    self._deliveries(fact)
                case Publications():
                    for event in fact.events:
                        self._dot(f"app:{fact.app}", f"event:{event.type}", "published", event.id, event.key, event.correlation)
                case OperationFact():
                    # Of one that was sent in parts, the whole.
                    self.operation(fact.operation.id.partition(".")[0], fact.status, fact.detail)
                case Manifest():
                    self._send("manifest", {"app": fact.app})
                case Heartbeat():
                    if fact.stopping:
                        self._send("manifest", {"app": fact.app})
                case Waiting():
                    self._send("manifest", {"app": fact.app})
        self._flush()

    def operation(self, id_: str, status: str, detail: str) -> None:
        """Tell what became of an operation."""
        self._send("operation", {"id": id_, "status": status, "detail": detail})

    def published(self, envelopes: Sequence[Envelope]) -> None:
        """Note what was published from here."""
        for envelope in envelopes:
            self._dot("app:console", f"event:{envelope.type}", "published", envelope.id, envelope.key, envelope.correlation)
        self._flush()

    def _deliveries(self, fact: Deliveries) -> None:
        for delivery in fact.deliveries:
            if delivery.kind == "skipped":
                continue
            origin, target = f"event:{delivery.type}", f"group:{fact.group}"
            self._dot(origin, target, delivery.kind, delivery.id, delivery.key, delivery.correlation, delivery.waited + delivery.worked)
            for event in delivery.published:
                self._dot(target, f"event:{event.type}", "published", event.id, event.key, event.correlation)

    def _dot(self, origin: str, target: str, kind: str, id_: str, key: str | None, correlation: str | None, took: float = 0.0) -> None:
        if is_internal(target.partition(":")[2]):
            return
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._told = second, 0
        self._told += 1
        if self._told > MOST_DOTS:
            self._missed += 1
            return
        self._dots.append(
            {"from": origin, "to": target, "kind": kind, "id": id_, "key": key, "correlation": correlation or id_, "took": took}
        )

    def _flush(self) -> None:
        if not self._dots and not self._missed:
            return
        dots, self._dots, missed, self._missed = self._dots, [], self._missed, 0
        self._send("pulse", {"at": time.time(), "dots": dots, "missed": missed})

    def verdicts(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Tell of groups whose state has changed since the last call."""
        for group in groups:
            verdict = group["verdict"]
            if self._states.get(group["name"]) != verdict["state"]:
                self._states[group["name"]] = verdict["state"]
                self._send("verdict", {"group": group["name"], **verdict})
