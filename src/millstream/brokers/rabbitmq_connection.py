"""A connection to RabbitMQ and its channels, on asyncio: no thread, no task for a message."""

import asyncio
import contextlib
import logging
import platform
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from millstream.brokers import rabbitmq_amqp as amqp
from millstream.brokers.rabbitmq_amqp import Delivered, Method
from millstream.brokers.rabbitmq_settings import RabbitSettings
from millstream.contracts.errors import BrokerError, BrokerUnavailableError, ConfigurationError, MillstreamError

log = logging.getLogger("millstream.rabbitmq")

#: Seconds for a connection to be made, and for any answer.
SECONDS = 15.0
FRAME_MAX = 131_072
#: The server may not, or not here: somebody has to change settings.
FORBIDDEN = (403, 530)
NOT_FOUND, LOCKED, DIFFERENT = 404, 405, 406
#: What to do about what else it refuses.
_NEXT = {
    NOT_FOUND: "Somebody has deleted it: the next start of the service that needs it declares it anew.",
    LOCKED: "Another connection has it for itself: the same call may succeed once that one has ended.",
    DIFFERENT: "Give it back the settings that it had, remove it, or choose another name.",
}
_TOO_SLOW = "What was in hand, or waited here, is delivered again. Lower prefetch=, have handlers end sooner, or raise consumer_timeout."
_UNUSUAL = "Look for this in the server's log; the same call may succeed later."

_DELIVER, _ACK, _NACK, _RETURN = (bytes((0, c, 0, n)) for c, n in (amqp.DELIVER, amqp.ACK, amqp.NACK, amqp.RETURN))
_CONTENT = (_DELIVER, _RETURN, bytes((0, 60, 0, 71)))


class RefusedError(BrokerError):
    """The server closed a channel because of something it was asked on it."""

    def __init__(self, code: int, text: str, name: str) -> None:
        what_next = _TOO_SLOW if "delivery acknowledgement" in text else _NEXT.get(code, _UNUSUAL)
        super().__init__(f"{name} refuses: {text} ({code}). {what_next}")
        self.code = code
        self.text = text


def refusal(code: int, text: str, name: str) -> MillstreamError:
    """What to raise when the server closes something."""
    if code in FORBIDDEN:
        return ConfigurationError(f"{name} refuses: {text} ({code}). Check user, password, virtual host, and what this user may do there.")
    return RefusedError(code, text, name)


def _no_tls(settings: RabbitSettings, error: Exception | None) -> ConfigurationError:
    return ConfigurationError(
        f"{settings.name} and this client do not agree on TLS: {error}. Check ca=, cert= and key=, that the certificate is for the host "
        "in the URL, and that the port takes TLS."
    )


