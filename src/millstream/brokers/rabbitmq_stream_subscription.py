"""One member of a group that reads streams of RabbitMQ: it claims queues as others do, and reads the streams behind them."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from millstream.brokers.rabbitmq_amqp import Delivered
from millstream.brokers.rabbitmq_connection import Channel, RefusedError
from millstream.brokers.rabbitmq_stream import Place, RabbitStreams, is_gone, offset_of, stream_of
from millstream.brokers.rabbitmq_subscription import Claim, RabbitSubscription, Raw
from millstream.contracts.errors import BrokerUnavailableError, MillstreamError, PositionLostError
from millstream.core.broker import Delivery, Partition

log = logging.getLogger("millstream.rabbitmq")


class StreamClaim(Claim):
    """A partition that is this member's: its queue is empty, and only says who has it; events come from its stream."""

    def __init__(self, partition: Partition, channel: Channel) -> None:
        super().__init__(partition, channel, 0)
        self.place: int | None = None
        """Where the group stood when this member came."""
        self.first = self.head = 0
        self.next = 0
        """The position that is to come next."""
        self.settled = -1
        self.written: int | None = None
        """Where the group stands as others are told."""
        self.begun = False
        """Whether this member has been told where to go on."""
        self.reading: Channel | None = None
        self.generation = 0
        """Changes with the reading: what comes from before does not count."""
        self.looking = 0
        """How many gaps are looked at; nothing is handed out meanwhile."""
        self.taken = self.granted = 0
        """Messages of this reading that were handed out, and for how many of them others may come."""

    @property
    def first_left(self) -> int | None:
        left = [min(self.hand) if self.mixed else next(iter(self.hand))] if self.hand else []
        left += [self.back[0].position] if self.back else []
        return min(left, default=None)

    @property
    def committed(self) -> int:
        """Everything before this position is done."""
        left = self.first_left
        return self.settled + 1 if left is None else min(left, self.settled + 1)

    def ack(self) -> None:
        """Where a group stands is told now and then, not for each page."""


