"""RabbitMQ with streams keeps what every broker with history has to keep, on a real server."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.brokers.rabbitmq_server import rabbitmq_url, tidied
from tests.brokers.rabbitmq_worker import Moved, handled, handled_once_in_order, started, worker
from tests.brokers.words import declared, made, published, taken, unique, until
from tools.services.rabbitmq import RabbitServer

from millstream.brokers.rabbitmq import RabbitBroker
from millstream.contracts.errors import BrokerError, ConfigurationError, PositionLostError
from millstream.core.broker import Broker, Features, Group, Topic
from millstream.core.store import Store
from millstream.stores.sqlite import SqliteStore
from millstream.stores.sqlite_file import SqliteFile
from millstream.testing import BrokerSuite, WorkerSuite
from millstream.testing.broker_ground import Member
from millstream.testing.worker_ground import WorkerGround

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]



@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """A server of its own: topics of the suites have the same names as those that are queues elsewhere."""
    rabbitmq_url()
    server = RabbitServer(tmp_path_factory.mktemp("rabbitmq"))
    try:
        server.start()
        yield server
    finally:
        server.stop(kill=True)


FEATURES = Features(
    ordered=True, replayable=True, durable=True, shared=True, broadcast=True, positional=True, retains_regardless=True, largest=16 << 20
)  # fmt: skip


@pytest.fixture(autouse=True)
def _few_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream costs its server far more to make than a queue does."""
    monkeypatch.setattr("millstream.brokers.rabbitmq.DEFAULT_PARTITIONS", 4)


@pytest.fixture
def url(server: RabbitServer) -> str:
    """Where its streams are."""
    return f"rabbitmq://127.0.0.1:{server.port}?streams=1"