class Connection(asyncio.Protocol):
    """One connection: `connect` opens it, and `lost` says why it is gone."""

    def __init__(self, settings: RabbitSettings) -> None:
        self.settings = settings
        self.lost: MillstreamError | None = None
        self._why = ""
        self.blocked = ""
        """Why the server takes nothing at the moment."""
        self.server: Mapping[str, Any] = {}
        self.frame_max = FRAME_MAX
        self.writable = True
        self.on_writable: Callable[[], None] = lambda: None
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._channels: dict[int, Channel] = {}
        self._numbers: deque[int] = deque()
        self._channel_max = 0
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._heard = self._loop.time()
        self._beat: asyncio.TimerHandle | None = None
        self._held = False

    @classmethod
    async def connect(cls, settings: RabbitSettings, *, name: str = "millstream") -> Self:
        """Try one server after the other; raises `BrokerUnavailableError`, or `ConfigurationError` where nobody is let in."""
        problem, why = None, ""
        for host, port in settings.servers:
            connection = cls(settings)
            connection._title = name
            try:
                async with asyncio.timeout(SECONDS):
                    await connection._loop.create_connection(
                        lambda c=connection: c, host, port, ssl=settings.tls, server_hostname=host if settings.tls else None
                    )
                    await connection._opened
            except (OSError, BrokerUnavailableError) as error:
                problem, why = error, connection._why or str(error) or "no answer"
                connection.abort()
            except BaseException:
                connection.abort()
                raise
            else:
                return connection
        if isinstance(problem, ssl.SSLError) and not isinstance(problem, ssl.SSLEOFError):
            raise _no_tls(settings, problem) from problem
        raise BrokerUnavailableError(
            f"{settings.name} cannot be reached: {why}. Check that the server runs, and speaks AMQP "
            f"{'with' if settings.tls else 'without'} TLS on this port; the same call may succeed later."
        ) from problem

    _title = "millstream"

    @property
    def version(self) -> tuple[int, int]:
        """The server's, as two numbers."""
        first, second, *_ = (*str(self.server.get("version", b""), "ascii", "replace").split("."), "0", "0")
        return int(first) if first.isdigit() else 0, int(second) if second.isdigit() else 0

    async def channel(self) -> "Channel":
        """Open a channel."""
        if self.lost is not None:
            raise self.lost
        if self._numbers:
            number = self._numbers.popleft()
        else:
            number = max(self._channels, default=0) + 1
            if self._channel_max and number > self._channel_max:
                raise BrokerError(
                    f"{self.settings.name} allows {self._channel_max} channels to a connection, and all are taken. Raise channel_max, or "
                    "have more members share the partitions."
                )
        channel = self._channels[number] = Channel(self, number)
        await channel.call(amqp.CHANNEL_OPEN, b"\x00")
        return channel

    def write(self, data: bytes) -> None:
        """Send frames; what is written after the connection was lost is lost."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def hold(self, *, held: bool) -> None:
        """Stop reading while there is too much to keep, and go on."""
        if held != self._held and self._transport is not None and self.lost is None:
            self._held = held
            if held:
                self._transport.pause_reading()
            else:
                self._heard = self._loop.time()
                self._transport.resume_reading()

    async def close(self) -> None:
        """Have what was written arrive, and end."""
        if self.lost is None and self._opened.done():
            self.hold(held=False)
            self.write(amqp.method(0, amqp.CLOSE, amqp.short(200), amqp.short_text("bye"), amqp.short(0), amqp.short(0)))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SECONDS / 3):
                    await asyncio.shield(self._closed)
        self.abort()

    def abort(self) -> None:
        """End now."""
        if self._transport is not None:
            self._transport.abort()
        self._lose("closed here")

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=1 << 20)
        transport.write(amqp.PROTOCOL)

    def connection_lost(self, exc: Exception | None) -> None:
        # Of a client's certificate the server says what it thinks only after the client is done.
        refused = isinstance(exc, ssl.SSLError) and not self._opened.done()
        why = str(exc) if exc else "the server has closed the connection"
        self._lose(why, _no_tls(self.settings, exc) if refused else None)

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self.on_writable()

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        header, channels = amqp.FRAME.unpack_from, self._channels
        try:
            while end - at >= 8:
                kind, number, size = header(data, at)
                first = at + 7
                after = first + size + 1
                if after > end:
                    break
                if data[after - 1] != 0xCE:
                    raise ValueError("a frame has no end")
                payload = data[first : after - 1]
                at = after
                if number:
                    channel = channels.get(number)
                    if channel is not None:
                        channel.heard(kind, payload)
                elif kind == amqp.METHOD:
                    self._heard_method(payload)
                elif kind != amqp.HEARTBEAT:
                    raise ValueError(f"a frame of kind {kind} came" if end > 8 else "the server speaks no AMQP 0.9.1")
        except (ValueError, IndexError) as error:
            self._lose(f"what the server says cannot be understood: {error}")
            self.abort()
            return
        self._rest = data[at:]

    # The connection's own methods

    def _heard_method(self, payload: bytes) -> None:
        match payload[1], payload[3]:
            case amqp.START:
                self.server = amqp.read_start(payload)
                capabilities = {
                    name: True
                    for name in (
                        "publisher_confirms", "consumer_cancel_notify", "basic.nack", "connection.blocked", "authentication_failure_close",
                    )
                }  # fmt: skip
                properties = {
                    "product": "millstream", "platform": f"Python {platform.python_version()}", "connection_name": self._title,
                    "capabilities": capabilities,
                }  # fmt: skip
                answer = b"\0" + self.settings.user.encode() + b"\0" + self.settings.password.encode()
                self.write(
                    amqp.method(
                        0, amqp.START_OK, amqp.table(properties), amqp.short_text("PLAIN"), amqp.long_text(answer), amqp.short_text("en_US")
                    )
                )
            case amqp.TUNE:
                self._channel_max, largest, heartbeat = amqp.read_tune(payload)
                self.frame_max = min(FRAME_MAX, largest or FRAME_MAX)
                heartbeat = min(self.settings.heartbeat, heartbeat) if heartbeat else self.settings.heartbeat
                self.write(
                    amqp.method(0, amqp.TUNE_OK, amqp.short(self._channel_max), amqp.long(self.frame_max), amqp.short(heartbeat))
                    + amqp.method(0, amqp.OPEN, amqp.short_text(self.settings.vhost), b"\0\0")
                )
                self._beat = self._loop.call_later(heartbeat / 2, self._beats, heartbeat)
            case amqp.OPEN_OK:
                if not self._opened.done():
                    self._opened.set_result(None)
            case amqp.CLOSE:
                code, text = amqp.read_close(payload)
                self.write(amqp.method(0, amqp.CLOSE_OK))
                error = refusal(code, text, self.settings.name)
                self._lose(text, error if isinstance(error, ConfigurationError) else None)
            case amqp.CLOSE_OK:
                if not self._closed.done():
                    self._closed.set_result(None)
            case amqp.BLOCKED:
                (self.blocked,) = amqp.texts(payload, 4, 1)
                log.warning("%s takes nothing at the moment: %s", self.settings.name, self.blocked)
            case amqp.UNBLOCKED:
                self.blocked = ""
            case _:
                pass

    def _beats(self, seconds: int) -> None:
        if self.lost is not None:
            return
        self.write(amqp.HEARTBEAT_FRAME)
        if not self._held and self._loop.time() - self._heard > 2 * seconds:
            self._lose(f"nothing was heard of the server for {2 * seconds} s")
            self.abort()
            return
        self._beat = self._loop.call_later(seconds / 2, self._beats, seconds)

    def _lose(self, why: str, error: MillstreamError | None = None) -> None:
        if self.lost is not None:
            return
        self._why = why
        self.lost = error or BrokerUnavailableError(
            f"the connection to {self.settings.name} is gone: {why}. Check that the server runs; the same call may succeed later."
        )
        if self._beat is not None:
            self._beat.cancel()
        for future in (self._opened, self._closed):
            if not future.done():
                future.set_exception(self.lost)
                # Whether or not anybody waits.
                future.exception()
        for channel in list(self._channels.values()):
            channel.end(self.lost)
        self._channels.clear()
        self.on_writable()

    def forget(self, number: int) -> None:
        """A channel is closed: its number is free."""
        if self._channels.pop(number, None) is not None:
            self._numbers.append(number)


class Channel:
    """One channel: what is asked is answered in order, and what comes by itself goes to the callbacks."""

    def __init__(self, connection: Connection, number: int) -> None:
        self.connection = connection
        self.number = number
        self.closed: MillstreamError | None = None
        self.on_message: Callable[[Delivered, bytes, bytes], None] = lambda delivered, header, body: None
        self.on_confirm: Callable[[int, bool, bool], None] = lambda tag, multiple, stored: None
        self.on_return: Callable[[str, str], None] = lambda exchange, route: None
        self.on_cancel: Callable[[], None] = lambda: None
        self.on_closed: Callable[[MillstreamError], None] = lambda error: None
        self._answers: deque[asyncio.Future[bytes]] = deque()
        self._method = b""
        self._header = b""
        self._body: list[bytes] = []
        self._missing = 0
        self._got: tuple[Delivered, bytes, bytes] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    @property
    def consumer(self) -> bytes:
        """The tag of the consumer for which `on_message` is called."""
        return self._method[5 : 5 + self._method[4]]

    def ask(self, which: Method, *arguments: bytes) -> "asyncio.Future[bytes]":
        """Send a method, and give what will be its answer."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if self.closed is not None:
            future.set_exception(self.closed)
            return future
        self._answers.append(future)
        self.connection.write(amqp.method(self.number, which, *arguments))
        return future

    async def call(self, which: Method, *arguments: bytes) -> bytes:
        """Send a method and wait for its answer; raises why there is none."""
        return await self.answer(self.ask(which, *arguments))

    async def answer(self, asked: "asyncio.Future[bytes]") -> bytes:
        """Wait for the answer to something that was asked."""
        try:
            async with asyncio.timeout(SECONDS):
                return await asked
        except TimeoutError as error:
            raise BrokerUnavailableError(
                f"{self.connection.settings.name} did not answer within {SECONDS:g} s. Look at the server; the same call may succeed later."
            ) from error

    async def close(self) -> None:
        """Close it; what was delivered on it and not acknowledged goes back to its queues, in order."""
        if self.closed is not None:
            return
        closing = self.ask(amqp.CHANNEL_CLOSE, amqp.short(200), amqp.short_text("done"), amqp.short(0), amqp.short(0))
        with contextlib.suppress(MillstreamError):
            await self.answer(closing)

    # What is asked

    async def declare_exchange(self, name: str, kind: str, arguments: Mapping[str, Any] | None = None) -> None:
        """Have a durable exchange."""
        flags = amqp.bits(False, True)
        await self.call(
            amqp.EXCHANGE_DECLARE, amqp.short(0), amqp.short_text(name), amqp.short_text(kind), flags, amqp.table(arguments or {})
        )

    def ask_exchange(self, name: str) -> "asyncio.Future[bytes]":
        """Ask whether there is an exchange."""
        return self.ask(
            amqp.EXCHANGE_DECLARE, amqp.short(0), amqp.short_text(name), amqp.short_text(""), amqp.bits(True, True), amqp.table({})
        )

    def ask_queue(
        self, name: str, arguments: Mapping[str, Any] | None = None, *, passive: bool = False, exclusive: bool = False,
        auto_delete: bool = False,
    ) -> "asyncio.Future[bytes]":  # fmt: skip
        """Ask for a queue; durable unless it is exclusive."""
        flags = amqp.bits(passive, not exclusive, exclusive, auto_delete)
        return self.ask(amqp.QUEUE_DECLARE, amqp.short(0), amqp.short_text(name), flags, amqp.table(arguments or {}))

    async def queue(self, name: str, **options: Any) -> tuple[str, int, int]:
        """The same, and wait: its name, messages that are ready, and consumers."""
        return amqp.read_declared(await self.answer(self.ask_queue(name, **options)))

    def ask_binding(self, queue: str, exchange: str, routing_key: str = "") -> "asyncio.Future[bytes]":
        """Ask for what is published there to come here."""
        names = (amqp.short_text(queue), amqp.short_text(exchange), amqp.short_text(routing_key))
        return self.ask(amqp.QUEUE_BIND, amqp.short(0), *names, amqp.bits(False), amqp.table({}))

    def ask_deletion(self, queue: str) -> "asyncio.Future[bytes]":
        """Ask for a queue to be removed; nothing happens where there is none."""
        return self.ask(amqp.QUEUE_DELETE, amqp.short(0), amqp.short_text(queue), amqp.bits(False))

    async def prefetch(self, count: int) -> None:
        """How many messages of a consumer may be unacknowledged."""
        await self.call(amqp.QOS, amqp.long(0), amqp.short(count), amqp.bits(False))

    async def consume(
        self, queue: str, *, tag: str = "", unacknowledged: bool = False, arguments: Mapping[str, Any] | None = None
    ) -> None:
        """Have messages delivered to `on_message`."""
        flags, names = amqp.bits(False, unacknowledged), (amqp.short_text(queue), amqp.short_text(tag))
        await self.call(amqp.CONSUME, amqp.short(0), *names, flags, amqp.table(arguments or {}))

    async def get(self, queue: str) -> tuple[Delivered, bytes, bytes] | None:
        """The first message of a queue; None where none is ready."""
        self._got = None
        await self.call(amqp.GET, amqp.short(0), amqp.short_text(queue), amqp.bits(False))
        return self._got

    async def confirm(self) -> None:
        """Have the server confirm what is published."""
        await self.call(amqp.CONFIRM_SELECT, amqp.bits(False))

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        """This one is done; with `multiple` all before it as well."""
        self.connection.write(amqp.method(self.number, amqp.ACK, amqp.longlong(tag), amqp.bits(multiple)))

    def requeue(self, tag: int) -> None:
        """This one goes back."""
        self.connection.write(amqp.method(self.number, amqp.NACK, amqp.longlong(tag), amqp.bits(False, True)))

    # What is heard

    def heard(self, kind: int, payload: bytes) -> None:
        """A frame of this channel came."""
        if kind == amqp.METHOD:
            name = payload[:4]
            if name in _CONTENT:
                self._method = payload
            elif name == _ACK:
                self.on_confirm(*amqp.read_confirm(payload), True)
            elif name == _NACK:
                self.on_confirm(*amqp.read_confirm(payload), False)
            else:
                self._heard_method(payload)
        elif kind == amqp.HEADER:
            self._header, self._body, self._missing = payload, [], amqp.body_size(payload)
            if not self._missing:
                self._complete(b"")
        elif kind == amqp.BODY:
            self._missing -= len(payload)
            if self._missing <= 0:
                if self._body:
                    self._body.append(payload)
                    payload = b"".join(self._body)
                self._complete(payload)
            else:
                self._body.append(payload)

    def _complete(self, body: bytes) -> None:
        name = self._method[:4]
        if name == _DELIVER:
            self.on_message(amqp.read_delivery(self._method), self._header, body)
        elif name == _RETURN:
            self.on_return(*amqp.texts(self._method, 6, 3)[1:])
        else:
            self._got = amqp.read_got(self._method), self._header, body
            self._answer(self._method)

    def _heard_method(self, payload: bytes) -> None:
        match payload[1], payload[3]:
            case amqp.CHANNEL_CLOSE:
                code, text = amqp.read_close(payload)
                self.connection.write(amqp.method(self.number, amqp.CHANNEL_CLOSE_OK))
                self.connection.forget(self.number)
                self.end(refusal(code, text, self.connection.settings.name))
            case amqp.CHANNEL_CLOSE_OK:
                self.connection.forget(self.number)
                self._answer(payload)
                self.end(BrokerError("this channel was closed by who uses it; open another one"), told=False)
            case amqp.CANCEL:
                self.on_cancel()
            case amqp.FLOW:
                self.connection.write(amqp.method(self.number, amqp.FLOW_OK, payload[4:5]))
            case _:
                self._answer(payload)

    def _answer(self, payload: bytes) -> None:
        if self._answers:
            future = self._answers.popleft()
            if not future.done():
                future.set_result(payload)

    def end(self, error: MillstreamError, *, told: bool = True) -> None:
        """It is closed: whoever waits is told why."""
        if self.closed is not None:
            return
        self.closed = error
        while self._answers:
            future = self._answers.popleft()
            if not future.done():
                future.set_exception(error)
                future.exception()
        if told:
            self.on_closed(error)
