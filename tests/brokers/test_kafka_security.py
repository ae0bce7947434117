"""A listener that takes only TLS and a password: with both everything works, and without either the reason is told."""

import pytest
from tests.brokers.kafka_server import kafka_url
from tests.brokers.words import declared, made, published, taken

from millstream.brokers.kafka import KafkaBroker
from millstream.contracts.errors import BrokerUnavailableError, ConfigurationError
from millstream.testing.broker_ground import Member

pytestmark = pytest.mark.slow


def secure_url() -> str:
    """A URL with user, password and the certificate to trust."""
    return kafka_url("MILLSTREAM_TEST_KAFKA_SECURE")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millstream.brokers.kafka_cluster.PATIENCE", 3.0)


async def test_events_travel_through_tls_with_a_password() -> None:
    """Every client of ours is let in: the one that declares, the one that publishes, the member, the reader and the transaction."""
    async with KafkaBroker(secure_url()) as broker:
        topic, group = await declared(broker, partitions=1)
        await published(broker, made(topic, 3))
        member = Member(await broker.open(group, "m"))
        items = await taken(member, 3, settle=False)
        await member.subscription.publish_and_settle(made(topic, 1, prefix="out"), items)
        listener = await broker.listen()
        await broker.broadcast(b"hello")
        heard = await listener.receive(10)
        history = await broker.read(items[0].partition, 0, 10)
        await member.close()

        assert "alice-secret" not in broker.name
        assert (len(history), list(heard)) == (4, [b"hello"])


async def test_a_wrong_password_is_told() -> None:
    """The server's own words arrive, and the password does not."""
    with pytest.raises(ConfigurationError, match=r"uthentication.*Check user, password") as raised:
        async with KafkaBroker(secure_url().replace("alice-secret", "hunter2")):
            pass

    assert "hunter2" not in str(raised.value)


async def test_a_certificate_that_nobody_vouches_for_is_refused() -> None:
    """Without the authority's certificate the server could be anybody."""
    url = secure_url()
    ca = url.partition("ca=")[2].partition("&")[0]

    with pytest.raises(ConfigurationError, match="certificate"):
        async with KafkaBroker(url.replace(f"ca={ca}&", "")):
            pass


async def test_who_speaks_in_the_clear_is_not_understood() -> None:
    """A client without TLS gets no answer, and the error says what to look at."""
    server = secure_url().rpartition("@")[2].partition("?")[0]

    with pytest.raises(BrokerUnavailableError, match="Check that the cluster runs"):
        async with KafkaBroker(f"kafka://{server}"):
            pass
