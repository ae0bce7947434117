"""Publishing to JetStream: one connection, in order, and again what a lost connection left in doubt."""

import asyncio
from bisect import insort
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from millstream.brokers.nats_connection import NO_RESPONDERS, Connection, packet, status
from millstream.brokers.nats_jetstream import UNAVAILABLE, Acknowledged
from millstream.brokers.nats_settings import NatsSettings
from millstream.brokers.publish_call import PublishCall
from millstream.contracts.errors import BrokerError, BrokerUnavailableError, ConfigurationError, MillstreamError

#: Messages that may be under way without an acknowledgement.
WINDOW = 4000
#: They are handed to the connection in pieces of so many bytes.
PIECE = 256 << 10
#: Seconds between looks at whether something has waited too long, before a new connection, and before what was refused is tried again.
LOOK = 0.25
BACK_OFF = (0.05, 1.0)
AGAIN = 0.1
#: Seconds after which a message without an answer is published again, on a new connection; of a server that is only slow, twice as
#: many each time.
STALL = 5.0

#: What keeps an order among itself: a subject or, in a cluster, a subject and a key.
Lane = tuple[bytes, bytes | None]


class Outgoing:
    """One message on its way."""

    __slots__ = ("body", "call", "head", "index", "key", "order", "subject", "topic")

    def __init__(self, topic: str, subject: bytes, key: bytes | None, head: bytes, body: bytes) -> None:
        self.topic = topic
        self.subject = subject
        self.key = key
        self.head = head
        self.body = body
        self.order = 0
        self.index = 0
        self.call: PublishCall | None = None


