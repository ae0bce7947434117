"""Groups on Kafka: rebalances under load, positions that are lost, and what the register remembers."""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, ConsumerGroupType, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from tests.brokers.kafka_server import kafka_url, running
from tests.brokers.kafka_worker import Moved, worker
from tests.brokers.words import PATIENCE, declared, made, published, taken, unique, until
from tools.services.kafka import KafkaCluster

from millstream import App
from millstream.app.queries import age_of
from millstream.brokers.kafka import KafkaBroker
from millstream.brokers.kafka_settings import settings_of
from millstream.contracts.errors import BrokerError, ConfigurationError, PositionLostError, TooLargeError
from millstream.core.broker import Assigned, Deliveries, Group, Message, Partition, Topic
from millstream.testing.broker_ground import Member

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that leaves it to members to share out partitions, as all did before Kafka 4, and compacts by default."""
    settings = {"group.coordinator.rebalance.protocols": "classic", "log.cleanup.policy": "compact"}
    for cluster in running(KafkaCluster(tmp_path_factory.mktemp("kafka"), settings=settings)):
        yield f"kafka://{cluster.bootstrap}?allow_single_replica=1"


def administrator(url: str) -> Any:
    """A client of those who run the servers."""
    return AdminClient({"bootstrap.servers": str(settings_of(url).client["bootstrap.servers"])})


def administer(call: Callable[[Any], Mapping[Any, Any]]) -> None:
    """Have the server do what only its administrators do."""
    client = administrator(kafka_url())
    for future in call(client).values():
        future.result(10)


# Rebalances


async def kind_of_group(url: str) -> ConsumerGroupType:
    """What the server says of a group in which a member works."""
    async with KafkaBroker(url) as broker:
        topic, group = await declared(broker, partitions=1)
        await published(broker, made(topic, 1))
        member = Member(await broker.open(group, "m"))
        await taken(member, 1)
        client = administrator(url)
        found = await asyncio.wrap_future(client.list_consumer_groups(request_timeout=10))
        await member.close()
    (kind,) = [each.type for each in found.valid if each.group_id == group]
    return kind


async def test_partitions_are_shared_out_by_the_servers_where_they_can(older: str) -> None:
    """The server's own word on it, of one that does it and of one that does not: nobody falls back unnoticed."""
    assert await kind_of_group(kafka_url()) is ConsumerGroupType.CONSUMER
    assert await kind_of_group(older) is ConsumerGroupType.CLASSIC


async def test_who_insists_on_what_the_servers_cannot_is_told_what_to_write(older: str) -> None:
    """Their refusal ends the member, so it has to say what helps."""
    async with KafkaBroker(f"{older}&group_protocol=consumer") as broker:
        _, group = await declared(broker)
        member = Member(await broker.open(group, "m"))

        with pytest.raises(ConfigurationError, match=rf"^group '{group}': .*write group_protocol=classic"):
            async with asyncio.timeout(PATIENCE):
                while True:
                    await member.step()
        await member.close()


async def test_what_is_made_is_not_compacted_whatever_the_servers_do_by_default(older: str) -> None:
    """Topics that are published to, and the one that carries what every process is told."""
    async with KafkaBroker(older) as broker:
        await published(broker, made(unique("made"), 1))
        listener = await broker.listen()
        await broker.broadcast(b"hello")

        assert list(await listener.receive(PATIENCE)) == [b"hello"]


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


@pytest.mark.parametrize("protocol", ["consumer", "classic"])
async def test_a_loaded_group_that_rebalances_loses_and_repeats_nothing(tmp_path: Path, protocol: str) -> None:
    """Workers join and leave under load: each event has its effect once, and each key keeps its order."""
    name, url = unique("moving"), f"{kafka_url()}&group_protocol={protocol}"
    apps = [worker(name, url, tmp_path) for _ in range(3)]
    stops = [asyncio.Event() for _ in apps]
    count = 3000

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
    """A process dies with work in hand: the other one does it, once, as soon as the group misses the dead one."""
    name, count = unique("killed"), 2000
    command = (sys.executable, "-m", "tests.brokers.kafka_worker", name, kafka_url(), str(tmp_path))
    async with worker(name, kafka_url(), tmp_path) as app:
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


