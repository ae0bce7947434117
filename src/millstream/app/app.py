"""The App: contracts and handlers, a broker and a store, wired in one visible place."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace, TracebackType
from typing import Any, Literal, Self, TypeVar

from millstream.app.system_clock import SystemClock
from millstream.app.worker import GroupWorker, Relay, WorkerStuckError
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import ConfigurationError, NotStartedError
from millstream.contracts.ids import new_id
from millstream.contracts.message import codec_for, contract_of, key_of
from millstream.core.broker import Broker, Group, Topic
from millstream.core.clock import Clock
from millstream.core.handler import DeliveryMode, Handler, Options, compile_handler
from millstream.core.observe import Observer, Outcome
from millstream.core.retry import Retry
from millstream.core.store import Page, Store, StoreTransaction

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_BROKER = "sqlite:///millstream.db"


class Router:
    """Handlers that belong together; an App includes it."""

    def __init__(self) -> None:
        self.declared: list[tuple[Callable[..., Any], tuple[type, ...], dict[str, Any]]] = []

    def subscriber(
        self,
        *types: type,
        group: str | None = None,
        retry: Retry = Retry(),  # noqa: B008 - frozen
        where: Callable[[Any], bool] | None = None,
        concurrency: int = 16,
        timeout: float = 30.0,
        ordered: bool = True,
        delivery: DeliveryMode | None = None,
        start: Literal["latest", "earliest"] | None = None,
    ) -> Callable[[F], F]:
        """Have the decorated function handle these types; the function itself stays as it is."""
        options = {
            "group": group, "retry": retry, "where": where, "concurrency": concurrency, "timeout": timeout,
            "ordered": ordered, "delivery": delivery, "start": start or "latest",
        }  # fmt: skip

        def declare(function: F) -> F:
            self.declared.append((function, types, options))
            return function

        return declare


class UnitOfWork:
    """Writes and events that commit together; made by `App.unit_of_work()`."""

    def __init__(self, app: "App", transaction: StoreTransaction) -> None:
        self._app, self._transaction = app, transaction
        self.page = Page(group="")

    def execute(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement in the store's transaction; give its rows."""
        return self._transaction.execute(sql, params)

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run one statement for each row."""
        self._transaction.executemany(sql, rows)

    def publish(self, message: object, *, correlation: str | None = None, id: str | None = None) -> Envelope:
        """Publish with the commit: if it does not come, the event never was."""
        envelope = self._app.envelope_of(message, correlation=correlation, id=id)
        self.page.events.append(envelope)
        return envelope


class App:
    """A service: its handlers, and the broker and store they work on.

    Nothing happens before `async with app:` or `run()`. The environment's
    MILLSTREAM_BROKER and MILLSTREAM_STORE stand in where no URL is given.
    """

    def __init__(
        self,
        name: str,
        *,
        broker: str | None = None,
        store: str | None = None,
        schema: str | None = None,
        clock: Clock | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.name = name
        self.broker_url = broker
        self.store_url = store
        self.state = SimpleNamespace()
        self.clock: Clock = clock or SystemClock()
        self.observers = list(observers)
        self._schema = schema
        self._router = Router()
        self.subscriber = self._router.subscriber
        self._handlers: list[Handler] = []
        self._broker: Broker | None = None
        self._store: Store | None = None
        self._stack = AsyncExitStack()
        self._outbox_changed = asyncio.Event()

    def include_router(self, router: Router) -> None:
        """Take over a router's handlers."""
        self._router.declared += router.declared

    @property
    def broker(self) -> Broker:
        """The open broker."""
        if self._broker is None:
            raise NotStartedError(f"app {self.name!r} is not open: use `async with app:`")
        return self._broker

    @property
    def store(self) -> Store:
        """The open store."""
        if self._store is None:
            raise NotStartedError(f"app {self.name!r} is not open: use `async with app:`")
        return self._store

    def handlers(self) -> list[Handler]:
        """All handlers, compiled; two of one type in one group are refused."""
        taken: dict[tuple[str, str], str] = {}
        compiled: list[Handler] = []
        for function, types, options in self._router.declared:
            group = options["group"] or f"{self.name}.{function.__name__}"
            handler = compile_handler(function, types, Options(**{**options, "group": group}))
            for contract in handler.contracts:
                other = taken.setdefault((group, contract.name), handler.name)
                if other != handler.name:
                    raise ConfigurationError(
                        f"{other} and {handler.name} both handle {contract.name!r} in the group {group!r}: "
                        "only one of them would get each event. Give one of them another group=."
                    )
            compiled.append(handler)
        return compiled

    async def __aenter__(self) -> Self:
        self._handlers = self.handlers()
        self._broker, self._store = _connect(self)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._broker)
            await stack.enter_async_context(self._store)
            if self._schema:
                await self._store.script(self._schema)
            topics = {topic for handler in self._handlers for topic in handler.topics}
            existing = {topic.name for topic in await self._broker.topics()}
            await self._broker.declare([Topic(name=topic) for topic in sorted(topics - existing)], self.groups())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        self._broker = self._store = None

    def groups(self) -> list[Group]:
        """The groups that the handlers make up."""
        by_group: dict[str, list[Handler]] = {}
        for handler in self._handlers or self.handlers():
            by_group.setdefault(handler.options.group, []).append(handler)
        return [
            Group(
                name=name,
                topics=tuple(dict.fromkeys(topic for handler in handlers for topic in handler.topics)),
                start="earliest" if any(h.options.start == "earliest" for h in handlers) else "latest",
            )
            for name, handlers in by_group.items()
        ]

    def envelope_of(self, message: object, *, correlation: str | None = None, id: str | None = None) -> Envelope:
        """Put a message into its envelope: a new id, this app as its source, now."""
        contract = contract_of(message)
        micros = self.clock.micros()
        return Envelope(
            id=id or new_id(micros // 1000, os.urandom(10)),
            source=f"/{self.name}",
            type=contract.name,
            key=key_of(message),
            time=micros,
            data=codec_for(contract).encode(message),
            version=contract.version,
            correlation=correlation,
            topic=contract.topic,
        )

    async def publish(self, message: object, *, correlation: str | None = None, id: str | None = None) -> Envelope:
        """Publish one event; it is durable when this returns."""
        envelope = self.envelope_of(message, correlation=correlation, id=id)
        await self.broker.publish([envelope])
        return envelope

    async def publish_many(self, messages: Sequence[object]) -> list[Envelope]:
        """Publish several events at once: all of them are durable when this returns, or none was acknowledged."""
        envelopes = [self.envelope_of(message) for message in messages]
        if envelopes:
            await self.broker.publish(envelopes)
        return envelopes

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator[UnitOfWork]:
        """Writes and events together: all of it is committed at the end, or nothing after an error.

        The store's write lock is held inside: do what waits (HTTP, mail) before or after.
        """
        async with self.store.transaction() as transaction:
            work = UnitOfWork(self, transaction)
            yield work
            transaction.apply(work.page)
        self._outbox_changed.set()

    async def read(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query on this service's own store."""
        return await self.store.read(sql, params)

    def workers(self) -> list[GroupWorker]:
        """One worker per group, not yet running."""
        by_group: dict[str, list[Handler]] = {}
        for handler in self._handlers:
            by_group.setdefault(handler.options.group, []).append(handler)
        return [
            GroupWorker(
                group, handlers, source=f"/{self.name}", broker=self.broker, store=self.store, clock=self.clock, observe=self._observe
            )
            for group, handlers in by_group.items()
        ]

    def _observe(self, outcomes: Sequence[Outcome]) -> None:
        self._outbox_changed.set()
        for observer in self.observers:
            observer(outcomes)

    async def run(self, stop: asyncio.Event | None = None) -> None:
        """Work until `stop` is set, or SIGTERM or SIGINT comes when none is given."""
        if self._broker is None:
            async with self:
                await self.run(stop)
            return
        if stop is None:
            stop = asyncio.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
        relaying = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as outer:
                if self.store.relays:
                    outer.create_task(Relay(self.store, self.broker, self._outbox_changed).run(relaying))
                try:
                    async with asyncio.TaskGroup() as tasks:
                        tasks.create_task(stop.wait())
                        for worker in self.workers():
                            tasks.create_task(worker.run(stop))
                finally:
                    relaying.set()
                    self._outbox_changed.set()
        except* WorkerStuckError as stuck:
            # A thread cannot be killed; the process can, and what it had in hand is counted as crashed.
            import logging

            logging.getLogger("millstream.worker").critical("%s: this process is replaced", stuck.exceptions[0])
            os._exit(70)

    @asynccontextmanager
    async def lifespan(self, _web: object = None) -> AsyncIterator[None]:
        """Open with a FastAPI or Starlette application, relay its outbox, and close with it."""
        stop = asyncio.Event()
        async with self, asyncio.TaskGroup() as tasks:
            tasks.create_task(self.run(stop))
            try:
                yield
            finally:
                stop.set()


def _connect(app: App) -> tuple[Broker, Store]:
    """Choose the implementations that the URLs name; nowhere else is this decided."""
    from millstream.brokers.sqlite import SqliteBroker
    from millstream.stores.sqlite import SqliteStore
    from millstream.stores.sqlite_file import SqliteFile

    broker_url = app.broker_url or os.environ.get("MILLSTREAM_BROKER") or DEFAULT_BROKER
    store_url = app.store_url or os.environ.get("MILLSTREAM_STORE") or broker_url
    clock = app.clock
    file = SqliteFile(path_of(broker_url))
    broker = SqliteBroker(file, micros=clock.micros)
    if path_of(store_url) == path_of(broker_url):
        return broker, SqliteStore(file, append=broker.append, micros=clock.micros)
    return broker, SqliteStore(SqliteFile(path_of(store_url)), micros=clock.micros)


def path_of(url: str) -> str:
    """The file that a `sqlite:` URL names: three slashes for a relative path, four for an absolute one."""
    if not url.startswith("sqlite:///") or not url.removeprefix("sqlite:///"):
        scheme = url.partition(":")[0]
        raise ConfigurationError(f"{scheme}: is not a broker or store that is installed; use sqlite:///name.db")
    return url.removeprefix("sqlite:///")
