"""The reporter: turns what a process does into facts, and publishes them a few times a second."""

import asyncio
import contextlib
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any
from zlib import crc32

import msgspec

from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import MillstreamError, TooLargeError
from millstream.contracts.ids import new_id
from millstream.contracts.message import Contract
from millstream.core.broker import Broker, Delivery
from millstream.core.clock import Clock
from millstream.core.facts import (
    DATA_LIMIT,
    FACT_TYPE,
    FACTS_TOPIC,
    TOPIC,
    ContractFact,
    Deliveries,
    DeliveryFact,
    Fact,
    HandlerFact,
    Heartbeat,
    Manifest,
    Operation,
    OperationFact,
    ParkedFact,
    Publications,
    PublishedFact,
    encode_fact,
    is_internal,
)
from millstream.core.handler import Handler
from millstream.core.observe import Kind, Outcome, Outcomes
from millstream.core.store import Parked, Store

log = logging.getLogger("millstream.facts")

#: What happens is told after so many seconds at the latest.
FLUSH = 0.1
#: A process says that it is alive so often, and what it is, in seconds.
HEARTBEAT = 1.5
MANIFEST = 30.0
#: Deliveries told one by one in a second; beyond, only those of some correlations are.
BUDGET = 1000
#: Facts that the broker could not take are kept up to so many messages; they must not fill the memory.
MOST_PENDING = 100
#: Of these every single one is told, however many there are.
ALWAYS: frozenset[Kind] = frozenset(("retry", "parked", "discarded"))


class Reporter:
    """An `Observer` that publishes facts, and says that its process is alive.

    It costs the worker a count per delivery, and more only for the deliveries that are
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
        self._broker = broker
        self._store = store
        self._clock = clock
        self._troubles = troubles
        self._started = clock.micros()
        self._groups: dict[str, _Buffer] = {}
        self._published = _Sample(clock)
        self._events: list[PublishedFact] = []
        self._count = 0
        self._pending: list[Envelope] = []
        self._wake = asyncio.Event()
        self._stopping = False

    # What happens

    def started(self, group: str, deliveries: Sequence[Delivery]) -> None: ...

    def settled(self, outcomes: Outcomes) -> None:
        counts = outcomes.counts()
        group = outcomes.group
        buffer = self._groups.get(group)
        if buffer is None:
            buffer = self._groups[group] = _Buffer(self._clock)
        buffer.counts.update(counts)
        wanted = buffer.sample.wants(len(outcomes))
        now = self._clock.micros()
        for outcome in outcomes.pick(wanted):
            if is_internal(outcome.partition.topic):
                continue
            buffer.deliveries.append(_delivery(outcome, now))
            if outcome.parked is not None:
                buffer.parked.append(_parked(outcome.parked, outcome.handler))
        self._wake.set()

    def published(self, envelopes: Sequence[Envelope]) -> None:
        """Note what was published outside of handlers."""
        wanted = self._published.wants(len(envelopes))
        self._count += len(envelopes)
        self._events += [_published(envelope) for envelope in envelopes if not is_internal(envelope.topic) and wanted("handled", envelope)]
        self._wake.set()

    def tell(self, operation: Operation, status: Any, detail: str = "") -> None:
        """Note what became of an operation."""
        self._add(OperationFact(self.app, self.process, self._clock.micros(), operation, status, detail))
        self._wake.set()

    # Publishing

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until `stop` is set, and then what is left and a last word."""
        await self._safely(self._declare)
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

    async def _declare(self) -> None:
        await self._broker.declare([TOPIC], [])

    async def _safely(self, act: Callable[[], Any]) -> None:
        try:
            await act()
        except MillstreamError as error:
            log.warning("facts wait: %s", error)
            if len(self._pending) > MOST_PENDING:
                log.warning("%d messages of facts are dropped", len(self._pending) - MOST_PENDING)
                del self._pending[:-MOST_PENDING]

    async def _beat(self) -> None:
        told = float("-inf")
        while True:
            now = self._clock.monotonic()
            if now - told >= MANIFEST:
                told = now
                self._add(self._manifest())
            self._add(await self._heartbeat())
            self._wake.set()
            await self._clock.sleep(HEARTBEAT)

    async def _heartbeat(self) -> Heartbeat:
        paused: tuple[str, ...] = ()
        outbox = 0
        with contextlib.suppress(MillstreamError):
            paused = tuple(sorted(await self._store.paused()))
            outbox = await self._store.outbox_size() if self._store.relays else 0
        return Heartbeat(
            self.app,
            self.process,
            self._clock.micros(),
            troubles=tuple(self._troubles()),
            paused=paused,
            outbox=outbox,
            stopping=self._stopping,
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
            handlers=tuple(map(_handler, self._handlers)),
            contracts=tuple(map(_contract, contracts.values())),
        )

    async def _flush(self) -> None:
        self._wake.clear()
        for group, buffer in self._groups.items():
            if buffer.counts:
                self._add(
                    Deliveries(
                        self.app,
                        self.process,
                        self._clock.micros(),
                        group,
                        tuple((handler, kind, count) for (handler, kind), count in buffer.counts.items()),
                        buffer.sample.one_in,
                        tuple(buffer.deliveries),
                        tuple(buffer.parked),
                    )
                )
                buffer.clear()
        if self._count:
            events, self._events, count, self._count = self._events, [], self._count, 0
            self._add(Publications(self.app, self.process, self._clock.micros(), count, self._published.one_in, tuple(events)))
        if pending := tuple(self._pending):
            results = await self._broker.publish(pending)
            waits: MillstreamError | None = None
            again: list[Envelope] = []
            for envelope, error in zip(pending, results, strict=True):
                if isinstance(error, TooLargeError):
                    log.warning("a message of facts is dropped: %s", error)
                elif error is not None:
                    waits = error
                    again.append(envelope)
            # What was added meanwhile stays behind them.
            self._pending[: len(pending)] = again
            if waits is not None:
                raise waits

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


