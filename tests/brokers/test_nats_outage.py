"""A NATS server that dies, stands still, or lets nobody in: one of the test's own, so that nobody else's goes down."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.brokers.nats_server import nats_url
from tests.brokers.words import declared, made, published, taken, until
from tools.services.nats import NatsServer
from tools.services.service import lasting_port

from millstream.brokers.nats import NatsBroker
from millstream.brokers.nats_jetstream import ApiError, JetStream
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import BrokerUnavailableError, ConfigurationError, MillstreamError
from millstream.core.broker import Partition
from millstream.testing.broker_ground import Member

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SECRETS = """
accounts {
  A { jetstream: enabled, users: [ { user: "ann", password: "it's: a/secret" } ] }
  B { users: [ { user: "bob", password: "b" } ] }
}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One that may be killed."""
    nats_url()
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    try:
        server.start()
        yield server
    finally:
        server.stop(kill=True)


@pytest.fixture(scope="module")
def routes() -> list[int]:
    """Where the servers of `three` reach each other."""
    return three_ports()


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, routes: list[int]) -> Iterator[list[NatsServer]]:
    """A cluster of three, of which any may be killed."""
    nats_url()
    servers = [NatsServer(tmp_path_factory.mktemp("cluster")) for _ in range(3)]
    try:
        for number in range(3):
            start_one(servers, routes, number)
        yield servers
    finally:
        for server in servers:
            server.stop(kill=True)


def three_ports() -> list[int]:
    """Ports for a cluster's own connections."""
    ports: set[int] = set()
    while len(ports) < 3:
        ports.add(lasting_port())
    return list(ports)


def start_one(servers: list[NatsServer], routes: list[int], number: int) -> None:
    """Start one server of a cluster."""
    others = ", ".join(f"nats://127.0.0.1:{port}" for index, port in enumerate(routes) if index != number)
    servers[number].start(f"cluster {{ name: test, listen: 127.0.0.1:{routes[number]}, routes: [{others}] }}\n")


def _is_stopped(pid: int) -> bool:
    """Whether every thread of a process stands still."""
    return all(file.read_text().rpartition(")")[2].split()[0] == "T" for file in Path(f"/proc/{pid}/task").glob("*/stat"))


def url(server: NatsServer) -> str:
    return f"nats://127.0.0.1:{server.port}"


async def survives(broker: NatsBroker, kill: Callable[[], None], start: Callable[[], None]) -> None:
    """Publish and consume while servers are killed; what was acknowledged has to be there once, in order, and handed out."""
    topic, group = await declared(broker)
    acknowledged: list[Envelope] = []
    seen: list[str] = []
    running = publishing = True

    async def produce(number: int) -> None:
        count = 0
        while running:
            batch = made(topic, 10, keys=1, prefix=f"p{number}-{count}", key=f"p{number}")
            count += 1
            results = await broker.publish(batch)
            assert not any(results), "an outage of seconds is nothing to tell a publisher"
            acknowledged.extend(batch)

    async def consume() -> None:
        member = Member(await broker.open(group, "m"))
        while publishing or not set(seen) >= {e.id for e in acknowledged}:
            items = await member.step()
            seen.extend(d.envelope.id for d in items if d.envelope)
            await member.settle(items)
        await member.close()

    async def go_on() -> None:
        reached = len(acknowledged) + 500
        await until(lambda: len(acknowledged) >= reached, lambda: asyncio.sleep(0.01), lambda: "publishing stands still")

    async with asyncio.timeout(150), asyncio.TaskGroup() as tasks:
        tasks.create_task(consume())
        async with asyncio.TaskGroup() as producers:
            for number in range(8):
                producers.create_task(produce(number))
            for _ in range(3):
                await go_on()
                await asyncio.to_thread(kill)
                await asyncio.sleep(0.2)
                await asyncio.to_thread(start)
            await go_on()
            running = False
        publishing = False

    stored: list[Envelope] = []
    for partition, first, _ in await broker.bounds(topic):
        stored += [d.envelope for d in await broker.read(partition, first, 10_000_000) if d.envelope]
    assert len(stored) == len({e.id for e in stored}), "an event was stored twice"
    assert {e.id for e in acknowledged} <= {e.id for e in stored}
    for number in range(8):
        key = f"p{number}"
        assert [e.id for e in stored if e.key == key] == [e.id for e in acknowledged if e.key == key]
        first_seen = [id_ for id_ in dict.fromkeys(seen) if id_.startswith(f"{key}-")]
        assert first_seen == [e.id for e in acknowledged if e.key == key]


