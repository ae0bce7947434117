"""A server that dies, connections that are cut, and workers that are killed: on a server of the test's own."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.brokers.redis_server import redis_url
from tests.brokers.redis_worker import Moved, worker
from tests.brokers.words import declared, made, published, taken, unique, until
from tools.services.redis import RedisServer

from millstream import App
from millstream.brokers.redis import RedisBroker
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import BrokerUnavailableError
from millstream.testing.broker_ground import Member

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server that may be killed."""
    redis_url()
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    try:
        server.start()
        yield server
    finally:
        server.stop(kill=True)


@pytest.fixture
def url(server: RedisServer) -> str:
    """Where it is; it runs, whatever the test before has done."""
    server.start()
    return f"redis://127.0.0.1:{server.port}"


async def test_a_server_that_is_killed_under_load_loses_nothing_and_repeats_nothing(server: RedisServer, url: str) -> None:
    """Publishers go on by themselves on the next connection: each event is there once, each key in its order."""
    async with RedisBroker(url) as broker:
        topic, group = await declared(broker)
        confirmed: list[Envelope] = []
        running = True

        async def produce(number: int) -> None:
            ordinal = 0
            while running:
                events = made(topic, 10, key=f"p{number}", prefix=f"p{number}-{ordinal}")
                await published(broker, events)
                confirmed.extend(events)
                ordinal += 1

        async def go_on() -> None:
            reached = len(confirmed) + 2000
            await until(lambda: len(confirmed) >= reached, lambda: asyncio.sleep(0.01), lambda: "publishing stands still")

        async with asyncio.TaskGroup() as tasks:
            for number in range(8):
                tasks.create_task(produce(number))
            for _ in range(3):
                await go_on()
                await asyncio.to_thread(server.stop, kill=True)
                await asyncio.to_thread(server.start)
            await go_on()
            running = False

        member = Member(await broker.open(group, "m"))
        came = [d.envelope.id for d in await taken(member, len(confirmed)) if d.envelope]
        assert await member.step(wait=0.2) == []
        await member.close()
    for number in range(8):
        ids = [e.id for e in confirmed if e.key == f"p{number}"]
        assert [id_ for id_ in came if id_.startswith(f"p{number}-")] == ids


async def test_a_server_that_forgets_its_scripts_is_sent_them_again(server: RedisServer, url: str) -> None:
    """`SCRIPT FLUSH` is somebody else's business: nothing is lost, refused or repeated."""
    async with RedisBroker(url) as broker:
        topic, group = await declared(broker)
        events = made(topic, 3)
        for event in events:
            await published(broker, [event])
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"SCRIPT FLUSH\r\n")
            assert await reader.readline() == b"+OK\r\n"
            writer.close()

        member = Member(await broker.open(group, "m"))
        came = [d.envelope.id for d in await taken(member, 3) if d.envelope]
        assert await member.step(wait=0.2) == []
        await member.close()
    assert sorted(came) == sorted(event.id for event in events)


async def test_a_service_outlives_its_server(server: RedisServer, url: str, tmp_path: Path) -> None:
    """The server dies while a worker handles: it comes back by itself, and every event has one effect."""
    name, count = unique("outlives"), 1500
    async with worker(name, url, tmp_path) as app:
        stop = asyncio.Event()
        running = asyncio.create_task(app.run(stop))
        for sent in range(0, count, 100):
            await app.publish_many([Moved(f"k{number % 50}", number) for number in range(sent, sent + 100)])
            if sent == count // 2 // 100 * 100:
                await asyncio.to_thread(server.stop, kill=True)
                await asyncio.to_thread(server.start)
        await _handled(app, count)
        stop.set()
        await running

        await _handled_once_in_order(app, count)


async def test_a_worker_that_is_killed_is_taken_over_from(url: str, tmp_path: Path) -> None:
    """Two processes share a group; one dies with work in hand, and the other one does it, once and in order."""
    name, count = unique("killed"), 2000
    command = (sys.executable, "-m", "tests.brokers.redis_worker", name, url, str(tmp_path))
    async with worker(name, url, tmp_path) as app:
        processes = [await asyncio.create_subprocess_exec(*command, cwd=ROOT) for _ in range(2)]
        try:
            for sent in range(0, count, 100):
                await app.publish_many([Moved(f"k{number % 50}", number) for number in range(sent, sent + 100)])
                if sent == count // 2:
                    await _handled(app, 1)
                    processes[0].kill()
            await _handled(app, count)
        finally:
            for process in processes:
                if process.returncode is None:
                    process.kill()
                await process.wait()

        await _handled_once_in_order(app, count)