async def test_what_is_revoked_can_be_settled_before_it_moves() -> None:
    """The group waits for its member's last word: what it settled after the revocation does not come again."""
    async with KafkaBroker(kafka_url()) as broker:
        topic, group = await declared(broker, partitions=2)
        await published(broker, made(topic, 40))
        first = Member(await broker.open(group, "first"))
        items = await taken(first, 40, settle=False)
        second = Member(await broker.open(group, "second"))
        revoked: list[Partition] = []

        async def step() -> None:
            await second.step(wait=0.01)
            match await first.subscription.receive(10, 0.01):
                case Deliveries():
                    pass
                case notice:
                    revoked.extend(notice.partitions)
                    await first.subscription.settle([d for d in items if d.partition in notice.partitions])
                    await first.subscription.release(notice.partitions)

        await until(lambda: bool(second.partitions), step, lambda: "the second member got nothing")
        await published(broker, made(topic, 40, prefix="later"))
        keys = [d.envelope.key for d in items if d.envelope and d.partition in revoked]
        later = await taken(second, len(keys))

        assert second.partitions == set(revoked)
        assert all(d.envelope is not None and d.envelope.id.startswith("later") for d in later)
        await first.close()
        await second.close()


async def test_a_member_that_answers_nothing_loses_its_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the deadline the group goes on without it, and it is told; what it settles then changes nothing."""
    monkeypatch.setattr("millstream.brokers.kafka_poller.GRACE", 0.5)
    async with KafkaBroker(kafka_url()) as broker:
        topic, group = await declared(broker, partitions=2)
        first = Member(await broker.open(group, "first"))
        await until(lambda: len(first.partitions) == 2, first.step, lambda: f"only {first.partitions} was assigned")
        second = Member(await broker.open(group, "second"))
        notices: list[str] = []
        lost: tuple[Partition, ...] = ()

        async def step() -> None:
            nonlocal lost
            await second.step(wait=0.01)
            notice = await first.subscription.receive(10, 0.01)
            if not isinstance(notice, Deliveries):
                notices.append(type(notice).__name__)
                lost = notice.partitions

        await until(lambda: bool(lost) and bool(second.partitions), step, lambda: f"only {notices} happened")

        assert notices == ["Revoked", "Lost"]
        assert set(lost) <= second.partitions
        await published(broker, made(topic, 20))
        await first.close()
        await taken(second, 20)
        await second.close()


# Positions


async def test_a_position_that_has_left_the_log_stops_the_group() -> None:
    """Records that were deleted under a group are told when it starts, and never skipped in silence."""
    async with KafkaBroker(kafka_url()) as broker:
        topic, group = await declared(broker, partitions=1)
        await published(broker, made(topic, 10))
        _delete_before(topic, 5)
        subscription = await broker.open(group, "m")
        while not isinstance(await subscription.receive(1, 1), Assigned):
            pass

        with pytest.raises(PositionLostError, match=r"would go on at 0 .* but the log has 5 to 10"):
            subscription.start(Partition(topic, 0), None)
        await subscription.close()


async def test_a_log_cut_under_a_running_member_stops_it() -> None:
    """A member whose next records are deleted while it waits is told at its next receive."""
    async with KafkaBroker(kafka_url()) as broker:
        topic, group = await declared(broker, partitions=1)
        await published(broker, made(topic, 10))
        subscription = await broker.open(group, "m")
        while not isinstance(await subscription.receive(1, 1), Assigned):
            pass
        _delete_before(topic, 8)
        subscription.start(Partition(topic, 0), None)

        with pytest.raises(PositionLostError, match="has left the log"):
            async with asyncio.timeout(PATIENCE):
                while True:
                    assert await subscription.receive(1, 1) == Deliveries([])
        await subscription.close()


async def test_a_group_whose_offsets_expired_stops() -> None:
    """Kafka forgets where a group stood that nobody ran for long; it does not begin anywhere else by itself."""
    async with KafkaBroker(kafka_url()) as broker:
        topic, group = await declared(broker, partitions=1)
        await published(broker, made(topic, 10))
        administer(lambda client: client.delete_consumer_groups([group]))
        subscription = await broker.open(group, "m")
        while not isinstance(await subscription.receive(1, 1), Assigned):
            pass

        with pytest.raises(PositionLostError, match="knows no position"):
            subscription.start(Partition(topic, 0), None)
        await subscription.close()
        await broker.seek(group, [(Partition(topic, 0), 4)])

        member = Member(await broker.open(group, "m"))
        assert [d.position for d in await taken(member, 6)] == [4, 5, 6, 7, 8, 9]
        await member.close()


async def test_partitions_that_are_added_are_read_from_their_first_event() -> None:
    """Whoever grows a topic takes nothing away from its groups."""
    async with KafkaBroker(kafka_url()) as broker:
        topic, group = await declared(broker, partitions=1)
        administer(lambda client: client.create_partitions([NewPartitions(topic, 3)]))
        await published(broker, made(topic, 60, keys=30))

        member = Member(await broker.open(group, "m"))
        items = await taken(member, 60)
        await member.close()

        assert {d.partition.number for d in items} == {0, 1, 2}


async def test_a_running_group_takes_another_topic_from_its_declaration_on() -> None:
    """Kafka refuses to move a group that runs, so the register remembers where it begins until a member knows."""
    async with KafkaBroker(kafka_url()) as broker, KafkaBroker(kafka_url()) as other:
        topic, group = await declared(broker, partitions=1)
        more = unique("more")
        await broker.declare([Topic(name=more, partitions=1)], [])
        await published(broker, made(more, 3, prefix="before"))
        old = Member(await broker.open(group, "old"))
        await until(lambda: bool(old.partitions), old.step, lambda: "nothing was assigned")

        await other.declare([], [Group(name=group, topics=(topic, more))])
        await published(other, made(more, 3, prefix="after"))
        new = Member(await other.open(group, "new"))
        items: list[str] = []

        async def step() -> None:
            await old.step(wait=0.01)
            came = await new.step(wait=0.01)
            items.extend(d.envelope.id for d in came if d.envelope)
            await new.settle(came)

        await until(lambda: len(items) >= 3, step, lambda: f"only {items} came")

        assert items == ["after-0", "after-1", "after-2"]
        assert [g.topics for g in await other.groups() if g.name == group] == [(topic, more)]
        await old.close()
        await new.close()


async def test_a_group_of_another_program_goes_on_where_it_stood() -> None:
    """Whoever moves a consumer to Millstream keeps its place."""
    async with KafkaBroker(kafka_url()) as broker:
        topic, group = unique("made"), unique("group")
        await broker.declare([Topic(name=topic, partitions=1)], [])
        await published(broker, made(topic, 10))
        stands = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, 7)])
        administer(lambda client: client.alter_consumer_group_offsets([stands]))

        await broker.declare([], [Group(name=group, topics=(topic,))])

        member = Member(await broker.open(group, "m"))
        assert [d.position for d in await taken(member, 3)] == [7, 8, 9]
        await member.close()


async def test_many_processes_declare_one_group_at_once() -> None:
    """Each finds the register in order: the group is there once, with everybody's topics."""
    topics, group = [unique("made") for _ in range(4)], unique("group")
    brokers = [KafkaBroker(kafka_url()) for _ in topics]

    async def declare(broker: KafkaBroker, topic: str) -> None:
        async with broker:
            await broker.declare([Topic(name=topic, partitions=1)], [Group(name=group, topics=(topic,), store="s")])

    async with asyncio.TaskGroup() as tasks:
        for broker, topic in zip(brokers, topics, strict=True):
            tasks.create_task(declare(broker, topic))

    async with KafkaBroker(kafka_url()) as broker:
        (found,) = [g for g in await broker.groups() if g.name == group]
    assert (sorted(found.topics), found.store) == (sorted(topics), "s")