class _Sample:
    """Chooses correlations, so that what is told of one is told whole."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since = clock.monotonic()
        self._seen = 0
        self.one_in = 1

    def wants(self, count: int) -> Callable[[Kind, Envelope | None], bool]:
        """What to tell of the next so many."""
        now = self._clock.monotonic()
        self._seen += count
        if now - self._since >= 1.0 or self._seen >= BUDGET * self.one_in * 2:
            rate = self._seen / max(now - self._since, 0.01)
            self.one_in = 1 if rate <= BUDGET else 1 << (int(rate / BUDGET)).bit_length()
            self._since, self._seen = now, 0
        if self.one_in == 1:
            return lambda _kind, _envelope: True
        rest = self.one_in - 1

        def wanted(kind: Kind, envelope: Envelope | None) -> bool:
            if kind in ALWAYS or envelope is None:
                return True
            return not crc32((envelope.correlation or envelope.id).encode("utf-8", "surrogatepass")) & rest

        return wanted


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


def _published(envelope: Envelope) -> PublishedFact:
    return PublishedFact(
        envelope.id, envelope.source, envelope.type, envelope.topic, envelope.key, envelope.time, envelope.version,
        envelope.correlation, envelope.causation, envelope.attempt,
    )  # fmt: skip


_NOBODY = Envelope(id="", source="", type="", time=0)


def _delivery(outcome: Outcome, now: int) -> DeliveryFact:
    envelope = outcome.envelope or _NOBODY
    return DeliveryFact(
        outcome.kind, outcome.handler, outcome.partition.topic, outcome.partition.number, outcome.position,
        envelope.id, envelope.source, envelope.type, envelope.key, envelope.time,
        envelope.correlation, envelope.causation, envelope.attempt, envelope.version,
        outcome.attempt, now, outcome.waited, outcome.worked, tuple(map(_published, outcome.published)), outcome.error,
    )  # fmt: skip


def _parked(parked: Parked, handler: str) -> ParkedFact:
    envelope = parked.envelope or _NOBODY
    data = envelope.data if parked.envelope is not None else parked.message.body if parked.message is not None else b""
    return ParkedFact(
        group=parked.group, handler=handler, topic=parked.partition.topic, partition=parked.partition.number, position=parked.position,
        id=envelope.id, source=envelope.source, type=envelope.type, key=envelope.key, time=envelope.time, version=envelope.version,
        correlation=envelope.correlation, state=parked.state, attempts=parked.attempts, due=parked.due,
        first_failure=parked.first_failure, last_failure=parked.last_failure, error=parked.error, reason=parked.reason,
        stack=parked.stack, data=data[:DATA_LIMIT], size=len(data),
    )  # fmt: skip


def _handler(handler: Handler) -> HandlerFact:
    options = handler.options
    return HandlerFact(
        name=handler.name, group=options.group, summary=handler.summary, location=handler.location,
        types=tuple(contract.name for contract in handler.contracts), topics=handler.topics,
        publishes=tuple(contract.name for contract in handler.returns), delivery=handler.delivery, ordered=options.ordered,
        concurrency=options.concurrency, timeout=options.timeout, attempts=options.retry.attempts,
    )  # fmt: skip


def _contract(contract: Contract) -> ContractFact:
    return ContractFact(
        contract.name, contract.version, contract.key, contract.topic, contract.kind, contract.summary, msgspec.Raw(schema_of(contract))
    )


def schema_of(contract: Contract) -> bytes:
    """The JSON Schema of a contract's body, as JSON; an empty schema where none can be made."""
    try:
        if hasattr(contract.type, "model_json_schema"):
            return msgspec.json.encode(contract.type.model_json_schema())
        return msgspec.json.encode(msgspec.json.schema(contract.type))
    except TypeError:
        return b"{}"
