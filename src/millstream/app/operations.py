"""What an operator changes, as the CLI and the console do it; every change is safe to repeat."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from millstream.app.queries import GroupState, events_back, group_named, keeps
from millstream.contracts.errors import ConfigurationError, NotFoundError, RefusedError, StoreMismatchError
from millstream.core.broker import Broker, Group, Partition
from millstream.core.store import RequestKind, Store

#: So many events back are counted in a partition: they have to be read.
MOST_BACK = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a group is to go on in each partition: at a time, at a position, so many events back from where it stands, or at an end."""

    kind: Literal["time", "position", "back", "earliest", "latest"]
    micros: int = 0
    position: int = 0
    events: int = 0


@dataclass(frozen=True, slots=True)
class Move:
    """One partition of a replay."""

    partition: Partition
    committed: int | None
    """Where the group stands; None when the broker cannot say."""
    to: int
    head: int
    counted: int | None = None
    """How many events it goes back, where they were counted; otherwise positions tell, of which some may have no event."""

    @property
    def again(self) -> int:
        """How many events the group has passed, and gets again."""
        if self.counted is not None:
            return self.counted
        return max(0, (self.head if self.committed is None else self.committed) - self.to)

    @property
    def skipped(self) -> int:
        """How many events the group has not passed, and would never get."""
        return 0 if self.committed is None else max(0, self.to - self.committed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a replay would do; nothing is changed by making one."""

    group: str
    moves: tuple[Move, ...]
    running: int
    """How many partitions somebody works on: a group is moved only while it is stopped."""

    @property
    def again(self) -> int:
        """How many events are delivered again."""
        return sum(move.again for move in self.moves)

    @property
    def skipped(self) -> int:
        """How many waiting events are jumped over."""
        return sum(move.skipped for move in self.moves)


async def request(store: Store, kind: RequestKind, ids: Sequence[int], reason: str = "") -> tuple[list[int], list[int]]:
    """Ask the owner of these dead letters to redrive or discard them; gives the ids asked for, and those not there.

    It is done by the group's workers, in the order of each key, as soon as they run.
    """
    there = {parked.id for parked in await store.parked(ids=ids)} if ids else set[int]()
    accepted = [id_ for id_ in dict.fromkeys(ids) if id_ in there]
    if accepted:
        await store.request(kind, accepted, reason)
    return accepted, [id_ for id_ in dict.fromkeys(ids) if id_ not in there]


async def pause(broker: Broker, store: Store, name: str, *, paused: bool) -> None:
    """Have a group's workers take nothing more, or go on; it survives restarts."""
    _owned(await group_named(broker, name), store)
    await store.pause(name, paused=paused)


async def plan_replay(broker: Broker, name: str, target: Target, partitions: Sequence[Partition] = ()) -> Plan:
    """What moving a group there would do; all of it, or only in these partitions."""
    declared = await group_named(broker, name)
    if not broker.features.replayable:
        raise ConfigurationError(f"{broker.name} keeps no history, so nothing can be replayed there. Redrive dead letters instead.")
    if target.kind == "back" and not 1 <= target.events <= MOST_BACK:
        raise ConfigurationError(f"a group goes back 1 to {MOST_BACK} events, not {target.events}: they are counted. Name a time instead.")
    states = {state.partition: state for state in await broker.positions(name)}
    bounds = {partition: (first, head) for topic in declared.topics for partition, first, head in await broker.bounds(topic)}
    if unknown := [f"{partition.topic}/{partition.number}" for partition in partitions if partition not in bounds]:
        raise NotFoundError(f"group {name!r} reads no partition {', '.join(unknown)}. See: millstream groups show {name}")
    moves: list[Move] = []
    for partition in dict.fromkeys(partitions) or bounds:
        first, head = bounds[partition]
        committed = states[partition].committed.value if partition in states else None
        to, counted = await _destination(broker, target, partition, (first, head), committed)
        moves.append(Move(partition, committed, min(max(to, first), head), head, counted))
    return Plan(group=name, moves=tuple(moves), running=sum(state.owner is not None for state in states.values()))


async def _destination(
    broker: Broker, target: Target, partition: Partition, bounds: tuple[int, int], committed: int | None
) -> tuple[int, int | None]:
    """Where a partition goes on, and how many events it goes back, if they were counted."""
    match target.kind:
        case "earliest":
            return bounds[0], None
        case "latest":
            return bounds[1], None
        case "position":
            return target.position, None
        case "time":
            return await broker.position_at(partition, target.micros), None
        case "back":
            if committed is None:
                raise RefusedError(
                    f"nobody knows where the group stands in {partition.topic}/{partition.number}, so it cannot go back from there. "
                    "Name a time or a position."
                )
            return await events_back(broker, partition, first=bounds[0], end=min(committed, bounds[1]), count=target.events)


async def replay(broker: Broker, store: Store, plan: Plan, *, effects: bool) -> None:
    """Move a stopped group as planned; with `effects` what it has handled before is handled anew.

    Without `effects` handlers that run effectively once see what they have handled as
    duplicates; those that run at least once are called again in any case.
    """
    _owned(await group_named(broker, plan.group), store)
    if plan.running:
        raise RefusedError(
            f"group {plan.group!r} is running: its workers own {plan.running} partitions. "
            "Stop them (pausing is not enough), move the group, and start them again."
        )
    positions = [(move.partition, move.to) for move in plan.moves]
    # The broker first: it refuses while somebody runs. The store's word is the one that counts.
    await broker.seek(plan.group, positions)
    await store.rewind(plan.group, positions, effects=effects)


async def forget(broker: Broker, store: Store, state: GroupState) -> None:
    """Remove a stopped group for good: its positions, its inbox and its dead letters."""
    _owned(await group_named(broker, state.name), store)
    if state.members:
        raise RefusedError(f"group {state.name!r} is running. Stop its workers first; they would only declare it again.")
    # The store first: were only the broker's half gone, a new group of this name would find the old progress.
    await store.forget(state.name)
    await broker.forget(state.name)


async def retain(broker: Broker, topic: str, *, force: bool = False) -> int:
    """Remove what the topic's retention no longer keeps, and say how many events went."""
    if topic not in {each.name for each in await broker.topics()}:
        raise NotFoundError(f"there is no topic {topic!r} on {broker.name}. See: millstream topics")
    return await broker.retain(topic, force=force)


def _owned(group: Group, store: Store) -> None:
    if not keeps(store, group):
        raise StoreMismatchError(
            f"group {group.name!r} is kept by the store {group.store}, and this one is {store.id}. "
            "Name the store of the service that handles this group: --store URL, or --app MODULE:APP."
        )
