"""What the CLI and the console ask: true on every broker, and unknown where nobody can know."""

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from millstream.app import queries
from millstream.app.queries import Age
from millstream.app.tail import tail
from millstream.brokers.memory import MemoryBroker
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import NotFoundError
from millstream.core.broker import Assigned, Delivery, Figure, Group, Partition, PartitionState, Topic
from millstream.core.store import Page, Parked
from millstream.stores.memory import MemoryStore
from millstream.testing import ManualClock

P0 = Partition("orders", 0)


@dataclass
class System:
    """A broker and a store in memory, at a time that stands still."""

    clock: ManualClock
    broker: MemoryBroker
    store: MemoryStore

    def event(self, id: str, *, key: str | None = None, topic: str = "orders") -> Envelope:
        """An event of now."""
        return Envelope(id=id, source="/t", type="order.created", key=key, time=self.clock.micros(), data=b"{}", topic=topic)

    async def tail_ids(self, **options: object) -> list[str]:
        """The ids that a tail without end shows."""
        return [d.envelope.id async for d in tail(self.broker, self.clock, **options) if d.envelope]  # pyright: ignore


@pytest.fixture
async def system() -> AsyncIterator[System]:
    """An open system with the topic `orders` in two partitions."""
    clock = ManualClock()
    broker = MemoryBroker(micros=clock.micros, monotonic=clock.monotonic)
    store = MemoryStore(micros=clock.micros, monotonic=clock.monotonic)
    async with broker, store:
        await broker.declare([Topic(name="orders", partitions=2)], [])
        yield System(clock, broker, store)


async def test_a_group_that_nobody_runs_is_stopped_and_its_lag_is_counted(system: System) -> None:
    """Events and seconds of lag are those of what was published since the group began."""
    await system.broker.declare([], [Group(name="g", topics=("orders",), store=system.store.id)])
    await system.broker.publish([system.event(f"e{n}") for n in range(5)])
    await system.clock.advance(42)

    state = await queries.group(system.broker, system.store, system.clock, "g")

    assert (state.verdict, state.lag, state.age, state.members) == ("stopped", Figure(5), Age(42.0), 0)
    assert (state.paused, state.parked, state.dead) == (False, 0, 0)


async def test_a_running_group_is_behind_only_when_its_oldest_event_waits_long(system: System) -> None:
    """A few young events in flight are not worth anybody's attention."""
    await system.broker.declare([], [Group(name="g", topics=("orders",))])
    subscription = await system.broker.open("g", "me")
    assert isinstance(await subscription.receive(10, 0), Assigned)

    nothing = await queries.group(system.broker, system.store, system.clock, "g")
    await system.broker.publish([system.event("e")])
    young = await queries.group(system.broker, system.store, system.clock, "g")
    await system.clock.advance(6)
    old = await queries.group(system.broker, system.store, system.clock, "g")

    assert [nothing.verdict, young.verdict, old.verdict] == ["caught up", "caught up", "behind"]
    assert nothing.age == Age(0.0)
    assert old.members == 1


async def test_what_another_store_keeps_is_unknown_and_never_zero(system: System) -> None:
    """Dead letters, pauses and parked deliveries of another service cannot be seen from here."""
    await system.broker.declare([], [Group(name="g", topics=("orders",), store="another")])
    await system.store.pause("g", paused=True)

    state = await queries.group(system.broker, system.store, system.clock, "g")

    assert (state.paused, state.parked, state.dead) == (None, None, None)
    assert state.verdict == "stopped"


async def test_a_lag_is_as_well_known_as_the_worst_of_its_parts() -> None:
    """One estimate makes the sum an estimate, one unknown makes it unknown."""
    exact, estimated, unknown = Figure(3), Figure(4, "estimated"), Figure(None, "unknown")

    assert queries.total([exact, exact]) == Figure(6)
    assert queries.total([exact, estimated]) == Figure(7, "estimated")
    assert queries.total([exact, unknown]) == Figure(None, "unknown")
    assert queries.total([]) == Figure(0)