# Back-pressure


async def test_a_paused_partition_starves_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """With thousands of records waiting in one paused partition, those of the other one still come; then the first ones do, in order."""
    async with KafkaBroker(kafka_url()) as broker:
        topic, group = await declared(broker, partitions=2)
        member = Member(await broker.open(group, "m"))
        await until(lambda: len(member.partitions) == 2, member.step, lambda: f"only {member.partitions} was assigned")
        full, empty = Partition(topic, 0), Partition(topic, 1)
        member.subscription.pause([full])
        keys: dict[int, str] = {}
        for number in range(100):
            (probe,) = made(topic, 1, key=f"p{number}", prefix=f"probe{number}")
            await published(broker, [probe])
            if len(keys) == 2:
                break
            for partition, _, head in await broker.bounds(topic):
                if head and partition.number not in keys:
                    keys[partition.number] = f"p{number}"
        await published(broker, made(topic, 8000, key=keys[0], prefix="many"))
        await published(broker, made(topic, 10, key=keys[1], prefix="few"))
        few: list[str] = []

        async def step() -> None:
            came = await member.step(1000)
            assert {d.partition for d in came} <= {empty}
            few.extend(d.envelope.id for d in came if d.envelope and d.envelope.id.startswith("few"))
            await member.settle(came)

        await until(lambda: len(few) >= 10, step, lambda: f"only {few} came")
        member.subscription.resume([full])
        many: list[str] = []

        async def more() -> None:
            came = await member.step(1000)
            many.extend(d.envelope.id for d in came if d.envelope and d.envelope.id.startswith("many"))
            await member.settle(came)

        await until(lambda: len(many) >= 8000, more, lambda: f"only {len(many)} came")

        assert many == [f"many-{n}" for n in range(8000)]
        await member.close()


