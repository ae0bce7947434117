"""The flow map: nodes and edges of what code declares, and of what was observed to flow."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from millstream.core.facts import is_internal

Node = dict[str, Any]


class FlowMap:
    """Built in steps: what handlers declare, what flowed, and how groups are; the same input gives the same map."""

    def __init__(self, versions: Mapping[str, int]) -> None:
        self._versions = versions
        self._nodes: dict[str, Node] = {}
        self._edges: dict[tuple[str, str], dict[str, Any]] = {}

    def declare(self, handlers: Iterable[Mapping[str, Any]]) -> None:
        """Draw what the code says."""
        for handler in handlers:
            group = f"group:{handler['group']}"
            node = {"id": group, "kind": "handler", "label": handler["name"], "service": handler["app"], "group": handler["group"]}
            self._nodes.setdefault(group, {**node, "location": handler["location"], "summary": handler["summary"]})
            for type_ in handler["types"]:
                self._edge(self._event(type_), group)["declared"] = True
            for type_ in handler["publishes"]:
                self._edge(group, self._event(type_))["declared"] = True

    def observe(self, flows: Iterable[Mapping[str, Any]]) -> None:
        """Draw what really went from where to where."""
        for flow in flows:
            if not flow["from"] or is_internal(flow["to"].partition(":")[2]):
                continue
            edge = self._edge(self._node(flow["from"]), self._node(flow["to"]))
            edge["observed"] = True
            # An app says nowhere what it publishes outside of handlers: there is nothing to contradict.
            edge["declared"] = edge["declared"] or flow["from"].startswith("app:")
            match flow["kind"]:
                case "handled" | "published":
                    for name in ("count", "told", "worked", "waited"):
                        edge[name] += flow[name]
                case "retry" | "parked":
                    edge["failed"] += flow["count"]
                case "duplicate":
                    edge["duplicates"] += flow["count"]
                case _:
                    pass

    def time(self, recent: Iterable[tuple[str, str, float, float]]) -> None:
        """Note how long deliveries took on each edge: type, group, seconds waited and worked."""
        took: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        for type_, group, waited, worked in recent:
            took[f"event:{type_}", f"group:{group}"].append(waited + worked)
        for place, seconds in took.items():
            if (edge := self._edges.get(place)) is not None:
                seconds.sort()
                edge["p50"], edge["p95"] = (seconds[len(seconds) * percent // 100] for percent in (50, 95))

    def judge(self, groups: Mapping[str, Mapping[str, Any]]) -> None:
        """Note how each handler's group is."""
        for node in self._nodes.values():
            group = groups.get(node.get("group", ""))
            if group is not None:
                node |= {"health": group["verdict"], "dead": group["dead"], "lag": group["lag"], "age": group["age"]}

    def as_json(self, window: float, processes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Nodes, edges with rates per second, and services."""
        for edge in self._edges.values():
            told, count = edge.pop("told"), edge.pop("count")
            edge["rate"] = count / window
            edge["one_in"] = max(1, round(count / told)) if told else 1
        names = sorted({node["service"] for node in self._nodes.values() if node["service"]})
        instances = {name: sum(process["app"] == name and process["alive"] for process in processes) for name in names}
        return {
            "nodes": sorted(self._nodes.values(), key=lambda node: node["id"]),
            "edges": sorted(self._edges.values(), key=lambda edge: (edge["from"], edge["to"])),
            "services": [{"name": name, "alive": instances[name] > 0, "instances": instances[name]} for name in names],
        }

    def _event(self, name: str) -> str:
        id_ = f"event:{name}"
        self._nodes.setdefault(id_, {"id": id_, "kind": "event", "label": name, "version": self._versions.get(name), "service": None})
        return id_

    def _node(self, id_: str) -> str:
        kind, _, name = id_.partition(":")
        if kind == "event":
            return self._event(name)
        if kind == "app":
            self._nodes.setdefault(id_, {"id": id_, "kind": "producer", "label": name, "service": name})
        else:
            node = {"id": id_, "kind": "handler", "label": name, "service": name.partition(".")[0], "group": name}
            self._nodes.setdefault(id_, node)
        return id_

    def _edge(self, origin: str, target: str) -> dict[str, Any]:
        edge = self._edges.get((origin, target))
        if edge is None:
            amounts = dict.fromkeys(("count", "told", "failed", "duplicates", "worked", "waited"), 0.0)
            edge = {"from": origin, "to": target, "declared": False, "observed": False, "p50": None, "p95": None, **amounts}
            self._edges[origin, target] = edge
        return edge
