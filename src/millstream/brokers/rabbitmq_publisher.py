"""Publishing to RabbitMQ: one channel with confirms, in order, and again what a lost connection left in doubt."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence

from millstream.brokers import rabbitmq_amqp as amqp
from millstream.brokers.publish_call import PublishCall
from millstream.brokers.rabbitmq_connection import NOT_FOUND, Channel, Connection, RefusedError
from millstream.brokers.rabbitmq_settings import RabbitSettings
from millstream.contracts.errors import BrokerUnavailableError, ConfigurationError, MillstreamError

log = logging.getLogger("millstream.rabbitmq")

#: Messages that may be under way without a confirmation.
WINDOW = 4000
#: They are handed to the connection in pieces of so many bytes.
PIECE = 256 << 10
#: Seconds between looks at whether something has waited too long, before a new connection, and before what was refused is tried again.
LOOK = 0.25
BACK_OFF = (0.05, 1.0)
AGAIN = 0.1
#: Seconds after which a message without an answer is published again on a new channel: a queue that was not there yet when
#: a server came back can leave a channel without any answer for ever.
STALL = 3.0


class Outgoing:
    """One message on its way."""

    __slots__ = ("_content", "call", "exchange", "index", "mandatory", "order", "route")

    def __init__(self, exchange: str, route: str, content: tuple[bytes, bytes, bytes], *, mandatory: bool = True) -> None:
        self.exchange = exchange
        self.route = route
        self.mandatory = mandatory
        self._content = content
        self.order = 0
        self.index = 0
        self.call: PublishCall | None = None

    def frames(self, channel: int, frame_max: int) -> bytes:
        """It, as bytes for a channel."""
        content_type, headers, body = self._content
        return amqp.publish_method(channel, self.exchange, self.route, mandatory=self.mandatory) + amqp.content(
            channel, content_type, headers, body, frame_max=frame_max
        )


class RabbitPublisher:
    """Sends messages for any number of callers of one loop, in the order in which they came.

    What a connection takes with it is published again, in order, on the next one. To each
    stream the first message goes alone, until it is known to be there. A message that the
    server refuses (a nack) is published again with all that was sent behind it and is not
    confirmed, until the call's time is over.
    """

    def __init__(self, settings: RabbitSettings, connect: Callable[[], Awaitable[Connection]], gone: Callable[[str], None]) -> None:
        self._settings = settings
        self._connect = connect
        self._gone = gone
        """Called with the name of an exchange that is not there any more."""
        self._loop = asyncio.get_running_loop()
        self._channel: Channel | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._pending: deque[Outgoing] = deque()
        self._flight: dict[int, Outgoing] = {}
        self._refused: list[Outgoing] = []
        self._first = self._next = 1
        """Numbers that the server counts by, on this channel."""
        self._order = 0
        self._calls: dict[PublishCall, None] = {}
        self._watch: asyncio.TimerHandle | None = None
        self._unread: set[str] = set()
        self._returned: dict[tuple[str, str], int] = {}
        """Exchanges and routes of which something came back, and the last message that it may have been."""
        self._there: set[tuple[str, str]] = set()
        """Exchanges and routes of which this channel knows that a stream takes what goes there;"""
        self._asked: dict[tuple[str, str], deque[Outgoing]] = {}
        """and those to which one message is on its way to see, with what waits behind it: what comes back must not be overtaken."""
        self._problem = ""
        self._oldest = (0, 0.0)
        """The number of the first message under way, and since when it is the first."""
        self._pumping = False
        self._closing = False

    async def send(self, messages: Sequence[Outgoing]) -> Sequence[MillstreamError | None]:
        """One answer for each: None once the server has confirmed it."""
        if not messages:
            return ()
        call = PublishCall(len(messages), self._loop.time())
        self._calls[call] = None
        for index, message in enumerate(messages):
            message.index, message.call = index, call
            message.order = self._order = self._order + 1
        self._pending.extend(messages)
        if self._watch is None:
            self._watch = self._loop.call_later(LOOK, self._look)
        if not self._pumping:
            # Once for all that publish now: what goes out together costs one call of the system.
            self._pumping = True
            self._loop.call_soon(self._pump)
        await call.heard
        return call.results

    async def close(self) -> None:
        """Wait for what is under way, and end."""
        with contextlib.suppress(asyncio.CancelledError):
            while self._calls and not self._closing:
                await asyncio.wait([call.finished for call in self._calls])
                self._sweep()
        self._closing = True
        if self._watch is not None:
            self._watch.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)

    # Sending

    def _pump(self) -> None:
        """Hand over what may be under way."""
        self._pumping = False
        channel = self._channel
        if channel is None:
            if self._connecting is None and self._pending:
                self._connecting = self._loop.create_task(self._open())
            return
        connection, pending, flight = channel.connection, self._pending, self._flight
        number, frame_max = channel.number, connection.frame_max
        streams = self._settings.streams
        while pending and not self._refused and connection.writable and len(flight) < WINDOW and self._channel is channel:
            pieces: list[bytes] = []
            size = 0
            while pending and len(flight) < WINDOW and size < PIECE:
                message = pending.popleft()
                if message.call is None or message.call.finished.done():
                    continue
                if streams and message.mandatory and (message.exchange, message.route) not in self._there:
                    waiting = self._asked.get((message.exchange, message.route))
                    if waiting is not None:
                        waiting.append(message)
                        continue
                    self._asked[message.exchange, message.route] = deque()
                frames = message.frames(number, frame_max)
                size += len(frames)
                pieces.append(frames)
                flight[self._next] = message
                self._next += 1
            if pieces:
                connection.write(b"".join(pieces))

    async def _open(self) -> None:
        """Have a channel, however long it takes."""
        wait = BACK_OFF[0]
        while not self._closing:
            try:
                connection = await self._connect()
                channel = await connection.channel()
                channel.on_confirm = self._confirmed
                channel.on_return = self._unroutable
                channel.on_closed = lambda error, channel=channel: self._lost(channel, error)
                await channel.confirm()
            except MillstreamError as error:
                self._problem = str(error)
                if isinstance(error, ConfigurationError):
                    self._fail_all(error)
                    break
                await asyncio.sleep(wait)
                wait = min(wait * 2, BACK_OFF[1])
                continue
            connection.on_writable = self._pump
            self._problem = ""
            self._first = self._next = 1
            self._channel = channel
            break
        self._connecting = None
        self._pump()

    # What becomes of it

    def _confirmed(self, tag: int, multiple: bool, stored: bool) -> None:
        flight = self._flight
        if not multiple:
            self._settle(tag, flight.pop(tag, None), stored)
        else:
            while self._first <= tag:
                self._settle(self._first, flight.pop(self._first, None), stored)
                self._first += 1
        if self._refused and not flight:
            self._loop.call_later(AGAIN, self._try_again)
        elif self._pending:
            self._pump()

    def _settle(self, tag: int, message: Outgoing | None, stored: bool) -> None:
        if message is None or message.call is None:
            return
        if self._returned and stored and tag <= self._returned.get((message.exchange, message.route), 0):
            stored, self._problem = False, "no stream takes it"
        elif not stored:
            self._problem = "a queue refuses it (a nack)"
        if not stored:
            self._refused.append(message)
            return
        if self._asked and (waiting := self._asked.pop((message.exchange, message.route), None)) is not None:
            self._there.add((message.exchange, message.route))
            self._pending.extendleft(reversed(waiting))
        call = message.call
        call.settle(message.index, None)
        if not call.missing:
            self._calls.pop(call, None)

    def _try_again(self) -> None:
        """What was refused goes first, in its order, and what waited behind it."""
        # Another connection may have come meanwhile, on which something is under way: once it is not, this is tried again.
        if self._refused and not self._flight:
            self._take_back(self._refused)
            self._pump()

    def _take_back(self, messages: Iterable[Outgoing]) -> None:
        """Have these sent again before anything else, with what waits for any of them, and without what is known of their streams."""
        again = sorted((*messages, *(m for waiting in self._asked.values() for m in waiting)), key=lambda message: message.order)
        self._refused = []
        self._returned.clear()
        self._there.clear()
        self._asked.clear()
        self._pending.extendleft(reversed(again))

    def _unroutable(self, exchange: str, route: str) -> None:
        """Nobody reads that topic yet: it is as if a log had kept it for nobody. A stream, however, has to be there."""
        if self._settings.streams:
            # A server that has just come back has its streams a little later. It does not say which message it was that
            # came back: all that went that way do so again.
            self._returned[exchange, route] = self._next - 1
        elif exchange not in self._unread:
            self._unread.add(exchange)
            log.info("%s: no group reads the topic %s yet, so what is published to it goes nowhere", self._settings.name, exchange)

    def _lost(self, channel: Channel, error: MillstreamError) -> None:
        """What was under way is in doubt: it is published again before anything else."""
        if self._channel is not channel:
            return
        self._channel = None
        doubtful, self._flight = self._flight, {}
        self._take_back((*self._refused, *doubtful.values()))
        if isinstance(error, RefusedError) and error.code == NOT_FOUND:
            self._without_exchange(error)
        elif isinstance(error, (RefusedError, ConfigurationError)):
            self._fail_all(error)
        self._problem = str(error)
        if not self._closing:
            self._pump()

    def _without_exchange(self, error: RefusedError) -> None:
        """A topic was deleted: what goes there fails, and whoever publishes again makes it anew."""
        gone = {message.exchange for message in self._pending if f"'{message.exchange}'" in error.text}
        if not gone:
            self._fail_all(error)
        for exchange in gone:
            self._gone(exchange)
        for message in self._pending:
            if message.exchange in gone and message.call is not None:
                message.call.settle(message.index, BrokerUnavailableError(f"{error} The topic was deleted: publish again to make it anew."))
        self._pending = deque(message for message in self._pending if message.exchange not in gone)
        self._sweep()

    def _fail_all(self, error: MillstreamError) -> None:
        for message in self._pending:
            if message.call is not None:
                message.call.settle(message.index, error)
        self._pending.clear()
        self._sweep()

    def _sweep(self) -> None:
        for call in [call for call in self._calls if call.finished.done()]:
            self._calls.pop(call, None)

    def _renew_stalled(self, now: float) -> None:
        """Have a new channel when the first message under way gets no answer."""
        channel, first = self._channel, next(iter(self._flight), 0)
        if channel is None or not first or first != self._oldest[0] or channel.connection.blocked or not channel.connection.writable:
            self._oldest = (first, now)
        elif now - self._oldest[1] > min(STALL, self._settings.timeout / 2):
            log.warning("%s does not confirm what was published: it is published again on a new channel", self._settings.name)
            self._oldest = (0, now)
            self._lost(channel, BrokerUnavailableError("the server does not confirm"))
            asyncio.get_running_loop().create_task(channel.close()).add_done_callback(lambda task: task.cancelled() or task.exception())

    def _look(self) -> None:
        """Have fail what has waited too long."""
        self._watch = None
        now = self._loop.time()
        for call in list(self._calls):
            if now - call.began < self._settings.timeout:
                break
            blocked = self._channel.connection.blocked if self._channel is not None else ""
            why = f" ({blocked or self._problem})" if blocked or self._problem else ""
            call.give_up(
                BrokerUnavailableError(
                    f"not confirmed by {self._settings.name} within {self._settings.timeout:g} s{why}. It may be stored all the "
                    "same: publish it again, under the same id."
                )
            )
            self._calls.pop(call, None)
            for exchange, _ in self._returned:
                self._gone(exchange)
        self._renew_stalled(now)
        if self._refused and all(m.call is None or m.call.finished.done() for m in self._refused) and not self._flight:
            self._try_again()
        if self._calls:
            self._watch = self._loop.call_later(LOOK, self._look)
