"""Answers: what the read model, the watch and the broker together say to each screen; the API and the CLI ask the same."""

import asyncio
import base64
import copy
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from millstream.app import operations
from millstream.app.operations import MOST_BACK, Target
from millstream.console.flow_map import FlowMap
from millstream.console.read_model import Flows, ReadModel
from millstream.console.watch import Watch, as_json
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import BrokerError, NotFoundError
from millstream.core.broker import Broker, Partition
from millstream.core.facts import is_internal

#: Outcomes that are failures.
FAILED = ("retry", "parked")
#: Fates after which nothing more happens.
OVER = ("handled", "duplicate", "discarded", "skipped", "passed")
#: Of a body that is cut there are so many bytes.
LARGEST_CUT = 64 << 10
#: What is known of groups is asked for again after so many seconds.
FRESH = 0.3


class Answers:
    """One method for each screen; times are seconds since 1970, large integers are text."""

    def __init__(self, model: ReadModel, watch: Watch, broker: Broker) -> None:
        self._model = model
        self._watch = watch
        self._broker = broker
        self._groups: tuple[float, asyncio.Task[list[dict[str, Any]]]] | None = None

    # Groups

    async def groups(self) -> list[dict[str, Any]]:
        """Every group with its verdict, the worst first; whoever asks at the same time gets the same."""
        now = time.monotonic()
        if self._groups is None or now - self._groups[0] > FRESH:
            self._groups = now, asyncio.ensure_future(self._all_groups())
        return copy.deepcopy(await asyncio.shield(self._groups[1]))

    async def _all_groups(self) -> list[dict[str, Any]]:
        facts = Circumstances(
            processes=await self._model.processes(),
            handlers=await self._model.handlers(),
            parked=await self._model.letters.counts(),
            flows=await self._model.flows(60),
            recent=await self._model.events.recent(60),
            operations=await self._model.operations(limit=500),
        )
        found = [self._group(name, facts) for name in self._watch.names()]
        return sorted(found, key=lambda group: (-group["verdict"]["severity"], group["name"]))

    def _group(self, name: str, facts: "Circumstances") -> dict[str, Any]:
        mine = [handler for handler in facts.handlers if handler["group"] == name]
        app = mine[0]["app"] if mine else name.partition(".")[0]
        alive = [process for process in facts.processes if process["app"] == app and process["alive"]]
        paused = any(name in process["paused"] for process in alive)
        counts = facts.parked.get(name, {})
        blocked = _count(counts["dead"], "dead letter") if counts.get("dead") else ""
        target = [flow for flow in facts.flows.rows if flow["to"] == f"group:{name}"]
        done = [flow for flow in target if flow["kind"] == "handled"]
        handled, told = sum(flow["count"] for flow in done), sum(flow["told"] for flow in done)
        times = [(waited, worked) for _, group, waited, worked in facts.recent if group == name]
        standing = self._watch.standing(name)
        if facts.handlers and not mine:
            standing["note"] = "no running code declares it any more"
        verdict = as_json(self._watch.verdict(name, paused=paused, blocked=blocked, moved=facts.moved(name)))
        if paused and (asked := facts.last(name, "pause")) is not None:
            because = f": {asked['reason']}" if asked["reason"] else ""
            verdict["sentence"] = f"Paused by {asked['by']} {_ago(asked['at'])}{because}"
        return {
            "name": name,
            "app": app,
            **standing,
            "verdict": verdict,
            "paused": paused,
            "instances": len(alive),
            "handled_per_second": handled / facts.flows.span,
            "failed": round(sum(flow["count"] for flow in target if flow["kind"] in FAILED)),
            "duplicates": round(sum(flow["count"] for flow in target if flow["kind"] == "duplicate")),
            "mean_work": sum(flow["worked"] for flow in done) / handled if handled else None,
            "p50_work": percentile([worked for _, worked in times], 50),
            "p95_work": percentile([worked for _, worked in times], 95),
            "p95_latency": percentile([waited + worked for waited, worked in times], 95),
            "one_in": max(1, round(handled / told)) if told else 1,
            "parked": sum(count for state, count in counts.items() if state != "discarded"),
            "dead": counts.get("dead", 0),
            "troubles": sorted({trouble for process in alive for trouble in process["troubles"]}),
        }

    async def group(self, name: str) -> dict[str, Any]:
        """One group with its partitions, members, handlers and what operators did to it."""
        summary = next((group for group in await self.groups() if group["name"] == name), None)
        if summary is None:
            raise NotFoundError(f"there is no group {name!r}")
        operations = await self._model.operations(group=name)
        moved = next((each["at"] for each in operations if each["kind"] == "reset"), None)
        verdicts = self._watch.verdicts(name, paused=summary["paused"], moved=moved)
        handlers = [handler for handler in await self._model.handlers() if handler["group"] == name]
        processes = [process for process in await self._model.processes() if process["app"] == summary["app"]]
        return {
            **summary,
            "partitions": self._watch.partitions(name, verdicts),
            "handlers": handlers,
            "processes": processes,
            "waiting": await self._model.letters.listed(group=name),
            "discarded": await self._model.letters.listed(group=name, state="discarded"),
            "operations": operations,
            "history": await self._model.history(name),
        }

    async def reset_preview(self, name: str, to: str) -> list[dict[str, Any]]:
        """Where each partition of a group would go: `earliest`, `latest`, `back:N` events, or a time in seconds since 1970."""
        plan = await operations.plan_replay(self._broker, name, _target(to))
        return [
            {
                "topic": move.partition.topic,
                "partition": move.partition.number,
                "before": None if move.committed is None else str(move.committed),
                "after": str(move.to),
                "events": move.head - move.to,
                "again": 0 if move.committed is None else move.again,
            }
            for move in plan.moves
        ]

    # The map

    async def map(self, window: float = 60.0, correlation: str | None = None, *, until: float | None = None) -> dict[str, Any]:
        """Services, their handlers and the events between them: what code declares, and what really flowed."""
        processes = await self._model.processes()
        flows = await self._model.flows(window, until=until)
        drawn = FlowMap({contract["name"]: contract["version"] for contract in await self._model.contracts()})
        drawn.declare(await self._model.handlers())
        drawn.observe(flows.rows)
        if until is None:
            drawn.time(await self._model.events.recent(window))
            drawn.judge({group["name"]: group for group in await self.groups()})
        return {
            "as_of": time.time() if until is None else until,
            "window": window,
            "span": flows.span,
            **drawn.as_json(flows.span, processes),
            "path": await self.path(correlation) if correlation else None,
        }

    async def path(self, correlation: str) -> list[dict[str, Any]] | None:
        """The steps of one correlation, as edges of the map in their order."""
        trace = await self.trace(correlation)
        return None if trace is None else trace["steps"]

    # Traces

    async def trace(self, what: str) -> dict[str, Any] | None:
        """The story of an event: what it caused, what waits, and a sentence about it."""
        found = await self._model.events.trace(what)
        if found is None:
            return None
        # Facts come in between: the events are asked for once more, so that what these attempts published is among them.
        fates = await self._fates(found["events"])
        trace = await self._model.events.correlated(found["correlation"])
        await self._tell_fates(trace["events"], fates)
        trace["steps"] = _steps(trace["events"])
        trace["sentence"] = _sentence(trace["events"])
        return trace

    async def _fates(self, events: list[dict[str, Any]]) -> "Fates":
        """What waits of these events, and then what was tried: what has left the one since is told by the other."""
        parked = await self._model.letters.of_events([(event["id"], event["source"]) for event in events])
        return Fates(
            {(row["group"], row["source"], row["id"]): row["state"] for row in parked}, await self._model.events.attempts(events)
        )

    async def _tell_fates(self, events: list[dict[str, Any]], fates: "Fates") -> None:
        """Give each event what became of it in every group."""
        expected: defaultdict[str, list[str]] = defaultdict(list)
        for handler in await self._model.handlers():
            for type_ in handler["types"]:
                expected[type_].append(handler["group"])
        tried: defaultdict[tuple[str, str], defaultdict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
        for attempt in fates.attempts:
            tried[attempt["id"], attempt["source"]][attempt["group"]].append(attempt)
        for event in events:
            by_group = tried[event["id"], event["source"]]
            event["deliveries"] = [
                self._fate(group, event, by_group.get(group, []), fates.parked.get((group, event["source"], event["id"])))
                for group in sorted({*by_group, *expected[event["type"]]})
            ]

    def _fate(self, group: str, event: dict[str, Any], attempts: list[dict[str, Any]], parked: str | None) -> dict[str, Any]:
        """What became of one delivery, in one word and with its attempts."""
        kinds = [attempt["kind"] for attempt in attempts]
        if parked is not None:
            state = {"dead": "dead", "retry": "retrying", "queued": "queued", "discarded": "discarded"}[parked]
        elif "handled" in kinds:
            state = "handled"
        elif "discarded" in kinds:
            state = "discarded"
        elif not kinds:
            # Of a busy group not everything is told one by one.
            state = self._watch.untold(group, event)
        else:
            state = {"retry": "retrying", "parked": "dead", "queued": "queued", "duplicate": "duplicate"}.get(kinds[-1], kinds[-1])
        return {"group": group, "state": state, "attempts": attempts, "duplicates": kinds.count("duplicate")}

    async def event(self, id_: str, source: str | None = None, *, largest: int = sys.maxsize) -> dict[str, Any]:
        """An event with its body, where the broker still has it, and its fate in every group; a body beyond `largest` is cut."""
        event = await self._model.events.event(id_, source)
        if event is None:
            raise NotFoundError(f"no event with the id {id_!r} is known")
        fates = await self._fates([event])
        event["attempts"] = fates.attempts
        await self._tell_fates([event], fates)
        event["payload"] = None
        envelope = await self.envelope(event)
        if envelope is not None:
            event["payload"] = body(envelope.data, largest)
            event["envelope"] = {
                "traceparent": envelope.traceparent, "content_type": envelope.content_type, "schema": envelope.schema,
                "extensions": envelope.extensions,
            }  # fmt: skip
        return event

    async def envelope(self, event: Mapping[str, Any]) -> Envelope | None:
        """The event itself, from the broker's history; None where that is gone, or was never kept."""
        if event["position"] is None or not self._broker.features.replayable:
            return None
        partition, position = Partition(event["topic"], event["partition"]), int(event["position"])
        try:
            read = await self._broker.read(partition, position, 1)
        except BrokerError:
            # Its topic is not there any more.
            return None
        found = read[0].envelope if read and read[0].position == position else None
        return found if found is not None and (found.id, found.source) == (event["id"], event["source"]) else None

    # Topics

    async def topics(self) -> list[dict[str, Any]]:
        """Every topic with what is in it and who reads it."""
        readers: defaultdict[str, list[str]] = defaultdict(list)
        for group in await self._broker.groups():
            for topic in group.topics:
                readers[topic].append(group.name)
        rates: defaultdict[str, float] = defaultdict(float)
        flows = await self._model.flows(60)
        for flow in flows.rows:
            if flow["kind"] == "published":
                rates[flow["to"].partition(":")[2]] += flow["count"]
        found: list[dict[str, Any]] = []
        for topic in await self._broker.topics():
            if is_internal(topic.name):
                continue
            # A queue keeps nothing that was handled.
            bounds = await self._broker.bounds(topic.name) if self._broker.features.replayable else None
            found.append(
                {
                    "name": topic.name,
                    "partitions": topic.partitions if bounds is None else len(bounds),
                    "events": None if bounds is None else str(sum(head - first for _, first, head in bounds)),
                    "published": None if bounds is None else str(sum(head for _, _, head in bounds)),
                    "groups": sorted(readers[topic.name]),
                    "per_second": rates[topic.name] / flows.span,
                    "retain_seconds": topic.retain_seconds,
                    "retain_bytes": None if topic.retain_bytes is None else str(topic.retain_bytes),
                }
            )
        return found

    # Overview

    async def overview(self) -> dict[str, Any]:
        """Is it healthy, and if not, where."""
        groups, dead, processes = await self.groups(), await self._model.letters.groups(), await self._model.processes()
        flows, recent = await self._model.flows(60), await self._model.events.recent(60)
        handled = [flow for flow in flows.rows if flow["kind"] == "handled"]
        count = sum(flow["count"] for flow in handled)
        ages = [group["age"] for group in groups if group["age"] is not None]
        return {
            "sentence": _health(groups, dead, processes),
            "attention": _attention(groups, dead),
            "published_per_second": sum(flow["count"] for flow in flows.rows if flow["kind"] == "published") / flows.span,
            "handled_per_second": count / flows.span,
            "mean_latency": sum(flow["waited"] + flow["worked"] for flow in handled) / count if count else None,
            "p95_latency": percentile([waited + worked for _, _, waited, worked in recent], 95),
            "one_in": max([group["one_in"] for group in groups], default=1),
            "oldest": max(ages, default=None),
            "dead": sum(letter["count"] for letter in dead),
            "groups": groups,
            "processes": processes,
            "rates": await self._model.rates(900),
            "operations": (await self._model.operations(limit=8)),
            "trouble": self._watch.trouble,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """All that is known of all groups, asked for once."""

    processes: list[dict[str, Any]]
    handlers: list[dict[str, Any]]
    parked: dict[str, dict[str, int]]
    flows: Flows
    recent: list[tuple[str, str, float, float]]
    operations: list[dict[str, Any]]

    def last(self, group: str, kind: str) -> dict[str, Any] | None:
        """The last operation of this kind on a group."""
        return next((each for each in self.operations if each["group"] == group and each["kind"] == kind), None)

    def moved(self, group: str) -> float | None:
        """When an operator has last moved it."""
        asked = self.last(group, "reset")
        return None if asked is None else asked["at"]


@dataclass(frozen=True, slots=True)
class Fates:
    """The state of what waits, by group, source and id; and what was tried, in order of time."""

    parked: dict[tuple[str, str, str], str]
    attempts: list[dict[str, Any]]


def _target(to: str) -> Target:
    if to in ("earliest", "latest"):
        return Target(kind=to)
    if to.startswith("back:"):
        events = int(to.removeprefix("back:"))
        if not 1 <= events <= MOST_BACK:
            raise ValueError(f"to: from 1 to {MOST_BACK} events back")
        return Target(kind="back", events=events)
    return Target(kind="time", micros=int(float(to) * 1e6))


def percentile(values: Sequence[float], percent: int) -> float | None:
    """The value that so many of a hundred do not exceed; None of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else None


def body(data: bytes, largest: int = sys.maxsize) -> dict[str, Any]:
    """A body as it is shown: JSON text exactly as it came, or else its bytes; beyond `largest`, the first of them."""
    if len(data) > largest:
        return {"kind": "bytes", "base64": base64.b64encode(data[:LARGEST_CUT]).decode(), "size": len(data)}
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
        return {"kind": "json", "text": data.decode(), "size": len(data)}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {"kind": "bytes", "base64": base64.b64encode(data).decode(), "size": len(data)}


def _steps(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What went along which edge of the map, in order of time."""
    steps: list[dict[str, Any]] = []
    for event in events:
        node = f"event:{event['type']}"
        origin = f"group:{event['by'].rpartition('/')[0]}" if event["by"] else f"app:{event['source'].strip('/')}"
        steps.append({"from": origin, "to": node, "at": event["time"], "id": event["id"]})
        for fate in event["deliveries"]:
            steps += [
                {"from": node, "to": f"group:{attempt['group']}", "at": attempt["at"], "kind": attempt["kind"], "id": event["id"]}
                for attempt in fate["attempts"]
            ]
    return sorted(steps, key=lambda step: step["at"])


def _attention(groups: list[dict[str, Any]], dead: list[dict[str, Any]]) -> list[dict[str, Any]]:
    attention = [
        {"what": group["name"], "kind": "group", "state": group["verdict"]["state"], "sentence": group["verdict"]["sentence"]}
        for group in groups
        if group["verdict"]["severity"] >= 6 or group["troubles"]
    ]
    attention += [
        {
            "what": letter["fingerprint"],
            "kind": "dead",
            "state": "dead",
            "sentence": f"{letter['count']} × {letter['error'] or letter['reason']} in {letter['group']}",
        }
        for letter in dead
    ]
    return attention


def _ago(at: float) -> str:
    seconds = max(0.0, time.time() - at)
    if seconds < 120:
        return f"{seconds:.0f} s ago"
    return f"{seconds / 60:.0f} min ago" if seconds < 7200 else f"{seconds / 3600:.0f} h ago"


def _sentence(events: list[dict[str, Any]]) -> str:
    fates = [delivery for event in events for delivery in event["deliveries"]]
    ends = [attempt["at"] for fate in fates for attempt in fate["attempts"]]
    first = events[0]
    words = [f"{first['type']} {first['key'] or first['id']}: {len(events) - 1} further events, {len(fates)} deliveries"]
    states = {
        "waiting": "waiting", "unknown": "not told of", "retrying": "being tried again", "queued": "queued", "dead": "dead",
    }  # fmt: skip
    for state, word in states.items():
        if count := sum(fate["state"] == state for fate in fates):
            words.append(f"{count} {word}")
    if ends and all(fate["state"] in OVER for fate in fates):
        words.append(f"finished in {max(0.0, max(ends) - first['time']):.2f} s")
    return ", ".join(words)


def _health(groups: list[dict[str, Any]], dead: list[dict[str, Any]], processes: list[dict[str, Any]]) -> str:
    if not groups and not processes:
        return "No service has told of itself yet."
    parts: list[str] = []
    for state in ("stopped", "stalled", "rewound", "behind", "paused"):
        if names := [group["name"] for group in groups if group["verdict"]["state"] == state]:
            some = ", ".join(names[:3]) + ("…" if len(names) > 3 else "")
            parts.append(f"{_count(len(names), 'group')} {'is' if len(names) == 1 else 'are'} {state} ({some})")
    if count := sum(letter["count"] for letter in dead):
        parts.append(f"{_count(count, 'dead letter')} in {_count(len({letter['group'] for letter in dead}), 'group')}")
    if not parts:
        return "Everything is caught up."
    return f"{'; '.join(parts)}; everything else is caught up."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
