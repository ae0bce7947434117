"""Filter policies of SNS subscriptions: what a group does not want never reaches its queue."""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from millstream.brokers.aws_client import AwsService
from millstream.brokers.aws_names import FILTER_TAG
from millstream.contracts.errors import BrokerError, BrokerUnavailableError, MillstreamError
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
#: compares numbers up to this one,
LARGEST_NUMBER = 1_000_000_000
#: and has words of its own, which in some places of a policy are no names of fields.
OPERATORS = {"anything-but", "cidr", "equals-ignore-case", "exists", "numeric", "prefix", "suffix", "wildcard"}


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
        comparable = all(map(_is_name, path)) and all(map(_is_comparable, values))
        if count == MOST_FIELDS or grown > MOST_COMBINATIONS or not comparable:
            continue
        combinations, count = grown, count + 1
        *above, field = path
        place = data
        for name in above:
            place = place.setdefault(name, {})
        place[field] = [*map(_compared, values), ABSENT]
    return json.dumps({"$or": [{DATA: data}, *BESIDES]}) if data else NOTHING


def _is_name(name: str) -> bool:
    """Whether a name of a field is that to SNS, too: a dot may lead deeper, and a dollar begin an operator."""
    return name.replace("-", "_").isidentifier() and name not in OPERATORS


def _is_comparable(value: Value) -> bool:
    """Whether SNS says of a value what JSON says: fractions it rounds, an empty text may be none, and of some it wants two escapes."""
    if isinstance(value, str):
        return value.isprintable() and not {'"', "\\"} & {*value} and value != ""
    if isinstance(value, float):
        return math.isfinite(value) and value.is_integer() and abs(value) <= LARGEST_NUMBER
    return abs(value) <= LARGEST_NUMBER


def _compared(value: Value) -> object:
    # Written bare, 1 and 1.0 would be two values.
    return {"numeric": ["=", int(value)]} if isinstance(value, (int, float)) and not isinstance(value, bool) else value


@dataclass(slots=True)
class _Told:
    """What a group wants of a topic, and where SNS is told of it."""

    group: str
    queue: str
    subscription: str
    policy: str
    tagged: bool = False
    """Whether SNS may have a policy of ours, which this or another process has set."""
    said: str = ""
    """What the log says of it: once, and not once a minute."""

    def say(self, what: str) -> None:
        if what != self.said:
            log.warning("%s", what)
        self.said = what


class AwsFilters:
    """What SNS is told of the groups that are declared here."""

    def __init__(self, sns: AwsService, sqs: AwsService) -> None:
        self._sns, self._sqs = sns, sqs
        self._told: dict[tuple[str, str], _Told] = {}
        """By group and topic."""

    async def tell(self, group: str, topic: str, queue: str, subscription: str, wants: Wants | None) -> None:
        """Have a subscription deliver what a group wants of a topic; a policy that somebody else has set stays as it is.

        Where SNS takes none, everything is delivered and the log says so; where one of ours
        may keep back what is wanted now, and cannot be changed, that is a BrokerError.
        """
        told = _Told(group, queue, subscription, policy_of(wants))
        await self._tell(told)
        self._told[group, topic] = told

    async def tell_again(self) -> None:
        """Another version of a service may have told SNS otherwise when it was started last; those that run have the last word."""
        for told in list(self._told.values()):
            try:
                await self._tell(told)
            except MillstreamError as error:
                told.say(f"SNS was not told again what it is to deliver: {error}")

    def forget(self, group: str) -> None:
        """Tell nothing of it any more."""
        self._told = {key: told for key, told in self._told.items() if told.group != group}

    async def _tell(self, told: _Told) -> None:
        # What was read before may have changed: another version of the service may have been started since.
        told.tagged = told.tagged or FILTER_TAG in await self._tags(told.queue)
        if not told.tagged and told.policy == NOTHING:
            return
        try:
            answer = await self._sns.call("get_subscription_attributes", SubscriptionArn=told.subscription)
        except BrokerUnavailableError:
            raise
        except BrokerError as error:
            if told.tagged:
                raise BrokerError(f"group {told.group!r}: whether SNS keeps back what it wants cannot be seen. {error}") from error
            told.say(f"group {told.group}: SNS delivers everything, and the worker skips what is not wanted: {error}")
            return
        attributes: dict[str, str] = answer.get("Attributes") or {}
        before = attributes.get(POLICY) or NOTHING
        if before != NOTHING and not _is_ours(before, attributes.get(SCOPE, "")):
            if told.policy != NOTHING:
                told.say(f"group {told.group}: its subscription has a filter policy of somebody else's, which stays as it is")
            return
        if not told.tagged:
            # Before there is one: whoever runs without a filter has to know where to look.
            await self._sqs.call("tag_queue", QueueUrl=told.queue, Tags={FILTER_TAG: "1"})
            told.tagged = True
        if json.loads(before) == json.loads(told.policy) or await self._set(told, before):
            told.said = ""

    async def _set(self, told: _Told, before: str) -> bool:
        """Whether SNS took the policy."""
        try:
            if told.policy != NOTHING:
                await self._write(told, SCOPE, "MessageBody")
            await self._write(told, POLICY, told.policy)
        except BrokerUnavailableError:
            raise
        except BrokerError as error:
            if before != NOTHING:
                raise BrokerError(
                    f"group {told.group!r}: SNS keeps back what another version of its filter did not want, and cannot be told of this "
                    f"one. {error}"
                ) from error
            told.say(f"group {told.group}: SNS delivers everything, and the worker skips what is not wanted: {error}")
            return False
        return True

    async def _write(self, told: _Told, name: str, value: str) -> None:
        await self._sns.call("set_subscription_attributes", SubscriptionArn=told.subscription, AttributeName=name, AttributeValue=value)

    async def _tags(self, queue: str) -> Mapping[str, str]:
        return (await self._sqs.call("list_queue_tags", QueueUrl=queue)).get("Tags") or {}


def _is_ours(policy: str, scope: str) -> bool:
    document: object = json.loads(policy)
    alternatives = cast("dict[str, Any]", document).get("$or") if isinstance(document, dict) else None
    return scope == "MessageBody" and isinstance(alternatives, list) and list(BESIDES) == cast("list[Any]", alternatives)[1:]
