"""What SNS is told of `where=`: policies of subscriptions, on every server that stands in for it."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from tests.brokers.aws_server import MINISTACK, MOTO, aws_url
from tests.brokers.test_aws_groups import clients, event_of, taken, unique

from millstream.brokers.aws import AwsBroker
from millstream.brokers.aws_filter import policy_of
from millstream.brokers.aws_names import FILTER_TAG
from millstream.contracts.errors import BrokerError
from millstream.core.broker import Group, Message, Topic
from millstream.core.filter import Wants
from millstream.testing.broker_ground import Member

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
#: moto takes three values and no more, since it multiplies alternatives, too.
EVEN = Wants(((("number",), (0, 2, 4)),))
SMALL_EVEN = Wants(((("number",), (0, 2)),))


@pytest.fixture(params=[MINISTACK, MOTO])
async def broker(request: pytest.FixtureRequest) -> AsyncGenerator[AwsBroker]:
    async with AwsBroker(aws_url(request.param)) as broker:
        yield broker


async def declared(broker: AwsBroker, wanted: Wants | None) -> tuple[str, str]:
    topic, group = unique("made"), unique("group")
    await broker.declare([Topic(name=topic)], [Group(name=group, topics=(topic,), wants=((topic, wanted),))])
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

    assert await arrived(ministack, group) == 3
    member = Member(await ministack.open(group, "m"))
    assert sorted(d.envelope.id for d in await taken(member, 3) if d.envelope) == sorted(f"{topic}-{n}" for n in (0, 2, 4))
    await member.close()


async def test_what_sns_cannot_look_into_is_delivered(ministack: AwsBroker) -> None:
    """A body that is no JSON, one that leaves the field to its default, and what is no event: whoever handles them has the last word."""
    topic, group = await declared(ministack, EVEN)

    await ministack.publish([event_of(topic, 1, data=b"\xffno JSON"), event_of(topic, 2, data=b'{"other":1}'), event_of(topic, 3)])
    await ministack.publish_raw([Message(topic=topic, body=b'{"number": 3}', key=b"k")])

    member = Member(await ministack.open(group, "m"))
    bodies = [d.envelope.data if d.envelope else d.message.body if d.message else b"" for d in await taken(member, 3)]
    assert sorted(bodies) == [b'{"number": 3}', b'{"other":1}', b"\xffno JSON"]
    assert await arrived(ministack, group) == 0
    await member.close()


async def test_a_filter_that_changes_is_followed_and_one_that_goes_is_removed(broker: AwsBroker) -> None:
    topic, group = await declared(broker, EVEN)
    before, _ = await subscription(broker, topic)

    for wanted, policy in ((SMALL_EVEN, policy_of(SMALL_EVEN)), (EVEN, policy_of(EVEN)), (None, "{}")):
        await broker.declare([], [Group(name=group, topics=(topic,), wants=((topic, wanted),))])
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
            await broker.declare([], [Group(name=group, topics=(topic,), wants=((topic, wanted),))])

    _, attributes = await subscription(broker, topic)
    assert json.loads(attributes["FilterPolicy"]) == json.loads(theirs)
    assert [record.message for record in caplog.records if group in record.message] == [
        f"group {group}: its subscription has a filter policy of somebody else's, which stays as it is"
    ]


def refusing(broker: AwsBroker, monkeypatch: pytest.MonkeyPatch, *operations: str) -> None:
    """Have SNS refuse some operations, and do the others."""
    sns: Any = clients(broker).sns
    call = sns.call

    async def refused(operation: str, **arguments: Any) -> Any:
        if operation in operations:
            raise BrokerError(f"{operation} is refused")
        return await call(operation, **arguments)

    monkeypatch.setattr(sns, "call", refused)


@pytest.mark.parametrize("operation", ["get_subscription_attributes", "set_subscription_attributes"])
async def test_where_sns_takes_no_policy_the_worker_filters_alone(
    ministack: AwsBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, operation: str
) -> None:
    """Too many policies, or no right to set one: everything arrives, and the log says why."""
    refusing(ministack, monkeypatch, operation)
    with caplog.at_level(logging.WARNING):
        topic, group = await declared(ministack, EVEN)

    await ministack.publish([event_of(topic, number) for number in range(4)])
    assert await arrived(ministack, group) == 4
    assert f"{operation} is refused" in caplog.text


@pytest.mark.parametrize("operation", ["get_subscription_attributes", "set_subscription_attributes"])
@pytest.mark.parametrize("wanted", [EVEN, None])
async def test_a_policy_that_keeps_back_what_is_wanted_now_is_an_error(
    ministack: AwsBroker, monkeypatch: pytest.MonkeyPatch, operation: str, wanted: Wants | None
) -> None:
    """It was set by another version of the service, and cannot be changed, or not even be seen: to go on would lose events in silence."""
    topic, group = await declared(ministack, SMALL_EVEN)
    refusing(ministack, monkeypatch, operation)

    async with AwsBroker(aws_url()) as another:
        monkeypatch.setattr(clients(another).sns, "call", clients(ministack).sns.call)
        with pytest.raises(BrokerError, match=f"{group}.*{operation} is refused"):
            await another.declare([], [Group(name=group, topics=(topic,), wants=((topic, wanted),))])


@pytest.mark.parametrize("operation", ["get_subscription_attributes", "set_subscription_attributes"])
async def test_where_sns_takes_no_policy_a_service_starts_every_time_and_the_log_says_so_once(
    ministack: AwsBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, operation: str
) -> None:
    """Nothing that it left behind at its first start makes the second one fail."""
    refusing(ministack, monkeypatch, operation)
    topic, group = await declared(ministack, EVEN)
    caplog.clear()

    async with AwsBroker(aws_url()) as again:
        monkeypatch.setattr(clients(again).sns, "call", clients(ministack).sns.call)
        with caplog.at_level(logging.WARNING):
            await again.declare([], [Group(name=group, topics=(topic,), wants=((topic, EVEN),))])
            for _ in range(3):
                await again._topology.filters.tell_again()  # pyright: ignore[reportPrivateUsage]

    assert [record.message.partition(":")[0] for record in caplog.records if group in record.message] == [f"group {group}"]


async def test_a_policy_is_marked_before_it_is_there(ministack: AwsBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies between the two leaves a mark without a policy, and never a policy that nobody looks for."""
    refusing(ministack, monkeypatch, "set_subscription_attributes")
    topic, group = await declared(ministack, EVEN)
    (queue,) = (await ministack._topology.group(group)).values()  # pyright: ignore[reportPrivateUsage]

    assert FILTER_TAG in (await clients(ministack).sqs.call("list_queue_tags", QueueUrl=queue.url))["Tags"]
    assert not (await subscription(ministack, topic))[1].get("FilterPolicy")


