"""One member of a group on Kafka."""

import asyncio
import contextlib
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError
from confluent_kafka import Message as Record

from millstream.brokers.kafka_errors import failure
from millstream.brokers.kafka_groups import GroupRecord
from millstream.brokers.kafka_poller import MOST_RECORDS, Failed, Gained, Gone, Leaving, News, Poller, Taken
from millstream.brokers.kafka_transactions import KafkaTransactions
from millstream.brokers.kafka_wire import KafkaReader
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import FencedError, MillstreamError, PositionLostError
from millstream.core.broker import Assigned, Deliveries, Delivery, Lost, Partition, Received, Revoked

#: A partition that is paused for longer, in seconds, is not fetched while others need the room.
SHORT_PAUSE = 0.1
_NOWHERE = Partition("", -1)


class _Owned:
    """A partition of ours."""

    __slots__ = (
        "delivered", "end", "gained", "generation", "held", "leaving", "partition", "passed_on", "paused", "settled", "unfetched",
    )  # fmt: skip

    def __init__(self, gained: Gained) -> None:
        self.partition = gained.partition
        self.gained = gained
        self.generation = 0
        """Which start of it counts; records of another are of the past. 0 before the first."""
        self.delivered = self.settled = -1
        self.end = -1
        """Where the log ended when it was read to its end: behind the marks of transactions, which nobody gets."""
        self.paused = False
        self.held: list[Record] = []
        """What came while it was paused."""
        self.passed_on = 0
        """So many of those count as received: they keep nobody else's from being fetched."""
        self.unfetched = False
        """The client was told of the pause, too."""
        self.leaving = False


