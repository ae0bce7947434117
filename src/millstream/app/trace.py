"""The tree of causes and effects that an event belongs to, read from the log and the store."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from millstream.app.queries import CHUNK, all_parked, keeps
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import NotFoundError
from millstream.contracts.ids import id_millis
from millstream.core.broker import Broker, Delivery, Group, Partition
from millstream.core.facts import is_internal
from millstream.core.store import Mark, Parked, Store

State = Literal["handled", "passed", "waiting", "retry", "queued", "dead", "unknown"]
Progress = Callable[[int, int], None]

#: Clocks of publishers may be behind the broker's by so many milliseconds.
SKEW = 60_000


@dataclass(slots=True, kw_only=True)
class Handling:
    """What a group did with an event.

    `handled`: its effects or its inbox say so. `passed`: the group is beyond it, and
    keeps no record of each event. `waiting`: not reached yet. `retry`, `queued`, `dead`:
    parked in the store. `unknown`: another store keeps this group, and only it knows.
    """

    group: str
    state: State
    attempts: int = 0
    parked: Parked | None = None
    effects: list["Node"] = field(default_factory=list["Node"])


@dataclass(slots=True, kw_only=True)
class Node:
    """An event with what came of it."""

    envelope: Envelope
    places: set[tuple[Partition, int]]
    """Where the log has it; more than once when a producer repeated itself."""
    handlings: list[Handling] = field(default_factory=list[Handling])

    @property
    def partition(self) -> Partition:
        """The partition it was first published in."""
        return min(self.places)[0]

    @property
    def position(self) -> int:
        """Where in that partition."""
        return min(self.places)[1]

    def walk(self) -> list["Node"]:
        """This event and all its effects, causes first."""
        return [self, *(node for handling in self.handlings for effect in handling.effects for node in effect.walk())]


@dataclass(frozen=True, slots=True)
class Trace:
    """Trees, one for each event without a cause in the log."""

    roots: tuple[Node, ...]

    def nodes(self) -> list[Node]:
        """Every event of it."""
        return [node for root in self.roots for node in root.walk()]

    @property
    def pending(self) -> int:
        """How many handlings are still to come."""
        return sum(h.state in ("waiting", "retry", "queued") for node in self.nodes() for h in node.handlings)


class Tracer:
    """Finds all that belongs to an event id, a correlation or a key, and keeps up with what is new.

    `wanted` may be an id shortened with `…` in its middle, as tables show it.
    """

    def __init__(self, broker: Broker, store: Store | None, wanted: str, *, since: int | None = None) -> None:
        self._broker = broker
        self._store = store
        self._wanted = wanted
        self._since = since
        self._found: dict[tuple[str, str], Node] = {}
        self._correlations: set[str] = set()
        self._cursors: dict[Partition, int] = {}

    async def advance(self, progress: Progress | None = None) -> bool:
        """Read what is new in the log; tells whether anything of it belongs here."""
        before = len(self._found)
        if not self._correlations:
            await self._scan(self._names, self._start(self._wanted), progress)
            if not self._found:
                return False
            self._correlations = {_correlation(node.envelope) for node in self._found.values()}
            self._cursors.clear()
            await self._scan(self._belongs, min(self._start(c) for c in self._correlations), progress)
        else:
            await self._scan(self._belongs, 0, None)
        return len(self._found) > before

    async def trace(self) -> Trace:
        """The trees as they are now; `NotFoundError` when nothing was found."""
        if not self._found:
            raise NotFoundError(
                f"no event, correlation or key {self._wanted!r} is in the log of {self._broker.name}: "
                "it was never published there, or retention has taken it. See: millstream tail"
            )
        for node in self._found.values():
            node.handlings = []
        by_id = {node.envelope.id: node for node in self._found.values()}
        roots = [node for node in self._found.values() if not _attach(node, by_id)]
        await self._note_states()
        return Trace(tuple(sorted(roots, key=lambda node: (node.envelope.time, node.envelope.id))))

    async def _scan(self, wanted: Callable[[Envelope], bool], start: int, progress: Progress | None) -> None:
        topics = [topic.name for topic in await self._broker.topics() if not is_internal(topic.name)]
        bounds = [bound for topic in topics for bound in await self._broker.bounds(topic)]
        ranges: list[tuple[Partition, int, int]] = []
        for partition, first, head in bounds:
            if partition not in self._cursors:
                self._cursors[partition] = await self._broker.position_at(partition, start) if start else first
            ranges.append((partition, self._cursors[partition], head))
        read, total = 0, sum(max(0, head - position) for _, position, head in ranges)
        for partition, position, head in ranges:
            while position < head and (page := await self._broker.read(partition, position, min(CHUNK, head - position))):
                for delivery in page:
                    if delivery.envelope is not None and wanted(delivery.envelope):
                        self._note(delivery, delivery.envelope)
                position = page[-1].position + 1
                read += len(page)
                if progress is not None:
                    progress(min(read, total), total)
            self._cursors[partition] = max(position, head)

    def _note(self, delivery: Delivery, envelope: Envelope) -> None:
        place = (delivery.partition, delivery.position)
        node = self._found.setdefault((envelope.source, envelope.id), Node(envelope=envelope, places=set()))
        node.places.add(place)

    def _names(self, envelope: Envelope) -> bool:
        wanted = self._wanted
        if envelope.key == wanted or envelope.correlation == wanted or envelope.id == wanted:
            return True
        head, shortened, tail = wanted.partition("…")
        return bool(shortened) and envelope.id.startswith(head) and envelope.id.endswith(tail)

    def _belongs(self, envelope: Envelope) -> bool:
        return _correlation(envelope) in self._correlations

    def _start(self, id: str) -> int:
        """The time (microseconds) from which on events of this id can be in the log."""
        if self._since is not None:
            return self._since
        millis = id_millis(id)
        return 0 if millis is None else max(0, millis - SKEW) * 1000

    async def _note_states(self) -> None:
        """Give each event a handling for each group that reads its topic, and what is known of it."""
        nodes = list(self._found.values())
        topics = {node.partition.topic for node in nodes}
        for group in await self._broker.groups():
            if topics.isdisjoint(group.topics):
                continue
            committed = {state.partition: state.committed.value for state in await self._broker.positions(group.name)}
            mine = [node for node in nodes if node.partition.topic in group.topics]
            parked, marks = await self._known(group, mine)
            for node in mine:
                handling = _handling(node, group.name)
                key = (node.envelope.source, node.envelope.id)
                self._decide(handling, group, node, committed.get(node.partition), parked.get(key), Mark(*key) in marks)

    async def _known(self, group: Group, nodes: Sequence[Node]) -> tuple[dict[tuple[str, str], Parked], set[Mark]]:
        store = self._store
        if store is None or not keeps(store, group):
            return {}, set()
        parked: dict[tuple[str, str], Parked] = {}
        if await store.parked_count(group.name):
            async for each in all_parked(store, group.name):
                if each.envelope is not None:
                    parked[each.envelope.source, each.envelope.id] = each
        marks = [Mark(node.envelope.source, node.envelope.id) for node in nodes]
        return parked, await store.handled(group.name, await store.generation(group.name), marks)

    def _decide(
        self, handling: Handling, group: Group, node: Node, committed: int | None, parked: Parked | None, marked: bool
    ) -> None:
        if parked is not None:
            handling.state, handling.parked, handling.attempts = parked.state, parked, parked.attempts
        elif handling.effects or marked:
            handling.state = "handled"
        elif committed is None:
            handling.state = "unknown"
        elif committed <= node.position:
            handling.state = "waiting"
        else:
            handling.state = "passed" if self._store is not None and keeps(self._store, group) else "unknown"


def _correlation(envelope: Envelope) -> str:
    return envelope.correlation or envelope.id


def _attach(node: Node, by_id: dict[str, Node]) -> bool:
    """Hang an event below its cause; False when that is not in the log."""
    cause = by_id.get(node.envelope.causation or "")
    if cause is None or cause is node:
        return False
    name, _, attempt = (node.envelope.attempt or "").rpartition("/")
    handling = _handling(cause, name or "?")
    handling.state = "handled"
    handling.effects.append(node)
    if attempt.isdigit():
        handling.attempts = max(handling.attempts, int(attempt))
    return True


def _handling(node: Node, group: str) -> Handling:
    for handling in node.handlings:
        if handling.group == group:
            return handling
    node.handlings.append(Handling(group=group, state="unknown"))
    return node.handlings[-1]
