"""A server that dies, connections that are cut, and workers that are killed: on a server of the test's own."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.brokers.rabbitmq_server import rabbitmq_url
from tests.brokers.rabbitmq_worker import Moved, handled, handled_once_in_order, started, worker
from tests.brokers.words import declared, made, published, taken, unique, until
from tools.services.rabbitmq import RabbitServer

from millstream.brokers.rabbitmq import RabbitBroker
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import BrokerUnavailableError
from millstream.testing.broker_ground import Member

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]



@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """One server that may be killed."""
    rabbitmq_url()
    server = RabbitServer(tmp_path_factory.mktemp("rabbitmq"))
    try:
        server.start()
        yield server
    finally:
        server.stop(kill=True)


@pytest.fixture
def url(server: RabbitServer) -> str:
    """Where it is; it runs, whatever the test before has done."""
    server.start()
    return f"rabbitmq://127.0.0.1:{server.port}"


async def test_a_server_that_is_killed_under_load_loses_nothing_that_was_confirmed(server: RabbitServer, url: str) -> None:
    """Publishers go on by themselves on the next connection: what was confirmed is there, each key in its order."""
    async with RabbitBroker(url) as broker:
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
            reached = len(confirmed) + 400
            await until(lambda: len(confirmed) >= reached, lambda: asyncio.sleep(0.01), lambda: "publishing stands still")

        async with asyncio.TaskGroup() as tasks:
            for number in range(8):
                tasks.create_task(produce(number))
            for _ in range(2):
                await go_on()
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
            await go_on()
            running = False

        member = Member(await broker.open(group, "m"))
        seen: dict[str, None] = {}

        async def step() -> None:
            items = await member.step(1000)
            seen.update((d.envelope.id, None) for d in items if d.envelope)
            await member.settle(items)

        await until(lambda: seen.keys() >= {e.id for e in confirmed}, step, lambda: "some of what was confirmed never came")
        await member.close()
    for number in range(8):
        ids = {e.id: None for e in confirmed if e.key == f"p{number}"}
        assert [id_ for id_ in seen if id_ in ids] == list(ids), f"p{number} came out of order"


async def test_a_service_outlives_its_server(server: RabbitServer, url: str, tmp_path: Path) -> None:
    """The server dies while two workers handle: they come back by themselves, and every event has one effect."""
    name, count = unique("outlives"), 1500
    async with worker(name, url, tmp_path) as app:
        stop = asyncio.Event()
        running = asyncio.create_task(app.run(stop))
        for sent in range(0, count, 100):
            await app.publish_many([Moved(f"k{number % 50}", number) for number in range(sent, sent + 100)])
            if sent == count // 2 // 100 * 100:
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
        await handled(app, count)
        stop.set()
        await running

        await handled_once_in_order(app, count)


async def test_a_worker_that_is_killed_is_taken_over_from(url: str, tmp_path: Path) -> None:
    """Two processes share a group; one dies with work in hand, and the other one does it, once and in order."""
    name, count = unique("killed"), 2000
    async with worker(name, url, tmp_path) as app:
        processes = await asyncio.gather(*(started(name, url, tmp_path) for _ in range(2)))
        try:
            for sent in range(0, count, 100):
                await app.publish_many([Moved(f"k{number % 50}", number) for number in range(sent, sent + 100)])
                if sent == count // 2:
                    await handled(app, 1)
                    processes[0].kill()
            await handled(app, count)
        finally:
            for process in processes:
                if process.returncode is None:
                    process.kill()
                await process.wait()

        await handled_once_in_order(app, count)


async def test_a_connection_that_is_cut_loses_nothing(url: str) -> None:
    """Whoever publishes does not notice; whoever receives is told, and what was in hand comes to the next member."""
    async with RabbitBroker(url) as broker:
        topic, group = await declared(broker)
        sent = made(topic, 200)
        await published(broker, sent[:100])
        member = Member(await broker.open(group, "m"))
        settled = await taken(member, 40)
        await taken(member, 20, settle=False)

        member.subscription._connection.abort()
        assert broker._connection is not None
        broker._connection.abort()
        await published(broker, sent[100:])
        with pytest.raises(BrokerUnavailableError, match="is gone"):
            await member.subscription.receive(1, 1)
        await member.close()

        heir = Member(await broker.open(group, "m"))
        rest = await taken(heir, 160)
        await heir.close()
        ids = [d.envelope.id for d in (*settled, *rest) if d.envelope]
        assert sorted(ids) == sorted(e.id for e in sent)
        for key in {e.key for e in sent}:
            assert [d.envelope.id for d in rest if d.envelope and d.envelope.key == key] == [
                e.id for e in sent if e.key == key and e.id not in ids[:40]
            ]


async def test_what_is_not_confirmed_in_time_fails_and_says_so(server: RabbitServer, url: str) -> None:
    """While there is no server each event fails in the end, and can be published again."""
    async with RabbitBroker(f"{url}?timeout=1") as broker:
        topic, group = await declared(broker)
        sent = made(topic, 10)
        await asyncio.to_thread(server.kill)
        results = await broker.publish(sent)
        await asyncio.to_thread(server.start)

        assert all(isinstance(result, BrokerUnavailableError) for result in results)
        assert "within 1 s" in str(results[0])
        await published(broker, sent)
        member = Member(await broker.open(group, "m"))
        assert {d.envelope.id for d in await taken(member, 10) if d.envelope} == {e.id for e in sent}
        await member.close()
