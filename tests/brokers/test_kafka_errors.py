"""What Kafka refuses, in words that say what to do next."""

import pytest
from confluent_kafka import KafkaError

from millstream.brokers.kafka_errors import ELSEWHERE, failure
from millstream.contracts.errors import BrokerError, BrokerUnavailableError, ConfigurationError, MillstreamError, TooLargeError

FATAL = "Fatal error: Broker: API version not supported: ConsumerGroupHeartbeat fatal error: Broker: API version not supported"


@pytest.mark.parametrize(
    ("code", "text", "kind", "advice"),
    [
        (KafkaError.MSG_SIZE_TOO_LARGE, None, TooLargeError, "Publish a reference"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, None, ConfigurationError, "what the cluster allows this user"),
        (KafkaError._TRANSPORT, "ssl/tls alert bad certificate: SSL alert number 42", ConfigurationError, "certificates"),
        (KafkaError._TRANSPORT, "SSL routines::certificate verify failed", ConfigurationError, "certificates"),
        (KafkaError._TRANSPORT, "SSL routines::unexpected eof while reading", BrokerUnavailableError, "may succeed later"),
        (KafkaError.NOT_ENOUGH_REPLICAS, None, BrokerUnavailableError, "Check that the cluster runs"),
        (KafkaError._FATAL, FATAL, ConfigurationError, "group_protocol=classic"),
        (KafkaError.INVALID_RECORD, None, BrokerError, "give the event one"),
        (KafkaError.INCONSISTENT_GROUP_PROTOCOL, None, BrokerError, "use the same group_protocol"),
        (KafkaError.UNKNOWN, None, BrokerError, ELSEWHERE),
    ],
)
def test_every_error_says_what_to_do(code: int, text: str | None, kind: type[MillstreamError], advice: str) -> None:
    """What was tried, what Kafka said, and then the next step."""
    error = failure(KafkaError(code, text), "publishing")

    assert type(error) is kind
    assert str(error).startswith("publishing: ")
    assert advice in str(error)