async def test_the_age_is_unknown_when_one_waiting_partition_does_not_tell() -> None:
    """The partition that does not tell might be the oldest."""

    def state(head: int, oldest: Figure) -> PartitionState:
        return PartitionState(partition=P0, committed=Figure(0), head=Figure(head), oldest=oldest)

    told, silent, done = state(1, Figure(5_000_000)), state(1, Figure(None, "unknown")), state(0, Figure(None, "unknown"))

    assert queries.age_of([told, done], 7_000_000) == Age(2.0)
    assert queries.age_of([told, silent], 7_000_000) == Age(None, "unknown")
    assert queries.age_of([told], 4_000_000) == Age(0.0)


async def test_dead_letters_are_counted_and_what_needs_attention_stands_first(system: System) -> None:
    """A group with dead letters comes before a healthy one, whatever their names."""
    await system.broker.declare([], [Group(name=name, topics=("orders",), store=system.store.id) for name in ("a", "b")])
    dead = [Parked(group="b", partition=P0, position=n, sequence=f"s{n}", envelope=system.event(f"e{n}"), state="dead") for n in range(3)]
    waits = Parked(group="b", partition=P0, position=9, sequence="s0", envelope=system.event("e9"), state="queued")
    await system.store.assign("b", [P0])
    await system.store.commit(Page(group="b", fences={P0: 1}, park=[*dead, waits]))

    states = await queries.groups(system.broker, system.store, system.clock)

    assert [(state.name, state.parked, state.dead) for state in states] == [("b", 4, 3), ("a", 0, 0)]


async def test_what_is_not_there_is_said_with_a_guess_of_what_was_meant(system: System) -> None:
    """A typing error in a group's name is told."""
    await system.broker.declare([], [Group(name="mailer", topics=("orders",))])

    with pytest.raises(NotFoundError, match="Did you mean mailer"):
        await queries.group(system.broker, system.store, system.clock, "mialer")
    with pytest.raises(NotFoundError, match="no topic 'x'"):
        await queries.topics(system.broker, name="x")
    with pytest.raises(NotFoundError, match="no dead letter 3"):
        await queries.dead_letter(system.store, 3)


async def test_topics_tell_what_they_keep_and_who_reads_them(system: System) -> None:
    """What retention took still counts as published."""
    await system.broker.declare([Topic(name="orders", retain_seconds=1)], [])
    await system.broker.publish([system.event(f"e{n}") for n in range(4)])
    await system.clock.advance(5)
    await system.broker.publish([system.event("young")])
    await system.broker.declare([], [Group(name="g", topics=("orders",))])
    await system.broker.retain("orders", force=True)

    (state,) = await queries.topics(system.broker)

    assert (state.topic.name, state.events, state.published, state.groups) == ("orders", 1, 5, ("g",))


async def test_the_tail_is_the_newest_of_all_partitions_in_the_order_of_time(system: System) -> None:
    """Partitions are read apart and shown as one."""
    for n in range(250):
        await system.broker.publish([system.event(f"e{n:03}", key=str(n % 7), topic="orders" if n % 3 else "other")])
        await system.clock.advance(1)

    assert await system.tail_ids(most=5) == ["e245", "e246", "e247", "e248", "e249"]
    assert await system.tail_ids() == [f"e{n:03}" for n in range(250)]
    assert await system.tail_ids(most=0) == []
    assert await system.tail_ids(since=system.clock.micros() - 3_000_000) == ["e247", "e248", "e249"]
    assert await system.tail_ids(topics=["other"], most=2) == ["e246", "e249"]


