"""Publishing and settling in Kafka transactions: both or neither, for readers that only see what was committed, and against zombies."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future

import msgspec
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from tests.brokers.kafka_server import kafka_url, proxied, refuse_the_first
from tests.brokers.words import PATIENCE, declared, made, published, taken, unique, until

from millstream.brokers.kafka import KafkaBroker
from millstream.brokers.kafka_settings import settings_of
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import FencedError, MillstreamError, PublishError, TooLargeError
from millstream.contracts.partition import partition_of
from millstream.core.broker import Delivery, Partition
from millstream.testing.broker_ground import Member

pytestmark = pytest.mark.slow


def output_of(delivery: Delivery, topic: str) -> Envelope:
    """What handling this publishes."""
    assert delivery.envelope is not None
    return Envelope(id=f"out-{delivery.envelope.id}", source="/test", type="out", key=delivery.envelope.key, time=1, topic=topic)


async def stored(broker: KafkaBroker, topic: str) -> list[str]:
    """The ids of what a read-committed reader finds, partition by partition."""
    ids: list[str] = []
    for partition, first, _ in await broker.bounds(topic):
        ids += [d.envelope.id for d in await broker.read(partition, first, 100_000) if d.envelope]
    return ids


def seen_uncommitted(topic: str, partitions: int) -> int:
    """How many records there are for somebody who also reads what was aborted."""
    consumer = Consumer(
        {
            "bootstrap.servers": str(settings_of(kafka_url()).client["bootstrap.servers"]), "group.id": "test", "isolation.level":
            "read_uncommitted", "enable.partition.eof": True, "fetch.wait.max.ms": 10, "auto.offset.reset": "earliest",
        }
    )  # fmt: skip
    consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    count = ends = 0
    while ends < partitions:
        for record in consumer.consume(1000, 0.1):
            ends, count = (ends + 1, count) if record.error() else (ends, count + 1)
    consumer.close()
    return count


async def test_a_refused_request_of_a_transaction_is_sent_again() -> None:
    """A server refuses the first request of a transaction, and gets no later one before it: nothing fails, all is there in order."""
    async with proxied() as (broker, proxy):
        topic, group = await declared(broker, partitions=1)
        output, _ = await declared(broker, partitions=1)
        await published(broker, made(topic, 1))
        member = Member(await broker.open(group, "m"))
        done = await taken(member, 1, settle=False)
        # So large that each goes in a request of its own.
        outputs = made(output, 6, keys=1, prefix="out", data=b"x" * 600_000)

        refused = asyncio.create_task(refuse_the_first(proxy, b"out-0", b"out-4"))
        await member.subscription.publish_and_settle(outputs, done)
        await refused
        await member.close()

        assert await stored(broker, output) == [e.id for e in outputs]


async def test_each_input_has_its_output_once_although_members_come_and_go() -> None:
    """Read, process and write under rebalances, without any database: every event's output is there exactly once."""
    async with KafkaBroker(kafka_url()) as broker:
        topic, group = await declared(broker)
        output, _ = await declared(broker)
        await published(broker, made(topic, 2000, keys=50))
        left = 2000

        async def work(number: int, pages: int) -> None:
            nonlocal left
            member = Member(await broker.open(group, f"m{number}"))
            while left > 0 and pages:
                items = await member.step(100)
                if not items:
                    continue
                pages -= 1
                try:
                    await member.subscription.publish_and_settle([output_of(d, output) for d in items], items)
                except FencedError:
                    continue
                member.in_hand.clear()
                left -= len(items)
            await member.close()

        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
            for number, pages in enumerate((5, 5, 1000, 1000)):
                tasks.create_task(work(number, pages))

        assert sorted(await stored(broker, output)) == sorted(f"out-e-{n}" for n in range(2000))
        # A key's place is the one that it has without transactions, and for programs that are not ours.
        for partition, first, _ in await broker.bounds(output):
            keys = {d.envelope.key for d in await broker.read(partition, first, 100_000) if d.envelope}
            assert {partition_of(key, 4) for key in keys if key} == {partition.number}


async def test_what_is_undone_is_seen_by_nobody_who_reads_what_is_committed() -> None:
    """A transaction that fails has written records, but they are no events: neither for a group nor for history."""
    async with KafkaBroker(kafka_url()) as broker:
        topic, group = await declared(broker, partitions=1)
        output, reading = await declared(broker, partitions=1)
        await published(broker, made(topic, 2, keys=1))
        zombie, heir = Member(await broker.open(group, "zombie")), Member(await broker.open(group, "heir"))
        first = (await taken_by_one_of(zombie, heir))[0]
        assert first.envelope is not None
        transactions = broker._transactions(group, "zombie", zombie.subscription._poller.membership)  # type: ignore[attr-defined]

        # What a process does that dies between its records and its commit.
        producer = transactions._begin()
        producer.begin_transaction()
        producer.produce(output, b"never", b"k")
        producer.flush(5)
        producer.abort_transaction(5)
        await transactions.close()
        owner = zombie if zombie.in_hand else heir
        await owner.subscription.publish_and_settle([output_of(first, output)], [first])
        reader = Member(await broker.open(reading, "reader"))
        seen = await taken(reader, 1)
        for member in (zombie, heir, reader):
            await member.close()

        assert await asyncio.to_thread(seen_uncommitted, output, 1) == 2
        assert [d.envelope.id for d in seen if d.envelope] == await stored(broker, output) == [f"out-{first.envelope.id}"]


