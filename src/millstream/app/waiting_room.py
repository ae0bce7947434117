"""The waiting room: what is parked in the store, and what operators ask for it."""

import asyncio
from typing import Protocol

from msgspec import structs

from millstream.app.judge import Judge
from millstream.app.lanes import Lanes
from millstream.app.outcomes import Observers, WorkOutcomes
from millstream.app.triage import Triage
from millstream.app.work import Owned, Work
from millstream.core.broker import Delivery, Partition
from millstream.core.clock import Clock
from millstream.core.observe import Kind
from millstream.core.store import Mark, Page, Parked, Request, Store
from millstream.stores.sqlite_process import member_name

#: How often parked deliveries and operators' requests are looked at, in seconds.
LOOK = 0.2
#: Where partitions are shared, one worker sees to what waits, for so many seconds from when it last said so.
LEASE = 5.0
#: After so many attempts that killed the process a delivery is parked.
MOST_CRASHES = 3


class Worker(Protocol):
    """What the waiting room needs of the worker it belongs to."""

    committing: asyncio.Lock
    alone: asyncio.Lock
    owned: dict[Partition, Owned]
    stopping: bool

    def room(self) -> int:
        """How many more deliveries may be in flight."""
        ...

    def taken_up(self, owned: Owned) -> None:
        """Count a parked delivery of a partition as in flight."""
        ...

    def finished(self, work: Work) -> None: ...

    async def quiet(self) -> None:
        """Wait until nothing is in flight, or it is time to stop."""
        ...

    async def note_attempt(self, owned: Owned, position: int, count: int) -> None:
        """Commit that an attempt begins which may kill the process."""
        ...