async def test_a_server_that_is_killed_under_load_loses_and_repeats_nothing(server: NatsServer) -> None:
    """Killed three times and started again: what was acknowledged is there once, in the order of its key, and is handed out."""
    async with NatsBroker(url(server)) as broker:
        await survives(broker, lambda: server.stop(kill=True), server.start)


async def test_a_cluster_that_is_still_coming_together_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three copies cannot be made while only two servers have found each other; a service that starts then does not give up."""
    nats_url()
    call, refused = JetStream.call, asyncio.Event()

    async def listening(*asked: Any) -> Any:
        try:
            return await call(*asked)
        except ApiError:
            refused.set()
            raise

    monkeypatch.setattr(JetStream, "call", listening)
    servers, routes = [NatsServer(tmp_path / str(number)) for number in range(3)], three_ports()
    names = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    try:
        for number in range(2):
            start_one(servers, routes, number)
        opening = asyncio.create_task(NatsBroker(f"nats://{names}").__aenter__())
        await asyncio.wait([opening, asyncio.create_task(refused.wait())], return_when=asyncio.FIRST_COMPLETED)
        assert not opening.done()
        await asyncio.to_thread(start_one, servers, routes, 2)

        broker = await opening
        await broker.__aexit__(None, None, None)
    finally:
        for server in servers:
            server.stop(kill=True)


@pytest.mark.nightly
async def test_a_cluster_that_loses_one_server_after_the_other_loses_no_event(three: list[NatsServer], routes: list[int]) -> None:
    """Three copies of each stream: every server is killed once, and the others go on as soon as they have a leader."""
    dying = iter(range(3))
    dead: list[int] = []

    def kill() -> None:
        dead.append(next(dying))
        three[dead[-1]].stop(kill=True)

    servers = ",".join(f"127.0.0.1:{server.port}" for server in three)
    async with NatsBroker(f"nats://{servers}?timeout=100") as broker:
        await survives(broker, kill, lambda: start_one(three, routes, dead[-1]))

        infos = [await broker._info(partition) for topic in await broker.topics() for partition, _, _ in await broker.bounds(topic.name)]
        assert {info.config.num_replicas for info in infos} == {3}


async def test_events_that_are_not_acknowledged_in_time_fail_together(server: NatsServer) -> None:
    """While the server stands still each event of a call fails, is told so, and can be published again without a second copy."""
    async with NatsBroker(f"{url(server)}?timeout=1") as broker:
        topic, _ = await declared(broker, partitions=1)
        sent = made(topic, 20, keys=2)
        await published(broker, made(topic, 1, prefix="first"))
        pid = server.pid
        assert pid is not None

        os.kill(pid, signal.SIGSTOP)
        try:
            await until(lambda: _is_stopped(pid), lambda: asyncio.sleep(0.01), lambda: "the server does not stand still")
            results = await broker.publish(sent)
        finally:
            os.kill(pid, signal.SIGCONT)
        await published(broker, sent)

        assert all(isinstance(result, BrokerUnavailableError) for result in results)
        assert "within 1 s" in str(results[0])
        assert [head for _, _, head in await broker.bounds(topic)] == [22]


async def test_who_receives_is_told_of_an_outage_and_can_leave(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member whose server is gone says so after a while, leaves without waiting for it, and goes on when it is back."""
    monkeypatch.setattr("millstream.brokers.nats_subscription.OUTAGE", 0.5)
    async with NatsBroker(url(server)) as broker:
        topic, group = await declared(broker, partitions=1)
        await published(broker, made(topic, 10))
        member = Member(await broker.open(group, "m"))
        await taken(member, 5)
        await until_written(broker, group, Partition(topic, 0), 6)

        await asyncio.to_thread(server.stop, kill=True)
        try:
            with pytest.raises(BrokerUnavailableError, match="cannot be reached"):
                async with asyncio.timeout(30):
                    while True:
                        await member.subscription.receive(1, 1)
            async with asyncio.timeout(5):
                await member.close()
        finally:
            await asyncio.to_thread(server.start)
        after = Member(await broker.open(group, "m"))
        rest = await taken(after, 5)
        await after.close()

    assert [delivery.position for delivery in rest] == [6, 7, 8, 9, 10]


