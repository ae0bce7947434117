"""A TCP proxy between clients and a server, on which tests do what networks do."""

import asyncio
import socket
import struct
from types import TracebackType
from typing import Self

#: Closed with this, a connection is reset: whoever is at its other end is told, and gets nothing more.
RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Passes on what those who connect to `port` and a server say to each other; it may be cut, and is whole again after `mend`.

    - `drop` resets the connections there are; whoever connects again gets through.
    - `stall` lets nothing through, or none of the answers, and tells nobody. What was said meanwhile arrives
      after `mend`, even from one who has given up since.
    - `refuse` resets the connections, and takes no new ones.
    - `listen_for` waits for a word of a client, and may have it arrive changed.
    """

    def __init__(self, host: str, port: int, *, at: int = 0) -> None:
        self._target = host, port
        self._at = at
        self._server: asyncio.Server | None = None
        self._ends: set[_End] = set()
        self.answers_pass = self.questions_pass = True
        self.passed = 0
        """Bytes, in both directions."""
        self._awaited: dict[bytes, tuple[bytes, asyncio.Event]] = {}

    @property
    def port(self) -> int:
        """Where it listens, and after `refuse` will listen again."""
        return self._at

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return sum(end.is_client for end in self._ends)

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.refuse()

    def drop(self) -> None:
        """Reset all connections."""
        for end in list(self._ends):
            end.reset()

    def stall(self, *, answers_only: bool = False) -> None:
        """Hold back what is said from now on, by both sides or by the server alone, and in new connections too."""
        self._let(answers=False, questions=answers_only)

    async def refuse(self) -> None:
        """Reset all connections, and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.drop()

    def listen_for(self, word: bytes, *, instead: bytes | None = None) -> asyncio.Event:
        """Set when a client has said this for the first time; `instead`, of the same length, is what the server hears of it.

        It is looked for in what arrives together, and so not found where a long question was cut in two in its middle.
        """
        said = asyncio.Event()
        self._awaited[word] = word if instead is None else instead, said
        return said

    def heard(self, question: bytes) -> bytes:
        """What a client has said, as the server shall hear it."""
        for word in [word for word in self._awaited if word in question]:
            instead, said = self._awaited.pop(word)
            question = question.replace(word, instead, 1)
            said.set()
        return question

    async def mend(self) -> None:
        """Pass everything on again, what was held back first."""
        if self._server is None:
            await self._listen()
        self._let(answers=True, questions=True)

    def _let(self, *, answers: bool, questions: bool) -> None:
        self.answers_pass, self.questions_pass = answers, questions
        for end in self._ends:
            end.adjust()

    async def _listen(self) -> None:
        self._server = await asyncio.get_running_loop().create_server(lambda: _Client(self), "127.0.0.1", self._at)
        self._at = self._server.sockets[0].getsockname()[1]

    async def connect(self, client: "_Client") -> None:
        """Give a client its connection to the server, or reset it where there is none."""
        try:
            await asyncio.get_running_loop().create_connection(lambda: _Server(self, client), *self._target)
        except OSError:
            client.reset()

    def add(self, end: "_End") -> None:
        """Note an end that is open."""
        self._ends.add(end)

    def remove(self, end: "_End") -> None:
        """Note that an end is closed."""
        self._ends.discard(end)


class _End(asyncio.Protocol):
    """One end of a connection through the proxy: what comes in here goes out at the other."""

    is_client: bool

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._transport: asyncio.Transport | None = None
        self._full = False
        self.other: _End | None = None

    @property
    def is_open(self) -> bool:
        """Whether anybody is there."""
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._proxy.add(self)
        self.adjust()

    def data_received(self, data: bytes) -> None:
        assert self.other is not None
        self._proxy.passed += len(data)
        self.other.write(self._proxy.heard(data) if self.is_client else data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._proxy.remove(self)
        if self.other is not None:
            self.other.close() if exc is None else self.other.reset()

    def pause_writing(self) -> None:
        self._full = True
        self._adjust_other()

    def resume_writing(self) -> None:
        self._full = False
        self._adjust_other()

    def _adjust_other(self) -> None:
        if self.other is not None:
            self.other.adjust()

    def adjust(self) -> None:
        """Read while that passes, and the other end can take it."""
        if self._transport is None or self._transport.is_closing():
            return
        passes = self._proxy.questions_pass if self.is_client else self._proxy.answers_pass
        if passes and self.other is not None and not self.other._full:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def write(self, data: bytes) -> None:
        """Say what the other end has heard."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """End it, once all is said."""
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """End it at once, so that whoever is there notices."""
        if self._transport is not None:
            connection: socket.socket = self._transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._transport.abort()


class _Client(_End):
    """Where a client has connected."""

    is_client = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # Kept, so that it is not collected while it runs.
        self._connecting = asyncio.get_running_loop().create_task(self._proxy.connect(self))


class _Server(_End):
    """The connection to the server that a client has."""

    is_client = False

    def __init__(self, proxy: Proxy, client: _Client) -> None:
        super().__init__(proxy)
        self._client = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._client.is_open:
            self.other, self._client.other = self._client, self
            self.adjust()
            self._client.adjust()
        else:
            self.reset()
