"""Lanes: tasks that run handlers, one key after another, several keys at a time."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextvars import copy_context
from typing import Any

from millstream.app.judge import Judge
from millstream.app.threads import Threads
from millstream.app.transactions import Clerk, Transactions, is_not_the_handlers
from millstream.app.work import IN_HAND, Job, Work
from millstream.contracts.errors import HandlerTimeoutError
from millstream.core.clock import Clock
from millstream.core.handler import Handler


class Lane:
    """What one task is doing, for the watch over timeouts."""

    __slots__ = ("dropped", "handler", "interrupted", "job", "started", "task", "thread", "works")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.handler: Handler | None = None
        """Whose call is running."""
        self.works: Sequence[Work] = ()
        self.started = 0.0
        self.interrupted: BaseException | None = None
        """Why the task was cancelled, when it took too long."""
        self.dropped = False
        """Whether it was cancelled because another owns what it was doing; then it ends."""
        self.thread: asyncio.Future[Any] | None = None
        """What a thread is doing for this lane."""
        self.job: Job | None = None
        """For which job."""

    def drop(self) -> None:
        """End the task; a thread goes on, but what it holds of the store is taken from it."""
        self.dropped = True
        if self.job is not None:
            self.job.take_back()
        if self.task is not None:
            self.task.cancel()


class Lanes:
    """Runs deliveries so that those of one sequence never overlap.

    A lane serves many deliveries; no task, timeout or queue is made for a single one.
    """

    def __init__(
        self, group: str, handlers: Sequence[Handler], clerk: Clerk, judge: Judge, transactions: Transactions, clock: Clock
    ) -> None:
        self._group = group
        self._clerk = clerk
        self._judge = judge
        self._transactions = transactions
        self._clock = clock
        self._limit = min(handler.options.concurrency for handler in handlers)
        self._patient = _patient if any(handler.takes_transaction and handler.is_async for handler in handlers) else _as_it_is
        self._ready: deque[Work] = deque()
        """The first of each chain that no lane has taken up."""
        self._lanes: set[Lane] = set()
        self._tasks: asyncio.TaskGroup | None = None
        self._threads = Threads(self._limit, f"millstream:{group}")
        self._held: dict[asyncio.Task[None], Work] = {}
        """What waits for its next attempt with its whole chain behind it, where retries do not go through the store."""
        self._ending = False
        self.hurries = False
        """Whether next attempts follow at once, because time stands still."""
        self.stuck: HandlerTimeoutError | None = None
        """A `def` handler did not come back: its thread is lost, and only a new process helps."""

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Run lanes in this task group."""
        self._tasks = tasks

    def put(self, works: Iterable[Work]) -> None:
        """Have these handled, each after what was put before of its sequence."""
        ready = self._ready
        for work in works:
            chains, sequence = work.owned.chains, work.sequence
            last = chains.get(sequence)
            if last is None:
                ready.append(work)
            else:
                last.behind = work
            chains[sequence] = work
        assert self._tasks is not None
        for _ in range(min(self._limit - len(self._lanes), len(ready))):
            lane = Lane()
            self._lanes.add(lane)
            lane.task = self._tasks.create_task(self._patient(self._run(lane)))

    async def drop(self) -> None:
        """Interrupt whatever runs for partitions that are gone, and wait until it has stopped."""
        self._ready = deque(work for work in self._ready if not work.owned.gone)
        tasks: list[asyncio.Task[None]] = []
        for lane in self._lanes:
            gone = sum(work.owned.gone for work in lane.works)
            # A thread cannot be interrupted: what is still here of its batch is not begun a second time beside it.
            if gone and lane.task is not None and (lane.thread is None or gone == len(lane.works)):
                lane.drop()
                tasks.append(lane.task)
        for task, work in self._held.items():
            if work.owned.gone:
                task.cancel()
        if tasks:
            await asyncio.wait(tasks)
            # Other lanes for what these would have done next.
            self.put(())

    def close(self) -> None:
        """Let go of the threads, and end lanes that wait for their turn."""
        for lane in self._lanes:
            lane.drop()
        for task in self._held:
            task.cancel()
        self._threads.close()

    def let_go(self, *, ending: bool) -> None:
        """Wait for no next attempt any more, for those that are being handed over or, when all is `ending`, for any."""
        self._ending = self._ending or ending
        for task, work in list(self._held.items()):
            if self._ending or work.owned.leaving:
                task.cancel()
                del self._held[task]
                self._abandon(work)

    @property
    def held_back(self) -> int:
        """How many wait for a next attempt, their own or that of another of their sequence."""
        count = 0
        for work in self._held.values():
            behind: Work | None = work
            while behind is not None:
                count, behind = count + 1, behind.behind
        return count

    def _hold(self, work: Work) -> None:
        """Have it called again in a while; what comes after it of its sequence waits behind it."""
        if work.owned.gone:
            return
        self._clerk.held(work)
        if self._ending or work.owned.leaving:
            self._abandon(work)
            return
        assert self._tasks is not None
        self._held[self._tasks.create_task(self._again(work))] = work

    async def _again(self, work: Work) -> None:
        seconds, work.again, work.message = work.again or 0.0, None, None
        task = asyncio.current_task()
        try:
            await self._clock.sleep(0.0 if self.hurries else seconds)
        finally:
            if task is not None:
                self._held.pop(task, None)
        if not work.owned.gone:
            work.attempt += 1
            work.error = ""
            self._ready.append(work)
            self.put(())

    def _abandon(self, work: Work) -> None:
        chain: Work | None = work
        while chain is not None:
            self._clerk.abandoned(chain)
            chain = chain.behind

    def watch(self, now: float) -> None:
        """Interrupt handlers that have run for too long."""
        for lane in self._lanes:
            handler = lane.handler
            if handler is None or lane.task is None or now - lane.started <= handler.options.timeout:
                continue
            if lane.job is not None and not lane.job.take_back():
                continue  # it is over, and is being committed
            lane.interrupted = HandlerTimeoutError(f"handler {handler.name} took longer than {handler.options.timeout:g} s")
            if lane.thread is not None:
                self.stuck = self.stuck or lane.interrupted
            lane.task.cancel()

    async def _run(self, lane: Lane) -> None:
        try:
            while self._ready and not lane.dropped:
                handler = self._ready[0].handler
                assert handler is not None
                if handler.takes_transaction and handler.is_async and not self._transactions.free:
                    await self._transactions.ready()
                    continue
                first = self._ready.popleft()
                if handler.is_batch:
                    await self._serve_batch(lane, handler, first)
                elif handler.is_async:
                    await self._serve(lane, handler, first)
                else:
                    await self._serve_in_thread(lane, handler, first)
        finally:
            self._lanes.discard(lane)

    def _next(self, work: Work) -> Work | None:
        """What comes after one that is finished, if there is anything yet."""
        behind, work.behind = work.behind, None
        if behind is None:
            chains = work.owned.chains
            if chains.get(work.sequence) is work:
                del chains[work.sequence]
        return behind

    def _waits(self, work: Work) -> bool:
        """Whether it is not to be run, because it is dropped or has to be parked."""
        if work.owned.gone:
            return True
        if self._judge.admits(work):
            return False
        self._clerk.finished(work)
        return True

    async def _serve(self, lane: Lane, handler: Handler, first: Work) -> None:
        """The hot path: an `async def` handler, delivery after delivery of a chain."""
        call, monotonic, takes_context, takes_transaction = (
            handler.call, self._clock.monotonic, handler.takes_context, handler.takes_transaction,
        )  # fmt: skip
        finished, judge, run = self._clerk.finished, self._judge, self._transactions.run
        admits, succeeded, next_of = judge.admits, judge.succeeded, self._next
        lane.handler = handler
        work: Work | None = first
        while work is not None:
            if work.handler is not handler:
                self._ready.append(work)
                break
            if work.owned.gone:
                pass
            elif not admits(work):
                finished(work)
            else:
                lane.works = works = (work,)
                IN_HAND.set(works)
                work.started = lane.started = monotonic()
                try:
                    context = work.context(self._group) if takes_context else None
                    if takes_transaction:
                        await run(work, context, lane.task)
                    else:
                        result = await call(work.message, context, None)
                        succeeded(work, result, context.published if context else ())
                except BaseException as error:  # a handler's SystemExit must not end the worker
                    self._failed(lane, error)
                    if work.again is not None:
                        if lane.interrupted is not None:
                            self._uncancel(lane)
                        work.worked = monotonic() - work.started
                        self._hold(work)
                        break
                if lane.interrupted is not None:
                    self._uncancel(lane)
                work.worked = monotonic() - work.started
                finished(work)
            work = next_of(work)
            if work is None and self._ready and self._ready[0].handler is handler and not takes_transaction and not lane.dropped:
                # The next chain at once: where every delivery has a key of its own, each is one.
                work = self._ready.popleft()
        lane.handler, lane.works = None, ()

    async def _serve_in_thread(self, lane: Lane, handler: Handler, first: Work) -> None:
        """A `def` handler, delivery after delivery of a chain."""
        work: Work | None = first
        while work is not None:
            if work.handler is not handler:
                self._ready.append(work)
                return
            if not self._waits(work):
                await self._perform(lane, Job(handler, [work], self._group))
                if work.again is not None:
                    self._hold(work)
                    return
            work = self._next(work)

    async def _serve_batch(self, lane: Lane, handler: Handler, first: Work) -> None:
        """One call for the first delivery of as many chains as the batch takes: never two of one sequence."""
        firsts = [first]
        while len(firsts) < handler.options.batch and self._ready and self._ready[0].handler is handler:
            firsts.append(self._ready.popleft())
        works = [work for work in firsts if not self._waits(work)]
        try:
            if works:
                await self._perform(lane, Job(handler, works, self._group))
        finally:
            for work in firsts:
                if work.again is not None:
                    self._hold(work)
                    continue
                # One that was interrupted for another's sake is called again; it is no failed attempt.
                again = work if work.kind is None and not work.owned.gone else self._next(work)
                if again is not None:
                    self._ready.append(again)

    async def _perform(self, lane: Lane, job: Job) -> None:
        """Run one job to its end, and have its deliveries judged."""
        handler, works, clerk = job.handler, job.works, self._clerk
        lane.handler, lane.works = handler, works
        IN_HAND.set(works)
        lane.started = started = self._clock.monotonic()
        for work in works:
            work.started = started
        try:
            if not handler.is_async:
                await self._in_thread(lane, job)
            elif handler.takes_transaction:
                await self._transactions.run_batch(job)
            else:
                self._judge.judge(job, self._judge.verdicts(job, await handler.call(job.argument, job.context, None)))
        except BaseException as error:  # a handler's SystemExit must not end the worker
            self._failed(lane, error)
        if lane.interrupted is not None:
            self._uncancel(lane)
        lane.handler, lane.works = None, ()
        worked = self._clock.monotonic() - started
        for work in works:
            if not work.finished:
                work.worked = worked
                if work.again is None:
                    clerk.finished(work)

    async def _in_thread(self, lane: Lane, job: Job) -> None:
        context, work = copy_context(), self._transactions.in_thread
        lane.thread, lane.job = self._threads.run(lambda: context.run(work, job)), job
        try:
            # Interrupted, it is never begun; or it goes on, and nobody hears what it says.
            finish: Callable[[], None] = await lane.thread
        finally:
            lane.thread = lane.job = None
        finish()

    def _failed(self, lane: Lane, error: BaseException) -> None:
        """Have what a lane was running judged a failure, unless it was not its own."""
        if isinstance(error, asyncio.CancelledError):
            if lane.interrupted is not None and not lane.dropped:
                error = lane.interrupted
            elif lane.task is not None and lane.task.cancelling():
                raise error
        if isinstance(error, GeneratorExit):
            raise error
        if is_not_the_handlers(error):
            self._clerk.trouble(error)
            return
        for work in lane.works:
            if work.kind is None and work.committed:
                self._judge.handled(work)
            elif work.kind is None:
                self._judge.failed(work, error)

    def _uncancel(self, lane: Lane) -> None:
        """It took too long and has ended, whatever it made of its interruptions; they mean nothing to what comes next."""
        lane.interrupted = None
        while not lane.dropped and lane.task is not None and lane.task.cancelling():
            lane.task.uncancel()


def _patient(coroutine: Coroutine[Any, Any, None]) -> Coroutine[Any, Any, None]:
    # Only here: handlers without a Transaction need no greenlet.
    from millstream.app.waiting import Patient

    return Patient(coroutine)


def _as_it_is(coroutine: Coroutine[Any, Any, None]) -> Coroutine[Any, Any, None]:
    return coroutine
