"""The reporter: turns what a process does into facts, and publishes them a few times a second."""

import asyncio
import contextlib
import logging
import os
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from millstream.app.facts_of import (
    LARGEST,
    contract_fact,
    delivery_fact,
    handler_fact,
    in_parts,
    parked_fact,
    published_fact,
    size_of,
)
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import EnvelopeError, MillstreamError, TooLargeError
from millstream.contracts.ids import new_id
from millstream.core.broker import Broker, Delivery, Dropping
from millstream.core.clock import Clock
from millstream.core.facts import (
    FACT_TYPE,
    FACTS_TOPIC,
    TOPIC,
    Deliveries,
    DeliveryFact,
    Fact,
    Heartbeat,
    Manifest,
    Operation,
    OperationFact,
    ParkedFact,
    Publications,
    PublishedFact,
    Waiting,
    encode_fact,
    is_internal,
)
from millstream.core.handler import Handler
from millstream.core.observe import Kind, Outcomes
from millstream.core.sampling import is_chosen, last_characters
from millstream.core.store import Parked, Store

log = logging.getLogger("millstream.facts")

#: What happens is told after so many seconds at the latest.
FLUSH = 0.1
#: A process says that it is alive so often, and what it is, in seconds.
HEARTBEAT = 1.5
MANIFEST = 30.0
#: What is parked is told anew so often, by one process of a service; and after facts were lost, but not more often than the second.
RETELL = (6 * 3600.0, 10.0)
#: Deliveries told one by one in a second; beyond, only those of some correlations are.
BUDGET = 500
#: Facts that the broker could not take are kept up to so many messages, and deliveries up to so many of a group.
MOST_PENDING = 100
MOST_BUFFERED = 5000
#: Parked deliveries told anew of each group, and read at once.
MOST_RETOLD = 2000
PAGE = 200


