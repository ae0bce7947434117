"""Read-only questions about a running system, as the CLI and the console ask them.

They are asked through the ports, so that they mean the same on every broker, and what a
broker or a store cannot say comes back as unknown.
"""

import difflib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal

from millstream.contracts.errors import NotFoundError
from millstream.core.broker import Broker, Figure, Group, Partition, PartitionState, Topic
from millstream.core.clock import Clock
from millstream.core.facts import is_internal
from millstream.core.store import Parked, Store

Quality = Literal["exact", "estimated", "unknown"]
Verdict = Literal["caught up", "behind", "stopped", "paused", "unknown"]

#: A group whose next event has waited longer than so many seconds is behind.
PATIENCE = 5.0
#: Events read at once.
CHUNK = 1000

_WORST: dict[Quality, int] = {"exact": 0, "estimated": 1, "unknown": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicState:
    """A topic, what is in it, and who reads it."""

    topic: Topic
    bounds: tuple[tuple[Partition, int, int], ...] | None
    """Each partition with its first position that is still there, and its head; None where no history is kept."""
    groups: tuple[str, ...]

    @property
    def events(self) -> int | None:
        """How many events are kept."""
        return None if self.bounds is None else sum(head - first for _, first, head in self.bounds)

    @property
    def published(self) -> int | None:
        """How many events there ever were."""
        return None if self.bounds is None else sum(head for _, _, head in self.bounds)


@dataclass(frozen=True, slots=True)
class Age:
    """How long the oldest waiting event has waited, in seconds; `unknown` has no value."""

    seconds: float | None
    quality: Quality = "exact"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupState:
    """Where a group stands.

    `paused`, `parked` and `dead` are the store's to say: they are None when the store
    at hand is not the one that keeps this group.
    """

    name: str
    topics: tuple[str, ...]
    partitions: tuple[PartitionState, ...]
    lag: Figure
    age: Age
    members: int | None
    """Those that have a partition now; None where the broker cannot tell."""
    paused: bool | None
    parked: int | None
    dead: int | None

    @property
    def verdict(self) -> Verdict:
        """What to think of it, in two words at most."""
        if self.paused:
            return "paused"
        if self.members == 0:
            return "stopped"
        if self.lag.value == 0:
            return "caught up"
        if self.lag.value is None and self.age.seconds is None:
            return "unknown"
        return "behind" if self.age.seconds is None or self.age.seconds > PATIENCE else "caught up"


async def topics(broker: Broker, *, name: str | None = None) -> list[TopicState]:
    """All topics, or the one of this name; `NotFoundError` if it does not exist."""
    readers: dict[str, list[str]] = {}
    for group in await broker.groups():
        for topic in group.topics:
            readers.setdefault(topic, []).append(group.name)
    found = [
        TopicState(topic=topic, bounds=await _bounds(broker, topic.name), groups=tuple(readers.get(topic.name, ())))
        for topic in await broker.topics()
        if name == topic.name or (name is None and not is_internal(topic.name))
    ]
    if name is not None and not found:
        raise NotFoundError(f"there is no topic {name!r} on {broker.name}. See: millstream topics")
    return found


async def _bounds(broker: Broker, topic: str) -> tuple[tuple[Partition, int, int], ...] | None:
    return tuple(await broker.bounds(topic)) if broker.features.replayable else None


async def groups(broker: Broker, store: Store | None, clock: Clock) -> list[GroupState]:
    """All groups, those that need attention first."""
    dead = await dead_counts(store) if store is not None else {}
    paused = await store.paused() if store is not None else frozenset[str]()
    found = [await _state(broker, store, clock, each, dead, paused) for each in await broker.groups() if not is_internal(each.name)]
    order: dict[Verdict, int] = {"behind": 0, "stopped": 1, "unknown": 2, "paused": 3, "caught up": 4}
    return sorted(found, key=lambda g: (not g.dead, order[g.verdict], -(g.lag.value or 0), g.name))


async def group(broker: Broker, store: Store | None, clock: Clock, name: str) -> GroupState:
    """One group; `NotFoundError` if nobody ever declared it."""
    declared = await group_named(broker, name)
    dead = await dead_counts(store) if store is not None else {}
    paused = await store.paused() if store is not None else frozenset[str]()
    return await _state(broker, store, clock, declared, dead, paused)


async def group_named(broker: Broker, name: str) -> Group:
    """The declaration of a group; `NotFoundError` if there is none."""
    declared = {each.name: each for each in await broker.groups()}
    if name not in declared:
        near = difflib.get_close_matches(name, declared, n=1)
        hint = f"Did you mean {near[0]}?" if near else "See: millstream groups"
        raise NotFoundError(f"there is no group {name!r} on {broker.name}. {hint}")
    return declared[name]


def keeps(store: Store, group: Group) -> bool:
    """Whether this store is the one that keeps the group's progress and its dead letters."""
    return group.store in (None, store.id)


async def dead_counts(store: Store) -> dict[str, int]:
    """How many dead letters each group has; a group without any is not in it."""
    counts: dict[str, int] = {}
    async for parked in all_parked(store, dead=True):
        counts[parked.group] = counts.get(parked.group, 0) + 1
    return counts


async def all_parked(store: Store, group: str | None = None, *, dead: bool = False, after: int = 0) -> AsyncIterator[Parked]:
    """Everything parked, page by page, in order of id."""
    while page := await store.parked(group, dead=dead, after=after, most=CHUNK):
        for parked in page:
            yield parked
        after = page[-1].id


async def dead_letter(store: Store, id: int) -> Parked:
    """One parked delivery; `NotFoundError` if it is not, or no longer, there."""
    found = await store.parked(ids=[id])
    if not found:
        raise NotFoundError(f"there is no dead letter {id}: it may have been redriven or discarded. See: millstream dlq list")
    return found[0]


async def events_back(broker: Broker, partition: Partition, *, first: int, end: int, count: int) -> tuple[int, int]:
    """A position with `count` events between it and `end`, and how many they are; fewer where there are no more from `first` on.

    Positions have gaps, some small and some huge: the marks of Kafka's transactions, what
    others add to a stream of Redis, what was deleted. So events are counted, by reading
    them: of a log without gaps each once, else at most `count` of them for each bit of the
    distance, twice.
    """
    found, step, is_beyond = 0, count, False
    while found < count and first < end:
        missing = count - found
        at = max(first, end - max(step, missing))
        there = await _count(broker, partition, at, end, missing + 1)
        if there > missing:
            first, is_beyond = at + 1, True
        else:
            end, found = at, found + there
        step = (end - first + 1) // 2 if is_beyond else 2 * step
    return end, found


async def _count(broker: Broker, partition: Partition, start: int, end: int, most: int) -> int:
    """How many events there are from one position up to another; counting stops at so many."""
    found = 0
    while start < end and found < most:
        page = await broker.read(partition, start, min(CHUNK, most - found))
        inside = sum(delivery.position < end for delivery in page)
        found += inside
        if not page or inside < len(page):
            break
        start = page[-1].position + 1
    return found


async def _state(
    broker: Broker, store: Store | None, clock: Clock, group: Group, dead: dict[str, int], paused: frozenset[str]
) -> GroupState:
    partitions = tuple(await broker.positions(group.name))
    known = store is not None and keeps(store, group)
    owners = {each.owner for each in partitions if each.owner is not None}
    return GroupState(
        name=group.name,
        topics=group.topics,
        partitions=partitions,
        lag=total([lag_of(each) for each in partitions]),
        age=age_of(partitions, clock.micros()),
        members=len(owners) if owners or broker.features.positional else None,
        paused=group.name in paused if known else None,
        parked=await store.parked_count(group.name) if store is not None and known else None,
        dead=dead.get(group.name, 0) if known else None,
    )


def lag_of(state: PartitionState) -> Figure:
    """How many events of a partition the group has still to pass."""
    if state.waiting.value is not None:
        return state.waiting
    if state.head.value is None or state.committed.value is None:
        return Figure(None, "unknown")
    return Figure(max(0, state.head.value - state.committed.value), _worst([state.head.quality, state.committed.quality]))


def total(figures: Sequence[Figure]) -> Figure:
    """Their sum, which is no better known than the worst of them."""
    if any(figure.value is None for figure in figures):
        return Figure(None, "unknown")
    return Figure(sum(figure.value or 0 for figure in figures), _worst([figure.quality for figure in figures]))


def age_of(states: Sequence[PartitionState], now: int) -> Age:
    """How long the group's oldest waiting event has waited."""
    waiting = [state.oldest for state in states if lag_of(state).value != 0]
    known = [figure.value for figure in waiting if figure.value is not None]
    if len(known) < len(waiting):
        return Age(None, "unknown")
    # A publisher's clock may be ahead of this one.
    return Age(max(0.0, (now - min(known)) / 1e6) if known else 0.0, _worst([figure.quality for figure in waiting]))


def _worst(qualities: Sequence[Quality]) -> Quality:
    worst: Quality = "exact"
    for quality in qualities:
        if _WORST[quality] > _WORST[worst]:
            worst = quality
    return worst