async def test_a_receiver_that_takes_nothing_for_long_keeps_its_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its share is not fetched any more, the group's business goes on, and nothing is lost or turned round."""
    monkeypatch.setattr("millstream.brokers.kafka_poller.STALLED", 0.05)
    async with KafkaBroker(kafka_url()) as broker:
        topic, group = await declared(broker, partitions=1)
        await published(broker, made(topic, 12_000, keys=1))
        member = Member(await broker.open(group, "m"))
        items = await taken(member, 10)
        poller = member.subscription._poller  # type: ignore[attr-defined]

        await until(lambda: poller._stalled, lambda: asyncio.sleep(0.01), lambda: "it never stalled")
        items += await taken(member, 11_990)

        assert [d.position for d in items] == list(range(12_000))
        await member.close()


# Messages of others


async def test_a_topic_made_anew_gives_its_messages_other_names() -> None:
    """Offsets begin anew with a topic of the same name; the ids of its bare messages do not."""
    topic = unique("made")
    names: list[tuple[str, str]] = []

    for _ in range(2):
        async with KafkaBroker(kafka_url()) as broker:
            await broker.declare([Topic(name=topic, partitions=1)], [])
            assert await broker.publish_raw([Message(topic=topic, body=b"{}")]) == [None]
            group = unique("group")
            await broker.declare([], [Group(name=group, topics=(topic,), start="earliest")])
            member = Member(await broker.open(group, "m"))
            (delivery,) = await taken(member, 1)
            await member.close()
        assert delivery.message is not None
        names.append((delivery.message.source, delivery.message.id))
        administer(lambda client: client.delete_topics([topic], operation_timeout=10))

    (source, first), (same, second) = names
    assert source == same
    assert first.endswith("-0-0")
    assert first != second


# What is refused


async def test_options_that_make_no_client_are_told_as_such() -> None:
    """Each may be good, and only together with others, or for members, wrong: the error is the URL's, and says what librdkafka says."""
    with pytest.raises(ConfigurationError, match=r"kafka://.*queuing.strategy.*Correct the URL's options"):
        async with KafkaBroker(f"{kafka_url()}&queuing.strategy=lifo"):
            pass
    async with KafkaBroker(f"{kafka_url()}&session.timeout.ms=5000") as broker:
        _, group = await declared(broker)

        with pytest.raises(ConfigurationError, match=r"kafka://.*session.timeout.ms.*Correct the URL's options"):
            await broker.open(group, "m")


async def test_what_kafka_does_not_make_says_what_it_would_make() -> None:
    """More copies than there are servers, and a name that Kafka does not take."""
    async with KafkaBroker(f"{kafka_url()}&replication=3") as broker:
        with pytest.raises(ConfigurationError, match=r"has 1 server\(s\).* 3 copies: start more, or write replication=1"):
            await broker.declare([Topic(name=unique("made"))], [])
        with pytest.raises(ConfigurationError, match="Choose another name"):
            await broker.declare([Topic(name="a/b")], [])


