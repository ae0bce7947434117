"""What every process is told: a channel that nothing stores."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from millstream.brokers.redis_connection import Connection
from millstream.brokers.redis_names import ROOT
from millstream.contracts.errors import MillstreamError

#: Seconds of silence after which the server is asked whether it is there, and after which it is not.
QUIET, GONE = 5.0, 15.0


def channel_of(database: int) -> str:
    """Channels are the server's, whatever database is chosen."""
    return f"{ROOT}broadcast:{database}"


class RedisListener:
    """One ear for what is broadcast; see `core.broker.Listener`."""

    def __init__(self, connection: Connection, closed: Callable[["RedisListener"], None]) -> None:
        self._connection = connection
        self._closed = closed
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        """When the server said something."""
        self._watching: asyncio.TimerHandle | None = None
        self._heard: list[bytes] = []
        self._bell = asyncio.Event()
        self._failure: MillstreamError | None = None

    async def begin(self) -> None:
        """Return once everything that is said from now on will be heard."""
        self._connection.on_lost = self._fail
        self._connection.on_message = self._came
        await self._connection.call("SUBSCRIBE", channel_of(self._connection.settings.database))
        self._watch()

    def _watch(self) -> None:
        silent = self._loop.time() - self._last
        if silent >= GONE:
            self._connection.abort()
            return
        if silent >= QUIET:
            self._connection.tell("PING")
        self._watching = self._loop.call_later(QUIET, self._watch)

    def _came(self, message: list[Any]) -> None:
        self._last = self._loop.time()
        if message[0] == b"message":
            self._heard.append(message[2])
            self._bell.set()

    def _fail(self, error: MillstreamError) -> None:
        self._failure = error
        self._bell.set()

    async def receive(self, wait: float) -> Sequence[bytes]:
        if not self._heard and self._failure is None and wait > 0:
            self._bell.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._bell.wait()
        if not self._heard and self._failure is not None:
            raise self._failure
        heard, self._heard = self._heard, []
        return heard

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        await self._connection.close()
        self._closed(self)
