"""One SQLite file: its writer thread with group commit, its reader, its wake-ups.

A process opens a file once and shares it between store and broker: SQLite has one
writer, so every write of the process goes through one thread that gathers what is
waiting into one transaction and syncs once for all of it.
"""

import asyncio
import contextlib
import hashlib
import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future as ThreadFuture
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import apsw

from millstream.contracts.errors import (
    MillstreamError,
    NotStartedError,
    StatementError,
    StoreBusyError,
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreMismatchError,
    StoreReadOnlyError,
    StoreTooNewError,
)
from millstream.stores.sqlite_connection import Connection, connect, copy
from millstream.stores.sqlite_wake import WakeUp
from millstream.stores.sqlite_wal import KEEP_BYTES, WalKeeper

T = TypeVar("T")

APPLICATION_ID = 0x4D494C4C  # "MILL"
SCHEMA_VERSION = 1
#: How long a write waits for another process before it fails, in seconds.
BUSY = 5.0
#: How long one look at its lock is from the next, in seconds.
BUSY_STEP = 0.0002
#: Who has seen another process write within so many seconds leaves it time for a turn, of such a length and so often.
CONTENDED, GIVE_WAY, GIVE_WAY_EVERY = 0.05, 0.0004, 0.002
#: Writes gathered into one transaction; more would only delay the first of them.
MOST_JOBS = 4096
#: How a writing connection works.
SETTINGS = (f"journal_size_limit={KEEP_BYTES}", "temp_store=memory")

#: What a write may be of interest for, beyond this process: new rows, or who owns what.
ROWS, MEMBERS, NOTHING = b"r", b"m", b""


READ_ONLY = "cannot be written; check the permissions of the file and its folder."


class sqlite_errors:  # noqa: N801 - it reads like the function that it stands for, and costs a third of one
    """`with sqlite_errors(path):` lets no apsw exception out: each becomes one of ours that says what to do."""

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, apsw.Error):
            raise translated(error, self._path) from error


def translated(error: apsw.Error, path: str) -> MillstreamError:
    """Say in our words what SQLite reports of a file, and what to do."""
    match error:
        case apsw.BusyError() | apsw.LockedError():
            return StoreBusyError(
                f"{path}: another process held the write lock for over {BUSY:g} s; "
                "it may be stopped inside a commit (look for a stopped or debugged process). Nothing was written; try again."
            )
        case apsw.FullError():
            return StoreFullError(f"{path}: the disk is full; nothing was written. Free some space and try again.")
        case apsw.ReadOnlyError() | apsw.PermissionsError():
            return StoreReadOnlyError(f"{path}: {READ_ONLY}")
        case apsw.CorruptError() | apsw.NotADBError():
            return StoreDamagedError(
                f"{path}: is damaged or not a database ({error}). Stop all processes, keep a copy, and restore a backup."
            )
        case apsw.CantOpenError():
            return StoreError(f"{path}: cannot be opened; does the folder exist, and may this user write to it?")
        case apsw.IOError():
            return StoreError(f"{path}: the disk reported an error ({error}); what was being written is not acknowledged.")
        case _:
            return StatementError(f"{path}: SQLite refused a statement: {error}. It changed nothing; correct it.")


@dataclass(slots=True)
class _Job:
    """A write that waits for its transaction; it may run again after a rollback."""

    write: Callable[[Connection], Any]
    settle: Callable[[Any, BaseException | None], None]
    """Told the result, or the error, once it is on disk or is not."""
    wakes: bytes
    on_loop: bool = True
    """Where `settle` is called: on the loop, or else on the writer's own thread."""
    lends: bool = False
    """Whether somebody else uses the connection meanwhile; such a job has a transaction to itself."""


_Outcome = tuple[_Job, Any, BaseException | None]


