"""The worker: takes pages of deliveries, runs handlers, commits what became of them."""

import asyncio
import logging
import random
import traceback
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import DecodeError, FencedError, HandlerResultError, HandlerTimeoutError, StoreBusyError
from millstream.contracts.ids import derived_id
from millstream.contracts.message import codec_for, contract_of, key_of
from millstream.core.broker import Assigned, Broker, Deliveries, Delivery, Lost, Partition, Revoked, Subscription
from millstream.core.clock import Clock
from millstream.core.handler import Context, Handler, messages_of
from millstream.core.observe import Kind, Observer, Outcome
from millstream.core.retry import Again, Retry
from millstream.core.store import Mark, Page, Parked, Store, StoreTransaction

log = logging.getLogger("millstream.worker")

#: Deliveries taken, handled and committed together.
PAGE = 500
#: A handler that holds the write lock while it waits longer than this is rerun alone, in seconds.
HELD = 0.05
#: After so many attempts that killed the process a delivery is parked.
MOST_CRASHES = 3
#: How often parked deliveries and operators' requests are looked at, in seconds.
LOOK = 0.2
STACK_LIMIT = 8000


@dataclass(slots=True, kw_only=True)
class Work:
    """One delivery on its way through a page."""

    delivery: Delivery
    handler: Handler
    message: object
    attempt: int = 1
    parked: Parked | None = None
    result: list[object] = field(default_factory=list[object])
    error: BaseException | None = None
    stack: str = ""
    started: float = 0.0
    worked: float = 0.0


