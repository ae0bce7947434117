"""Groups on NATS: members that come, go and die under load, positions that are lost, and what is refused."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from tests.brokers.nats_server import nats_url, tidied
from tests.brokers.nats_worker import Moved, worker
from tests.brokers.words import declared, made, published, taken, unique, until

from millstream import App
from millstream.brokers.nats import NatsBroker
from millstream.brokers.nats_names import stream_of, subject_of
from millstream.brokers.nats_register import Place
from millstream.contracts.errors import BrokerUnavailableError, ConfigurationError, MillstreamError, PositionLostError
from millstream.core.broker import Group, Lost, Partition, Topic
from millstream.testing.broker_ground import Member

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
async def _tidied() -> AsyncGenerator[None]:
    async with tidied(nats_url()):
        yield


# Members that come, go and die


async def handled(app: App, least: int) -> None:
    """Wait until so many events have had their effect."""
    rows = 0

    async def look() -> None:
        nonlocal rows
        await asyncio.sleep(0.01)
        ((rows,),) = await app.read("select count(*) from effect")

    await until(lambda: rows >= least, look, lambda: f"only {rows} of {least} were handled")


async def handled_once_in_order(app: App, count: int) -> None:
    """Every event has had its effect once, and those of a key in their order."""
    rows = await app.read("select key, number from effect order by ordinal")
    assert sorted(number for _, number in rows) == list(range(count))
    for key in {key for key, _ in rows}:
        numbers = [number for k, number in rows if k == key]
        assert numbers == sorted(numbers), f"{key} came out of order"


async def test_a_loaded_group_whose_members_come_and_go_loses_and_repeats_nothing(tmp_path: Path) -> None:
    """Workers join and leave under load: each event has its effect once, and each key keeps its order."""
    name, count = unique("moving"), 3000
    apps = [worker(name, nats_url(), tmp_path) for _ in range(3)]
    stops = [asyncio.Event() for _ in apps]

    async def produce(app: App) -> None:
        for sent in range(0, count, 100):
            await app.publish_many([Moved(f"k{number % 50}", number) for number in range(sent, sent + 100)])

    async def work(index: int) -> None:
        async with apps[index]:
            await apps[index].run(stops[index])

    async with apps[0], asyncio.TaskGroup() as tasks:
        tasks.create_task(apps[0].run(stops[0]))
        tasks.create_task(produce(apps[0]))
        await handled(apps[0], 300)
        tasks.create_task(work(1))
        await handled(apps[0], 1000)
        second = tasks.create_task(work(2))
        await handled(apps[0], 1500)
        stops[2].set()
        await second
        await handled(apps[0], count)
        for stop in stops:
            stop.set()
        await handled_once_in_order(apps[0], count)


async def test_a_worker_that_is_killed_under_load_is_taken_over_from(tmp_path: Path) -> None:
    """A process dies with work in hand: the other one does it, once, as soon as the lease of the dead one is over."""
    name, count = unique("killed"), 2000
    command = (sys.executable, "-m", "tests.brokers.nats_worker", name, nats_url(), str(tmp_path))
    async with worker(name, nats_url(), tmp_path) as app:
        processes = [await asyncio.create_subprocess_exec(*command, cwd=ROOT) for _ in range(2)]
        try:
            members: set[str | None] = set()

            async def look() -> None:
                members.clear()
                members.update(state.owner for state in await app.broker.positions(name))

            await until(lambda: len(members - {None}) == 2, look, lambda: f"only {members} work")
            for sent in range(0, count, 100):
                await app.publish_many([Moved(f"k{number % 50}", number) for number in range(sent, sent + 100)])
                if sent == count // 2:
                    processes[0].kill()
            await handled(app, count)
        finally:
            for process in processes:
                if process.returncode is None:
                    process.kill()
                await process.wait()

        await handled_once_in_order(app, count)


async def test_a_member_whose_partition_was_taken_notices_when_it_writes() -> None:
    """Whoever slept through its lease changes nothing: the register has another owner, and the member is told."""
    async with NatsBroker(nats_url()) as broker:
        topic, group = await declared(broker, partitions=1)
        partition = Partition(topic, 0)
        await published(broker, made(topic, 10))
        member = Member(await broker.open(group, "sleeper"))
        await taken(member, 10, settle=False)
        known = await broker._register.place(group, partition)
        assert known is not None
        await broker._register.put_place(group, partition, Place(5, "another", "another"), known[1])

        await member.settle()
        async with asyncio.timeout(10):
            while not isinstance(await member.subscription.receive(10, 1), Lost):
                pass

        after = await broker._register.place(group, partition)
        await member.close()
        assert after is not None
        assert after[0] == Place(5, "another", "another")


# Positions that are lost, and those that are not


async def test_what_retention_takes_from_a_running_group_stops_it() -> None:
    """A group that is behind what was removed by force is told, and skips nothing by itself."""
    async with NatsBroker(nats_url()) as broker:
        topic, group = await declared(broker, partitions=1)
        member = Member(await broker.open(group, "m"))
        await until(lambda: bool(member.partitions), member.step, lambda: "nothing was assigned")
        # Only the first hundred are on their way to a member that is paused.
        member.subscription.pause([Partition(topic, 0)])
        await published(broker, made(topic, 400))
        await broker._jetstream.purge(stream_of(Partition(topic, 0)), seq=390)
        member.subscription.resume([Partition(topic, 0)])

        with pytest.raises(PositionLostError, match="move the group on purpose"):
            await taken(member, 400)
        await member.close()


async def test_a_group_does_not_go_on_in_a_stream_that_was_made_anew() -> None:
    """The same positions are of other events there: the group stops until somebody has moved it."""
    async with NatsBroker(nats_url()) as broker:
        topic, group = await declared(broker, partitions=1)
        partition = Partition(topic, 0)
        await published(broker, made(topic, 5))
        member = Member(await broker.open(group, "m"))
        await taken(member, 5)
        await member.close()
        await broker._jetstream.call("deleting", f"STREAM.DELETE.{stream_of(partition)}", None, dict)
        await broker._make_stream(partition)
        await published(broker, made(topic, 10))

        stopped = Member(await broker.open(group, "m"))
        with pytest.raises(PositionLostError, match="was deleted"):
            await taken(stopped, 1)
        await stopped.close()
        await broker.seek(group, [(partition, 1)])
        moved = Member(await broker.open(group, "m"))
        assert len(await taken(moved, 10)) == 10
        await moved.close()


async def test_a_single_event_that_was_erased_is_passed_over() -> None:
    """Who must erase one event erases it; the rest arrives."""
    async with NatsBroker(nats_url()) as broker:
        topic, group = await declared(broker, partitions=1)
        await published(broker, made(topic, 20))
        await broker._jetstream.call("erasing", f"STREAM.MSG.DELETE.{stream_of(Partition(topic, 0))}", {"seq": 7}, dict)

        member = Member(await broker.open(group, "m"))
        positions = [delivery.position for delivery in await taken(member, 19)]
        await member.close()

    assert positions == [position for position in range(1, 21) if position != 7]


async def reading_over_two_gaps(broker: NatsBroker, monkeypatch: pytest.MonkeyPatch) -> tuple[Member, list[asyncio.Future[bool]]]:
    """A member that has come to events 3 and 6 of ten, which are missing; each look waits until it is told whether it succeeds."""
    topic, group = await declared(broker, partitions=1)
    await published(broker, made(topic, 10))
    for erased in (3, 6):
        await broker._jetstream.call("erasing", f"STREAM.MSG.DELETE.{stream_of(Partition(topic, 0))}", {"seq": erased}, dict)
    member = Member(await broker.open(group, "m"))
    looks: list[asyncio.Future[bool]] = []
    jetstream = member.subscription._jetstream  # type: ignore[attr-defined]
    ask = jetstream.info

    async def info(stream: str, **others: Any) -> object:
        if stream == stream_of(Partition(topic, 0)) and len(looks) < 2:
            looks.append(asyncio.get_running_loop().create_future())
            if not await looks[-1]:
                raise BrokerUnavailableError("for a moment")
        return await ask(stream, **others)

    # From now on: its claims have asked already.
    await until(lambda: bool(member.partitions), member.step, lambda: "nothing was assigned")
    monkeypatch.setattr(jetstream, "info", info)
    await until(lambda: len(looks) == 2, lambda: asyncio.sleep(0.01), lambda: f"only {len(looks)} gaps were seen")
    return member, looks


async def test_nothing_behind_a_gap_is_handed_out_because_a_later_one_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two gaps are looked at, and the second answer comes first: all wait for the first one."""
    async with NatsBroker(nats_url()) as broker:
        member, (first, second) = await reading_over_two_gaps(broker, monkeypatch)

        second.set_result(True)
        early = await member.step(wait=0.2)
        first.set_result(True)
        items = await taken(member, 8)
        await member.close()

    assert early == []
    assert [delivery.position for delivery in items] == [1, 2, 4, 5, 7, 8, 9, 10]


