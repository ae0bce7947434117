"""One SQLite file: opened, prepared, read, written through one thread, copied, and listened to.

A process opens a file once and shares it between store and broker: SQLite has one
writer, so every write of the process goes through the one thread of `SqliteWriter`.
"""

import asyncio
import contextlib
import hashlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import apsw

from millstream.contracts.errors import (
    NotStartedError,
    StoreBusyError,
    StoreError,
    StoreMismatchError,
    StoreReadOnlyError,
    StoreTooNewError,
)
from millstream.stores.sqlite_connection import Connection, connect, copy
from millstream.stores.sqlite_errors import READ_ONLY, sqlite_errors
from millstream.stores.sqlite_wake import NOTHING, ROWS, News, WakeUp
from millstream.stores.sqlite_wal import KEEP_BYTES, WalKeeper
from millstream.stores.sqlite_writer import Borrowed, Job, Outcome, SqliteWriter, resolve

T = TypeVar("T")

APPLICATION_ID = 0x4D494C4C  # "MILL"
SCHEMA_VERSION = 1
#: How long a write waits for another process before it fails, in seconds.
BUSY = 5.0
#: and until what SQLite refused without any waiting is tried again.
AGAIN = 0.005
#: How a writing connection works.
SETTINGS = (f"journal_size_limit={KEEP_BYTES}", "temp_store=memory")


