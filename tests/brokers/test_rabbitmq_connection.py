"""Being let in, TLS, servers that are not there or fall silent, and how much may be on its way: on a server of the test's own."""

import asyncio
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.brokers.certificates import Authority
from tests.brokers.rabbitmq_server import rabbitmq_url
from tests.brokers.words import declared, made, published, taken, until, works
from tools.services.rabbitmq import RabbitServer
from tools.services.service import free_port, lasting_port

from millstream.brokers.rabbitmq import RabbitBroker, queue_of
from millstream.brokers.rabbitmq_subscription import RabbitSubscription
from millstream.contracts.errors import BrokerUnavailableError, ConfigurationError, MillstreamError
from millstream.core.broker import Partition
from millstream.testing.broker_ground import Member

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


class Guarded:
    """A server that takes TLS, too, from whoever has a certificate of its authority."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tls = lasting_port()
        self.server = RabbitServer(folder / "server")

    def start(self) -> None:
        """Make certificates, and start it."""
        authority = Authority(self.folder)
        files = {
            "cacertfile": authority.certificate("ca"), "certfile": authority.certificate("server"), "keyfile": authority.key("server")
        }  # fmt: skip
        self.server.start(
            f"listeners.ssl.1 = 127.0.0.1:{self.tls}\nssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n"
            + "".join(f"ssl_options.{name} = {file}\n" for name, file in files.items())
        )


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """One server for all."""
    rabbitmq_url()
    guarded = Guarded(tmp_path_factory.mktemp("guarded"))
    try:
        guarded.start()
        yield guarded
    finally:
        guarded.server.stop(kill=True)


@pytest.fixture
def port(guarded: Guarded) -> int:
    """Where it speaks in the clear."""
    return guarded.server.port


async def test_events_go_over_tls(guarded: Guarded) -> None:
    """Whoever knows the authority and has a certificate of it does everything: declares, publishes, receives, broadcasts."""
    files = f"ca={guarded.folder}/ca.pem&cert={guarded.folder}/client.pem&key={guarded.folder}/client.key"
    async with RabbitBroker(f"rabbitmqs://127.0.0.1:{guarded.tls}?{files}") as broker:
        await works(broker)


@pytest.mark.parametrize(
    ("scheme", "secure", "options", "error", "told"),
    [
        ("rabbitmqs", True, "", ConfigurationError, "certificate.*Check ca=, cert= and key="),
        ("rabbitmqs", True, "ca={folder}/ca.pem", ConfigurationError, "(?i)alert.*Check ca=, cert= and key="),
        ("rabbitmqs", False, "ca={folder}/ca.pem", ConfigurationError, "(?i)wrong.version.*port takes TLS"),
        ("rabbitmq", True, "", BrokerUnavailableError, r"reached: [^.]+\. Check that the server runs, and speaks AMQP without TLS"),
    ],
    ids=["unknown authority", "no certificate", "no TLS there", "TLS there"],
)
async def test_who_cannot_agree_on_tls_is_told_why(
    guarded: Guarded, scheme: str, secure: bool, options: str, error: type[MillstreamError], told: str
) -> None:
    """At once, and with what to look at."""
    port = guarded.tls if secure else guarded.server.port
    async with asyncio.timeout(10):
        with pytest.raises(error, match=told):
            async with RabbitBroker(f"{scheme}://127.0.0.1:{port}?{options.format(folder=guarded.folder)}"):
                pass


async def test_a_wrong_password_is_told_at_once(port: int) -> None:
    """When the broker is opened; and to whoever publishes, when it was right before and is not when the connection is made anew."""
    async with asyncio.timeout(10):
        with pytest.raises(ConfigurationError, match=r"403.*Check user, password") as raised:
            async with RabbitBroker(f"rabbitmq://guest:hunter2@127.0.0.1:{port}"):
                pass
        async with RabbitBroker(f"rabbitmq://127.0.0.1:{port}") as broker:
            topic, _ = await declared(broker, partitions=1)
            await published(broker, made(topic, 1))
            broker._settings = replace(broker._settings, password="hunter2")
            assert broker._connection is not None
            broker._connection.abort()
            results = await broker.publish(made(topic, 3))

    assert "hunter2" not in str(raised.value)
    assert all(isinstance(result, ConfigurationError) for result in results)


async def test_a_virtual_host_that_is_not_there_is_told(port: int) -> None:
    """As what it is: no later call will succeed."""
    with pytest.raises(ConfigurationError, match="virtual host"):
        async with RabbitBroker(f"rabbitmq://127.0.0.1:{port}/nowhere"):
            pass


async def test_servers_are_tried_one_after_the_other(port: int) -> None:
    """Whoever is not there is passed over, for the broker as for its members; where nobody is, all of them are named."""
    dead = free_port()
    async with RabbitBroker(f"rabbitmq://127.0.0.1:{dead},127.0.0.1:{port}") as broker:
        topic, group = await declared(broker, partitions=1)
        await published(broker, made(topic, 3))
        member = Member(await broker.open(group, "m"))
        await taken(member, 3)
        await member.close()

    with pytest.raises(BrokerUnavailableError, match=rf"127.0.0.1:{dead},localhost:{dead} cannot be reached"):
        async with RabbitBroker(f"rabbitmq://127.0.0.1:{dead},localhost:{dead}"):
            pass


async def test_no_more_is_on_its_way_than_prefetch_says(port: int) -> None:
    """The rest stays in the queue, for whoever has it next, and everything comes in order."""
    async with RabbitBroker(f"rabbitmq://127.0.0.1:{port}?prefetch=5") as broker:
        topic, group = await declared(broker, partitions=1)
        await published(broker, made(topic, 50))
        member = Member(await broker.open(group, "m"))
        partition = Partition(topic, 0)
        subscription = member.subscription
        assert isinstance(subscription, RabbitSubscription)

        async def came() -> None:
            await member.step(0)

        await until(lambda: bool(subscription.claims) and len(subscription.claims[partition].waiting) == 5, came, lambda: "nothing came")
        async with await broker._channel() as channel:
            _, ready, _ = await channel.queue(queue_of(group, partition), passive=True)
        items = await taken(member, 50)
        await member.close()

    assert ready == 45
    assert [d.envelope.id for d in items if d.envelope] == [f"e-{number}" for number in range(50)]


async def test_a_server_that_falls_silent_is_given_up_after_two_heartbeats(guarded: Guarded) -> None:
    """Its connections stay open and nothing comes: members are told, and whoever publishes goes on when it is back, in order."""
    pid = guarded.server.pid
    assert pid is not None
    async with RabbitBroker(f"rabbitmq://127.0.0.1:{guarded.server.port}?heartbeat=1") as broker:
        topic, group = await declared(broker, partitions=1)
        sent = made(topic, 20)
        await published(broker, sent[:10])
        member = Member(await broker.open(group, "m"))
        await taken(member, 4)
        os.kill(pid, signal.SIGSTOP)
        try:
            publishing = asyncio.create_task(broker.publish(sent[10:]))
            with pytest.raises(BrokerUnavailableError, match="nothing was heard of the server for 2 s"):
                await until(lambda: False, member.step, lambda: "nobody is told")
            silent, lost = broker._connection, lambda: silent is not None and silent.lost is not None
            await until(lost, lambda: asyncio.sleep(0.01), lambda: "the connection is kept")
        finally:
            os.kill(pid, signal.SIGCONT)
        results = await publishing
        await member.close()
        heir = Member(await broker.open(group, "m"))
        seen: dict[str, None] = {}

        async def step() -> None:
            items = await heir.step()
            seen.update((d.envelope.id, None) for d in items if d.envelope)
            await heir.settle(items)

        await until(lambda: f"e-{19}" in seen, step, lambda: f"only {list(seen)} came")
        await heir.close()

    assert not any(results)
    assert [id_ for id_ in seen if id_ in {e.id for e in sent[4:]}] == [e.id for e in sent[4:]]
