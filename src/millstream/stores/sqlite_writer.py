"""The one thread through which a process writes to a file: group commit, and the connection lent out."""

import asyncio
import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future as ThreadFuture
from dataclasses import dataclass
from typing import Any, Self

import apsw

from millstream.contracts.errors import StoreBusyError, StoreError, StoreFullError, StoreReadOnlyError
from millstream.stores.sqlite_connection import Connection
from millstream.stores.sqlite_errors import sqlite_errors
from millstream.stores.sqlite_wake import EVENTS, NOTHING, ROWS, News
from millstream.stores.sqlite_wal import WalKeeper

#: How long one look at another process's lock is from the next, in seconds.
BUSY_STEP = 0.0002
#: Who has seen another process write within so many seconds leaves it time for a turn, of such a length and so often.
CONTENDED, GIVE_WAY, GIVE_WAY_EVERY = 0.05, 0.0004, 0.002
#: Writes gathered into one transaction; more would only delay the first of them.
MOST_JOBS = 4096


@dataclass(slots=True)
class Job:
    """A write that waits for its transaction; it may run again after a rollback."""

    write: Callable[[Connection], Any]
    settle: Callable[[Any, BaseException | None], None]
    """Told the result, or the error, once it is on disk or is not."""
    wakes: bytes = ROWS
    on_loop: bool = True
    """Where `settle` is called: on the loop, or else on the writer's own thread."""
    lends: bool = False
    """Whether somebody else uses the connection meanwhile; such a job has a transaction to itself."""


Outcome = tuple[Job, Any, BaseException | None]


