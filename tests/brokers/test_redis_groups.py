"""Groups on Redis: how members share streams, what is held, and what happens to streams under them."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from redis.asyncio import Redis
from tests.brokers.redis_server import redis_url
from tests.brokers.words import declared, made, published, taken, unique, until

from millstream.brokers.redis import RedisBroker
from millstream.contracts.errors import BrokerError, BrokerUnavailableError, FencedError, PositionLostError
from millstream.core.broker import Assigned, Delivery, Group, Lost, Partition, Topic
from millstream.testing.broker_ground import Member

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture
async def broker() -> AsyncGenerator[RedisBroker]:
    """Open."""
    async with RedisBroker(redis_url()) as broker:
        yield broker


@pytest.fixture
async def plain() -> AsyncGenerator[Any]:
    """A plain program's connection."""
    async with Redis.from_url(redis_url()) as client:
        yield client


async def test_members_share_evenly_and_none_moves_without_need(broker: RedisBroker) -> None:
    """Three members of eight partitions have three, three and two; when one leaves the others keep what they have."""
    topic, group = await declared(broker, partitions=8)
    members = [Member(await broker.open(group, f"m{number}")) for number in range(3)]

    async def step() -> None:
        for member in members:
            await member.step(wait=0.01)

    await until(lambda: sorted(len(m.partitions) for m in members) == [2, 3, 3], step, lambda: f"{[len(m.partitions) for m in members]}")
    await published(broker, made(topic, 100, keys=50))
    await until(lambda: sum(len(m.in_hand) for m in members) == 100, step, lambda: "not all came")
    leaving, *staying = members
    before = [set(member.partitions) for member in staying]
    members.remove(leaving)
    await leaving.close()

    await until(lambda: sum(len(m.partitions) for m in staying) == 8, step, lambda: "what was given up is nobody's")

    assert all(had <= member.partitions for had, member in zip(before, staying, strict=True))
    for member in staying:
        await member.close()