class TestRabbitStreamBroker(BrokerSuite):
    """Order, durability, broadcasts and history; no transactions."""

    features = FEATURES
    # A server that was killed is back after seconds, on a busy machine after many.
    patience = 45.0
    limit = 150.0

    @pytest.fixture(autouse=True)
    def _server(self, server: RabbitServer, url: str) -> None:
        self.server = server
        self.url = url

    def connect(self) -> Broker:
        return RabbitBroker(self.url)

    async def play(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with tidied(self.url, lambda name: self._token in name):
            await super().play(scenario)

    async def restart(self) -> None:
        await asyncio.to_thread(self.server.kill)
        await asyncio.to_thread(self.server.start)
        await self.reconnect()


class StreamGround(WorkerGround):
    """A service's store in an SQLite file, and streams of RabbitMQ between services."""

    features = FEATURES
    patience = 20.0

    @pytest.fixture(autouse=True)
    def _ground(self, tmp_path: Path, url: str) -> None:
        self.folder = tmp_path
        self.url = url

    async def play(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with tidied(self.url, lambda name: self._token in name):
            await super().play(scenario)

    def broker(self) -> Broker:
        return RabbitBroker(self.url)

    def store(self, broker: Broker) -> Store:
        return SqliteStore(SqliteFile(self.folder / "store.db"))


class TestWhatPositionsDecide(StreamGround):
    """What a worker does otherwise than on queues, because the store has the position: the rest of the suite is nightly."""

    test_fence = WorkerSuite.test_whoever_was_fenced_off_changes_nothing
    test_share = WorkerSuite.test_two_workers_share_a_group
    test_slow = WorkerSuite.test_a_slow_group_takes_no_more_than_it_can_hold
    test_pause = WorkerSuite.test_a_pause_survives_a_restart
    test_late = WorkerSuite.test_what_does_not_finish_in_time_is_delivered_again
    test_start = WorkerSuite.test_a_new_group_starts_at_its_creation_unless_it_asks_for_more
    test_replay = WorkerSuite.test_a_replay_with_effects_handles_everything_anew
    test_death = WorkerSuite.test_after_a_death_each_delivery_in_flight_is_counted_before_it_runs
    test_deaths = WorkerSuite.test_what_has_killed_several_workers_is_parked


@pytest.mark.nightly
class TestRabbitStreamWorker(StreamGround, WorkerSuite):
    """All of it."""


async def test_a_topic_of_the_other_form_is_refused(url: str) -> None:
    """A topic is streams or queues for ever; who asks for the other is told what to write."""
    async with RabbitBroker(url.partition("?")[0]) as queues, RabbitBroker(url) as streams:
        old, _ = await declared(queues, partitions=1)
        new, group = await declared(streams, partitions=1)

        for broker, topic, hint in ((streams, old, "Leave streams=1 out"), (queues, new, "Add streams=1")):
            with pytest.raises(ConfigurationError, match=hint):
                await broker.declare([], [Group(name=unique("group"), topics=(topic,))])
            (result,) = await broker.publish(made(topic, 1))
            assert hint in str(result)
        for attempt in (lambda: queues.open(group, "m"), lambda: queues.positions(group), lambda: streams.bounds(old)):
            with pytest.raises(ConfigurationError, match="streams=1"):
                await attempt()


async def test_retention_is_fixed_when_a_stream_is_made(url: str) -> None:
    """Saying the same, or nothing, is fine; something else is refused, since nobody would remove anything."""
    async with RabbitBroker(url) as broker:
        topic = unique("made")
        await broker.declare([Topic(name=topic, partitions=1, retain_seconds=3600)], [])
        await broker.declare([Topic(name=topic), Topic(name=topic, retain_seconds=3600)], [])

        with pytest.raises(ConfigurationError, match="retains 3600 s"):
            await broker.declare([Topic(name=topic, retain_seconds=60)], [])


async def test_a_group_that_retention_has_passed_is_told(url: str) -> None:
    """Whoever keeps up gets everything though segments end, and whoever comes too late learns that something is missing."""
    async with RabbitBroker(url) as broker:
        topic, quick, slow = unique("made"), unique("quick"), unique("slow")
        groups = [Group(name=name, topics=(topic,)) for name in (quick, slow)]
        await broker.declare([Topic(name=topic, partitions=1, retain_bytes=2 << 20)], groups)
        member = Member(await broker.open(quick, "m"))
        came: list[str] = []
        for page in range(8):
            await published(broker, made(topic, 20, prefix=f"p{page}", data=b"x" * 50_000))
            came += [d.envelope.id for d in await taken(member, 20) if d.envelope]
        await member.close()
        bounds = await broker.bounds(topic)

        async def look() -> None:
            nonlocal bounds
            await asyncio.sleep(0.05)
            bounds = await broker.bounds(topic)

        # The server removes a segment in its own time, once the next is begun.
        await until(lambda: bounds[0][1] > 0, look, lambda: f"nothing was removed: {bounds}")
        ((partition, first, head),) = bounds
        late = Member(await broker.open(slow, "m"))

        assert came == [f"p{page}-{number}" for page in range(8) for number in range(20)]
        assert first < head
        assert (await broker.read(partition, 0, 1))[0].position == first
        with pytest.raises(PositionLostError, match="the stream has"):
            await taken(late, 1)
        await late.close()


async def test_little_may_be_on_its_way_and_everything_comes(url: str) -> None:
    """With the smallest prefetch, with a pause, and with what was given back."""
    async with RabbitBroker(f"{url}&prefetch=1") as broker:
        topic, group = await declared(broker, partitions=2)
        sent = made(topic, 300)
        await published(broker, sent)
        member = Member(await broker.open(group, "m"))
        await taken(member, 50, settle=False)
        await member.give_back()
        member.subscription.pause(list(member.partitions))
        assert not await member.step()
        member.subscription.resume(list(member.partitions))
        came = [d.envelope for d in await taken(member, 300) if d.envelope]
        await member.close()

    for key in {e.key for e in sent}:
        assert [e for e in came if e.key == key] == [e for e in sent if e.key == key]


async def test_where_a_group_stands_is_known_to_every_process(url: str) -> None:
    """At once to who has the partition, within a second to others, and exactly to all when nobody has it."""
    async with RabbitBroker(url) as broker, RabbitBroker(url) as other:
        topic, group = await declared(broker, partitions=1)
        await published(broker, made(topic, 10))
        member = Member(await broker.open(group, "m"))
        await taken(member, 4)
        (mine,) = await broker.positions(group)
        told: list[int | None] = []

        async def look() -> None:
            (state,) = await other.positions(group)
            told[:] = [state.committed.value]
            assert (state.committed.quality, state.owner) in (("estimated", None), ("estimated", "m"))

        await until(lambda: told == [4], look, lambda: f"others are told {told}")
        await taken(member, 2)
        await member.close()
        (idle,) = await other.positions(group)

    assert (mine.committed.value, mine.committed.quality, mine.head.value, mine.owner) == (4, "exact", 10, "m")
    assert (idle.committed.value, idle.committed.quality, idle.owner) == (6, "exact", None)


async def test_a_stream_that_was_deleted_is_missed(url: str) -> None:
    """Its member loses it, and the next one is told what happened."""
    async with RabbitBroker(url) as broker:
        topic, group = await declared(broker, partitions=1)
        await published(broker, made(topic, 3))
        member = Member(await broker.open(group, "m"))
        await taken(member, 3)
        async with await broker._channel() as channel:
            await channel.answer(channel.ask_deletion(f"{topic}:0"))

        with pytest.raises(BrokerError, match=r"is not on .* any more"):
            await until(lambda: False, member.step, lambda: "nobody is told")
        await member.close()


async def test_a_service_outlives_its_server_and_a_dead_worker(server: RabbitServer, url: str, tmp_path: Path) -> None:
    """The server is killed, then a worker with work in hand: every event has one effect, those of a key in order."""
    name, count = unique("outlives"), 1500
    async with worker(name, url, tmp_path) as app:
        processes = await asyncio.gather(*(started(name, url, tmp_path) for _ in range(2)))
        try:
            for sent in range(0, count, 100):
                await app.publish_many([Moved(f"k{number % 50}", number) for number in range(sent, sent + 100)])
                if sent == 500:
                    await handled(app, 1)
                    await asyncio.to_thread(server.kill)
                    await asyncio.to_thread(server.start)
                if sent == 1000:
                    await handled(app, 501)
                    processes[0].kill()
            await handled(app, count)
        finally:
            for process in processes:
                if process.returncode is None:
                    process.kill()
                await process.wait()

        await handled_once_in_order(app, count)
