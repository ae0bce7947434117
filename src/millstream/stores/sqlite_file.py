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
import secrets
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import apsw

from millstream.contracts.errors import (
    NotStartedError,
    StoreBusyError,
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreReadOnlyError,
    StoreTooNewError,
)

T = TypeVar("T")

APPLICATION_ID = 0x4D494C4C  # "MILL"
SCHEMA_VERSION = 1
#: How long a write waits for another process before it fails, in milliseconds.
BUSY_MS = 5000
#: Writes gathered into one transaction; more would only delay the first of them.
MOST_JOBS = 4096
#: The WAL is truncated once it has grown past this many bytes and no reader needs it.
WAL_LIMIT = 64 << 20
SOCKET_PATH_LIMIT = 100

Job = tuple[Callable[[apsw.Connection], Any], "asyncio.Future[Any]", bool]


@contextmanager
def sqlite_errors(path: str) -> Generator[None]:
    """Let no apsw exception out: each becomes one of ours that says what to do."""
    try:
        yield
    except (apsw.BusyError, apsw.LockedError) as error:
        raise StoreBusyError(
            f"{path}: another process held the write lock for over {BUSY_MS / 1000:g} s; "
            "it may be stopped inside a commit (look for a stopped or debugged process). Nothing was written; try again."
        ) from error
    except apsw.FullError as error:
        raise StoreFullError(f"{path}: the disk is full; nothing was written. Free some space and try again.") from error
    except (apsw.ReadOnlyError, apsw.PermissionsError) as error:
        raise StoreReadOnlyError(f"{path}: cannot be written; check the permissions of the file and its folder.") from error
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise StoreDamagedError(
            f"{path}: is damaged or not a database ({error}). Stop all processes, keep a copy, and restore a backup."
        ) from error
    except apsw.CantOpenError as error:
        raise StoreError(f"{path}: cannot be opened; does the folder exist, and may this user write to it?") from error
    except apsw.IOError as error:
        raise StoreError(f"{path}: the disk reported an error ({error}); what was being written is not acknowledged.") from error