class SqliteFile:
    """A file that Millstream owns, opened once per process; enter it as often as needed."""

    def __init__(self, path: str | Path, *, synchronous: str = "FULL", vfs: str | None = None) -> None:
        self.path = str(Path(path).expanduser().absolute())
        self.on_rollback: set[Callable[[], None]] = set()
        """Called on the writer's thread after a rollback: what was learnt inside may be untrue."""
        self.on_foreign: set[Callable[[], None]] = set()
        """Called inside a transaction, before its writes, when somebody else has written since the last one, or it was rolled back."""
        self._listeners: set[Callable[[News], None]] = set()
        self._synchronous = synchronous
        self._vfs = vfs
        self._busy = BUSY
        self._users = 0
        self._reader: Connection | None = None
        self._writer: SqliteWriter | None = None
        self._wal: WalKeeper | None = None
        self._wake: WakeUp | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._borrowers = 0
        self._pid = 0
        self._schemas: list[str] = []
        self._pending = False

    def require(self, schema: str) -> None:
        """Have these tables (idempotent SQL) made when the file is opened."""
        if schema not in self._schemas:
            self._schemas.append(schema)
            self._pending = True

    async def __aenter__(self) -> Self:
        self._users += 1
        if self._users > 1:
            if self._pending:
                await self.write(self._make, wakes=NOTHING)
            return self
        try:
            self._open()
        except BaseException:
            self._users = 0
            self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._users -= 1
        if self._users:
            return
        writer, self._writer = self._writer, None
        try:
            if writer is not None:
                await asyncio.get_running_loop().run_in_executor(None, writer.stop)
        finally:
            self._close()

    # Opening

    def _open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._pid = os.getpid()
        with sqlite_errors(self.path):
            first = self._connect()
            try:
                self._prepare(first)
                self._reader = self._connect(read_only=True)
            except BaseException:
                first.close()
                raise
            self._wal = WalKeeper(self.path, first)
        self._wake = WakeUp(self.path, self._loop, self._changed)
        self._writer = SqliteWriter(self.path, self._connect, self._wal, self._tell, busy=self._busy)
        self._writer.on_rollback, self._writer.on_foreign = self.on_rollback, self.on_foreign

    def _close(self) -> None:
        for open_one in (self._wake, self._reader, self._wal):
            if open_one is not None:
                # What was acknowledged is in the WAL: a checkpoint that fails here loses nothing.
                with contextlib.suppress(apsw.Error):
                    open_one.close()
        self._reader = self._wal = self._wake = None

    def _connect(self, *, read_only: bool = False) -> Connection:
        flags = apsw.SQLITE_OPEN_READWRITE | (0 if read_only else apsw.SQLITE_OPEN_CREATE)
        connection = connect(self.path, flags=flags, vfs=self._vfs)
        if connection.readonly("main"):
            connection.close()
            raise StoreReadOnlyError(f"{self.path}: {READ_ONLY}")
        connection.set_busy_timeout(int(self._busy * 1000))
        # The reader is opened writable, since WAL recovery may need it, and then held to reading.
        # One by one, and read to the end: a pragma that answers would keep those behind it from being run.
        for setting in ("query_only=1",) if read_only else (f"synchronous={self._synchronous}", *SETTINGS):
            connection.execute(f"pragma {setting}").fetchall()
        return connection

    def _prepare(self, connection: Connection) -> None:
        # In one statement: another process may be making the tables at this moment.
        ((application, version, tables),) = connection.execute(
            "select application_id, user_version, (select count(*) from sqlite_schema) from pragma_application_id, pragma_user_version"
        ).fetchall()
        if application == APPLICATION_ID and version > SCHEMA_VERSION:
            raise StoreTooNewError(
                f"{self.path}: was written by a newer Millstream (format {version}, this one knows {SCHEMA_VERSION}). "
                "Upgrade millstream; the file was not touched."
            )
        if application not in (0, APPLICATION_ID) or (application == 0 and tables):
            raise StoreMismatchError(
                f"{self.path}: is an SQLite database, but not one of Millstream's. Name another file: "
                "your own tables belong into a service's store, made through App(schema=...). The file was not touched."
            )
        if self._journal_of(connection) != ("wal",):
            raise StoreError(f"{self.path}: this file system cannot do WAL (a network drive?); use a local disk.")
        if self._lacks(connection):
            connection.execute("begin immediate")
            self._make(connection)
            connection.execute(f"pragma application_id={APPLICATION_ID}; pragma user_version={SCHEMA_VERSION}; commit")

    def _journal_of(self, connection: Connection) -> tuple[Any, ...] | None:
        """Have changes go to a WAL; gives the kind of journal that the file has then."""
        deadline = time.monotonic() + self._busy
        while True:
            try:
                return connection.execute("pragma journal_mode=wal").fetchone()
            except apsw.BusyError:
                # Of several that make the file at the same moment SQLite refuses all but one at once, without waiting for its lock.
                if time.monotonic() > deadline:
                    raise
            time.sleep(AGAIN)

    def _lacks(self, connection: Connection) -> bool:
        """Whether tables are missing; a look, so that opening what is complete writes nothing."""
        if connection.execute("select 1 from sqlite_schema where name='millstream_part'").fetchone() is None:
            return True
        there = {name for (name,) in connection.execute("select name from millstream_part")}
        return not {_digest(schema) for schema in self._schemas} <= there

    def _make(self, connection: Connection) -> None:
        self._pending = False
        connection.execute("create table if not exists millstream_part(name text primary key) without rowid")
        for schema in self._schemas:
            connection.execute(schema)
            connection.execute("insert or ignore into millstream_part values(?)", (_digest(schema),))

    # Reading

    @property
    def reader(self) -> Connection:
        """The connection for reading, to be used on the loop's thread."""
        if self._reader is None:
            raise NotStartedError(f"{self.path} is not open: use `async with app:` around it.")
        if os.getpid() != self._pid:
            raise StoreError(f"{self.path}: was opened before a fork; open it in the child process.")
        return self._reader

    def query(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of one query, from the newest committed state."""
        with sqlite_errors(self.path):
            return self.reader.execute(sql, tuple(params)).fetchall()

    def rows(self, sql: str, params: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """The same one after another, for whoever may have enough before the end."""
        with sqlite_errors(self.path):
            yield from self.reader.execute(sql, tuple(params))

    # Writing

    def submit(self, write: Callable[[Connection], T], *, wakes: bytes = ROWS) -> "asyncio.Future[T]":
        """Run `write` in the next transaction; the future is done when it is on disk.

        When another write of the same transaction fails, `write` runs again in a new one.
        """
        loop, writer = self._started()
        future: asyncio.Future[T] = loop.create_future()
        writer.put(Job(write, partial(resolve, future), wakes))
        return future

    def post(self, write: Callable[[Connection], None], settle: Callable[[None, BaseException | None], None]) -> None:
        """The same for an append that others join until it runs: `settle` is called on the loop."""
        _, writer = self._started()
        writer.put(Job(write, settle, NOTHING))

    async def write(self, write: Callable[[Connection], T], *, wakes: bytes = ROWS) -> T:
        """Run `write` in the next transaction and wait until it is on disk."""
        # Shielded: a write under way goes to its end whoever stops waiting for it.
        return await asyncio.shield(self.submit(write, wakes=wakes))

    async def borrow(self) -> Borrowed:
        """The write connection in a transaction of its own; whoever gets it must call its `end`.

        The writer thread waits for the lock and syncs; statements run where the caller is.
        """
        loop, writer = self._started()
        lent: asyncio.Future[Connection] = loop.create_future()
        borrowed = Borrowed(lambda connection: loop.call_soon_threadsafe(resolve, lent, connection, None), self._returned)
        borrowed.ended.add_done_callback(lambda _: loop.call_soon_threadsafe(lent.cancel))
        self._borrowers += 1
        writer.put(borrowed.job())
        try:
            borrowed.connection = await lent
        except BaseException:
            borrowed.end(commit=False)
            if borrowed.ended.done() and (failed := borrowed.ended.exception()) is not None:
                raise failed from None
            raise
        return borrowed

    def borrow_now(self) -> Borrowed:
        """The same for a caller that cannot await: its thread is blocked until the transaction is free.

        Raises `StoreBusyError` after a while, or at once where it would wait for its own thread.
        """
        _, writer = self._started()
        if self._borrowers and threading.get_ident() == self._loop_thread:
            raise StoreBusyError(
                f"{self.path}: this thread has (or waits for) a transaction already, and would wait for itself. "
                "Nothing was written; end that one first."
            )
        lent: queue.SimpleQueue[Connection | None] = queue.SimpleQueue()
        borrowed = Borrowed(lent.put, lambda: None)
        borrowed.ended.add_done_callback(lambda _: lent.put(None))
        writer.put(borrowed.job())
        try:
            connection = lent.get(timeout=2 * self._busy)
        except queue.Empty:
            borrowed.end(commit=False)
            raise StoreBusyError(
                f"{self.path}: another transaction of this process was open for over {2 * self._busy:g} s. Nothing was written; "
                "try again, and wait for nothing inside a transaction."
            ) from None
        if connection is None:
            borrowed.ended.result()
            raise StoreError(f"{self.path}: the store was closed before the transaction began.")
        borrowed.connection = connection
        return borrowed

    def _returned(self) -> None:
        self._borrowers -= 1

    def _started(self) -> tuple[asyncio.AbstractEventLoop, SqliteWriter]:
        if self._writer is None or self._loop is None:
            raise NotStartedError(f"{self.path} is not open: use `async with app:` around it.")
        if os.getpid() != self._pid:
            raise StoreError(f"{self.path}: was opened before a fork; open it in the child process.")
        return self._loop, self._writer

    # Copying

    def copy(self, destination: str, progress: Callable[[int, int], None], finish: Callable[[Connection], None]) -> None:
        """Copy the file as of this moment to a new one and `finish` that, on the caller's thread; writers go on meanwhile."""
        if os.path.exists(destination):
            raise StoreError(f"{destination}: exists already, and a backup overwrites nothing. Name a new file.")
        partial = f"{destination}.partial"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        with sqlite_errors(self.path), contextlib.closing(self._connect(read_only=True)) as source:
            # The open read transaction holds the moment; without it each write would start the copy again.
            source.execute("begin")
            source.execute("select count(*) from sqlite_schema").fetchone()
            with sqlite_errors(partial):
                for done, pages in copy(source, partial, finish):
                    progress(done, pages)
        os.rename(partial, destination)
        folder = os.open(os.path.dirname(os.path.abspath(destination)), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    # Changes

    def appended(self, tps: Iterable[int]) -> None:
        """Note, inside a transaction, which partitions get events, for those who wait for them."""
        _, writer = self._started()
        writer.appended.update(tps)

    def on_change(self, listener: Callable[[News], None]) -> Callable[[], None]:
        """Call `listener` on the loop when any process has written; returns how to stop that."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    def announce(self, news: News) -> None:
        """Wake every listener of every process, from the loop's thread, after a write that woke nobody."""
        if self._wake is not None:
            self._wake.send(news)
            self._changed(news)

    def _tell(self, waiting: list[Outcome], news: News) -> None:
        """After a transaction, on the writer's thread: settle on the loop, and wake the others."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._settle, waiting, news)
        if self._wake is not None and news.kinds:
            self._wake.send(news)

    def _settle(self, waiting: list[Outcome], news: News) -> None:
        for job, result, error in waiting:
            job.settle(result, error)
        if news.kinds:
            self._changed(news)

    def _changed(self, news: News) -> None:
        for listener in tuple(self._listeners):
            listener(news)


def _digest(schema: str) -> str:
    return hashlib.blake2b(schema.encode(), digest_size=8).hexdigest()
