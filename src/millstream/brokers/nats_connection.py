"""A connection to NATS, on asyncio: the client protocol as bytes, no thread, no task for a message."""

import asyncio
import contextlib
import logging
import platform
import secrets
from base64 import urlsafe_b64encode
from collections import deque
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import msgspec

from millstream.brokers.nats_settings import NatsSettings
from millstream.contracts.errors import BrokerError, BrokerUnavailableError, ConfigurationError, MillstreamError

log = logging.getLogger("millstream.nats")

#: Seconds for a connection to be made, and for any answer.
SECONDS = 15.0
#: Seconds between signs of life that are asked for; after three without one a connection is given up.
BEAT = 5.0
SILENCE = 3 * BEAT
#: What the server says about one request, and not about the connection.
_HARMLESS = ("permissions violation", "invalid subject", "invalid publish subject")
NO_RESPONDERS = b"503"

Heard = Callable[[bytes, bytes, bytes, bytes], None]
"""Takes the subject, where to answer, the headers with their first line, and the body of a message."""


class NoAnswerError(BrokerUnavailableError):
    """Whoever was asked has not answered in time, and may have done what it was asked."""


class NoResponderError(BrokerError):
    """Nobody listens to a subject that was asked."""


class Info(msgspec.Struct, frozen=True):
    """What a server says of itself."""

    version: str = ""
    max_payload: int = 1 << 20
    headers: bool = False
    tls_required: bool = False
    nonce: str = ""
    cluster: str = ""


