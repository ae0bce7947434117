"""What every process is told: a topic, and a queue for each process that listens."""

import asyncio
import contextlib
import secrets
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence

from millstream.brokers.aws_client import AwsService
from millstream.brokers.aws_names import ALIVE_TAG, BROADCAST, FIFO, AwsNames
from millstream.brokers.aws_settings import AwsSettings
from millstream.brokers.aws_topology import AwsTopology
from millstream.contracts.errors import BrokerError, MillstreamError

#: So often a listener says that it lives, and so long after it last did its queue is swept, in seconds.
ALIVE_EVERY, SWEPT_AFTER = 600.0, 3600.0
#: SNS takes no message without a body.
EMPTY = "="
#: One message group: what is said first is heard first.
GROUP = "all"


class AwsBroadcast:
    """The topic, and the sweeping of queues whose process has died."""

    def __init__(self, settings: AwsSettings, names: AwsNames, topology: AwsTopology, sns: AwsService, sqs: AwsService) -> None:
        self._settings, self._names, self._topology = settings, names, topology
        self._sns, self._sqs = sns, sqs

    async def tell(self, body: bytes) -> None:
        entry = {"Message": b64encode(body).decode() or EMPTY}
        if self._settings.fifo:
            entry |= {"MessageGroupId": GROUP, "MessageDeduplicationId": secrets.token_hex(16)}
        await self._sns.call("publish", TopicArn=await self._topic(), **entry)

    async def listen(self, closed: Callable[["AwsListener"], None]) -> "AwsListener":
        arn = await self._topic()
        await self._sweep(arn)
        name = f"{self._names.ears()}{secrets.token_hex(8)}{FIFO if self._settings.fifo else ''}"
        url = await self._topology.make_ear(name, {ALIVE_TAG: str(int(time.time()))}, arn)
        return AwsListener(self._settings, self._sqs, url, lambda listener: self._end(listener, arn, closed))

    async def _topic(self) -> str:
        return await self._topology.topic(BROADCAST)

    async def _end(self, listener: "AwsListener", arn: str, closed: Callable[["AwsListener"], None]) -> None:
        closed(listener)
        await self._topology.remove_queue(arn, listener.url)

    async def _sweep(self, arn: str) -> None:
        """Remove the queues of processes that have died."""
        with contextlib.suppress(BrokerError):
            urls = [url async for url in self._sqs.pages("list_queues", "QueueUrls", QueueNamePrefix=self._names.ears(), MaxResults=1000)]
            for url in urls:
                tags: Mapping[str, str] = (await self._sqs.call("list_queue_tags", QueueUrl=url)).get("Tags") or {}
                if ALIVE_TAG in tags and int(tags[ALIVE_TAG]) < time.time() - SWEPT_AFTER:
                    await self._topology.remove_queue(arn, url)


class AwsListener:
    """One process's ear; see `core.broker.Listener`."""

    def __init__(self, settings: AwsSettings, sqs: AwsService, url: str, end: Callable[["AwsListener"], object]) -> None:
        self.url = url
        self._settings = settings
        self._sqs = sqs
        self._end = end
        self._heard: list[bytes] = []
        self._failure: MillstreamError | None = None
        self._something = asyncio.Event()
        self._listening = asyncio.create_task(self._listen())
        self._is_open = True

    async def _listen(self) -> None:
        said = asyncio.get_running_loop().time()
        try:
            while True:
                answer = await self._sqs.call(
                    "receive_message", QueueUrl=self.url, MaxNumberOfMessages=10, WaitTimeSeconds=self._settings.poll
                )
                messages = answer.get("Messages") or ()
                if messages:
                    for message in messages:
                        # What is no base64 is not ours.
                        with contextlib.suppress(ValueError):
                            self._heard.append(b64decode(message["Body"], validate=True) if message["Body"] != EMPTY else b"")
                    self._something.set()
                    entries = [{"Id": str(n), "ReceiptHandle": message["ReceiptHandle"]} for n, message in enumerate(messages)]
                    await self._sqs.call("delete_message_batch", QueueUrl=self.url, Entries=entries)
                if asyncio.get_running_loop().time() > said + ALIVE_EVERY:
                    said = asyncio.get_running_loop().time()
                    await self._sqs.call("tag_queue", QueueUrl=self.url, Tags={ALIVE_TAG: str(int(time.time()))})
        except MillstreamError as error:
            self._failure = error
            self._something.set()

    async def receive(self, wait: float) -> Sequence[bytes]:
        if not self._heard and wait > 0 and self._failure is None:
            self._something.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._something.wait()
        if self._failure is not None and not self._heard:
            raise self._failure
        heard, self._heard = self._heard, []
        return heard

    async def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listening
            ending = self._end(self)
            if asyncio.iscoroutine(ending):
                with contextlib.suppress(MillstreamError):
                    await ending
