"""One connection to Redis: commands are sent as they come, and answered in their order."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import hiredis

from millstream.brokers.redis_settings import RedisSettings
from millstream.contracts.errors import BrokerError, BrokerUnavailableError, ConfigurationError, MillstreamError

#: Seconds that the server gets for each step of the beginning.
CONNECTING = 10.0
#: Seconds without an answer after which a connection is given up; a cut network says nothing.
SILENCE = 10.0
#: How errors begin that pass, and that say that this one may not do what it asks.
_PASSING = ("LOADING", "BUSY ", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN")
_OUTSIDE = ("NOAUTH", "WRONGPASS")
_REFUSED = ("NOPERM", "READONLY")

Argument = bytes | str | int
Answer = Any


def packed(command: Sequence[Argument]) -> bytes:
    """A command as it is sent."""
    # Its types know commands of one word alone.
    return cast("Any", hiredis).pack_command(tuple(command))


class ReplyError(BrokerError):
    """The server refused a command."""


class UnknownScriptError(BrokerError):
    """The server has forgotten a script that it was sent before."""


class Connection(asyncio.Protocol):
    """Commands may be asked for one after another without waiting."""

    def __init__(self, settings: RedisSettings) -> None:
        self.settings = settings
        self.lost: MillstreamError | None = None
        self.on_message: Callable[[list[Any]], None] | None = None
        """What a connection that listens is told without having asked."""
        self.on_answer: Callable[[Answer], None] | None = None
        """Gets each answer at once, a turn of the loop before whoever waits for it."""
        self.on_lost: Callable[[MillstreamError], None] | None = None
        self.received = 0
        """Bytes so far."""
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(replyError=ReplyError)
        self._asked: deque[asyncio.Future[Answer]] = deque()
        self._transport: asyncio.Transport | None = None
        self._closed = self._loop.create_future()

    @classmethod
    async def connect(cls, settings: RedisSettings, *, name: str) -> Self:
        """Be connected and let in, with the database chosen."""
        loop = asyncio.get_running_loop()
        tls = settings.tls
        try:
            async with asyncio.timeout(CONNECTING):
                _, connection = await loop.create_connection(lambda: cls(settings), settings.host, settings.port, ssl=tls)
        except (OSError, TimeoutError) as error:
            raise BrokerUnavailableError(f"{settings.name} cannot be reached: {error or 'no answer'}. Check that it runs there.") from error
        try:
            await connection._begin(name)
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _begin(self, name: str) -> None:
        settings = self.settings
        if settings.password:
            user = (settings.user,) if settings.user else ()
            await self.call("AUTH", *user, settings.password, wait=CONNECTING)
        await self.call("PING", wait=CONNECTING)
        if settings.database:
            await self.call("SELECT", settings.database, wait=CONNECTING)
        await self.call("CLIENT", "SETNAME", "".join(c if "!" <= c <= "~" else "_" for c in name), wait=CONNECTING)

    # Asking

    def ask(self, *command: Argument) -> "asyncio.Future[Answer]":
        """Send a command; its answer comes after those of all before it."""
        return self.send(packed(command))

    def send(self, data: bytes) -> "asyncio.Future[Answer]":
        """The same for a command that is packed already."""
        answer: asyncio.Future[Answer] = self._loop.create_future()
        if self.lost is not None or self._transport is None:
            answer.set_exception(self.lost or self._gone())
            return answer
        self._asked.append(answer)
        self._transport.write(data)
        return answer

    def tell(self, *command: Argument) -> None:
        """Send what is not answered, or is answered like what a connection that listens is told."""
        if self._transport is not None:
            self._transport.write(packed(command))

    async def call(self, *command: Argument, wait: float = SILENCE) -> Answer:
        """Send a command and wait for its answer; a connection that says nothing is given up."""
        return await self.answer(self.ask(*command), wait)

    async def answer(self, asked: "asyncio.Future[Answer]", wait: float = SILENCE) -> Answer:
        """Wait for an answer."""
        try:
            async with asyncio.timeout(wait):
                return await asked
        except TimeoutError as error:
            self.abort()
            raise BrokerUnavailableError(
                f"{self.settings.name} did not answer within {wait:g} s. The same call may succeed later."
            ) from error
        except ReplyError as error:
            raise self._explained(str(error)) from error

    def _explained(self, text: str) -> MillstreamError:
        if text.startswith(_PASSING):
            return BrokerUnavailableError(f"{self.settings.name} is not ready: {text}. The same call may succeed later.")
        if text.startswith(_OUTSIDE):
            return ConfigurationError(f"{self.settings.name} lets nobody in: {text.rstrip('.')}. Check user and password.")
        if text.startswith(_REFUSED):
            return ConfigurationError(
                f"{self.settings.name} does not allow it: {text}. Check the user, what it may do, and that this is no replica."
            )
        if text.startswith("NOSCRIPT"):
            return UnknownScriptError(f"{self.settings.name} does not know a script: {text}")
        return BrokerError(f"{self.settings.name} refused: {text}")

    def _gone(self, why: Exception | None = None) -> MillstreamError:
        because = f": {why}" if why is not None else ""
        # With TLS 1.3 a server ends only afterwards a connection whose certificate it does not like.
        always = " If it never does, the server may want a certificate: check cert= and key=." if self.settings.tls is not None else ""
        return BrokerUnavailableError(f"the connection to {self.settings.name} is gone{because}. The same call may succeed later.{always}")

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        self.received += len(data)
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                self._answered(reply)
        except hiredis.ProtocolError as error:
            self.lost = BrokerUnavailableError(f"{self.settings.name} speaks another protocol than Redis: {error}")
            self.abort()

    def _answered(self, reply: Answer) -> None:
        if not self._asked:
            if self.on_message is not None:
                self.on_message(reply)
            return
        answer = self._asked.popleft()
        if answer.done():
            return
        if isinstance(reply, ReplyError):
            answer.set_exception(reply)
            return
        answer.set_result(reply)
        if self.on_answer is not None:
            self.on_answer(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closed.done():
            self._closed.set_result(None)
        self._end(exc)

    def _end(self, why: Exception | None = None) -> None:
        error = self.lost = self.lost or self._gone(why)
        asked, self._asked = self._asked, deque()
        for answer in asked:
            if not answer.done():
                answer.set_exception(self._gone(why))
                # Whoever waited for it may have gone.
                answer.exception()
        on_lost, self.on_lost = self.on_lost, None
        if on_lost is not None:
            on_lost(error)

    def abort(self) -> None:
        """End it now; what was asked and not answered may have been done or not."""
        if self._transport is not None:
            self._transport.abort()
        self._end()

    async def close(self) -> None:
        """End it, and return when it has ended."""
        self.on_lost = None
        if self._transport is not None:
            self._transport.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CONNECTING):
                    await asyncio.shield(self._closed)
        self.abort()
