"""Errors of Kafka and librdkafka in Millstream's words."""

import logging
import time
from collections.abc import Callable

from confluent_kafka import KafkaError, KafkaException

from millstream.contracts.errors import BrokerError, BrokerUnavailableError, ConfigurationError, MillstreamError, TooLargeError

log = logging.getLogger("millstream.kafka")

#: A client complains at every attempt to connect; the same complaint is logged again after so many seconds.
AGAIN = 60.0

E = KafkaError
#: The same call may succeed later.
PASSING = frozenset(
    (
        E._TRANSPORT, E._ALL_BROKERS_DOWN, E._RESOLVE, E._TIMED_OUT, E._MSG_TIMED_OUT, E._TIMED_OUT_QUEUE, E._WAIT_COORD, E._WAIT_CACHE,
        E._PARTIAL, E._PURGE_QUEUE, E._PURGE_INFLIGHT, E._DESTROY, E._DESTROY_BROKER, E.BROKER_NOT_AVAILABLE,
        E.COORDINATOR_LOAD_IN_PROGRESS, E.COORDINATOR_NOT_AVAILABLE,
        E.CONCURRENT_TRANSACTIONS, E.KAFKA_STORAGE_ERROR, E.LEADER_NOT_AVAILABLE, E.NETWORK_EXCEPTION, E.NOT_CONTROLLER, E.NOT_COORDINATOR,
        E.NOT_ENOUGH_REPLICAS, E.NOT_ENOUGH_REPLICAS_AFTER_APPEND, E.NOT_LEADER_FOR_PARTITION, E.OFFSET_NOT_AVAILABLE, E.REQUEST_TIMED_OUT,
        E.THROTTLING_QUOTA_EXCEEDED, E.UNKNOWN_LEADER_EPOCH, E.FENCED_LEADER_EPOCH, E.UNSTABLE_OFFSET_COMMIT, E._UNKNOWN_PARTITION,
    )
)  # fmt: skip
#: See `is_forbidden`.
FORBIDDEN = frozenset(
    (
        E._AUTHENTICATION, E._SSL, E.SASL_AUTHENTICATION_FAILED, E.TOPIC_AUTHORIZATION_FAILED, E.GROUP_AUTHORIZATION_FAILED,
        E.CLUSTER_AUTHORIZATION_FAILED, E.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, E.UNSUPPORTED_SASL_MECHANISM, E.POLICY_VIOLATION,
    )
)  # fmt: skip
#: Another member, or another producer of the same name, has taken over.
FENCED = frozenset(
    (
        E._FENCED, E.PRODUCER_FENCED, E.INVALID_PRODUCER_EPOCH, E.FENCED_INSTANCE_ID, E.FENCED_MEMBER_EPOCH, E.ILLEGAL_GENERATION,
        E.UNKNOWN_MEMBER_ID, E.INVALID_PRODUCER_ID_MAPPING,
    )
)  # fmt: skip
_GONE = "The topic is gone, or this user may not see it: declare it again, or have the user allowed to describe it."
#: What helps where Kafka's own words leave that open.
ADVICE = {
    E.UNKNOWN_TOPIC_OR_PART: _GONE,
    E._UNKNOWN_TOPIC: _GONE,
    E.INVALID_RECORD: "A compacted topic takes only what has a key: give the event one, or set the topic's cleanup.policy=delete.",
    E.INVALID_TIMESTAMP: "The topic takes no such time: correct the clock here, or set the topic's message.timestamp.type=LogAppendTime.",
    E.INCONSISTENT_GROUP_PROTOCOL: "Its members share partitions in another way: stop them first, or use the same group_protocol.",
    E.GROUP_MAX_SIZE_REACHED: "Run fewer workers, or raise the servers' group.max.size (group.consumer.max.size).",
    E.INVALID_SESSION_TIMEOUT: "Correct session.timeout.ms in the URL: the servers' group.min.session.timeout.ms and its like bound it.",
    E.INVALID_TRANSACTION_TIMEOUT: "Raise the servers' transaction.max.timeout.ms to 10000 at least.",
    E.UNSUPPORTED_VERSION: "Upgrade the servers: Kafka 2.5 is the oldest that serves.",
    E.SECURITY_DISABLED: "The servers have no authorizer: leave user and password out, or set one up.",
}
ELSEWHERE = "What the servers logged at that time says more: look for the error's name there."
#: What is in the text of a member's last error where the servers leave it to the members to share out partitions.
UNSUPPORTED = KafkaError(E.UNSUPPORTED_VERSION).str()


def error_of(exception: KafkaException) -> KafkaError:
    """The error that an exception carries."""
    found = exception.args[0] if exception.args else None
    return found if isinstance(found, KafkaError) else KafkaError(KafkaError._FAIL, str(exception))


def is_passing(error: KafkaError) -> bool:
    """Whether the same call may succeed later."""
    return error.code() in PASSING or error.retriable()


def is_forbidden(error: KafkaError) -> bool:
    """Whether somebody has to change who may do what, or what this client says of itself."""
    # Of a certificate that one of the two does not like librdkafka may only say that the connection has ended, and why in words.
    return error.code() in FORBIDDEN or any(known in error.str() for known in ("SSL alert", "certificate verify failed"))


def failure(error: KafkaError | KafkaException, what: str) -> MillstreamError:
    """What to raise, or to answer, when Kafka refuses; `what` says what was tried."""
    if isinstance(error, KafkaException):
        error = error_of(error)
    told = f"{what}: {error.str()} ({error.name()})."
    if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        return TooLargeError(f"{told} Publish a reference to large data.")
    if is_forbidden(error):
        return ConfigurationError(f"{told} Check user, password, certificates, and what the cluster allows this user.")
    if error.code() == E._FATAL and UNSUPPORTED in error.str():
        return ConfigurationError(
            f"{told} These servers do not share out a group's partitions: write group_protocol=classic into the URL; or, where they were "
            "upgraded to Kafka 4, let them (kafka-features.sh upgrade --feature group.version=1)."
        )
    if is_passing(error):
        return BrokerUnavailableError(f"{told} Check that the cluster runs; the same call may succeed later.")
    return BrokerError(f"{told} {ADVICE.get(error.code(), ELSEWHERE)}")


def unusable(error: KafkaException, name: str) -> ConfigurationError:
    """What to raise when librdkafka makes no client of the settings that a URL led to."""
    return ConfigurationError(f"{name}: {error_of(error).str()}. Correct the URL's options.")


def complaints(who: str) -> Callable[[KafkaError], None]:
    """What a client calls with its troubles: each kind is logged, and not again and again."""
    last: dict[int, float] = {}

    def complain(error: KafkaError) -> None:
        now = time.monotonic()
        # That all servers are down says less than what happened to the last one.
        if error.code() != E._ALL_BROKERS_DOWN and now - last.get(error.code(), -AGAIN) >= AGAIN:
            last[error.code()] = now
            log.warning("%s: %s", who, error.str())

    return complain