async def test_a_connection_that_is_cut_is_not_noticed(url: str) -> None:
    """Neither by whoever publishes nor by whoever receives: they go on where they were."""
    async with RedisBroker(url) as broker:
        topic, group = await declared(broker)
        sent = made(topic, 400)
        await published(broker, sent[:100])
        member = Member(await broker.open(group, "m"))
        first = await taken(member, 60)

        for cut in (member.subscription._reading, broker._publisher._connection, broker._control._connection):
            assert cut is not None
            cut.abort()
        waiting = asyncio.create_task(broker.publish(sent[100:]))
        rest = await taken(member, 340)

        assert not any(await waiting)
        assert await member.step(wait=0.1) == []
        await member.close()
        came = [d.envelope.id for d in (*first, *rest) if d.envelope]
        for key in {e.key for e in sent}:
            ids = [e.id for e in sent if e.key == key]
            assert [id_ for id_ in came if id_ in ids] == ids


async def test_what_is_not_acknowledged_in_time_fails_and_says_so(server: RedisServer, url: str) -> None:
    """While there is no server each event fails in the end, and can be published again."""
    async with RedisBroker(f"{url}?timeout=1") as broker:
        topic, group = await declared(broker)
        sent = made(topic, 10)
        await asyncio.to_thread(server.stop, kill=True)
        results = await broker.publish(sent)
        await asyncio.to_thread(server.start)

        assert all(isinstance(result, BrokerUnavailableError) for result in results)
        assert "within 1 s" in str(results[0])
        await published(broker, sent)
        member = Member(await broker.open(group, "m"))
        assert {d.envelope.id for d in await taken(member, 10) if d.envelope} == {e.id for e in sent}
        await member.close()


async def test_a_listener_is_told_when_the_server_says_nothing_any_more(
    server: RedisServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quiet server is asked whether it is there; one that is cut off does not answer."""
    monkeypatch.setattr("millstream.brokers.redis_broadcast.QUIET", 0.1)
    monkeypatch.setattr("millstream.brokers.redis_broadcast.GONE", 0.5)
    async with RedisBroker(url) as broker:
        listener = await broker.listen()
        assert await listener.receive(1.0) == []
        await broker.broadcast(b"heard")
        assert await listener.receive(5) == [b"heard"]

        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(BrokerUnavailableError):
                await listener.receive(10)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        await listener.close()


async def test_a_batch_whose_answer_was_lost_is_stored_once(url: str) -> None:
    """The server has stored it, and nobody heard: sent again under its number, it is known."""
    async with RedisBroker(url) as broker:
        topic, _ = await declared(broker, partitions=1)
        await published(broker, made(topic, 1))
        connection = broker._publisher._connection
        assert connection is not None
        # Answers come, and are not read: as if they had been lost with the connection.
        connection.data_received = lambda data: connection.abort()  # pyright: ignore[reportAttributeAccessIssue]

        await published(broker, made(topic, 10, prefix="once"))

        ((partition, first, _),) = await broker.bounds(topic)
        ids = [d.envelope.id for d in await broker.read(partition, first, 100) if d.envelope]
        assert broker._publisher._connection is not connection
        assert ids == ["e-0", *(f"once-{number}" for number in range(10))]


async def test_publishing_and_settling_whose_answer_was_lost_happens_once(url: str) -> None:
    """It is sent again under its number: what was handled is settled, and what it made is there once."""
    async with RedisBroker(url) as broker:
        topic, group = await declared(broker, partitions=1)
        output, _ = await declared(broker, partitions=1)
        await published(broker, made(topic, 2))
        member = Member(await broker.open(group, "m"))
        first, _ = await taken(member, 2, settle=False)
        connection = broker._publisher._connection
        assert connection is not None
        connection.data_received = lambda data: connection.abort()  # pyright: ignore[reportAttributeAccessIssue]

        await member.subscription.publish_and_settle(made(output, 1, prefix="out"), [first])

        await member.close()
        ((partition, begin, _),) = await broker.bounds(output)
        (state,) = await broker.positions(group)
        assert [d.envelope.id for d in await broker.read(partition, begin, 100) if d.envelope] == ["out-0"]
        assert state.committed.value == first.position + 1


async def _handled(app: App, least: int) -> None:
    """Wait until so many events have had their effect."""
    rows = 0

    async def look() -> None:
        nonlocal rows
        await asyncio.sleep(0.01)
        ((rows,),) = await app.read("select count(*) from effect")

    await until(lambda: rows >= least, look, lambda: f"only {rows} of {least} were handled")


async def _handled_once_in_order(app: App, count: int) -> None:
    """Every event has had its effect once, and those of a key in their order."""
    rows = await app.read("select key, number from effect order by ordinal")
    assert sorted(number for _, number in rows) == list(range(count))
    for key in {key for key, _ in rows}:
        numbers = [number for k, number in rows if k == key]
        assert numbers == sorted(numbers), f"{key} came out of order"
