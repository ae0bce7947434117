"""The App: contracts and handlers, a broker and a store, wired in one visible place."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import SimpleNamespace, TracebackType
from typing import Any, Literal, Self, TypeVar

from msgspec import structs

from millstream.app.chance import ten_bytes
from millstream.app.connect import MEMORY, connect_broker, connect_store
from millstream.app.control import Control
from millstream.app.exactly_once import ExactlyOnceWorker
from millstream.app.registry import Schemas, schemas_of
from millstream.app.relay import Relay
from millstream.app.reporter import Reporter
from millstream.app.settings import Settings, Switch, resolve
from millstream.app.sync import SyncApp
from millstream.app.system_clock import SystemClock
from millstream.app.unit_of_work import UnitOfWork
from millstream.app.worker import GroupWorker, WorkerStuckError
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import ConfigurationError, MillstreamError, NotStartedError, PublishError, TooLargeError
from millstream.contracts.ids import new_id, new_ids
from millstream.contracts.message import Wire, contract_of, publisher_of
from millstream.core.broker import Broker, Group, Topic
from millstream.core.clock import Clock
from millstream.core.filter import Wants, Where, wants_of
from millstream.core.handler import DeliveryMode, Handler, Options, compile_handler
from millstream.core.observe import Observer
from millstream.core.retry import Retry
from millstream.core.store import Store
from millstream.stores.sqlite_process import member_name

log = logging.getLogger("millstream.app")

F = TypeVar("F", bound=Callable[..., Any])

#: What is in flight at SIGTERM has so many seconds to end.
GRACE = 25.0
#: The exit code of a process whose `def` handler did not come back: start it again.
STUCK_EXIT_CODE = 70
#: A unit of work that holds the write lock for longer is named in a warning, and at the second ended; in seconds.
HELD = (0.5, 5.0)
#: How often retention is seen to, in seconds.
HOUSEKEEPING = 60.0


class Router:
    """Handlers that belong together; an App includes it."""

    def __init__(self) -> None:
        self.declared: list[tuple[Callable[..., Any], tuple[type, ...], Options]] = []

    def subscriber(
        self,
        *types: type,
        group: str | None = None,
        retry: Retry = Retry(),  # noqa: B008 - frozen
        where: Callable[[Any], bool] | Where | None = None,
        concurrency: int = 16,
        timeout: float = 30.0,
        ordered: bool = True,
        delivery: DeliveryMode | None = None,
        exactly_once: bool = False,
        start: Literal["latest", "earliest"] = "latest",
        wire: Wire | None = None,
        id: str | None = None,
        topic: str | None = None,
        batch: int = 100,
        most_parked: int = 10_000,
    ) -> Callable[[F], F]:
        """Have the decorated function handle these types; the function itself stays as it is.

        Without types, those of its event parameter are meant. `group` is `<app>.<function>`
        unless given. `where` is a function that sees the decoded event, or names fields and
        the values they may have; what it refuses is skipped.
        `concurrency` bounds how many keys are handled at once, `timeout` one attempt, in
        seconds. `ordered=False` lets other events of a key pass one that waits.
        `exactly_once=True` commits what it publishes together with the broker's position of
        what it was given, without a store: see docs/explanation/exactly-once.md. `wire`,
        `id` and `topic` are for messages of systems that know no envelope. `batch` bounds a
        handler that takes a list. At `most_parked` the group pauses.
        """
        options = Options(
            group=group or "", retry=retry, where=where, concurrency=concurrency, timeout=timeout, ordered=ordered, delivery=delivery,
            exactly_once=exactly_once, start=start, wire=wire, id=id, topic=topic, batch=batch, most_parked=most_parked,
        )  # fmt: skip

        def declare(function: F) -> F:
            self.declared.append((function, types, options))
            return function

        return declare


class App:
    """A service: its handlers, and the broker and store they work on.

    Nothing happens before `async with app:` or `run()`. Broker and store are, in order:
    what `configure()` was given, the environment's MILLSTREAM_BROKER and MILLSTREAM_STORE,
    these arguments, pyproject.toml, `sqlite:///millstream.db`. The registry, where the
    schemas of events with `wire="confluent"` are, is named likewise: what handlers return by
    their annotations is looked up there at start, and so is what `publishes` names.

    `schema` is SQL that makes the service's own tables; it runs at every start and has to
    be repeatable. `lifespan(app)` is entered after broker and store are open, and left
    before they close.
    """

    def __init__(
        self,
        name: str,
        *,
        broker: str | None = None,
        store: str | None = None,
        registry: str | None = None,
        schema: str | None = None,
        topics: Sequence[Topic] = (),
        publishes: Sequence[type] = (),
        lifespan: Callable[["App"], AbstractAsyncContextManager[Any]] | None = None,
        observers: Sequence[Observer] = (),
        clock: Clock | None = None,
    ) -> None:
        if not name or any(c.isspace() or c in '<>"{}|\\^`/' for c in name):
            raise ConfigurationError(
                f"App({name!r}): the name becomes the source of its events, as in /orders; use letters, digits, dots and dashes"
            )
        self.name = name
        self._source = f"/{name}"
        self.state = SimpleNamespace()
        """Whatever a lifespan wants to keep for handlers."""
        self.clock: Clock = clock or SystemClock()
        self.observers = list(observers)
        self.topics = tuple(topics)
        self._publishes = [contract_of(published) for published in publishes]
        self._code: dict[str, str | None] = {"broker": broker, "store": store, "registry": registry}
        self._flags: dict[str, str | None] = {}
        self._own_broker: Broker | None = None
        self._own_store: Store | None = None
        self._schema = schema
        self._lifespan = lifespan
        self._router = Router()
        self.subscriber = self._router.subscriber
        self._handlers: list[Handler] = []
        self._broker: Broker | None = None
        self._largest = sys.maxsize
        self._schemas = Schemas()
        self._store: Store | None = None
        self._stack = AsyncExitStack()
        self._outbox_changed = asyncio.Event()
        self._running: list[GroupWorker] = []
        self._relay: Relay | None = None
        self._reporter: Reporter | None = None

    def include_router(self, router: Router) -> None:
        """Take over a router's handlers."""
        self._router.declared += router.declared

    def configure(self, *, broker: str | Broker | None = None, store: str | Store | None = None, facts: Switch | None = None) -> None:
        """Say where to work, before it is opened; this goes before everything else.

        Broker and store are URLs, or a broker or store of your own that is not open yet;
        `facts` says whether the service tells what it does.
        """
        self._own_broker = None if isinstance(broker, str) else broker
        self._own_store = None if isinstance(store, str) else store
        self._flags = {
            "broker": broker if isinstance(broker, str) else None,
            "store": store if isinstance(store, str) else None,
            "facts": facts,
        }

    def settings(self) -> Settings:
        """Where it works, and who said so."""
        return resolve(flag=self._flags, code=self._code)

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
        named: dict[str, type] = {}
        promised: dict[str, Handler] = {}
        compiled: list[Handler] = []
        for function, types, options in self._router.declared:
            group = options.group or f"{self.name}.{function.__name__}"
            handler = compile_handler(function, types, structs.replace(options, group=group))
            for contract in (*handler.contracts, *handler.returns):
                known = named.setdefault(contract.name, contract.type)
                if known is not contract.type:
                    raise ConfigurationError(
                        f"{known.__qualname__} and {contract.type.__qualname__} are both named {contract.name!r}: what travels has only "
                        "the name to be known by. Rename one of them, or import the one type everywhere."
                    )
            for contract in handler.contracts:
                other = taken.setdefault((group, contract.name), handler.location)
                if other != handler.location:
                    raise ConfigurationError(
                        f"two handlers take {contract.name!r} in the group {group!r} ({other} and {handler.location}): "
                        "only one of them would get each event. Give one of them another group=."
                    )
            once = promised.setdefault(group, handler)
            if once.options.exactly_once != handler.options.exactly_once:
                raise ConfigurationError(
                    f"handlers {once.name} and {handler.name} share the group {group!r}, and only one of them has exactly_once=True: "
                    "either the broker or the store keeps where a group stands. Give both the option, or one of them another group=."
                )
            compiled.append(handler)
        return compiled

    async def __aenter__(self) -> Self:
        if self._broker is not None:
            raise NotStartedError(f"app {self.name!r} is open already")
        self._handlers = self.handlers()
        settings = self.settings()
        self._outbox_changed = asyncio.Event()
        async with AsyncExitStack() as stack:
            stack.callback(self._closed)
            broker = self._own_broker or connect_broker(settings.broker, self.clock)
            store = self._own_store or connect_store(settings.store, broker, self.clock)
            self._broker, self._largest = await stack.enter_async_context(broker), broker.features.largest
            self._store = await stack.enter_async_context(store)
            if self._schema:
                await store.script(self._schema)
            published = [*self._publishes, *(contract for handler in self._handlers for contract in handler.returns)]
            self._schemas = await schemas_of(published, broker, settings, self.clock)
            await self._declare(broker, store)
            stack.callback(store.on_change(self._outbox_changed.set))
            if settings.facts == "on":
                await stack.enter_async_context(self._reporting(broker, store, settings.control_key))
            if self._lifespan is not None:
                await stack.enter_async_context(self._lifespan(self))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def _closed(self) -> None:
        self._broker = self._store = None

    @asynccontextmanager
    async def _reporting(self, broker: Broker, store: Store, control_key: str | None) -> AsyncGenerator[None]:
        """Tell facts of what happens, and carry out what operators ask for, as long as it is open."""
        reporter = Reporter(self.name, self._handlers, broker, store, self.clock, troubles=self.troubles)
        groups = [group.name for group in self.groups()]
        exactly_once = {handler.options.group for handler in self._handlers if handler.options.exactly_once}
        control = Control(
            groups, broker, store, self.clock, reporter, control_key, moved=self._moved, exactly_once=exactly_once, aside=self._aside
        )
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(reporter.run(stop))
            listening = tasks.create_task(control.run()) if broker.features.broadcast else None
            self._reporter = reporter
            try:
                yield
            finally:
                self._reporter = None
                if listening is not None:
                    listening.cancel()
                stop.set()

    async def _moved(self, group: str) -> None:
        """Have the workers of a group notice that its position was moved, even if there is nothing to do."""
        for worker in self._running:
            if worker.group == group:
                await worker.check_fences()

    @asynccontextmanager
    async def _aside(self, group: str) -> AsyncGenerator[None]:
        """Have the workers of a group leave it for a while."""
        workers = [worker for worker in self._running if worker.group == group and isinstance(worker, ExactlyOnceWorker)]
        try:
            for worker in workers:
                await worker.step_aside()
            yield
        finally:
            for worker in workers:
                worker.come_back()

    async def _declare(self, broker: Broker, store: Store) -> None:
        """Make topics and groups, and refuse what the broker cannot keep."""
        for handler in self._handlers:
            if handler.options.start == "earliest" and not broker.features.replayable:
                raise ConfigurationError(
                    f"handler {handler.name}: start='earliest' needs a broker that keeps history, and {broker.name} does not; "
                    "leave it out to start at the group's creation"
                )
            if handler.options.ordered and not broker.features.ordered and any(contract.key for contract in handler.contracts):
                raise ConfigurationError(
                    f"handler {handler.name}: {broker.name} does not keep the order of a key, so ordered=True cannot be promised; "
                    "subscribe with ordered=False if the handler does not need it"
                )
            if handler.options.exactly_once and not (broker.features.transactional and broker.features.positional):
                raise ConfigurationError(
                    f"handler {handler.name}: exactly_once=True needs a broker that publishes and settles in one transaction, and "
                    f"{broker.name} does not; leave it out (with an idempotent handler, or a Transaction of the store, nothing is lost by "
                    "that), or use Kafka, Redis or the embedded broker"
                )
        if store.local and self._handlers:
            log.info("app %s keeps its progress on this machine: run all its workers here", self.name)
        declared = {topic.name: topic for topic in self.topics}
        for handler in self._handlers:
            keyed = any(contract.key is not None for contract in handler.contracts)
            for topic in handler.topics:
                declared.setdefault(topic, Topic(name=topic, keyed=keyed))
        groups = [structs.replace(group, store=store.id) for group in self.groups()]
        known = await broker.groups()
        await broker.declare(list(declared.values()), groups)
        names = {group.name for group in groups}
        for group in known:
            if group.store == store.id and group.name not in names:
                log.warning(
                    "group %s is registered with this store, but no handler belongs to it any more; it holds up retention. "
                    "If it is gone for good: millstream groups forget %s", group.name, group.name,
                )  # fmt: skip
        for group in sorted(names - {group.name for group in known}):
            start = next(g.start for g in groups if g.name == group)
            where = "the oldest events" if start == "earliest" else "what is published from now on"
            log.info("group %s is new: it starts with %s", group, where)

    def groups(self) -> list[Group]:
        """The groups that the handlers make up."""
        return [
            Group(
                name=name,
                topics=tuple(dict.fromkeys(topic for handler in handlers for topic in handler.topics)),
                start="earliest" if any(h.options.start == "earliest" for h in handlers) else "latest",
                wants=_wants(handlers),
            )
            for name, handlers in self._by_group().items()
        ]

    def _by_group(self) -> dict[str, list[Handler]]:
        by_group: dict[str, list[Handler]] = {}
        for handler in self._handlers or self.handlers():
            by_group.setdefault(handler.options.group, []).append(handler)
        return by_group

    def envelope_of(self, message: object, *, correlation: str | None = None, id: str | None = None) -> Envelope:
        """Put a message into its envelope: a new id, this app as its source, now."""
        micros = self.clock.micros()
        return self._envelope(message, micros, id or new_id(micros // 1000, ten_bytes()), correlation)

    def _envelope(self, message: object, micros: int, id: str, correlation: str | None = None) -> Envelope:
        contract, encode, key = publisher_of(type(message))
        data = encode(message)
        if len(data) > self._largest:
            raise TooLargeError(
                f"a {contract.name} of {len(data)} bytes is more than the {self._largest} that {self.broker.name} takes: "
                "publish where the data is, instead of the data"
            )
        return Envelope(
            id=id,
            source=self._source,
            type=contract.name,
            key=key(message),
            time=micros,
            data=data,
            schema=None if contract.wire != "confluent" else self._schemas.of(contract),
            version=contract.version,
            correlation=correlation,
            topic=contract.topic,
        )

    async def publish(self, message: object, *, correlation: str | None = None, id: str | None = None) -> Envelope:
        """Publish one event; it is durable when this returns."""
        envelope = self.envelope_of(message, correlation=correlation, id=id)
        (error,) = await self.broker.publish((envelope,))
        if error is not None:
            raise error
        if self._reporter is not None:
            self._reporter.published((envelope,))
        return envelope

    async def publish_many(self, messages: Sequence[object]) -> list[Envelope]:
        """Publish several events at once: all of them are durable when this returns.

        Raises `PublishError`, which has a result for each, when some are not.
        """
        micros = self.clock.micros()
        ids = new_ids(micros // 1000, os.urandom(10 * len(messages)))
        envelopes = [self._envelope(message, micros, id) for message, id in zip(messages, ids, strict=True)]
        if envelopes:
            results = await self.broker.publish(envelopes)
            if any(result is not None for result in results):
                raise PublishError(results)
            if self._reporter is not None:
                self._reporter.published(envelopes)
        return envelopes

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncGenerator[UnitOfWork]:
        """Writes and events together: all of it is committed at the end, or nothing after an error.

        The store's write lock is held inside: do what waits (HTTP, mail) before or after.
        What takes longer than five seconds is rolled back.
        """
        started = self.clock.monotonic()
        limit: asyncio.Timeout | None = None
        try:
            async with self.store.transaction() as transaction:
                work = UnitOfWork(self.envelope_of, transaction)
                async with asyncio.timeout(HELD[1]) as limit:
                    yield work
                published = work.finish()
        except TimeoutError as error:
            if limit is None or not limit.expired():
                raise
            raise MillstreamError(
                f"a unit of work held the store's write lock for over {HELD[1]:g} s and was rolled back: do what waits before or after it"
            ) from error
        held = self.clock.monotonic() - started
        if held > HELD[0]:
            log.warning(
                "a unit of work of app %s took %.0f ms, and other writers waited: do what waits before or after it", self.name, held * 1000
            )
        if published:
            self._outbox_changed.set()
            if self._reporter is not None:
                self._reporter.published(published)

    async def read(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query on this service's own store."""
        return await self.store.read(sql, params)

    def sync(self) -> SyncApp:
        """The same for threads without a loop: `with app.sync() as shop: shop.publish(...)`."""
        return SyncApp(self)

    def workers(self) -> list[GroupWorker]:
        """One worker per group, not yet running."""
        if not self._handlers:
            return []
        alone = asyncio.Lock()
        return [
            (ExactlyOnceWorker if handlers[0].options.exactly_once else GroupWorker)(
                group,
                handlers,
                source=self._source,
                broker=self.broker,
                store=self.store,
                clock=self.clock,
                observers=[*self.observers, *([self._reporter] if self._reporter is not None else [])],
                changed=self._outbox_changed.set,
                alone=alone,
                schemas=self._schemas,
            )
            for group, handlers in self._by_group().items()
        ]

    def outbox_changed(self) -> None:
        """Have the relay look at the outbox now."""
        self._outbox_changed.set()

    def relay(self) -> Relay | None:
        """What copies the outbox to the broker, where a commit does not publish by itself."""
        if not self.store.relays:
            return None
        # Named so that another process sees at once when this one is dead, and takes over.
        return Relay(self.store, self.broker, self.clock, member=member_name(), group=f"{self.name}.outbox", changed=self._outbox_changed)

    def troubles(self) -> list[str]:
        """What keeps this app from settling deliveries at the moment; empty while all is well."""
        parts: list[GroupWorker | Relay] = [*self._running]
        if self._relay is not None:
            parts.append(self._relay)
        return [part.trouble_now for part in parts if part.trouble_now]

    async def run(self, stop: asyncio.Event | None = None, *, grace: float = GRACE) -> None:
        """Work until `stop` is set, or until SIGTERM or SIGINT comes when none is given.

        What is in flight then has `grace` seconds to end; what does not is delivered again.
        """
        if self._broker is None:
            async with self:
                await self.run(stop, grace=grace)
            return
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT) if stop is None else ()
        stop = stop or asyncio.Event()
        for number in signals:
            loop.add_signal_handler(number, stop.set)
        try:
            await self._work(stop, grace)
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    async def _work(self, stop: asyncio.Event, grace: float) -> None:
        relaying = asyncio.Event()
        self._running, self._relay = self.workers(), self.relay()
        stuck: list[WorkerStuckError] = []

        async def work(worker: GroupWorker) -> None:
            try:
                await worker.run(stop, grace=grace)
            except WorkerStuckError as error:
                stuck.append(error)
                stop.set()

        try:
            async with asyncio.TaskGroup() as outer:
                if self._relay is not None:
                    outer.create_task(self._relay.run(relaying))
                housekeeping = outer.create_task(self._keep_house())
                try:
                    async with asyncio.TaskGroup() as tasks:
                        tasks.create_task(stop.wait())
                        for worker in self._running:
                            tasks.create_task(work(worker))
                finally:
                    housekeeping.cancel()
                    relaying.set()
                    self._outbox_changed.set()
        finally:
            self._running, self._relay = [], None
        if stuck:
            # A thread cannot be killed; the process can.
            log.critical("%s: its thread is lost, and this process ends with code %d to be replaced", stuck[0], STUCK_EXIT_CODE)
            try:
                async with asyncio.timeout(grace):
                    await self._stack.aclose()
            finally:
                os._exit(STUCK_EXIT_CODE)

    async def _keep_house(self) -> None:
        """Remove what retention no longer keeps; one process per store does it."""
        member = os.urandom(8).hex()
        while True:
            await self.clock.sleep(HOUSEKEEPING)
            try:
                if await self.store.lead("retention", member, HOUSEKEEPING * 2):
                    for topic in await self.broker.topics():
                        if topic.retain_seconds is not None or topic.retain_bytes is not None:
                            await self.broker.retain(topic.name)
            except MillstreamError as error:
                log.warning("retention waits: %s", error)

    async def run_until_idle(self) -> None:
        """Handle everything that can be handled now, and return: for tests on a broker in memory."""
        if not isinstance(self._flags.get("broker"), str) or self._flags["broker"] != MEMORY:
            raise ConfigurationError("run_until_idle() is for TestApp: use millstream.testing.TestApp(app)")
        async with AsyncExitStack() as stack:
            workers = [await stack.enter_async_context(worker) for worker in self.workers()]
            busy = True
            while busy:
                before = await self._heads()
                for worker in workers:
                    await worker.run_until_idle()
                busy = await self._heads() != before
            for worker in workers:
                await worker.leave(0)

    async def _heads(self) -> list[int]:
        return [head for topic in await self.broker.topics() for _, _, head in await self.broker.bounds(topic.name)]

    @asynccontextmanager
    async def lifespan(self, _web: object = None) -> AsyncGenerator[None]:
        """Open with a FastAPI or Starlette application, run handlers and relay beside it, and close with it."""
        stop = asyncio.Event()
        async with self, asyncio.TaskGroup() as tasks:
            tasks.create_task(self.run(stop))
            try:
                yield
            finally:
                stop.set()


def _wants(handlers: Sequence[Handler]) -> tuple[tuple[str, Wants | None], ...]:
    """What a group's handlers want of each topic; a body without an envelope lies elsewhere in what a broker sees."""
    topics = dict.fromkeys(topic for handler in handlers for topic in handler.topics)
    readers = [(topic, [handler for handler in handlers if topic in handler.topics]) for topic in topics]
    return tuple((topic, wants_of([h.filter if h.wire == "cloudevents" else None for h in found])) for topic, found in readers)
