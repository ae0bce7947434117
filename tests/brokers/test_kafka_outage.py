"""Servers that die: on a cluster of the test's own, so that nobody else's goes down."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.brokers.kafka_server import running, stands_still
from tests.brokers.words import declared, made, published, taken, unique, until
from tools.services.kafka import KafkaCluster

from millstream.brokers.kafka import KafkaBroker
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import BrokerUnavailableError, FencedError
from millstream.core.broker import Group, Topic
from millstream.testing.broker_ground import Member

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """One server that may be killed."""
    yield from running(KafkaCluster(tmp_path_factory.mktemp("kafka")))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """Three servers, of which any may be killed."""
    yield from running(KafkaCluster(tmp_path_factory.mktemp("cluster"), servers=3))


async def test_events_that_are_not_acknowledged_in_time_fail_together(single: KafkaCluster) -> None:
    """While the server stands still nothing is acknowledged: each event of a call fails, is told so, and can be published again."""
    async with KafkaBroker(f"kafka://{single.bootstrap}?allow_single_replica=1&timeout=1") as broker:
        topic, group = await declared(broker, partitions=1)
        sent = made(topic, 20, keys=2)
        await published(broker, made(topic, 1, prefix="first"))
        pid = single.pid()
        assert pid is not None

        os.kill(pid, signal.SIGSTOP)
        try:
            await until(lambda: stands_still(pid), lambda: asyncio.sleep(0.01), lambda: "the server does not stand still")
            results = await broker.publish(sent)
        finally:
            os.kill(pid, signal.SIGCONT)
        again = await broker.publish(sent)

        assert all(isinstance(result, BrokerUnavailableError) for result in results)
        assert "within 1 s" in str(results[0])
        assert not any(again)
        member = Member(await broker.open(group, "m"))
        seen: list[str] = []

        async def step() -> None:
            items = await member.step()
            seen.extend(d.envelope.id for d in items if d.envelope)
            await member.settle(items)

        await until(lambda: len(set(seen)) == 21, step, lambda: f"only {seen} came")
        await member.close()
        for key in ("k0", "k1"):
            ids = [e.id for e in sent if e.key == key]
            assert [id_ for id_ in seen if id_ in ids][-len(ids) :] == ids


async def test_who_receives_is_told_of_an_outage_and_can_leave(single: KafkaCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member whose servers are all gone says so after a while, leaves without waiting for them, and goes on when they are back."""
    monkeypatch.setattr("millstream.brokers.kafka_poller.OUTAGE", 1.0)
    monkeypatch.setattr("millstream.brokers.kafka_poller.LAST", 0.5)
    async with KafkaBroker(f"kafka://{single.bootstrap}?allow_single_replica=1") as broker:
        topic, group = await declared(broker, partitions=1)
        await published(broker, made(topic, 10))
        member = Member(await broker.open(group, "m"))
        await taken(member, 5)

        await asyncio.to_thread(single.kill)

        with pytest.raises(BrokerUnavailableError, match="no server answers"):
            async with asyncio.timeout(30):
                while True:
                    await member.subscription.receive(1, 1)
        async with asyncio.timeout(5):
            await member.close()

        await asyncio.to_thread(single.start)
        heir = Member(await broker.open(group, "m"))
        seen: set[str] = set()

        async def step() -> None:
            items = await heir.step()
            seen.update(d.envelope.id for d in items if d.envelope)
            await heir.settle(items)

        await until(lambda: seen >= {f"e-{n}" for n in range(5, 10)}, step, lambda: f"only {seen} came")
        await heir.close()


async def test_who_asks_where_groups_stand_survives_the_end_of_servers(single: KafkaCluster) -> None:
    """The client library's own question to a group's coordinator ends the process where it meets a connection that is just going."""
    url = f"kafka://{single.bootstrap}?allow_single_replica=1"
    async with KafkaBroker(url) as broker:
        _, group = await declared(broker, partitions=2)
    command = (sys.executable, "-m", "tests.brokers.kafka_asker", url, group)
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    answers = 0

    async def answered() -> None:
        nonlocal answers
        reached = answers + 20
        while answers < reached:
            assert process.stdout is not None
            assert await process.stdout.readline(), f"it ended with {await process.wait()}"
            answers += 1

    # A server is down and up again within seconds, on a busy machine within half a minute.
    async with asyncio.timeout(240):
        for kill in (False, True, False):
            await answered()
            await asyncio.to_thread(single.stop, kill=kill)
            await asyncio.to_thread(single.start)
        await answered()
    process.kill()
    await process.wait()