async def taken_by_one_of(*members: Member) -> Sequence[Delivery]:
    """Receive until one of them has something."""

    async def step() -> None:
        for member in members:
            await member.step(wait=0.01)

    await until(lambda: any(m.in_hand for m in members), step, lambda: "nothing came")
    return next(m.in_hand for m in members if m.in_hand)


async def test_a_zombie_can_publish_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that was given up while it slept is refused, and its heir does the work once."""
    monkeypatch.setattr("millstream.brokers.kafka_poller.GRACE", 0.3)
    async with KafkaBroker(kafka_url()) as broker, KafkaBroker(kafka_url()) as other:
        topic, group = await declared(broker, partitions=1)
        output, _ = await declared(broker, partitions=1)
        await published(broker, made(topic, 3, keys=1))
        zombie = Member(await broker.open(group, "a"))
        held = await taken(zombie, 3, settle=False)
        membership = await asyncio.wrap_future(zombie.subscription._poller.membership([Partition(topic, 0)]))  # type: ignore[attr-defined]
        # The zombie sleeps: it neither receives nor releases. Its partition goes to whoever comes, once it has left the group for good.
        await zombie.subscription.close()
        heir = Member(await other.open(group, "b"))
        again = await taken(heir, 3, settle=False)

        asked: Future[object] = Future()
        asked.set_result(membership)
        transactions = broker._transactions(group, "m", lambda _: asked)
        with pytest.raises(FencedError, match="the new owner does it"):
            await transactions.run([(output, b"zombie", b"k", [])], {Partition(topic, 0): 3})
        await transactions.close()
        with pytest.raises(FencedError):
            await zombie.subscription.publish_and_settle([output_of(held[0], output)], held)
        await heir.subscription.publish_and_settle([output_of(d, output) for d in again], again)
        (state,) = await other.positions(group)
        await heir.close()

        assert await stored(broker, output) == ["out-e-0", "out-e-1", "out-e-2"]
        assert state.committed.value == 3


async def test_after_transactions_the_lag_is_none() -> None:
    """The marks that transactions leave in a log are nobody's events: a group that has handled all stands at the head."""
    async with KafkaBroker(kafka_url()) as broker:
        topic, group = await declared(broker, partitions=1)
        output, reading = await declared(broker, partitions=1)
        await published(broker, made(topic, 3, keys=1))
        member, reader = Member(await broker.open(group, "m")), Member(await broker.open(reading, "reader"))
        for delivery in await taken(member, 3, settle=False):
            await member.subscription.publish_and_settle([output_of(delivery, output)], [delivery])
        await taken(reader, 3)
        states = list(await broker.positions(reading))

        async def step() -> None:
            await reader.step(wait=0.05)
            states[:] = await broker.positions(reading)

        await until(lambda: states[0].committed == states[0].head, step, lambda: f"the group stays at {states}")
        await member.close()
        await reader.close()

        assert states[0].head.value == 6
        assert states[0].oldest.value is None


async def test_one_bad_event_undoes_all() -> None:
    """An event that cannot be encoded is refused before anything is published or settled."""
    async with KafkaBroker(kafka_url()) as broker:
        topic, group = await declared(broker, partitions=1)
        output = unique("output")
        await published(broker, made(topic, 1))
        member = Member(await broker.open(group, "m"))
        (delivery,) = await taken(member, 1, settle=False)
        good, bad = output_of(delivery, output), made(output, 1, source="not a uri")[0]

        with pytest.raises(MillstreamError, match="source"):
            await member.subscription.publish_and_settle([good, bad], [delivery])
        (state,) = await broker.positions(group)
        await member.close()

        assert state.committed.value == 0
        assert await stored(broker, output) == []


async def test_what_the_servers_refuse_is_named_and_the_rest_can_be_published_without_it() -> None:
    """A topic that takes less than it did: the answers say which event it was, and nothing was published or settled."""
    async with KafkaBroker(kafka_url()) as broker:
        topic, group = await declared(broker, partitions=1)
        output, _ = await declared(broker, partitions=1)
        await published(broker, made(topic, 2, keys=1))
        await published(broker, made(output, 1, prefix="known"))
        admin = AdminClient({"bootstrap.servers": str(settings_of(kafka_url()).client["bootstrap.servers"])})
        smaller = ConfigEntry("max.message.bytes", "2000", incremental_operation=AlterConfigOpType.SET)
        for changed in admin.incremental_alter_configs([ConfigResource("topic", output, incremental_configs=[smaller])]).values():
            await asyncio.to_thread(changed.result, 10)
        member = Member(await broker.open(group, "m"))
        first, second = await taken(member, 2, settle=False)
        good, bad = output_of(first, output), msgspec.structs.replace(output_of(second, output), data=b"x" * 5000)

        with pytest.raises(PublishError) as refused:
            await member.subscription.publish_and_settle([good, bad], [first, second])
        await member.subscription.publish_and_settle([good], [first])
        (state,) = await broker.positions(group)
        await member.close()

        assert [type(result) for result in refused.value.results][1:] == [TooLargeError]
        assert state.committed.value == 1
        assert await stored(broker, output) == ["known-0", good.id]