async def test_an_outage_while_two_gaps_are_looked_at_skips_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes once the server is back is looked at again from the first gap on."""
    async with NatsBroker(nats_url()) as broker:
        member, (first, second) = await reading_over_two_gaps(broker, monkeypatch)

        first.set_result(False)
        second.set_result(False)
        items = await taken(member, 8)
        await member.close()

    assert [delivery.position for delivery in items] == [1, 2, 4, 5, 7, 8, 9, 10]


async def test_a_look_at_a_gap_that_fails_moves_nobody_who_is_elsewhere_by_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was told to go on behind both gaps while they were looked at, and does."""
    async with NatsBroker(nats_url()) as broker:
        member, (first, second) = await reading_over_two_gaps(broker, monkeypatch)
        (partition,) = member.partitions

        (claim,) = member.subscription.claims.values()  # type: ignore[attr-defined]

        member.subscription.start(partition, 8)
        await until(lambda: len(claim.waiting) == 3, lambda: asyncio.sleep(0.01), lambda: f"{len(claim.waiting)} have come")
        first.set_result(False)
        second.set_result(True)
        items = await taken(member, 3)
        await member.close()

    assert [delivery.position for delivery in items] == [8, 9, 10]


async def test_retention_removes_by_age_and_size_what_groups_have_passed() -> None:
    """The age is the server's clock's; bytes are counted by partition, each event as large as the average."""
    async with NatsBroker(nats_url()) as broker:
        topic, group = await declared(broker, partitions=1)
        await published(broker, made(topic, 100))
        member = Member(await broker.open(group, "m"))
        await taken(member, 60)
        await member.close()
        ((partition, _, _),) = await broker.bounds(topic)
        size = (await broker._info(partition)).state.bytes

        await broker.declare([Topic(name=topic, retain_seconds=3600)], [])
        young = await broker.retain(topic)
        await broker.declare([Topic(name=topic, retain_bytes=size * 7 // 10)], [])
        by_size = await broker.retain(topic)
        await broker.declare([Topic(name=topic, retain_seconds=0)], [])
        by_age = await broker.retain(topic)
        await broker.forget(group)

        assert young == 0
        assert 29 <= by_size <= 32
        assert by_size + by_age == 60, "a group has not passed the rest"
        assert await broker.retain(topic) == 40


async def test_an_event_that_is_published_again_is_stored_once() -> None:
    """Its source and id are the name by which the stream knows it."""
    async with NatsBroker(nats_url()) as broker:
        topic, _ = await declared(broker, partitions=1)
        sent = made(topic, 10)
        await published(broker, [*sent, *sent])
        await published(broker, sent)

        assert [head for _, _, head in await broker.bounds(topic)] == [11]


# What is refused


async def test_a_topic_whose_subject_another_stream_takes_is_refused() -> None:
    """What others publish there would be stored twice, or not here."""
    async with NatsBroker(nats_url()) as broker:
        topic = unique("taken")
        other = unique("other").replace(".", "_")
        await broker._jetstream.make(other, [f"{topic.split('.')[0]}.>"])
        try:
            with pytest.raises(ConfigurationError, match="Another stream takes"):
                await broker.declare([Topic(name=topic)], [])
            assert topic not in [t.name for t in await broker.topics()]
        finally:
            await broker._jetstream.call("tidying", f"STREAM.DELETE.{other}", None, dict)


async def test_a_stream_that_would_lose_events_is_refused() -> None:
    """One in memory, and one that takes other subjects, are not a topic's."""
    async with NatsBroker(nats_url()) as broker:
        for changes, word in (({"storage": "memory"}, "storage=memory"), ({"subjects": [unique("elsewhere")]}, "another's")):
            partition = Partition(unique("made"), 0)
            config = {"name": stream_of(partition), "subjects": [subject_of(partition)], "storage": "file", **changes}
            await broker._jetstream.call("making", f"STREAM.CREATE.{stream_of(partition)}", config, dict)
            try:
                with pytest.raises(ConfigurationError, match=word):
                    await broker.declare([Topic(name=partition.topic)], [])
            finally:
                await broker._jetstream.call("tidying", f"STREAM.DELETE.{stream_of(partition)}", None, dict)


async def test_a_topic_that_was_deleted_is_made_anew_by_who_publishes_again() -> None:
    """The first event is refused with the reason, and the next makes the topic."""
    async with NatsBroker(nats_url()) as broker:
        topic, _ = await declared(broker, partitions=1)
        await published(broker, made(topic, 1))
        await broker._jetstream.call("deleting", f"STREAM.DELETE.{stream_of(Partition(topic, 0))}", None, dict)

        (refused,) = await broker.publish(made(topic, 1, prefix="second"))
        (again,) = await broker.publish(made(topic, 1, prefix="second"))

        assert isinstance(refused, MillstreamError)
        assert "was deleted" in str(refused)
        assert again is None


async def test_names_of_ours_are_not_for_users() -> None:
    """What begins with millstream. or $ is refused."""
    async with NatsBroker(nats_url()) as broker:
        for name in ("millstream.topic.x", "$KV.x", "_INBOX.x", ""):
            with pytest.raises(ConfigurationError):
                await broker.declare([Topic(name=name)], [])
        with pytest.raises(ConfigurationError, match="longer than"):
            await broker.declare([], [Group(name="g" * 700, topics=(unique("made"),))])
