"""The worker: takes deliveries of one group, has them handled, and commits what became of them."""

import asyncio
import contextlib
import logging
import random
import traceback
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self

import msgspec

from millstream.app.lanes import Lanes
from millstream.app.outcomes import WorkOutcomes
from millstream.app.transactions import Batch, Transactions, Verdict
from millstream.app.work import Job, Owned, Work
from millstream.contracts.codec import STRUCTURED_CONTENT_TYPE, from_binary, from_plain, from_structured
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import (
    ContractError,
    DecodeError,
    EnvelopeError,
    FencedError,
    HandlerResultError,
    MillstreamError,
    StoreBusyError,
    StoreError,
    StoreFullError,
    TooLargeError,
)
from millstream.contracts.ids import LAST_MILLIS, derived_id
from millstream.contracts.message import codec_for, key_of, publisher_of
from millstream.core.broker import Assigned, Broker, Deliveries, Delivery, Lost, Message, Partition, Revoked, Subscription
from millstream.core.clock import Clock
from millstream.core.handler import Handler, messages_of, verdicts_of
from millstream.core.observe import Observer, Outcomes
from millstream.core.retry import Again, Park
from millstream.core.store import Mark, Page, Parked, ParkState, Store

log = logging.getLogger("millstream.worker")

#: Deliveries taken at a time.
PAGE = 1000
#: Deliveries that may be in the hands of handlers, and in flight of one partition.
MOST_IN_FLIGHT = 2 * PAGE
#: After so many attempts that killed the process a delivery is parked.
MOST_CRASHES = 3
#: How often parked deliveries and operators' requests are looked at, in seconds.
LOOK = 0.2
#: After a failure of broker or store the worker starts over, waiting from the first up to the second many seconds.
BACK_OFF = (0.1, 5.0)
STACK_LIMIT = 8000


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
    ) -> None:
        self.group = group
        self.committing = asyncio.Lock()
        self._source = source
        self._broker = broker
        self._store = store
        self._clock = clock
        self._observers = observers
        self._chance = chance
        self._changed = changed
        self._handlers = {contract.name: handler for handler in handlers for contract in handler.contracts}
        self._decoders = {contract.name: codec_for(contract).decode for handler in handlers for contract in handler.contracts}
        self._bare = {topic: handler for handler in handlers if handler.wire == "json" for topic in handler.topics}
        self._remembers = any(handler.delivery == "effectively_once" for handler in handlers)
        self._most_parked = min(handler.options.most_parked for handler in handlers)
        self._shortest_timeout = min(handler.options.timeout for handler in handlers)
        self._transactions = Transactions(store, self, clock)
        self._lanes = Lanes(group, handlers, self, self._transactions, clock)
        self._owned: dict[Partition, Owned] = {}
        self._subscription: Subscription | None = None
        self._receiving = False
        self._generation = 0
        self._suspicious = False
        """Whether any partition was taken over from somebody who died."""
        self._marked = False
        """Whether the inbox could know any delivery, in a group that need not ask it otherwise."""
        self._unfinished = 0
        self._finished: list[Work] = []
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()
        self._look_at = float("-inf")
        self._paused = False
        self._over = False
        """Everything in flight is dropped and taken anew."""
        self._back_off = BACK_OFF[0]
        self._trouble = ""
        self._recovering = False
        self._uncommitted: set[int] = set()
        """The batches on their way to the store."""
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
        await self._tasks.__aexit__(kind, error, trace)

    @property
    def trouble_now(self) -> str:
        """Why it cannot settle at the moment; empty while it can."""
        return self._trouble

    async def run(self, stop: asyncio.Event, *, grace: float) -> None:
        """Work until `stop` is set; what is in flight then has `grace` seconds to end, or is delivered again."""
        async with self:
            try:
                while not stop.is_set() and self._lanes.stuck is None:
                    await self.step(LOOK)
            finally:
                await self.leave(grace)
        if self._lanes.stuck is not None:
            raise WorkerStuckError(str(self._lanes.stuck))

    async def run_until_idle(self) -> None:
        """Handle everything that can be handled now, retries that are due included."""
        busy = True
        while busy:
            self._look_at = float("-inf")
            busy = await self.step(0)
            await self._quiet()

    async def step(self, wait: float) -> bool:
        """Take what there is, waiting at most so long; tell whether there was anything."""
        try:
            if self._over:
                await self._start_over()
            if self._subscription is None:
                self._subscription = await self._broker.open(self.group, "")
            busy = await self._look()
            room = MOST_IN_FLIGHT - self._unfinished
            if room <= 0:
                await self._progressed(wait)
                return True
            return await self._receive(self._subscription, min(PAGE, room), wait) or busy
        except MillstreamError as error:
            await self._stumbled(error)
            return False

    async def _receive(self, subscription: Subscription, most: int, wait: float) -> bool:
        wait = max(0.0, min(wait, self._look_at - self._clock.monotonic()))
        self._receiving = True
        try:
            received = await subscription.receive(most, wait)
        finally:
            self._receiving = False
        if self._recovering:
            self._recovering, self._trouble, self._back_off = False, "", BACK_OFF[0]
        match received:
            case Deliveries(items):
                if not items:
                    return False
                await self._take(items)
            case Assigned(partitions):
                await self._assigned(subscription, partitions)
            case Revoked(partitions, deadline):
                self._tasks.create_task(self._hand_over(subscription, partitions, deadline))
            case Lost(partitions):
                await self._drop(partitions)
        return True

    # Partitions come and go

    async def _assigned(self, subscription: Subscription, partitions: Sequence[Partition]) -> None:
        self._generation = await self._store.generation(self.group)
        self._marked = self._remembers or await self._store.has_marks(self.group, self._generation)
        positional = self._broker.features.positional
        for assignment in await self._store.assign(self.group, partitions):
            partition = assignment.partition
            owned = Owned(partition, assignment.epoch)
            owned.blocked = dict(await self._store.sequences(self.group, partition))
            if not assignment.clean and positional:
                await self._suspect(owned, assignment.position)
                self._suspicious = True
            self._owned[partition] = owned
            subscription.start(partition, assignment.position if positional else None)
            if self._paused:
                subscription.pause((partition,))

    async def _suspect(self, owned: Owned, position: int | None) -> None:
        """The last owner died: what it may have had in hand runs alone, counted before it runs."""
        owned.suspects = await self._store.suspects(self.group, owned.partition)
        for partition, first, head in await self._broker.bounds(owned.partition.topic):
            if partition == owned.partition:
                # What was published after it died cannot have killed it.
                owned.suspect_upto = min(head, max(first, position or 0) + MOST_IN_FLIGHT + PAGE) if position is not None else head

    async def _hand_over(self, subscription: Subscription, partitions: Sequence[Partition], deadline: float) -> None:
        """Let what is in flight of these end, and give them up."""
        leaving = [owned for partition in partitions if (owned := self._owned.get(partition)) is not None]
        for owned in leaving:
            owned.leaving = True
        while any(owned.in_flight or owned.retrying for owned in leaving) and self._clock.monotonic() < deadline:
            await self._progressed(LOOK)
        try:
            fences = {owned.partition: owned.epoch for owned in leaving if not owned.gone}
            await self._drop(partitions)
            await self._store.unassign(self.group, fences)
            await subscription.release(partitions)
        except MillstreamError as error:
            self.trouble(error)

    def _forget(self, partitions: Iterable[Partition]) -> None:
        for partition in tuple(partitions):
            owned = self._owned.pop(partition, None)
            if owned is not None:
                owned.gone = True
        self._finished = [work for work in self._finished if not work.owned.gone]
        self._unfinished = sum(
            sum(work.kind is None for work in owned.in_flight) + len(owned.retrying) for owned in self._owned.values()
        )
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
        self._forget(self._owned)
        self._uncommitted.clear()
        self._over = self._recovering = True

    async def _start_over(self) -> None:
        """Whoever owns a partition now goes on from the position of record."""
        self._over = False
        await self._drop(self._owned)
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with contextlib.suppress(MillstreamError):
                await subscription.close()

    async def _stumbled(self, error: MillstreamError) -> None:
        self.trouble(error)
        if not isinstance(error, FencedError):
            await self._clock.sleep(self._back_off)
            self._back_off = min(self._back_off * 2, BACK_OFF[1])

    async def leave(self, grace: float) -> None:
        """Give everything back; what is in flight has so many seconds to end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._quiet()
        fences = {owned.partition: owned.epoch for owned in self._owned.values()}
        await self._drop(self._owned)
        try:
            async with self.committing:
                if fences:
                    await self._store.unassign(self.group, fences)
            if self._subscription is not None:
                await self._subscription.close()
        except MillstreamError as error:
            log.warning("group %s could not say good-bye: %s", self.group, error)
        self._subscription = None

    # From deliveries to work

    async def _take(self, items: Sequence[Delivery]) -> None:
        if self._suspicious:
            suspects = [d for d in items if (owned := self._owned.get(d.partition)) is not None and d.position < owned.suspect_upto]
            for delivery in suspects:
                await self._take_alone(delivery)
            alone = set(map(id, suspects))
            items = [delivery for delivery in items if id(delivery) not in alone]
        await self._dispatch(items)

    async def _take_alone(self, delivery: Delivery) -> None:
        """It may have killed the last owner: nothing else is in flight while it runs, and that it runs is noted before."""
        await self._quiet()
        owned = self._owned.get(delivery.partition)
        if owned is None:
            return
        crashes = owned.suspects.get(delivery.position, 0)
        if crashes >= MOST_CRASHES:
            await self._dispatch([delivery], doom=(f"crashed the worker {crashes} times", "WorkerCrash"))
        else:
            await self._note_attempt(owned, delivery.position, crashes + 1)
            await self._dispatch([delivery])
        await self._quiet()

    async def _note_attempt(self, owned: Owned, position: int, count: int) -> None:
        owned.suspects[position] = count
        page = Page(group=self.group, fences={owned.partition: owned.epoch}, suspects={(owned.partition, position): count})
        async with self.committing:
            await self._store.commit(page)

    async def _dispatch(self, items: Sequence[Delivery], doom: tuple[str, str] | None = None) -> None:
        """Decide for each what it is, and hand to the lanes what is to be handled."""
        known: set[Mark] = set()
        if self._marked:
            marks = [Mark(delivery.envelope.source, delivery.envelope.id) for delivery in items if delivery.envelope is not None]
            known = await self._store.handled(self.group, self._generation, marks)
        works: list[Work] = []
        owned: Owned | None = None
        partition: Partition | None = None
        for delivery in items:
            if delivery.partition is not partition:
                partition = delivery.partition
                owned = self._owned.get(partition)
            if owned is None:
                continue
            work = self._triage(delivery, owned, known)
            if doom is not None and work.kind is None:
                work.doom = doom
            owned.in_flight.append(work)
            if work.kind is None:
                works.append(work)
            else:
                self._finished.append(work)
        self._unfinished += len(works)
        for observer in self._observers:
            try:
                observer.started(self.group, items)
            except Exception:
                log.exception("an observer failed")
        if self._finished:
            self._wake.set()
        self._lanes.put(works)
        self._hold_back()

    def _triage(self, delivery: Delivery, owned: Owned, known: set[Mark]) -> Work:
        envelope = delivery.envelope
        if envelope is None:
            return self._triage_message(delivery, owned)
        handler = self._handlers.get(envelope.type)
        if handler is None:
            work = Work(delivery, envelope, owned, None, None, "")
            work.kind = "skipped"
            return work
        sequence = envelope.key if envelope.key is not None and handler.options.ordered else f"\x00{delivery.position}"
        work = Work(delivery, envelope, owned, handler, None, sequence)
        if known and Mark(envelope.source, envelope.id) in known:
            work.kind = "duplicate"
            return work
        if handler.delivery == "effectively_once":
            own = (envelope.source, envelope.id)
            if own in owned.pending:
                work.kind = "duplicate"
                return work
            owned.pending.add(own)
        self._decode(work, handler, envelope)
        return work

    def _decode(self, work: Work, handler: Handler, envelope: Envelope) -> None:
        try:
            work.message = self._decoders[envelope.type](envelope.data)
            if handler.options.where is not None and not handler.options.where(work.message):
                work.kind = "skipped"
        except DecodeError as error:
            work.doom = (f"cannot be decoded: {error}", "DecodeError")
        except Exception as error:  # the user's filter
            work.doom = (f"where= failed: {error!r}", type(error).__name__)

    def _triage_message(self, delivery: Delivery, owned: Owned) -> Work:
        """Understand bytes that came without an envelope, or park them as they are."""
        message = delivery.message or Message(topic=delivery.partition.topic, body=b"")
        try:
            envelope = self._understand(message)
        except MillstreamError as error:
            work = Work(delivery, None, owned, None, None, f"\x00{delivery.position}")
            self._bury(work, str(error), type(error).__name__)
            return work
        return self._triage(Delivery(delivery.partition, delivery.position, envelope, message), owned, set())

    def _understand(self, message: Message) -> Envelope:
        handler = self._bare.get(message.topic)
        if handler is None:
            content_type = next((value for name, value in message.headers if name.lower() == "content-type"), b"")
            if content_type.startswith(STRUCTURED_CONTENT_TYPE.encode()):
                return from_structured(message.body)
            return from_binary(message.headers, message.body)
        id_, field = message.id, handler.options.id
        if field is not None:
            try:
                value = msgspec.json.decode(message.body, type=dict[str, msgspec.Raw])[field]
                id_ = str(msgspec.json.decode(value))
            except (msgspec.MsgspecError, KeyError, TypeError, UnicodeDecodeError) as error:
                raise EnvelopeError(f"the body has no field {field!r} to take the event's id from (id={field!r}): {error}") from error
        if not id_ and handler.delivery == "effectively_once":
            raise EnvelopeError(
                f"this message has no id, so {handler.name} cannot tell a repetition from a new one: name a field of the body "
                "with id=, or subscribe with delivery='at_least_once'"
            )
        key = None if message.key is None else message.key.decode("utf-8", "backslashreplace")
        source = message.source or f"/{self._broker.name}/{message.topic}"
        return from_plain(message.body, contract=handler.contracts[0], id=id_ or "none", source=source, key=key, time=message.time)

    def _hold_back(self) -> None:
        """Take no more of a partition whose first deliveries are still in flight, or of any when too much is parked."""
        subscription = self._subscription
        if subscription is None or self._paused:
            return
        for partition, owned in self._owned.items():
            full = len(owned.in_flight) >= MOST_IN_FLIGHT or (owned.paused and len(owned.in_flight) > PAGE)
            if full and not owned.paused:
                subscription.pause((partition,))
            elif owned.paused and not full:
                subscription.resume((partition,))
            owned.paused = full

    # What becomes of work

    def waits_behind(self, work: Work) -> bool:
        """Park what must not overtake, and what cannot be handled at all; tell whether it was parked."""
        if work.sequence in work.owned.blocked and work.parked is None:
            work.kind = "queued"
            work.park = self._parked(work, "queued", "waits behind another of its key")
        elif work.doom is not None:
            self._bury(work, *work.doom)
        else:
            return False
        return True

    def _bury(self, work: Work, reason: str, error: str) -> None:
        now = self._clock.micros()
        work.kind, work.error = "parked", reason
        work.park = self._parked(work, "dead", reason)
        work.park.error, work.park.last_failure = error, now
        work.park.first_failure = work.park.first_failure or now

    def _parked(self, work: Work, state: ParkState, reason: str) -> Parked:
        """The row of a delivery that is parked, or stays so."""
        if work.parked is not None:
            work.parked.state, work.parked.reason = state, reason
            return work.parked
        self._marked = True
        work.owned.block(work.sequence)
        return Parked(
            group=self.group,
            partition=work.owned.partition,
            position=work.delivery.position,
            sequence=work.sequence,
            envelope=work.envelope,
            message=None if work.envelope is not None else work.delivery.message,
            state=state,
            reason=reason,
            attempts=work.owned.suspects.get(work.delivery.position, 0) if state == "dead" else 0,
        )

    def succeeded(self, work: Work, result: object, published: Sequence[object]) -> None:
        """Note what a handler returned and published; raises what makes it a failure after all."""
        if result is not None or published:
            assert work.handler is not None
            work.published = self._envelopes(work, [*published, *messages_of(result, work.handler.name)])
        self._handled(work)

    def _handled(self, work: Work) -> None:
        work.kind = "handled"
        assert work.handler is not None
        work.mark = work.parked is not None or work.handler.delivery == "effectively_once"
        if work.mark:
            self._marked = True

    def failed(self, work: Work, error: BaseException) -> None:
        """Note that a handler raised, and decide what follows."""
        assert work.handler is not None
        # A handler's SystemExit, KeyboardInterrupt or CancelledError is a failure like any other.
        failure = error if isinstance(error, Exception) else RuntimeError(f"handler raised {error!r}")
        if isinstance(failure, (HandlerResultError, ContractError)):
            decision: Again | Park = Park("what the handler publishes is wrong, and would be again")
        else:
            decision = work.handler.options.retry.decide(work.attempt, failure, self._chance())
        now = self._clock.micros()
        if isinstance(decision, Again):
            work.kind = "retry"
            row = self._parked(work, "retry", "waits for its next attempt")
            row.due = now + int(decision.after * 1e6)
            self._look_at = min(self._look_at, self._clock.monotonic() + decision.after)
        else:
            work.kind = "parked"
            row = self._parked(work, "dead", decision.reason)
        row.attempts = work.attempt
        row.first_failure, row.last_failure = row.first_failure or now, now
        row.error = work.error = f"{type(error).__name__}: {error}"
        row.stack = "".join(traceback.format_exception(error))[-STACK_LIMIT:]
        work.park = row

    def verdicts(self, job: Job, result: object) -> list[Verdict]:
        """For each delivery of a job: the events to publish, or why it failed."""
        name = job.handler.name
        if not job.handler.is_batch:
            messages = messages_of(result, name)
            if job.context is not None and job.context.published:
                messages = [*job.context.published, *messages]
            return [self._verdict(job.works[0], messages)]
        verdicts: list[Verdict] = []
        for work, verdict in zip(job.works, verdicts_of(result, len(job.works), name), strict=True):
            if isinstance(verdict, BaseException):
                verdicts.append(verdict)
            else:
                try:
                    verdicts.append(self._verdict(work, messages_of(verdict, name)))
                except HandlerResultError as error:
                    verdicts.append(error)
        return verdicts

    def _verdict(self, work: Work, messages: list[object]) -> Verdict:
        try:
            return self._envelopes(work, messages)
        except MillstreamError as error:
            return error

    def judge(self, job: Job, verdicts: Sequence[Verdict]) -> None:
        """Note what becomes of each delivery of a job."""
        for work, verdict in zip(job.works, verdicts, strict=True):
            if isinstance(verdict, BaseException):
                self.failed(work, verdict)
            else:
                work.published = verdict
                self._handled(work)

    def page_of(self, job: Job, verdicts: Sequence[Verdict]) -> Page:
        """What a job that succeeded commits, but for positions."""
        page = Page(group=self.group, generation=self._generation)
        for work, verdict in zip(job.works, verdicts, strict=True):
            assert work.envelope is not None
            assert not isinstance(verdict, BaseException)
            page.fences[work.owned.partition] = work.owned.epoch
            page.events += verdict
            page.marks.append(Mark(work.envelope.source, work.envelope.id))
            if work.parked is not None:
                page.unpark.append(work.parked.id)
        return page

    def _envelopes(self, work: Work, messages: Sequence[object]) -> list[Envelope]:
        cause = work.envelope
        assert cause is not None
        if not messages:
            return []
        now, largest = self._clock.micros(), self._broker.features.largest
        correlation, attempt = cause.correlation or cause.id, f"{self.group}/{work.attempt}"
        made: list[Envelope] = []
        millis = min(max(cause.time, 0) // 1000, LAST_MILLIS)
        for ordinal, message in enumerate(messages):
            contract, encode, key = publisher_of(type(message))
            data = encode(message)
            if len(data) > largest:
                raise TooLargeError(f"a {contract.name} of {len(data)} bytes is more than the {largest} that {self._broker.name} takes")
            made.append(
                Envelope(
                    # From the input alone, so that whoever handles the input again publishes what is known already.
                    id=derived_id(cause.source, cause.id, self.group, ordinal, millis),
                    source=self._source,
                    type=contract.name,
                    key=None if key is None else key_of(message),
                    time=now,
                    data=data,
                    version=contract.version,
                    correlation=correlation,
                    causation=cause.id,
                    attempt=attempt,
                    traceparent=cause.traceparent,
                    tracestate=cause.tracestate,
                    topic=contract.topic,
                )
            )
        return made

    # Committing

    def finished(self, work: Work) -> None:
        """It can be committed."""
        if work.owned.gone:
            return
        self._unfinished -= 1
        self._finished.append(work)
        self._wake.set()

    def collect(self) -> Batch | None:
        """Everything that is finished and not yet committed, as one page."""
        works, self._finished = self._finished, []
        if not works:
            return None
        page = Page(group=self.group, generation=self._generation)
        batch = Batch(page, works, [])
        self._uncommitted.add(id(batch))
        touched: dict[Owned, None] = {}
        for work in works:
            owned = work.owned
            work.settled = True
            touched[owned] = None
            if not work.committed:
                self._enter(work, page)
            if owned.suspects and owned.suspects.pop(work.delivery.position, 0):
                page.suspects[(owned.partition, work.delivery.position)] = 0
        positional = self._broker.features.positional
        for owned in touched:
            page.fences[owned.partition] = owned.epoch
            in_flight, last = owned.in_flight, None
            while in_flight and in_flight[0].settled:
                last = in_flight.popleft().delivery
                batch.done.append(last)
            if last is not None and positional:
                page.positions[owned.partition] = last.position + 1
        if self._observers:
            batch.outcomes = WorkOutcomes(self.group, works, self._clock.micros() / 1e6 - self._clock.monotonic())
        return batch

    def _enter(self, work: Work, page: Page) -> None:
        if work.published:
            page.events += work.published
        if work.mark:
            assert work.envelope is not None
            page.marks.append(Mark(work.envelope.source, work.envelope.id))
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
        while not batch.page.is_empty():
            try:
                await self._store.commit(batch.page)
                break
            except (StoreBusyError, StoreFullError) as error:
                # Not the deliveries' fault: it is no attempt, and nothing is lost by waiting.
                self._trouble = f"{type(error).__name__}: {error}"
                log.warning("group %s waits: %s", self.group, error)
                await self._clock.sleep(self._back_off)
                if self._over:
                    return
        await self.committed(batch)

    async def committed(self, batch: Batch) -> None:
        """Tell everybody what is now durable."""
        self._trouble, self._back_off = "", BACK_OFF[0]
        for work in batch.works:
            owned = work.owned
            if owned.pending and work.envelope is not None:
                owned.pending.discard((work.envelope.source, work.envelope.id))
            if work.parked is not None:
                owned.retrying.discard(work.parked.id)
                if work.park is None:
                    owned.unblock(work.sequence)
                    self._look_at = float("-inf")
        if batch.page.events or any(work.committed for work in batch.works):
            self._changed()
        if batch.done and self._subscription is not None:
            try:
                await self._subscription.settle(batch.done)
            except MillstreamError as error:
                self.trouble(error)
        self._hold_back()
        self._uncommitted.discard(id(batch))
        self._progress.set()
        if batch.outcomes is not None:
            self._tell(batch.outcomes)

    async def _progressed(self, wait: float) -> None:
        """Wait until something was committed or dropped, at most so long."""
        self._progress.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._progress.wait()

    async def _quiet(self) -> None:
        """Wait until nothing is in flight."""
        while (self._unfinished or self._finished or self._uncommitted) and not self._over and self._lanes.stuck is None:
            await self._progressed(LOOK)

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

    async def _look(self) -> bool:
        """Do what operators asked for, and take up what is due among the parked."""
        now = self._clock.monotonic()
        if now < self._look_at or not self._owned:
            return False
        self._look_at = now + LOOK
        await self._pause_or_resume()
        busy = await self._requests()
        if not self._paused and any(owned.blocked for owned in self._owned.values()):
            busy = await self._retries() or busy
        return busy

    async def _pause_or_resume(self) -> None:
        assert self._subscription is not None
        parked = sum(sum(owned.blocked.values()) for owned in self._owned.values())
        if parked >= self._most_parked:
            self._trouble = (
                f"{parked} deliveries of group {self.group} are parked, which is the limit (most_parked={self._most_parked}): "
                "it takes no more until some are redriven or discarded"
            )
        paused = parked >= self._most_parked or self.group in await self._store.paused()
        if paused and not self._paused:
            self._subscription.pause(tuple(self._owned))
        elif self._paused and not paused:
            self._subscription.resume(tuple(self._owned))
            for owned in self._owned.values():
                owned.paused = False
        self._paused = paused

    async def _retries(self) -> bool:
        partitions = [owned.partition for owned in self._owned.values() if owned.blocked and not owned.leaving]
        room = MOST_IN_FLIGHT - self._unfinished
        if not partitions or room <= 0:
            return False
        heads = await self._store.heads(self.group, partitions, self._clock.micros(), room)
        works = [work for parked in heads if (work := self._retry(parked)) is not None]
        for work in works:
            if work.owned.suspect_upto:
                await self._retry_alone(work)
            else:
                self._lanes.put([work])
        due = await self._store.next_due(self.group)
        if due is not None and due > self._clock.micros():
            self._look_at = min(self._look_at, self._clock.monotonic() + (due - self._clock.micros()) / 1e6)
        return bool(works)

    def _retry(self, parked: Parked) -> Work | None:
        owned = self._owned.get(parked.partition)
        if owned is None or parked.id in owned.retrying:
            return None
        delivery = Delivery(parked.partition, parked.position, parked.envelope, parked.message)
        envelope = parked.envelope
        if envelope is None and parked.message is not None:
            with contextlib.suppress(MillstreamError):
                envelope = self._understand(parked.message)
        handler = self._handlers.get(envelope.type) if envelope else None
        work = Work(delivery, envelope, owned, handler, None, parked.sequence)
        work.parked = parked
        work.attempt = parked.attempts + 1
        if envelope is None or handler is None:
            self._bury(work, "no handler understands it", parked.error.partition(":")[0] or "MissingHandler")
        else:
            self._decode(work, handler, envelope)
        owned.retrying.add(parked.id)
        self._unfinished += 1
        if work.kind is not None:
            self.finished(work)
            return None
        return work

    async def _retry_alone(self, work: Work) -> None:
        """After a crash a parked delivery is as suspect as one in flight."""
        owned, position = work.owned, work.delivery.position
        self._unfinished -= 1
        await self._quiet()
        self._unfinished += 1
        if owned.gone:
            return
        crashes = owned.suspects.get(position, 0)
        if crashes >= MOST_CRASHES:
            work.doom = (f"crashed the worker {crashes} times", "WorkerCrash")
        else:
            await self._note_attempt(owned, position, crashes + 1)
        self._lanes.put([work])
        await self._quiet()

    async def _requests(self) -> bool:
        requests = await self._store.requests(self.group)
        if not requests:
            return False
        rows = {parked.id: parked for parked in await self._store.parked(self.group, ids=[request.parked for request in requests])}
        executed = False
        for request in requests:
            parked = rows.get(request.parked)
            owned = self._owned.get(parked.partition) if parked else None
            if parked is None or owned is None or owned.leaving or parked.id in owned.retrying:
                continue
            page = Page(group=self.group, generation=self._generation, requests=[request.id])
            page.fences[owned.partition] = owned.epoch
            work = Work(Delivery(parked.partition, parked.position, parked.envelope, parked.message), parked.envelope, owned, None, None, "")
            if request.kind == "discard":
                work.kind, work.error = "discarded", request.reason
                page.unpark.append(parked.id)
                if parked.envelope is not None:
                    page.marks.append(Mark(parked.envelope.source, parked.envelope.id))
            elif parked.state == "dead":
                parked.state, parked.due, parked.attempts, parked.reason = "retry", 0, 0, request.reason or "redriven"
                page.park.append(parked)
            async with self.committing:
                await self._store.commit(page)
            executed = True
            if work.kind is not None:
                owned.unblock(parked.sequence)
                self._tell(WorkOutcomes(self.group, [work], 0.0))
        return executed

    def _tell(self, outcomes: Outcomes) -> None:
        for observer in self._observers:
            try:
                observer.settled(outcomes)
            except Exception:
                log.exception("an observer failed")
