"""The memory broker keeps its promises, and shows by example what the port means."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from millstream.brokers.memory import GRACE, LARGEST, MemoryBroker, MemorySubscription
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import BrokerError, FencedError, PositionLostError, TooLargeError
from millstream.core.broker import (
    Assigned,
    Broker,
    Deliveries,
    Delivery,
    Features,
    Group,
    Listener,
    Lost,
    Message,
    Partition,
    Revoked,
    Subscription,
    Topic,
)
from millstream.testing import BrokerSuite, ManualClock

MADE = Partition("made", 0)


class TestMemoryBroker(BrokerSuite):
    """All but durability, and that within one process."""

    features = Features(
        ordered=True, replayable=True, broadcast=True, transactional=True, marks=True, positional=True, largest=16 << 20
    )

    def connect(self) -> Broker:
        self.memory = getattr(self, "memory", None) or MemoryBroker()
        return self.memory


def event(number: int, **attributes: Any) -> Envelope:
    """Make the event number so-and-so."""
    return Envelope(**{"id": f"e-{number}", "source": "/test", "type": "made", "key": "k", "time": number, "topic": "made"} | attributes)


async def declared(clock: ManualClock, **retention: Any) -> MemoryBroker:
    """A broker with one topic of two partitions, and a group on it."""
    broker = MemoryBroker(micros=clock.micros, monotonic=clock.monotonic)
    await broker.declare([Topic(name="made", partitions=2, **retention)], [Group(name="g", topics=("made",))])
    return broker


async def assigned(subscription: Subscription) -> tuple[Partition, ...]:
    """What a subscription is assigned first, started at the group's own position."""
    notice = await subscription.receive(10, 0)
    assert isinstance(notice, Assigned)
    for partition in notice.partitions:
        subscription.start(partition, None)
    return notice.partitions


async def delivered(subscription: Subscription) -> Sequence[Delivery]:
    """What is delivered now."""
    received = await subscription.receive(10, 0)
    assert isinstance(received, Deliveries)
    return received.items


def test_it_is_a_broker() -> None:
    """The type checker agrees that this is all of the port."""
    broker: Broker = MemoryBroker()
    subscription: type[Subscription] = MemorySubscription
    listener: type[Listener]

    from millstream.brokers.memory import MemoryListener

    listener = MemoryListener
    assert broker.name == "memory://"
    assert (subscription, listener) == (MemorySubscription, MemoryListener)


async def test_nothing_is_delivered_before_the_start() -> None:
    """The member says where to go on; until then its partitions are silent."""
    broker = await declared(ManualClock())
    await broker.publish([event(1)])
    subscription = await broker.open("g", "m")
    notice = await subscription.receive(10, 0)

    before = await delivered(subscription)
    assert isinstance(notice, Assigned)
    for partition in notice.partitions:
        subscription.start(partition, None)

    assert (list(before), [d.envelope for d in await delivered(subscription)]) == ([], [event(1)])


async def test_who_does_not_give_up_in_time_loses_the_partition() -> None:
    """A member that is asked for a partition and is silent until the deadline is told that it is lost; the other has it."""
    clock = ManualClock()
    broker = await declared(clock)
    first = await broker.open("g", "1")
    await assigned(first)
    second = await broker.open("g", "2")
    revoked = await first.receive(10, 0)
    assert isinstance(revoked, Revoked)
    assert revoked.deadline == GRACE
    assert await second.receive(10, 0) == Deliveries([])

    await clock.advance(GRACE)

    gained = await second.receive(10, 0)
    assert gained == Assigned(revoked.partitions)
    assert await first.receive(10, 0) == Lost(revoked.partitions)


async def test_what_is_revoked_can_be_settled_until_it_is_released() -> None:
    """Work that was in hand counts, and the next owner begins behind it."""
    broker = await declared(ManualClock())
    first = await broker.open("g", "1")
    await assigned(first)
    await broker.publish([event(n, key=f"k{n}") for n in range(8)])
    items = await delivered(first)
    second = await broker.open("g", "2")
    revoked = await first.receive(10, 0)
    assert isinstance(revoked, Revoked)

    await first.settle([d for d in items if d.partition in revoked.partitions])
    await first.release(revoked.partitions)

    assert await assigned(second) == revoked.partitions
    assert list(await delivered(second)) == []


async def test_what_was_lost_can_not_be_settled() -> None:
    """Settling late changes nothing, and says nothing: the new owner does it."""
    broker = await declared(ManualClock())
    first = await broker.open("g", "1")
    await assigned(first)
    await broker.publish([event(1)])
    items = await delivered(first)
    await first.close()

    await first.settle(items)

    second = await broker.open("g", "2")
    await assigned(second)
    assert [d.envelope for d in await delivered(second)] == [event(1)]
    with pytest.raises(FencedError, match="new owner"):
        await first.publish_and_settle([event(2)], items)