class NatsPublisher:
    """Sends messages for any number of callers of one loop, in the order in which they came.

    What a connection takes with it is published again, in order, on the next one: the server
    knows by their ids those that it has. What a stream cannot take at the moment is published
    again, alone and before what goes the same way, until the call's time is over. With
    `in_turn` an event of a key waits until the one before it is acknowledged: the leader of a
    stream can change between two, and only the second find one.
    """

    def __init__(self, settings: NatsSettings, look_for: Callable[[str], Awaitable[MillstreamError | None]]) -> None:
        self._settings = settings
        self._look_for = look_for
        """Says what is wrong with a topic whose stream does not answer; None if nothing is."""
        self.in_turn = False
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._connecting = False
        self._pending: deque[Outgoing] = deque()
        self._flight: dict[bytes, Outgoing] = {}
        self._held: dict[Lane, list[Outgoing]] = {}
        """What waits, in its order, until the one before it is acknowledged."""
        self._ready: deque[Outgoing] = deque()
        """What has waited, and may go now."""
        self._refused: set[Lane] = set()
        """Where the one before was refused."""
        self._retrying = False
        self._next = 1
        self._order = 0
        self._calls: dict[PublishCall, None] = {}
        self._watch: asyncio.TimerHandle | None = None
        self._soon = False
        self._problem = ""
        self._oldest = (b"", 0.0)
        """The first message under way, and since when it is the first."""
        self._stall = STALL
        self._closing = False

    async def send(self, messages: Sequence[Outgoing]) -> Sequence[MillstreamError | None]:
        """One answer for each: None once its stream has it."""
        if not messages:
            return ()
        if self._closing:
            return [BrokerUnavailableError(f"{self._settings.name} is closed here: open it again to publish.")] * len(messages)
        call = PublishCall(len(messages), self._loop.time())
        self._calls[call] = None
        for index, message in enumerate(messages):
            message.index, message.call = index, call
            message.order = self._order = self._order + 1
        self._pending.extend(messages)
        if self._watch is None:
            self._watch = self._loop.call_later(LOOK, self._look)
        if not self._flight and not self._soon:
            # Nobody else is publishing: it goes at once.
            self._pump()
        elif not self._soon:
            # Publishers that come together share one write.
            self._soon = True
            self._loop.call_soon(self._pump)
        await call.heard
        return call.results

    async def close(self) -> None:
        """Wait for what is under way, and end."""
        try:
            while self._calls:
                await asyncio.wait([call.finished for call in self._calls])
        finally:
            self._closing = True
            if self._watch is not None:
                self._watch.cancel()
            for call in self._calls:
                call.give_up(BrokerUnavailableError("closed before it was acknowledged. It may be stored all the same: publish it again."))
            self._calls.clear()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if self._connection is not None:
                await self._connection.close()
                self._connection = None

    # Sending

    def _pump(self) -> None:
        """Hand over what may be under way."""
        self._soon = False
        connection = self._connection
        if connection is None:
            if (self._pending or self._ready) and not self._connecting and not self._closing:
                self._connecting = True
                self._start(self._open())
            return
        flight = self._flight
        inbox = f"{connection.inbox}.p.".encode()
        while connection.writable and len(flight) < WINDOW and connection.lost is None:
            pieces: list[bytes] = []
            size = 0
            while len(flight) < WINDOW and size < PIECE and (message := self._following()) is not None:
                word = b"%x" % self._next
                self._next += 1
                piece = packet(message.subject, inbox + word, message.head, message.body)
                size += len(piece)
                pieces.append(piece)
                flight[word] = message
            if not pieces:
                break
            connection.write(b"".join(pieces))

    def _following(self) -> Outgoing | None:
        """What goes next, if anything may."""
        pending, held = self._pending, self._held
        while self._ready:
            message = self._ready.popleft()
            if message.call is not None and not message.call.finished.done():
                return message
            self._release(message)
        while pending:
            message = pending.popleft()
            if message.call is None or message.call.finished.done():
                continue
            if held or self.in_turn:
                lane = self._lane(message)
                waiting = held.get(lane)
                if waiting is not None:
                    waiting.append(message)
                    continue
                if self.in_turn and message.key is not None:
                    held[lane] = []
            return message
        return None

    def _lane(self, message: Outgoing) -> Lane:
        return message.subject, message.key if self.in_turn else None

    async def _open(self) -> None:
        """Have a connection, however long it takes."""
        wait = BACK_OFF[0]
        while not self._closing:
            try:
                connection = await Connection.connect(self._settings, name="millstream publisher")
            except MillstreamError as error:
                self._problem = str(error)
                if isinstance(error, ConfigurationError):
                    self._fail_all(error)
                    break
                await asyncio.sleep(wait)
                wait = min(wait * 2, BACK_OFF[1])
                continue
            connection.subscribe(f"{connection.inbox}.p.*", self._answered)
            connection.on_lost = self._lost
            connection.on_writable = self._pump
            if connection.lost is not None:
                continue
            self._problem = ""
            self._connection = connection
            break
        self._connecting = False
        self._pump()

    def _start(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        task = self._loop.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # What becomes of it

    def _answered(self, subject: bytes, reply: bytes, head: bytes, body: bytes) -> None:
        message = self._flight.pop(subject[subject.rindex(b".") + 1 :], None)
        if message is None or message.call is None:
            return
        self._stall = STALL
        if not head and b'"error"' not in body:
            self._settle(message, None)
        elif self._is_refused(message, head, body):
            insort(self._held.setdefault(self._lane(message), []), message, key=lambda held: held.order)
            self._refused.add(self._lane(message))
            self._again()
        if (self._pending or self._ready) and not self._soon:
            self._soon = True
            self._loop.call_soon(self._pump)

    def _is_refused(self, message: Outgoing, head: bytes, body: bytes) -> bool:
        """Whether it cannot be stored at the moment; one that never can be is settled."""
        if status(head) == NO_RESPONDERS:
            self._problem = f"no stream takes {message.subject.decode()}"
            return True
        try:
            problem = msgspec.json.decode(body, type=Acknowledged).error
        except msgspec.MsgspecError:
            problem = None
        why = problem.description if problem is not None else "an answer came that is not JetStream's"
        if problem is not None and problem.code == UNAVAILABLE:
            self._problem = why
            return True
        self._settle(message, BrokerError(f"{self._settings.name} refuses an event of {message.topic!r}: {why}."))
        return False

    def _settle(self, message: Outgoing, result: MillstreamError | None) -> None:
        if self._held:
            self._release(message)
        call = message.call
        if call is not None:
            call.settle(message.index, result)
            if not call.missing:
                self._calls.pop(call, None)

    def _release(self, message: Outgoing) -> None:
        """What waited for it may go, unless another one that goes the same way was refused."""
        lane = self._lane(message)
        waiting = self._held.get(lane)
        if waiting is None or lane in self._refused:
            return
        if waiting and self.in_turn:
            self._ready.append(waiting.pop(0))
        else:
            del self._held[lane]
            self._pending.extendleft(reversed(waiting))

    def _again(self) -> None:
        if not self._retrying:
            self._retrying = True
            self._start(self._try_again())

    async def _try_again(self) -> None:
        """Send the first of those that wait for one that was refused, unless their topic is gone."""
        await asyncio.sleep(AGAIN)
        problems: dict[str, MillstreamError | None] = {}
        for topic in {message.topic for lane in self._refused for message in self._held[lane][:1]}:
            try:
                problems[topic] = await self._look_for(topic)
            except MillstreamError as error:
                self._problem = str(error)
        busy = {self._lane(message) for message in (*self._flight.values(), *self._ready)}
        for lane in self._refused - busy:
            self._refused.discard(lane)
            self._try_lane(lane, problems)
        self._retrying = False
        if self._refused:
            self._again()
        self._pump()

    def _try_lane(self, lane: Lane, problems: Mapping[str, MillstreamError | None]) -> None:
        waiting = self._held[lane]
        problem = problems.get(waiting[0].topic)
        if problem is not None:
            del self._held[lane]
            for message in waiting:
                self._settle(message, problem)
        else:
            self._ready.append(waiting.pop(0))

    def _lost(self, error: MillstreamError) -> None:
        """What was under way is in doubt: it is published again before anything else."""
        self._connection = None
        waiting = (message for held in self._held.values() for message in held)
        doubtful = sorted((*self._flight.values(), *self._ready, *waiting), key=lambda message: message.order)
        for known in (self._flight, self._held, self._ready, self._refused):
            known.clear()
        self._pending.extendleft(reversed(doubtful))
        self._problem = str(error)
        if isinstance(error, ConfigurationError):
            self._fail_all(error)
        if not self._soon and not self._closing:
            self._soon = True
            self._loop.call_soon(self._pump)

    def _fail_all(self, error: MillstreamError) -> None:
        for message in self._pending:
            self._settle(message, error)
        self._pending.clear()

    def _renew_stalled(self, now: float) -> None:
        connection, first = self._connection, next(iter(self._flight), b"")
        if connection is None or not first or first != self._oldest[0] or not connection.writable:
            self._oldest = (first, now)
        elif now - self._oldest[1] > min(self._stall, self._settings.timeout / 2):
            self._stall *= 2
            self._oldest = (b"", now)
            connection.abort()
            self._lost(BrokerUnavailableError("the server does not acknowledge"))

    def _look(self) -> None:
        """Have fail what has waited too long."""
        self._watch = None
        now = self._loop.time()
        for call in list(self._calls):
            if now - call.began < self._settings.timeout:
                break
            why = f" ({self._problem})" if self._problem else ""
            call.give_up(
                BrokerUnavailableError(
                    f"not acknowledged by {self._settings.name} within {self._settings.timeout:g} s{why}. It may be stored all the "
                    "same: publish it again, under the same id."
                )
            )
            self._calls.pop(call, None)
        self._renew_stalled(now)
        if self._calls:
            self._watch = self._loop.call_later(LOOK, self._look)
