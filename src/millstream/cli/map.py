"""`millstream map`."""

import importlib
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from millstream.cli.screen import PLAIN, Cell, Look, Screen
from millstream.cli.sight import HERE, Sight, looking
from millstream.cli.status import MARKS
from millstream.cli.wording import number

Node = dict[str, Any]


async def map(
    *,
    format: Annotated[
        Literal["tree", "mermaid", "json"], Parameter(help="A tree for people, a Mermaid flowchart for documents, or JSON.")
    ] = "tree",
    window: Annotated[float, Parameter(help="Rates are those of the last so many seconds.")] = 60.0,
    sight: Sight = HERE,
    look: Look = PLAIN,
) -> None:
    """Show which events flow between services and their handlers: what code
    declares, and what really happened.

    What only code knows is marked `silent`, what no code declares `undeclared`.

    For example:
      millstream map
      millstream map --format mermaid > flow.mmd
    """
    async with looking(sight) as glance:
        drawn = await glance.answers.map(min(max(window, 5.0), 24 * 3600.0))
    if format == "mermaid":
        print(importlib.import_module("millstream.console.exports").as_mermaid(drawn), end="")
    elif format == "json" or look.json:
        Screen(look).document("map", **{name: drawn[name] for name in ("as_of", "window", "span", "nodes", "edges", "services")})
    else:
        Tree(Screen(look), drawn).show()


class Tree:
    """The map from its sources on: each node is shown whole once, and then only named."""

    def __init__(self, screen: Screen, drawn: dict[str, Any]) -> None:
        self._screen = screen
        self._nodes: dict[str, Node] = {node["id"]: node for node in drawn["nodes"]}
        self._out: dict[str, list[dict[str, Any]]] = {id_: [] for id_ in self._nodes}
        self._roots = dict.fromkeys(self._nodes)
        for edge in drawn["edges"]:
            self._out[edge["from"]].append(edge)
            self._roots.pop(edge["to"], None)
        self._shown: set[str] = set()

    def show(self) -> None:
        """Print it."""
        if not self._nodes:
            self._screen.hint("Nothing is known yet: run a service with facts = \"on\" (MILLSTREAM_FACTS=on).")
        for id_ in self._roots:
            self._node(id_, None, "", "")
        for id_ in self._nodes:
            # What is left goes round in circles.
            if id_ not in self._shown:
                self._node(id_, None, "", "")

    def _node(self, id_: str, edge: dict[str, Any] | None, first: str, rest: str) -> None:
        node, again = self._nodes[id_], id_ in self._shown
        self._shown.add(id_)
        cells = [Cell(first, "dim"), *self._mark(node), Cell(node["label"], "bold" if node["kind"] == "event" else "")]
        if node["kind"] == "handler":
            cells.append(Cell(f"  {node['service']}", "dim"))
        if edge is not None:
            cells += _flow(edge)
        if again and self._out[id_]:
            cells.append(Cell("  (see above)", "dim"))
        self._screen.row(cells, cut=True)
        after = [] if again else self._out[id_]
        for number_, each in enumerate(after):
            last = number_ == len(after) - 1
            branch = self._screen.mark("└─ " if last else "├─ ", "`- " if last else "|- ")
            below = "   " if last else self._screen.mark("│  ", "|  ")
            self._node(each["to"], each, rest + branch, rest + below)

    def _mark(self, node: Node) -> list[Cell]:
        health = node.get("health")
        if health is None:
            return []
        pretty, simple, style = MARKS[health["state"]]
        return [Cell(f"{self._screen.mark(pretty, simple)} ", style)]


def _flow(edge: dict[str, Any]) -> list[Cell]:
    """What goes along an edge."""
    if not edge["observed"]:
        return [Cell("  silent", "dim")]
    cells = [Cell(f"  {edge['rate']:.1f}/s", "cyan")]
    if edge["failed"]:
        cells.append(Cell(f"  {number(round(edge['failed']))} failed", "red"))
    if edge["duplicates"]:
        cells.append(Cell(f"  {number(round(edge['duplicates']))} duplicates", "dim"))
    if not edge["declared"]:
        cells.append(Cell("  undeclared", "yellow"))
    return cells
