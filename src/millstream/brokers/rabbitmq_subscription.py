"""One member of a group on RabbitMQ: a connection of its own, and a channel for each queue that it has claimed."""

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from msgspec import structs

from millstream.brokers.member_receiving import MemberReceiving
from millstream.brokers.rabbitmq_amqp import Delivered
from millstream.brokers.rabbitmq_connection import LOCKED, NOT_FOUND, Channel, Connection, RefusedError
from millstream.brokers.rabbitmq_wire import RabbitReader
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import BrokerError, BrokerUnavailableError, ConfigurationError, MillstreamError
from millstream.core.broker import Assigned, Delivery, Lost, Partition, Revoked

log = logging.getLogger("millstream.rabbitmq")

#: Seconds between looks at how many members there are; a queue that somebody is about to give up is looked for sooner.
SHARE = 1.0
SOON = 0.05
#: Seconds that a member gets to give up a partition that another one needs.
GRACE = 10.0
#: Bytes that may wait here; then nothing more is read from the connection.
MOST_BYTES = 64 << 20

Raw = tuple[Delivered, bytes, bytes]
#: Counts the consumers of queues, over another connection: this one may not be read while too much waits here.
Survey = Callable[[Sequence[str]], Awaitable[Sequence[int]]]


class Claim:
    """A queue that is this member's, and what came from it."""

    def __init__(self, partition: Partition, channel: Channel, base: int) -> None:
        self.partition = partition
        self.channel = channel
        self.base = base
        """Positions are what the channel counts, from here on: they rise from owner to owner, as far as clocks do."""
        self.waiting: deque[Raw] = deque()
        self.back: deque[Delivery] = deque()
        """Those that were released, to be handed out before all others."""
        self.hand: dict[int, Delivery] = {}
        self.mixed = False
        """Whether what is in hand is in another order than it came."""
        self.settled = self.acked = 0
        self.started = self.paused = False
        self.deadline: float | None = None
        """When it has to be given up, if another member needs it."""

    @property
    def held(self) -> int:
        """How many came and are not settled."""
        return len(self.hand) + len(self.waiting) + len(self.back)

    @property
    def first_left(self) -> int | None:
        """The first that was handed out and is not settled."""
        first = None
        if self.hand:
            first = min(self.hand) if self.mixed else next(iter(self.hand))
        if self.back:
            first = min(first or self.back[0].position - self.base, self.back[0].position - self.base)
        return first

    def ack(self) -> None:
        """Tell the queue of all that is settled and has nothing unsettled before it."""
        left = self.first_left
        upto = self.settled if left is None else min(self.settled, left - 1)
        if upto > self.acked and self.channel.closed is None:
            self.acked = upto
            self.channel.ack(upto, multiple=True)


