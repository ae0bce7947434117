"""Publishing to SNS: full batches, at most one event of a key in each, since an entry may fail beside one that does not."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from millstream.brokers.aws_batches import AT_ONCE, MOST_ENTRIES
from millstream.brokers.aws_client import AwsService, said_failure
from millstream.brokers.aws_wire import MOST_BYTES, Entry
from millstream.contracts.errors import BrokerError, BrokerUnavailableError, MillstreamError

Outgoing = tuple[str, Entry]
"""The ARN of a topic, and what goes there."""
Result = MillstreamError | None


class _Call:
    """One call of `send`: its results, once all are there."""

    def __init__(self, count: int) -> None:
        self.results: list[Result] = [None] * count
        self.failed: set[tuple[str, str]] = set()
        """Topics and message groups of which something was refused: what comes after that is refused, too."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = count

    def settle(self, number: int, result: Result) -> None:
        self.results[number] = result
        self._left -= 1
        if not self._left and not self.done.done():
            self.done.set_result(None)


class _Item:
    __slots__ = ("call", "entry", "number", "size")

    def __init__(self, entry: Entry, call: _Call, number: int) -> None:
        self.entry, self.call, self.number = entry, call, number
        self.size = entry.size


class AwsPublisher:
    """Takes messages for all topics, and has a line for each."""

    def __init__(self, sns: AwsService, where: str, *, fifo: bool) -> None:
        self._sns = sns
        self._where = where
        self._fifo = fifo
        self._lines: dict[str, _Line] = {}

    async def send(self, items: Sequence[Outgoing | MillstreamError]) -> Sequence[Result]:
        """One result for each, in order; what is an error already stays one, and holds up what has its key."""
        if not items:
            return []
        call = _Call(len(items))
        touched: dict[str, _Line] = {}
        for number, item in enumerate(items):
            if isinstance(item, MillstreamError):
                call.settle(number, item)
                continue
            arn, entry = item
            line = self._lines.get(arn)
            if line is None:
                line = self._lines[arn] = _Line(self._sns, arn, self._where, fifo=self._fifo)
            line.put(_Item(entry, call, number))
            touched[arn] = line
        for line in touched.values():
            line.start()
        await call.done
        return call.results

    async def close(self) -> None:
        """Give up what is not acknowledged yet."""
        for line in self._lines.values():
            await line.close()
        self._lines.clear()


class _Line:
    """What waits for one topic: by message group, of which one event at a time is on its way."""

    def __init__(self, sns: AwsService, arn: str, where: str, *, fifo: bool) -> None:
        self._sns, self._arn, self._fifo = sns, arn, fifo
        self._doing = f"{where}: publishing to {arn.rpartition(':')[2]}"
        self._chains: dict[str, deque[_Item]] = {}
        self._ready: deque[deque[_Item]] = deque()
        self._running: set[asyncio.Task[None]] = set()

    def put(self, item: _Item) -> None:
        group = item.entry.group if self._fifo else item.entry.deduplication
        chain = self._chains.get(group)
        if chain is None:
            self._chains[group] = chain = deque((item,))
            self._ready.append(chain)
        else:
            chain.append(item)

    def start(self) -> None:
        """Begin another request when there is none, or when it will be full; the same goes for the next of one that has ended."""
        while self._ready and (not self._running or (len(self._ready) >= MOST_ENTRIES and len(self._running) < AT_ONCE)):
            task = asyncio.create_task(self._run())
            self._running.add(task)
            task.add_done_callback(self._ended)
            if len(self._running) * MOST_ENTRIES >= len(self._ready):
                break

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        if not task.cancelled():
            self.start()

    async def close(self) -> None:
        for task in tuple(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for chain in tuple(self._chains.values()):
            self._fail(chain)
        self._chains.clear()
        self._ready.clear()

    def _fail(self, chain: deque[_Item]) -> None:
        for item in chain:
            item.call.settle(item.number, BrokerUnavailableError(f"{self._doing}: the broker was closed before it was acknowledged."))

    async def _run(self) -> None:
        while (len(self._ready) >= MOST_ENTRIES or len(self._running) == 1) and (batch := self._next()):
            results: Sequence[Result]
            try:
                results = await self._publish([chain[0] for chain in batch])
            except Exception as error:  # noqa: BLE001 - whatever it was, whoever published has to be told
                results = [BrokerError(f"{self._doing}: {type(error).__name__}: {error}")] * len(batch)
            for chain, result in zip(batch, results, strict=True):
                self._settle(chain, result)
            self.start()

    def _next(self) -> list[deque[_Item]]:
        batch: list[deque[_Item]] = []
        size = 0
        while self._ready and len(batch) < MOST_ENTRIES:
            item = self._ready[0][0]
            if batch and size + item.size > MOST_BYTES:
                break
            size += item.size
            batch.append(self._ready.popleft())
        return batch

    async def _publish(self, items: Sequence[_Item]) -> list[Result]:
        entries = [self._entry(number, item.entry) for number, item in enumerate(items)]
        try:
            answer = await self._sns.call("publish_batch", TopicArn=self._arn, PublishBatchRequestEntries=entries)
        except MillstreamError as error:
            return [error] * len(items)
        unknown = BrokerUnavailableError(f"{self._doing}: the answer does not say what became of this one; publish it again.")
        results: list[Result] = [unknown] * len(items)
        for stored in answer.get("Successful") or ():
            results[int(stored["Id"])] = None
        for failed in answer.get("Failed") or ():
            code, message = str(failed.get("Code", "")), str(failed.get("Message", ""))
            results[int(failed["Id"])] = said_failure(code, message, self._doing, passing=not failed.get("SenderFault", False))
        return results

    def _entry(self, number: int, entry: Entry) -> dict[str, Any]:
        made: dict[str, Any] = {
            "Id": str(number),
            "Message": entry.body,
            "MessageAttributes": {name: {"DataType": "String", "StringValue": value} for name, value in entry.attributes.items()},
        }
        if self._fifo:
            made |= {"MessageGroupId": entry.group, "MessageDeduplicationId": entry.deduplication}
        return made

    def _settle(self, chain: deque[_Item], result: Result) -> None:
        item = chain.popleft()
        group = item.entry.group if self._fifo else item.entry.deduplication
        item.call.settle(item.number, result)
        if result is not None:
            item.call.failed.add((self._arn, group))
        while chain and (self._arn, group) in chain[0].call.failed:
            behind = chain.popleft()
            behind.call.settle(behind.number, BrokerError(f"{self._doing}: not published, because one before it of its key was not."))
        if chain:
            self._ready.append(chain)
        else:
            self._chains.pop(group, None)