class WaitingRoom:
    """Takes up what is due among the parked, and executes operators' requests, as the owner of their partitions."""

    def __init__(
        self,
        group: str,
        worker: Worker,
        store: Store,
        clock: Clock,
        triage: Triage,
        judge: Judge,
        lanes: Lanes,
        observers: Observers,
    ) -> None:
        self._group = group
        self._worker = worker
        self._store = store
        self._clock = clock
        self._triage = triage
        self._judge = judge
        self._lanes = lanes
        self._observers = observers
        self._member = ""
        self._leads_until = float("-inf")
        self.look_at = float("-inf")
        """When it is to be looked at again (monotonic)."""

    def look_in(self, seconds: float) -> None:
        """Have it looked at in so many seconds at the latest."""
        self.look_at = min(self.look_at, self._clock.monotonic() + seconds)

    def looked(self) -> bool:
        """Whether it is time to look, which this then counts as."""
        now = self._clock.monotonic()
        if now < self.look_at:
            return False
        self.look_at = now + LOOK
        return True

    async def leads(self) -> bool:
        """Where several own a partition at the same time: whether this worker is the one that sees to what waits there."""
        now = self._clock.monotonic()
        if now > self._leads_until - LEASE / 2:
            self._member = self._member or member_name()
            self._leads_until = now + LEASE if await self._store.lead(self._role, self._member, LEASE) else float("-inf")
        return now < self._leads_until

    async def resign(self) -> None:
        """Another one need not wait for the lease to end."""
        if self._leads_until > float("-inf"):
            self._leads_until = float("-inf")
            await self._store.lead(self._role, self._member, 0.0)

    @property
    def _role(self) -> str:
        return f"parked {self._group}"

    async def retry(self) -> bool:
        """Take up what is due; tell whether there was anything."""
        partitions = [owned.partition for owned in self._worker.owned.values() if owned.blocked and not owned.leaving]
        room = self._worker.room()
        if not partitions or room <= 0:
            return False
        busy = False
        # What was in flight when it was read as parked may be settled before its turn comes here.
        in_flight = {id_ for owned in self._worker.owned.values() for id_ in owned.retrying}
        for parked in await self._store.heads(self._group, partitions, self._clock.micros(), room):
            owned = self._worker.owned.get(parked.partition)
            if owned is not None and not owned.leaving and parked.id not in in_flight:
                await self._take_up(parked, owned)
                busy = True
        due = await self._store.next_due(self._group)
        if due is not None and due > self._clock.micros():
            self.look_in((due - self._clock.micros()) / 1e6)
        return busy

    async def _take_up(self, parked: Parked, owned: Owned) -> None:
        work = self._triage.again(parked, owned)
        owned.retrying.add(parked.id)
        if work.kind is not None:
            self._worker.taken_up(owned)
            self._worker.finished(work)
        elif parked.position < owned.suspect_upto and parked.id not in owned.cleared:
            await self._alone(work)
            owned.cleared.add(parked.id)
        else:
            self._worker.taken_up(owned)
            self._lanes.put([work])

    async def _alone(self, work: Work) -> None:
        """After a crash a parked delivery is as suspect as one in flight."""
        owned, position = work.owned, work.delivery.position
        async with self._worker.alone:
            await self._worker.quiet()
            if owned.gone or self._worker.stopping:
                return
            crashes = owned.suspects.get(position, 0)
            if crashes >= MOST_CRASHES:
                work.doom = (f"crashed the worker {crashes} times", "WorkerCrash")
            else:
                await self._worker.note_attempt(owned, position, crashes + 1)
            if owned.gone:
                return
            self._worker.taken_up(owned)
            self._lanes.put([work])
            await self._worker.quiet()

    async def execute(self) -> bool:
        """Do what operators asked for; tell whether there was anything that could be done now."""
        # What is in flight now may have left its row, or changed it, before its turn comes here: it is for the next look.
        in_flight = {id_ for owned in self._worker.owned.values() for id_ in owned.retrying}
        requests = await self._store.requests(self._group)
        if not requests:
            return False
        rows = {parked.id: parked for parked in await self._store.parked(self._group, ids=[request.parked for request in requests])}
        executed = False
        for request in requests:
            parked = rows.get(request.parked)
            owned = self._worker.owned.get(parked.partition) if parked else None
            if parked is not None and owned is not None and not owned.leaving and parked.id not in in_flight:
                await self._execute(request, parked, owned)
                executed = True
                if request.kind == "discard":
                    # Whoever asked a second time gets what is there already.
                    del rows[parked.id]
        return executed

    def _repair(self, parked: Parked, data: bytes) -> str:
        """Give a parked delivery another body, in its place; says why not, if it does not fit the contract."""
        if parked.envelope is None:
            return "it has no envelope whose body could be repaired"
        repaired = structs.replace(parked.envelope, data=data)
        if (problem := self._triage.problem(repaired)) is not None:
            return f"the repair does not fit the contract: {problem}"
        parked.envelope = repaired
        return ""

    async def _execute(self, request: Request, parked: Parked, owned: Owned) -> None:
        page = Page(group=self._group, generation=self._judge.generation, requests=[request.id])
        page.fences[owned.partition] = owned.epoch
        problem = ""
        if request.kind == "discard":
            page.unpark.append(parked.id)
            if parked.envelope is not None:
                page.marks.append(Mark(parked.envelope.source, parked.envelope.id))
        elif request.kind == "repair" and (problem := self._repair(parked, request.data)):
            parked.reason = problem
            page.park.append(parked)
        elif parked.state == "dead":
            if parked.sequence not in owned.blocked:
                # It was discarded and then restored, beside this worker.
                owned.block(parked.sequence)
            parked.state, parked.due, parked.attempts, parked.reason = "retry", 0, 0, request.reason or "redriven"
            page.park.append(parked)
        elif request.kind == "repair":
            page.park.append(parked)
        async with self._worker.committing:
            await self._store.commit(page)
        if request.kind == "discard":
            owned.unblock(parked.sequence)
            self._tell(parked, owned, "discarded", request.reason)
        elif problem:
            self._tell(parked, owned, "parked", problem)

    def _tell(self, parked: Parked, owned: Owned, kind: Kind, why: str) -> None:
        """Have observers know what became of it, without any attempt."""
        delivery = Delivery(parked.partition, parked.position, parked.envelope, parked.message)
        work = Work(delivery, parked.envelope, owned, None, parked.sequence, parked=parked, kind=kind, error=why)
        if kind == "parked":
            work.park = parked
        self._observers.settled(WorkOutcomes(self._group, [work], 0.0))