class SqliteFile:
    """A file that Millstream owns, opened once per process; enter it as often as needed."""

    def __init__(self, path: str | Path, *, synchronous: str = "FULL", vfs: str | None = None) -> None:
        self.path = str(Path(path).expanduser().absolute())
        self.on_rollback: set[Callable[[], None]] = set()
        """Called on the writer's thread after a rollback: what was learnt inside may be untrue."""
        self.on_foreign: set[Callable[[], None]] = set()
        """Called inside a transaction, before its writes, when somebody else has written since the last one."""
        self._version = -1
        self._listeners: set[Callable[[bytes], None]] = set()
        self._synchronous = synchronous
        self._vfs = vfs
        self._users = 0
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._reader: Connection | None = None
        self._writer: Connection | None = None
        self._wal: WalKeeper | None = None
        self._wake: WakeUp | None = None
        self._identity: tuple[int, int] | None = None
        self._busy_until = self._contended_until = self._gave_way = self._ended = 0.0
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
        self._jobs.put(None)
        thread, self._thread = self._thread, None
        try:
            if thread is not None:
                await asyncio.get_running_loop().run_in_executor(None, thread.join)
        finally:
            self._close()

    def _open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._pid = os.getpid()
        with sqlite_errors(self.path):
            self._writer = self._connect_writer()
            self._prepare(self._writer)
            self._reader = self._connect(read_only=True)
            self._wal = WalKeeper(self.path, self._connect())
        self._identity = _identity(self.path)
        self._jobs = queue.SimpleQueue()
        self._wake = WakeUp(self.path, self._loop, self._changed)
        self._thread = threading.Thread(target=self._run, name=f"millstream-writer:{Path(self.path).name}", daemon=True)
        self._thread.start()

    def _close(self) -> None:
        if self._wake is not None:
            self._wake.close()
        for open_one in (self._wal, self._reader, self._writer):
            if open_one is not None:
                # What was acknowledged is in the WAL: a checkpoint that fails here loses nothing.
                with contextlib.suppress(apsw.Error):
                    open_one.close()
        self._reader = self._writer = self._wal = self._wake = None

    def _connect(self, *, read_only: bool = False) -> Connection:
        flags = apsw.SQLITE_OPEN_READWRITE | (0 if read_only else apsw.SQLITE_OPEN_CREATE)
        connection = connect(self.path, flags=flags, vfs=self._vfs)
        if connection.readonly("main"):
            connection.close()
            raise StoreReadOnlyError(f"{self.path}: {READ_ONLY}")
        connection.set_busy_timeout(int(BUSY * 1000))
        # The reader is opened writable, since WAL recovery may need it, and then held to reading.
        # One by one, and read to the end: a pragma that answers would keep those behind it from being run.
        for setting in ("query_only=1",) if read_only else (f"synchronous={self._synchronous}", *SETTINGS):
            connection.execute(f"pragma {setting}").fetchall()
        return connection

    def _connect_writer(self) -> Connection:
        connection = self._connect()
        connection.set_busy_handler(self._is_busy)
        connection.set_wal_hook(self._written)
        return connection

    def _is_busy(self, tries: int) -> bool:
        """Wait for another process's commit: it takes a millisecond as a rule, and SQLite's own steps grow to a hundred."""
        now = time.monotonic()
        if tries == 0:
            self._busy_until = now + BUSY
        if now > self._busy_until:
            return False
        time.sleep(BUSY_STEP if tries < 100 else 20 * BUSY_STEP)
        return True

    def _written(self, _connection: object, _name: str, pages: int) -> int:
        if self._wal is not None:
            self._wal.committed(pages)
        return apsw.SQLITE_OK

    def _prepare(self, connection: Connection) -> None:
        (application,) = connection.execute("pragma application_id").fetchone() or (0,)
        (version,) = connection.execute("pragma user_version").fetchone() or (0,)
        if application == APPLICATION_ID and version > SCHEMA_VERSION:
            raise StoreTooNewError(
                f"{self.path}: was written by a newer Millstream (format {version}, this one knows {SCHEMA_VERSION}). "
                "Upgrade millstream; the file was not touched."
            )
        tables = connection.execute("select count(*) from sqlite_schema").fetchone()
        if application not in (0, APPLICATION_ID) or (application == 0 and tables and tables[0]):
            raise StoreMismatchError(
                f"{self.path}: is an SQLite database, but not one of Millstream's. Name another file: "
                "your own tables belong into a service's store, made through App(schema=...). The file was not touched."
            )
        if connection.execute("pragma journal_mode=wal").fetchone() != ("wal",):
            raise StoreError(f"{self.path}: this file system cannot do WAL (a network drive?); use a local disk.")
        if self._lacks(connection):
            connection.execute("begin immediate")
            self._make(connection)
            connection.execute(f"pragma application_id={APPLICATION_ID}; pragma user_version={SCHEMA_VERSION}; commit")

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

    # Writing

    def submit(self, write: Callable[[Connection], T], *, wakes: bytes = ROWS) -> "asyncio.Future[T]":
        """Run `write` in the next transaction; the future is done when it is on disk.

        When another write of the same transaction fails, `write` runs again in a new one.
        """
        future: asyncio.Future[T] = self._started().create_future()
        self._jobs.put(_Job(write, partial(_resolve, future), wakes))
        return future

    def post(self, write: Callable[[Connection], None], settle: Callable[[None, BaseException | None], None]) -> None:
        """The same for a write that others join until it runs: `settle` is called on the loop."""
        self._started()
        self._jobs.put(_Job(write, settle, ROWS))

    async def write(self, write: Callable[[Connection], T], *, wakes: bytes = ROWS) -> T:
        """Run `write` in the next transaction and wait until it is on disk."""
        # Shielded: a write under way goes to its end whoever stops waiting for it.
        return await asyncio.shield(self.submit(write, wakes=wakes))

    async def borrow(self) -> "Borrowed":
        """The write connection in a transaction of its own; whoever gets it must call its `end`.

        The writer thread waits for the lock and syncs; statements run where the caller is.
        """
        loop = self._started()
        lent: asyncio.Future[Connection] = loop.create_future()
        borrowed = Borrowed(self._returned)
        borrowed.ended.add_done_callback(lambda _: loop.call_soon_threadsafe(lent.cancel))
        self._borrowers += 1
        lend = borrowed.lend(lambda connection: loop.call_soon_threadsafe(_resolve, lent, connection, None))
        self._jobs.put(_Job(lend, partial(_resolve, borrowed.ended), ROWS, on_loop=False, lends=True))
        try:
            borrowed.connection = await lent
        except BaseException:
            borrowed.end(commit=False)
            if borrowed.ended.done() and (failed := borrowed.ended.exception()) is not None:
                raise failed from None
            raise
        return borrowed

    def borrow_now(self) -> "Borrowed":
        """The same for a caller that cannot await: its thread is blocked until the transaction is free.

        Raises `StoreBusyError` after a while, or at once where it would wait for its own thread.
        """
        self._started()
        if self._borrowers and threading.get_ident() == self._loop_thread:
            raise StoreBusyError(
                f"{self.path}: this thread has (or waits for) a transaction already, and would wait for itself. "
                "Nothing was written; end that one first."
            )
        lent: queue.SimpleQueue[Connection | None] = queue.SimpleQueue()
        borrowed = Borrowed(lambda: None)
        borrowed.ended.add_done_callback(lambda _: lent.put(None))
        self._jobs.put(_Job(borrowed.lend(lent.put), partial(_resolve, borrowed.ended), ROWS, on_loop=False, lends=True))
        try:
            connection = lent.get(timeout=2 * BUSY)
        except queue.Empty:
            borrowed.end(commit=False)
            raise StoreBusyError(
                f"{self.path}: another transaction of this process was open for over {2 * BUSY:g} s. Nothing was written; "
                "try again, and wait for nothing inside a transaction."
            ) from None
        if connection is None:
            borrowed.ended.result()
            raise StoreError(f"{self.path}: the store was closed before the transaction began.")
        borrowed.connection = connection
        return borrowed

    def _returned(self) -> None:
        self._borrowers -= 1

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._thread is None or self._loop is None:
            raise NotStartedError(f"{self.path} is not open: use `async with app:` around it.")
        if os.getpid() != self._pid:
            raise StoreError(f"{self.path}: was opened before a fork; open it in the child process.")
        return self._loop

    # The writer's thread

    def _run(self) -> None:
        stopped = False
        while not stopped:
            jobs, lent, stopped = self._gather()
            if jobs:
                self._transact(jobs)
            if lent is not None:
                self._transact([lent])
            if self._wal is not None and self._writer is not None:
                self._wal.between(self._writer)

    def _gather(self) -> tuple[list[_Job], _Job | None, bool]:
        """What waits now: writes to do together, one that lends the connection after them, and whether to stop."""
        jobs: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            if job.lends:
                return jobs, job, False
            jobs.append(job)
            if len(jobs) == MOST_JOBS:
                return jobs, None, False
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs, None, False
        return jobs, None, True

    def _transact(self, jobs: list[_Job]) -> None:
        try:
            with sqlite_errors(self.path):
                results = self._commit(self._writer or self._reconnect(), jobs)
            outcomes: list[_Outcome] = [(job, result, None) for job, result in zip(jobs, results, strict=True)]
        except BaseException as error:  # noqa: BLE001 - it is handed to whoever waits
            for forget in self.on_rollback:
                forget()
            if not isinstance(error, (StoreBusyError, StoreFullError, StoreReadOnlyError)) and isinstance(error, StoreError):
                # After an I/O error the connection's idea of the file is not trusted again.
                self._distrust()
            if len(jobs) > 1 and not isinstance(error, StoreError):
                # One of them failed by itself; the others shall not suffer for it.
                for job in jobs:
                    self._transact([job])
                return
            outcomes = [(job, None, error) for job in jobs]
        self._tell(outcomes)

    def _commit(self, connection: Connection, jobs: list[_Job]) -> list[Any]:
        self._give_way()
        connection.execute("begin immediate")
        try:
            if connection.data_version() != self._version:
                self._contended_until = time.monotonic() + CONTENDED
                for forget in self.on_foreign:
                    forget()
            results = [job.write(connection) for job in jobs]
            if not connection.in_transaction:
                raise StoreError(f"{self.path}: SQLite gave up the transaction after an error of the disk; nothing of it was kept.")
            connection.execute("commit")
        except BaseException:
            self._version = -1
            if connection.in_transaction:
                connection.execute("rollback")
            raise
        self._version = connection.data_version()
        self._ended = time.monotonic()
        return results

    def _give_way(self) -> None:
        """See that the file is still where it was, and let another process's writer have its turn."""
        if self._identity is not None and _identity(self.path) != self._identity:
            raise StoreError(
                f"{self.path}: the file has been moved, removed or replaced while it was open. Nothing more is written, since nobody "
                "would find it. Stop every process that uses it, put the right file in place, and start them again."
            )
        now = time.monotonic()
        if now > self._ended + GIVE_WAY:
            self._gave_way = now  # by having had nothing to do
        elif now < self._contended_until and now > self._gave_way + GIVE_WAY_EVERY:
            time.sleep(GIVE_WAY)
            self._gave_way = time.monotonic()

    def _tell(self, outcomes: list[_Outcome]) -> None:
        wakes = NOTHING
        waiting: list[_Outcome] = []
        for outcome in outcomes:
            job, result, error = outcome
            if job.on_loop:
                waiting.append(outcome)
            else:
                job.settle(result, error)
            if error is None and job.wakes not in wakes:
                wakes += job.wakes
        if (loop := self._loop) is not None and (waiting or wakes):
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._settle, waiting, wakes)
        if self._wake is not None and wakes:
            self._wake.send(wakes)

    def _settle(self, waiting: list[_Outcome], wakes: bytes) -> None:
        for job, result, error in waiting:
            job.settle(result, error)
        if wakes:
            self._changed(wakes)

    def _reconnect(self) -> Connection:
        self._writer = self._connect_writer()
        return self._writer

    def _distrust(self) -> None:
        connection, self._writer = self._writer, None
        if connection is not None:
            with contextlib.suppress(apsw.Error):
                connection.close()

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

    def on_change(self, listener: Callable[[bytes], None]) -> Callable[[], None]:
        """Call `listener` on the loop, with `ROWS` or `MEMBERS` or both, when any process has written; returns how to stop."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    def announce(self, kinds: bytes) -> None:
        """Wake every listener of every process, from the loop's thread, after a write that woke nobody."""
        if self._wake is not None:
            self._wake.send(kinds)
            self._changed(kinds)

    def _changed(self, kinds: bytes) -> None:
        for listener in tuple(self._listeners):
            listener(kinds)


