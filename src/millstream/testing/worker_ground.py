"""WorkerGround: a service on a broker and a store under test, and the words in which its scenarios are written."""

import asyncio
import functools
import itertools
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, cast

from millstream.app.app import App
from millstream.contracts.envelope import Envelope
from millstream.contracts.message import event
from millstream.core.broker import Broker, Delivery, Features, Partition
from millstream.core.handler import Context
from millstream.core.observe import Outcome, Outcomes
from millstream.core.store import Parked, Store


@event("suite.made", key="key")
@dataclass(frozen=True)
class Made:
    """What the handlers under test handle."""

    key: str
    number: int = 0


@event("suite.done", key="key")
@dataclass(frozen=True)
class Done:
    """What they publish."""

    key: str
    number: int = 0


@event("suite.other", key="key", topic="suite.made")
@dataclass(frozen=True)
class Other:
    """Another type on the topic of the first."""

    key: str


class Seen:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.taken: list[Delivery] = []
        self.outcomes: list[Outcome] = []

    def started(self, group: str, deliveries: Sequence[Delivery]) -> None:
        self.taken += deliveries

    def settled(self, outcomes: Outcomes) -> None:
        self.outcomes += outcomes

    def kinds(self) -> list[str]:
        """What became of each attempt, in order."""
        return [outcome.kind for outcome in self.outcomes]


class Interposed:
    """Stands before a broker or a store, and fails in its stead as often as a test wants."""

    def __init__(self, target: object) -> None:
        self._target: Any = target
        self.faults: dict[str, Callable[[], BaseException | None]] = {}
        """For a method's name, what it raises before it does anything; None when it is to work."""

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)
        if name not in self.faults:
            return method

        async def call(*args: Any, **options: Any) -> Any:
            error = self.faults[name]()
            if error is not None:
                raise error
            return await method(*args, **options)

        return call

    async def __aenter__(self) -> Self:
        await self._target.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /) -> None:
        await self._target.__aexit__(kind, error, trace)