class WorkerStuckError(BaseException):
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
        observe: Observer,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.group = group
        self.source = source
        self.broker = broker
        self.store = store
        self.clock = clock
        self.observe = observe
        self._chance = chance
        self._handlers: dict[str, Handler] = {c.name: h for h in handlers for c in h.contracts}
        self._decoders = {c.name: codec_for(c).decode for h in handlers for c in h.contracts}
        self._effectively_once = any(h.delivery == "effectively_once" for h in handlers)
        self._fences: dict[Partition, int] = {}
        self._blocked: dict[Partition, dict[str, int]] = {}
        self._suspect: dict[Partition, tuple[int, dict[int, int]]] = {}
        self._generation = 0
        self._looked = float("-inf")
        self._subscription: Subscription | None = None
        self._threads = ThreadPoolExecutor(1, thread_name_prefix=f"millstream:{group}")

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; what is in flight is finished and settled first."""
        subscription = self._subscription = await self.broker.open(self.group, "")
        try:
            while not stop.is_set():
                await self.step(wait=LOOK)
        finally:
            await asyncio.shield(self._close(subscription))

    async def step(self, *, wait: float) -> bool:
        """Take and settle one page; tell whether there was anything to do."""
        if self._subscription is None:
            self._subscription = await self.broker.open(self.group, "")
        subscription = self._subscription
        try:
            match await subscription.receive(PAGE, wait):
                case Assigned(partitions):
                    await self._assigned(subscription, partitions)
                    return True
                case Revoked(partitions, _):
                    await self.store.unassign(self.group, {p: self._fences[p] for p in partitions if p in self._fences})
                    self._drop(partitions)
                    await subscription.release(partitions)
                    return True
                case Lost(partitions):
                    self._drop(partitions)
                    return True
                case Deliveries(items):
                    if items:
                        await self._page(subscription, items)
                    busy = bool(items)
            return await self._look() or busy
        except FencedError as error:
            log.warning("%s", error)
            await self._start_over(subscription)
            return True

    async def _start_over(self, subscription: Subscription) -> None:
        """Give everything back: whoever owns it now goes on from the position of record."""
        self._drop(tuple(self._fences))
        await subscription.close()
        self._subscription = await self.broker.open(self.group, "")

    async def _close(self, subscription: Subscription) -> None:
        if self._fences:
            await self.store.unassign(self.group, self._fences)
        self._drop(tuple(self._fences))
        await subscription.close()
        self._subscription = None
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def close(self) -> None:
        """Leave the group; for whoever drives `step` by hand."""
        if self._subscription is not None:
            await self._close(self._subscription)

    async def _assigned(self, subscription: Subscription, partitions: Sequence[Partition]) -> None:
        self._generation = await self.store.generation(self.group)
        for assignment in await self.store.assign(self.group, partitions):
            partition = assignment.partition
            self._fences[partition] = assignment.epoch
            self._blocked[partition] = await self.store.sequences(self.group, partition)
            position = assignment.position
            subscription.start(partition, position)
            if not assignment.clean:
                # The last owner died: what it may have had in hand runs alone, counted before it runs.
                upto = (position or 0) + PAGE
                self._suspect[partition] = (upto, await self.store.suspects(self.group, partition))

    def _drop(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            self._fences.pop(partition, None)
            self._blocked.pop(partition, None)
            self._suspect.pop(partition, None)

    async def _page(self, subscription: Subscription, items: Sequence[Delivery]) -> None:
        items = [d for d in items if d.partition in self._fences]
        alone = [d for d in items if (s := self._suspect.get(d.partition)) is not None and d.position < s[0]]
        for delivery in alone:
            await self._run_alone(subscription, delivery)
        if alone:
            left = set(map(id, alone))
            items = [d for d in items if id(d) not in left]
        for partition in {d.partition for d in items}:
            self._suspect.pop(partition, None)
        if items:
            await self._handle(subscription, items)

    async def _run_alone(self, subscription: Subscription, delivery: Delivery) -> None:
        partition, position = delivery.partition, delivery.position
        crashes = self._suspect[partition][1].get(position, 0)
        key = (partition, position)
        if crashes >= MOST_CRASHES:
            parked = self._parked(delivery, state="dead", reason=f"crashed the worker {crashes} times", error="WorkerCrash")
            parked.attempts = crashes
            page = self._new_page([delivery])
            page.suspects[key] = 0
            self._add_park(page, parked)
            await self._commit(subscription, page, [self._outcome("parked", delivery, error=parked.reason)])
            return
        mark = Page(group=self.group, fences={partition: self._fences[partition]}, suspects={key: crashes + 1})
        await self.store.commit(mark)
        await self._handle(subscription, [delivery], suspects={key: 0})

    def _new_page(self, deliveries: Sequence[Delivery]) -> Page:
        page = Page(group=self.group, generation=self._generation)
        for delivery in deliveries:
            page.positions[delivery.partition] = delivery.position + 1
        page.fences = {partition: self._fences[partition] for partition in page.positions}
        return page

    async def _handle(
        self, subscription: Subscription, items: Sequence[Delivery], suspects: dict[tuple[Partition, int], int] | None = None
    ) -> None:
        page = self._new_page(items)
        page.suspects.update(suspects or {})
        outcomes: list[Outcome] = []
        todo = await self._triage(items, page, outcomes)
        await self._work(todo, page, outcomes, subscription)

    async def _triage(self, items: Sequence[Delivery], page: Page, outcomes: list[Outcome]) -> list[Work]:
        """Decide for each delivery: a duplicate, skipped, parked behind its sequence, undecodable, or to be handled."""
        marks = [Mark(d.envelope.source, d.envelope.id) for d in items if d.envelope is not None]
        known = await self.store.handled(self.group, self._generation, marks)
        todo: list[Work] = []
        for delivery in items:
            envelope = delivery.envelope
            if envelope is None:
                self._add_park(page, self._parked(delivery, state="dead", reason=delivery.problem, error="DecodeError"))
                outcomes.append(self._outcome("parked", delivery, error=delivery.problem))
                continue
            mark = Mark(envelope.source, envelope.id)
            if mark in known:
                outcomes.append(self._outcome("duplicate", delivery))
                continue
            handler = self._handlers.get(envelope.type)
            if handler is None:
                outcomes.append(self._outcome("skipped", delivery))
                continue
            if self._effectively_once:
                known.add(mark)
            if handler.options.ordered and self._sequence(delivery) in self._blocked[delivery.partition]:
                self._add_park(page, self._parked(delivery, state="queued", reason="behind another of its key"))
                outcomes.append(self._outcome("queued", delivery))
                continue
            try:
                message = self._decoders[envelope.type](envelope.data)
                wanted = handler.options.where is None or handler.options.where(message)
            except Exception as error:  # the bytes, or the user's filter
                reason = f"cannot be decoded: {error}" if isinstance(error, DecodeError) else f"where= failed: {error!r}"
                self._add_park(page, self._parked(delivery, state="dead", reason=reason, error=type(error).__name__))
                outcomes.append(self._outcome("parked", delivery, error=reason))
                continue
            if not wanted:
                outcomes.append(self._outcome("skipped", delivery))
                continue
            todo.append(Work(delivery=delivery, handler=handler, message=message))
        return todo

    async def _work(
        self, todo: list[Work], page: Page, outcomes: list[Outcome], subscription: Subscription | None
    ) -> None:
        if any(work.handler.takes_transaction for work in todo):
            await self._in_transaction(todo, page, outcomes, subscription)
            return
        await self._in_lanes(todo, page)
        for work in todo:
            self._record(work, page, outcomes)
        await self._commit(subscription, page, outcomes)

    async def _in_lanes(self, todo: list[Work], page: Page) -> None:
        """Run handlers at the same time, those of one key one after another, in tasks that each serve many."""
        keys: dict[object, list[Work]] = {}
        for work in todo:
            sequence = self._sequence(work.delivery) if work.handler.options.ordered else id(work)
            keys.setdefault((work.delivery.partition, sequence), []).append(work)
        ready = list(reversed(keys.values()))
        lanes = min(len(ready), max((w.handler.options.concurrency for w in todo), default=1))

        async def lane() -> None:
            while ready:
                blocked = False
                for work in ready.pop():
                    if blocked:
                        work.error = _BehindError()
                        continue
                    await self._attempt(work)
                    blocked = work.error is not None and work.handler.options.ordered

        if lanes:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(lanes):
                    tasks.create_task(lane())

    async def _attempt(self, work: Work, transaction: StoreTransaction | None = None) -> None:
        """Run a handler once; whatever it does ends up in `work`."""
        assert work.delivery.envelope is not None
        first = work.parked.first_failure if work.parked else None
        context = Context(work.delivery.envelope, self.group, work.attempt, first)
        work.started = self.clock.monotonic()
        work.error = None
        try:
            timeout = work.handler.options.timeout
            argument = [work.message] if work.handler.is_batch else work.message
            if work.handler.is_async:
                coroutine: Awaitable[Any] = work.handler.call(argument, context, transaction)
                result = await self._bounded(coroutine, timeout, work.handler.name)
            else:
                call = asyncio.get_running_loop().run_in_executor(
                    self._threads, work.handler.call, argument, context, transaction
                )
                done, _ = await asyncio.wait([call], timeout=timeout)
                if not done:
                    raise WorkerStuckError(f"handler {work.handler.name} did not return within {timeout:g} s")
                result = call.result()
            if work.handler.is_batch and isinstance(result, list) and result and isinstance(result[0], Exception):
                raise result[0]
            if work.handler.is_batch and isinstance(result, list) and result == [None]:
                result = None
            work.result = [*context.published, *messages_of(result, work.handler.name)]
        except asyncio.CancelledError as error:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            work.error = error
        except (WorkerStuckError, GeneratorExit):
            raise
        except BaseException as error:  # SystemExit and the like of a handler must not end the worker
            work.error = error
        if work.error is not None:
            work.stack = "".join(traceback.format_exception(work.error))[-STACK_LIMIT:]
        work.worked = self.clock.monotonic() - work.started

    async def _bounded(self, coroutine: Awaitable[Any], timeout: float, name: str) -> Any:
        try:
            async with asyncio.timeout(timeout):
                return await coroutine
        except TimeoutError as error:
            raise HandlerTimeoutError(f"handler {name} took longer than {timeout:g} s") from error

    async def _in_transaction(
        self, todo: list[Work], page: Page, outcomes: list[Outcome], subscription: Subscription | None
    ) -> None:
        """Run handlers one after another, a savepoint each, and commit them with their page."""
        failed: set[tuple[Partition, str]] = set()
        async with self.store.transaction() as transaction:
            for work in todo:
                place = (work.delivery.partition, self._sequence(work.delivery))
                if place in failed:
                    work.error = _BehindError()
                else:
                    transaction.savepoint()
                    await self._attempt(work, transaction)
                    if work.error is None:
                        transaction.release()
                    else:
                        transaction.rollback()
                        transaction.release()
                        if work.handler.options.ordered:
                            failed.add(place)
                    if work.worked > HELD:
                        log.warning(
                            "handler %s held the store's write lock for %.0f ms: do what waits before the first write, "
                            "or in a handler of its own",
                            work.handler.name,
                            work.worked * 1000,
                        )
                self._record(work, page, outcomes)
            transaction.apply(page)
        await self._committed(subscription, page, outcomes)

    def _record(self, work: Work, page: Page, outcomes: list[Outcome]) -> None:
        """Put what became of an attempt into the page."""
        delivery, parked = work.delivery, work.parked
        envelope = delivery.envelope
        assert envelope is not None
        if work.error is None:
            published: list[Envelope] = []
            try:
                published = self._envelopes(work)
            except Exception as error:
                work.error = error
                work.stack = "".join(traceback.format_exception(error))[-STACK_LIMIT:]
            else:
                page.events += published
                if self._effectively_once or parked is not None:
                    page.marks.append(Mark(envelope.source, envelope.id))
                if parked is not None:
                    page.unpark.append(parked.id)
                outcomes.append(self._outcome("handled", delivery, work=work, published=tuple(published)))
                return
        if isinstance(work.error, _BehindError):
            self._add_park(page, self._parked(delivery, state="queued", reason="behind another of its key"))
            outcomes.append(self._outcome("queued", delivery))
            return
        error = work.error
        now = self.clock.micros()
        decision = (
            Retry(attempts=1).decide(1, error, 0)
            if isinstance(error, HandlerResultError)
            else work.handler.options.retry.decide(
                work.attempt, _as_failure(error), self._chance()
            )
        )
        row = parked or self._parked(delivery, state="retry", reason="")
        row.attempts, row.error, row.stack = work.attempt, f"{type(error).__name__}: {error}", work.stack
        row.first_failure = row.first_failure or now
        row.last_failure = now
        if isinstance(decision, Again):
            row.state, row.reason, row.due = "retry", "waits for its next attempt", now + int(decision.after * 1e6)
        else:
            row.state, row.reason = "dead", decision.reason
        self._add_park(page, row)
        kind: Kind = "retry" if row.state == "retry" else "parked"
        outcomes.append(self._outcome(kind, delivery, work=work, error=row.error))

    def _envelopes(self, work: Work) -> list[Envelope]:
        cause = work.delivery.envelope
        assert cause is not None
        made: list[Envelope] = []
        for ordinal, message in enumerate(work.result):
            contract = contract_of(message)
            made.append(
                Envelope(
                    id=derived_id(cause.source, cause.id, self.group, ordinal, cause.time // 1000),
                    source=self.source,
                    type=contract.name,
                    key=key_of(message),
                    time=self.clock.micros(),
                    data=codec_for(contract).encode(message),
                    version=contract.version,
                    correlation=cause.correlation or cause.id,
                    causation=cause.id,
                    attempt=f"{self.group}/{work.attempt}",
                    traceparent=cause.traceparent,
                    tracestate=cause.tracestate,
                    topic=contract.topic,
                )
            )
        return made

    def _add_park(self, page: Page, parked: Parked) -> None:
        page.park.append(parked)

    async def _commit(self, subscription: Subscription | None, page: Page, outcomes: list[Outcome]) -> None:
        while True:
            try:
                await self.store.commit(page)
                break
            except StoreBusyError as error:
                # Not the delivery's fault: it is no attempt, and nothing was lost by waiting.
                log.warning("%s", error)
        await self._committed(subscription, page, outcomes)

    async def _committed(self, subscription: Subscription | None, page: Page, outcomes: list[Outcome]) -> None:
        for partition in {parked.partition for parked in page.park}:
            self._blocked[partition] = await self.store.sequences(self.group, partition)
        if subscription is not None:
            await subscription.done(list(page.positions.items()))
        if outcomes:
            self.observe(outcomes)

    async def _look(self) -> bool:
        """Run what is due among the parked, and what operators asked for."""
        now = self.clock.monotonic()
        if now - self._looked < LOOK or not self._fences:
            return False
        self._looked = now
        busy = await self._requests()
        if not any(self._blocked.values()):
            return busy
        time = self.clock.micros()
        for parked in await self.store.heads(self.group, list(self._fences)):
            if parked.state == "retry" and parked.due > time:
                continue
            await self._retry(parked)
            busy = True
        return busy

    async def _requests(self) -> bool:
        requests = await self.store.requests(self.group)
        if not requests:
            return False
        for request in requests:
            found = [p for p in await self.store.parked(self.group, most=100_000) if p.id == request.parked]
            if not found or found[0].partition not in self._fences:
                continue
            parked = found[0]
            fences = {parked.partition: self._fences[parked.partition]}
            page = Page(group=self.group, generation=self._generation, fences=fences, requests=[request.id])
            if request.kind == "discard":
                page.unpark.append(parked.id)
                if parked.envelope is not None:
                    page.marks.append(Mark(parked.envelope.source, parked.envelope.id))
            elif parked.state == "dead":
                parked.state, parked.due, parked.attempts, parked.reason = "redrive", 0, 0, request.reason
                page.park.append(parked)
            await self.store.commit(page)
            self._blocked[parked.partition] = await self.store.sequences(self.group, parked.partition)
        return True

    async def _retry(self, parked: Parked) -> None:
        fences = {parked.partition: self._fences[parked.partition]}
        page = Page(group=self.group, generation=self._generation, fences=fences)
        outcomes: list[Outcome] = []
        delivery = Delivery(parked.partition, parked.position, parked.envelope, parked.raw)
        handler = self._handlers.get(parked.envelope.type) if parked.envelope else None
        if parked.envelope is None or handler is None:
            parked.state, parked.reason = "dead", parked.reason or "no handler takes this type any more"
            page.park.append(parked)
            await self._commit(None, page, outcomes)
            return
        try:
            message = self._decoders[parked.envelope.type](parked.envelope.data)
        except DecodeError as error:
            parked.state, parked.reason = "dead", f"cannot be decoded: {error}"
            page.park.append(parked)
            await self._commit(None, page, outcomes)
            return
        # Counted before it runs: an attempt that kills the process must not run for ever.
        parked.attempts += 1
        started = Page(group=self.group, fences=fences, park=[parked])
        await self.store.commit(started)
        work = Work(delivery=delivery, handler=handler, message=message, attempt=parked.attempts, parked=parked)
        await self._work([work], page, outcomes, None)
        self._blocked[parked.partition] = await self.store.sequences(self.group, parked.partition)
        self._looked = float("-inf")

    def _sequence(self, delivery: Delivery) -> str:
        envelope = delivery.envelope
        if envelope is None or envelope.key is None:
            return f"\x00{delivery.position}"
        return envelope.key

    def _parked(self, delivery: Delivery, *, state: Any, reason: str, error: str = "") -> Parked:
        now = self.clock.micros()
        failed = now if state == "dead" else None
        return Parked(
            group=self.group,
            partition=delivery.partition,
            position=delivery.position,
            sequence=self._sequence(delivery),
            envelope=delivery.envelope,
            raw=delivery.raw,
            state=state,
            reason=reason,
            error=error,
            first_failure=failed,
            last_failure=failed,
        )

    def _outcome(
        self, kind: Kind, delivery: Delivery, *, work: Work | None = None, published: tuple[Envelope, ...] = (), error: str = ""
    ) -> Outcome:
        envelope = delivery.envelope
        waited = max(0.0, (self.clock.micros() - envelope.time) / 1e6) if envelope else 0.0
        attempt, worked = (work.attempt, work.worked) if work else (1, 0.0)
        return Outcome(
            kind, self.group, delivery.partition, delivery.position, envelope, attempt, waited, worked, published, error
        )


class _BehindError(Exception):
    """Another of the same key failed in this page: this one waits behind it."""


def _as_failure(error: BaseException | None) -> BaseException:
    """A handler's SystemExit, KeyboardInterrupt or CancelledError counts as an ordinary failure."""
    return error if isinstance(error, Exception) else RuntimeError(f"handler raised {error!r}")


class Relay:
    """Copies a store's outbox to the broker, in order; a row goes only once the broker has the event."""

    def __init__(self, store: Store, broker: Broker, changed: asyncio.Event) -> None:
        self._store, self._broker, self._changed = store, broker, changed

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self._changed.clear()
            if not await self.step():
                try:
                    async with asyncio.timeout(1.0):
                        await self._changed.wait()
                except TimeoutError:
                    continue
        while await self.step():
            pass

    async def step(self) -> bool:
        rows = await self._store.outbox(1000)
        if not rows:
            return False
        await self._broker.publish([envelope for _, envelope in rows])
        await self._store.sent(rows[-1][0])
        return True


