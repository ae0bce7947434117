"""What a group's queue is made with, and what somebody may have made of it since."""

import logging
from collections.abc import Mapping

from millstream.brokers.aws_settings import AwsSettings
from millstream.brokers.aws_wire import MOST_BYTES
from millstream.contracts.errors import ConfigurationError

log = logging.getLogger("millstream.aws")

#: SQS keeps what nobody takes for fourteen days at most.
KEPT_SECONDS = 14 * 24 * 3600
#: The key that AWS keeps for SQS: nobody can let SNS use it.
AWS_KEY = "alias/aws/sqs"


def attributes_of(settings: AwsSettings) -> dict[str, str]:
    """What a new queue has."""
    attributes = {"VisibilityTimeout": str(settings.visibility), "MessageRetentionPeriod": str(KEPT_SECONDS)}
    if settings.fifo:
        attributes |= {"FifoQueue": "true", "DeduplicationScope": "messageGroup", "FifoThroughputLimit": "perMessageGroupId"}
    return attributes


def verify_attributes(group: str, url: str, attributes: Mapping[str, str]) -> None:
    """Raise `ConfigurationError` where a queue would lose events in silence; log what makes them late, or lost to a group that is away.

    For how long a message is invisible is said when it is received, and every event has a
    deduplication id: what the queue says of these is not looked at.
    """
    queue = f"the queue {url.rpartition('/')[2]} of group {group!r}"
    change = f"aws sqs set-queue-attributes --queue-url {url} --attributes"
    if attributes.get("RedrivePolicy"):
        raise ConfigurationError(
            f"{queue} has a redrive policy, which takes events away from the group that have come a few times, as they do when its "
            f"processes stop: {attributes['RedrivePolicy']}. What cannot be handled is kept in the group's store. Remove the policy: "
            f"{change} '{{\"RedrivePolicy\":\"\"}}'"
        )
    if int(attributes.get("MaximumMessageSize", MOST_BYTES)) < MOST_BYTES:
        raise ConfigurationError(
            f"{queue} takes messages of {attributes['MaximumMessageSize']} bytes at most, and what is larger would be lost on its way "
            f"from SNS. Let it take what SNS takes: {change} MaximumMessageSize={MOST_BYTES}"
        )
    if attributes.get("KmsMasterKeyId", "").endswith(AWS_KEY):
        raise ConfigurationError(
            f"{queue} is encrypted with {AWS_KEY}, which SNS cannot use: no event would arrive. Take a key of your own whose policy lets "
            f"sns.amazonaws.com use it, or SQS's: {change} '{{\"KmsMasterKeyId\":\"\",\"SqsManagedSseEnabled\":\"true\"}}'"
        )
    if int(attributes.get("MessageRetentionPeriod", KEPT_SECONDS)) < KEPT_SECONDS:
        log.warning(
            "%s keeps events for %s seconds; what the group has not handled by then is lost. For 14 days: %s MessageRetentionPeriod=%d",
            queue, attributes["MessageRetentionPeriod"], change, KEPT_SECONDS,
        )  # fmt: skip
    if int(attributes.get("DelaySeconds", 0)) > 0:
        log.warning("%s holds every event back for %s seconds. At once: %s DelaySeconds=0", queue, attributes["DelaySeconds"], change)
