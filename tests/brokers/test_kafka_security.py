"""Listeners that take only TLS with a password or a certificate: with both everything works, and without either the reason is told."""

# confluent_kafka.admin documents these names, and exports them without saying so.
# pyright: reportPrivateImportUsage=false

import asyncio
import re

import pytest
from confluent_kafka.admin import AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion
from tests.brokers.kafka_server import kafka_url
from tests.brokers.words import declared, made, published, taken, unique

from millstream.brokers.kafka import KafkaBroker
from millstream.brokers.kafka_settings import KEY_PASSWORD, settings_of
from millstream.contracts.errors import BrokerUnavailableError, ConfigurationError
from millstream.testing.broker_ground import Member

pytestmark = pytest.mark.slow


def secure_url() -> str:
    """A URL with user, password and the certificate to trust."""
    return kafka_url("MILLSTREAM_TEST_KAFKA_SECURE")


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For whoever is not let in: all the time that there is goes by."""
    monkeypatch.setattr("millstream.brokers.kafka_cluster.PATIENCE", 3.0)


async def travel(url: str) -> None:
    """Every client of ours is let in: the one that declares, the one that publishes, the member, the reader and the transaction."""
    async with KafkaBroker(url) as broker:
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

        assert "secret" not in broker.name
        assert (len(history), list(heard)) == (4, [b"hello"])


async def test_events_travel_through_tls_with_a_password() -> None:
    """PLAIN, which is what a URL with a user means."""
    await travel(secure_url())


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_a_password_need_not_be_sent_to_be_proven(mechanism: str) -> None:
    """With SCRAM it stays here, and the server has none to lose."""
    user = unique("user")
    credentials = ScramCredentialInfo(getattr(ScramMechanism, mechanism.replace("-", "_")), 4096)
    added = UserScramCredentialUpsertion(user, credentials, b"scram-secret")
    client = AdminClient({"bootstrap.servers": str(settings_of(kafka_url()).client["bootstrap.servers"])})
    await asyncio.wrap_future(client.alter_user_scram_credentials([added])[user])

    await travel(secure_url().replace("alice:alice-secret", f"{user}:scram-secret") + f"&mechanism={mechanism}")


async def test_a_certificate_lets_in_who_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server takes only clients that show one; the password of its key comes from the environment."""
    url = kafka_url("MILLSTREAM_TEST_KAFKA_MUTUAL")
    monkeypatch.setenv(KEY_PASSWORD, "alice-secret")

    await travel(url)


@pytest.mark.usefixtures("_impatient")
async def test_who_shows_no_certificate_is_told() -> None:
    """The server ends the connection with a word about it, which arrives."""
    url = re.sub("&(cert|key)=[^&]*", "", kafka_url("MILLSTREAM_TEST_KAFKA_MUTUAL"))

    with pytest.raises(ConfigurationError, match=r"certificate.*Check user, password, certificates"):
        async with KafkaBroker(url):
            pass


async def test_a_key_that_its_password_does_not_open_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is sent to anybody."""
    monkeypatch.setenv(KEY_PASSWORD, "hunter2")

    with pytest.raises(ConfigurationError, match=r"ssl.key.location.*Correct the URL's options") as raised:
        async with KafkaBroker(kafka_url("MILLSTREAM_TEST_KAFKA_MUTUAL")):
            pass

    assert "hunter2" not in str(raised.value)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
async def test_a_wrong_password_is_told(mechanism: str) -> None:
    """The server's own words arrive, and the password does not."""
    with pytest.raises(ConfigurationError, match=r"uthentication.*Check user, password") as raised:
        async with KafkaBroker(secure_url().replace("alice-secret", "hunter2") + f"&mechanism={mechanism}"):
            pass

    assert "hunter2" not in str(raised.value)


@pytest.mark.usefixtures("_impatient")
async def test_a_certificate_that_nobody_vouches_for_is_refused() -> None:
    """Without the authority's certificate the server could be anybody."""
    url = secure_url()
    ca = url.partition("ca=")[2].partition("&")[0]

    with pytest.raises(ConfigurationError, match="certificate"):
        async with KafkaBroker(url.replace(f"ca={ca}&", "")):
            pass


@pytest.mark.usefixtures("_impatient")
async def test_who_speaks_in_the_clear_is_not_understood() -> None:
    """A client without TLS gets no answer, and the error says what to look at."""
    server = secure_url().rpartition("@")[2].partition("?")[0]

    with pytest.raises(BrokerUnavailableError, match="Check that the cluster runs"):
        async with KafkaBroker(f"kafka://{server}"):
            pass
