"""What an operator changes, and what is refused."""

from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from millstream.app import operations, queries
from millstream.app.operations import Target
from millstream.brokers.memory import MemoryBroker
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import ConfigurationError, NotFoundError, RefusedError, StoreMismatchError
from millstream.core.broker import Figure, Group, Partition, PartitionState, Topic
from millstream.core.store import Page, Parked
from millstream.stores.memory import MemoryStore
from millstream.testing import ManualClock

P0 = Partition("orders", 0)
CLOCK = ManualClock()


def event(id: str) -> Envelope:
    """An event of the topic."""
    return Envelope(id=id, source="/t", type="order.created", time=CLOCK.micros(), data=b"{}", topic="orders")


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    """An open store."""
    async with MemoryStore(micros=CLOCK.micros, monotonic=CLOCK.monotonic) as store:
        yield store


@pytest.fixture
async def broker(store: MemoryStore) -> AsyncIterator[MemoryBroker]:
    """An open broker with ten events, a second apart, and a group that has passed the first six."""
    async with MemoryBroker(micros=CLOCK.micros, monotonic=CLOCK.monotonic) as broker:
        await broker.declare([Topic(name="orders", partitions=1)], [Group(name="g", topics=("orders",), store=store.id)])
        for n in range(10):
            await broker.publish([event(f"e{n}")])
            await CLOCK.advance(1)
        await broker.seek("g", [(P0, 6)])
        yield broker


@pytest.mark.parametrize(
    ("target", "to", "again", "skipped"),
    [
        (Target(kind="earliest"), 0, 6, 0),
        (Target(kind="position", position=8), 8, 0, 2),
        (Target(kind="position", position=99), 10, 0, 4),
        (Target(kind="time", micros=3), 0, 6, 0),
        (Target(kind="back", events=4), 2, 4, 0),
        (Target(kind="back", events=99), 0, 6, 0),
        (Target(kind="latest"), 10, 0, 4),
    ],
)
async def test_a_plan_says_what_comes_again_and_what_never_comes(
    broker: MemoryBroker, target: Target, to: int, again: int, skipped: int
) -> None:
    """Nobody moves a group without knowing what that means."""
    plan = await operations.plan_replay(broker, "g", target)

    assert (plan.moves[0].to, plan.again, plan.skipped) == (to, again, skipped)
    assert (await broker.positions("g"))[0].committed.value == 6


async def test_a_plan_from_a_time_begins_with_the_first_event_of_then(broker: MemoryBroker) -> None:
    """The event of exactly that time is in."""
    plan = await operations.plan_replay(broker, "g", Target(kind="time", micros=CLOCK.micros() - 7_000_000))

    assert plan.moves[0].to == 3


async def test_a_plan_is_of_all_partitions_or_of_those_that_are_named(broker: MemoryBroker) -> None:
    """The others stay where they are; one that the group does not read is a typing error."""
    p1, target = Partition("more", 1), Target(kind="back", events=1)
    await broker.declare([Topic(name="more", partitions=3)], [Group(name="g", topics=("more",))])

    every, one = await operations.plan_replay(broker, "g", target), await operations.plan_replay(broker, "g", target, [p1, p1])

    assert [move.partition for move in every.moves] == [P0, *(Partition("more", number) for number in range(3))]
    assert [move.partition for move in one.moves] == [p1]
    with pytest.raises(NotFoundError, match=r"no partition more/3, elsewhere/0\. See: millstream groups show g"):
        await operations.plan_replay(broker, "g", target, [Partition("more", 3), Partition("elsewhere", 0)])


@pytest.mark.parametrize("events", [0, -1, 10_001])
async def test_a_group_goes_back_a_bounded_number_of_events(broker: MemoryBroker, events: int) -> None:
    """Each of them is read to be counted."""
    with pytest.raises(ConfigurationError, match="goes back 1 to 10000 events"):
        await operations.plan_replay(broker, "g", Target(kind="back", events=events))