async def until_written(broker: NatsBroker, group: str, partition: Partition, position: int) -> None:
    """Wait until the register says where the group stands."""
    found: list[int] = []

    async def look() -> None:
        known = await broker._register.place(group, partition)
        found.append(known[0].position if known is not None else 0)

    await until(lambda: position in found, look, lambda: f"the register has {found[-1]}, and not {position}")


async def test_a_listener_is_told_that_it_missed_something(server: NatsServer) -> None:
    """What is said while the server is away is lost, so that whoever listens has to know."""
    async with NatsBroker(url(server)) as broker:
        listener = await broker.listen()
        await asyncio.to_thread(server.stop, kill=True)
        await asyncio.to_thread(server.start)

        with pytest.raises(BrokerUnavailableError):
            await listener.receive(10)
        await listener.close()
        again = await broker.listen()
        await broker.broadcast(b"hello")
        assert list(await again.receive(10)) == [b"hello"]


async def test_nobody_answers_where_no_server_is() -> None:
    """It may come: the same call may succeed later."""
    with pytest.raises(BrokerUnavailableError, match="cannot be reached"):
        async with NatsBroker("nats://127.0.0.1:1"):
            pass


# Who is let in


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NatsServer, Path]]:
    """A server with TLS and accounts, and the certificate to trust."""
    nats_url()
    folder = tmp_path_factory.mktemp("guarded")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*command, *names], check=True, capture_output=True)
    server = NatsServer(folder / "server")
    try:
        server.start(f"tls {{ cert_file: '{cert}', key_file: '{key}' }}\n{SECRETS}")
        yield server, cert
    finally:
        server.stop(kill=True)


async def test_events_go_over_tls_to_whoever_knows_the_password(guarded: tuple[NatsServer, Path]) -> None:
    """The user's password may have any characters."""
    server, cert = guarded
    async with NatsBroker(f"nats://ann:it%27s%3A%20a%2Fsecret@127.0.0.1:{server.port}?ca={cert}") as broker:
        topic, group = await declared(broker, partitions=1)
        await published(broker, made(topic, 1000))
        member = Member(await broker.open(group, "m"))
        assert len(await taken(member, 1000)) == 1000
        await member.close()

        assert "secret" not in broker.name


@pytest.mark.parametrize(
    ("user", "options", "error"),
    [
        ("ann:wrong@", "?ca={ca}", "lets nobody in"),
        ("", "?ca={ca}", "lets nobody in"),
        ("bob:b@", "?ca={ca}", "JetStream"),
        ("ann:it%27s%3A%20a%2Fsecret@", "", "requires TLS"),
        ("ann:it%27s%3A%20a%2Fsecret@", "?tls=1", "cannot be reached.*certificate"),
    ],
)
async def test_who_is_not_let_in_is_told_why(guarded: tuple[NatsServer, Path], user: str, options: str, error: str) -> None:
    """A wrong password, none, an account without JetStream, no TLS, and a certificate that nobody has vouched for."""
    server, cert = guarded
    with pytest.raises(MillstreamError, match=error) as raised:
        async with NatsBroker(f"nats://{user}127.0.0.1:{server.port}{options.format(ca=cert)}"):
            pass
    assert isinstance(raised.value, BrokerUnavailableError if "certificate" in error else ConfigurationError)