async def test_a_service_without_filters_asks_sns_for_none(ministack: AwsBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs no right to."""
    refusing(ministack, monkeypatch, "get_subscription_attributes", "set_subscription_attributes")
    topic, group = await declared(ministack, None)
    await ministack._topology.filters.tell_again()  # pyright: ignore[reportPrivateUsage]
    await ministack.publish([event_of(topic)])
    assert await arrived(ministack, group) == 1


@pytest.mark.parametrize(("wanted", "operation"), [(None, "list_queue_tags"), (EVEN, "get_subscription_attributes")])
async def test_to_look_again_costs_one_request(
    ministack: AwsBroker, monkeypatch: pytest.MonkeyPatch, wanted: Wants | None, operation: str
) -> None:
    await declared(ministack, wanted)
    asked: list[str] = []
    for service in (clients(ministack).sns, clients(ministack).sqs):

        async def noted(name: str, call: Any = service.call, **arguments: Any) -> Any:
            asked.append(name)
            return await call(name, **arguments)

        monkeypatch.setattr(service, "call", noted)

    await ministack._topology.filters.tell_again()  # pyright: ignore[reportPrivateUsage]

    assert asked == [operation]


@pytest.mark.parametrize("wanted", [EVEN, None])
async def test_those_that_run_have_the_last_word(ministack: AwsBroker, monkeypatch: pytest.MonkeyPatch, wanted: Wants | None) -> None:
    """Another version has narrowed the policy after they were started: once it is gone it is as they want it, filter or none."""
    monkeypatch.setattr("millstream.brokers.aws.LOOK", 0.05)
    topic, group = await declared(ministack, wanted)
    async with AwsBroker(aws_url()) as other:
        await other.declare([], [Group(name=group, topics=(topic,), wants=((topic, SMALL_EVEN),))])

    async def policy() -> object:
        _, attributes = await subscription(ministack, topic)
        return json.loads(attributes.get("FilterPolicy") or "{}")

    async with asyncio.timeout(30):
        while await policy() != json.loads(policy_of(wanted)):  # noqa: ASYNC110 - SNS tells nobody that it was told something
            await asyncio.sleep(0.02)


async def test_who_declares_again_sees_what_another_version_has_set_meanwhile(ministack: AwsBroker) -> None:
    """What it remembers of its own queues is older."""
    topic, group = await declared(ministack, None)
    async with AwsBroker(aws_url()) as other:
        await other.declare([], [Group(name=group, topics=(topic,), wants=((topic, EVEN),))])

    await ministack.declare([], [Group(name=group, topics=(topic,), wants=((topic, None),))])

    _, attributes = await subscription(ministack, topic)
    assert (attributes.get("FilterPolicy") or "{}") == "{}"


async def test_a_group_that_is_forgotten_is_told_of_no_more(ministack: AwsBroker, caplog: pytest.LogCaptureFixture) -> None:
    """Its subscription is gone; the others' are as they were."""
    _, group = await declared(ministack, EVEN)
    second, _ = await declared(ministack, EVEN)
    await ministack.forget(group)
    arn, _ = await subscription(ministack, second)
    await clients(ministack).sns.call("set_subscription_attributes", SubscriptionArn=arn, AttributeName="FilterPolicy", AttributeValue="{}")

    with caplog.at_level(logging.WARNING):
        await ministack._topology.filters.tell_again()  # pyright: ignore[reportPrivateUsage]

    _, attributes = await subscription(ministack, second)
    assert json.loads(attributes["FilterPolicy"]) == json.loads(policy_of(EVEN))
    assert group not in caplog.text


async def test_a_subscription_that_is_there_with_a_policy_is_found(ministack: AwsBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Amazon's own SNS says that it exists with other attributes; one without raw delivery is not taken for ours."""
    topic, group = await declared(ministack, EVEN)
    sns: Any = clients(ministack).sns
    call, raw = sns.call, "true"

    async def exists(operation: str, **arguments: Any) -> Any:
        if operation == "subscribe":
            raise BrokerError("InvalidParameter: Attributes Reason: Subscription already exists with different attributes")
        answer = await call(operation, **arguments)
        if operation == "get_subscription_attributes":
            answer["Attributes"]["RawMessageDelivery"] = raw
        return answer

    monkeypatch.setattr(sns, "call", exists)
    await ministack.declare([], [Group(name=group, topics=(topic,), wants=((topic, SMALL_EVEN),))])
    _, attributes = await subscription(ministack, topic)
    assert json.loads(attributes["FilterPolicy"]) == json.loads(policy_of(SMALL_EVEN))

    raw = "false"
    with pytest.raises(BrokerError, match="different attributes"):
        await ministack.declare([], [Group(name=group, topics=(topic,), wants=((topic, SMALL_EVEN),))])
