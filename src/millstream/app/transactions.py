"""The store's write transaction, lent to the handlers of a group that ask for it.

On a store with one writer such handlers take turns: each works behind a savepoint of its
own, and what they did is committed together with their marks, their events and the
positions. The transaction begins when a handler first uses it, and it ends as soon as no
handler is ready to go on: it is never open while user code waits, but for a moment.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import msgspec

from millstream.app.judge import Judge
from millstream.app.work import Job, Owned, Work
from millstream.contracts.errors import FencedError, HandlerTimeoutError, MillstreamError, NotStartedError, StoreError
from millstream.core.broker import Delivery
from millstream.core.clock import Clock
from millstream.core.handler import Context
from millstream.core.observe import Outcomes
from millstream.core.store import Ended, Page, Store, StoreTransaction

log = logging.getLogger("millstream.worker")

#: A handler that waits longer than this inside its transaction is rolled back and run again alone, in seconds.
HELD = 0.05
#: One in a thread cannot be rolled back while it waits; after so many seconds between its statements it is named in a warning.
LONG = 0.5
#: One that runs alone has so many seconds inside; then it has failed.
ALONE = 5.0
#: After the store has failed it is left alone for so many seconds.
PAUSE = 0.2
OVER = "this transaction has ended: use it only while its handler runs"
#: Deliveries of one transaction; more would only delay the first of them.
MOST = 1000


class Batch(msgspec.Struct):
    """What one commit carries, and what is to be told when it is durable."""

    page: Page
    works: list[Work]
    done: list[Delivery]
    """Settled with the broker afterwards."""
    published: bool = False
    """Whether something may wait in the outbox."""
    outcomes: Outcomes | None = None
    """What observers are told afterwards, if there are any."""


class Clerk(Protocol):
    """Knows what is to be committed; the worker."""

    committing: asyncio.Lock
    """Held from the moment a batch is put together until it is durable: positions follow one another."""

    def finished(self, work: Work) -> None:
        """It can be committed."""
        ...

    def held(self, work: Work) -> None:
        """An attempt has failed; the next follows in its lane."""
        ...

    def abandoned(self, work: Work) -> None:
        """It is not handled here any more: it is delivered again."""
        ...

    def collect(self) -> Batch | None:
        """Everything that is finished and not yet committed."""
        ...

    async def committed(self, batch: Batch) -> None: ...

    def trouble(self, error: BaseException) -> None:
        """The store failed: everything in flight starts over."""
        ...


class Lent(msgspec.Struct, eq=False):
    """The Transaction that one handler sees, for as long as it runs."""

    _turns: "Transactions"
    name: str
    """Whose it is."""
    task: asyncio.Task[Any] | None
    alone: bool = False
    ended: bool = False
    watched: bool = False
    preempted: bool = False
    """It was rolled back, and is to run again alone."""
    expelled: HandlerTimeoutError | None = None
    """It was rolled back, although it was alone, and has failed."""

    @property
    def lost(self) -> bool:
        """Whether what it wrote is undone already."""
        return self.preempted or self.expelled is not None

    def execute(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement; give its rows."""
        try:
            return self._turns.use(self).execute(sql, params)
        except StoreError as error:
            error.in_transaction = True
            raise

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run one statement for each row."""
        try:
            self._turns.use(self).executemany(sql, rows)
        except StoreError as error:
            error.in_transaction = True
            raise


class Transactions:
    """Gives handlers their turn in the store's write transaction."""

    def __init__(self, store: Store, clerk: Clerk, judge: Judge, clock: Clock) -> None:
        self._store = store
        self._clerk = clerk
        self._judge = judge
        self._clock = clock
        self._tasks: asyncio.TaskGroup | None = None
        self._open: StoreTransaction | None = None
        self._opening: asyncio.Task[None] | None = None
        self._inside: Lent | None = None
        self._turn: asyncio.Future[None] | None = None
        """Done when the next handler may try."""
        self._waiting = 0
        self._ran = 0
        """Deliveries since the transaction began."""
        self._wrote: set[Owned] = set()
        """The partitions for which the transaction holds what handlers wrote."""
        self._busy = False
        """Whether a handler has run since the last look."""
        self._looking = False

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Settle in this task group."""
        self._tasks = tasks

    def close(self) -> None:
        """Wait for no transaction any more."""
        if self._opening is not None:
            self._opening.cancel()

    @property
    def free(self) -> bool:
        """Whether a transaction is open, and nobody is inside."""
        return self._open is not None and self._inside is None

    async def ready(self) -> None:
        """Wait until a transaction is open and free, so that the next handler need not."""
        while not self.free:
            self._waiting += 1
            try:
                await self._next_turn()
            finally:
                self._waiting -= 1

    async def run(self, work: Work, context: Context | None, task: asyncio.Task[Any] | None, *, alone: bool = False) -> None:
        """Run an `async def` handler with its Transaction, and note what became of its delivery."""
        handler = work.handler
        assert handler is not None
        lent = Lent(self, handler.name, task, alone=alone)
        try:
            result = await handler.call(work.message, context, lent)
            if not lent.lost:
                self._judge.succeeded(work, result, context.published if context is not None else ())
        except BaseException:
            self._leave(lent, (work,), keep=False)
            if not lent.lost:
                raise
        else:
            self._leave(lent, (work,), keep=True)
        if lent.lost:
            _not_cancelled(task)
            if lent.expelled is not None:
                raise lent.expelled
            await self.run(work, work.context(context.group) if context is not None else None, task, alone=True)

    async def run_batch(self, job: Job, *, alone: bool = False) -> None:
        """The same for a handler of batches."""
        task = asyncio.current_task()
        lent = Lent(self, job.handler.name, task, alone=alone)
        try:
            result = await job.handler.call(job.argument, job.context, lent)
            verdicts = self._judge.verdicts(job, result)
            failed = not all(type(verdict) is list for verdict in verdicts)
        except BaseException as error:
            self._leave(lent, job.works, keep=False)
            failed, verdicts = True, []
            if not lent.lost and (len(job.works) == 1 or _interrupts(error, task)):
                raise
        else:
            self._leave(lent, job.works, keep=not failed)
        if lent.lost:
            _not_cancelled(task)
            if lent.expelled is not None:
                raise lent.expelled
            await self.run_batch(Job(job.handler, job.works, job.group), alone=True)
        elif failed and len(job.works) > 1:
            await self._one_by_one(job)
        else:
            self._judge.judge(job, verdicts)

    def use(self, lent: Lent) -> StoreTransaction:
        """The open transaction, once it is this handler's turn; waits for it at the first use."""
        if self._inside is lent and self._open is not None:
            return self._open
        if lent.ended:
            raise NotStartedError(OVER)
        while self._open is None or self._inside is not None or (lent.alone and self._ran):
            if lent.alone and self._inside is None and self._open is not None:
                self._finish()
            # Only here, as the handlers that come here have loaded it: others need no greenlet.
            from millstream.app.waiting import wait_for

            self._waiting += 1
            try:
                wait_for(self._next_turn())
            finally:
                self._waiting -= 1
        self._open.savepoint()
        self._inside = lent
        return self._open

    def _next_turn(self) -> "asyncio.Future[None]":
        assert self._tasks is not None
        if self._open is None and self._opening is None:
            self._opening = self._tasks.create_task(self._begin())
        if self._turn is None or self._turn.done():
            self._turn = asyncio.get_running_loop().create_future()
        return asyncio.shield(self._turn)

    def _call_next(self) -> None:
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    async def _begin(self) -> None:
        try:
            await self._clerk.committing.acquire()
            try:
                self._open = await self._store.begin()
            except BaseException:
                self._clerk.committing.release()
                raise
            self._ran = 0
            self._look_soon()
        except StoreError as error:
            self._clerk.trouble(error)
            await self._clock.sleep(PAUSE)
        finally:
            self._opening = None
            self._call_next()

    def _leave(self, lent: Lent, works: Sequence[Work], *, keep: bool) -> None:
        """A handler has ended, with these deliveries: what it wrote stays, or is undone."""
        lent.ended = True
        self._ran += len(works)
        self._busy = True
        if self._inside is lent:
            assert self._open is not None
            self._inside = None
            try:
                if keep:
                    self._open.release()
                    for work in works:
                        self._wrote.add(work.owned)
                else:
                    self._open.rollback()
            except BaseException as error:
                self._give_up(error)
                if isinstance(error, StoreError):
                    error.in_transaction = True
                raise
            self._call_next()
        if self._open is not None:
            self._look_soon()

    def _look_soon(self) -> None:
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        """End the transaction, unless a handler has just run, or is about to."""
        self._looking = False
        if self._open is None:
            return
        if self._inside is not None:
            if not self._inside.watched:
                self._inside.watched = True
                asyncio.get_running_loop().call_later(ALONE if self._inside.alone else HELD, self._held, self._inside)
            return
        busy, self._busy = self._busy, False
        if self._ran < MOST and (busy or self._waiting):
            if self._waiting:
                self._call_next()
            self._look_soon()
            return
        self._finish()

    def _held(self, lent: Lent) -> None:
        """It still waits inside: undo it, and have it run again alone; or have it fail, when it is alone."""
        if self._inside is not lent or self._open is None:
            return
        if lent.alone:
            lent.expelled = HandlerTimeoutError(
                f"handler {lent.name} held the store's write lock for over {ALONE:g} s while it waited, and nobody else could write: it "
                "was rolled back. Do what waits before the first use of the Transaction; publish by returning events."
            )
        else:
            lent.preempted = True
            log.warning(
                "handler %s waited more than %.0f ms inside its transaction, and holds up every other writer: it was rolled back and is "
                "run again alone. Do what waits before the first use of the Transaction.",
                lent.name,
                HELD * 1000,
            )
        lent.ended = True
        self._inside = None
        if lent.task is not None:
            lent.task.cancel()
        try:
            self._open.rollback()
        except MillstreamError as error:
            self._give_up(error)
            return
        self._call_next()
        self._look_soon()

    def _give_up(self, error: BaseException) -> None:
        """The transaction cannot go on: nothing of it is kept."""
        transaction, self._open = self._open, None
        self._wrote.clear()
        assert transaction is not None
        assert self._tasks is not None
        self._tasks.create_task(self._settle(transaction.end(commit=False), None))
        self._clerk.trouble(error)

    async def _one_by_one(self, job: Job) -> None:
        """Some of a batch failed: undo it all, and let each stand for itself."""
        task, monotonic = asyncio.current_task(), self._clock.monotonic
        for work in job.works:
            if work.owned.gone:
                continue
            single, started = Job(job.handler, [work], job.group), monotonic()
            try:
                await self.run_batch(single)
            except BaseException as error:  # a handler's SystemExit must not end the worker
                if _interrupts(error, task):
                    raise
                self._judge.judge(single, [error])
            work.worked = monotonic() - started
            # At once: what it wrote is committed before the next one has ended.
            self._clerk.finished(work)

    def _finish(self) -> None:
        """Commit what the open transaction holds, with all else that is finished."""
        transaction, self._open = self._open, None
        wrote, self._wrote = self._wrote, set()
        assert transaction is not None
        assert self._tasks is not None
        if any(owned.gone for owned in wrote):
            # Another handles it now, and nobody can take one handler's writes out of the others'.
            self._tasks.create_task(self._settle(transaction.end(commit=False), None))
            if not all(owned.gone for owned in wrote):
                self._clerk.trouble(FencedError("a partition was lost while what was written for it had yet to be committed"))
            return
        batch = self._clerk.collect()
        if batch is None:
            self._tasks.create_task(self._settle(transaction.end(commit=False), None))
            return
        try:
            transaction.apply(batch.page)
        except BaseException as error:
            transaction.end(commit=False)
            self._clerk.committing.release()
            self._clerk.trouble(error)
            return
        self._tasks.create_task(self._settle(transaction.end(commit=True), batch))

    async def _settle(self, ended: Ended, batch: Batch | None) -> None:
        try:
            await ended
            if batch is not None:
                await self._clerk.committed(batch)
        except StoreError as error:
            self._clerk.trouble(error)
        finally:
            self._clerk.committing.release()
            if self._turn is not None and not self._turn.done():
                self._call_next()

    def in_thread(self, job: Job) -> Callable[[], None]:
        """Run a `def` handler where this is called; what is returned is called on the loop afterwards."""
        handler = job.handler
        if not handler.takes_transaction:
            result = handler.call(job.argument, job.context, None)
            return lambda: self._judge.judge(job, self._judge.verdicts(job, result))
        lent = _Threaded(self._store, handler.name, self._clock)
        job.lent[:] = [lent]
        try:
            verdicts = self._judge.verdicts(job, handler.call(job.argument, job.context, lent))
            failed = not all(type(verdict) is list for verdict in verdicts)
        except BaseException as error:
            if len(job.works) == 1 or is_not_the_handlers(error):
                lent.end(None)
                raise
            failed, verdicts = True, []
        if failed:
            lent.end(None)
            if len(job.works) > 1:
                return self._one_by_one_in_thread(job)
        else:
            committed = lent.end(self._judge.page_of(job, verdicts))
            for work in job.works:
                work.committed = committed
        return lambda: self._judge.judge(job, verdicts)

    def _one_by_one_in_thread(self, job: Job) -> Callable[[], None]:
        finishes: list[Callable[[], None]] = []
        for work in job.works:
            single = Job(job.handler, [work], job.group, job)
            try:
                finishes.append(self.in_thread(single))
            except Exception as error:
                if is_not_the_handlers(error):
                    raise
                finishes.append(lambda single=single, error=error: self._judge.judge(single, [error]))

        def finish() -> None:
            for each in finishes:
                each()

        return finish