class WorkerGround:
    """A broker and a store under test, and a service on them; see `WorkerSuite`."""

    features: Features
    """What the broker under it promises; what needs more is skipped."""
    patience: float = 10.0
    """Seconds to wait for what has to come."""
    silence: float = 0.3
    """Seconds without anything after which nothing more is expected."""
    notice: float = 0.5
    """Seconds after which a worker has surely seen what an operator asked for."""
    limit: float = 60.0
    """Seconds that one test may take."""

    def broker(self) -> Broker:
        """Make the broker, not yet open; within a test each call has to reach the same events."""
        raise NotImplementedError("a WorkerSuite needs broker(): return a broker, not yet open")

    def store(self, broker: Broker) -> Store:
        """Make a service's store beside this broker, not yet open; within a test each call has to reach the same data."""
        raise NotImplementedError("a WorkerSuite needs store(broker): return a store, not yet open")

    async def play(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run one scenario."""
        self._token = secrets.token_hex(4)
        self._numbers = itertools.count()
        async with asyncio.timeout(self.limit):
            await scenario()

    # A service

    def app(self, *, faulty_broker: bool = False, faulty_store: bool = False) -> App:
        """The service under test: each call makes another process of it, as it were.

        Its table, `effects`, has a key and a number.
        """
        broker = self.broker()
        store = self.store(broker)
        app = App(f"suite-{self._token}", schema=f"create table if not exists {self.effects}(key text not null, number integer not null)")
        app.configure(
            broker=cast("Broker", Interposed(broker)) if faulty_broker else broker,
            store=cast("Store", Interposed(store)) if faulty_store else store,
        )
        if not self.features.ordered:
            # Handlers that say nothing would be refused.
            app.subscriber = functools.partial(app.subscriber, ordered=False)
        return app

    @property
    def effects(self) -> str:
        """The service's table."""
        return f"effects_{self._token}"

    @asynccontextmanager
    async def running(self, *apps: App, grace: float = 5.0) -> AsyncGenerator[None]:
        """Open these and have their handlers work; stop and close them at the end."""
        stop = asyncio.Event()
        async with AsyncExitStack() as stack:
            for app in apps:
                await stack.enter_async_context(app)
            tasks = [asyncio.create_task(app.run(stop, grace=grace)) for app in apps]
            try:
                yield
            finally:
                stop.set()
                async with self.in_time("a worker does not stop"):
                    await asyncio.gather(*tasks)

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[tuple[Broker, Store]]:
        """The broker and the store alone, open."""
        broker = self.broker()
        store = self.store(broker)
        async with broker, store:
            yield broker, store

    def group(self, app: App, handler: str = "handle") -> str:
        """The group of the handler of this name."""
        return f"{app.name}.{handler}"

    def collect(self, app: App) -> list[tuple[Done, Envelope]]:
        """Have whatever is published as Done collected by another group of the app."""
        collected: list[tuple[Done, Envelope]] = []

        @app.subscriber(Done, group=f"{app.name}.collector")
        async def collector(done: Done, context: Context) -> None:  # pyright: ignore[reportUnusedFunction]
            collected.append((done, context.envelope))

        return collected

    def see(self, app: App) -> Seen:
        """Remember what happens to the deliveries of an app."""
        seen = Seen()
        app.observers.append(seen)
        return seen

    def envelope(self, key: str = "k", **attributes: Any) -> Envelope:
        """An event of the type Made as another system would publish it, under an id of its own."""
        number = next(self._numbers)
        given: dict[str, Any] = {
            "id": f"s-{self._token}-{number}", "source": "/elsewhere", "type": "suite.made", "key": key, "topic": "suite.made",
            "time": 1_767_225_600_000_000 + number, "data": b'{"key":"%s","number":%d}' % (key.encode(), number),
        }  # fmt: skip
        return Envelope(**(given | attributes))

    def is_ours(self, envelope: Envelope) -> bool:
        """Whether this test made it with `envelope`."""
        return envelope.id.startswith(f"s-{self._token}-")

    async def rows(self, app: App) -> list[tuple[Any, ...]]:
        """What handlers have written, sorted."""
        return sorted(await app.read(f"select key, number from {self.effects}"))  # noqa: S608 - our own name

    # Waiting

    async def until(self, reached: Callable[[], bool | Awaitable[bool]], otherwise: str | Callable[[], str]) -> None:
        """Wait until something is so; `otherwise` says what the matter was."""
        async with self.in_time(otherwise):
            while True:
                so = reached()
                if so if isinstance(so, bool) else await so:
                    return
                await asyncio.sleep(0.005)

    async def until_count(self, things: Sequence[object], count: int, what: str) -> None:
        """Wait until there are so many of something."""
        await self.until(lambda: len(things) >= count, lambda: f"{len(things)} of {count} {what}")

    async def until_rows(self, app: App, count: int) -> list[tuple[Any, ...]]:
        """Wait until handlers have committed so many rows."""
        rows: list[tuple[Any, ...]] = []

        async def so() -> bool:
            nonlocal rows
            rows = await self.rows(app)
            return len(rows) >= count

        await self.until(so, lambda: f"{len(rows)} of {count} rows were committed")
        return rows

    async def until_parked(self, app: App, *states: str, handler: str = "handle") -> list[Parked]:
        """Wait until exactly such deliveries of a group are parked, in this order."""
        parked: Sequence[Parked] = ()

        async def so() -> bool:
            nonlocal parked
            parked = await app.store.parked(self.group(app, handler))
            return [p.state for p in parked] == list(states)

        await self.until(so, lambda: f"{[(p.state, p.error) for p in parked]} is parked and not {states}")
        return list(parked)

    async def still(self, unchanged: Callable[[], object]) -> None:
        """Nothing may change for a while."""
        before = unchanged()
        await asyncio.sleep(self.silence)
        after = unchanged()
        assert after == before, f"{before} became {after}, and nothing should have happened"

    async def at_rest(self, changing: Callable[[], object]) -> None:
        """Wait until something no longer changes."""
        async with self.in_time(lambda: f"{changing()} still changes"):
            while True:
                before = changing()
                await asyncio.sleep(self.silence)
                if changing() == before:
                    return

    @asynccontextmanager
    async def in_time(self, otherwise: str | Callable[[], str]) -> AsyncGenerator[None]:
        """What is inside has to end while there is patience; `otherwise` says what the matter was."""
        try:
            async with asyncio.timeout(self.patience):
                yield
        except TimeoutError as error:
            what = otherwise if isinstance(otherwise, str) else otherwise()
            raise AssertionError(f"{what} within {self.patience:g} s") from error

    async def partitions(self, app: App, handler: str = "handle") -> list[Partition]:
        """The partitions of a group."""
        return [state.partition for state in await app.broker.positions(self.group(app, handler))]


def faults(thing: object) -> dict[str, Callable[[], BaseException | None]]:
    """The faults of a broker or a store that was made faulty."""
    assert isinstance(thing, Interposed)
    return thing.faults


def times(count: int, error: Callable[[], BaseException]) -> Callable[[], BaseException | None]:
    """A fault that happens so often and then never again."""
    left = itertools.chain(itertools.repeat(error, count), itertools.repeat(None))

    def fault() -> BaseException | None:
        make = next(left)
        return make() if make else None

    return fault
