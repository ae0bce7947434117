"""Broadcasts of the embedded broker: a short table that every listener reads on from where it began."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from millstream.stores.sqlite_connection import Connection
from millstream.stores.sqlite_file import SqliteFile
from millstream.stores.sqlite_wake import BROADCAST, News

SCHEMA = """
create table if not exists broker_broadcast(seq integer primary key autoincrement, sent integer not null, body blob not null);
"""

#: A broadcast is for those who listen now; one that is stopped for longer than this misses it.
KEEP_SECONDS = 3600
#: Without any wake-up a listener looks again after so many seconds.
IDLE_LOOK = 1.0
#: Old ones removed by each new one, at most.
SWEEP = 10


def send(connection: Connection, body: bytes, now: int) -> None:
    """Write it for every listener, and remove a few that are old."""
    connection.execute("insert into broker_broadcast(sent, body) values(?,?)", (now, body))
    connection.execute(
        "delete from broker_broadcast where seq in (select seq from broker_broadcast order by seq limit ?) and sent<?",
        (SWEEP, now - KEEP_SECONDS * 1_000_000),
    )


class SqliteListener:
    """See `core.broker.Listener`."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file
        self._heard = asyncio.Event()
        self._last: int = file.query("select coalesce(max(seq), 0) from broker_broadcast")[0][0]
        self._stop: Callable[[], None] = file.on_change(self._hear)

    def _hear(self, news: News) -> None:
        if BROADCAST in news.kinds:
            self._heard.set()

    async def receive(self, wait: float) -> Sequence[bytes]:
        end = asyncio.get_running_loop().time() + wait
        while not (found := self._next()):
            left = end - asyncio.get_running_loop().time()
            if left <= 0:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, IDLE_LOOK)):
                    await self._heard.wait()
        return found

    def _next(self) -> list[bytes]:
        self._heard.clear()
        rows = self._file.query("select seq, body from broker_broadcast where seq>? order by seq limit 1000", (self._last,))
        if rows:
            self._last = rows[-1][0]
        return [body for _, body in rows]

    async def close(self) -> None:
        self._stop()
