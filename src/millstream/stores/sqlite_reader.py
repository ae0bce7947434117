"""Reading a file on threads, beside whoever writes it: a long question holds up neither the loop nor the writer."""

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, cast

import apsw

from millstream.contracts.errors import StoreBusyError
from millstream.stores.sqlite_connection import Connection, connect
from millstream.stores.sqlite_errors import sqlite_errors

#: A question that takes longer is given up, in seconds.
LONGEST = 5.0
#: Steps of SQLite's machine between two looks at the clock.
STEPS = 20_000
#: How much of the file a connection may map and cache, in bytes and kibibytes.
MAPPED = 8 << 30
CACHED = 32 << 10


class SqliteReader:
    """Connections that only read, one for each of a few threads; to be closed when it is done with."""

    def __init__(self, path: str, *, threads: int = 3, longest: float = LONGEST) -> None:
        self.path = path
        self._longest = longest
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="millstream:read")
        self._here = threading.local()
        self._connections: list[Connection] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what is being read, and close."""
        self._pool.shutdown()
        for connection in self._connections:
            connection.close()

    async def read(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of one question, from the newest committed state; `StoreBusyError` if it takes too long."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._read, sql, params)

    def _read(self, sql: str, params: Sequence[Any]) -> list[tuple[Any, ...]]:
        connection = self._connection()
        self._here.until = time.monotonic() + self._longest
        with sqlite_errors(self.path):
            try:
                return connection.execute(sql, params).fetchall()
            except apsw.InterruptError as error:
                raise StoreBusyError(
                    f"{self.path}: a question took more than {self._longest:g} s and was given up. Ask for less, such as a shorter time."
                ) from error

    def _connection(self) -> Connection:
        connection: Connection | None = getattr(self._here, "connection", None)
        if connection is None:
            with sqlite_errors(self.path):
                connection = connect(self.path, flags=apsw.SQLITE_OPEN_READWRITE, vfs=None)
                for setting in ("query_only=1", f"mmap_size={MAPPED}", f"cache_size=-{CACHED}"):
                    connection.execute(f"pragma {setting}").fetchall()
            here = self._here
            cast(apsw.Connection, connection).set_progress_handler(lambda: time.monotonic() > here.until, STEPS)
            here.connection = connection
            self._connections.append(connection)
        return connection
