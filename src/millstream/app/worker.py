"""The worker: takes deliveries of one group, has them handled, and commits what became of them."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Coroutine, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from msgspec import structs

from millstream.app.judge import Judge
from millstream.app.lanes import Lanes
from millstream.app.outcomes import Observers, WorkOutcomes, sample
from millstream.app.registry import Schemas
from millstream.app.transactions import Batch, Transactions
from millstream.app.triage import Triage
from millstream.app.waiting_room import LOOK, MOST_CRASHES, WaitingRoom
from millstream.app.work import Owned, Work
from millstream.contracts.errors import FencedError, MillstreamError, StoreBusyError, StoreError, StoreFullError
from millstream.core.broker import Assigned, Broker, Deliveries, Delivery, Lost, Partition, Revoked, Subscription
from millstream.core.clock import Clock
from millstream.core.handler import Handler
from millstream.core.observe import Observer
from millstream.core.store import Assignment, Mark, Page, Store

log = logging.getLogger("millstream.worker")

T = TypeVar("T")

#: Deliveries taken at a time.
PAGE = 1000
#: Deliveries that may be in the hands of handlers, and in flight of one partition.
MOST_IN_FLIGHT = 2 * PAGE
#: They may take so many bytes, as far as the size of those that came last tells: large ones are taken a few at a time.
MOST_BYTES = 64 << 20
#: After a failure of broker or store the worker starts over, waiting from the first up to the second many seconds.
BACK_OFF = (0.1, 5.0)
#: Then broker and store have so many seconds to take note that a worker leaves,
GOOD_BYE = 5.0
#: and one that leaves because a thread did not come back gives others no more than this to end.
STUCK_GRACE = 1.0
#: While a parked delivery is tried again, new ones are looked for every so many seconds.
SOON = 0.02


class WorkerStuckError(Exception):
    """A `def` handler did not come back in time; only a new process helps."""


class GroupWorker:
    """One group's member: everything that happens to its deliveries happens here."""

    def __init__(
        self,
        group: str,
        handlers: Sequence[Handler],
        *,
        source: str,
        broker: Broker,
        store: Store,
        clock: Clock,
        observers: Sequence[Observer] = (),
        chance: Callable[[], float] = random.random,
        changed: Callable[[], None] = lambda: None,
        alone: asyncio.Lock | None = None,
        schemas: Schemas | None = None,
    ) -> None:
        self.group = group
        self.committing = asyncio.Lock()
        self.alone = alone or asyncio.Lock()
        """Held while a suspect runs, by one group of the process: what kills it is not laid to another's charge."""
        self.owned: dict[Partition, Owned] = {}
        self._former: dict[Partition, Owned] = {}
        """What this worker had last of the partitions that it has dropped."""
        self._broker = broker
        self._store = store
        self._clock = clock
        self._observers = Observers(observers)
        self._changed = changed
        self._remembers = any(handler.delivery == "effectively_once" for handler in handlers)
        self._most_parked = min(handler.options.most_parked for handler in handlers)
        self._shortest_timeout = min(handler.options.timeout for handler in handlers)
        self._judge = Judge(
            group, handlers, source=source, broker=broker, clock=clock, waits=self._look_in, schemas=schemas or Schemas(), chance=chance
        )
        self._triage = Triage(handlers, self._judge, broker.name)
        self._transactions = Transactions(store, self, self._judge, clock)
        self._lanes = Lanes(group, handlers, self, self._judge, self._transactions, clock)
        self._waiting_room = WaitingRoom(group, self, store, clock, self._triage, self._judge, self._lanes, self._observers)
        self._subscription: Subscription | None = None
        self._receiving = self._interrupted = False
        self.stopping = False
        """Nothing more is to be begun."""
        self._left = False
        """What is not committed by now is delivered again."""
        self._suspicious = False
        """Whether any partition was taken over from somebody who died."""
        self._unfinished = 0
        self._most_in_flight = MOST_IN_FLIGHT
        self._finished: list[Work] = []
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()
        self._paused = False
        self._over = False
        """Everything in flight is dropped and taken anew."""
        self._back_off = BACK_OFF[0]
        self._trouble = self._full = ""
        self._uncommitted: dict[int, Batch] = {}
        """The batches on their way to the store."""
        self._shares = broker.features.shares_partitions
        """Whether others own the same partitions at the same time: the inbox alone tells then who was first."""
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._lanes.start(self._tasks)
        self._transactions.start(self._tasks)
        self._background = [self._tasks.create_task(self._commit_loop()), self._tasks.create_task(self._watch_loop())]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for task in self._background:
            task.cancel()
        self._lanes.close()
        self._transactions.close()
        await self._tasks.__aexit__(kind, error, trace)

    @property
    def trouble_now(self) -> str:
        """Why it cannot settle at the moment; empty while it can."""
        return self._trouble or self._full

    async def run(self, stop: asyncio.Event, *, grace: float) -> None:
        """Work until `stop` is set; what is in flight then has `grace` seconds to end, or is delivered again."""
        async with self:
            self._background.append(self._tasks.create_task(self._interrupt_at(stop, asyncio.current_task())))
            try:
                while not stop.is_set() and self._lanes.stuck is None:
                    await self.step(LOOK)
            finally:
                await self.leave(grace)
        if self._lanes.stuck is not None:
            raise WorkerStuckError(str(self._lanes.stuck))

    async def _interrupt_at(self, stop: asyncio.Event, run: "asyncio.Task[None] | None") -> None:
        """End a wait for deliveries at once when it is time to stop: what it would have got is delivered again."""
        await stop.wait()
        self.stopping = True
        self._progress.set()
        if self._receiving and run is not None:
            self._interrupted = True
            run.cancel()

    async def run_until_idle(self) -> None:
        """Handle everything that can be handled now, retries that are due included."""
        busy = self._lanes.hurries = True
        while busy:
            self._look_in(0)
            busy = await self.step(0)
            await self.quiet()

    async def step(self, wait: float) -> bool:
        """Take what there is, waiting at most so long; tell whether there was anything."""
        try:
            if self._over:
                await self._recover()
            if self._subscription is None:
                self._subscription = await self._broker.open(self.group, "")
            busy = await self._look()
            room = self.room()
            if room <= 0:
                await self._progressed(wait)
                return True
            return await self._receive(self._subscription, min(PAGE, room), wait) or busy
        except MillstreamError as error:
            self.trouble(error)
            return False

    async def _receive(self, subscription: Subscription, most: int, wait: float) -> bool:
        wait = max(0.0, min(wait, self._waiting_room.look_at - self._clock.monotonic()))
        retrying = any(owned.retrying for owned in self.owned.values())
        received = await self._interruptible(subscription.receive(most, 0.0 if retrying else wait))
        if received is None:
            return False
        match received:
            case Deliveries(items):
                if not items:
                    self._well()
                    if retrying:
                        # The next of its sequence is taken up as soon as it is settled, not at the next look.
                        await self._progressed(min(wait, SOON))
                    return False
                await self._take(items)
                # What has just come is begun before anything else is asked for.
                await asyncio.sleep(0)
            case Assigned(partitions):
                await self._assigned(subscription, partitions)
            case Revoked(partitions, deadline):
                self._tasks.create_task(self._hand_over(subscription, partitions, deadline))
            case Lost(partitions):
                await self._drop(partitions)
        return True

    async def _interruptible(self, waits: Coroutine[Any, Any, T]) -> T | None:
        """Await what may be given up when it is time to stop; None if it was."""
        self._receiving = True
        try:
            return await waits
        except asyncio.CancelledError:
            run = asyncio.current_task()
            if not self._interrupted or run is None:
                raise
            run.uncancel()
            return None
        finally:
            self._receiving = False

    # Partitions come and go

    async def _assigned(self, subscription: Subscription, partitions: Sequence[Partition]) -> None:
        generation = self._judge.generation = await self._store.generation(self.group)
        self._judge.marked = self._remembers or await self._store.has_marks(self.group, generation)
        positional = self._broker.features.positional
        assignments = await self._store.assign(self.group, partitions, shared=self._shares)
        former = {a.partition: owned for a in assignments if (owned := self._former.pop(a.partition, None)) and a.epoch == owned.epoch + 1}
        died = [a for a in assignments if not a.clean and a.partition not in former] if positional else []
        ends = await self._suspect_ends(died) if died else {}
        for assignment in assignments:
            partition = assignment.partition
            owned = Owned(partition, assignment.epoch)
            owned.blocked = dict(await self._store.sequences(self.group, partition))
            if partition in former:
                # Nobody had it in between, and this worker lives: it died of nothing that it had in hand.
                owned.suspect_as(former[partition])
            elif partition in ends:
                owned.suspects, owned.suspect_upto = dict(await self._store.suspects(self.group, partition)), ends[partition]
                owned.noted = set(owned.suspects)
                self._suspicious = True
            self.owned[partition] = owned
            subscription.start(partition, self._begin(owned, assignment) if positional else None)
            if self._paused:
                subscription.pause((partition,))
        # Before anything is taken: the group may be paused.
        self._look_in(0)

    def _begin(self, owned: Owned, assignment: Assignment) -> int | None:
        """Where to go on in a partition; None for where the broker has the group."""
        return assignment.position

    def _stands(self, assignment: Assignment, committed: int | None) -> int | None:
        """Where the last owner had come; one that has committed nothing yet began where the broker has the group."""
        return committed if assignment.position is None else assignment.position

    async def _suspect_ends(self, died: Sequence[Assignment]) -> dict[Partition, int]:
        """The last owner died: up to where what it may have had in hand runs alone, and is counted before it runs."""
        bounds = [bound for topic in {a.partition.topic for a in died} for bound in await self._broker.bounds(topic)]
        reach = {partition: (first, head) for partition, first, head in bounds}
        begun = {state.partition: state.committed.value for state in await self._broker.positions(self.group)}
        ends: dict[Partition, int] = {}
        for assignment in died:
            first, head = reach.get(assignment.partition, (0, 0))
            position = self._stands(assignment, begun.get(assignment.partition))
            # What was published after it died cannot have killed it.
            ends[assignment.partition] = head if position is None else min(head, max(first, position) + MOST_IN_FLIGHT + PAGE)
        return ends

    async def _hand_over(self, subscription: Subscription, partitions: Sequence[Partition], deadline: float) -> None:
        """Let what is in flight of these end, and give them up."""
        leaving = [owned for partition in partitions if (owned := self.owned.get(partition)) is not None]
        for owned in leaving:
            owned.leaving = True
        self._lanes.let_go(ending=False)
        while any(map(self._has_work, leaving)) and self._clock.monotonic() < deadline:
            await self._progressed(LOOK)
        # What is gone already may have come back meanwhile, and is not to be given up then.
        fences = {owned.partition: owned.epoch for owned in leaving if not owned.gone}
        try:
            await self._note_where([owned for owned in leaving if not owned.gone])
            await self._drop(fences)
            await self._store.unassign(self.group, fences)
            await subscription.release(tuple(fences))
        except MillstreamError as error:
            self.trouble(error)

    def _has_work(self, owned: Owned) -> bool:
        """Whether anything of it is still to be settled before it is given up."""
        return bool(owned.in_flight or owned.retrying)

    async def _note_where(self, leaving: Sequence[Owned]) -> None:
        """Leave word of where these stand; nothing to do where the store knows it anyway."""

    def _forget(self, partitions: Iterable[Partition]) -> None:
        for partition in tuple(partitions):
            owned = self.owned.pop(partition, None)
            if owned is not None:
                # What is on its way to the store is forgotten when it is there.
                self._judge.pending.difference_update([work.mark for work in owned.in_flight if work.mark and not work.settled])
                owned.drop()
                self._former[partition] = owned
                self._unfinished -= owned.unfinished
        self._finished = [work for work in self._finished if not work.owned.gone]
        self._progress.set()

    async def _drop(self, partitions: Iterable[Partition]) -> None:
        """These belong to another now: whatever is in flight of them is dropped."""
        self._forget(partitions)
        await self._lanes.drop()

    def trouble(self, error: BaseException) -> None:
        """Broker or store failed, or another has taken over: nothing in flight can be committed any more."""
        if not isinstance(error, FencedError):
            self._trouble = f"{type(error).__name__}: {error}"
        log.warning("group %s starts over: %s", self.group, error)
        self._forget(self.owned)
        self._uncommitted.clear()
        self._judge.pending.clear()
        self._over = True

    async def check_fences(self) -> None:
        """Start over if another owns any of it now, or its position was moved; an idle worker notices that nowhere else."""
        fences = {owned.partition: owned.epoch for owned in self.owned.values()}
        try:
            async with self.committing:
                await self._store.commit(Page(group=self.group, fences=fences))
        except (FencedError, StoreError) as error:
            self.trouble(error)

    async def _start_over(self) -> None:
        """Whoever owns a partition now goes on from the position of record."""
        self._over = False
        await self._drop(self.owned)
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with contextlib.suppress(MillstreamError):
                await subscription.close()

    async def _recover(self) -> None:
        """Start over; after a failure not before broker and store had a while to come back."""
        if self._trouble:
            await self._interruptible(self._clock.sleep(self._back_off))
            self._back_off = min(self._back_off * 2, BACK_OFF[1])
        await self._start_over()

    def _well(self) -> None:
        """Nothing is in the way of settling what comes."""
        self._trouble, self._back_off = "", BACK_OFF[0]

    async def leave(self, grace: float) -> None:
        """Give everything back; what is in flight has so many seconds to end."""
        self.stopping = True
        self._lanes.let_go(ending=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace if self._lanes.stuck is None else min(grace, STUCK_GRACE)):
                await self._settled()
        self._left = True
        leaving = tuple(self.owned.values())
        fences = {owned.partition: owned.epoch for owned in leaving}
        await self._drop(self.owned)
        try:
            async with asyncio.timeout(GOOD_BYE):
                await self._note_where(leaving)
                async with self.committing:
                    if fences:
                        await self._store.unassign(self.group, fences)
                if self._shares:
                    await self._waiting_room.resign()
                if self._subscription is not None:
                    await self._subscription.close()
        except (MillstreamError, TimeoutError) as error:
            log.warning("group %s could not say good-bye: %s", self.group, str(error) or "the store does not answer")
        self._subscription = None

    # From deliveries to work

    async def _take(self, items: Sequence[Delivery]) -> None:
        size = sum([len(d.envelope.data) if d.envelope is not None else len(d.message.body) if d.message else 0 for d in items])
        self._most_in_flight = max(1, min(MOST_IN_FLIGHT, MOST_BYTES * len(items) // max(size, 1)))
        if self._suspicious:
            suspects = [d for d in items if (owned := self.owned.get(d.partition)) is not None and d.position < owned.suspect_upto]
            for delivery in suspects:
                await self._take_alone(delivery)
                if self.stopping:
                    return
            alone = set(map(id, suspects))
            items = [delivery for delivery in items if id(delivery) not in alone]
        await self._dispatch(items)

    async def _take_alone(self, delivery: Delivery) -> None:
        """It may have killed the last owner: no other suspect is in flight while it runs, and that it runs is noted before."""
        async with self.alone:
            await self.quiet()
            owned = self.owned.get(delivery.partition)
            if owned is None or self.stopping:
                return
            crashes = owned.suspects.get(delivery.position, 0)
            if crashes >= MOST_CRASHES:
                await self._dispatch([delivery], doom=(f"crashed the worker {crashes} times", "WorkerCrash"))
            else:
                await self.note_attempt(owned, delivery.position, crashes + 1)
                await self._dispatch([delivery])
            await self.quiet()

    async def note_attempt(self, owned: Owned, position: int, count: int) -> None:
        owned.noted.add(position)
        page = Page(group=self.group, fences={owned.partition: owned.epoch}, suspects={(owned.partition, position): count})
        async with self.committing:
            await self._store.commit(page)

    async def _dispatch(self, items: Sequence[Delivery], doom: tuple[str, str] | None = None) -> None:
        """Decide for each what it is, and hand to the lanes what is to be handled."""
        items, known = await self._compared(items)
        works: list[Work] = []
        owned: Owned | None = None
        partition: Partition | None = None
        for delivery in items:
            if delivery.partition is not partition:
                partition = delivery.partition
                owned = self.owned.get(partition)
            if owned is None:
                continue
            work = self._triage.work_of(delivery, owned, known)
            if doom is not None and work.kind is None:
                work.doom = doom
            owned.in_flight.append(work)
            if work.kind is None:
                works.append(work)
                owned.unfinished += 1
            else:
                self._finished.append(work)
        self._unfinished += len(works)
        if self._observers:
            sample(works)
            self._observers.started(self.group, items)
        if self._finished:
            self._wake.set()
        self._lanes.put(works)
        self._hold_back()

    async def _compared(self, items: Sequence[Delivery]) -> tuple[Sequence[Delivery], set[Mark]]:
        """Ask the inbox which of these it knows."""
        if self._shares:
            await self._see_what_is_parked()
            self._judge.marked = self._judge.marked or any(owned.blocked for owned in self.owned.values())
        if not self._judge.marked:
            return items, set()
        # What came without an envelope has an id only once it is understood.
        items = [delivery if delivery.envelope is not None else self._triage.read(delivery) for delivery in items]
        marks = [Mark(delivery.envelope.source, delivery.envelope.id) for delivery in items if delivery.envelope is not None]
        return items, await self._store.handled(self.group, self._judge.generation, marks)

    async def _see_what_is_parked(self) -> None:
        """Others park deliveries of these partitions, too, and take up what this one has parked."""
        for owned in tuple(self.owned.values()):
            blocked = dict(await self._store.sequences(self.group, owned.partition))
            on_their_way = [work for batch in self._uncommitted.values() for work in batch.works]
            for work in (*self._finished, *on_their_way):
                if work.owned is owned and work.park is not None and work.parked is None:
                    blocked[work.sequence] = blocked.get(work.sequence, 0) + 1
            owned.blocked = blocked

    def _hold_back(self) -> None:
        """Take no more of a partition whose first deliveries are still in flight, or of any when too much is parked."""
        subscription = self._subscription
        if subscription is None or self._paused:
            return
        most = self._most_in_flight
        for partition, owned in self.owned.items():
            full = len(owned.in_flight) >= most or (owned.paused and len(owned.in_flight) > most // 2)
            if full and not owned.paused:
                subscription.pause((partition,))
            elif owned.paused and not full:
                subscription.resume((partition,))
            owned.paused = full

    # Committing

    def room(self) -> int:
        """How many more deliveries may be in flight."""
        return self._most_in_flight - self._unfinished

    def taken_up(self, owned: Owned) -> None:
        """Count a parked delivery as in flight."""
        owned.unfinished += 1
        self._unfinished += 1

    def finished(self, work: Work) -> None:
        """It can be committed."""
        work.message, work.finished = None, True
        if work.owned.gone:
            return
        work.owned.unfinished -= 1
        self._unfinished -= 1
        if not self._finished:
            self._wake.set()
        self._finished.append(work)

    def held(self, work: Work) -> None:
        """An attempt has failed; the next follows in its lane."""
        if self._observers:
            failed = structs.replace(work, kind="retry")
            self._observers.settled(WorkOutcomes(self.group, [failed], self._clock.micros() / 1e6 - self._clock.monotonic()))

    def abandoned(self, work: Work) -> None:
        """It is delivered again, after this worker has given its partition up."""
        if not work.owned.gone:
            work.owned.unfinished -= 1
            self._unfinished -= 1
            self._progress.set()

    def collect(self) -> Batch | None:
        """Everything that is finished and not yet committed, as one page."""
        works, self._finished = self._finished, []
        if not works:
            return None
        page = Page(group=self.group, generation=self._judge.generation)
        batch = Batch(page, works, [])
        self._uncommitted[id(batch)] = batch
        touched: dict[Owned, None] = {}
        shares = self._shares
        for work in works:
            owned = work.owned
            work.settled = True
            if shares and work.parked is None:
                # No position moves: each stands for itself.
                batch.done.append(work.delivery)
            touched[owned] = None
            if work.committed:
                batch.published = True
            elif work.published or work.mark is not None or work.park is not None or work.parked is not None:
                self._enter(work, page)
            if owned.noted and work.delivery.position in owned.noted:
                owned.noted.discard(work.delivery.position)
                owned.suspects.pop(work.delivery.position, None)
                page.suspects[(owned.partition, work.delivery.position)] = 0
        batch.published = batch.published or bool(page.events)
        positional = self._broker.features.positional
        for owned in touched:
            page.fences[owned.partition] = owned.epoch
            in_flight, last = owned.in_flight, None
            while in_flight and in_flight[0].settled:
                last = in_flight.popleft().delivery
                if not self._shares:
                    batch.done.append(last)
            if last is not None and positional:
                page.positions[owned.partition] = last.position + 1
        if self._observers:
            batch.outcomes = WorkOutcomes(self.group, works, self._clock.micros() / 1e6 - self._clock.monotonic())
        return batch

    def _enter(self, work: Work, page: Page) -> None:
        if work.published:
            page.events += work.published
        if work.mark is not None and work.kind == "handled":
            (page.first if work.parked is None else page.marks).append(work.mark)
        if self._shares and work.parked is not None:
            page.present.append(work.parked.id)
        if work.park is not None:
            page.park.append(work.park)
        elif work.parked is not None:
            page.unpark.append(work.parked.id)

    async def _commit_loop(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            async with self.committing:
                batch = self.collect()
                if batch is None:
                    continue
                try:
                    await self._commit(batch)
                except (StoreError, FencedError) as error:
                    self.trouble(error)

    async def _commit(self, batch: Batch) -> None:
        if await self._kept(batch.page):
            await self.committed(batch)

    async def _kept(self, page: Page) -> bool:
        """Commit a page, however long the store is busy or full; False if nothing of this counts any more."""
        while not page.is_empty():
            try:
                await self._store.commit(page)
                break
            except (StoreBusyError, StoreFullError) as error:
                # Not the deliveries' fault: it is no attempt, and nothing is lost by waiting.
                self._trouble = f"{type(error).__name__}: {error}"
                log.warning("group %s waits: %s", self.group, error)
                await self._clock.sleep(self._back_off)
                if self._over or self._left:
                    return False
        return True

    async def committed(self, batch: Batch) -> None:
        """Tell everybody what is now durable."""
        self._well()
        if batch.page.already:
            self._done_by_another(batch)
        pending = self._judge.pending
        for work in batch.works:
            owned = work.owned
            if work.mark is not None:
                pending.discard(work.mark)
            if work.parked is not None:
                owned.retrying.discard(work.parked.id)
                if work.park is None:
                    owned.unblock(work.sequence)
                    self._look_in(0)
        if batch.published:
            self._changed()
        if batch.done and self._subscription is not None:
            try:
                await self._subscription.settle(batch.done)
            except MillstreamError as error:
                self.trouble(error)
        self._hold_back()
        self._uncommitted.pop(id(batch), None)
        self._progress.set()
        if batch.outcomes is not None:
            self._observers.settled(batch.outcomes)

    def _done_by_another(self, batch: Batch) -> None:
        """What was to be parked was not, since a duplicate of it is parked or handled: so is this."""
        already = set(map(id, batch.page.already))
        for work in batch.works:
            if id(work.park) in already:
                work.owned.unblock(work.sequence)
                work.kind, work.park, work.error = "duplicate", None, ""

    async def _progressed(self, wait: float) -> None:
        """Wait until something was committed or dropped, at most so long."""
        self._progress.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._progress.wait()

    async def quiet(self) -> None:
        """Wait until nothing is in flight, or it is time to stop."""
        while self._is_busy() and not self.stopping:
            await self._progressed(LOOK)

    async def _settled(self) -> None:
        while self._is_busy():
            await self._progressed(LOOK)

    def _is_busy(self) -> bool:
        return bool(self._unfinished or self._finished or self._uncommitted) and not self._over

    async def _watch_loop(self) -> None:
        """Interrupt handlers that take too long, and keep the lease while nothing is received."""
        while True:
            await self._clock.sleep(min(1.0, self._shortest_timeout / 4))
            self._lanes.watch(self._clock.monotonic())
            if not self._receiving and self._subscription is not None:
                try:
                    await self._subscription.extend()
                except MillstreamError as error:
                    self.trouble(error)

    # What waits in the store

    def _look_in(self, seconds: float) -> None:
        self._waiting_room.look_in(seconds)

    async def _look(self) -> bool:
        """Do what operators asked for, and take up what is due among the parked."""
        if not self._waiting_room.looked() or not self.owned:
            return False
        if self._shares:
            await self._see_what_is_parked()
        stopped = await self._pause_or_resume()
        if self._shares and not await self._waiting_room.leads():
            return False
        busy = await self._waiting_room.execute()
        # Also at the limit of parked deliveries: what is tried again is what brings it below.
        if not stopped and any(owned.blocked for owned in self.owned.values()):
            busy = await self._waiting_room.retry() or busy
        return busy

    async def _pause_or_resume(self) -> bool:
        """Take nothing new while there is too much already, or an operator wants it so; tell whether it is the operator."""
        assert self._subscription is not None
        parked = sum(sum(owned.blocked.values()) for owned in self.owned.values())
        if parked >= self._most_parked:
            self._full = (
                f"{parked} deliveries of group {self.group} are parked, which is the limit (most_parked={self._most_parked}): "
                "it takes no more until some are handled or discarded"
            )
        else:
            self._full = ""
        stopped = self.group in await self._store.paused()
        paused = stopped or bool(self._full)
        if paused and not self._paused:
            self._subscription.pause(tuple(self.owned))
        elif self._paused and not paused:
            self._subscription.resume(tuple(self.owned))
            for owned in self.owned.values():
                owned.paused = False
        self._paused = paused
        return stopped
