"""The limits: the same work with apsw and msgspec alone, without a framework.

A row per event, as one would write it by hand; SQLite in WAL mode, `synchronous=FULL`.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from pathlib import Path

import apsw
import msgspec

from benchmarks.orders import OrderCreated

SCHEMA = """
create table log(id integer primary key, topic text, key text, time integer, body blob);
create table inbox(id integer primary key);
create table progress(name text primary key, position integer);
create table reserved(order_id text, sku text);
insert into progress values('group', 0);
"""
INSERT = "insert into log(topic, key, time, body) values(?,?,?,?)"

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(OrderCreated).decode


def connect(folder: Path) -> apsw.Connection:
    """A new file."""
    connection = apsw.Connection(str(folder / "bare.db"))
    connection.execute("pragma journal_mode=wal; pragma synchronous=full; pragma wal_autocheckpoint=2000").fetchall()
    connection.execute(SCHEMA)
    return connection


def append(connection: apsw.Connection, orders: list[OrderCreated]) -> None:
    """Encode and insert, in one transaction."""
    rows = [("order.created", order.order_id, 0, encode(order)) for order in orders]
    connection.execute("begin immediate")
    connection.executemany(INSERT, rows)
    connection.execute("commit")


class Writer:
    """A thread that commits what waits for it, all of it at once, and tells the loop."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[tuple[OrderCreated, asyncio.Future[None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    async def write(self, order: OrderCreated) -> None:
        """Return when it is on disk."""
        done = self._loop.create_future()
        self._jobs.put((order, done))
        await done

    def close(self) -> None:
        """Stop the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            jobs = [job]
            while not self._jobs.empty() and (another := self._jobs.get()) is not None:
                jobs.append(another)
            append(self._connection, [order for order, _ in jobs])
            self._loop.call_soon_threadsafe(_resolve, [done for _, done in jobs])


def _resolve(futures: "list[asyncio.Future[None]]") -> None:
    for future in futures:
        future.set_result(None)


async def consume(connection: apsw.Connection, count: int, page: int, handle: Callable[[OrderCreated], object]) -> None:
    """Read, decode, await the handler, move the position once a page."""
    position = 0
    reader = apsw.Connection(connection.filename, flags=apsw.SQLITE_OPEN_READONLY)

    async def handler(order: OrderCreated) -> None:
        handle(order)

    while position < count:
        rows = reader.execute("select id, body from log where id>? order by id limit ?", (position, page)).fetchall()
        connection.execute("begin immediate")
        for _, body in rows:
            await handler(decode(body))
        position = rows[-1][0]
        connection.execute("update progress set position=? where name='group'", (position,))
        connection.execute("commit")
