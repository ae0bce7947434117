"""SNS for a server that has none: topics and subscriptions in this process, and what is published goes to real queues."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from millstream.brokers.aws_client import AwsClients, AwsService, MissingError
from millstream.brokers.aws_settings import AwsSettings
from millstream.contracts.errors import BrokerError

ACCOUNT = "000000000000"
#: Of all brokers of this process, by endpoint and name, as a server would remember it.
TOPICS: dict[tuple[str, str], "Fanout"] = {}


class Fanout:
    """A topic: its tags, and the URLs of the queues that get what is published."""

    def __init__(self, tags: list[dict[str, str]]) -> None:
        self.tags = tags
        self.queues: dict[str, str] = {}


class SnsInProcess:
    """What `AwsService` is for SNS, as far as the broker uses it."""

    def __init__(self, endpoint: str, sqs: AwsService) -> None:
        self._endpoint, self._sqs = endpoint, sqs

    async def call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        return await getattr(self, operation)(**arguments)

    async def pages(self, operation: str, result: str, **arguments: Any) -> AsyncGenerator[Any]:
        for item in (await self.call(operation, **arguments))[result]:
            yield item

    def _topic(self, arn: str) -> Fanout:
        try:
            return TOPICS[self._endpoint, arn]
        except KeyError as error:
            raise MissingError(f"there is no topic {arn}") from error

    async def create_topic(self, Name: str, Attributes: Any = None, Tags: Any = ()) -> dict[str, Any]:  # noqa: N803
        arn = f"arn:aws:sns:us-east-1:{ACCOUNT}:{Name}"
        TOPICS.setdefault((self._endpoint, arn), Fanout(list(Tags)))
        return {"TopicArn": arn}

    async def list_tags_for_resource(self, ResourceArn: str) -> dict[str, Any]:  # noqa: N803
        return {"Tags": self._topic(ResourceArn).tags}

    async def list_topics(self) -> dict[str, Any]:
        return {"Topics": [{"TopicArn": arn} for endpoint, arn in TOPICS if endpoint == self._endpoint]}

    async def subscribe(self, TopicArn: str, Endpoint: str, **_others: Any) -> dict[str, Any]:  # noqa: N803
        url = (await self._sqs.call("get_queue_url", QueueName=Endpoint.rpartition(":")[2]))["QueueUrl"]
        self._topic(TopicArn).queues[Endpoint] = url
        return {"SubscriptionArn": f"{TopicArn}:{Endpoint}"}

    async def list_subscriptions_by_topic(self, TopicArn: str) -> dict[str, Any]:  # noqa: N803
        found = self._topic(TopicArn).queues
        return {"Subscriptions": [{"Endpoint": queue, "SubscriptionArn": f"{TopicArn}:{queue}"} for queue in found]}

    async def get_subscription_attributes(self, SubscriptionArn: str) -> dict[str, Any]:  # noqa: N803
        return {"Attributes": {}}

    async def set_subscription_attributes(self, SubscriptionArn: str, AttributeName: str, AttributeValue: str) -> dict[str, Any]:  # noqa: N803
        raise BrokerError("it takes no filter policy")

    async def unsubscribe(self, SubscriptionArn: str) -> dict[str, Any]:  # noqa: N803
        topic, _, queue = SubscriptionArn.partition(":arn:aws:sqs")
        self._topic(topic).queues.pop(f"arn:aws:sqs{queue}", None)
        return {}

    async def publish(self, TopicArn: str, **entry: Any) -> dict[str, Any]:  # noqa: N803
        return await self.publish_batch(TopicArn, [{"Id": "0", **entry}])

    async def publish_batch(self, TopicArn: str, PublishBatchRequestEntries: Any) -> dict[str, Any]:  # noqa: N803
        entries = [
            {("MessageBody" if name == "Message" else name): value for name, value in entry.items()} for entry in PublishBatchRequestEntries
        ]
        queues = tuple(self._topic(TopicArn).queues.values())
        answers = await asyncio.gather(*(self._sqs.call("send_message_batch", QueueUrl=url, Entries=entries) for url in queues))
        failed = {entry["Id"]: entry for answer in answers for entry in answer.get("Failed") or ()}
        return {
            "Successful": [{"Id": entry["Id"]} for entry in entries if entry["Id"] not in failed],
            "Failed": list(failed.values()),
        }


class WithoutSns(AwsClients):
    """The clients of a server that has SQS alone."""

    def __init__(self, settings: AwsSettings) -> None:
        super().__init__(settings)
        self._endpoint = settings.endpoint or ""

    async def open(self) -> "WithoutSns":
        await super().open()
        self.sns = SnsInProcess(self._endpoint, self.sqs)  # type: ignore[assignment]
        return self