class Borrowed:
    """The write connection, lent until `end`; then what is left is to wait until the commit is on disk."""

    def __init__(self, returned: Callable[[], None]) -> None:
        self.connection: Connection | None = None
        self.ended: ThreadFuture[None] = ThreadFuture()
        self._returned = returned
        self._back: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def lend(self, hand_over: Callable[[Connection], object]) -> Callable[[Connection], None]:
        """What the writer thread does: hand the connection over, and wait until it is back."""

        def write(connection: Connection) -> None:
            hand_over(connection)
            if not self._back.get():
                raise _RolledBackError

        return write

    def end(self, *, commit: bool) -> Self:
        """Give the connection back, at once."""
        self.connection = None
        self._returned()
        self._back.put(commit)
        if not commit:
            self.ended.add_done_callback(lambda ended: ended.exception() if not ended.cancelled() else None)
        return self

    def __await__(self) -> Generator[Any, None, None]:
        try:
            yield from asyncio.shield(asyncio.wrap_future(self.ended)).__await__()
        except _RolledBackError:
            return

    def wait(self) -> None:
        """Block this thread until it is committed or rolled back."""
        with contextlib.suppress(_RolledBackError):
            self.ended.result()


def _identity(path: str) -> tuple[int, int] | None:
    """Which file a name stands for; None when the operating system knows of none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _digest(schema: str) -> str:
    return hashlib.blake2b(schema.encode(), digest_size=8).hexdigest()


class _RolledBackError(Exception):
    """The borrower of the connection did not want it committed."""


def _resolve(future: "asyncio.Future[Any] | ThreadFuture[Any]", result: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