class KafkaSubscription:
    """See `core.broker.Subscription`; the consumer and its thread are the poller's."""

    def __init__(
        self,
        record: GroupRecord,
        config: Mapping[str, Any],
        reader: KafkaReader,
        *,
        learn: Callable[[Sequence[str]], Awaitable[None]],
        outgoing: Callable[[Sequence[Envelope]], Awaitable[Sequence[Any]]],
        transactions: Callable[[Any], KafkaTransactions],
        closed: Callable[["KafkaSubscription"], None],
        monotonic: Callable[[], float],
    ) -> None:
        self._record = record
        self._reader = reader
        self._learn = learn
        self._outgoing = outgoing
        self._make_transactions = transactions
        self._closed = closed
        self._monotonic = monotonic
        self._loop = asyncio.get_running_loop()
        self._notices: deque[Received] = deque()
        self._taken: deque[Taken] = deque()
        self._owned: dict[Partition, _Owned] = {}
        self._paused_at = 0.0
        self._generations = itertools.count(1)
        self._failure: MillstreamError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._transactions: KafkaTransactions | None = None
        self._is_open = True
        self._poller = Poller(config, list(record.topics), self._hear)
        self._poller.begin()

    async def receive(self, most: int, wait: float) -> Received:
        if wait > 0 and not self._notices and not self._taken and self._failure is None:
            await self._wait(wait)
        if self._failure is not None:
            raise self._failure
        if self._notices:
            first = self._notices[0]
            if isinstance(first, Assigned):
                await self._learn(list({partition.topic for partition in first.partitions}))
            return self._notices.popleft()
        return Deliveries(self._next(most))

    async def _wait(self, seconds: float) -> None:
        self._waiter = self._loop.create_future()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._waiter
        finally:
            self._waiter = None

    def _next(self, most: int) -> list[Delivery]:
        items: list[Delivery] = []
        while self._taken and len(items) < most:
            taken = self._taken[0]
            count = min(most - len(items), len(taken.records))
            held = self._open(taken.records, count, taken.generations, items)
            whole = not taken.records
            if whole:
                self._taken.popleft()
            self._poller.received(count - held, taken.size if whole else 0)
        if not items:
            self._make_room()
        return items

    def _open(self, records: list[Record], count: int, generations: Mapping[Partition, int], items: list[Delivery]) -> int:
        """Make deliveries of so many records, from the end on; those of paused partitions are held back, and counted."""
        delivery, take = self._reader.delivery, records.pop
        topic, number, held = "", -1, 0
        owned: _Owned | None = None
        partition = _NOWHERE
        for _ in range(count):
            record = take()
            if record.partition() != number or record.topic() != topic:
                topic, number = record.topic() or "", record.partition()
                partition = Partition(topic, -1 if number is None else number)
                owned = self._current(partition, generations)
                if owned is not None:
                    partition = owned.partition
            if record.error() is not None:
                held += self._note(record, partition, owned)
            elif owned is not None:
                if owned.paused:
                    owned.held.append(record)
                    held += 1
                else:
                    position = record.offset() or 0
                    items.append(delivery(partition, position, record))
                    owned.delivered = position
        return held

    def _current(self, partition: Partition, generations: Mapping[Partition, int]) -> _Owned | None:
        owned = self._owned.get(partition)
        if owned is None or owned.leaving or not owned.generation or generations.get(partition) != owned.generation:
            return None
        return owned

    def _note(self, record: Record, partition: Partition, owned: _Owned | None) -> int:
        """The end of a partition, or an error; says whether it was held back."""
        error = record.error()
        assert error is not None
        if owned is None:
            # What is said of a partition that we have no more, or not yet, is of the past; an error may be nobody's.
            if partition.number < 0 or not partition.topic:
                self._fail(record, error)
        elif owned.paused:
            owned.held.append(record)
            return 1
        elif error.code() != KafkaError._PARTITION_EOF:
            self._fail(record, error)
        else:
            owned.end = record.offset() or 0
            if owned.settled >= owned.delivered and owned.end > owned.settled + 1:
                # Nothing is in hand, and the log is read to its end.
                self._poller.commit({owned.partition: owned.end})
        return 0

    def _fail(self, record: Record, error: KafkaError) -> None:
        where = f"{record.topic()}/{record.partition()}"
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._NO_OFFSET):
            self._failure = PositionLostError(
                f"group {self._record.name!r}: position {record.offset()} of {where} has left the log ({error.str()}). Look at what was "
                "lost, then move the group on purpose (`millstream replay`)."
            )
        else:
            # An error of the whole group is of no partition.
            self._failure = failure(error, f"group {self._record.name!r}" + (f" reading {where}" if record.topic() else ""))

    def _make_room(self) -> None:
        """Only paused partitions have something: if they fill what may wait, have no more of them fetched."""
        filling = [owned for owned in self._owned.values() if owned.held]
        held = sum(len(owned.held) - owned.passed_on for owned in filling)
        if held < MOST_RECORDS // 2 or time.monotonic() - self._paused_at < SHORT_PAUSE:
            return
        for owned in filling:
            self._pass_on(owned)
        # More of a partition may come after that, as much as was under way: it is passed on in its turn.
        self._poller.pause([owned.partition for owned in filling if not owned.unfetched])
        for owned in filling:
            owned.unfetched = True

    def _pass_on(self, owned: _Owned) -> None:
        self._poller.received(len(owned.held) - owned.passed_on, 0)
        owned.passed_on = len(owned.held)

    def start(self, partition: Partition, position: int | None) -> None:
        owned = self._owned.get(partition)
        if owned is None or owned.leaving:
            return
        gained, where = owned.gained, f"{partition.topic}/{partition.number}"
        if position is None:
            position = gained.committed if gained.committed is not None else self._record.beginning(partition)
            if position is None:
                raise PositionLostError(
                    f"group {self._record.name!r}: Kafka knows no position in {where} any more: it forgets groups that nobody runs for "
                    "long (offsets.retention.minutes), and topics that were made anew. Find out what was missed, then move the group on "
                    "purpose (`millstream replay`)."
                )
            # A partition that was added to the topic begins where its log does.
            position = max(position, gained.first) if gained.committed is None else position
        if not gained.first <= position <= max(gained.head, owned.delivered + 1):
            raise PositionLostError(
                f"group {self._record.name!r} would go on at {position} of {where}, but the log has {gained.first} to {gained.head}. "
                "Find out what happened to it, then move the group on purpose (`millstream replay`)."
            )
        owned.settled = position - 1
        self._rewind(owned, position)

    def _rewind(self, owned: _Owned, position: int) -> None:
        self._drop_held(owned)
        owned.generation = next(self._generations)
        owned.delivered = position - 1
        owned.end = -1
        self._poller.start(owned.partition, position, owned.generation)

    async def settle(self, done: Sequence[Delivery], released: Sequence[Delivery] = ()) -> None:
        offsets: dict[Partition, int] = {}
        for partition, position in _last_of_each(done).items():
            owned = self._owned.get(partition)
            if owned is not None and owned.settled < position <= owned.delivered:
                owned.settled = position
                offsets[partition] = max(position + 1, owned.end if position == owned.delivered else 0)
        if offsets:
            self._poller.commit(offsets)
        first: dict[Partition, int] = {}
        for delivery in released:
            first[delivery.partition] = min(delivery.position, first.get(delivery.partition, delivery.position))
        for partition, position in first.items():
            owned = self._owned.get(partition)
            if owned is not None and not owned.leaving and position > owned.settled:
                # A log has one cursor: what came after it is delivered again as well.
                self._rewind(owned, position)

    async def extend(self) -> None:
        """Nothing to do: the group knows that a member lives by its client, which polls while handlers work."""

    def pause(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            owned = self._owned.get(partition)
            if owned is not None and not owned.paused:
                owned.paused = True
                self._paused_at = time.monotonic()

    def resume(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            owned = self._owned.get(partition)
            if owned is None or not owned.paused:
                continue
            owned.paused = False
            if owned.unfetched:
                self._poller.resume([partition])
                owned.unfetched = False
            held = owned.held
            if held:
                # They are received once more, and then for good.
                self._poller.received(-owned.passed_on, 0)
                owned.held, owned.passed_on = [], 0
                held.reverse()
                self._taken.appendleft(Taken(held, {partition: owned.generation}, 0))
        self._ring()

    async def release(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            owned = self._owned.pop(partition, None)
            if owned is not None:
                self._drop_held(owned)
        self._poller.release(partitions)

    async def publish_and_settle(self, envelopes: Sequence[Envelope], done: Sequence[Delivery]) -> None:
        offsets = {partition: position + 1 for partition, position in _last_of_each(done).items()}
        gone = [partition for partition in offsets if partition not in self._owned]
        if gone:
            raise FencedError(
                f"group {self._record.name!r} gave {gone[0].topic}/{gone[0].number} to another member, so nothing was published; the new "
                "owner does it."
            )
        for partition, offset in offsets.items():
            owned = self._owned[partition]
            # Behind the last event there may be the marks of transactions, which nobody gets.
            offsets[partition] = max(offset, owned.end if offset == owned.delivered + 1 else 0)
        records = await self._outgoing(envelopes)
        if self._transactions is None:
            self._transactions = self._make_transactions(self._poller.membership)
        await self._transactions.run(records, offsets)
        for partition, offset in offsets.items():
            owned = self._owned.get(partition)
            if owned is not None:
                owned.settled = max(owned.settled, offset - 1)

    async def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._owned.clear()
            self._closed(self)
            if self._transactions is not None:
                await self._transactions.close()
            await asyncio.wrap_future(self._poller.close())

    # What the poller tells

    def _hear(self, news: News) -> None:
        """In the poller's thread."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._heard, news)

    def _heard(self, news: News) -> None:
        if not self._is_open:
            return
        match news:
            case Taken():
                self._taken.append(news)
            case Leaving(partitions, deadline):
                self._asked_for(partitions, deadline)
            case Gone(partitions):
                for partition in partitions:
                    owned = self._owned.pop(partition, None)
                    if owned is not None:
                        self._drop_held(owned)
                self._notices.append(Lost(partitions))
            case Failed(error):
                self._failure = failure(error, f"group {self._record.name!r}")
            case _:
                for gained in news:
                    self._owned[gained.partition] = _Owned(gained)
                self._notices.append(Assigned(tuple(gained.partition for gained in news)))
        self._ring()

    def _asked_for(self, partitions: tuple[Partition, ...], deadline: float) -> None:
        for partition in partitions:
            owned = self._owned.get(partition)
            if owned is not None:
                owned.leaving = True
                self._drop_held(owned)
        self._notices.append(Revoked(partitions, self._monotonic() + deadline - time.monotonic()))

    def _drop_held(self, owned: _Owned) -> None:
        self._pass_on(owned)
        owned.held, owned.passed_on = [], 0

    def _ring(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _last_of_each(done: Sequence[Delivery]) -> dict[Partition, int]:
    """How far these deliveries, in the order of each partition, come in it."""
    positions: dict[Partition, int] = {}
    last: Delivery | None = None
    for delivery in done:
        # Those of a partition come one after another: only the last of a run matters.
        if last is not None and delivery.partition is not last.partition:
            positions[last.partition] = last.position
        last = delivery
    if last is not None:
        positions[last.partition] = last.position
    return positions
