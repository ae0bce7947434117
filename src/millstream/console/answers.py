"""Answers: what the read model, the watch and the broker together say to each screen; the API and the CLI ask the same."""

import base64
import time
from collections import defaultdict
from typing import Any

import msgspec

from millstream.console.flow_map import FlowMap
from millstream.console.read_model import ReadModel
from millstream.console.watch import Watch, as_json
from millstream.contracts.errors import NotFoundError
from millstream.core.broker import Broker, Partition
from millstream.core.facts import is_internal

#: Outcomes that are failures.
FAILED = ("retry", "parked")


class Answers:
    """One method for each screen; times are seconds since 1970, large integers are text."""

    def __init__(self, model: ReadModel, watch: Watch, broker: Broker) -> None:
        self._model = model
        self._watch = watch
        self._broker = broker

    # Groups

    async def groups(self) -> list[dict[str, Any]]:
        """Every group with its verdict, the worst first."""
        processes, handlers = await self._model.processes(), await self._model.handlers()
        parked, flows = await self._model.parked_counts(), await self._model.flows(60)
        found = [self._group(name, processes, handlers, parked, flows) for name in self._watch.names()]
        return sorted(found, key=lambda group: (-group["verdict"]["severity"], group["name"]))

    def _group(
        self, name: str, processes: list[Any], handlers: list[Any], parked: dict[str, dict[str, int]], flows: list[Any]
    ) -> dict[str, Any]:
        mine = [handler for handler in handlers if handler["group"] == name]
        app = mine[0]["app"] if mine else name.partition(".")[0]
        alive = [process for process in processes if process["app"] == app and process["alive"]]
        paused = any(name in process["paused"] for process in alive)
        counts = parked.get(name, {})
        blocked = f"{counts['dead']} dead letters" if counts.get("dead") else ""
        target = [flow for flow in flows if flow["to"] == f"group:{name}"]
        handled = sum(flow["count"] for flow in target if flow["kind"] == "handled")
        worked = sum(flow["worked"] for flow in target if flow["kind"] == "handled")
        standing = self._watch.standing(name)
        if handlers and not mine:
            standing["note"] = "no running code declares it any more"
        return {
            "name": name,
            "app": app,
            **standing,
            "verdict": as_json(self._watch.verdict(name, paused=paused, blocked=blocked)),
            "paused": paused,
            "instances": len(alive),
            "handled_per_second": handled / 60,
            "failed": sum(flow["count"] for flow in target if flow["kind"] in FAILED),
            "duplicates": sum(flow["count"] for flow in target if flow["kind"] == "duplicate"),
            "mean_work": worked / handled if handled else None,
            "parked": sum(counts.values()),
            "dead": counts.get("dead", 0),
            "troubles": sorted({trouble for process in alive for trouble in process["troubles"]}),
        }

    async def group(self, name: str) -> dict[str, Any]:
        """One group with its partitions, members, handlers and what operators did to it."""
        summary = next((group for group in await self.groups() if group["name"] == name), None)
        if summary is None:
            raise NotFoundError(f"there is no group {name!r}")
        verdicts = self._watch.verdicts(name, paused=summary["paused"])
        handlers = [handler for handler in await self._model.handlers() if handler["group"] == name]
        processes = [process for process in await self._model.processes() if process["app"] == summary["app"]]
        return {
            **summary,
            "partitions": self._watch.partitions(name, verdicts),
            "handlers": handlers,
            "processes": processes,
            "waiting": await self._model.parked(group=name),
            "operations": await self._model.operations(group=name),
        }

    async def reset_preview(self, name: str, to: str) -> list[dict[str, Any]]:
        """Where each partition of a group would go: `earliest`, `latest`, or a time in seconds since 1970."""
        rows: list[dict[str, Any]] = []
        for state in await self._broker.positions(name):
            bounds = {partition: (first, head) for partition, first, head in await self._broker.bounds(state.partition.topic)}
            first, head = bounds.get(state.partition, (0, 0))
            target = head if to == "latest" else first
            if to not in ("earliest", "latest"):
                target = await self._broker.position_at(state.partition, int(float(to) * 1e6))
            before = state.committed.value
            rows.append(
                {
                    "topic": state.partition.topic,
                    "partition": state.partition.number,
                    "before": None if before is None else str(before),
                    "after": str(target),
                    "events": head - target,
                    "again": 0 if before is None else max(0, before - target),
                }
            )
        return rows

    # The map

    async def map(self, window: float = 60.0, correlation: str | None = None) -> dict[str, Any]:
        """Services, their handlers and the events between them: what code declares, and what really flowed."""
        processes = await self._model.processes()
        drawn = FlowMap({contract["name"]: contract["version"] for contract in await self._model.contracts()})
        drawn.declare(await self._model.handlers())
        drawn.observe(await self._model.flows(window))
        drawn.judge({group["name"]: group for group in await self.groups()})
        return {
            "as_of": time.time(),
            "window": window,
            **drawn.as_json(window, processes),
            "path": await self.path(correlation) if correlation else None,
        }

    async def path(self, correlation: str) -> list[dict[str, Any]] | None:
        """The steps of one correlation, as edges of the map in their order."""
        trace = await self.trace(correlation)
        return None if trace is None else trace["steps"]

    # Traces

    async def trace(self, what: str) -> dict[str, Any] | None:
        """The story of an event: what it caused, what waits, and a sentence about it."""
        trace = await self._model.trace(what)
        if trace is None:
            return None
        expected: defaultdict[str, list[str]] = defaultdict(list)
        for handler in await self._model.handlers():
            for type_ in handler["types"]:
                expected[type_].append(handler["group"])
        tried: defaultdict[tuple[str, str], list[Any]] = defaultdict(list)
        for attempt in trace["attempts"]:
            tried[attempt["id"], attempt["source"]].append(attempt)
        letters = {(row["group"], row["source"], row["id"]): row for row in await self._model.parked_of(list(tried))}
        steps: list[dict[str, Any]] = []
        for event in trace["events"]:
            attempts = tried[event["id"], event["source"]]
            by_group: defaultdict[str, list[Any]] = defaultdict(list)
            for attempt in attempts:
                by_group[attempt["group"]].append(attempt)
            for group in expected[event["type"]]:
                by_group.setdefault(group, [])
            event["deliveries"] = [
                self._fate(group, made, letters.get((group, event["source"], event["id"]))) for group, made in sorted(by_group.items())
            ]
            origin = f"group:{event['by'].rpartition('/')[0]}" if event["by"] else f"app:{event['source'].strip('/')}"
            steps.append({"from": origin, "to": f"event:{event['type']}", "at": event["time"], "id": event["id"]})
            steps += [
                {
                    "from": f"event:{event['type']}",
                    "to": f"group:{attempt['group']}",
                    "at": attempt["at"],
                    "kind": attempt["kind"],
                    "id": event["id"],
                }
                for attempt in attempts
            ]
        trace["steps"] = sorted(steps, key=lambda step: step["at"])
        trace["sentence"] = _sentence(trace["events"])
        return trace

    def _fate(self, group: str, attempts: list[dict[str, Any]], parked: dict[str, Any] | None) -> dict[str, Any]:
        """What became of one delivery, in one word and with its attempts."""
        kinds = [attempt["kind"] for attempt in attempts]
        if "handled" in kinds:
            state = "handled"
        elif "discarded" in kinds:
            state = "discarded"
        elif parked is not None:
            state = {"dead": "dead", "retry": "retrying", "queued": "queued"}[parked["state"]]
        elif not kinds:
            state = "waiting"
        else:
            state = {"retry": "retrying", "parked": "dead", "queued": "queued", "duplicate": "duplicate"}.get(kinds[-1], kinds[-1])
        return {"group": group, "state": state, "attempts": attempts, "duplicates": kinds.count("duplicate")}

    async def event(self, id_: str, source: str | None = None) -> dict[str, Any]:
        """An event with its body, where the broker still has it, and its fate in every group."""
        event = await self._model.event(id_, source)
        if event is None:
            raise NotFoundError(f"no event with the id {id_!r} is known")
        trace = await self.trace(event["correlation"])
        told: list[dict[str, Any]] = trace["events"] if trace else []
        mine = [each for each in told if (each["id"], each["source"]) == (event["id"], event["source"])]
        event["deliveries"] = mine[0]["deliveries"] if mine else []
        event["payload"] = None
        if event["position"] is not None and self._broker.features.replayable:
            read = await self._broker.read(Partition(event["topic"], event["partition"]), int(event["position"]), 1)
            if read and read[0].envelope is not None and read[0].envelope.id == event["id"]:
                envelope = read[0].envelope
                event["payload"] = body(envelope.data)
                event["envelope"] = {
                    "traceparent": envelope.traceparent, "content_type": envelope.content_type, "schema": envelope.schema,
                    "extensions": envelope.extensions,
                }  # fmt: skip
        return event

    # Topics

    async def topics(self) -> list[dict[str, Any]]:
        """Every topic with what is in it and who reads it."""
        readers: defaultdict[str, list[str]] = defaultdict(list)
        for group in await self._broker.groups():
            for topic in group.topics:
                readers[topic].append(group.name)
        rates: defaultdict[str, float] = defaultdict(float)
        for flow in await self._model.flows(60):
            if flow["kind"] == "published":
                rates[flow["to"].partition(":")[2]] += flow["count"]
        found: list[dict[str, Any]] = []
        for topic in await self._broker.topics():
            if is_internal(topic.name):
                continue
            bounds = await self._broker.bounds(topic.name)
            found.append(
                {
                    "name": topic.name,
                    "partitions": len(bounds),
                    "events": str(sum(head - first for _, first, head in bounds)),
                    "published": str(sum(head for _, _, head in bounds)),
                    "groups": sorted(readers[topic.name]),
                    "per_second": rates[topic.name] / 60,
                    "retain_seconds": topic.retain_seconds,
                    "retain_bytes": None if topic.retain_bytes is None else str(topic.retain_bytes),
                }
            )
        return found

    # Overview

    async def overview(self) -> dict[str, Any]:
        """Is it healthy, and if not, where."""
        groups, dead, processes = await self.groups(), await self._model.dead(), await self._model.processes()
        flows = await self._model.flows(60)
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
        handled = [flow for flow in flows if flow["kind"] == "handled" and flow["from"]]
        count = sum(flow["count"] for flow in handled)
        ages = [group["age"] for group in groups if group["age"] is not None]
        return {
            "sentence": _health(groups, dead, processes),
            "attention": attention,
            "published_per_second": sum(flow["count"] for flow in flows if flow["kind"] == "published") / 60,
            "handled_per_second": sum(flow["count"] for flow in flows if flow["kind"] == "handled") / 60,
            "mean_latency": sum(flow["waited"] + flow["worked"] for flow in handled) / count if count else None,
            "oldest": max(ages, default=None),
            "dead": sum(letter["count"] for letter in dead),
            "groups": groups,
            "processes": processes,
            "rates": await self._model.rates(900, 5),
            "operations": (await self._model.operations(limit=8)),
            "trouble": self._watch.trouble,
        }


def body(data: bytes) -> dict[str, Any]:
    """A body as a screen shows it: JSON text exactly as it came, or else its bytes."""
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
        return {"kind": "json", "text": data.decode(), "size": len(data)}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {"kind": "bytes", "base64": base64.b64encode(data).decode(), "size": len(data)}


def _sentence(events: list[dict[str, Any]]) -> str:
    fates = [delivery for event in events for delivery in event["deliveries"]]
    ends = [attempt["at"] for fate in fates for attempt in fate["attempts"]]
    first = events[0]
    words = [f"{first['type']} {first['key'] or first['id']}: {len(events) - 1} further events, {len(fates)} deliveries"]
    for state, word in (("waiting", "waiting"), ("retrying", "being tried again"), ("queued", "queued"), ("dead", "dead")):
        if count := sum(fate["state"] == state for fate in fates):
            words.append(f"{count} {word}")
    if ends and all(fate["state"] in ("handled", "duplicate", "discarded", "skipped") for fate in fates):
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
