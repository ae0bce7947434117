"""What SNS is told of `where=`: policies of subscriptions, on every server that stands in for it."""

import json
import logging
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from tests.brokers.aws_server import MINISTACK, MOTO, aws_url
from tests.brokers.test_aws_groups import clients, event_of, taken, unique

from millstream.brokers.aws import AwsBroker
from millstream.brokers.aws_filter import BESIDES, MOST_COMBINATIONS, MOST_FIELDS, policy_of
from millstream.contracts.errors import BrokerError
from millstream.core.broker import Group, Message, Topic
from millstream.core.filter import Filter, filter_of
from millstream.testing.broker_ground import Member

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
#: moto takes four values and no more, since it multiplies alternatives, too.
EVEN = filter_of({"number": [0, 2, 4, 6]}, None)
SMALL_EVEN = filter_of({"number": [0, 2]}, None)


@pytest.fixture(params=[MINISTACK, MOTO])
async def broker(request: pytest.FixtureRequest) -> AsyncGenerator[AwsBroker]:
    async with AwsBroker(aws_url(request.param)) as broker:
        yield broker


@pytest.fixture
async def ministack() -> AsyncGenerator[AwsBroker]:
    """The one that applies policies to bodies as SNS does: moto takes their alternatives for conditions on attributes."""
    async with AwsBroker(aws_url()) as broker:
        yield broker


async def declared(broker: AwsBroker, wanted: Filter | None) -> tuple[str, str]:
    topic, group = unique("made"), unique("group")
    await broker.declare([Topic(name=topic)], [Group(name=group, topics=(topic,), wants={topic: wanted})])
    return topic, group


async def arrived(broker: AwsBroker, group: str) -> int:
    """How many messages lie in a group's queue."""
    (state,) = await broker.positions(group)
    assert state.waiting is not None
    return state.waiting.value or 0


async def subscription(broker: AwsBroker, topic: str) -> tuple[str, dict[str, str]]:
    """The only subscription of a topic, and its attributes."""
    sns: Any = clients(broker).sns
    arn = await broker._topology.topic(topic)  # pyright: ignore[reportPrivateUsage]
    (found,) = [one async for one in sns.pages("list_subscriptions_by_topic", "Subscriptions", TopicArn=arn)]
    answer = await sns.call("get_subscription_attributes", SubscriptionArn=found["SubscriptionArn"])
    return found["SubscriptionArn"], answer["Attributes"]


async def test_what_is_not_wanted_never_reaches_the_queue(ministack: AwsBroker) -> None:
    topic, group = await declared(ministack, EVEN)

    await ministack.publish([event_of(topic, number) for number in range(10)])

    assert await arrived(ministack, group) == 4
    member = Member(await ministack.open(group, "m"))
    assert sorted(d.envelope.id for d in await taken(member, 4) if d.envelope) == sorted(f"{topic}-{n}" for n in (0, 2, 4, 6))
    await member.close()


async def test_what_sns_cannot_look_into_is_delivered(ministack: AwsBroker) -> None:
    """A body that is no JSON, and what is no event: whoever handles them has the last word."""
    topic, group = await declared(ministack, EVEN)

    await ministack.publish([event_of(topic, 1, data=b"\xffno JSON"), event_of(topic, 3)])
    await ministack.publish_raw([Message(topic=topic, body=b'{"number": 3}', key=b"k")])

    member = Member(await ministack.open(group, "m"))
    bodies = [d.envelope.data if d.envelope else d.message.body if d.message else b"" for d in await taken(member, 2)]
    assert sorted(bodies) == [b'{"number": 3}', b"\xffno JSON"]
    assert await arrived(ministack, group) == 0
    await member.close()


async def test_a_filter_that_changes_is_followed_and_one_that_goes_is_removed(broker: AwsBroker) -> None:
    topic, group = await declared(broker, EVEN)
    before, _ = await subscription(broker, topic)

    for wanted, policy in ((SMALL_EVEN, policy_of(SMALL_EVEN)), (EVEN, policy_of(EVEN)), (None, "{}")):
        await broker.declare([], [Group(name=group, topics=(topic,), wants={topic: wanted})])
        after, attributes = await subscription(broker, topic)
        assert after == before
        assert json.loads(attributes.get("FilterPolicy") or "{}") == json.loads(policy)

    await broker.publish([event_of(topic, number) for number in range(4)])
    assert await arrived(broker, group) == 4


