"""The worker of handlers with `exactly_once=True`: what they publish and the broker's position are one transaction of the broker.

The position of record is the broker's. The store's is behind it or equal, but for one
moment: a delivery that is parked moves the store's in the same commit, and the broker's
follows. Whoever owns the partition next begins at the broker's and passes over what lies
before the store's, so that it goes on at the greater of the two.
"""

import asyncio
import logging
from collections.abc import Sequence

import msgspec

from millstream.app.outcomes import WorkOutcomes
from millstream.app.transactions import Batch
from millstream.app.waiting_room import LOOK
from millstream.app.work import Owned, Work
from millstream.app.worker import GroupWorker
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import FencedError, MillstreamError, PublishError
from millstream.core.broker import Delivery
from millstream.core.store import Assignment, Mark, Page

log = logging.getLogger("millstream.worker")

#: Deliveries of one transaction.
MOST = 2000


class OneTransaction(Batch):
    """What is published and settled together; its page goes to the store before."""

    events: list[Envelope] = msgspec.field(default_factory=list[Envelope])
    settling: list[Delivery] = msgspec.field(default_factory=list[Delivery])
    ends: dict[Owned, int] = msgspec.field(default_factory=dict[Owned, int])
    """How far each partition has come then."""


class ExactlyOnceWorker(GroupWorker):
    """One group's member where the broker, and not the store, knows what is handled.

    Of each partition what is finished is committed in its order, without gaps: events of
    a delivery are published when everything before it is done. A transaction may begin
    with deliveries that are parked: those are in the store by then.
    """

    _aside: asyncio.Event | None = None
    """Set when the group may be joined again, while somebody moves it."""

    async def step(self, wait: float) -> bool:
        if self._aside is not None:
            await self._start_over()
            while not self._aside.is_set() and not self.stopping:
                await self._progressed(LOOK)
            self._aside = None
        return await super().step(wait)

    async def step_aside(self) -> None:
        """Leave the group, so that its position can be moved, until `come_back`."""
        async with self.committing:
            self._aside = asyncio.Event()
            self.trouble(FencedError("it is being moved"))

    def come_back(self) -> None:
        """Join the group again."""
        if self._aside is not None:
            self._aside.set()
            self._progress.set()

    # Where it begins

    def _begin(self, owned: Owned, assignment: Assignment) -> int | None:
        owned.passed = assignment.position or 0
        return None

    def _stands(self, assignment: Assignment, committed: int | None) -> int | None:
        return committed if assignment.position is None else max(assignment.position, committed or 0)

    async def _compared(self, items: Sequence[Delivery]) -> tuple[Sequence[Delivery], set[Mark]]:
        """No inbox: only what was parked, and not yet settled when its owner died, is passed over."""
        if not any(owned.passed for owned in self.owned.values()):
            return items, set()
        rest: list[Delivery] = []
        for delivery in items:
            owned = self.owned.get(delivery.partition)
            if owned is not None and delivery.position < owned.passed:
                passed = Work(delivery, delivery.envelope, owned, None, "", kind="skipped")
                owned.in_flight.append(passed)
                self._finished.append(passed)
            else:
                rest.append(delivery)
                if owned is not None:
                    owned.passed = 0
        return rest, set()

    # What is committed

    def collect(self) -> Batch | None:
        """What is finished without gaps, as much as goes into one transaction."""
        finished, self._finished = self._finished, []
        if not finished:
            return None
        batch = OneTransaction(Page(group=self.group, generation=self._judge.generation), [], [])
        touched: dict[Owned, None] = {}
        for work in finished:
            touched[work.owned] = None
            if work.parked is not None:
                # What has waited in the store is settled there, and publishes through the outbox.
                work.settled = True
                batch.works.append(work)
                batch.page.fences[work.owned.partition] = work.owned.epoch
                self._enter(work, batch.page)
                self._clear(work, batch.page)
        batch.published = bool(batch.page.events)
        for owned in touched:
            self._collect_from(owned, batch)
            if owned.in_flight and owned.in_flight[0].kind is not None:
                self._finished.append(owned.in_flight[0])
                self._wake.set()
        if not batch.works:
            return None
        self._uncommitted[id(batch)] = batch
        self._note_outcomes(batch)
        return batch

    def _collect_from(self, owned: Owned, batch: OneTransaction) -> None:
        """First what is to be parked, if anything; then what is to be published. What is to be parked after that waits."""
        in_flight, noted, refused, publishing = owned.in_flight, owned.noted, owned.refused, False
        works, settling, events, page = batch.works, batch.settling, batch.events, batch.page
        work: Work | None = None
        while in_flight and len(works) < MOST:
            first = in_flight[0]
            if first.kind is None:
                break
            if refused and first.kind == "handled" and first.delivery.position <= refused.get(first.sequence, -1):
                self._judge.queue(first)
            if first.park is not None and not first.committed:
                if publishing:
                    break
                page.park.append(first.park)
                page.positions[owned.partition] = first.delivery.position + 1
                page.fences[owned.partition] = owned.epoch
            else:
                publishing = True
                events += first.published
            work = in_flight.popleft()
            works.append(work)
            settling.append(work.delivery)
            if noted:
                self._clear(work, page)
        if work is not None:
            batch.ends[owned] = work.delivery.position + 1

    def _clear(self, work: Work, page: Page) -> None:
        """It has killed nobody."""
        owned, position = work.owned, work.delivery.position
        if position in owned.noted:
            owned.noted.discard(position)
            owned.suspects.pop(position, None)
            page.fences[owned.partition] = owned.epoch
            page.suspects[owned.partition, position] = 0

    def _note_outcomes(self, batch: Batch) -> None:
        if self._observers:
            batch.outcomes = WorkOutcomes(self.group, batch.works, self._clock.micros() / 1e6 - self._clock.monotonic())

    async def _commit(self, batch: Batch) -> None:
        """First the store, then the broker: a crash between the two leaves the store's position ahead, and nothing undone."""
        assert isinstance(batch, OneTransaction)
        try:
            if await self._kept(batch.page) and await self._published(batch):
                await self.committed(batch)
        except MillstreamError as error:
            self.trouble(error)

    async def _published(self, batch: OneTransaction) -> bool:
        subscription = self._subscription
        if not batch.settling:
            return True
        for work in batch.works if batch.page.park else ():
            work.committed = work.park is not None
        if batch.page.already:
            self._done_by_another(batch)
            batch.page.already.clear()
        if subscription is None or self._over:
            return False
        try:
            await subscription.publish_and_settle(batch.events, batch.settling)
        except PublishError as error:
            await self._refused(batch, error)
            return False
        for owned, end in batch.ends.items():
            owned.upto = end
        return True

    async def _refused(self, batch: OneTransaction, error: PublishError) -> None:
        """Some events will never be published: their deliveries become dead letters, and the others are tried without them."""
        log.warning("group %s: %s", self.group, error)
        results = iter(error.results)
        reasons: dict[int, MillstreamError] = {}
        again = [work for work in batch.works if work.parked is None]
        for work in again:
            # Each answer is that of one event, and only what was to be published has any.
            refused = [reason for _ in work.published if (reason := next(results, None)) is not None]
            if refused:
                reasons[id(work)] = refused[0]
        again = [work for work in again if not work.owned.gone]
        for work in reversed(again):
            work.owned.in_flight.appendleft(work)
        for work in again:
            if id(work) in reasons:
                self._judge.refused(work, reasons[id(work)])
                # What is in flight of its sequence was not held back by it, and must not overtake it now.
                work.owned.refused[work.sequence] = work.owned.in_flight[-1].delivery.position
        self._finished += again
        self._wake.set()
        # What came from the store is done.
        batch.works = [work for work in batch.works if work.parked is not None]
        batch.events, batch.settling = [], []
        self._note_outcomes(batch)
        await self.committed(batch)

    def room(self) -> int:
        # What is behind a retry holds up its own partition, and no other.
        return super().room() + self._lanes.held_back

    # Giving up

    def _has_work(self, owned: Owned) -> bool:
        first = owned.in_flight[0] if owned.in_flight else None
        if owned.gone:
            return False
        return bool(owned.retrying or owned.unfinished or (first is not None and first.kind is not None))

    async def _note_where(self, leaving: Sequence[Owned]) -> None:
        """Have the store know it too: a group whose handlers lose the option goes on there."""
        async with self.committing:
            page = Page(group=self.group)
            for owned in leaving:
                if owned.upto is not None:
                    page.fences[owned.partition] = owned.epoch
                    page.positions[owned.partition] = owned.upto
            if page.positions:
                await self._store.commit(page)
