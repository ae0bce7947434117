"""What a kafka:// URL says, and what it is not allowed to say."""


import pytest
from confluent_kafka import Consumer

from millstream.app.connect import connect_broker
from millstream.app.system_clock import SystemClock
from millstream.brokers.kafka import KafkaBroker
from millstream.brokers.kafka_settings import CLIENT_LOG, KEY_PASSWORD, PASSWORD, USER, settings_of
from millstream.contracts.errors import ConfigurationError


def test_a_plain_url_names_its_servers() -> None:
    """Several servers, no options: nothing is encrypted, nobody is asked for a password, and every promise is kept."""
    settings = settings_of("kafka://k1:9092,k2:9093", {})

    assert settings.name == "kafka://k1:9092,k2:9093"
    assert settings.client == {"bootstrap.servers": "k1:9092,k2:9093", "log_level": 2, "security.protocol": "plaintext"}
    assert (settings.allow_single_replica, settings.replication, settings.protocol) == (False, None, None)


def test_a_user_is_only_sent_over_tls() -> None:
    """With a password in the URL the connection is encrypted, unless somebody writes that it is not to be."""
    usual = settings_of("kafka://alice:p%40ss@k:9092", {})
    clear = settings_of("kafka://alice:p%40ss@k:9092?security=sasl_plaintext&mechanism=scram-sha-512", {})

    assert usual.client["security.protocol"] == "sasl_ssl"
    assert (usual.client["sasl.username"], usual.client["sasl.password"]) == ("alice", "p@ss")
    assert (clear.client["security.protocol"], clear.client["sasl.mechanism"]) == ("sasl_plaintext", "SCRAM-SHA-512")


def test_secrets_can_stay_in_the_environment() -> None:
    """User, password and the password of a key need not be in any URL."""
    environment = {USER: "bob", PASSWORD: "secret", KEY_PASSWORD: "another"}

    settings = settings_of("kafka://k:9092?ca=/ca.pem&cert=/c.pem&key=/k.pem&security=sasl_ssl", environment)

    assert (settings.client["sasl.username"], settings.client["sasl.password"]) == ("bob", "secret")
    assert (settings.client["ssl.ca.location"], settings.client["ssl.key.password"]) == ("/ca.pem", "another")


def test_no_secret_is_shown() -> None:
    """Neither the name nor the text of the settings has the password."""
    settings = settings_of("kafka://alice:hunter2@k:9092", {})

    assert "hunter2" not in settings.name
    assert "hunter2" not in repr(settings)


def test_certificates_alone_mean_tls() -> None:
    """Whoever names a certificate wants encryption."""
    settings = settings_of("kafka://k:9092?ca=/ca.pem", {})

    assert settings.client["security.protocol"] == "ssl"


def test_compacted_topics_are_allowed_one_by_one() -> None:
    """Several are named with commas between, and nothing else is."""
    settings = settings_of("kafka://k:9092?allow_compacted=customers,prices", {})

    assert settings.allow_compacted == {"customers", "prices"}


def test_settings_of_librdkafka_pass_through() -> None:
    """What has a dot is librdkafka's."""
    settings = settings_of("kafka://k:9092?compression.type=lz4", {})

    assert settings.client["compression.type"] == "lz4"


@pytest.mark.parametrize(("options", "patience"), [("", 30_000), ("?session.timeout.ms=45000", 45_000)])
def test_a_member_keeps_its_group_waiting_for_no_longer_than_half_a_minute_or_a_session(options: str, patience: int) -> None:
    """Nobody reads a partition meanwhile; librdkafka refuses sessions that last longer."""
    config = KafkaBroker(f"kafka://127.0.0.1:9{options}")._consumer_config("group", "member")

    assert config["max.poll.interval.ms"] == patience
    Consumer(config, logger=CLIENT_LOG).close()


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("kafka://", "names no cluster"),
        ("kafka://k:9092,", "names no cluster"),
        ("kafka://k:9092/orders", "names no cluster"),
        ("kafka://k:9092?replicas=3", "Did you mean replication"),
        ("kafka://k:9092?linger=5", "there is no option 'linger'"),
        ("kafka://k:9092?acks=1", "acks is Millstream's to set: its promises depend on it"),
        ("kafka://k:9092?auto.offset.reset=latest", "promises depend on it"),
        ("kafka://k:9092?enable.idempotence=false", "promises depend on it"),
        ("kafka://k:9092?max.in.flight=5", "promises depend on it"),
        ("kafka://k:9092?max.in.flight.requests.per.connection=5", "promises depend on it"),
        ("kafka://k:9092?linger.ms=5", "use publish_many"),
        ("kafka://k:9092?max.poll.interval.ms=60000", "a thread polls for them"),
        ("kafka://k:9092?batch.size=1000000", "use publish_many"),
        ("kafka://k:9092?message.max.bytes=1000", "set the topic's max.message.bytes"),
        ("kafka://k:9092?queue.buffering.max.messages=10", "waits; leave it out"),
        ("kafka://k:9092?queue.buffering.max.ms=10", "use publish_many"),
        ("kafka://k:9092?delivery.timeout.ms=10", "write timeout=SECONDS"),
        ("kafka://k:9092?group.protocol=classic", "write group_protocol="),
        ("kafka://k:9092?group.instance.id=me", "lets only one of them work"),
        ("kafka://k:9092?client.id=me", "the name of the member"),
        ("kafka://k:9092?security.protocol=ssl", "write security="),
        ("kafka://k:9092?sasl.password=x", "write USER:PASSWORD@"),
        ("kafka://k:9092?bootstrap.servers=k2:9092", "before the question mark"),
        ("kafka://k:9092?security=tls", "plaintext, ssl"),
        ("kafka://k:9092?security=sasl_ssl", "needs a user and a password"),
        ("kafka://alice:x@k:9092?security=ssl", "sends none"),
        ("kafka://k:9092?allow_single_replica=maybe", "neither yes nor no"),
        ("kafka://k:9092?replication=none", "no number from 1"),
        ("kafka://k:9092?timeout=-1", "no number from 0.1"),
        ("kafka://k:9092?group_protocol=new", "consumer and classic"),
    ],
)
def test_what_makes_no_sense_is_refused(url: str, word: str) -> None:
    """Each mistake is told when the broker is made, with what to write instead."""
    with pytest.raises(ConfigurationError, match=word):
        settings_of(url, {})


def test_a_missing_client_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has not installed Kafka's client is told the command."""
    monkeypatch.setattr("millstream.app.connect.find_spec", lambda name: None)

    with pytest.raises(ConfigurationError, match=r"pip install 'millstream\[kafka\]'"):
        connect_broker("kafka://k:9092", SystemClock())