async def test_who_says_nothing_of_filters_changes_none(broker: AwsBroker) -> None:
    """A bridge, or an operator's command, declares a group that a service has declared."""
    topic, group = await declared(broker, EVEN)

    await broker.declare([], [Group(name=group, topics=(topic,))])

    _, attributes = await subscription(broker, topic)
    assert json.loads(attributes["FilterPolicy"]) == json.loads(policy_of(EVEN))


async def test_a_policy_of_somebody_else_stays_as_it_is(broker: AwsBroker, caplog: pytest.LogCaptureFixture) -> None:
    topic, group = await declared(broker, None)
    arn, _ = await subscription(broker, topic)
    theirs = '{"type": ["made"]}'
    await clients(broker).sns.call("set_subscription_attributes", SubscriptionArn=arn, AttributeName="FilterPolicy", AttributeValue=theirs)

    with caplog.at_level(logging.WARNING):
        for wanted in (EVEN, None):
            await broker.declare([], [Group(name=group, topics=(topic,), wants={topic: wanted})])

    _, attributes = await subscription(broker, topic)
    assert json.loads(attributes["FilterPolicy"]) == json.loads(theirs)
    assert [record.message for record in caplog.records if group in record.message] == [
        f"group {group}: its subscription has a filter policy of somebody else's, which stays as it is"
    ]


async def test_where_sns_takes_no_policy_the_worker_filters_alone(
    broker: AwsBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Too many policies, or no right to set one: everything arrives, and the log says why."""
    sns: Any = clients(broker).sns
    call = sns.call

    async def refused(operation: str, **arguments: Any) -> Any:
        if operation == "set_subscription_attributes":
            raise BrokerError("FilterPolicyLimitExceeded")
        return await call(operation, **arguments)

    monkeypatch.setattr(sns, "call", refused)
    with caplog.at_level(logging.WARNING):
        topic, group = await declared(broker, EVEN)

    await broker.publish([event_of(topic, number) for number in range(4)])
    assert await arrived(broker, group) == 4
    assert "FilterPolicyLimitExceeded" in caplog.text


# Policies, which need no server


@pytest.mark.parametrize(
    ("where", "wants"),
    [
        ({"currency": "EUR"}, {"currency": ["EUR"]}),
        ({"customer.country": ["DE", "CH"]}, {"customer": {"country": ["DE", "CH"]}}),
        ({"customer.country": "DE", "customer.vip": True}, {"customer": {"country": ["DE"], "vip": [True]}}),
        ({"count": 3}, {"count": [{"numeric": ["=", 3]}]}),
        ({"count": 3.0}, {"count": [{"numeric": ["=", 3]}]}),
        ({"price": 2.5, "currency": "EUR"}, {"currency": ["EUR"]}),
    ],
)
def test_sns_is_told_what_it_compares_as_json_does(where: Any, wants: object) -> None:
    assert json.loads(policy_of(filter_of(where, None))) == {"$or": [{"data": wants}, *BESIDES]}


@pytest.mark.parametrize("where", [{"price": 2.5}, {"count": 10**12}, {"price": float("inf")}, {"count": [1, 2.5]}])
def test_of_what_it_compares_otherwise_sns_is_told_nothing(where: Any) -> None:
    assert policy_of(filter_of(where, None)) == "{}"


def test_a_filter_beyond_what_sns_takes_is_told_in_part() -> None:
    """What is left out lets more through, and the worker skips it."""
    six = json.loads(policy_of(filter_of({f"f{n}": True for n in range(6)}, None)))
    many = json.loads(policy_of(filter_of({"currency": [str(n) for n in range(MOST_COMBINATIONS)], "paid": True}, None)))
    assert len(six["$or"][0]["data"]) == MOST_FIELDS
    assert many["$or"][0]["data"] == {"paid": [True]}