async def test_settling_out_of_order_is_an_error_of_the_caller() -> None:
    """A gap would lose what is in it, so it is refused here, where it is cheap to find."""
    broker = await declared(ManualClock())
    subscription = await broker.open("g", "m")
    await assigned(subscription)
    await broker.publish([event(1), event(2)])
    _, second = await delivered(subscription)

    with pytest.raises(BrokerError, match="in order, without gaps"):
        await subscription.settle([second])


async def test_position_at_a_time_is_that_of_the_first_event_stored_since() -> None:
    """By when the broker stored it, not by when the event says that it happened."""
    clock = ManualClock()
    broker = await declared(clock)
    for number in range(3):
        await broker.publish([event(number, time=0)])
        await clock.advance(60)
    ((partition, _, _),) = [bounds for bounds in await broker.bounds("made") if bounds[2]]

    at = [await broker.position_at(partition, clock.micros() - seconds * 1_000_000) for seconds in (1000, 180, 179, 60, 59)]

    assert at == [0, 0, 1, 2, 3]


async def test_retention_by_age_removes_what_is_older() -> None:
    """What is older than allowed goes, what is not stays, and a position behind it is an error."""
    clock = ManualClock()
    broker = await declared(clock, retain_seconds=90)
    for number in range(3):
        await broker.publish([event(number)])
        await clock.advance(60)

    kept, removed = await broker.retain("made"), await broker.retain("made", force=True)

    assert (kept, removed) == (0, 2)
    subscription = await broker.open("g", "m")
    await subscription.receive(10, 0)
    ((partition, first, head),) = [bounds for bounds in await broker.bounds("made") if bounds[2]]
    assert (first, head) == (2, 3)
    with pytest.raises(PositionLostError, match="has 2 to 3"):
        subscription.start(partition, None)


async def test_retention_by_size_removes_the_oldest() -> None:
    """The oldest go, until what is left fits."""
    broker = await declared(ManualClock(), retain_bytes=25)
    await broker.publish([event(n, data=b"x" * 10) for n in range(5)])
    await broker.forget("g")

    removed = await broker.retain("made")

    assert removed == 3


async def test_a_log_cut_under_a_running_group_stops_it() -> None:
    """The member is told, instead of going on behind a hole."""
    broker = await declared(ManualClock(), retain_bytes=0)
    subscription = await broker.open("g", "m")
    await assigned(subscription)
    await broker.publish([event(n, data=b"x") for n in range(3)])
    await broker.retain("made", force=True)

    with pytest.raises(PositionLostError, match="has left the log"):
        await subscription.receive(10, 0)


async def test_a_store_checks_first_and_publishes_last() -> None:
    """Nothing is to be seen before the answer is called, and what cannot be published is refused before anything is done."""
    broker = await declared(ManualClock())

    publish = broker.append([event(1)])
    before = await broker.bounds("made")
    publish()

    assert sum(head for _, _, head in before) == 0
    assert sum(head for _, _, head in await broker.bounds("made")) == 1
    with pytest.raises(TooLargeError, match="takes 16777216"):
        broker.append([event(2), event(3, data=b"x" * (LARGEST + 1))])


async def test_a_group_that_takes_another_topic_keeps_its_place_in_the_first() -> None:
    """Only what is new to it starts at its creation."""
    broker = await declared(ManualClock())
    await broker.publish([event(1), event(2, topic="other")])

    await broker.declare([], [Group(name="g", topics=("made", "other"))])
    await broker.publish([event(3, topic="other")])

    subscription = await broker.open("g", "m")
    await assigned(subscription)
    assert {d.envelope.id for d in await delivered(subscription) if d.envelope} == {"e-1", "e-3"}


async def test_a_waiting_member_is_woken_by_the_event() -> None:
    """It does not wait for the end of its patience."""
    broker = await declared(ManualClock())
    subscription = await broker.open("g", "m")
    await assigned(subscription)

    async with asyncio.timeout(5):
        waiting = asyncio.ensure_future(subscription.receive(10, 3600))
        await asyncio.sleep(0)
        await broker.publish_raw([Message(topic="made", body=b"1")])
        received = await waiting

    assert isinstance(received, Deliveries)
    assert [d.message.body for d in received.items if d.message] == [b"1"]


async def test_a_forgotten_group_tells_its_members() -> None:
    """They are told that they have lost everything, and can leave."""
    broker = await declared(ManualClock())
    subscription = await broker.open("g", "m")
    partitions = await assigned(subscription)

    await broker.forget("g")

    assert await subscription.receive(10, 0) == Lost(partitions)
    assert await subscription.receive(10, 0) == Deliveries([])
    await subscription.close()
