"""Publishing to RabbitMQ: one channel with confirms, in order, and again what a lost connection left in doubt."""

import asyncio
import logging
from bisect import insort
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence

from millstream.brokers import rabbitmq_amqp as amqp
from millstream.brokers.publish_call import PublishCall
from millstream.brokers.rabbitmq_connection import NOT_FOUND, Channel, Connection, RefusedError
from millstream.brokers.rabbitmq_settings import RabbitSettings
from millstream.brokers.rabbitmq_unread import RabbitUnread
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
#: a server came back can leave a channel without any answer for ever. A server that is only slow is given twice as long each time.
STALL = 3.0

#: An exchange and a routing key: what is published there has an order.
Way = tuple[str, str]


class Outgoing:
    """One message on its way."""

    __slots__ = ("_content", "call", "exchange", "index", "mandatory", "order", "route", "size")

    def __init__(self, exchange: str, route: str, content: tuple[bytes, bytes, bytes], *, mandatory: bool = True) -> None:
        self.exchange = exchange
        self.route = route
        self.mandatory = mandatory
        self._content = content
        self.size = len(content[1]) + len(content[2])
        """Of its headers and body, in bytes."""
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
    stream the first message goes alone, until it is known to be there. A message that a
    queue or stream refuses is published again, alone and before what goes the same way,
    until the call's time is over. One for which the server closes the channel fails; where
    it cannot be told which one that was, those that may have been go one by one.
    """

    def __init__(
        self, settings: RabbitSettings, connect: Callable[[], Awaitable[Connection]], gone: Callable[[str], None], unread: RabbitUnread
    ) -> None:
        self._settings = settings
        self._connect = connect
        self._gone = gone
        """Called with the name of an exchange that is not there any more."""
        self._unread = unread
        self._loop = asyncio.get_running_loop()
        self._channel: Channel | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._pending: deque[Outgoing] = deque()
        self._flight: dict[int, Outgoing] = {}
        self._first = self._next = 1
        """Numbers that the server counts by, on this channel."""
        self._order = 0
        self._calls: dict[PublishCall, None] = {}
        self._watch: asyncio.TimerHandle | None = None
        self._there: set[Way] = set()
        """Where this channel knows that a stream takes what goes there."""
        self._held: dict[Way, list[Outgoing]] = {}
        """What waits, in its order, until one that goes the same way is known to be stored."""
        self._again: dict[Way, asyncio.TimerHandle] = {}
        """Where that one was refused, and when the next attempt is made."""
        self._returned: dict[Way, int] = {}
        """Where something came back, and the last message that it may have been."""
        self._alone = 0
        """Messages up to this one go one by one: the server closed a channel because of one of them."""
        self._problem = ""
        self._oldest = (0, 0.0)
        """The number of the first message under way, and since when it is the first."""
        self._stall = STALL
        self._pumping = False
        self._closing = False

    async def send(self, messages: Sequence[Outgoing]) -> Sequence[MillstreamError | None]:
        """One answer for each: None once the server has confirmed it."""
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
        if not self._pumping:
            # Once for all that publish now: what goes out together costs one call of the system.
            self._pumping = True
            self._loop.call_soon(self._pump)
        await call.heard
        return call.results

    async def close(self) -> None:
        """Wait for what is under way, and end."""
        try:
            while self._calls:
                await asyncio.wait([call.finished for call in self._calls])
                self._sweep()
        finally:
            self._closing = True
            for timer in (self._watch, *self._again.values()):
                if timer is not None:
                    timer.cancel()
            for call in self._calls:
                call.give_up(BrokerUnavailableError("closed before it was confirmed. It may be stored all the same: publish it again."))
            self._calls.clear()
            if self._connecting is not None:
                self._connecting.cancel()
                await asyncio.gather(self._connecting, return_exceptions=True)

    # Sending

    def _pump(self) -> None:
        """Hand over what may be under way."""
        self._pumping = False
        channel = self._channel
        if channel is None:
            if self._connecting is None and self._pending and not self._closing:
                self._connecting = self._loop.create_task(self._open())
            return
        connection, pending, flight = channel.connection, self._pending, self._flight
        streams, held = self._settings.streams, self._held
        if self._alone and not flight and pending and pending[0].order > self._alone:
            self._alone = 0
        window = 1 if self._alone else WINDOW
        while pending and connection.writable and len(flight) < window and self._channel is channel:
            some: list[Outgoing] = []
            size = 0
            while pending and len(flight) + len(some) < window and size < PIECE:
                message = pending.popleft()
                if message.call is None or message.call.finished.done():
                    continue
                if held or streams:
                    way = message.exchange, message.route
                    waiting = held.get(way)
                    if waiting is not None:
                        waiting.append(message)
                        continue
                    if streams and message.mandatory and way not in self._there:
                        held[way] = []
                some.append(message)
                size += message.size
            self._write(channel, some)

    def _write(self, channel: Channel, messages: Sequence[Outgoing]) -> None:
        number, frame_max = channel.number, channel.connection.frame_max
        pieces: list[bytes] = []
        for message in messages:
            pieces.append(message.frames(number, frame_max))
            self._flight[self._next] = message
            self._next += 1
        if pieces:
            channel.connection.write(b"".join(pieces))

    async def _open(self) -> None:
        """Have a channel, however long it takes."""
        wait = BACK_OFF[0]
        while not self._closing:
            try:
                connection = await self._connect()
                channel = await connection.channel()
                channel.on_closed = lambda error, channel=channel: self._lost(channel, error)
                await channel.confirm()
                if channel.closed is not None:
                    raise channel.closed
            except MillstreamError as error:
                self._problem = str(error)
                if isinstance(error, ConfigurationError):
                    self._fail_all(error)
                    break
                await asyncio.sleep(wait)
                wait = min(wait * 2, BACK_OFF[1])
                continue
            channel.on_confirm = self._confirmed
            channel.on_return = self._unroutable
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
        self._stall = STALL
        if not multiple:
            self._settle(tag, flight.pop(tag, None), stored)
        else:
            while self._first <= tag:
                self._settle(self._first, flight.pop(self._first, None), stored)
                self._first += 1
        if self._pending:
            self._pump()

    def _settle(self, tag: int, message: Outgoing | None, stored: bool) -> None:
        if message is None or message.call is None:
            return
        if self._returned and stored and tag <= self._returned.get((message.exchange, message.route), 0):
            stored, self._problem = False, "no stream takes it"
        elif not stored:
            self._problem = "a queue refuses it (a nack)"
        if not stored:
            self._refuse(message)
            return
        if self._unread.routes:
            self._unread.confirmed(message.exchange, message.route)
        if self._held:
            self._release((message.exchange, message.route))
        call = message.call
        call.settle(message.index, None)
        if not call.missing:
            self._calls.pop(call, None)

    def _release(self, way: Way) -> None:
        """One was stored: what waited for it goes now, unless another one that goes the same way was refused."""
        if way in self._held and way not in self._again:
            self._there.add(way)
            self._returned.pop(way, None)
            self._pending.extendleft(reversed(self._held.pop(way)))

    def _refuse(self, message: Outgoing) -> None:
        """It waits a little, and what goes the same way behind it."""
        way = message.exchange, message.route
        insort(self._held.setdefault(way, []), message, key=lambda held: held.order)
        if way not in self._again:
            self._there.discard(way)
            self._again[way] = self._loop.call_later(AGAIN, self._try_again, way)

    def _try_again(self, way: Way) -> None:
        """Send the first of those that wait, once nothing is under way that could come before or behind it."""
        channel, waiting = self._channel, self._held[way]
        while waiting and (call := waiting[0].call) is not None and call.finished.done():
            waiting.pop(0)
        if channel is None or not waiting:
            del self._again[way], self._held[way]
        elif (
            (self._alone and self._flight)
            or not channel.connection.writable
            or any((m.exchange, m.route) == way for m in self._flight.values())
        ):
            self._again[way] = self._loop.call_later(AGAIN, self._try_again, way)
        else:
            del self._again[way]
            self._write(channel, [waiting.pop(0)])

    def _unroutable(self, exchange: str, route: str) -> None:
        """Nobody reads that topic yet: it is as if a log had kept it for nobody. A stream, however, has to be there."""
        if self._settings.streams:
            # A server that has just come back has its streams a little later. It does not say which message it was that
            # came back: all that went that way do so again.
            self._returned[exchange, route] = self._next - 1
        else:
            self._unread.came_back(exchange, route)

    def _lost(self, channel: Channel, error: MillstreamError) -> None:
        """What was under way is in doubt: it is published again before anything else."""
        if self._channel is not channel:
            return
        self._channel = None
        # A channel that is given up may go on confirming, by numbers that the next one counts anew.
        channel.on_confirm = lambda tag, multiple, stored: None
        channel.on_return = lambda exchange, route: None
        for timer in self._again.values():
            timer.cancel()
        doubtful = list(self._flight.values())
        waiting = sorted((*doubtful, *(message for held in self._held.values() for message in held)), key=lambda message: message.order)
        for known in (self._flight, self._held, self._again, self._returned, self._there):
            known.clear()
        self._unread.in_doubt()
        self._pending.extendleft(reversed(waiting))
        self._problem = str(error)
        if isinstance(error, (RefusedError, ConfigurationError)):
            self._fail(doubtful, error, whole=channel.connection.lost is not None)
        if not self._closing:
            self._pump()

    def _fail(self, doubtful: Sequence[Outgoing], error: MillstreamError, *, whole: bool) -> None:
        """Have fail what the server has closed a channel for: what goes to the exchange that it names, or the one that was under way."""
        named = {message.exchange for message in self._pending if f"exchange '{message.exchange}'" in str(error)}
        if whole:
            self._fail_all(error)
        elif named:
            if isinstance(error, RefusedError) and error.code == NOT_FOUND:
                for exchange in named:
                    self._gone(exchange)
                error = BrokerUnavailableError(
                    f"{self._settings.name}: {error.text}. The topic was deleted: publish again to make it anew."
                )
            self._settle_all([message for message in self._pending if message.exchange in named], error)
        elif len(doubtful) == 1:
            self._settle_all(doubtful, error)
        else:
            self._alone = max((message.order for message in doubtful), default=0)

    def _fail_all(self, error: MillstreamError) -> None:
        self._settle_all(self._pending, error)

    def _settle_all(self, messages: Iterable[Outgoing], error: MillstreamError) -> None:
        """They are not sent any more."""
        failed = set(messages)
        for message in failed:
            if message.call is not None:
                message.call.settle(message.index, error)
        self._pending = deque(message for message in self._pending if message not in failed)
        self._sweep()

    def _sweep(self) -> None:
        for call in [call for call in self._calls if call.finished.done()]:
            self._calls.pop(call, None)

    def _renew_stalled(self, now: float) -> None:
        """Have a new channel when the first message under way gets no answer."""
        channel, first = self._channel, next(iter(self._flight), 0)
        if channel is None or not first or first != self._oldest[0] or channel.connection.blocked or not channel.connection.writable:
            self._oldest = (first, now)
        elif now - self._oldest[1] > min(self._stall, self._settings.timeout / 2):
            self._stall *= 2
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
        if self._calls:
            self._watch = self._loop.call_later(LOOK, self._look)