async def test_nobody_goes_back_from_a_place_that_nobody_knows(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker may have forgotten it: from the end would be a guess."""
    states = [replace(state, committed=Figure(None, "unknown")) for state in await broker.positions("g")]

    async def positions(group: str) -> list[PartitionState]:
        return states

    monkeypatch.setattr(broker, "positions", positions)

    with pytest.raises(RefusedError, match="nobody knows where the group stands in orders/0"):
        await operations.plan_replay(broker, "g", Target(kind="back", events=1))


@pytest.mark.parametrize("effects", [False, True])
async def test_a_replay_moves_the_broker_and_the_store_and_renews_the_inbox_only_when_asked(
    broker: MemoryBroker, store: MemoryStore, *, effects: bool
) -> None:
    """The position of record moves too, or the next worker would go on where it was."""
    plan = await operations.plan_replay(broker, "g", Target(kind="position", position=2))

    await operations.replay(broker, store, plan, effects=effects)

    assert (await broker.positions("g"))[0].committed.value == 2
    assert (await store.assign("g", [P0]))[0].position == 2
    assert await store.generation("g") == int(effects)


async def test_a_running_group_is_neither_moved_nor_forgotten(broker: MemoryBroker, store: MemoryStore) -> None:
    """Its workers would undo it, or lose what they have in hand."""
    subscription = await broker.open("g", "me")
    await subscription.receive(1, 0)
    plan = await operations.plan_replay(broker, "g", Target(kind="earliest"))
    state = await queries.group(broker, store, CLOCK, "g")

    with pytest.raises(RefusedError, match="is running"):
        await operations.replay(broker, store, plan, effects=False)
    with pytest.raises(RefusedError, match="is running"):
        await operations.forget(broker, store, state)

    assert (await broker.positions("g"))[0].committed.value == 6


async def test_only_the_store_that_keeps_a_group_may_change_it(broker: MemoryBroker) -> None:
    """A request in the wrong file would never be seen by anybody."""
    async with MemoryStore(micros=CLOCK.micros, monotonic=CLOCK.monotonic) as wrong:
        plan = await operations.plan_replay(broker, "g", Target(kind="earliest"))
        state = await queries.group(broker, wrong, CLOCK, "g")

        with pytest.raises(StoreMismatchError, match="--store URL"):
            await operations.replay(broker, wrong, plan, effects=False)
        with pytest.raises(StoreMismatchError, match="--store URL"):
            await operations.pause(broker, wrong, "g", paused=True)
        with pytest.raises(StoreMismatchError, match="--store URL"):
            await operations.forget(broker, wrong, state)


async def test_a_pause_is_kept_and_ends(broker: MemoryBroker, store: MemoryStore) -> None:
    """The store remembers it, whoever runs."""
    await operations.pause(broker, store, "g", paused=True)
    paused = await queries.group(broker, store, CLOCK, "g")
    await operations.pause(broker, store, "g", paused=False)
    resumed = await queries.group(broker, store, CLOCK, "g")

    assert (paused.verdict, resumed.paused) == ("paused", False)
    with pytest.raises(NotFoundError, match="no group 'x'"):
        await operations.pause(broker, store, "x", paused=True)


async def test_a_request_says_what_was_accepted_and_what_is_gone(store: MemoryStore) -> None:
    """The owner gets the ids that exist, each once."""
    await store.assign("g", [P0])
    parked = [Parked(group="g", partition=P0, position=n, sequence=f"s{n}", envelope=event(f"d{n}"), state="dead") for n in range(2)]
    await store.commit(Page(group="g", fences={P0: 1}, park=parked))
    first, second = [each.id for each in await store.parked("g")]

    accepted, missing = await operations.request(store, "redrive", [second, 99, first, second], "fixed")

    assert (accepted, missing) == ([second, first], [99])
    assert [(r.kind, r.parked, r.reason) for r in await store.requests("g")] == [("redrive", second, "fixed"), ("redrive", first, "fixed")]
    assert await operations.request(store, "discard", [], "") == ([], [])


async def test_a_forgotten_group_is_gone_from_broker_and_store(broker: MemoryBroker, store: MemoryStore) -> None:
    """A group of the same name begins anew."""
    await store.assign("g", [P0])
    await store.commit(Page(group="g", fences={P0: 1}, positions={P0: 6}))

    await operations.forget(broker, store, await queries.group(broker, store, CLOCK, "g"))

    assert await broker.groups() == []
    assert (await store.assign("g", [P0]))[0].position is None


async def test_retention_is_run_only_on_a_topic_that_exists(broker: MemoryBroker) -> None:
    """A typing error is not silently nothing."""
    await broker.declare([Topic(name="orders", retain_seconds=0.5)], [])

    assert await operations.retain(broker, "orders") == 6
    assert await operations.retain(broker, "orders", force=True) == 4
    with pytest.raises(NotFoundError, match="no topic 'x'"):
        await operations.retain(broker, "x")
