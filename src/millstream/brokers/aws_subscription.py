"""One member of a group on SQS: asks for messages, keeps what it has from coming again, deletes what is done."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from millstream.brokers.aws_batches import MOST_ENTRIES, Batches
from millstream.brokers.aws_claims import AwsClaims
from millstream.brokers.aws_client import AwsService, MissingError
from millstream.brokers.aws_settings import AwsSettings
from millstream.brokers.aws_topology import Queue
from millstream.brokers.aws_wire import SYSTEM, AwsReader, source_of
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import ConfigurationError, MillstreamError, PositionLostError
from millstream.core.broker import Assigned, Deliveries, Delivery, Partition, Received

#: Messages of a queue that wait here for the worker, beyond which no more are asked for.
MOST_WAITING = 200
#: Questions for messages of one queue at the same time, while all answers are full.
MOST_ASKING = 4
#: Deletions that may be outstanding.
MOST_SETTLING = 2000
#: How often an entry of a request is tried that failed while others did not.
TRIES = 2


class _Held:
    """A message that this member has, and nobody else may get."""

    __slots__ = ("delivery", "expires", "receipt")

    def __init__(self, delivery: Delivery, receipt: str, expires: float) -> None:
        self.delivery, self.receipt, self.expires = delivery, receipt, expires


class AwsSubscription:
    """A member's share of the queues of its group, which is what it happens to get; see `core.broker.Subscription`."""

    def __init__(
        self,
        settings: AwsSettings,
        sqs: AwsService,
        queues: Mapping[str, Queue],
        arns: Mapping[str, str],
        closed: Callable[["AwsSubscription", Sequence["asyncio.Task[None]"]], None],
        gone: Callable[[], None],
        claims: AwsClaims | None = None,
    ) -> None:
        self._closed, self._gone = closed, gone
        self._failure: MillstreamError | None = None
        self._told = False
        self.is_open = True
        self._bell = asyncio.Event()
        self._shares = {
            Partition(topic, 0): _Share(settings, sqs, queue, AwsReader(Partition(topic, 0), source_of(arns[topic], topic)), self, claims)
            for topic, queue in queues.items()
        }

    async def receive(self, most: int, wait: float) -> Received:
        if not self._told:
            self._told = True
            return Assigned(tuple(self._shares))
        items = self._take(most)
        if not items and wait > 0 and self._failure is None:
            self._bell.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._bell.wait()
            items = self._take(most)
        else:
            await asyncio.sleep(0)
        if not items and self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return Deliveries(items)

    def _take(self, most: int) -> list[Delivery]:
        items: list[Delivery] = []
        for partition, share in tuple(self._shares.items()):
            taken = share.take(most - len(items))
            if taken:
                # To the end of the line, so that a busy queue does not starve the others.
                self._shares[partition] = self._shares.pop(partition)
                items += taken
        return items

    def start(self, partition: Partition, position: int | None) -> None:
        if position is not None:
            raise PositionLostError(
                f"{partition.topic} would go on at {position}, but SQS knows no positions: it delivers what was not handled. Start "
                "without one."
            )
        share = self._shares.get(partition)
        if share is not None:
            share.start()

    async def settle(self, done: Sequence[Delivery], released: Sequence[Delivery] = ()) -> None:
        for share, deliveries in self._by_share(done):
            await share.delete(deliveries)
        for share, deliveries in self._by_share(released):
            await share.give_back(deliveries)

    def _by_share(self, deliveries: Sequence[Delivery]) -> list[tuple["_Share", list[Delivery]]]:
        found: dict[Partition, list[Delivery]] = {}
        for delivery in deliveries:
            found.setdefault(delivery.partition, []).append(delivery)
        return [(self._shares[partition], some) for partition, some in found.items() if partition in self._shares]

    async def extend(self) -> None:
        # Whoever receives meanwhile changes their order.
        for share in tuple(self._shares.values()):
            await share.renew()

    def pause(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            if partition in self._shares:
                self._shares[partition].pause()

    def resume(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            if partition in self._shares:
                self._shares[partition].resume()

    async def release(self, partitions: Sequence[Partition]) -> None:
        await self._give_up([self._shares.pop(partition) for partition in partitions if partition in self._shares])

    async def publish_and_settle(self, envelopes: Sequence[Envelope], done: Sequence[Delivery]) -> None:
        raise ConfigurationError("SNS and SQS have no transactions: publish through the store's outbox, which is what handlers do.")

    async def close(self) -> None:
        if not self.is_open:
            return
        self.is_open = False
        shares = tuple(self._shares.values())
        self._shares.clear()
        await self._give_up(shares)

    async def _give_up(self, shares: Sequence["_Share"]) -> None:
        # Handed over at first: whoever closes may have no time for the rest.
        self._closed(self, [asking for share in shares for asking in share.stop()])
        await asyncio.gather(*(share.close() for share in shares))

    def ring(self) -> None:
        """Something came."""
        self._bell.set()

    def fail(self, error: MillstreamError) -> None:
        """A queue cannot be read: whoever receives is told."""
        self._failure = error
        if isinstance(error, MissingError):
            self._gone()
        self._bell.set()


class _Share:
    """One queue, as this member sees it."""

    def __init__(
        self, settings: AwsSettings, sqs: AwsService, queue: Queue, reader: AwsReader, owner: AwsSubscription, claims: AwsClaims | None
    ) -> None:
        self._settings = settings
        self._sqs = sqs
        self._url = queue.url
        self._reader = reader
        self._owner = owner
        self._claims = claims
        self._loop = asyncio.get_running_loop()
        self._held: dict[int, _Held] = {}
        """What came and is neither settled nor given back, by position, in the order in which it came."""
        self._waiting: deque[_Held] = deque()
        """Those of them that were not handed over yet."""
        self._asking: set[asyncio.Task[None]] = set()
        self._keeping: asyncio.Task[None] | None = None
        self._deleting = Batches(self._delete)
        self._go = asyncio.Event()
        self._is_open = True
        self._paused_at: float | None = None
        self._renewing = asyncio.Lock()

    # Taking

    def start(self) -> None:
        if self._keeping is None and self._is_open:
            self._keeping = asyncio.create_task(self._keep())
            self._go.set()
            self._ask(more=False)

    def take(self, most: int) -> list[Delivery]:
        """What has come, and is still this member's."""
        items: list[Delivery] = []
        if self._paused_at is None:
            now = self._loop.time()
            while self._waiting and len(items) < most:
                held = self._waiting.popleft()
                if held.expires > now:
                    items.append(held.delivery)
                elif self._held.get(held.delivery.position) is held:
                    # This process slept: another member may have it by now.
                    del self._held[held.delivery.position]
            if len(self._waiting) < MOST_WAITING:
                self._go.set()
        return items

    def pause(self) -> None:
        if self._paused_at is None:
            self._paused_at = self._loop.time()
            self._go.clear()

    def resume(self) -> None:
        if self._paused_at is not None:
            self._paused_at = None
            self._go.set()
            self._owner.ring()

    def _ask(self, *, more: bool) -> None:
        task = asyncio.create_task(self._poll(more=more))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _poll(self, *, more: bool) -> None:
        """Ask for messages until it is closed; those that help out (`more`) until there are few."""
        try:
            while self._is_open:
                await self._go.wait()
                if not self._is_open:
                    return
                came = await self._receive(1 if more else self._settings.poll)
                full = len(came) == MOST_ENTRIES
                if not self._is_open:
                    await self._show([receipt for _, receipt in reversed(came)])
                    return
                self._add(came)
                if more and not full:
                    return
                if full and len(self._asking) < MOST_ASKING:
                    self._ask(more=True)
        except MillstreamError as error:
            if self._is_open:
                self._owner.fail(error)

    async def _receive(self, wait: int) -> list[tuple[Delivery, str]]:
        answer = await self._sqs.call(
            "receive_message", QueueUrl=self._url, MaxNumberOfMessages=MOST_ENTRIES, WaitTimeSeconds=wait,
            VisibilityTimeout=self._settings.visibility, MessageAttributeNames=["All"], MessageSystemAttributeNames=list(SYSTEM),
        )  # fmt: skip
        messages: list[dict[str, Any]] = answer.get("Messages") or []
        if self._claims is not None:
            await self._claims.redeem(messages)
        return [(self._reader.delivery(message), message["ReceiptHandle"]) for message in messages]

    def _add(self, came: Sequence[tuple[Delivery, str]]) -> None:
        expires = self._loop.time() + self._settings.visibility
        for delivery, receipt in came:
            known = self._held.get(delivery.position)
            if known is not None:
                # It came again because we were late: it is in hand already, and only the newest receipt counts.
                known.receipt, known.expires = receipt, expires
                continue
            held = self._held[delivery.position] = _Held(delivery, receipt, expires)
            self._waiting.append(held)
        if len(self._waiting) >= MOST_WAITING:
            self._go.clear()
        if came:
            self._owner.ring()

    # Keeping

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._settings.visibility / 3)
            if self._paused_at is not None and self._loop.time() > self._paused_at + self._settings.visibility:
                waiting, self._waiting = self._waiting, deque()
                await self.give_back([held.delivery for held in waiting])
            await self.renew()

    async def renew(self) -> None:
        """Keep what is in hand for another while, where a third of its time is over."""
        due = self._loop.time() + self._settings.visibility * 2 / 3
        if self._renewing.locked():
            return
        async with self._renewing:
            await self._change([held for held in self._held.values() if held.expires <= due])

    async def _change(self, several: Sequence[_Held]) -> None:
        seconds = self._settings.visibility
        batches = [several[start : start + MOST_ENTRIES] for start in range(0, len(several), MOST_ENTRIES)]
        for start in range(0, len(batches), MOST_ASKING):
            await asyncio.gather(*(self._change_some(some, seconds) for some in batches[start : start + MOST_ASKING]))

    async def _change_some(self, several: Sequence[_Held], seconds: int) -> None:
        expires = self._loop.time() + seconds
        # What cannot be kept comes again, to whoever; the store knows what is done.
        with contextlib.suppress(MillstreamError):
            failed = await self._visible_in([held.receipt for held in several], seconds)
            for number, held in enumerate(several):
                if number not in failed:
                    held.expires = expires

    async def _visible_in(self, receipts: Sequence[str], seconds: int) -> set[int]:
        """Set when messages may come again; gives the numbers of those where that failed."""
        return await self._for_each("change_message_visibility_batch", receipts, VisibilityTimeout=seconds)

    async def _for_each(self, operation: str, receipts: Sequence[str], **arguments: int) -> set[int]:
        """Do an operation to several messages, and again where it failed for a reason that passes; gives the numbers where it failed."""
        entries: list[dict[str, Any]] = [{"Id": str(n), "ReceiptHandle": receipt, **arguments} for n, receipt in enumerate(receipts)]
        failed: set[int] = set()
        for _ in range(TRIES):
            answer = await self._sqs.call(operation, QueueUrl=self._url, Entries=entries)
            passes = {entry["Id"]: not entry.get("SenderFault", False) for entry in answer.get("Failed") or ()}
            failed |= {int(number) for number, passing in passes.items() if not passing}
            entries = [entry for entry in entries if passes.get(entry["Id"], False)]
            if not entries:
                break
        return failed | {int(entry["Id"]) for entry in entries}

    # Giving back

    async def delete(self, done: Sequence[Delivery]) -> None:
        receipts = [held.receipt for delivery in done if (held := self._held.pop(delivery.position, None)) is not None]
        if receipts:
            self._deleting.put(receipts)
            await self._deleting.flush(MOST_SETTLING)

    async def _delete(self, receipts: Sequence[str]) -> None:
        # What could not be deleted is delivered again, and the store knows that it is done.
        with contextlib.suppress(MillstreamError):
            await self._for_each("delete_message_batch", receipts)

    async def give_back(self, released: Sequence[Delivery]) -> None:
        given = [held for delivery in released if (held := self._held.pop(delivery.position, None)) is not None]
        if given:
            gone = set(map(id, given))
            self._waiting = deque(held for held in self._waiting if id(held) not in gone)
            await self._show([held.receipt for held in reversed(given)])

    async def _show(self, receipts: Sequence[str]) -> None:
        """Have messages come again at once; the last of them first, so that a FIFO queue turns nothing round."""
        with contextlib.suppress(MillstreamError):
            for start in range(0, len(receipts), MOST_ENTRIES):
                await self._visible_in(receipts[start : start + MOST_ENTRIES], 0)

    def stop(self) -> list["asyncio.Task[None]"]:
        """Ask no more; returns the questions that are not answered yet, whose answers will be given back."""
        self._is_open = False
        self._go.set()
        if self._keeping is not None:
            self._keeping.cancel()
        return list(self._asking)

    async def close(self) -> None:
        """Give back all that is in hand, once what is done is deleted."""
        await self._deleting.flush()
        await self.give_back([held.delivery for held in self._held.values()])