async def test_the_tail_looks_back_until_enough_match(system: System) -> None:
    """A rare event is found behind many that do not match."""
    common = [system.event(f"e{n}") for n in range(500)]
    await system.broker.publish([system.event("rare-1", key="k"), *common, system.event("rare-2", key="k")])

    def rare(delivery: Delivery) -> bool:
        return delivery.envelope is not None and delivery.envelope.key == "k"

    assert await system.tail_ids(most=2, matches=rare) == ["rare-1", "rare-2"]
    assert await system.tail_ids(most=1, matches=rare) == ["rare-2"]


async def test_following_shows_each_new_event_once_also_of_a_new_topic(system: System) -> None:
    """Nothing is skipped between the history and what comes, and a topic may be born meanwhile."""
    await system.broker.publish([system.event("old")])
    seen: list[str] = []

    async for delivery in tail(system.broker, system.clock, most=10, follow=True):
        seen.append(delivery.envelope.id if delivery.envelope else "?")
        if seen == ["old"]:
            await system.broker.publish([system.event("new-1")])
            await system.clock.advance(1)
            await system.broker.publish([system.event("new-2", topic="born")])
        if seen[-1] == "new-2":
            await system.broker.publish([system.event("last")])
        if seen[-1] == "last":
            break

    assert seen == ["old", "new-1", "new-2", "last"]


class Gaps(MemoryBroker):
    """A log whose events are at these positions of every partition, and that counts what is read of it."""

    def __init__(self, positions: list[int]) -> None:
        super().__init__()
        self.at, self.reads = sorted(positions), list[int]()

    async def read(self, partition: Partition, position: int, most: int) -> list[Delivery]:
        found = [Delivery(partition, at, None) for at in self.at if at >= position][:most]
        self.reads.append(len(found))
        return found

    async def bounds(self, topic: str) -> list[tuple[Partition, int, int]]:
        return [(Partition(topic, 0), self.at[0], self.at[-1] + 1)]


async def test_events_back_are_counted_and_not_positions() -> None:
    """As many as were asked for, or all there are; and what is read for it is bounded by the count, whatever lies between."""
    chance = random.Random(5)
    for _ in range(500):
        # Without gaps, with small ones, and with those of entries of Redis that others have added.
        near, far = range(chance.randint(1, 40)), (chance.randrange(1 << 62) for _ in range(30))
        dense = range(at := chance.randrange(1 << 62), at + 50)
        broker = Gaps(sorted({*chance.choice(([*near], chance.sample(near, len(near) // 2), [*far], [*far, *dense]))}))
        places = [*broker.at, 0, 1 << 62, *(chance.randrange(1 << 62) for _ in range(3))]
        (first, end), count = sorted(chance.sample(places, 2)), chance.randint(1, 20)
        wanted = [at for at in broker.at if first <= at < end][-count:]

        to, found = await queries.events_back(broker, P0, first=first, end=end, count=count)

        assert [at for at in broker.at if to <= at < end] == wanted
        assert found == len(wanted)
        assert first <= to <= end
        assert sum(broker.reads) <= (count + 1) * 2 * 64


async def test_a_log_without_gaps_is_read_once() -> None:
    """Page by page, up to the place that is left."""
    broker = Gaps(list(range(5000)))

    to, found = await queries.events_back(broker, P0, first=0, end=4000, count=2500)

    assert (to, found) == (1500, 2500)
    assert sum(broker.reads) == 2501


async def test_the_last_events_are_found_behind_any_gap() -> None:
    """What others add to a stream of Redis is as far apart as milliseconds, of which each has a million positions."""
    broker = Gaps([number << 40 for number in range(1, 1001)])

    last = [delivery.position async for delivery in tail(broker, ManualClock(), topics=["orders"], most=3)]
    older = [d.position async for d in tail(broker, ManualClock(), topics=["orders"], most=3, matches=lambda d: d.position < 500 << 40)]

    assert last == [number << 40 for number in (998, 999, 1000)]
    assert older == [number << 40 for number in (497, 498, 499)]
    assert len(broker.reads) < 1000