class Reporter:
    """An `Observer` that publishes facts, and says that its process is alive.

    It costs the worker a look per delivery, and more only for the deliveries that are
    told one by one. What cannot be published is dropped after a while, with a warning:
    facts never hold up the work they tell of.
    """

    def __init__(
        self,
        app: str,
        handlers: Sequence[Handler],
        broker: Broker,
        store: Store,
        clock: Clock,
        *,
        troubles: Callable[[], Sequence[str]] = lambda: (),
    ) -> None:
        self.app = app
        self.process = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"
        self._handlers = handlers
        # Facts of facts would never end.
        self._internal = {(h.options.group, h.name) for h in handlers if all(map(is_internal, h.topics))}
        self._told_groups = {h.options.group for h in handlers if (h.options.group, h.name) not in self._internal}
        self._broker = broker
        self._store = store
        self._clock = clock
        self._troubles = troubles
        self._started = clock.micros()
        self._declared = False
        self._groups: dict[str, _Buffer] = {}
        self._published = _Sample(clock)
        self._events: list[PublishedFact] = []
        self._count = 0
        self._pending: list[Envelope] = []
        self._publishing = asyncio.Lock()
        self._retold = float("-inf")
        self._forgotten = False
        """Whether something was dropped that may have told of a dead letter."""
        self._wake = asyncio.Event()
        self._stopping = False

    # What happens

    def started(self, group: str, deliveries: Sequence[Delivery]) -> None: ...

    def settled(self, outcomes: Outcomes) -> None:
        group = outcomes.group
        if group not in self._told_groups:
            return
        buffer = self._groups.get(group)
        if buffer is None:
            buffer = self._groups[group] = _Buffer(self._clock)
        for key, count in outcomes.counts().items():
            if (group, key[0]) not in self._internal:
                buffer.counts[key] += count
        now = self._clock.micros()
        for outcome in outcomes.pick(buffer.sample.one_in_for(len(outcomes))):
            if is_internal(outcome.partition.topic):
                continue
            if len(buffer.deliveries) >= MOST_BUFFERED:
                self._forgotten = True
                break
            buffer.deliveries.append(delivery_fact(outcome, now))
            if outcome.parked is not None:
                buffer.parked.append(parked_fact(outcome.parked, outcome.handler))
        self._wake.set()

    def published(self, envelopes: Sequence[Envelope]) -> None:
        """Note what was published outside of handlers."""
        if any(map(is_internal, {envelope.topic for envelope in envelopes})):
            envelopes = [envelope for envelope in envelopes if not is_internal(envelope.topic)]
        self._count += len(envelopes)
        one_in = self._published.one_in_for(len(envelopes))
        if one_in > 1:
            # A look that costs next to nothing leaves few that are looked at more closely.
            ends = last_characters(one_in)
            envelopes = [e for e in envelopes if (e.correlation or e.id)[-1:] in ends and is_chosen(e.correlation or e.id, one_in)]
        room = MOST_BUFFERED - len(self._events)
        self._events += map(published_fact, envelopes[:room])
        self._wake.set()

    def tell(self, operation: Operation, status: Any, detail: str = "") -> None:
        """Note what became of an operation."""
        self._add(OperationFact(self.app, self.process, self._clock.micros(), operation, status, detail))
        self._wake.set()

    async def beat(self) -> None:
        """Say at once that the process is alive, and how it is: something about it has changed."""
        self._add(await self._heartbeat())
        self._wake.set()

    # Publishing

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until `stop` is set, and then what is left and a last word."""
        beating = asyncio.ensure_future(self._beat())
        try:
            while not stop.is_set():
                waits = [asyncio.ensure_future(self._wake.wait()), asyncio.ensure_future(stop.wait())]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()
                if not stop.is_set():
                    await self._clock.sleep(FLUSH)
                await self._safely(self._flush)
        finally:
            beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beating
        self._stopping = True
        self._add(await self._heartbeat())
        await self._safely(self._flush)

    async def _safely(self, act: Callable[[], Awaitable[None]]) -> None:
        """Whatever goes wrong, the work that facts tell of goes on."""
        try:
            await act()
        except MillstreamError as error:
            log.warning("facts wait: %s", error)
        except Exception:
            log.exception("facts are lost")
            self._forgotten = True
        if len(self._pending) > MOST_PENDING:
            log.warning("%d messages of facts are dropped", len(self._pending) - MOST_PENDING)
            del self._pending[:-MOST_PENDING]
            self._forgotten = True

    async def _beat(self) -> None:
        told = float("-inf")
        while True:
            now = self._clock.monotonic()
            if now - told >= MANIFEST:
                told = now
                self._add(self._manifest())
            await self.beat()
            if now - self._retold >= RETELL[1 if self._forgotten else 0]:
                await self._safely(self._retell_in_turn)
            await self._clock.sleep(HEARTBEAT)

    async def _heartbeat(self) -> Heartbeat:
        paused: tuple[str, ...] = ()
        outbox = 0
        with contextlib.suppress(MillstreamError):
            paused = tuple(sorted(await self._store.paused()))
            outbox = await self._store.outbox_size() if self._store.relays else 0
        dropped = self._broker.dropped() if isinstance(self._broker, Dropping) else ()
        return Heartbeat(
            self.app,
            self.process,
            self._clock.micros(),
            troubles=(*self._troubles(), *(each.trouble for each in dropped if each.trouble)),
            paused=paused,
            outbox=outbox,
            stopping=self._stopping,
            unread=tuple((each.topic, each.count) for each in dropped if not each.trouble),
        )

    def _manifest(self) -> Manifest:
        # Only here: it reads mails and archives, and costs as much to import as all the rest.
        from importlib.metadata import version

        contracts = {contract.name: contract for handler in self._handlers for contract in (*handler.contracts, *handler.returns)}
        return Manifest(
            app=self.app,
            process=self.process,
            at=self._clock.micros(),
            started=self._started,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=version("millstream"),
            broker=self._broker.name,
            store=self._store.id,
            handlers=tuple(map(handler_fact, self._handlers)),
            contracts=tuple(map(contract_fact, contracts.values())),
        )

    async def _flush(self) -> None:
        self._wake.clear()
        for group, buffer in self._groups.items():
            if buffer.counts:
                self._tell_deliveries(group, buffer)
                buffer.clear()
        if self._count:
            events, self._events, count, self._count = self._events, [], self._count, 0
            self._add(Publications(self.app, self.process, self._clock.micros(), count, self._published.one_in, tuple(events)))
        await self._publish()

    async def _publish(self) -> None:
        async with self._publishing:
            # What is added meanwhile comes after it.
            pending, self._pending = self._pending, []
            failed: list[Envelope] = pending
            try:
                if pending and not self._declared:
                    await self._broker.declare([TOPIC], [])
                    self._declared = True
                results = await self._broker.publish(pending) if pending else ()
                failed = []
                for envelope, error in zip(pending, results, strict=True):
                    if isinstance(error, (TooLargeError, EnvelopeError)):
                        log.warning("a message of facts is dropped: %s", error)
                    elif error is not None:
                        failed.append(envelope)
            finally:
                self._pending = [*failed, *self._pending]

    def _tell_deliveries(self, group: str, buffer: "_Buffer") -> None:
        """In as many messages as it takes; what was not told one by one is counted in the first."""
        first = Counter(buffer.counts)
        parts = list(in_parts(buffer.deliveries, buffer.parked))
        for deliveries, _ in parts[1:]:
            first.subtract(_counted(deliveries))
        for number, (deliveries, parked) in enumerate(parts):
            counts = _counted(deliveries) if number else first
            self._add(
                Deliveries(
                    self.app,
                    self.process,
                    self._clock.micros(),
                    group,
                    tuple((handler, kind, count) for (handler, kind), count in counts.items() if count > 0),
                    buffer.sample.one_in,
                    tuple(deliveries),
                    tuple(parked),
                )
            )

    def _add(self, fact: Fact) -> None:
        micros = self._clock.micros()
        self._pending.append(
            Envelope(
                id=new_id(micros // 1000, os.urandom(10)),
                source=f"/{self.app}",
                type=FACT_TYPE,
                key=self.process,
                time=micros,
                data=encode_fact(fact),
                topic=FACTS_TOPIC,
            )
        )

    # What is parked

    async def _retell_in_turn(self) -> None:
        forgotten, self._forgotten = self._forgotten, False
        self._retold = self._clock.monotonic()
        if await self._store.lead("facts of what is parked", self.process, RETELL[0]) or forgotten:
            await self.retell()

    async def retell(self) -> None:
        """Tell anew of all that is parked in the store, as of now."""
        for group in sorted(self._told_groups):
            handlers = {contract.name: h.name for h in self._handlers if h.options.group == group for contract in h.contracts}
            await self._retell_group(group, handlers)
        self._wake.set()

    async def _retell_group(self, group: str, handlers: dict[str, str]) -> None:
        taken, after, count, size = self._clock.micros(), 0, 0, 0
        some: list[ParkedFact] = []
        page: Sequence[Parked] = ()
        while count < MOST_RETOLD and (page := await self._store.parked(group, after=after, most=PAGE)):
            after, count = page[-1].id, count + len(page)
            for parked in page:
                fact = parked_fact(parked, handlers.get(parked.envelope.type, "") if parked.envelope else "")
                if size and size + size_of(fact) > LARGEST:
                    self._add(Waiting(self.app, self.process, self._clock.micros(), group, taken, tuple(some), last=False))
                    some, size = [], 0
                    if len(self._pending) > MOST_PENDING // 2:
                        await self._publish()
                some.append(fact)
                size += size_of(fact)
        # There may be more than are told; then nothing follows from what is not among them.
        self._add(Waiting(self.app, self.process, self._clock.micros(), group, taken, tuple(some), last=not page))


def _counted(deliveries: Sequence[DeliveryFact]) -> Counter[tuple[str, Kind]]:
    return Counter([(delivery.handler, delivery.kind) for delivery in deliveries])


class _Sample:
    """Of how many correlations one is told, so that no more are told in a second than the budget."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since = clock.monotonic()
        self._seen = 0
        self.one_in = 1

    def one_in_for(self, count: int) -> int:
        """Of how many of the next so many one is told."""
        now = self._clock.monotonic()
        self._seen += count
        if now - self._since >= 1.0 or self._seen >= BUDGET * self.one_in * 2:
            rate = self._seen / max(now - self._since, 0.01)
            self.one_in = 1 if rate <= BUDGET else 1 << (int(rate / BUDGET)).bit_length()
            self._since, self._seen = now, 0
        return self.one_in


class _Buffer:
    """What is to be told of one group."""

    def __init__(self, clock: Clock) -> None:
        self.sample = _Sample(clock)
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.counts: Counter[tuple[str, Kind]] = Counter()
        self.deliveries: list[DeliveryFact] = []
        self.parked: list[ParkedFact] = []
