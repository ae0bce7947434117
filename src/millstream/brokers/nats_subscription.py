"""One member of a group on JetStream: a connection of its own, and for each partition that it has a consumer that it keeps asking."""

import asyncio
import contextlib
import logging
import random
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from millstream.brokers.member_receiving import MemberReceiving
from millstream.brokers.nats_connection import Connection, status
from millstream.brokers.nats_jetstream import API, JetStream, StreamInfo
from millstream.brokers.nats_names import ROOT, escaped, stream_of
from millstream.brokers.nats_register import LEASE, NatsRegister, Place
from millstream.brokers.nats_settings import NatsSettings
from millstream.brokers.nats_wire import NatsReader
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import BrokerError, BrokerUnavailableError, ConfigurationError, MillstreamError, PositionLostError
from millstream.core.broker import Assigned, Delivery, Lost, Partition, Revoked

log = logging.getLogger("millstream.nats")

#: Seconds between looks at who is there, and sooner ones while a partition is missing.
SHARE = 1.0
SOON = 0.05
#: Seconds that a member gets to give up a partition that another one needs.
GRACE = 10.0
#: Seconds that an owner has to be missing before what it had is taken: after a server came back all are missing for a moment.
MISSING = 1.5
#: Seconds before the end of the lease after which nothing more is handed out, since another may have it soon.
MARGIN = 1.0
#: Seconds after which what is settled is written.
COMMIT = 0.25
#: Seconds without a server after which it is said.
OUTAGE = 15.0
BACK_OFF = (0.05, 1.0)
#: What is asked for at a time: so many messages, or bytes, whichever is less; and for how long a question stands.
MOST, MOST_BYTES, FIRST = 1000, 8 << 20, 100
EXPIRES = 30.0
BEAT = 5.0
#: Seconds without a word, though the server was asked, after which a consumer is made anew.
SILENCE = 3 * BEAT


class _Made(msgspec.Struct, frozen=True):
    name: str


Raw = tuple[int, int, bytes, bytes]
"""Position, time in nanoseconds, headers, body."""


class Claim:
    """A partition that is this member's, and what came from it."""

    def __init__(self, partition: Partition, place: Place, revision: int, info: StreamInfo) -> None:
        self.partition = partition
        self.stream = stream_of(partition)
        self.revision = revision
        self.place = place.position
        self.first, self.head = info.first, info.head
        self.of = place.stream or info.created
        """The stream that positions are of."""
        self.anew = self.of != info.created
        self.reader = NatsReader(partition, self.stream, info.created)
        self.settled = self.delivered = place.position - 1
        self.written = place.position
        """What the record says."""
        self.next = 0
        """What comes next from the stream."""
        self.waiting: deque[Raw] = deque()
        self.started = self.paused = False
        self.gaps: list[int] = []
        """Where something is missing: nothing is handed out while it is being found out whether somebody has erased it."""
        self.deadline: float | None = None
        """When it has to be given up, if another member needs it."""
        self.writing = asyncio.Lock()
        # Its consumer.
        self.generation = 0
        self.subscription = 0
        self.consumer = ""
        self.inbox = ""
        self.counted = 0
        """How many messages this consumer has sent."""
        self.credit = 0
        """How many it may still send."""
        self.heard = 0.0
        self.size = 0.0