async def test_one_copy_is_refused_unless_it_is_allowed_by_name() -> None:
    """Without `allow_single_replica=1` nothing is acknowledged that one server could lose."""
    url, topic = kafka_url().replace("allow_single_replica=1", ""), unique("made")
    async with KafkaBroker(kafka_url()) as broker:
        await broker.declare([Topic(name=topic)], [])

    async with KafkaBroker(url) as strict:
        with pytest.raises(ConfigurationError, match="allow_single_replica=1"):
            await strict.declare([Topic(name=topic)], [])
        with pytest.raises(ConfigurationError, match="would have one copy"):
            await strict.declare([Topic(name=unique("new"))], [])
        (refused,) = await strict.publish(made(topic, 1))
        assert isinstance(refused, ConfigurationError)


async def test_what_a_topic_would_refuse_takes_no_neighbour_down() -> None:
    """A topic of others may take less than we do: what is too large for it is told, and the events around it are stored."""
    topic = unique("small")
    administer(lambda client: client.create_topics([NewTopic(topic, 1, 1, config={"max.message.bytes": "20000"})]))
    async with KafkaBroker(kafka_url()) as broker:
        before, fits, beyond, after = made(topic, 4)
        fits = msgspec.structs.replace(fits, data=b"x" * 19_000)
        beyond = msgspec.structs.replace(beyond, data=b"x" * 20_000)

        results = [(await broker.publish([e]))[0] for e in (before, fits)] + list(await broker.publish([beyond, after]))

        assert [type(result) for result in results] == [type(None), type(None), TooLargeError, type(None)]
        history = await broker.read(Partition(topic, 0), 0, 10)
        assert [d.envelope for d in history] == [before, fits, after]


async def test_a_topic_that_was_deleted_under_its_group_is_told() -> None:
    """Nobody waits for ever for the events of a topic that is not there."""
    async with KafkaBroker(kafka_url()) as broker:
        topic, group = await declared(broker, partitions=1)
        administer(lambda client: client.delete_topics([topic], operation_timeout=10))

        with pytest.raises(BrokerError, match="declare it again"):
            await broker.open(group, "m")


async def test_retention_is_kafkas_own_and_can_be_declared() -> None:
    """A new topic keeps everything, or what is declared, and that is found again."""
    async with KafkaBroker(kafka_url()) as broker:
        whole, part = unique("made"), unique("made")
        await broker.declare([Topic(name=whole), Topic(name=part, partitions=2, retain_seconds=3600, retain_bytes=1000)], [])
        found = {topic.name: topic for topic in await broker.topics()}

        assert (found[whole].retain_seconds, found[whole].retain_bytes) == (None, None)
        assert (found[part].partitions, found[part].retain_seconds, found[part].retain_bytes) == (2, 3600, 1000)


async def test_a_topic_that_keeps_less_than_declared_is_refused_and_stays_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """Somebody counts on what is declared, and somebody else on what is there; one that keeps more is taken, and that is logged."""
    topic = unique("kept")
    administer(lambda client: client.create_topics([NewTopic(topic, 2, 1, config={"retention.ms": "60000"})]))
    async with KafkaBroker(kafka_url()) as broker:
        for declared_ in ({}, {"retain_seconds": 60}):
            await broker.declare([Topic(name=topic, **declared_)], [])
        assert "keeps more" not in caplog.text
        with pytest.raises(ConfigurationError, match=r"retention.ms=60000, not 90000.*--add-config retention.ms=90000"):
            await broker.declare([Topic(name=topic, retain_seconds=90)], [])
        await broker.declare([Topic(name=topic, retain_seconds=30, retain_bytes=2000)], [])
        (found,) = [t for t in await broker.topics() if t.name == topic]

    assert (found.retain_seconds, found.retain_bytes) == (60, None)
    assert "retention.ms=60000, not 30000" in caplog.text
    assert "retention.bytes=-1, not 1000" in caplog.text