@pytest.mark.nightly
async def test_a_cluster_that_loses_one_server_after_the_other_loses_no_event(three: KafkaCluster) -> None:
    """Every server is killed once under load: what was acknowledged is there, once, and in the order of its key."""
    url = f"kafka://{three.bootstrap}"
    async with KafkaBroker(url) as broker, KafkaBroker(url) as reader:
        topic, group = unique("made"), unique("group")
        await broker.declare([Topic(name=topic, partitions=6)], [Group(name=group, topics=(topic,))])
        acknowledged: list[Envelope] = []
        running = True

        async def produce(number: int) -> None:
            ordinal = 0
            while running:
                events = made(topic, 20, key=f"p{number}", prefix=f"p{number}-{ordinal}")
                results = await broker.publish(events)
                assert not any(results), next(filter(None, results))
                acknowledged.extend(events)
                ordinal += 1

        seen: list[str] = []

        async def consume() -> None:
            while running or not seen_all():
                member = Member(await reader.open(group, "m"))
                # As a worker does, it comes back when the servers have not agreed within ten seconds on who knows where the group stands.
                with contextlib.suppress(BrokerUnavailableError):
                    while running or not seen_all():
                        items = await member.step(1000)
                        seen.extend(d.envelope.id for d in items if d.envelope)
                        await member.settle(items)
                await member.close()

        async def go_on() -> None:
            reached = len(acknowledged) + 500
            await until(lambda: len(acknowledged) >= reached, lambda: asyncio.sleep(0.01), lambda: "publishing stands still")

        def seen_all() -> bool:
            return set(seen) >= {e.id for e in acknowledged}

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(consume())
            for number in range(8):
                tasks.create_task(produce(number))
            for number in three.servers:
                await go_on()
                await asyncio.to_thread(three.kill, number)
                await go_on()
                await asyncio.to_thread(three.start)
            running = False

        stored: list[Envelope] = []
        for partition, first, _ in await broker.bounds(topic):
            stored += [d.envelope for d in await broker.read(partition, first, 10_000_000) if d.envelope]
    assert len(stored) == len({e.id for e in stored}), "an event was stored twice"
    assert {e.id for e in acknowledged} <= {e.id for e in stored}
    for number in range(8):
        key = f"p{number}"
        assert [e.id for e in stored if e.key == key] == [e.id for e in acknowledged if e.key == key]


@pytest.mark.nightly
async def test_groups_that_publish_in_transactions_go_on_without_a_server_that_left_their_cluster(three: KafkaCluster) -> None:
    """Each server once, and with it what it was for some of the groups: none of them waits for it to come back."""
    async with KafkaBroker(f"kafka://{three.bootstrap}") as broker:
        topic, output, groups = unique("made"), unique("output"), [unique("group") for _ in range(12)]
        topics = [Topic(name=topic, partitions=1), Topic(name=output, partitions=6)]
        await broker.declare(topics, [Group(name=group, topics=(topic,)) for group in groups])
        await published(broker, made(topic, 20_000))
        settled = dict.fromkeys(groups, 0)
        running = True

        async def work(group: str) -> None:
            member = Member(await broker.open(group, "m"))
            while running:
                items = list(member.in_hand) or await member.step(1)
                if not items:
                    continue
                with contextlib.suppress(BrokerUnavailableError):
                    try:
                        await member.subscription.publish_and_settle(made(output, 20, prefix=unique("e")), items)
                        settled[group] += 1
                    except FencedError:
                        pass
                    member.in_hand.clear()
            await member.close()

        async def go_on(when: str) -> None:
            reached = {group: count + 5 for group, count in settled.items()}
            await until(
                lambda: all(settled[group] >= count for group, count in reached.items()),
                lambda: asyncio.sleep(0.01),
                lambda: f"{when}, {sum(settled[g] < n for g, n in reached.items())} of 12 groups did not go on",
            )

        async with asyncio.TaskGroup() as tasks:
            for group in groups:
                tasks.create_task(work(group))
            await go_on("with all servers")
            for number in three.servers:
                await asyncio.to_thread(three.kill, number)
                await go_on(f"without server {number}")
                await asyncio.to_thread(three.start)
                await go_on(f"with server {number} again")
            running = False


@pytest.mark.nightly
async def test_a_cluster_of_three_keeps_two_copies_of_everything(three: KafkaCluster) -> None:
    """Topics that are made there have three replicas, of which two must have an event before it is acknowledged."""
    async with KafkaBroker(f"kafka://{three.bootstrap}") as broker:
        topic, _ = await declared(broker, partitions=2)
        await broker.broadcast(b"hello")
        found = await broker._cluster.describe([topic, "_millstream.groups", "_millstream.broadcast"])

        assert [t.replication for t in found.values()] == [3, 3, 3]
        assert {t.config["min.insync.replicas"] for t in found.values()} == {"2"}


@pytest.mark.nightly
async def test_copies_are_as_many_as_asked_for(three: KafkaCluster) -> None:
    """On two of three servers, and with both an event is acknowledged: it reaches its group."""
    async with KafkaBroker(f"kafka://{three.bootstrap}?replication=2") as broker:
        topic, group = await declared(broker, partitions=3)
        await published(broker, made(topic, 30))
        member = Member(await broker.open(group, "m"))
        await taken(member, 30)
        await member.close()
        (found,) = (await broker._cluster.describe([topic])).values()

        assert (found.partitions, found.replication, found.config["min.insync.replicas"]) == (3, 2, "2")
