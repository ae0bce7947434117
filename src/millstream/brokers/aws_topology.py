"""Topics of SNS and queues of SQS: made, verified, found again."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from millstream.brokers.aws_attributes import attributes_of, verify_attributes
from millstream.brokers.aws_client import AwsService, MissingError
from millstream.brokers.aws_filter import AwsFilters
from millstream.brokers.aws_names import GROUP_TAG, STORE_TAG, TOPIC_TAG, AwsNames, from_tag, to_tag
from millstream.brokers.aws_settings import AwsSettings
from millstream.contracts.errors import BrokerError, BrokerUnavailableError, ConfigurationError, StoreMismatchError
from millstream.core.broker import Group

log = logging.getLogger("millstream.aws")

T = TypeVar("T")

#: A queue that was deleted can be made again after a minute.
AGAIN = 70.0
#: Requests of one kind at the same time.
AT_ONCE = 10


@dataclass(frozen=True, slots=True)
class Queue:
    """A group's share of a topic."""

    url: str
    group: str
    topic: str
    store: str | None = None


class AwsTopology:
    """What there is on AWS, as far as it is ours."""

    def __init__(self, settings: AwsSettings, names: AwsNames, sns: AwsService, sqs: AwsService) -> None:
        self._settings = settings
        self._names = names
        self._sns, self._sqs = sns, sqs
        self._arns: dict[str, str] = {}
        self._queues: dict[str, dict[str, Queue]] = {}
        """Of the groups that were declared here, which a list may not show yet."""
        self.filters = AwsFilters(sns, sqs)
        self._making = asyncio.Lock()

    # Topics

    async def topic(self, topic: str) -> str:
        """The ARN of a topic, which is made if it is not there."""
        arn = self._arns.get(topic)
        if arn is None:
            async with self._making:
                arn = self._arns.get(topic) or await self._make_topic(topic)
        return arn

    async def _make_topic(self, topic: str) -> str:
        tag, name = to_tag("topic", topic), self._names.topic(topic)
        attributes = {"FifoTopic": "true", "FifoThroughputScope": "MessageGroup"} if self._settings.fifo else {}
        try:
            # In one step, so that of two who make it at the same time the second sees whose it is.
            answer = await self._sns.call("create_topic", Name=name, Attributes=attributes, Tags=[{"Key": TOPIC_TAG, "Value": tag}])
        except BrokerUnavailableError:
            raise
        except BrokerError:
            # It is there, with other tags or attributes; its tags tell whether it is this one all the same.
            answer = await self._sns.call("create_topic", Name=name, Attributes={"FifoTopic": "true"} if self._settings.fifo else {})
        arn = str(answer["TopicArn"])
        theirs = (await self._topic_tags(arn)).get(TOPIC_TAG)
        if theirs is None:
            await self._sns.call("tag_resource", ResourceArn=arn, Tags=[{"Key": TOPIC_TAG, "Value": tag}])
        elif theirs != tag:
            raise ConfigurationError(
                f"topic {topic!r} would be {name} on AWS, and that is {from_tag(theirs)!r} already: their events would be mixed. "
                "Rename one of them."
            )
        self._arns[topic] = arn
        return arn

    async def _topic_tags(self, arn: str) -> Mapping[str, str]:
        answer = await self._sns.call("list_tags_for_resource", ResourceArn=arn)
        return {tag["Key"]: tag["Value"] for tag in answer.get("Tags") or ()}

    def forget_topic(self, topic: str) -> None:
        """Look again before it is used the next time."""
        self._arns.pop(topic, None)

    async def topics(self) -> Sequence[str]:
        """All of them, by their true names."""
        arns = [topic["TopicArn"] async for topic in self._sns.pages("list_topics", "Topics")]
        arns = [arn for arn in arns if self._names.ours(arn.rpartition(":")[2])]
        tags = await _gather(self._tags_or_none, arns)
        return sorted({from_tag(tag[TOPIC_TAG]) for tag in tags if TOPIC_TAG in tag} | self._arns.keys())

    async def _tags_or_none(self, arn: str) -> Mapping[str, str]:
        try:
            return await self._topic_tags(arn)
        except MissingError:
            return {}

    # Groups

    async def groups(self) -> Mapping[str, Mapping[str, Queue]]:
        """All queues, by group and topic."""
        found: dict[str, dict[str, Queue]] = {group: dict(queues) for group, queues in self._queues.items()}
        for queue in await self._find(self._names.prefix):
            found.setdefault(queue.group, {})[queue.topic] = queue
        return found

    async def group(self, group: str) -> Mapping[str, Queue]:
        """The queues of a group, by topic; none when it was not declared."""
        found = {queue.topic: queue for queue in await self._find(self._names.queues_of(group)) if queue.group == group}
        return found | self._queues.get(group, {})

    def forget_group(self, group: str) -> None:
        """Look again before it is opened the next time: somebody has removed a queue of it."""
        self._queues.pop(group, None)

    async def _find(self, prefix: str) -> list[Queue]:
        urls = [url async for url in self._sqs.pages("list_queues", "QueueUrls", QueueNamePrefix=prefix, MaxResults=1000)]
        urls = [url for url in urls if self._names.ours(url.rpartition("/")[2])]
        return [queue for queue in await _gather(self._queue, urls) if queue is not None]

    async def _queue(self, url: str) -> Queue | None:
        try:
            tags: Mapping[str, str] = (await self._sqs.call("list_queue_tags", QueueUrl=url)).get("Tags") or {}
        except MissingError:
            return None
        if GROUP_TAG not in tags or TOPIC_TAG not in tags:
            return None
        return Queue(url, from_tag(tags[GROUP_TAG]), from_tag(tags[TOPIC_TAG]), tags.get(STORE_TAG))

    async def declare(self, declared: Group) -> None:
        """Have a group's queues, subscribed to their topics."""
        group, topics, store = declared.name, declared.topics, declared.store
        known = await self.group(group)
        _verify_store(group, store, known)
        for topic in topics:
            arn = await self.topic(topic)
            queue = known.get(topic) or await self._make_queue(group, topic, store)
            _verify_store(group, store, {topic: queue})
            answer = await self._sqs.call("get_queue_attributes", QueueUrl=queue.url, AttributeNames=["All"])
            attributes: Mapping[str, str] = answer.get("Attributes") or {}
            verify_attributes(group, queue.url, attributes)
            subscription = await self._subscribe(arn, queue, has_policy=bool(attributes.get("Policy")))
            if declared.wants is not None:
                await self.filters.tell(group, topic, queue.url, subscription, dict(declared.wants).get(topic))
            self._queues.setdefault(group, {})[topic] = queue
        for topic, queue in {**known, **self._queues.get(group, {})}.items():
            if store is not None and queue.store is None:
                await self._sqs.call("tag_queue", QueueUrl=queue.url, Tags={STORE_TAG: store})
                self._queues.setdefault(group, {})[topic] = replace(queue, store=store)

    async def _make_queue(self, group: str, topic: str, store: str | None) -> Queue:
        name = self._names.queue(group, topic)
        url = await self._url(name)
        if url is None:
            tags = {GROUP_TAG: to_tag("group", group), TOPIC_TAG: to_tag("topic", topic)} | ({STORE_TAG: store} if store else {})
            url = await self._create(name, attributes_of(self._settings), tags)
        found = await self._queue(url)
        if found is None or (found.group, found.topic) != (group, topic):
            whose = f"topic {found.topic!r} for group {found.group!r}" if found else "nobody's that this Millstream knows"
            raise ConfigurationError(
                f"the queue of topic {topic!r} for group {group!r} would be {name} on AWS, and that is {whose}: their events would be "
                "mixed. Rename one of them."
            )
        return found

    async def make_ear(self, name: str, tags: Mapping[str, str], arn: str) -> str:
        """A queue of one process, for what everybody is told."""
        url = await self._create(name, attributes_of(self._settings) | {"MessageRetentionPeriod": "300"}, tags)
        await self._subscribe(arn, Queue(url, "", ""), has_policy=False)
        return url

    async def _create(self, name: str, attributes: Mapping[str, str], tags: Mapping[str, str]) -> str:
        deadline = asyncio.get_running_loop().time() + AGAIN
        while True:
            try:
                return str((await self._sqs.call("create_queue", QueueName=name, Attributes=attributes, tags=tags))["QueueUrl"])
            except BrokerUnavailableError as error:
                if "QueueDeletedRecently" not in str(error) or asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(2.0)

    async def _url(self, name: str) -> str | None:
        try:
            return str((await self._sqs.call("get_queue_url", QueueName=name))["QueueUrl"])
        except MissingError:
            return None

    async def _subscribe(self, topic_arn: str, queue: Queue, *, has_policy: bool) -> str:
        """Let this topic, and nobody else, write to the queue, unless somebody has said who may; gives the subscription."""
        arn = _queue_arn(topic_arn, queue.url)
        statement = {
            "Sid": "millstream", "Effect": "Allow", "Principal": {"Service": "sns.amazonaws.com"}, "Action": "sqs:SendMessage",
            "Resource": arn, "Condition": {"ArnEquals": {"aws:SourceArn": topic_arn}},
        }  # fmt: skip
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        if not has_policy:
            await self._sqs.call("set_queue_attributes", QueueUrl=queue.url, Attributes={"Policy": policy})
        try:
            answer = await self._sns.call(
                "subscribe", TopicArn=topic_arn, Protocol="sqs", Endpoint=arn, Attributes={"RawMessageDelivery": "true"},
                ReturnSubscriptionArn=True,
            )  # fmt: skip
            return str(answer["SubscriptionArn"])
        except BrokerUnavailableError:
            raise
        except BrokerError as error:
            # It is subscribed, and has a filter policy besides.
            if "different attributes" not in str(error):
                raise
            subscription = await self._subscription(topic_arn, arn)
            if not subscription:
                raise BrokerUnavailableError(f"the subscription of {arn} is there, and is not shown yet; start again") from error
            answer = await self._sns.call("get_subscription_attributes", SubscriptionArn=subscription)
            found: dict[str, str] = answer.get("Attributes") or {}
            if found.get("RawMessageDelivery") != "true":
                raise
            return subscription

    async def _subscription(self, topic_arn: str, endpoint: str) -> str:
        """The subscription of a queue; empty when there is none that a list shows yet."""
        async for subscription in self._sns.pages("list_subscriptions_by_topic", "Subscriptions", TopicArn=topic_arn):
            if subscription.get("Endpoint") == endpoint and str(subscription.get("SubscriptionArn", "")).startswith("arn:"):
                return str(subscription["SubscriptionArn"])
        return ""

    async def forget(self, group: str) -> None:
        """Remove a group's queues, and their subscriptions."""
        for topic, queue in (await self.group(group)).items():
            await self.remove_queue(await self.topic(topic), queue.url)
        self._queues.pop(group, None)
        self.filters.forget(group)

    async def remove_queue(self, topic_arn: str, url: str) -> None:
        """Unsubscribe a queue, and delete it."""
        subscription = await self._subscription(topic_arn, _queue_arn(topic_arn, url))
        if subscription:
            await self._sns.call("unsubscribe", SubscriptionArn=subscription)
        with contextlib.suppress(MissingError):
            await self._sqs.call("delete_queue", QueueUrl=url)


def _verify_store(group: str, store: str | None, queues: Mapping[str, Queue]) -> None:
    theirs = next((queue.store for queue in queues.values() if queue.store), None)
    if store and theirs and theirs != store:
        raise StoreMismatchError(
            f"group {group!r} keeps its progress in the store {theirs}, not in {store}: two stores would each think that they own it. "
            "Use the store it has, another group, or forget the group first."
        )


def _queue_arn(topic_arn: str, url: str) -> str:
    partition, region, account = (topic_arn.split(":")[part] for part in (1, 3, 4))
    return f"arn:{partition}:sqs:{region}:{account}:{url.rpartition('/')[2]}"


async def _gather(call: Callable[[str], Awaitable[T]], arguments: Sequence[str]) -> list[T]:
    """What becomes of all of them, a few at a time."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(argument: str) -> T:
        async with room:
            return await call(argument)

    return list(await asyncio.gather(*map(one, arguments)))