class Connection(asyncio.Protocol):
    """One connection: `connect` opens it, and `lost` says why it is gone."""

    def __init__(self, settings: NatsSettings) -> None:
        self.settings = settings
        self.info = Info()
        self.lost: MillstreamError | None = None
        self.on_lost: Callable[[MillstreamError], None] = lambda error: None
        self.on_writable: Callable[[], None] = lambda: None
        self.writable = True
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._subscriptions: dict[bytes, Heard] = {}
        self._next = 1
        self.inbox = f"_INBOX.{secrets.token_hex(8)}"
        """Where answers to this connection go, each under a word of its own."""
        self._asked: dict[bytes, asyncio.Future[tuple[bytes, bytes]]] = {}
        self._pongs: deque[asyncio.Future[None] | None] = deque()
        self._informed: asyncio.Future[None] = self._loop.create_future()
        self._heard = self._loop.time()
        self._beat: asyncio.TimerHandle | None = None

    @classmethod
    async def connect(cls, settings: NatsSettings, *, name: str = "millstream") -> Self:
        """Try one server after the other; raises `BrokerUnavailableError`, or `ConfigurationError` where nobody is let in."""
        problem: Exception | None = None
        for host, port in settings.servers:
            connection = cls(settings)
            try:
                async with asyncio.timeout(SECONDS):
                    await connection._open(host, port, name)
            except (OSError, BrokerUnavailableError) as error:
                problem = error
                connection.abort()
            except BaseException:
                connection.abort()
                raise
            else:
                return connection
        raise BrokerUnavailableError(
            f"{settings.name} cannot be reached: {problem or 'no answer'}. Check that the server runs; the same call may succeed later."
        ) from problem

    async def _open(self, host: str, port: int, name: str) -> None:
        await self._loop.create_connection(lambda: self, host, port)
        await self._informed
        assert self._transport is not None
        if self.settings.tls is not None:
            self._transport = await self._loop.start_tls(self._transport, self, self.settings.tls, server_hostname=host)
            if self._transport is None:
                raise BrokerUnavailableError(f"{self.settings.name} has closed the connection while TLS began")
        elif self.info.tls_required:
            raise ConfigurationError(f"{self.settings.name} requires TLS: add tls=1, or ca= with the file of whom to trust.")
        if not self.info.headers:
            raise ConfigurationError(f"{self.settings.name} runs NATS {self.info.version}, without headers; 2.9 is the oldest that serves.")
        self._transport.set_write_buffer_limits(high=1 << 20)
        self._subscriptions[b"0"] = self._answered
        # In one piece: a server that lets nobody in hangs up, and what is written then could hide its reason.
        await self.flush(b"CONNECT %b\r\nSUB %b.* 0\r\n" % (msgspec.json.encode(self._credentials(name)), self.inbox.encode()))
        self._keep_alive()

    def _credentials(self, name: str) -> dict[str, Any]:
        settings = self.settings
        said: dict[str, Any] = {
            "verbose": False, "pedantic": False, "headers": True, "no_responders": True, "protocol": 1, "echo": True,
            "lang": "millstream", "version": platform.python_version(), "name": name,
        }  # fmt: skip
        if settings.user:
            said |= {"user": settings.user, "pass": settings.password}
        if settings.token:
            said |= {"auth_token": settings.token}
        if settings.creds:
            said |= _signed(settings, self.info.nonce)
        return said

    # Saying

    def write(self, data: bytes) -> None:
        """Send; what is written after the connection was lost is lost."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def publish(self, subject: str, body: bytes, *, reply: str = "", head: bytes = b"") -> None:
        """Send one message."""
        self.write(packet(subject.encode(), reply.encode(), head, body))

    def subscribe(self, subject: str, heard: Heard) -> int:
        """Have called whatever is published there from now on."""
        number = self._next
        self._next += 1
        self._subscriptions[b"%d" % number] = heard
        self.write(f"SUB {subject} {number}\r\n".encode())
        return number

    def unsubscribe(self, number: int) -> None:
        """Have nothing more of it."""
        if self._subscriptions.pop(b"%d" % number, None) is not None:
            self.write(b"UNSUB %d\r\n" % number)

    async def request(
        self, subject: str, body: bytes = b"", *, head: bytes = b"", seconds: float = SECONDS
    ) -> tuple[bytes, bytes]:
        """Ask, and give the headers and the body of the answer."""
        if self.lost is not None:
            raise self.lost
        word = b"%x" % self._next
        self._next += 1
        answer = self._asked[word] = self._loop.create_future()
        try:
            self.publish(subject, body, reply=f"{self.inbox}.{word.decode()}", head=head)
            async with asyncio.timeout(seconds):
                header, said = await answer
        except TimeoutError as error:
            raise NoAnswerError(f"{self.settings.name}: no answer to {subject} within {seconds:g} s. Try again later.") from error
        finally:
            self._asked.pop(word, None)
        if status(header) == NO_RESPONDERS:
            raise NoResponderError(f"{self.settings.name}: nobody answers to {subject}.")
        return header, said

    async def flush(self, first: bytes = b"") -> None:
        """Return once the server has read everything that was said, this included."""
        if self.lost is not None:
            raise self.lost
        pong: asyncio.Future[None] = self._loop.create_future()
        self._pongs.append(pong)
        self.write(first + b"PING\r\n")
        try:
            async with asyncio.timeout(SECONDS):
                await pong
        except TimeoutError as error:
            raise BrokerUnavailableError(f"{self.settings.name} does not answer. Try again later.") from error

    async def close(self) -> None:
        """Have what was written arrive, and end."""
        if self.lost is None:
            with contextlib.suppress(MillstreamError, TimeoutError):
                async with asyncio.timeout(SECONDS / 3):
                    await self.flush()
        self.abort()

    def abort(self) -> None:
        """End now."""
        self.on_lost = lambda error: None
        if self._transport is not None:
            self._transport.abort()
        self._lose(BrokerUnavailableError(f"the connection to {self.settings.name} was closed here"))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        why = str(exc) if exc else "the server has closed the connection"
        self._lose(BrokerUnavailableError(f"{self.settings.name} is gone: {why}. The same call may succeed later."))

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self.on_writable()

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        if self._rest:
            data = self._rest + data
        at, end, subscriptions, find = 0, len(data), self._subscriptions, data.find
        try:
            while (stop := find(b"\r\n", at)) >= 0:
                kind = data[at]
                if kind == 72:  # H: a message with headers
                    fields = data[at:stop].split()
                    start = stop + 2
                    body, after = start + int(fields[-2]), start + int(fields[-1])
                    if after + 2 > end:
                        break
                    heard = subscriptions.get(fields[2])
                    if heard is not None:
                        heard(fields[1], fields[3] if len(fields) == 6 else b"", data[start:body], data[body:after])
                    at = after + 2
                elif kind == 77:  # M: one without
                    fields = data[at:stop].split()
                    start = stop + 2
                    after = start + int(fields[-1])
                    if after + 2 > end:
                        break
                    heard = subscriptions.get(fields[2])
                    if heard is not None:
                        heard(fields[1], fields[3] if len(fields) == 5 else b"", b"", data[start:after])
                    at = after + 2
                else:
                    self._told(data[at:stop])
                    at = stop + 2
        except (ValueError, IndexError) as error:
            self._lose(BrokerUnavailableError(f"{self.settings.name}: what the server says cannot be understood: {error}"))
            if self._transport is not None:
                self._transport.abort()
            return
        self._rest = data[at:] if at else data

    def _told(self, line: bytes) -> None:
        """A line that is no message."""
        word = line[:4].upper()
        if word == b"PING":
            self.write(b"PONG\r\n")
        elif word == b"PONG":
            pong = self._pongs.popleft() if self._pongs else None
            if pong is not None and not pong.done():
                pong.set_result(None)
        elif word == b"INFO":
            try:
                self.info = msgspec.json.decode(line[5:], type=Info)
            except msgspec.MsgspecError as error:
                raise ValueError(f"it is no NATS server ({error})") from error
            if not self._informed.done():
                self._informed.set_result(None)
        elif word == b"-ERR":
            self._refused(line[5:].decode("utf-8", "replace").strip("' "))
        elif line[:1] != b"+":
            raise ValueError(f"{line[:40]!r} is no line of NATS")

    def _refused(self, why: str) -> None:
        if why.lower().startswith(_HARMLESS):
            log.warning("%s refuses: %s", self.settings.name, why)
            return
        error: MillstreamError = BrokerUnavailableError(f"{self.settings.name} ends the connection: {why}.")
        if "authorization" in why.lower() or "authentication" in why.lower():
            error = ConfigurationError(f"{self.settings.name} lets nobody in: {why}. Check user and password, the token, or creds=.")
        self._lose(error)

    def _answered(self, subject: bytes, reply: bytes, head: bytes, body: bytes) -> None:
        answer = self._asked.pop(subject[subject.rindex(b".") + 1 :], None)
        if answer is not None and not answer.done():
            answer.set_result((head, body))

    def _keep_alive(self) -> None:
        if self.lost is not None:
            return
        if self._loop.time() - self._heard > SILENCE:
            self._lose(BrokerUnavailableError(f"{self.settings.name} has not answered for {SILENCE:g} s."))
            if self._transport is not None:
                self._transport.abort()
            return
        self._pongs.append(None)
        self.write(b"PING\r\n")
        self._beat = self._loop.call_later(BEAT, self._keep_alive)

    def _lose(self, error: MillstreamError) -> None:
        if self.lost is not None:
            return
        self.lost = error
        if self._beat is not None:
            self._beat.cancel()
        for waiting in (self._informed, *self._pongs, *self._asked.values()):
            if waiting is not None and not waiting.done():
                waiting.set_exception(error)
                # Nobody may be waiting any more.
                waiting.exception()
        self._subscriptions.clear()
        self.on_lost(error)
        self.on_writable()


def packet(subject: bytes, reply: bytes, head: bytes, body: bytes) -> bytes:
    """A message as it is sent."""
    if head:
        return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject, reply, len(head), len(head) + len(body), head, body)
    return b"PUB %b %b %d\r\n%b\r\n" % (subject, reply, len(body), body)


def status(head: bytes) -> bytes:
    """The number that the first line of headers has when the server speaks for itself, else nothing."""
    return head[9:12] if head.startswith(b"NATS/1.0 ") else b""


def _signed(settings: NatsSettings, nonce: str) -> dict[str, str]:
    """Who we are by a credentials file, with the server's nonce signed."""
    try:
        text = Path(settings.creds).read_text()
        jwt, seed = (text.split(f"-----BEGIN {what}-----")[1].split("------END")[0].strip() for what in ("NATS USER JWT", "USER NKEY SEED"))
    except (OSError, IndexError) as error:
        raise ConfigurationError(f"{settings.name}: {settings.creds} holds no credentials: {error}. Check creds=.") from error
    try:
        # On demand, and without types.
        nkeys = import_module("nkeys")
    except ImportError as error:
        raise ConfigurationError(
            f"{settings.name}: creds= needs a package that is not installed here (nkeys): pip install 'millstream[nats]'"
        ) from error
    signature: bytes = nkeys.from_seed(seed.encode()).sign(nonce.encode())
    return {"jwt": jwt, "sig": urlsafe_b64encode(signature).rstrip(b"=").decode()}