class SqliteFile:
    """A file that Millstream owns, opened once per process; enter it as often as needed."""

    def __init__(self, path: str | Path, *, synchronous: str = "FULL", vfs: str | None = None) -> None:
        self.path = str(Path(path).expanduser().absolute())
        self.on_change: set[Callable[[], None]] = set()
        self._synchronous = synchronous
        self._vfs = vfs
        self._users = 0
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._reader: apsw.Connection | None = None
        self._writer: apsw.Connection | None = None
        self._wake: _WakeUp | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self._schemas: list[str] = []

    def require(self, schema: str) -> None:
        """Have these tables (idempotent SQL) made when the file is opened."""
        if schema not in self._schemas:
            self._schemas.append(schema)

    async def __aenter__(self) -> Self:
        self._users += 1
        if self._users > 1:
            return self
        try:
            self._open()
        except BaseException:
            self._users = 0
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._users -= 1
        if self._users:
            return
        self._jobs.put(None)
        thread = self._thread
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(None, thread.join)
        if self._wake is not None:
            self._wake.close()
        for connection in (self._reader, self._writer):
            if connection is not None:
                connection.close()
        self._thread = self._reader = self._writer = self._wake = None

    def _open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        with sqlite_errors(self.path):
            self._writer = self._connect()
            self._prepare(self._writer)
            self._reader = self._connect(read_only=True)
        self._jobs = queue.SimpleQueue()
        self._wake = _WakeUp(self.path, self._loop, self._changed)
        self._thread = threading.Thread(target=self._write, name=f"millstream-writer:{Path(self.path).name}", daemon=True)
        self._thread.start()

    def _connect(self, *, read_only: bool = False) -> apsw.Connection:
        flags = apsw.SQLITE_OPEN_READWRITE | (0 if read_only else apsw.SQLITE_OPEN_CREATE)
        connection = apsw.Connection(self.path, flags=flags, vfs=self._vfs, statementcachesize=200)
        connection.set_busy_timeout(BUSY_MS)
        # The reader is opened writable, since WAL recovery may need it, and then held to reading.
        connection.execute("pragma query_only=1" if read_only else f"pragma synchronous={self._synchronous}")
        return connection

    def _prepare(self, connection: apsw.Connection) -> None:
        (application,) = connection.execute("pragma application_id").fetchone() or (0,)
        (version,) = connection.execute("pragma user_version").fetchone() or (0,)
        if application == APPLICATION_ID and version > SCHEMA_VERSION:
            raise StoreTooNewError(
                f"{self.path}: was written by a newer Millstream (format {version}, this one knows {SCHEMA_VERSION}). "
                "Upgrade millstream; the file was not touched."
            )
        tables = connection.execute("select count(*) from sqlite_schema").fetchone()
        if application not in (0, APPLICATION_ID) or (application == 0 and tables and tables[0]):
            raise StoreDamagedError(
                f"{self.path}: is an SQLite database, but not one of Millstream's. Name another file: "
                "your own tables belong into a service's store, made through App(schema=...)."
            )
        if connection.execute("pragma journal_mode=wal").fetchone() != ("wal",):
            raise StoreError(f"{self.path}: this file system cannot do WAL (a network drive?); use a local disk.")
        connection.execute("pragma wal_autocheckpoint=2000; pragma journal_size_limit=67108864; pragma temp_store=memory")
        with connection:
            connection.execute("begin immediate") if not connection.in_transaction else None
            for schema in self._schemas:
                connection.execute(schema)
            connection.execute(f"pragma application_id={APPLICATION_ID}; pragma user_version={SCHEMA_VERSION}")

    @property
    def reader(self) -> apsw.Connection:
        """The connection for reading, to be used on the loop's thread."""
        if self._reader is None:
            raise NotStartedError(f"{self.path} is not open: use `async with app:` around it.")
        if os.getpid() != self._pid:
            raise StoreError(f"{self.path}: was opened before a fork; open it in the child process.")
        return self._reader

    async def read(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of one query, from the newest committed state."""
        with sqlite_errors(self.path):
            return self.reader.execute(sql, tuple(params)).fetchall()

    def submit(self, write: Callable[[apsw.Connection], T], *, cannot_fail: bool = False) -> "asyncio.Future[T]":
        """Run `write` in the next transaction; the future is done when it is on disk.

        With `cannot_fail` no savepoint guards the others in that transaction from it:
        an error then fails all of them.
        """
        if self._thread is None or self._loop is None:
            raise NotStartedError(f"{self.path} is not open: use `async with app:` around it.")
        if os.getpid() != self._pid:
            raise StoreError(f"{self.path}: was opened before a fork; open it in the child process.")
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put((write, future, cannot_fail))
        return future

    async def write(self, write: Callable[[apsw.Connection], T]) -> T:
        """Run `write` in the next transaction and wait until it is on disk."""
        # Shielded: a write under way goes to its end whoever stops waiting for it.
        return await asyncio.shield(self.submit(write))

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[apsw.Connection]:
        """The write connection inside a transaction: committed at the end, or rolled back on an error.

        The writer thread waits for the lock and syncs; statements run where the caller is.
        """
        loop = asyncio.get_running_loop()
        lent: asyncio.Future[apsw.Connection] = loop.create_future()
        back: queue.SimpleQueue[bool] = queue.SimpleQueue()

        def lend(connection: apsw.Connection) -> None:
            loop.call_soon_threadsafe(_resolve, lent, connection)
            if not back.get():
                raise _RolledBackError

        ended = self.submit(lend)
        ended.add_done_callback(lambda done: None if lent.done() else _fail(lent, done))
        try:
            connection = await lent
        except BaseException:
            back.put(False)  # noqa: FBT003
            ended.add_done_callback(_ignore)
            raise
        try:
            yield connection
        except BaseException:
            back.put(False)  # noqa: FBT003
            with contextlib.suppress(_RolledBackError):
                await asyncio.shield(ended)
            raise
        back.put(True)  # noqa: FBT003
        await asyncio.shield(ended)

    def _write(self) -> None:
        while (job := self._jobs.get()) is not None:
            jobs = [job]
            stop = False
            while len(jobs) < MOST_JOBS:
                try:
                    another = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if another is None:
                    stop = True
                    break
                jobs.append(another)
            self._transact(jobs)
            if stop:
                return

    def _transact(self, jobs: list[Job]) -> None:
        outcomes: list[tuple[asyncio.Future[Any], Any, BaseException | None]] = []
        try:
            with sqlite_errors(self.path):
                connection = self._writer or self._reconnect()
                connection.execute("begin immediate")
                try:
                    alone = len(jobs) == 1
                    for write, future, cannot_fail in jobs:
                        if alone or cannot_fail:
                            outcomes.append((future, write(connection), None))
                        else:
                            outcomes.append(self._guarded(connection, write, future))
                    connection.execute("commit")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("rollback")
                    raise
        except BaseException as error:  # noqa: BLE001 - it is handed to whoever waits
            outcomes = [(future, None, error) for _, future, _ in jobs]
            if not isinstance(error, (StoreBusyError, _RolledBackError)) and isinstance(error, StoreError):
                # After an I/O error the connection's idea of the file is not trusted again.
                self._distrust()
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(_settle, outcomes)
        if self._wake is not None:
            self._wake.send()
            if loop is not None and not loop.is_closed() and self.on_change:
                loop.call_soon_threadsafe(self._changed)

    def _guarded(
        self, connection: apsw.Connection, write: Callable[[apsw.Connection], Any], future: "asyncio.Future[Any]"
    ) -> tuple["asyncio.Future[Any]", Any, BaseException | None]:
        connection.execute("savepoint job")
        try:
            result = write(connection)
        except apsw.Error:
            raise
        except BaseException as error:  # noqa: BLE001 - it is handed to whoever waits
            connection.execute("rollback to job; release job")
            return future, None, error
        connection.execute("release job")
        return future, result, None

    def _reconnect(self) -> apsw.Connection:
        self._writer = self._connect()
        return self._writer

    def _distrust(self) -> None:
        connection, self._writer = self._writer, None
        if connection is not None:
            with contextlib.suppress(apsw.Error):
                connection.close(force=True)

    def _changed(self) -> None:
        for listener in tuple(self.on_change):
            listener()


class _RolledBackError(Exception):
    """The borrower of the connection did not want it committed."""


class _WakeUp:
    """Tells other processes that a file has changed: a datagram to each one's socket."""

    def __init__(self, path: str, loop: asyncio.AbstractEventLoop, heard: Callable[[], None]) -> None:
        folder = Path(f"{path}-wake")
        if len(str(folder)) > SOCKET_PATH_LIMIT - 16:
            digest = hashlib.blake2b(os.fsencode(os.path.realpath(path)), digest_size=8).hexdigest()
            folder = Path(tempfile.gettempdir()) / f"millstream-{os.getuid()}-{digest}"
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = folder
        self._own = folder / secrets.token_hex(4)
        self._loop = loop
        self._heard = heard
        self._peers: list[str] = []
        self._listed = -1
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)  # noqa: FBT003
        self._socket.bind(str(self._own))
        loop.add_reader(self._socket, self._receive)

    def send(self) -> None:
        """Wake every process that listens; a dead one's socket is cleared away."""
        with contextlib.suppress(OSError):
            changed = self._folder.stat().st_mtime_ns
            if changed != self._listed:
                self._peers = [e.path for e in os.scandir(self._folder) if e.name != self._own.name]
                self._listed = changed
        for peer in self._peers:
            try:
                self._socket.sendto(b"!", peer)
            except BlockingIOError:
                pass  # it has wake-ups waiting already
            except (ConnectionRefusedError, FileNotFoundError):
                with contextlib.suppress(OSError):
                    os.unlink(peer)
            except OSError:
                pass

    def _receive(self) -> None:
        with contextlib.suppress(OSError):
            while self._socket.recv(16):
                pass
        self._heard()

    def close(self) -> None:
        if not self._loop.is_closed():
            self._loop.remove_reader(self._socket)
        self._socket.close()
        with contextlib.suppress(OSError):
            self._own.unlink()
        with contextlib.suppress(OSError):
            self._folder.rmdir()


def _resolve(future: "asyncio.Future[Any]", result: object) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: "asyncio.Future[Any]", done: "asyncio.Future[Any]") -> None:
    error = done.exception() if not done.cancelled() else None
    future.set_exception(error or StoreError("the store closed before the transaction began"))


def _ignore(future: "asyncio.Future[Any]") -> None:
    if not future.cancelled():
        future.exception()


def _settle(outcomes: list[tuple["asyncio.Future[Any]", Any, BaseException | None]]) -> None:
    for future, result, error in outcomes:
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