class SqliteWriter:
    """Gathers what is waiting into one transaction, and syncs once for all of it.

    `tell` gets, on this thread, what is to be settled on the loop, and what the
    transaction may be of interest for. `appended` collects, inside a transaction, the
    partitions that get events.
    """

    def __init__(
        self, path: str, connect: Callable[[], Connection], wal: WalKeeper, tell: Callable[[list[Outcome], News], None], *, busy: float
    ) -> None:
        self._path = path
        self._connect = connect
        self._wal = wal
        self._tell = tell
        self._busy = busy
        self.on_rollback: Iterable[Callable[[], None]] = ()
        self.on_foreign: Iterable[Callable[[], None]] = ()
        self.appended: set[int] = set()
        self._connection: Connection | None = None
        self._file = _file(path)
        self._version = -1
        self._busy_until = self._contended_until = self._gave_way = self._ended = 0.0
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"millstream-writer:{os.path.basename(path)}", daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        """Have it written with the next transaction."""
        self._jobs.put(job)

    def stop(self) -> None:
        """Write what has been put, and end; blocks until it is done."""
        self._jobs.put(None)
        self._thread.join()
        self._distrust()

    # On the thread

    def _run(self) -> None:
        stopped = False
        while not stopped:
            jobs, lent, stopped = self._gather()
            if jobs:
                self._transact(jobs)
            if lent is not None:
                self._transact([lent])
            if self._connection is not None:
                self._wal.between(self._connection)

    def _gather(self) -> tuple[list[Job], Job | None, bool]:
        """What waits now: writes to do together, one that lends the connection after them, and whether to stop."""
        jobs: list[Job] = []
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

    def _transact(self, jobs: list[Job]) -> None:
        try:
            with sqlite_errors(self._path):
                results = self._commit(self._connection or self._reconnect(), jobs)
            outcomes: list[Outcome] = [(job, result, None) for job, result in zip(jobs, results, strict=True)]
        except BaseException as error:  # noqa: BLE001 - it is handed to whoever waits
            for forget in self.on_rollback:
                forget()
            if isinstance(error, StoreError) and not isinstance(error, (StoreBusyError, StoreFullError, StoreReadOnlyError)):
                # After an I/O error the connection's idea of the file is not trusted again.
                self._distrust()
            if len(jobs) > 1 and not isinstance(error, StoreError):
                # One of them failed by itself; the others shall not suffer for it.
                for job in jobs:
                    self._transact([job])
                return
            outcomes = [(job, None, error) for job in jobs]
        self._settle(outcomes)

    def _commit(self, connection: Connection, jobs: list[Job]) -> list[Any]:
        self._see_the_file()
        self._give_way()
        connection.execute("begin immediate")
        self.appended.clear()
        try:
            if connection.data_version() != self._version:
                self._contended_until = time.monotonic() + CONTENDED
                for forget in self.on_foreign:
                    forget()
            results = [job.write(connection) for job in jobs]
            if not connection.in_transaction:
                raise StoreError(f"{self._path}: SQLite gave up the transaction after an error of the disk; nothing of it was kept.")
            connection.execute("commit")
        except BaseException:
            self._version = -1
            if connection.in_transaction:
                connection.execute("rollback")
            raise
        self._version = connection.data_version()
        self._ended = time.monotonic()
        return results

    def _see_the_file(self) -> None:
        if self._file is not None and _file(self._path) != self._file:
            raise StoreError(
                f"{self._path}: the file has been moved, removed or replaced while it was open. Nothing more is written, since nobody "
                "would find it. Stop every process that uses it, put the right file in place, and start them again."
            )

    def _give_way(self) -> None:
        """Let another process's writer have its turn: SQLite itself knows no queue."""
        now = time.monotonic()
        if now > self._ended + GIVE_WAY:
            self._gave_way = now  # by having had nothing to do
        elif now < self._contended_until and now > self._gave_way + GIVE_WAY_EVERY:
            time.sleep(GIVE_WAY)
            self._gave_way = time.monotonic()

    def _settle(self, outcomes: list[Outcome]) -> None:
        kinds = NOTHING
        appended: frozenset[int] = frozenset()
        waiting: list[Outcome] = []
        for outcome in outcomes:
            job, result, error = outcome
            if job.on_loop:
                waiting.append(outcome)
            else:
                job.settle(result, error)
            if error is None and job.wakes not in kinds:
                kinds += job.wakes
        if self.appended and outcomes[0][2] is None:
            kinds += EVENTS
            appended = frozenset(self.appended)
        if waiting or kinds:
            self._tell(waiting, News(kinds, appended))

    # The connection

    def _reconnect(self) -> Connection:
        connection = self._connection = self._connect()
        connection.set_busy_handler(self._is_busy)
        connection.set_wal_hook(self._written)
        return connection

    def _distrust(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # What was acknowledged is in the WAL: a checkpoint that fails here loses nothing.
            with contextlib.suppress(apsw.Error):
                connection.close()

    def _is_busy(self, tries: int) -> bool:
        """Wait for another process's commit: it takes a millisecond as a rule, and SQLite's own steps grow to a hundred."""
        now = time.monotonic()
        if tries == 0:
            self._busy_until = now + self._busy
        if now > self._busy_until:
            return False
        time.sleep(BUSY_STEP if tries < 100 else 20 * BUSY_STEP)
        return True

    def _written(self, _connection: object, _name: str, pages: int) -> int:
        self._wal.committed(pages)
        return apsw.SQLITE_OK


class Borrowed:
    """The write connection, lent until `end`; then what is left is to wait until the commit is on disk."""

    def __init__(self, hand_over: Callable[[Connection], object], returned: Callable[[], None]) -> None:
        self.connection: Connection | None = None
        self.ended: ThreadFuture[None] = ThreadFuture()
        self._hand_over = hand_over
        self._returned = returned
        self._back: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def job(self) -> Job:
        """What the writer does: hand the connection over, and wait until it is back."""

        def write(connection: Connection) -> None:
            self._hand_over(connection)
            if not self._back.get():
                raise _RolledBackError

        def settle(_: None, error: BaseException | None) -> None:
            resolve(self.ended, None, error)

        return Job(write, settle, on_loop=False, lends=True)

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


class _RolledBackError(Exception):
    """The borrower of the connection did not want it committed."""


def resolve(future: "asyncio.Future[Any] | ThreadFuture[Any]", result: object, error: BaseException | None) -> None:
    """Settle a future, unless somebody has cancelled it."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def _file(path: str) -> tuple[int, int] | None:
    """Which file a name stands for; None when the operating system knows of none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
