"""Groups on RabbitMQ: how members share queues, and what they hold."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from tests.brokers.rabbitmq_server import rabbitmq_url, tidied
from tests.brokers.words import declared, made, published, taken, until

from millstream.brokers.rabbitmq import RabbitBroker
from millstream.brokers.rabbitmq_subscription import RabbitSubscription
from millstream.core.broker import Figure, PartitionState
from millstream.testing.broker_ground import Member

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture
async def broker() -> AsyncGenerator[RabbitBroker]:
    """Open, and nothing of the test stays."""
    async with tidied(rabbitmq_url()), RabbitBroker(rabbitmq_url()) as broker:
        yield broker


async def test_what_waits_here_is_bounded_and_a_second_member_gets_its_share_all_the_same(
    broker: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is paused with its hands full reads no more, and still gives up what another one needs."""
    monkeypatch.setattr("millstream.brokers.rabbitmq_subscription.MOST_BYTES", 1 << 20)
    topic, group = await declared(broker, partitions=2)
    one = Member(await broker.open(group, "one"))
    await until(lambda: len(one.partitions) == 2, one.step, lambda: "not all were assigned")
    one.subscription.pause(list(one.partitions))
    sent = made(topic, 400, keys=50, data=b"x" * 50_000)
    await published(broker, sent)
    assert isinstance(one.subscription, RabbitSubscription)
    subscription = one.subscription
    await until(lambda: subscription._connection._held, lambda: asyncio.sleep(0.01), lambda: "it reads on and on")
    assert subscription._bytes < 8 << 20, "far more waits than should"

    two = Member(await broker.open(group, "two"))

    async def both() -> None:
        await one.step(wait=0.01)
        await two.step(wait=0.01)

    await until(lambda: len(one.partitions) == len(two.partitions) == 1, both, lambda: f"{one.partitions} and {two.partitions}")
    one.subscription.resume(list(one.partitions))
    seen: dict[str, None] = {}

    async def work() -> None:
        for member in (one, two):
            items = await member.step(20, 0.01)
            seen.update((d.envelope.id, None) for d in items if d.envelope)
            await member.settle(items)

    await until(lambda: len(seen) == 400, work, lambda: f"only {len(seen)} came")
    for key in {e.key for e in sent}:
        ids = [e.id for e in sent if e.key == key]
        assert [id_ for id_ in seen if id_ in ids] == ids
    assert subscription._bytes == 0, "what was under way when a queue was given up takes room for ever"
    await one.close()
    await two.close()


async def test_the_lag_is_exact_while_nobody_works(broker: RabbitBroker) -> None:
    """What waits is counted in the queues, and what is in hand is added by whoever has it."""
    topic, group = await declared(broker, partitions=2)
    await published(broker, made(topic, 30))

    before = await broker.positions(group)
    member = Member(await broker.open(group, "m"))
    await taken(member, 10)
    during = await broker.positions(group)
    await taken(member, 20)
    await member.close()
    after = await broker.positions(group)

    assert sum(state.waiting.value or 0 for state in before) == 30
    assert {state.waiting.quality for state in before} == {"exact"}
    assert {state.waiting.quality for state in during} == {"estimated"}
    assert {state.owner for state in during} == {"m"}
    assert sum(state.waiting.value or 0 for state in during) == 20
    assert sum(state.waiting.value or 0 for state in after) == 0


async def test_the_age_is_that_of_the_first_event_that_is_not_done(broker: RabbitBroker) -> None:
    """Whether it waits in memory, is in hand, or was given back; unknown while there is none."""
    topic, group = await declared(broker, partitions=1)
    sent = made(topic, 30)
    member = Member(await broker.open(group, "m"))
    ages: list[tuple[int | None, str]] = []

    async def look() -> None:
        (state,) = await broker.positions(group)
        ages.append((state.oldest.value, state.oldest.quality))

    await until(lambda: bool(member.partitions), member.step, lambda: "nothing is assigned")
    await look()
    await published(broker, sent)
    await until(lambda: ages[-1][0] is not None, look, lambda: "its age stays unknown")
    for _ in range(2):
        await taken(member, 10, settle=False)
        await look()
        await member.settle()
        await look()
    items = await taken(member, 10, settle=False)
    await member.subscription.settle((), items)
    await look()
    await taken(member, 10)
    await look()
    await member.close()

    first, unknown = [(e.time, "estimated") for e in sent], (None, "unknown")
    assert [age for age in ages if age != unknown] == [first[0], first[0], first[10], first[10], first[20], first[20]]
    assert (ages[0], ages[-1]) == (unknown, unknown)


async def test_other_processes_learn_what_members_hold(broker: RabbitBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """They ask, and every process with members answers: how much it has, and how old it is. Of a stopped group only the depth is known."""
    topic, group = await declared(broker, partitions=2)
    await published(broker, made(topic, 30))
    async with RabbitBroker(rabbitmq_url()) as second, RabbitBroker(rabbitmq_url()) as console:
        members = [Member(await each.open(group, name)) for each, name in ((broker, "one"), (second, "two"))]

        async def both() -> None:
            for member in members:
                await member.step(1, 0.01)

        await until(lambda: all(len(m.partitions) == 1 and m.in_hand for m in members), both, lambda: "they do not share")
        first = {m.in_hand[0].partition: m.in_hand[0].envelope for m in members}
        states: list[PartitionState] = []

        async def look() -> None:
            states[:] = await console.positions(group)

        await until(lambda: sum(state.waiting.value or 0 for state in states) == 30, look, lambda: f"they hold {states}")
        assert {state.owner for state in states} == {"one", "two"}
        for state in states:
            event = first[state.partition]
            assert event is not None
            assert state.oldest == Figure(event.time, "estimated")

        # Who cannot hear does not answer, and hears again within a second.
        ear = second._held._channel
        assert ear is not None
        with monkeypatch.context() as patch:
            patch.setattr(second, "_hear", broker._hear)
            await ear.close()
            await look()
        assert {state.owner for state in states} == {"one", None}
        await until(lambda: {state.owner for state in states} == {"one", "two"}, look, lambda: f"only {states} answer")
        for member in members:
            await member.close()
        stopped = await console.positions(group)

    assert sum(state.waiting.value or 0 for state in stopped) == 30
    assert {(state.waiting.quality, state.oldest.quality, state.owner) for state in stopped} == {("exact", "unknown", None)}


async def test_a_member_that_does_not_give_up_in_time_loses_what_another_needs(
    broker: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the deadline it is taken: what it had in hand goes to the other one."""
    monkeypatch.setattr("millstream.brokers.rabbitmq_subscription.GRACE", 0.2)
    topic, group = await declared(broker, partitions=2)
    stubborn = await broker.open(group, "stubborn")
    one = Member(stubborn)
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


async def test_what_was_delivered_often_and_never_settled_is_not_dropped(broker: RabbitBroker) -> None:
    """From 4.0 on a server drops what it has delivered twenty times, unless the queue says otherwise."""
    topic, group = await declared(broker, partitions=1)
    sent = made(topic, 1)
    await published(broker, sent)
    for number in range(22):
        member = Member(await broker.open(group, f"m{number}"))
        await taken(member, 1, settle=False)
        await member.close()

    last = Member(await broker.open(group, "last"))
    (came,) = await taken(last, 1)
    await last.close()

    assert [came.envelope] == sent