async def test_a_member_that_says_nothing_is_taken_over_from_and_can_settle_nothing(
    broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease runs out, and what it settles afterwards does not count."""
    monkeypatch.setattr("millstream.brokers.redis_subscription.LEASE", 1.2)
    topic, group = await declared(broker, partitions=1)
    await published(broker, made(topic, 10))
    stuck = Member(await broker.open(group, "stuck"))
    items = await taken(stuck, 10, settle=False)
    for task in stuck.subscription._tasks:
        task.cancel()

    heir = Member(await broker.open(group, "heir"))
    again = await taken(heir, 10, settle=False)
    with pytest.raises(FencedError, match=r"in hand any more|not this member's"):
        await stuck.subscription.publish_and_settle(made(topic, 1, prefix="late"), items)
    await stuck.settle(items)
    await stuck.subscription._commit()

    assert [d.position for d in again] == [d.position for d in items]
    (state,) = await broker.positions(group)
    assert (state.committed.value, state.owner) == (items[0].position, "heir")
    await heir.close()
    await stuck.close()


async def test_a_member_that_was_away_begins_anew_where_another_has_been(
    broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it has the partition again as if nothing had happened: it is told that it had lost it."""
    monkeypatch.setattr("millstream.brokers.redis_subscription.LEASE", 1.2)
    topic, group = await declared(broker, partitions=1)
    await published(broker, made(topic, 10))
    away = Member(await broker.open(group, "away"))
    await taken(away, 4, settle=False)
    tasks = set(away.subscription._tasks)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    other = Member(await broker.open(group, "other"))
    await taken(other, 6)
    await other.close()

    await away.subscription._share()
    away.subscription._start(away.subscription._read)
    lost, assigned = await away.subscription.receive(10, 1), await away.subscription.receive(10, 1)

    assert isinstance(lost, Lost)
    assert isinstance(assigned, Assigned)
    away.subscription.start(*assigned.partitions, None)
    assert [d.position for d in await taken(away, 4)] == [7, 8, 9, 10]
    await away.close()


async def test_a_member_that_does_not_give_up_in_time_loses_what_another_needs(
    broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the deadline it is taken: what it had in hand goes to the other one."""
    monkeypatch.setattr("millstream.brokers.redis_subscription.GRACE", 0.2)
    topic, group = await declared(broker, partitions=2)
    one = Member(await broker.open(group, "stubborn"))
    await until(lambda: len(one.partitions) == 2, one.step, lambda: "not all were assigned")
    await published(broker, made(topic, 40, keys=20))
    await taken(one, 40, settle=False)

    two = Member(await broker.open(group, "two"))
    await until(lambda: len(two.partitions) == 1, two.step, lambda: "the second member got nothing")
    (moved,) = two.partitions
    came = await taken(two, sum(d.partition == moved for d in one.in_hand))

    assert [d.envelope for d in came] == [d.envelope for d in one.in_hand if d.partition == moved]
    await two.close()
    await one.close()


async def test_a_paused_member_reads_only_so_much_ahead(broker: RedisBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large entries come few at a time, and nobody is starved by those who have enough."""
    monkeypatch.setattr("millstream.brokers.redis_subscription.MOST_BYTES", 1 << 20)
    topic, group = await declared(broker, partitions=2)
    await published(broker, made(topic, 400, keys=50, data=b"x" * 50_000))
    member = Member(await broker.open(group, "m"))
    await taken(member, 10)
    claims = list(member.subscription.claims.values())

    await until(lambda: all(claim.waiting for claim in claims), lambda: asyncio.sleep(0.01), lambda: "nothing is read ahead")

    assert all(len(claim.waiting) <= 2 * 21 for claim in claims)
    await taken(member, 390)
    await member.close()


async def test_retention_that_passes_a_running_group_stops_it(broker: RedisBroker, plain: Any) -> None:
    """Another program cuts the stream off: whoever was to read that is told, and skips nothing in silence."""
    topic, group = await declared(broker, partitions=1)
    member = Member(await broker.open(group, "m"))
    await until(lambda: bool(member.partitions), member.step, lambda: "nothing was assigned")
    member.subscription.pause(list(member.partitions))
    await member.step(wait=0.6)
    await published(broker, made(topic, 50))
    await plain.xtrim(f"{topic}:0", maxlen=10, approximate=False)

    member.subscription.resume(list(member.partitions))
    with pytest.raises(PositionLostError, match="the log has 41 to 51"):
        await taken(member, 1)
    await member.close()
    late = Member(await broker.open(group, "late"))
    with pytest.raises(PositionLostError, match="the log has 41 to 51"):
        await taken(late, 1)
    await late.close()


async def test_a_single_entry_that_somebody_erased_stops_nobody(broker: RedisBroker, plain: Any) -> None:
    """As whoever erased it wanted: the others come."""
    topic, group = await declared(broker, partitions=1)
    await published(broker, made(topic, 10))
    await plain.xdel(f"{topic}:0", "0-1", "0-5")

    member = Member(await broker.open(group, "m"))
    items = await taken(member, 8)
    await member.close()

    assert [d.position for d in items] == [2, 3, 4, 6, 7, 8, 9, 10]


async def test_an_outage_while_a_gap_is_looked_at_stops_nobody(
    broker: RedisBroker, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server does not answer what it has of the stream: it is asked again, and all that is there comes."""
    topic, group = await declared(broker, partitions=1)
    await published(broker, made(topic, 10))
    await plain.xdel(f"{topic}:0", "0-1")
    member = Member(await broker.open(group, "m"))
    await until(lambda: bool(member.partitions), member.step, lambda: "nothing was assigned")
    subscription: Any = member.subscription
    control, (claim,) = subscription._control, subscription.claims.values()
    ask, failed = control.survey, 0

    async def survey(*arguments: Any) -> Any:
        nonlocal failed
        if claim.gap is not None and not failed:
            failed += 1
            raise BrokerUnavailableError("for a moment")
        return await ask(*arguments)

    monkeypatch.setattr(control, "survey", survey)
    items = await taken(member, 9)
    await member.close()

    assert failed
    assert [d.position for d in items] == list(range(2, 11))


async def test_a_stream_that_is_deleted_under_a_group_stops_it(broker: RedisBroker, plain: Any) -> None:
    """Made anew it begins at its first position again: going on in it would skip events in silence."""
    topic, group = await declared(broker, partitions=1)
    await published(broker, made(topic, 10))
    member = Member(await broker.open(group, "m"))
    await taken(member, 10)
    (claim,) = member.subscription.claims.values()
    await until(lambda: claim.written == 11, lambda: asyncio.sleep(0.01), lambda: "what is settled is not written")

    await plain.delete(f"{topic}:0")
    (gone,) = await broker.publish(made(topic, 1))
    await published(broker, made(topic, 1, prefix="anew"))
    with pytest.raises(BrokerError, match="stands nowhere"):
        await taken(member, 1)
    await member.close()

    assert gone is not None
    await broker.declare([], [Group(name=group, topics=(topic,), start="earliest")])
    again = Member(await broker.open(group, "m"))
    assert [d.envelope.id for d in await taken(again, 1) if d.envelope] == ["anew-0"]
    await again.close()


async def test_one_topic_that_was_deleted_is_not_the_others_fault(broker: RedisBroker, plain: Any) -> None:
    """Callers share a script; only those whose stream is gone are told so."""
    one, group = await declared(broker, partitions=1)
    two, _ = await declared(broker, partitions=1)
    await plain.delete(f"{one}:0")

    (gone,), (there,) = await asyncio.gather(broker.publish(made(one, 1)), broker.publish(made(two, 1)))

    assert "was deleted" in str(gone)
    assert there is None
    assert list(await broker.bounds(one)) == [(Partition(one, 0), 1, 1)]
    assert [state.committed.value for state in await broker.positions(group)] == [None]


async def test_retention_by_age_and_by_size_keeps_what_is_young_and_fits(broker: RedisBroker) -> None:
    """The age counts from when an event was stored; of the size only so much stays as the topic may take."""
    topic = unique("made")
    await broker.declare([Topic(name=topic, partitions=1, retain_seconds=3600, retain_bytes=200_000)], [])
    await published(broker, made(topic, 1000, data=b"x" * 1000))

    removed = await broker.retain(topic)

    ((partition, first, head),) = await broker.bounds(topic)
    assert 700 < removed < 900
    assert (first, head) == (removed + 1, 1001)
    assert [d.position for d in await broker.read(partition, 0, 1)] == [first]
    await broker.declare([Topic(name=topic, retain_seconds=0)], [])
    await asyncio.sleep(0.002)
    assert await broker.retain(topic) == 1000 - removed


async def test_a_moment_is_found_among_many(broker: RedisBroker) -> None:
    """The first event that was stored then or later, by the server's clock."""
    topic, _ = await declared(broker, partitions=1)
    partition = Partition(topic, 0)
    moments: list[int] = []
    for number in range(20):
        await published(broker, made(topic, 7, prefix=f"b{number}"))
        moments.append((await _stored_at(broker, partition, 7 * number + 1)) * 1000)

    for number, moment in enumerate(moments):
        assert await broker.position_at(partition, moment) == 7 * moments.index(moment) + 1, number
    assert await broker.position_at(partition, moments[-1] + 3_600_000_000) == 141


async def _stored_at(broker: RedisBroker, partition: Partition, position: int) -> int:
    entries = await broker._control.call("XRANGE", f"{partition.topic}:0", f"0-{position}", f"0-{position}")
    return int(entries[0][1][1])


async def test_what_others_add_by_the_clock_keeps_its_place(broker: RedisBroker, plain: Any) -> None:
    """Positions rise across ids of both kinds, events of ours go on after theirs, and the lag is told all the same."""
    topic, group = await declared(broker, partitions=1)
    await published(broker, made(topic, 3))
    await plain.xadd(f"{topic}:0", {"data": b"theirs"})
    await published(broker, made(topic, 2, prefix="after"))
    await plain.xadd(f"{topic}:0", {"data": b"last"})
    before = (await broker.positions(group))[0]

    member = Member(await broker.open(group, "m"))
    items = await taken(member, 4)
    await member.close()
    during = (await broker.positions(group))[0]
    heir = Member(await broker.open(group, "heir"))
    items += await taken(heir, 3)
    await heir.close()
    after = (await broker.positions(group))[0]

    assert [_said(d) for d in items] == ["e-0", "e-1", "e-2", b"theirs", "after-0", "after-1", b"last"]
    positions = [d.position for d in items]
    assert positions == sorted(set(positions))
    assert [state.waiting.value for state in (before, during, after)] == [7, 3, 0]
    assert await broker.position_at(Partition(topic, 0), 0) == positions[0]
    assert [d.position for d in await broker.read(Partition(topic, 0), positions[3], 10)] == positions[3:]


def _said(delivery: Delivery) -> str | bytes | None:
    if delivery.envelope is not None:
        return delivery.envelope.id
    return delivery.message.body if delivery.message else None
