"""Filter policies of SNS subscriptions: what a group does not want never reaches its queue."""

import json
import logging
import math
from typing import Any, cast

from millstream.brokers.aws_client import AwsService
from millstream.contracts.errors import BrokerError, BrokerUnavailableError
from millstream.core.filter import Value, Wants

log = logging.getLogger("millstream.aws")

SCOPE, POLICY = "FilterPolicyScope", "FilterPolicy"
#: The policy that lets everything through.
NOTHING = "{}"
#: Where the body lies in a structured CloudEvent.
DATA = "data"
#: What passes besides: bodies that are no JSON, and what is no event, or lies in S3.
BESIDES: tuple[dict[str, Any], ...] = ({"data_base64": [{"exists": True}]}, {"specversion": [{"exists": False}]})
#: So does a body that leaves a field out, since it may have a default.
ABSENT = {"exists": False}
#: SNS takes so many fields, and so many combinations of their values,
MOST_FIELDS, MOST_COMBINATIONS = 5 - len(BESIDES), 150 - len(BESIDES)
#: and compares numbers up to this one.
LARGEST_NUMBER = 1_000_000_000


def policy_of(wants: Wants | None) -> str:
    """What SNS can be told of what is wanted: all of it, or those of its conditions that fit.

    An event that a handler would handle is never kept back, and more may pass: the worker
    looks at all that comes. Kept back is also a body that is JSON and no object.
    """
    data: dict[str, Any] = {}
    combinations, count = 1, 0
    for path, values in wants.fields if wants is not None else ():
        # SNS counts a value the more the deeper it lies: a field of the body is on the third level.
        grown = combinations * (len(values) + 1) * (len(path) + 2)
        if count == MOST_FIELDS or grown > MOST_COMBINATIONS or not all(map(_is_comparable, values)):
            continue
        combinations, count = grown, count + 1
        *above, field = path
        place = data
        for name in above:
            place = place.setdefault(name, {})
        place[field] = [*map(_compared, values), ABSENT]
    return json.dumps({"$or": [{DATA: data}, *BESIDES]}) if data else NOTHING


def _is_comparable(value: Value) -> bool:
    """Whether SNS says of a value what JSON says: fractions it rounds."""
    if isinstance(value, float):
        return math.isfinite(value) and value.is_integer() and abs(value) <= LARGEST_NUMBER
    return not isinstance(value, int) or abs(value) <= LARGEST_NUMBER


def _compared(value: Value) -> object:
    # Written bare, 1 and 1.0 would be two values.
    return {"numeric": ["=", int(value)]} if isinstance(value, (int, float)) and not isinstance(value, bool) else value


async def have_filtered(sns: AwsService, subscription: str, group: str, policy: str, *, known: bool) -> None:
    """Have a subscription deliver what a policy says; one that somebody else has set stays as it is.

    Where SNS takes none, everything is delivered and the log says so; where one of ours
    that is `known` to be there may keep back what is wanted now, and cannot be changed,
    that is a BrokerError.
    """
    try:
        answer = await sns.call("get_subscription_attributes", SubscriptionArn=subscription)
    except BrokerUnavailableError:
        raise
    except BrokerError as error:
        if known:
            raise BrokerError(f"group {group!r}: whether SNS keeps back what it wants cannot be seen. {error}") from error
        log.warning("group %s: SNS delivers everything, and the worker skips what is not wanted: %s", group, error)
        return
    attributes: dict[str, str] = answer.get("Attributes") or {}
    before = attributes.get(POLICY) or NOTHING
    if json.loads(before) == json.loads(policy):
        return
    if before != NOTHING and not _is_ours(before, attributes.get(SCOPE, "")):
        if policy != NOTHING:
            log.warning("group %s: its subscription has a filter policy of somebody else's, which stays as it is", group)
        return
    try:
        if policy != NOTHING:
            await sns.call("set_subscription_attributes", SubscriptionArn=subscription, AttributeName=SCOPE, AttributeValue="MessageBody")
        await sns.call("set_subscription_attributes", SubscriptionArn=subscription, AttributeName=POLICY, AttributeValue=policy)
    except BrokerUnavailableError:
        raise
    except BrokerError as error:
        if before != NOTHING:
            raise BrokerError(
                f"group {group!r}: SNS keeps back what another version of its filter did not want, and cannot be told of this one. {error}"
            ) from error
        log.warning("group %s: SNS delivers everything, and the worker skips what is not wanted: %s", group, error)


def _is_ours(policy: str, scope: str) -> bool:
    document: object = json.loads(policy)
    alternatives = cast("dict[str, Any]", document).get("$or") if isinstance(document, dict) else None
    return scope == "MessageBody" and isinstance(alternatives, list) and list(BESIDES) == cast("list[Any]", alternatives)[1:]