class RabbitStreamSubscription(RabbitSubscription):
    """A `RabbitSubscription` with positions: it goes on wherever it is told to."""

    def __init__(self, *args: Any, streams: RabbitStreams, **options: Any) -> None:
        super().__init__(*args, **options)
        self._streams = streams
        self._telling: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def committed(self, partition: Partition) -> int | None:
        """Where the group stands in a partition, if it is this member's."""
        claim = self.claims.get(partition)
        return claim.committed if isinstance(claim, StreamClaim) and claim.begun else None

    # Claiming

    def _new_claim(self, partition: Partition, channel: Channel) -> Claim:
        return StreamClaim(partition, channel)

    async def _try_claim(self, partition: Partition, queue: str) -> bool:
        if not await super()._try_claim(partition, queue):
            return False
        claim = self.claims.get(partition)
        if isinstance(claim, StreamClaim):
            place, (claim.first, claim.head) = await asyncio.gather(self._streams.place(queue), self._streams.bounds(partition))
            claim.place = claim.written = place.position if place else None
        return self.claims.get(partition) is claim

    def _came(self, claim: Claim, raw: Raw) -> None:
        """Somebody has put something into the queue that only says who has the partition: nobody wants it."""

    async def _share(self) -> bool:
        if self._telling is None or self._telling.done():
            self._telling = self._do(self._tell([claim for claim in self.claims.values() if isinstance(claim, StreamClaim)]))
        return await super()._share()

    async def _let_go(self, claims: Sequence[Claim]) -> None:
        mine = [claim for claim in claims if isinstance(claim, StreamClaim)]
        for claim in mine:
            claim.started = False
            self._end_reading(claim)
        # Who claims it next goes on there.
        await self._tell(mine)
        await super()._let_go(claims)

    def _drop(self, claim: Claim) -> None:
        if isinstance(claim, StreamClaim):
            self._end_reading(claim)
        super()._drop(claim)

    async def _tell(self, claims: Sequence[StreamClaim]) -> None:
        """Have others know where the group stands."""

        async def tell(claim: StreamClaim) -> None:
            position = claim.committed
            await self._streams.put_place(self._queues[claim.partition], Place(position, self.member))
            claim.written = position

        changed = [claim for claim in claims if claim.begun and claim.committed != claim.written]
        for result in await asyncio.gather(*(tell(claim) for claim in changed), return_exceptions=True):
            if isinstance(result, MillstreamError):
                log.warning("group %s cannot tell where it stands; what it has done may be delivered again: %s", self.group, result)
            elif isinstance(result, BaseException):
                raise result

    # Reading

    def start(self, partition: Partition, position: int | None) -> None:
        claim = self.claims.get(partition)
        if not isinstance(claim, StreamClaim) or claim.deadline is not None:
            return
        where = f"{partition.topic}/{partition.number}"
        if position is None:
            position = claim.place
        if position is None:
            raise PositionLostError(
                f"group {self.group!r}: nothing says where it stands in {where}. Find out who deleted that, then move the group on purpose."
            )
        # What RabbitMQ keeps for itself at the beginning of a segment takes a position, too.
        if not claim.first - 1 <= position <= max(claim.head, claim.next):
            raise PositionLostError(
                f"group {self.group!r} would go on at {position} of {where}, but the stream has {claim.first} to {claim.head}. Find out "
                "what happened to it, then move the group on purpose."
            )
        self._bytes -= sum(len(body) for _, _, body in claim.waiting)
        claim.waiting.clear()
        claim.back.clear()
        claim.hand.clear()
        claim.mixed = False
        claim.settled = position - 1
        claim.begun = True
        self._read_from(claim, position)

    def _read_from(self, claim: StreamClaim, position: int) -> None:
        self._end_reading(claim)
        claim.next = position
        claim.taken = claim.granted = claim.looking = 0
        claim.started = True
        self._do(self._begin_reading(claim, claim.generation, position))

    async def _begin_reading(self, claim: StreamClaim, generation: int, position: int) -> None:
        try:
            with self._hearing():
                channel = await self._connection.channel()
                if self.claims.get(claim.partition) is not claim or claim.generation != generation:
                    await channel.close()
                    return
                claim.reading = channel
                channel.on_message = lambda delivered, header, body: self._arrived(claim, generation, delivered, header, body)
                channel.on_closed = lambda error: self._lose(claim, error)
                moved = BrokerUnavailableError("its stream was deleted or moved; it is read again where it is now")
                channel.on_cancel = lambda: self._lose(claim, moved)
                await channel.prefetch(self._connection.settings.prefetch)
                await channel.consume(stream_of(claim.partition), tag=self._tag, arguments={"x-stream-offset": position})
        except RefusedError as error:
            if is_gone(error):
                self._fail(self._missing(stream_of(claim.partition), error))
            else:
                self._lose(claim, error)
        except MillstreamError as error:
            self._lose(claim, error)

    @property
    def _tag(self) -> str:
        return self.member.encode()[:200].decode("utf-8", "ignore")

    def _end_reading(self, claim: StreamClaim) -> None:
        channel, claim.reading = claim.reading, None
        claim.generation += 1
        if channel is not None and channel.closed is None:
            channel.on_message = lambda delivered, header, body: None
            channel.on_closed = lambda error: None
            channel.on_cancel = lambda: None
            self._do(channel.close())

    def _arrived(self, claim: StreamClaim, generation: int, delivered: Delivered, header: bytes, body: bytes) -> None:
        if claim.generation != generation:
            return
        position = offset_of(header)
        if position > claim.next:
            # RabbitMQ's own notes take positions, and so does what retention has removed.
            claim.started = False
            claim.looking += 1
            self._do(self._look_at_gap(claim, generation, claim.next))
        claim.next = position + 1
        super()._came(claim, (Delivered(position, False, delivered.exchange, delivered.routing_key), header, body))

    async def _look_at_gap(self, claim: StreamClaim, generation: int, expected: int) -> None:
        try:
            first = await self._streams.first(claim.partition)
        except MillstreamError as error:
            self._lose(claim, error)
            return
        if claim.generation != generation:
            return
        if first - 1 > expected:
            self._fail(
                PositionLostError(
                    f"group {self.group!r} was to go on at {expected} of {claim.partition.topic}/{claim.partition.number}, and the stream "
                    f"begins at {first} now: retention has removed what was between. Look at what was lost, then move the group on purpose."
                )
            )
            return
        claim.looking -= 1
        if not claim.looking:
            claim.started = True
            self._bell.set()

    def _hand_out(self, claim: Claim, items: list[Delivery], most: int) -> None:
        before = len(claim.waiting)
        super()._hand_out(claim, items, most)
        if isinstance(claim, StreamClaim):
            claim.taken += before - len(claim.waiting)
            # What was handed out makes room for more on the way; the group's position is told elsewhere.
            enough = 1 if not claim.waiting else max(1, self._connection.settings.prefetch // 4)
            if claim.reading is not None and claim.taken - claim.granted >= enough:
                claim.granted = claim.taken
                claim.reading.ack(claim.taken, multiple=True)

    # The end

    async def close(self) -> None:
        if self._telling is not None:
            # Whoever leaves tells it once more.
            self._telling.cancel()
        await super().close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _do(self, work: Any) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, MillstreamError):
            log.error("group %s: reading a stream failed", self.group, exc_info=error)
