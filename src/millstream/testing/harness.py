"""TestApp: a whole service in memory, run step by step, with time that a test moves."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

from millstream.app.app import App
from millstream.brokers.memory import MemoryBroker
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import ConfigurationError, MillstreamError, NotStartedError
from millstream.contracts.message import codec_for, contract_of
from millstream.core.broker import Delivery
from millstream.core.observe import Outcome, Outcomes
from millstream.core.store import Parked, RequestKind
from millstream.stores.memory import MemoryStore
from millstream.testing.manual_clock import ManualClock

T = TypeVar("T")

#: A handler that has not returned after so many real seconds waits for the clock, or for ever.
HANGS = 0.1


class TestApp:
    """Runs an App on a broker and a store in memory, whatever URLs it has.

        async with TestApp(app) as test:
            await test.publish(OrderCreated("o-1", "mug", 2))

            assert test.published(StockReserved) == [StockReserved("o-1", "mug")]

    Nothing runs between the calls of a test. `publish`, `run_until_idle`, `advance` and
    `redrive` return when everything that can be handled now has been handled. Time
    stands still until `advance`. Handlers run exactly as in production: through the
    inbox and the outbox, with the same retries, in transactions of a real SQLite
    database in memory.
    """

    # Its name is no invitation to pytest.
    __test__ = False

    def __init__(self, app: App, *, clock: ManualClock | None = None, patience: float = 10.0) -> None:
        """`patience` is how many real seconds handlers may take before the test fails."""
        self.app = app
        self.clock = clock or ManualClock()
        self._patience = patience
        self._seen = _Seen()
        self._stack = AsyncExitStack()
        self._memory: tuple[MemoryBroker, MemoryStore] | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.callback(setattr, self.app, "clock", self.app.clock)
            self.app.clock = self.clock
            stack.callback(self.app.configure)
            self.app.configure(broker="memory://", store="memory://", facts="off")
            stack.callback(self.app.observers.remove, self._seen)
            self.app.observers.append(self._seen)
            await stack.enter_async_context(self.app)
            if not isinstance(self.app.broker, MemoryBroker) or not isinstance(self.app.store, MemoryStore):
                raise ConfigurationError(f"app {self.app.name!r} was not opened in memory; give TestApp a new App, not a subclass of it")
            self._memory = (self.app.broker, self.app.store)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()

    # What a test does

    async def publish(self, *messages: object, id: str | None = None) -> list[Envelope]:
        """Publish, and run until nothing is left to do; gives the envelopes.

        `id` publishes a single message under an id of the test's own: twice the same id
        is what a duplicate is.
        """
        if id is not None and len(messages) != 1:
            raise ValueError(f"id={id!r} is the id of one message, and there are {len(messages)}; publish them one by one")
        envelopes = [await self.app.publish(message, id=id) for message in messages]
        await self.run_until_idle()
        return envelopes

    async def run_until_idle(self) -> None:
        """Handle all that can be handled now, retries that are due included, and what follows from it."""
        try:
            async with asyncio.timeout(self._patience):
                await self.app.run_until_idle()
        except TimeoutError as error:
            raise MillstreamError(
                f"handlers did not come to an end within {self._patience:g} s; in hand: {self._seen.in_hand() or 'nothing'}. "
                "A handler that waits for time to pass needs it moved: publish with test.app.publish(), then test.advance()"
            ) from error

    async def advance(self, seconds: float) -> None:
        """Move time on, and do on the way what falls due, each retry at its own time."""
        end = self.clock.monotonic() + seconds
        while True:
            await self._run_while_time_passes(end)
            wait = await self._next_due()
            if wait is None or self.clock.monotonic() + wait > end:
                break
            await self.clock.advance(wait)
        await self.clock.advance(end - self.clock.monotonic())

    async def redrive(self, *letters: Parked) -> int:
        """Have these dead letters, or all of them, handled once more, and run; says how many they are."""
        return await self._request("redrive", letters)

    async def discard(self, *letters: Parked) -> int:
        """Give up these dead letters, or all of them, and run what waited behind them; says how many they are."""
        return await self._request("discard", letters)

    async def repair(self, letter: Parked, message: object) -> None:
        """Put this message in the place of a dead letter's, have it handled, and run."""
        _, store = self._open
        await store.request("repair", [letter.id], "by a test", codec_for(contract_of(message)).encode(message))
        await self.run_until_idle()

    # What a test asks

    def published(self, type_: type[T]) -> list[T]:
        """Every event of this type that was published, by handlers and by the test, in order."""
        decode = codec_for(contract_of(type_)).decode
        return [_typed(decode(envelope.data), type_) for envelope in self.envelopes(type_)]

    def envelopes(self, type_: type[object] | None = None) -> list[Envelope]:
        """The envelopes of what was published, of one type or of all."""
        broker, _ = self._open
        name = None if type_ is None else contract_of(type_).name
        envelopes = [delivery.envelope for delivery in broker.history() if delivery.envelope is not None]
        return [envelope for envelope in envelopes if name in (None, envelope.type)]

    def handled(self, type_: type[T], *, by: str | None = None) -> list[T]:
        """Every event of this type that a handler (the one of this name) brought to a good end, in order."""
        contract = contract_of(type_)
        decode = codec_for(contract).decode
        return [
            _typed(decode(outcome.envelope.data), type_)
            for outcome in self.outcomes
            if outcome.kind == "handled" and outcome.envelope is not None and outcome.envelope.type == contract.name
            if by in (None, outcome.handler)
        ]

    @property
    def outcomes(self) -> list[Outcome]:
        """What became of each attempt at each delivery, in order: handled, retried, parked, a duplicate, skipped."""
        return list(self._seen.outcomes)

    @property
    def failures(self) -> list[str]:
        """The errors of all attempts that failed, in order: the first thing to look at when a test surprises."""
        return [outcome.error for outcome in self._seen.outcomes if outcome.kind in ("retry", "parked")]

    @property
    def dead_letters(self) -> list[Parked]:
        """What could not be handled: each with its envelope, error, reason, number of attempts and stack."""
        return [parked for parked in self.parked if parked.state == "dead"]

    @property
    def parked(self) -> list[Parked]:
        """All that waits: dead letters, what is to be tried again, and what waits behind either."""
        _, store = self._open
        return [parked for _, parked in sorted(store.tables.parked.items())]

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query on the service's own tables."""
        _, store = self._open
        return store.read_now(sql, params)

    # Inside

    @property
    def _open(self) -> tuple[MemoryBroker, MemoryStore]:
        if self._memory is None:
            raise NotStartedError("this TestApp is not open: use `async with TestApp(app) as test:`")
        return self._memory

    async def _run_while_time_passes(self, end: float) -> None:
        """Run until idle; where handlers wait for the clock it moves, but not beyond `end`."""
        running = asyncio.ensure_future(self.run_until_idle())
        try:
            await asyncio.wait([running], timeout=HANGS)
            while not running.done():
                wake = self.clock.next_wake
                if wake is None or self.clock.monotonic() + wake > end:
                    break
                await self.clock.advance(wake)
            await running
        finally:
            running.cancel()

    async def _next_due(self) -> float | None:
        """In how many seconds the next retry is due."""
        _, store = self._open
        due = [when for group in self.app.groups() if (when := await store.next_due(group.name)) is not None]
        return max(0.0, (min(due) - self.clock.micros()) / 1e6) if due else None

    async def _request(self, kind: RequestKind, letters: Sequence[Parked]) -> int:
        _, store = self._open
        count = await store.request(kind, [letter.id for letter in letters or self.dead_letters], "by a test")
        await self.run_until_idle()
        return count


class _Seen:
    """The observer through which a TestApp knows what happened."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self._started: dict[tuple[str, str, int, int], str] = {}

    def started(self, group: str, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            what = f"{delivery.envelope.type} {delivery.envelope.id}" if delivery.envelope else "a message"
            self._started[group, delivery.partition.topic, delivery.partition.number, delivery.position] = f"{what} in {group}"

    def settled(self, outcomes: Outcomes) -> None:
        self.outcomes += outcomes
        for outcome in outcomes:
            self._started.pop((outcome.group, outcome.partition.topic, outcome.partition.number, outcome.position), None)

    def in_hand(self) -> str:
        """What was taken up and is not settled."""
        return ", ".join(self._started.values())


def _typed(message: object, type_: type[T]) -> T:
    if not isinstance(message, type_):
        raise TypeError(f"decoded a {type(message).__name__} where a {type_.__name__} was published")
    return message
