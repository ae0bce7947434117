"""One member of a group on Redis: a connection that waits for entries of all its streams, and a lease that says that it is there."""

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from millstream.brokers.member_receiving import MemberReceiving
from millstream.brokers.redis_connection import SILENCE, Argument, Connection
from millstream.brokers.redis_control import RedisControl
from millstream.brokers.redis_names import GROUPS, PLAIN, claims_of, entries_before, id_before, members_of, position_of, stream_of
from millstream.brokers.redis_publisher import Settled
from millstream.brokers.redis_scripts import COMMIT, SHARE
from millstream.brokers.redis_survey import Stand
from millstream.brokers.redis_wire import Entry, RedisReader
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import BrokerError, BrokerUnavailableError, FencedError, MillstreamError, PositionLostError
from millstream.core.broker import Assigned, Delivery, Lost, Partition, Revoked

log = logging.getLogger("millstream.redis")

#: Seconds for which a member counts that says nothing, and between its signs of life; sooner ones while it has too little.
LEASE = 6.0
SHARE_EVERY, SOON = 0.5, 0.05
#: Seconds before the end of the lease after which nothing more is handed out, since another may have it soon.
MARGIN = 1.0
#: Seconds that a member gets to give up a partition that another one needs.
GRACE = 10.0
#: Seconds after which what is settled is written.
COMMIT_AFTER = 0.25
#: Seconds without a server after which it is said.
OUTAGE = 10.0
BACK_OFF = (0.05, 1.0)
#: Of one stream come so many entries at a time, or bytes, whichever is less; more are asked for when so many are left.
MOST, MOST_BYTES, FIRST = 500, 4 << 20, 20
#: Milliseconds for which the server waits for an entry before it says that there is none.
BLOCK = 500

Publish = Callable[[str, str, Sequence[Envelope], Sequence[Settled]], Awaitable[None]]


class Claim:
    """A partition that is this member's, and what came from it."""

    def __init__(self, partition: Partition, stand: Stand, place: int) -> None:
        self.partition = partition
        self.stream = stream_of(partition)
        self.stand = stand
        self.reader = RedisReader(partition, stand.stream)
        self.next = self.delivered = place
        """What comes next from the stream, and what is handed over next."""
        self.settled = self.written = place
        """The position before which all is done, and what the group says of it."""
        self.entries = stand.read if stand.read >= 0 else entries_before(place)
        """How many entries lie before `settled`; -1 where nobody knows."""
        self.waiting: deque[Entry] = deque()
        self.size = 0.0
        self.started = self.paused = False
        self.gap: int | None = None
        """Where something is missing: nothing is read or handed out while it is being found out whether somebody has erased it."""
        self.deadline: float | None = None
        """When it has to be given up, if another member needs it."""

    @property
    def wanted(self) -> int:
        """How many entries to ask for at a time."""
        return max(1, min(MOST, int(MOST_BYTES / self.size))) if self.size else FIRST

    @property
    def has_room(self) -> bool:
        """Whether more should come."""
        return len(self.waiting) <= self.wanted // 2