class NatsSubscription(MemberReceiving):
    """One member of a group; see `core.broker.Subscription`."""

    def __init__(
        self,
        group: str,
        member: str,
        partitions: Sequence[Partition],
        *,
        settings: NatsSettings,
        former: set[str],
        closed: Callable[["NatsSubscription"], None],
        monotonic: Callable[[], float],
    ) -> None:
        super().__init__()
        self.group = group
        self.member = member
        self.claims: dict[Partition, Claim] = {}
        self._token = secrets.token_hex(8)
        self._partitions = partitions
        self._settings = settings
        self._former = former
        """Tokens of this process that could not leave, because there was no server then."""
        self._closed = closed
        self._monotonic = monotonic
        self._loop = asyncio.get_running_loop()
        self._jetstream = JetStream(settings.name, self._connected)
        self._register = NatsRegister(self._jetstream, settings.name)
        self._connection: Connection | None = None
        self._kick = asyncio.Event()
        self._turn: deque[Claim] = deque()
        self._giving: list[Claim] = []
        """Given up, though the register may not say so yet."""
        self._missing: dict[str, float] = {}
        self._beaten = 0.0
        """When the last sign of life was sent that the server has."""
        self._committing: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Join: be counted, and start claiming partitions."""
        await self._connect()
        self._running = self._loop.create_task(self._run())

    async def _connected(self) -> Connection:
        if self._connection is None:
            raise BrokerUnavailableError(f"{self._settings.name} is gone. The same call may succeed later.")
        return self._connection

    async def _connect(self) -> None:
        connection = await Connection.connect(self._settings, name=f"millstream {self.group} {self.member}")
        try:
            self._connection = connection
            connection.on_lost = self._disconnected
            connection.subscribe(self._nudges, lambda subject, reply, head, body: self._kick.set())
            self._missing.clear()
            for token in list(self._former):
                await self._register.leave(self.group, token)
            await self._be_there(verify=True)
        except BaseException:
            connection.abort()
            self._connection = None
            raise
        self._nudge()
        for claim in self.claims.values():
            if claim.started:
                self._consume(claim)

    def _disconnected(self, error: MillstreamError) -> None:
        self._connection = None
        if isinstance(error, ConfigurationError):
            self._fail(error)
        self._kick.set()

    async def _be_there(self, *, verify: bool = False) -> None:
        """Say that this member lives; one that was silent for long, or is to `verify` it, looks whether what it had is still its own."""
        now = self._loop.time()
        await self._register.be_there(self.group, self._token, self.member)
        if verify or now - self._beaten > LEASE - MARGIN:
            for claim in list(self.claims.values()):
                known = await self._register.place(self.group, claim.partition)
                if known is None or known[0].owner != self._token:
                    self._lose(claim)
                elif not claim.writing.locked():
                    claim.revision = known[1]
            self._bell.set()
        self._beaten = now

    @property
    def _nudges(self) -> str:
        """Where members tell each other that something has changed."""
        return f"{ROOT}.share.{escaped(self.group)}"

    def _nudge(self) -> None:
        if self._connection is not None:
            self._connection.publish(self._nudges, b"")

    # Sharing the partitions

    async def _run(self) -> None:
        wait, back_off = 0.0, BACK_OFF[0]
        while not self._over and self._failure is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._kick.wait()
            self._kick.clear()
            if self._over:
                return
            try:
                if self._connection is None or self._connection.lost is not None:
                    await self._connect()
                back_off = BACK_OFF[0]
                wait = SHARE if await self._share() else min(max(wait * 2, SOON), SHARE)
            except BrokerUnavailableError as error:
                wait = back_off = min(back_off * 2, BACK_OFF[1])
                if self._loop.time() - self._beaten > OUTAGE:
                    self._fail(error)
            except MillstreamError as error:
                self._fail(error)
            except Exception as error:
                log.exception("group %s cannot share its partitions", self.group)
                self._fail(BrokerError(f"group {self.group!r}: sharing partitions failed: {error!r}"))

    async def _share(self) -> bool:
        """Claim partitions up to this member's share, and give up what is beyond it; tell whether it has what it should."""
        if self._loop.time() - self._beaten > SHARE * 0.9:
            await self._be_there()
        await self._give()
        present = set(await self._register.members(self.group)) | {self._token}
        for token in present:
            self._missing.pop(token, None)
        share = -(-len(self._partitions) // len(present))
        now = self._monotonic()
        for claim in [claim for claim in self.claims.values() if claim.deadline is not None and claim.deadline <= now]:
            await self._let_go([claim])
            self._notify(Lost((claim.partition,)))
        self._renew_silent()
        staying = [claim for claim in self.claims.values() if claim.deadline is None]
        if len(staying) > share:
            leaving = staying[share:]
            for claim in leaving:
                claim.deadline = now + GRACE
            self._notify(Revoked(tuple(claim.partition for claim in leaving), now + GRACE))
            return True
        free = [partition for partition in self._partitions if partition not in self.claims]
        # Each member begins elsewhere, so that they seldom try for the same.
        random.shuffle(free)
        gained: list[Partition] = []
        try:
            for partition in free:
                if len(staying) + len(gained) >= share or self._over:
                    break
                if await self._claim(partition, present):
                    gained.append(partition)
        finally:
            if gained:
                self._notify(Assigned(tuple(sorted(gained))))
        return len(staying) + len(gained) >= share

    async def _claim(self, partition: Partition, present: set[str]) -> bool:
        """Take a partition, unless another member has it."""
        known = await self._register.place(self.group, partition)
        if known is None:
            raise BrokerError(
                f"group {self.group!r} stands nowhere in {partition.topic}/{partition.number} on {self._settings.name}: it was forgotten "
                "meanwhile. Declare it again, which the service's next start does."
            )
        place, revision = known
        if place.owner and place.owner != self._token and not self._is_missing(place.owner, present):
            return False
        info = await self._jetstream.info(stream_of(partition))
        if info is None:
            raise BrokerError(
                f"group {self.group!r}: the stream {stream_of(partition)} of topic {partition.topic!r} is not on {self._settings.name} any "
                "more. Find out who deleted it; the service's next start makes it anew."
            )
        mine = Place(place.position, self._token, self.member, place.stream or info.created)
        written = await self._register.put_place(self.group, partition, mine, revision)
        if written is None:
            return False
        claim = self.claims[partition] = Claim(partition, place, written, info)
        self._turn.append(claim)
        return True

    def _is_missing(self, token: str, present: set[str]) -> bool:
        if token in present:
            return False
        if token in self._former:
            return True
        return self._loop.time() - self._missing.setdefault(token, self._loop.time()) >= MISSING

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
        self._end(claim)
        claim.waiting.clear()

    async def _let_go(self, claims: Sequence[Claim]) -> None:
        """Give partitions up: first what is settled is written, then others may claim them."""
        for claim in claims:
            self._drop(claim)
        self._giving += claims
        await self._give()
        self._nudge()
        self._kick.set()

    async def _give(self) -> None:
        """Write that what was given up is nobody's; what a lost connection prevents is written on the next one."""
        while self._giving:
            claim = self._giving[-1]
            if claim.partition not in self.claims:
                await self._write(claim, "")
            with contextlib.suppress(ValueError):
                self._giving.remove(claim)

    async def _write(self, claim: Claim, owner: str) -> None:
        """Write where the group stands in a partition, if it is still ours."""
        async with claim.writing:
            position = claim.settled + 1
            place = Place(position, owner, self.member if owner else "", claim.of)
            revision = await self._register.put_place(self.group, claim.partition, place, claim.revision)
            if revision is None:
                known = await self._register.place(self.group, claim.partition)
                if known is None or known[0].owner != self._token:
                    self._lose(claim)
                    return
                # An earlier write of ours, whose acknowledgement was lost.
                revision = await self._register.put_place(self.group, claim.partition, place, known[1])
                if revision is None:
                    self._lose(claim)
                    return
            claim.revision, claim.written = revision, position

    def _start(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            try:
                await work
            except BrokerUnavailableError:
                # Whatever it was is done again once there is a connection.
                pass
            except MillstreamError as error:
                self._fail(error)

        task = self._loop.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Reading a partition

    def _consume(self, claim: Claim) -> None:
        """Have a new consumer that goes on at the claim's next position."""
        self._end(claim)
        connection = self._connection
        if connection is None:
            return
        claim.generation += 1
        generation = claim.generation
        claim.inbox = f"{connection.inbox}.{secrets.token_hex(4)}.m"
        claim.subscription = connection.subscribe(
            claim.inbox, lambda subject, reply, head, body: self._came(claim, generation, reply, head, body)
        )
        claim.counted = claim.credit = 0
        claim.heard = self._loop.time()
        self._start(self._make_consumer(claim, generation))

    async def _make_consumer(self, claim: Claim, generation: int) -> None:
        config = {
            "deliver_policy": "by_start_sequence", "opt_start_seq": claim.next, "ack_policy": "none", "replay_policy": "instant",
            "mem_storage": True, "num_replicas": 1, "inactive_threshold": int(2 * EXPIRES * 1e9),
        }  # fmt: skip
        body = {"stream_name": claim.stream, "config": config}
        made = await self._jetstream.call(f"reading stream {claim.stream}", f"CONSUMER.CREATE.{claim.stream}", body, _Made)
        if claim.generation == generation and self.claims.get(claim.partition) is claim:
            claim.consumer = made.name
            self._ask(claim)

    def _ask(self, claim: Claim) -> None:
        """Let more come, when there is room."""
        if not claim.consumer or self._connection is None or claim.paused:
            return
        most = FIRST if not claim.size else max(1, min(MOST, int(MOST_BYTES / claim.size)))
        if claim.credit + len(claim.waiting) > most // 2:
            return
        claim.credit += most
        claim.heard = self._loop.time()
        body = b'{"batch":%d,"expires":%d,"idle_heartbeat":%d}' % (most, int(EXPIRES * 1e9), int(BEAT * 1e9))
        self._connection.publish(f"{API}.CONSUMER.MSG.NEXT.{claim.stream}.{claim.consumer}", body, reply=claim.inbox)

    def _came(self, claim: Claim, generation: int, reply: bytes, head: bytes, body: bytes) -> None:
        if claim.generation != generation:
            return
        if not reply:
            self._told(claim, head)
            return
        # $JS.ACK.stream.consumer.deliveries.position.count.time.left, from a newer server with its domain and account before.
        fields = reply.split(b".")
        at = 5 if len(fields) < 11 else 7
        position, count = int(fields[at]), int(fields[at + 1])
        if count != claim.counted + 1:
            self._consume(claim)
            return
        claim.counted = count
        claim.credit -= 1
        if position != claim.next:
            self._check_gap(claim, claim.next, position)
        claim.next = position + 1
        size = len(head) + len(body)
        claim.size = size if not claim.size else claim.size * 0.9 + size * 0.1
        if not claim.waiting and claim.started and not claim.paused:
            self._bell.set()
        claim.waiting.append((position, int(fields[at + 2]), head, body))

    def _told(self, claim: Claim, head: bytes) -> None:
        """What the server says of a question: that it waits, that it has ended, or that there is no such consumer any more."""
        claim.heard = self._loop.time()
        code = status(head)
        if code == b"100":
            return
        if code == b"408":
            _, found, left = head.partition(b"Nats-Pending-Messages: ")
            claim.credit = max(0, claim.credit - int(left.split(b"\r\n")[0])) if found else 0
            self._ask(claim)
        else:
            claim.consumer = ""
            self._loop.call_later(BACK_OFF[0], self._renew, claim, claim.generation)

    def _renew(self, claim: Claim, generation: int) -> None:
        if claim.generation == generation and self.claims.get(claim.partition) is claim:
            self._consume(claim)

    def _renew_silent(self) -> None:
        now = self._loop.time()
        for claim in self.claims.values():
            asked = claim.credit > 0 or not claim.consumer
            if claim.started and asked and now - claim.heard > SILENCE and len(claim.waiting) < MOST // 2:
                self._consume(claim)

    def _check_gap(self, claim: Claim, expected: int, found: int) -> None:
        """Positions are missing: single events that somebody erased, or what retention has taken."""
        claim.gaps.append(expected)
        self._start(self._look_at_gap(claim, claim.gaps, expected, found))

    async def _look_at_gap(self, claim: Claim, gaps: list[int], expected: int, found: int) -> None:
        try:
            info = await self._jetstream.info(claim.stream)
        except BrokerUnavailableError:
            if claim.gaps is gaps:
                # What comes once there is a connection has the same gaps, from the first one on.
                claim.waiting = deque(raw for raw in claim.waiting if raw[0] < gaps[0])
                claim.next, claim.gaps, claim.consumer = gaps[0], [], ""
                self._loop.call_later(BACK_OFF[0], self._renew, claim, claim.generation)
            return
        if self.claims.get(claim.partition) is not claim or claim.gaps is not gaps:
            return
        if info is None or info.first > expected:
            raise PositionLostError(
                f"group {self.group!r} was to go on at {expected} of {claim.partition.topic}/{claim.partition.number}, and the log begins "
                f"at {found} now. Look at what was lost, then move the group on purpose."
            )
        gaps.remove(expected)
        self._bell.set()

    def _end(self, claim: Claim) -> None:
        """Have nothing more of its consumer, which ends by itself when nobody asks it."""
        claim.generation += 1
        if claim.subscription and self._connection is not None:
            self._connection.unsubscribe(claim.subscription)
            if claim.consumer:
                self._connection.publish(f"{API}.CONSUMER.DELETE.{claim.stream}.{claim.consumer}", b"")
        claim.subscription, claim.consumer = 0, ""

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
            if waiting and claim.started and not claim.paused and not claim.gaps and claim.deadline is None:
                make = claim.reader.delivery
                for _ in range(min(most - len(items), len(waiting))):
                    position, nanos, head, body = waiting.popleft()
                    items.append(make(position, nanos, head, body))
                claim.delivered = items[-1].position
                self._ask(claim)
                if len(items) >= most:
                    break
        return items

    def start(self, partition: Partition, position: int | None) -> None:
        claim = self.claims.get(partition)
        if claim is None or claim.deadline is not None:
            return
        if position is None:
            position = claim.place
        if claim.anew:
            raise PositionLostError(
                f"group {self.group!r} stands at {position} of a stream {claim.stream} that was deleted, and the one that is there was "
                "made since. Find out what was lost, then move the group on purpose."
            )
        if not claim.first <= position <= max(claim.head, claim.delivered + 1):
            raise PositionLostError(
                f"group {self.group!r} would go on at {position} of {partition.topic}/{partition.number}, but the log has {claim.first} to "
                f"{claim.head}. Find out what happened to it, then move the group on purpose."
            )
        claim.settled = position - 1
        claim.started = True
        self._rewind(claim, position)
        if claim.written != position:
            self._commit_soon()

    def _rewind(self, claim: Claim, position: int) -> None:
        claim.waiting.clear()
        claim.gaps = []
        claim.delivered = position - 1
        claim.next = position
        self._consume(claim)

    async def settle(self, done: Sequence[Delivery], released: Sequence[Delivery] = ()) -> None:
        claim: Claim | None = None
        partition: Partition | None = None
        for delivery in done:
            if delivery.partition is not partition:
                partition = delivery.partition
                claim = self.claims.get(partition)
            if claim is not None and claim.settled < delivery.position <= claim.delivered:
                claim.settled = delivery.position
        if done:
            self._commit_soon()
        first: dict[Partition, int] = {}
        for delivery in released:
            first[delivery.partition] = min(delivery.position, first.get(delivery.partition, delivery.position))
        for partition, position in first.items():
            claim = self.claims.get(partition)
            if claim is not None and claim.deadline is None and claim.settled < position <= claim.delivered:
                # A log has one cursor: what came after it is delivered again as well.
                self._rewind(claim, position)

    def _commit_soon(self) -> None:
        if self._committing is None and not self._over:
            self._committing = self._loop.call_later(COMMIT, self._commit)

    def _commit(self) -> None:
        self._committing = None
        for claim in self.claims.values():
            if claim.written != claim.settled + 1 and not claim.writing.locked():
                self._start(self._write(claim, self._token))
        if any(claim.written != claim.settled + 1 for claim in self.claims.values()):
            self._commit_soon()

    async def extend(self) -> None:
        """Nothing to do: the member says by itself that it is there, while handlers work."""

    def pause(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            if (claim := self.claims.get(partition)) is not None:
                claim.paused = True

    def resume(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            if (claim := self.claims.get(partition)) is not None and claim.paused:
                claim.paused = False
                self._ask(claim)
        self._bell.set()

    async def release(self, partitions: Sequence[Partition]) -> None:
        with contextlib.suppress(BrokerUnavailableError):
            await self._let_go([claim for partition in partitions if (claim := self.claims.get(partition)) is not None])

    async def publish_and_settle(self, envelopes: Sequence[Envelope], done: Sequence[Delivery]) -> None:
        raise ConfigurationError(
            f"{self._settings.name}: JetStream has no transactions over several streams, so publishing and settling cannot happen "
            "together. Use a store: its outbox and inbox give the same."
        )

    async def close(self) -> None:
        if self._over:
            return
        self._over = True
        self._closed(self)
        self._kick.set()
        if self._committing is not None:
            self._committing.cancel()
        if self._running is not None:
            await asyncio.wait([self._running], timeout=SHARE)
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        connection = self._connection
        self._former.add(self._token)
        if connection is not None:
            with contextlib.suppress(MillstreamError):
                await self._let_go(list(self.claims.values()))
                await self._register.leave(self.group, self._token)
                self._former.discard(self._token)
                self._nudge()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if connection is not None:
            await connection.close()