@pytest.mark.parametrize("policy", ["compact", "compact,delete"])
async def test_a_compacted_topic_is_refused_unless_it_is_allowed_by_name(policy: str) -> None:
    """All events of a key but the last would go, in silence: neither a group nor a publisher gets that without asking for it."""
    topic, group = unique("compacted"), unique("group")
    administer(lambda client: client.create_topics([NewTopic(topic, 1, 1, config={"cleanup.policy": policy})]))
    async with KafkaBroker(kafka_url()) as broker:
        with pytest.raises(ConfigurationError, match=rf"{topic}.*cleanup.policy={policy}.*allow_compacted={topic}"):
            await broker.declare([], [Group(name=group, topics=(topic,))])
        (refused,) = await broker.publish(made(topic, 1))
        assert isinstance(refused, ConfigurationError)

    async with KafkaBroker(f"{kafka_url()}&allow_compacted=other,{topic}") as broker:
        await broker.declare([], [Group(name=group, topics=(topic,))])
        await published(broker, made(topic, 3, keys=1))
        member = Member(await broker.open(group, "m"))
        await taken(member, 3)
        await member.close()


async def test_how_long_the_next_event_has_waited_is_known_with_a_member_and_without() -> None:
    """To the millisecond, by the server's clock: of a group that nobody runs yet, of one that works, and of one that has stopped."""
    async with KafkaBroker(kafka_url()) as broker:
        topic, group = await declared(broker, partitions=1)
        spans: list[tuple[float, float]] = []
        for prefix in ("early", "late"):
            began = time.time()
            await published(broker, made(topic, 3, prefix=prefix))
            ended = time.time()
            spans.append((began, ended))
            await until(lambda: time.time() > ended + 0.1, lambda: asyncio.sleep(0.01), lambda: "the clock stands still")  # noqa: B023

        async def check(span: tuple[float, float]) -> None:
            (state,) = await broker.positions(group)
            assert state.oldest.quality == "exact"
            assert span[0] - 0.001 <= (state.oldest.value or 0) / 1e6 <= span[1]
            now = time.time()
            age = age_of([state], int(now * 1e6))
            assert age.quality == "exact"
            assert now - span[1] <= (age.seconds or 0) <= now - span[0] + 0.001

        await check(spans[0])
        member = Member(await broker.open(group, "m"))
        await taken(member, 3)
        committed: list[int | None] = []

        async def look() -> None:
            (state,) = await broker.positions(group)
            committed[:] = [state.committed.value]

        await until(lambda: committed == [3], look, lambda: f"the group stands at {committed}")
        await check(spans[1])
        await member.close()
        await check(spans[1])


async def test_the_time_of_a_producers_clock_is_an_estimate() -> None:
    """A topic of others may keep what their clocks said: the age of what waits is told all the same, and never called exact."""
    topic, group = unique("theirs"), unique("group")
    administer(lambda client: client.create_topics([NewTopic(topic, 1, 1, config={"message.timestamp.type": "CreateTime"})]))
    async with KafkaBroker(kafka_url()) as broker:
        await broker.declare([], [Group(name=group, topics=(topic,))])
        await published(broker, made(topic, 1))
        (state,) = await broker.positions(group)

    assert state.oldest.quality == "estimated"
    assert abs(state.oldest.value - time.time_ns() // 1000) < 60_000_000


async def test_a_group_that_runs_is_neither_moved_nor_forgotten() -> None:
    """Both would pull the ground from under its members."""
    async with KafkaBroker(kafka_url()) as broker:
        topic, group = await declared(broker, partitions=1)
        member = Member(await broker.open(group, "m"))
        await until(lambda: bool(member.partitions), member.step, lambda: "nothing was assigned")

        with pytest.raises(BrokerError, match="stop its workers"):
            await broker.forget(group)
        with pytest.raises(BrokerError, match="stop its workers"):
            await broker.seek(group, [(Partition(topic, 0), 0)])
        # Its name is told with its first commit, a moment after it was given the partition.
        owners: list[str | None] = []

        async def ask() -> None:
            owners[:] = [state.owner for state in await broker.positions(group)]

        await until(lambda: owners == ["m"], ask, lambda: f"the owner is {owners}")
        await member.close()


def _delete_before(topic: str, position: int) -> None:
    administer(lambda client: client.delete_records([TopicPartition(topic, 0, position)]))
