"""Filter policies of SNS subscriptions: what a group does not want never reaches its queue."""

import json
import logging
import math
from typing import Any, cast

from millstream.brokers.aws_client import AwsService
from millstream.contracts.errors import BrokerError, BrokerUnavailableError
from millstream.core.filter import Filter

log = logging.getLogger("millstream.aws")

SCOPE, POLICY = "FilterPolicyScope", "FilterPolicy"
#: The policy that lets everything through.
NOTHING = "{}"
#: Where the body lies in a structured CloudEvent.
DATA = "data"
#: What passes besides: bodies that are no JSON, and what is no event, or lies in S3.
BESIDES: tuple[dict[str, Any], ...] = ({"data_base64": [{"exists": True}]}, {"specversion": [{"exists": False}]})
#: SNS takes so many fields, and so many combinations of their values,
MOST_FIELDS, MOST_COMBINATIONS = 5 - len(BESIDES), 150 - len(BESIDES)
#: and compares numbers up to this one.
LARGEST_NUMBER = 1_000_000_000


def policy_of(wanted: Filter | None) -> str:
    """What SNS can be told of a filter: all of it, or those of its conditions that fit.

    It never keeps back what the filter wants, and may let more pass: the worker looks at
    all that comes, and has the last word.
    """
    wants: dict[str, Any] = {}
    combinations, count = 1, 0
    for path, values in wanted.fields if wanted is not None else ():
        # SNS counts a value the more the deeper it lies: a field of the body is on the third level.
        grown = combinations * len(values) * (path.count(".") + 3)
        if count == MOST_FIELDS or grown > MOST_COMBINATIONS or not all(map(_is_comparable, values)):
            continue
        combinations, count = grown, count + 1
        *above, field = path.split(".")
        place = wants
        for name in above:
            place = place.setdefault(name, {})
        place[field] = [*map(_compared, values)]
    return json.dumps({"$or": [{DATA: wants}, *BESIDES]}) if wants else NOTHING


def _is_comparable(value: object) -> bool:
    """Whether SNS says of a value what JSON says: fractions it rounds."""
    return not isinstance(value, (int, float)) or (math.isfinite(value) and value == int(value) and abs(value) <= LARGEST_NUMBER)


def _compared(value: object) -> object:
    # Written bare, 1 and 1.0 would be two values.
    return {"numeric": ["=", int(value)]} if isinstance(value, (int, float)) and not isinstance(value, bool) else value


async def have_filtered(sns: AwsService, subscription: str, group: str, wanted: Filter | None) -> None:
    """Have a subscription deliver what is wanted; a policy that somebody else has set stays as it is."""
    policy = policy_of(wanted)
    try:
        answer = await sns.call("get_subscription_attributes", SubscriptionArn=subscription)
        attributes: dict[str, str] = answer.get("Attributes") or {}
        before = attributes.get(POLICY) or NOTHING
        if json.loads(before) == json.loads(policy):
            return
        if before != NOTHING and not _is_ours(before, attributes.get(SCOPE, "")):
            if policy != NOTHING:
                log.warning("group %s: its subscription has a filter policy of somebody else's, which stays as it is", group)
            return
        if policy != NOTHING:
            await sns.call("set_subscription_attributes", SubscriptionArn=subscription, AttributeName=SCOPE, AttributeValue="MessageBody")
        await sns.call("set_subscription_attributes", SubscriptionArn=subscription, AttributeName=POLICY, AttributeValue=policy)
    except BrokerUnavailableError:
        raise
    except BrokerError as error:
        # Whoever may not read it has never set one; where too many are set already, or it may not be set, workers filter alone.
        if policy != NOTHING:
            log.warning("group %s: SNS delivers everything, and the worker skips what is not wanted: %s", group, error)


def _is_ours(policy: str, scope: str) -> bool:
    try:
        document: object = json.loads(policy)
    except ValueError:
        return False
    alternatives = cast("dict[str, Any]", document).get("$or") if isinstance(document, dict) else None
    return scope == "MessageBody" and isinstance(alternatives, list) and list(BESIDES) == cast("list[Any]", alternatives)[1:]