class RabbitSubscription(MemberReceiving):
    """One member of a group; see `core.broker.Subscription`."""

    def __init__(
        self,
        group: str,
        member: str,
        queues: Mapping[Partition, str],
        *,
        connection: Connection,
        survey: Survey,
        reader: RabbitReader,
        closed: Callable[["RabbitSubscription"], None],
        monotonic: Callable[[], float],
        micros: Callable[[], int],
    ) -> None:
        super().__init__()
        self.group = group
        self.member = member
        self.claims: dict[Partition, Claim] = {}
        self._queues = queues
        self._connection = connection
        self._survey = survey
        self._reader = reader
        self._closed = closed
        self._monotonic = monotonic
        self._micros = micros
        self._kick = asyncio.Event()
        self._bytes = 0
        self._asking = 0
        """How many ask the server something, and have to hear the answer however much waits."""
        self._turn: deque[Claim] = deque()
        self._presence: Channel | None = None
        self._sharing: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Join: be counted, and start claiming queues."""
        await self._check_queues()
        while True:
            self._presence = await self._connection.channel()
            self._presence.on_closed = self._fail
            try:
                await self._presence.queue(self._members_queue, auto_delete=True)
                await self._presence.consume(self._members_queue)
                break
            except RefusedError as error:
                # Its last member left between the two, and took it along.
                if error.code != NOT_FOUND:
                    raise
                self._failure = None
        self._sharing = asyncio.get_running_loop().create_task(self._share_loop())

    @property
    def _members_queue(self) -> str:
        return members_of(self.group)

    async def _check_queues(self) -> None:
        async with await self._connection.channel() as channel:
            asked = [channel.ask_queue(name, passive=True) for name in self._queues.values()]
            for name, future in zip(self._queues.values(), asked, strict=True):
                try:
                    await channel.answer(future)
                except RefusedError as error:
                    for other in asked:
                        other.exception() if other.done() and not other.cancelled() else None
                    raise self._missing(name, error) if error.code == NOT_FOUND else error from error

    def _missing(self, queue: str, error: RefusedError) -> MillstreamError:
        return BrokerError(
            f"group {self.group!r}: its queue {queue!r} is not on {self._connection.settings.name} any more, and what waited in it is gone "
            f"with it ({error.text}). Find out who deleted it; the service's next start declares it anew."
        )

    # Sharing the queues

    async def _share_loop(self) -> None:
        wait = 0.0
        try:
            while not self._over:
                self._kick.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._kick.wait()
                wait = SHARE if await self._share() else min(max(wait * 2, SOON), SHARE)
        except MillstreamError as error:
            self._fail(error)

    async def _share(self) -> bool:
        """Claim queues up to this member's share, and give up what is beyond it; tell whether it has what it should."""
        try:
            members, *busy = await self._survey([self._members_queue, *self._queues.values()])
        except BrokerUnavailableError:
            # Whether this connection is well, it will tell itself.
            return True
        share = -(-len(self._queues) // max(1, members))
        staying = [claim for claim in self.claims.values() if claim.deadline is None]
        now = self._monotonic()
        overdue = [claim for claim in self.claims.values() if claim.deadline is not None and claim.deadline <= now]
        for claim in overdue:
            await self._let_go([claim])
            self._notify(Lost((claim.partition,)))
        if len(staying) > share:
            leaving = staying[share:]
            for claim in leaving:
                claim.deadline = now + GRACE
            self._notify(Revoked(tuple(claim.partition for claim in leaving), now + GRACE))
            return True
        free = [
            partition
            for partition, consumers in zip(self._queues, busy, strict=True)
            if partition not in self.claims and not consumers
        ]
        # Each member begins elsewhere, so that they seldom try for the same.
        random.shuffle(free)
        gained: list[Partition] = []
        for partition in free:
            if len(staying) + len(gained) >= share or self._over:
                break
            if await self._claim(partition):
                gained.append(partition)
        if gained:
            # Others may have come while this one claimed: what is beyond its share now is given back before anybody hears of it.
            members, *_ = await self._survey([self._members_queue])
            share = -(-len(self._queues) // max(1, members))
            kept = max(0, share - len(staying))
            await self._let_go([self.claims[partition] for partition in gained[kept:] if partition in self.claims])
            if gained[:kept]:
                self._notify(Assigned(tuple(sorted(gained[:kept]))))
        return len(staying) + len(gained) >= share

    async def _claim(self, partition: Partition) -> bool:
        """Take a queue, unless another member has it."""
        queue = self._queues[partition]
        with self._hearing():
            return await self._try_claim(partition, queue)

    async def _try_claim(self, partition: Partition, queue: str) -> bool:
        channel = await self._connection.channel()
        try:
            # Only one connection can have a queue of this name, and it dies with the connection: that is the claim. The
            # queue of the events itself has one active consumer at a time, so that what a dead member had comes first.
            await channel.queue(_claim_of(queue), exclusive=True)
        except RefusedError as error:
            if error.code == LOCKED:
                return False
            raise
        claim = self._new_claim(partition, channel)
        channel.on_message = lambda delivered, header, body: self._came(claim, (delivered, header, body))
        channel.on_closed = lambda error: self._lose(claim, error)
        channel.on_cancel = lambda: self._lose(claim, BrokerError("its queue was deleted or moved; it is claimed again where it is now"))
        self.claims[partition] = claim
        try:
            await channel.prefetch(self._connection.settings.prefetch)
            await channel.consume(queue, tag=self.member.encode()[:200].decode("utf-8", "ignore"))
        except RefusedError as error:
            self.claims.pop(partition, None)
            raise self._missing(queue, error) if error.code == NOT_FOUND else error from error
        self._turn.append(claim)
        return True

    def _new_claim(self, partition: Partition, channel: Channel) -> Claim:
        return Claim(partition, channel, self._micros())

    def _came(self, claim: Claim, raw: Raw) -> None:
        claim.waiting.append(raw)
        self._bytes += len(raw[2])
        if self._bytes > MOST_BYTES and not self._asking:
            self._connection.hold(held=True)
        if claim.started and not claim.paused:
            self._bell.set()

    def _lose(self, claim: Claim, error: MillstreamError) -> None:
        """A channel is gone, with the connection or alone: its queue goes to whoever claims it next."""
        if self.claims.get(claim.partition) is not claim:
            return
        self._drop(claim)
        if self._connection.lost is not None:
            self._fail(self._connection.lost)
            return
        log.warning("group %s loses %s/%s: %s", self.group, claim.partition.topic, claim.partition.number, error)
        self._notify(Lost((claim.partition,)))
        with contextlib.suppress(MillstreamError):
            if self._presence is not None:
                self._presence.ask_deletion(_claim_of(self._queues[claim.partition])).add_done_callback(_heed)
        if claim.channel.closed is None:
            asyncio.get_running_loop().create_task(claim.channel.close()).add_done_callback(_heed)
        self._kick.set()

    def _drop(self, claim: Claim) -> None:
        self.claims.pop(claim.partition, None)
        with contextlib.suppress(ValueError):
            self._turn.remove(claim)
        self._bytes -= sum(len(raw[2]) for raw in claim.waiting)
        claim.waiting.clear()
        # What is under way goes back to the queue when the channel ends, and takes no room here until then.
        claim.channel.on_message = lambda delivered, header, body: None
        self._room()

    async def _let_go(self, claims: Sequence[Claim]) -> None:
        """Give queues up: first what is not settled goes back to them, then others may claim them."""
        for claim in claims:
            self._drop(claim)
        presence = self._presence
        with self._hearing():
            await asyncio.gather(*(claim.channel.close() for claim in claims))
            if presence is not None:
                asked = [presence.ask_deletion(_claim_of(self._queues[claim.partition])) for claim in claims]
                for future in asked:
                    with contextlib.suppress(MillstreamError):
                        await presence.answer(future)

    @contextmanager
    def _hearing(self) -> Generator[None]:
        """Read the connection, however much waits."""
        self._asking += 1
        self._connection.hold(held=False)
        try:
            yield
        finally:
            self._asking -= 1
            if self._bytes > MOST_BYTES and not self._asking:
                self._connection.hold(held=True)

    def oldest(self, claim: Claim) -> int | None:
        """When the first that came and is not settled was published, in microseconds; None where nobody said, or all is settled."""
        first = min((*claim.hand.values(), *claim.back), key=lambda delivery: delivery.position, default=None)
        if first is None and claim.waiting:
            delivered, header, body = claim.waiting[0]
            first = self._reader.delivery(claim.partition, claim.base + delivered.tag, delivered, header, body)
        if first is None:
            return None
        return (first.envelope.time if first.envelope is not None else first.message.time if first.message is not None else 0) or None

    # core.broker.Subscription

    def _next(self, most: int) -> list[Delivery]:
        items: list[Delivery] = []
        if self._notices or self._failure is not None:
            return items
        turn = self._turn
        for _ in range(len(turn)):
            claim = turn[0]
            # To the end of the line, so that a busy partition does not starve the others.
            turn.rotate(-1)
            if claim.started and not claim.paused and claim.deadline is None and (claim.waiting or claim.back):
                self._hand_out(claim, items, most)
                if len(items) >= most:
                    break
        self._room()
        return items

    def _hand_out(self, claim: Claim, items: list[Delivery], most: int) -> None:
        hand, base, partition = claim.hand, claim.base, claim.partition
        while claim.back and len(items) < most:
            delivery = claim.back.popleft()
            claim.mixed = True
            hand[delivery.position - base] = delivery
            items.append(delivery)
        waiting, make = claim.waiting, self._reader.delivery
        for _ in range(min(most - len(items), len(waiting))):
            delivered, header, body = waiting.popleft()
            self._bytes -= len(body)
            tag = delivered.tag
            delivery = hand[tag] = make(partition, base + tag, delivered, header, body)
            items.append(delivery)

    def _room(self) -> None:
        if self._bytes < MOST_BYTES // 2:
            self._connection.hold(held=False)

    def start(self, partition: Partition, position: int | None) -> None:
        if position is not None:
            raise ConfigurationError(
                f"group {self.group!r}: a queue of RabbitMQ has no positions, so nobody can go on at {position}. It goes on "
                "where it stands."
            )
        claim = self.claims.get(partition)
        if claim is not None:
            claim.started = True
            self._bell.set()

    async def settle(self, done: Sequence[Delivery], released: Sequence[Delivery] = ()) -> None:
        touched: dict[Partition, Claim] = {}
        claim: Claim | None = None
        partition: Partition | None = None
        for delivery in done:
            if delivery.partition is not partition:
                partition = delivery.partition
                claim = self.claims.get(partition)
                if claim is not None:
                    touched[partition] = claim
            if claim is not None:
                tag = delivery.position - claim.base
                if claim.hand.pop(tag, None) is not None and tag > claim.settled:
                    claim.settled = tag
        for delivery in released:
            claim = self.claims.get(delivery.partition)
            if claim is not None and claim.hand.pop(delivery.position - claim.base, None) is not None:
                claim.back.append(structs.replace(delivery, redelivered=delivery.redelivered + 1))
                touched[delivery.partition] = claim
                self._bell.set()
        for claim in touched.values():
            if released:
                claim.back = deque(sorted(claim.back, key=lambda delivery: delivery.position))
            claim.ack()
            if not claim.hand:
                claim.mixed = False

    async def extend(self) -> None:
        """Nothing to do: the connection's heartbeat keeps what is in hand."""

    def pause(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            if partition in self.claims:
                self.claims[partition].paused = True

    def resume(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            if partition in self.claims:
                self.claims[partition].paused = False
        self._bell.set()

    async def release(self, partitions: Sequence[Partition]) -> None:
        await self._let_go([claim for partition in partitions if (claim := self.claims.get(partition)) is not None])

    async def publish_and_settle(self, envelopes: Sequence[Envelope], done: Sequence[Delivery]) -> None:
        raise ConfigurationError(
            f"{self._connection.settings.name} cannot publish and settle in one step. Have the handler take a "
            "Transaction: its store's outbox can."
        )

    async def close(self) -> None:
        if self._over:
            return
        self._over = True
        if self._sharing is not None:
            self._sharing.cancel()
            await asyncio.gather(self._sharing, return_exceptions=True)
        if self._connection.lost is None:
            with contextlib.suppress(MillstreamError):
                await self._let_go(list(self.claims.values()))
        self.claims.clear()
        await self._connection.close()
        self._closed(self)


def members_of(group: str) -> str:
    """The queue that has a consumer for each member of a group."""
    return f"millstream.members:{group}"


def _claim_of(queue: str) -> str:
    return f"{queue}:claim"


def _heed(future: "asyncio.Future[Any]") -> None:
    """Nobody waits for it."""
    if not future.cancelled():
        future.exception()