class _Threaded:
    """The Transaction of a handler in a thread: one of its own, begun at its first use."""

    def __init__(self, store: Store, name: str, clock: Clock) -> None:
        self._store = store
        self._name = name
        self._clock = clock
        self._left = 0.0
        """When the last statement ended."""
        self._idle = 0.0
        """For how long it has been open without a statement."""
        self._open: StoreTransaction | None = None
        self._taken = self._ending = False
        self._deciding = threading.Lock()
        self._using = threading.Lock()
        """Held by the thread during a statement: no other uses the connection then."""

    def execute(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement; give its rows."""
        with self._use() as transaction:
            return transaction.execute(sql, params)

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run one statement for each row."""
        with self._use() as transaction:
            transaction.executemany(sql, rows)

    @contextmanager
    def _use(self) -> Generator[StoreTransaction]:
        try:
            with self._using:
                if self._taken or self._ending:
                    raise NotStartedError(OVER)
                if self._open is None:
                    self._open = self._store.begin_now()
                else:
                    self._idle += self._clock.monotonic() - self._left
                try:
                    yield self._open
                finally:
                    self._left = self._clock.monotonic()
        except StoreError as error:
            error.in_transaction = True
            raise
        finally:
            if self._taken:
                self._roll_back()

    def take_back(self) -> bool:
        """Roll back what the thread has begun, at once or after the statement that it is in; False if it is being committed."""
        with self._deciding:
            if self._ending:
                return False
            self._taken = True
        self._roll_back()
        return True

    def _roll_back(self) -> None:
        if self._using.acquire(blocking=False):
            transaction, self._open = self._open, None
            if transaction is not None:
                transaction.end(commit=False)
            self._using.release()

    def end(self, page: Page | None) -> bool:
        """Commit with this page, or roll back; tell whether there was anything to commit."""
        with self._deciding:
            if self._taken:
                raise NotStartedError(OVER)
            self._ending = True
        transaction, self._open = self._open, None
        if transaction is None:
            return False
        if (idle := self._idle + self._clock.monotonic() - self._left) > LONG:
            log.warning(
                "handler %s held the store's write lock for %.0f ms without using it, and holds up every other writer meanwhile. Do what "
                "waits before the first use of the Transaction.",
                self._name,
                idle * 1000,
            )
        if page is None:
            transaction.end(commit=False)
            return False
        try:
            try:
                transaction.apply(page)
            except BaseException:
                transaction.end(commit=False)
                raise
            transaction.end(commit=True).wait()
        except StoreError as error:
            error.in_transaction = True
            raise
        return True


def is_not_the_handlers(error: BaseException) -> bool:
    """Whether it says nothing of the deliveries: their transaction failed, or they are another's now."""
    return isinstance(error, (FencedError, GeneratorExit)) or (isinstance(error, StoreError) and error.in_transaction)


def _interrupts(error: BaseException, task: asyncio.Task[Any] | None) -> bool:
    """The same, or that the lane is interrupted."""
    if isinstance(error, asyncio.CancelledError):
        return task is not None and task.cancelling() > 0
    return is_not_the_handlers(error)


def _not_cancelled(task: asyncio.Task[Any] | None) -> None:
    """It was interrupted by us, and goes on; unless somebody else has interrupted it as well."""
    if task is not None and task.cancelling() and task.uncancel():
        raise asyncio.CancelledError