class RedisSubscription(MemberReceiving):
    """One member of a group; see `core.broker.Subscription`."""

    def __init__(
        self,
        group: str,
        member: str,
        partitions: Sequence[Partition],
        *,
        control: RedisControl,
        publish: Publish,
        closed: Callable[["RedisSubscription"], None],
        monotonic: Callable[[], float],
    ) -> None:
        super().__init__()
        self.group = group
        self.member = member
        self.claims: dict[Partition, Claim] = {}
        self._token = f"{secrets.token_hex(8)}:{member}"
        self._partitions = {stream_of(partition): partition for partition in partitions}
        self._control = control
        self._publish = publish
        self._closed = closed
        self._monotonic = monotonic
        self._name = control.settings.name
        self._loop = asyncio.get_running_loop()
        self._reading: Connection | None = None
        self._asked: set[Claim] = set()
        """Whose streams the server is asked for now."""
        self._client = 0
        self._unblocking = False
        self._kick = asyncio.Event()
        self._read_kick = asyncio.Event()
        self._turn: deque[Claim] = deque()
        self._giving: list[Claim] = []
        """Given up, though the server may not know yet."""
        self._changing = asyncio.Lock()
        self._beaten = self._loop.time() - LEASE
        self._gone_since: float | None = None
        self._committing: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self) -> None:
        """Join: be counted, and start claiming partitions."""
        await self._share()
        self._start(self._run)
        self._start(self._read)

    # Sharing the partitions

    async def _run(self) -> None:
        wait, back_off = SOON, BACK_OFF[0]
        while not self._over and self._failure is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._kick.wait()
            self._kick.clear()
            if self._over:
                return
            try:
                wait = SHARE_EVERY if await self._share() else min(max(wait * 2, SOON), SHARE_EVERY)
                back_off, self._gone_since = BACK_OFF[0], None
            except BrokerUnavailableError as error:
                wait = back_off = min(back_off * 2, BACK_OFF[1])
                self._gone_since = self._gone_since or self._loop.time()
                if self._loop.time() - self._gone_since > OUTAGE:
                    self._fail(error)
            except MillstreamError as error:
                self._fail(error)

    async def _share(self) -> bool:
        """Say that this member is there, take what is its share, and give up what is beyond; tell whether it has what it should."""
        async with self._changing:
            await self._write([claim for claim in self._giving if claim.partition not in self.claims], give=True)
            begun = self._loop.time()
            answer = await self._control.run(
                SHARE, (GROUPS, members_of(self.group), claims_of(self.group)),
                (self.group, self._token, int(LEASE * 1000), *self._partitions),
            )  # fmt: skip
            surplus, gone, kept, *streams = answer
            if gone:
                raise self._stands_nowhere(gone.decode())
            self._beaten = begun
            mine = [self._partitions[stream.decode()] for stream in streams]
            # What is taken now was not this member's for a while, though it may not have noticed: another had it meanwhile.
            for claim in [claim for partition, claim in self.claims.items() if partition not in mine[:kept]]:
                self._lose(claim)
            await self._gain(sorted(set(mine) - self.claims.keys()))
        await self._expire()
        leaving = [claim for claim in self.claims.values() if claim.deadline is not None]
        staying = [claim for claim in self.claims.values() if claim.deadline is None]
        if surplus > len(leaving):
            deadline = self._monotonic() + GRACE
            given = staying[len(leaving) - surplus :]
            for claim in given:
                claim.deadline = deadline
            self._notify(Revoked(tuple(claim.partition for claim in given), deadline))
        return surplus >= 0

    def _stands_nowhere(self, what: str) -> MillstreamError:
        return BrokerError(
            f"group {self.group!r} stands nowhere in {what} on {self._name}: it was forgotten, or the stream was deleted or made anew. "
            "Find out who did; the service's next start declares it, and begins there."
        )

    async def _gain(self, partitions: Sequence[Partition]) -> None:
        if not partitions:
            return
        stands = await self._control.survey(partitions, self.group)
        for partition, stand in zip(partitions, stands, strict=True):
            if stand is None or stand.place is None:
                raise self._stands_nowhere(stream_of(partition))
            claim = self.claims[partition] = Claim(partition, stand, stand.place)
            self._turn.append(claim)
        self._notify(Assigned(tuple(partitions)))

    async def _expire(self) -> None:
        overdue = [claim for claim in self.claims.values() if claim.deadline is not None and claim.deadline <= self._monotonic()]
        if overdue:
            await self._let_go(overdue)
            self._notify(Lost(tuple(claim.partition for claim in overdue)))

    def _lose(self, claim: Claim) -> None:
        """Another member has it."""
        if self.claims.get(claim.partition) is claim:
            self._drop(claim)
            self._notify(Lost((claim.partition,)))
            self._kick.set()

    def _drop(self, claim: Claim) -> None:
        self.claims.pop(claim.partition, None)
        with contextlib.suppress(ValueError):
            self._turn.remove(claim)
        claim.waiting.clear()

    async def _let_go(self, claims: Sequence[Claim]) -> None:
        """Give partitions up, and write what is settled of them."""
        for claim in claims:
            self._drop(claim)
        self._giving += claims
        async with self._changing:
            await self._write(list(self._giving), give=True)
        self._kick.set()

    async def _write(self, claims: Sequence[Claim], *, give: bool = False) -> None:
        """Write where the group stands, wherever it is still this member's; with `give` it is nobody's afterwards."""
        if not claims:
            return
        arguments: list[Argument] = [self._token, self.group]
        positions = [claim.settled for claim in claims]
        for claim in claims:
            arguments += ("" if claim.settled == claim.written else id_before(claim.settled), claim.entries, int(give))
        lost = await self._control.run(COMMIT, (claims_of(self.group), *(claim.stream for claim in claims)), arguments)
        for claim, position in zip(claims, positions, strict=True):
            claim.written = position
            if give and claim in self._giving:
                self._giving.remove(claim)
            elif claim.stream.encode() in lost:
                self._lose(claim)

    def _start(self, work: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            try:
                await work()
            except BrokerUnavailableError:
                # Whatever it was is done again once there is a connection.
                pass
            except MillstreamError as error:
                self._fail(error)

        task = self._loop.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Reading

    async def _read(self) -> None:
        back_off = BACK_OFF[0]
        while not self._over and self._failure is None:
            claims = [c for c in self._turn if c.started and not c.paused and c.gap is None and c.has_room]
            if not claims:
                self._read_kick.clear()
                await self._read_kick.wait()
                continue
            try:
                if self._reading is None or self._reading.lost is not None:
                    self._reading = await Connection.connect(self._control.settings, name=f"millstream {self.group} {self.member}")
                    self._client = await self._reading.call("CLIENT", "ID")
                    await self._verify_positions()
                await self._read_from(self._reading, claims)
                back_off = BACK_OFF[0]
            except BrokerUnavailableError:
                back_off = min(back_off * 2, BACK_OFF[1])
                await asyncio.sleep(back_off)

    async def _verify_positions(self) -> None:
        """A server that was allowed to lose events may have begun anew before where this member stands."""
        claims = [claim for claim in self.claims.values() if claim.started]
        for claim, stand in zip(claims, await self._control.survey([c.partition for c in claims], self.group), strict=True):
            if stand is not None and stand.head < claim.next:
                raise self._lost_position(claim.partition, claim.next, stand)

    async def _read_from(self, connection: Connection, claims: Sequence[Claim]) -> None:
        """Have what comes next of these, or the knowledge that nothing has come for a while."""
        wanted = [claim.next for claim in claims]
        count = min(claim.wanted for claim in claims)
        self._asked = set(claims)
        before = connection.received

        def heard(answer: Any) -> None:
            came = {stream: entries for stream, entries in answer or ()}
            size = (connection.received - before) / max(1, sum(map(len, came.values())))
            for claim, position in zip(claims, wanted, strict=True):
                entries = came.get(claim.stream.encode())
                if entries and claim.next == position and self.claims.get(claim.partition) is claim:
                    try:
                        self._came(claim, entries, size)
                    except MillstreamError as error:
                        self._fail(error)

        connection.on_answer = heard
        try:
            await connection.call(
                "XREAD", "COUNT", count, "BLOCK", BLOCK, "STREAMS",
                *(claim.stream for claim in claims), *(id_before(position) for position in wanted),
                wait=SILENCE,
            )  # fmt: skip
        finally:
            connection.on_answer = None
            self._asked = set()

    def _came(self, claim: Claim, entries: list[Any], size: float) -> None:
        first = position_of(entries[0][0])
        if first != claim.next and first < PLAIN:
            claim.gap = claim.next
            self._start(partial(self._look_at_gap, claim, claim.next))
        claim.next = position_of(entries[-1][0]) + 1
        # Quick to fear large ones, and slow to trust that they are over.
        claim.size = max(size, claim.size * 0.7 + size * 0.3)
        claim.waiting.extend(entries)
        self._bell.set()

    async def _look_at_gap(self, claim: Claim, expected: int) -> None:
        """Positions are missing: single entries that somebody erased, or what retention has taken."""
        try:
            (stand,) = await self._control.survey([claim.partition], self.group)
        except BrokerUnavailableError:
            stand = None
            if claim.gap == expected:
                # What is read once there is a connection has the same gap.
                claim.waiting = deque(entry for entry in claim.waiting if position_of(entry[0]) < expected)
                claim.next = expected
        if claim.gap != expected:
            # The group was moved meanwhile.
            return
        if stand is not None and stand.lacks(expected):
            raise self._lost_position(claim.partition, expected, stand)
        claim.gap = None
        self._bell.set()
        self._read_kick.set()

    def _lost_position(self, partition: Partition, position: int, stand: Stand) -> MillstreamError:
        return PositionLostError(
            f"group {self.group!r} would go on at {position} of {partition.topic}/{partition.number}, but the log has {stand.first} to "
            f"{stand.head}. Find out what happened to it, then move the group on purpose."
        )

    def _ask_anew(self) -> None:
        """What is to be read has changed: whoever waits for less is woken."""
        self._read_kick.set()
        if self._asked and not self._unblocking:
            self._unblocking = True
            self._start(self._unblock)

    async def _unblock(self) -> None:
        try:
            await self._control.call("CLIENT", "UNBLOCK", self._client)
        finally:
            self._unblocking = False

    # core.broker.Subscription

    def _next(self, most: int) -> list[Delivery]:
        items: list[Delivery] = []
        if self._notices or self._failure is not None or self._loop.time() - self._beaten > LEASE - MARGIN:
            return items
        turn = self._turn
        for _ in range(len(turn)):
            claim = turn[0]
            # To the end of the line, so that a busy partition does not starve the others.
            turn.rotate(-1)
            waiting = claim.waiting
            if waiting and claim.started and not claim.paused and claim.gap is None and claim.deadline is None:
                make = claim.reader.delivery
                for _ in range(min(most - len(items), len(waiting))):
                    items.append(make(waiting.popleft()))
                claim.delivered = items[-1].position + 1
                if claim.has_room and claim not in self._asked:
                    self._ask_anew()
                if len(items) >= most:
                    break
        return items

    def start(self, partition: Partition, position: int | None) -> None:
        claim = self.claims.get(partition)
        if claim is None or claim.deadline is not None:
            return
        stand, place = claim.stand, claim.settled
        if position is None:
            position = place
        if stand.lacks(position) or position > max(stand.head, claim.delivered):
            raise self._lost_position(partition, position, stand)
        if position != place:
            claim.entries = entries_before(position)
            claim.settled = position
            self._commit_soon()
        claim.started = True
        self._rewind(claim, position)

    def _rewind(self, claim: Claim, position: int) -> None:
        claim.waiting.clear()
        claim.gap = None
        claim.next = claim.delivered = position
        self._ask_anew()

    async def settle(self, done: Sequence[Delivery], released: Sequence[Delivery] = ()) -> None:
        claim: Claim | None = None
        partition: Partition | None = None
        for delivery in done:
            if delivery.partition is not partition:
                partition = delivery.partition
                claim = self.claims.get(partition)
            if claim is not None and claim.settled <= delivery.position < claim.delivered:
                claim.settled = delivery.position + 1
                if claim.entries >= 0:
                    claim.entries += 1
        if done:
            self._commit_soon()
        first: dict[Partition, int] = {}
        for delivery in released:
            first[delivery.partition] = min(delivery.position, first.get(delivery.partition, delivery.position))
        for partition, position in first.items():
            claim = self.claims.get(partition)
            if claim is not None and claim.deadline is None and claim.settled <= position < claim.delivered:
                # A log has one cursor: what came after it is delivered again as well.
                self._rewind(claim, position)

    def _commit_soon(self) -> None:
        if self._committing is None and not self._over:
            self._committing = self._loop.call_later(COMMIT_AFTER, self._start, self._commit)

    async def _commit(self) -> None:
        try:
            async with self._changing:
                await self._write([claim for claim in self.claims.values() if claim.settled != claim.written])
        finally:
            self._committing = None
        if any(claim.settled != claim.written for claim in self.claims.values()):
            self._commit_soon()

    async def extend(self) -> None:
        """Nothing to do: the member says by itself that it is there, while handlers work."""

    def pause(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            if (claim := self.claims.get(partition)) is not None:
                claim.paused = True

    def resume(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            if (claim := self.claims.get(partition)) is not None:
                claim.paused = False
        self._bell.set()
        self._ask_anew()

    async def release(self, partitions: Sequence[Partition]) -> None:
        with contextlib.suppress(BrokerUnavailableError):
            await self._let_go([claim for partition in partitions if (claim := self.claims.get(partition)) is not None])

    async def publish_and_settle(self, envelopes: Sequence[Envelope], done: Sequence[Delivery]) -> None:
        ends: dict[Partition, tuple[int, int]] = {}
        for delivery in done:
            _, count = ends.get(delivery.partition, (0, 0))
            ends[delivery.partition] = (delivery.position + 1, count + 1)
        claims = {partition: self.claims.get(partition) for partition in ends}
        settled: list[Settled] = []
        async with self._changing:
            for partition, (end, count) in ends.items():
                claim = claims[partition]
                if claim is None or not claim.settled < end <= claim.delivered:
                    raise self._fenced(partition)
                settled.append(Settled(partition, claim.written, end, claim.entries + count if claim.entries >= 0 else -1))
            try:
                await self._publish(self.group, self._token, envelopes, settled)
            except (BrokerUnavailableError, FencedError):
                # It may have been done, or something else: whoever has the partition next finds out where the group stands.
                for claim in claims.values():
                    if claim is not None and self.claims.get(claim.partition) is claim:
                        self._drop(claim)
                        self._notify(Lost((claim.partition,)))
                self._kick.set()
                raise
            for one in settled:
                claim = claims[one.partition]
                assert claim is not None
                claim.settled = claim.written = one.position
                claim.entries = one.entries

    def _fenced(self, partition: Partition) -> MillstreamError:
        return FencedError(
            f"{partition.topic}/{partition.number}: what was handled is not in hand any more, so nothing was published; its new owner "
            "does it"
        )

    async def close(self) -> None:
        if self._over:
            return
        self._over = True
        self._closed(self)
        if self._committing is not None:
            self._committing.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(MillstreamError):
            await self._let_go(list(self.claims.values()))
            await self._control.call("ZREM", members_of(self.group), self._token)
        if self._reading is not None:
            await self._reading.close()
