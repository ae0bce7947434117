"""The store in memory: dictionaries that can be rolled back, and an SQLite database in memory for the service's own tables."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# apsw's stubs take collections.abc.Buffer from Python 3.12.

import asyncio
import contextlib
import itertools
import secrets
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

import apsw
import msgspec

from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import ConfigurationError, FencedError, NotStartedError, StoreBusyError, StoreError
from millstream.core.broker import Partition
from millstream.core.store import Assignment, Mark, Page, Parked, Request, RequestKind

K = TypeVar("K")
V = TypeVar("V")

#: How long the inbox remembers an event, in seconds: a duplicate that comes later is handled again.
INBOX_WINDOW = 7 * 24 * 3600.0

Append = Callable[[Sequence[Envelope]], Callable[[], None]]
"""Check events, and return what publishes them; see `MemoryBroker.append`."""


@dataclass(slots=True)
class _Progress:
    """Where a group stands in a partition, as its store knows it; replaced, never changed."""

    epoch: int = 0
    position: int | None = None
    running: bool = False


@dataclass(slots=True)
class _Tables:
    """All that a store keeps, beside the service's own tables."""

    progress: dict[tuple[str, Partition], _Progress] = field(default_factory=dict[tuple[str, Partition], _Progress])
    generations: dict[str, int] = field(default_factory=dict[str, int])
    inbox: dict[tuple[str, int, Mark], int] = field(default_factory=dict[tuple[str, int, Mark], int])
    """When each event was handled, oldest first."""
    outbox: dict[int, Envelope] = field(default_factory=dict[int, Envelope])
    parked: dict[int, Parked] = field(default_factory=dict[int, Parked])
    parked_by: dict[tuple[str, Mark], int] = field(default_factory=dict[tuple[str, Mark], int])
    suspects: dict[tuple[str, Partition, int], int] = field(default_factory=dict[tuple[str, Partition, int], int])
    requests: dict[int, Request] = field(default_factory=dict[int, Request])
    paused: dict[str, bool] = field(default_factory=dict[str, bool])
    leaders: dict[str, tuple[str, float]] = field(default_factory=dict[str, tuple[str, float]])


class MemoryStore:
    """A `Store` for tests and for applications of one process: what it holds dies with the object.

    With `append` (the memory broker's) a commit publishes its events itself, and there
    is nothing to relay. It may be opened as often as needed, and again after it was
    closed; what it holds stays.
    """

    local = True

    def __init__(
        self,
        *,
        append: Append | None = None,
        window: float = INBOX_WINDOW,
        micros: Callable[[], int] = lambda: time.time_ns() // 1000,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.id = secrets.token_hex(8)
        self.tables = _Tables()
        self.micros = micros
        self.window = int(window * 1e6)
        self.append = append
        self._monotonic = monotonic
        self._turns = _Turns()
        self._committing = threading.Lock()
        self._ids = itertools.count(1)
        self._listeners: list[Callable[[], None]] = []
        self._connections: tuple[apsw.Connection, apsw.Connection] | None = None
        self._users = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0

    @property
    def relays(self) -> bool:
        return self.append is None

    async def __aenter__(self) -> Self:
        self._users += 1
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        if self._connections is None:
            self._connections = (_connect(self.id), _connect(self.id, reader=True))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._users -= 1
        if not self._users:
            self._loop = None

    @property
    def _open(self) -> tuple[apsw.Connection, apsw.Connection]:
        if self._connections is None or self._loop is None:
            raise NotStartedError("this store is not open: use `async with app:` around it")
        return self._connections

    async def script(self, sql: str) -> None:
        try:
            async with self.transaction() as transaction:
                transaction.execute(sql)
        except apsw.SQLError as error:
            raise StoreError(f"the schema of App(schema=...) failed: {error}; it has to be repeatable SQL") from error

    # Transactions

    async def begin(self) -> "MemoryTransaction":
        writer, _ = self._open
        turn = self._turns.ask()
        try:
            if not turn.done():
                await asyncio.wrap_future(turn)
            writer.execute("begin immediate")
        except BaseException:
            self._turns.give_back(turn)
            raise
        return MemoryTransaction(self, writer, turn)

    def begin_now(self) -> "MemoryTransaction":
        writer, _ = self._open
        turn = self._turns.ask()
        try:
            if not turn.done() and threading.get_ident() == self._thread:
                raise StoreBusyError(
                    "a transaction of this store is open in another task, and waiting for it here would stop that task too; "
                    "nothing was changed. Try again, or use `async with`."
                )
            turn.result()
            writer.execute("begin immediate")
        except BaseException:
            self._turns.give_back(turn)
            raise
        return MemoryTransaction(self, writer, turn)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator["MemoryTransaction"]:
        transaction = await self.begin()
        try:
            yield transaction
        except BaseException:
            transaction.end(commit=False)
            raise
        await transaction.end(commit=True)

    def finish(self, transaction: "MemoryTransaction", writer: apsw.Connection, turn: Future[None], *, commit: bool) -> None:
        """End a transaction, and let the next begin."""
        try:
            if commit:
                with self._committing:
                    writer.execute("commit")
                for publish in transaction.publishing:
                    publish()
        except apsw.Error as error:
            commit = False
            raise StoreError(f"the transaction could not be committed, and nothing of it was kept: {error}") from error
        finally:
            if not commit:
                transaction.undo()
                if writer.in_transaction:
                    writer.execute("rollback")
            self._turns.give_back(turn)
        if commit and transaction.has_written(writer):
            self._tell()

    def _tell(self) -> None:
        if self._loop is not None and threading.get_ident() != self._thread:
            self._loop.call_soon_threadsafe(self._tell)
            return
        for listener in tuple(self._listeners):
            listener()

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    async def commit(self, page: Page) -> None:
        async with self.transaction() as transaction:
            transaction.apply(page)

    async def read(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self.read_now(sql, params)

    def read_now(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The same without waiting, which memory never needs to."""
        _, reader = self._open
        with self._committing:
            return reader.execute(sql, tuple(params)).fetchall()

    async def backup(self, destination: str, progress: Callable[[int, int], None] | None = None) -> None:
        """Refused: nothing could be made of the copy."""
        raise ConfigurationError(
            f"a store in memory ends with its process, so it was not copied to {destination}; "
            "use a store that lasts (sqlite:///name.db) for what has to be kept"
        )

    # Ownership and progress

    async def assign(self, group: str, partitions: Sequence[Partition], *, shared: bool = False) -> Sequence[Assignment]:
        assigned: list[Assignment] = []
        async with self.transaction() as transaction:
            for partition in partitions:
                before = self.tables.progress.get((group, partition), _Progress())
                epoch = max(before.epoch, 1) if shared else before.epoch + 1
                after = _Progress(epoch, before.position, running=True)
                transaction.put(self.tables.progress, (group, partition), after)
                assigned.append(Assignment(partition, after.epoch, after.position, clean=not before.running))
        return assigned

    async def unassign(self, group: str, fences: dict[Partition, int]) -> None:
        async with self.transaction() as transaction:
            for partition, epoch in fences.items():
                before = self.tables.progress.get((group, partition))
                if before is not None and before.epoch == epoch:
                    transaction.put(self.tables.progress, (group, partition), _Progress(epoch, before.position))

    async def rewind(self, group: str, positions: Sequence[tuple[Partition, int]], *, effects: bool) -> None:
        async with self.transaction() as transaction:
            for partition, position in positions:
                before = self.tables.progress.get((group, partition), _Progress())
                transaction.put(self.tables.progress, (group, partition), _Progress(before.epoch + 1, position))
            if effects:
                transaction.put(self.tables.generations, group, self.tables.generations.get(group, 0) + 1)

    async def generation(self, group: str) -> int:
        return self.tables.generations.get(group, 0)

    async def suspects(self, group: str, partition: Partition) -> dict[int, int]:
        return {position: n for (g, p, position), n in self.tables.suspects.items() if (g, p) == (group, partition)}

    async def forget(self, group: str) -> None:
        tables = self.tables
        async with self.transaction() as transaction:
            for parked in [p for p in tables.parked.values() if p.group == group]:
                transaction.unpark(parked.id)
            for progress in [key for key in tables.progress if key[0] == group]:
                transaction.drop(tables.progress, progress)
            for handled in [key for key in tables.inbox if key[0] == group]:
                transaction.drop(tables.inbox, handled)
            for suspect in [key for key in tables.suspects if key[0] == group]:
                transaction.drop(tables.suspects, suspect)
            transaction.drop(tables.generations, group)
            transaction.drop(tables.paused, group)

    # Inbox

    async def handled(self, group: str, generation: int, marks: Sequence[Mark]) -> set[Mark]:
        inbox, parked = self.tables.inbox, self.tables.parked_by
        return {mark for mark in marks if (group, generation, mark) in inbox or (group, mark) in parked}

    async def has_marks(self, group: str, generation: int) -> bool:
        keys = self.tables.inbox
        return any(key[:2] == (group, generation) for key in keys) or any(g == group for g, _ in self.tables.parked_by)

    # Parked deliveries

    async def parked(
        self,
        group: str | None = None,
        *,
        ids: Sequence[int] | None = None,
        dead: bool = False,
        after: int = 0,
        most: int = 1000,
    ) -> Sequence[Parked]:
        found = (
            parked
            for id_, parked in sorted(self.tables.parked.items())
            if id_ > after
            and (group is None or parked.group == group)
            and (ids is None or id_ in ids)
            and (not dead or parked.state == "dead")
        )
        return [_copy(parked) for parked in itertools.islice(found, most)]

    async def parked_count(self, group: str) -> int:
        return sum(parked.group == group for parked in self.tables.parked.values())

    async def sequences(self, group: str, partition: Partition) -> dict[str, int]:
        counts: dict[str, int] = {}
        for parked in self.tables.parked.values():
            if parked.group == group and parked.partition == partition:
                counts[parked.sequence] = counts.get(parked.sequence, 0) + 1
        return counts

    async def heads(self, group: str, partitions: Sequence[Partition], due: int, most: int) -> Sequence[Parked]:
        ready = [p for p in self._heads(group) if p.partition in partitions and p.state != "dead" and p.due <= due]
        return [_copy(parked) for parked in sorted(ready, key=lambda p: (p.due, p.id))[:most]]

    async def next_due(self, group: str) -> int | None:
        return min((parked.due for parked in self._heads(group) if parked.state != "dead"), default=None)

    def _heads(self, group: str) -> list[Parked]:
        heads: dict[tuple[Partition, str], Parked] = {}
        for _, parked in sorted(self.tables.parked.items()):
            if parked.group == group:
                heads.setdefault((parked.partition, parked.sequence), parked)
        return list(heads.values())

    # Operators

    async def request(self, kind: RequestKind, parked: Sequence[int], reason: str, data: bytes = b"") -> int:
        existing = [id_ for id_ in parked if id_ in self.tables.parked]
        async with self.transaction() as transaction:
            for id_ in existing:
                request = Request(next(self._ids), kind, id_, reason, data)
                transaction.put(self.tables.requests, request.id, request)
        return len(existing)

    async def requests(self, group: str) -> Sequence[Request]:
        parked = self.tables.parked
        return [r for r in self.tables.requests.values() if r.parked in parked and parked[r.parked].group == group]

    async def pause(self, group: str, *, paused: bool) -> None:
        async with self.transaction() as transaction:
            transaction.put(self.tables.paused, group, paused)

    async def paused(self) -> frozenset[str]:
        return frozenset(group for group, paused in self.tables.paused.items() if paused)

    async def lead(self, role: str, member: str, seconds: float) -> bool:
        now = self._monotonic()
        async with self.transaction() as transaction:
            leader, until = self.tables.leaders.get(role, (member, now))
            if leader != member and until > now:
                return False
            transaction.put(self.tables.leaders, role, (member, now + seconds))
        return True

    # Outbox

    async def outbox(self, after: int, most: int) -> Sequence[tuple[int, Envelope]]:
        return list(itertools.islice(((n, e) for n, e in self.tables.outbox.items() if n > after), most))

    async def sent(self, upto: int) -> None:
        async with self.transaction() as transaction:
            for number in [number for number in self.tables.outbox if number <= upto]:
                transaction.drop(self.tables.outbox, number)

    async def outbox_size(self) -> int:
        return len(self.tables.outbox)

    def next_id(self) -> int:
        """A number that no row of this store has had."""
        return next(self._ids)


class MemoryTransaction:
    """The write transaction: every change of a dictionary leaves behind how to undo it."""

    def __init__(self, store: MemoryStore, connection: apsw.Connection, turn: Future[None]) -> None:
        self.publishing: list[Callable[[], None]] = []
        """What makes the events of its pages public once everything is committed."""
        self._turn = turn
        self._store = store
        self._tables = store.tables
        self._connection: apsw.Connection | None = connection
        self._rows_before = connection.total_changes()
        self._undo: list[Callable[[], object]] = []
        self._savepoints: list[tuple[int, int]] = []

    @property
    def _open(self) -> apsw.Connection:
        if self._connection is None:
            raise NotStartedError("this transaction has ended: use it only while its handler runs")
        return self._connection

    def execute(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._open.execute(sql, tuple(params) or None).fetchall()

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        self._open.executemany(sql, [tuple(row) for row in rows])

    def savepoint(self) -> None:
        self._open.execute(f"savepoint handler{len(self._savepoints)}")
        self._savepoints.append((len(self._undo), len(self.publishing)))

    def release(self) -> None:
        self._savepoints.pop()
        self._open.execute(f"release handler{len(self._savepoints)}")

    def rollback(self) -> None:
        changes, published = self._savepoints.pop()
        name = f"handler{len(self._savepoints)}"
        self._open.execute(f"rollback to {name}; release {name}")
        self.undo(changes)
        del self.publishing[published:]

    def apply(self, page: Page) -> None:
        tables = self._tables
        self._check(page)
        for partition, position in page.positions.items():
            before = tables.progress.get((page.group, partition), _Progress())
            self.put(tables.progress, (page.group, partition), _Progress(before.epoch, position, before.running))
        self._mark(page)
        self._publish(page.events)
        page.already.clear()
        for parked in page.park:
            handled = parked.id == 0 and (page.group, page.generation, _mark_of(parked)) in tables.inbox
            if handled or not self.park(parked):
                page.already.append(parked)
        page.already += [parked for parked in page.restore if not self.park(parked)]
        for id_ in page.unpark:
            self.unpark(id_)
        for (partition, position), count in page.suspects.items():
            if count:
                self.put(tables.suspects, (page.group, partition, position), count)
            else:
                self.drop(tables.suspects, (page.group, partition, position))
        for request in page.requests:
            self.drop(tables.requests, request)

    def _check(self, page: Page) -> None:
        for partition, epoch in page.fences.items():
            newest = self._tables.progress.get((page.group, partition), _Progress()).epoch
            if epoch != newest:
                raise FencedError(
                    f"group {page.group!r} no longer owns {partition.topic}/{partition.number}: another worker took it over "
                    "while this one was stopped. Nothing of this was kept; the new owner does it."
                )

        if any(id_ not in self._tables.parked for id_ in page.present):
            raise FencedError(
                f"another worker of group {page.group!r} has handled a delivery that waited, at the same time. Nothing of this was kept."
            )

    def _mark(self, page: Page) -> None:
        inbox, now = self._tables.inbox, self._store.micros()
        if any((page.group, page.generation, mark) in inbox or (page.group, mark) in self._tables.parked_by for mark in page.first):
            raise FencedError(
                f"another worker of group {page.group!r} has handled the same event at the same time: it was published twice, and lies in "
                "two partitions. Nothing of this was kept; what is handled already is known now."
            )
        for mark in (*page.first, *page.marks):
            if (page.group, page.generation, mark) not in inbox:
                self.put(inbox, (page.group, page.generation, mark), now)
        while inbox and inbox[oldest := next(iter(inbox))] < now - self._store.window:
            self.drop(inbox, oldest)

    def _publish(self, events: Sequence[Envelope]) -> None:
        if self._store.append is not None:
            # A copy: the page is its maker's, who may go on with it before the commit.
            self.publishing.append(self._store.append(tuple(events)))
            return
        for envelope in events:
            self.put(self._tables.outbox, self._store.next_id(), envelope)

    def park(self, parked: Parked) -> bool:
        """Add a delivery that waits, or replace it; one that is parked already stays as it is, and False is returned."""
        tables, key = self._tables, (parked.group, _mark_of(parked))
        if parked.id == 0:
            if key in tables.parked_by:
                return False
            id_ = self._store.next_id()
            self.put(tables.parked, id_, msgspec.structs.replace(parked, id=id_))
            self.put(tables.parked_by, key, id_)
        elif parked.id in tables.parked:
            self.put(tables.parked, parked.id, _copy(parked))
        return True

    def unpark(self, id_: int) -> None:
        """It waits no more."""
        parked = self._tables.parked.get(id_)
        if parked is not None:
            self.drop(self._tables.parked_by, (parked.group, _mark_of(parked)))
            self.drop(self._tables.parked, id_)
            for request in [r.id for r in self._tables.requests.values() if r.parked == id_]:
                self.drop(self._tables.requests, request)

    def put(self, table: dict[K, V], key: K, value: V) -> None:
        """Change a row, in a way that can be undone."""
        if key in table:
            before = table[key]
            self._undo.append(lambda: table.update({key: before}))
        else:
            self._undo.append(lambda: table.pop(key, None))
        table[key] = value

    def drop(self, table: dict[K, V], key: K) -> None:
        """Remove a row if it is there, in a way that can be undone."""
        if key in table:
            before = table.pop(key)
            self._undo.append(lambda: table.update({key: before}))

    def undo(self, down_to: int = 0) -> None:
        """Take back the newest changes until so many are left."""
        while len(self._undo) > down_to:
            self._undo.pop()()

    def has_written(self, connection: apsw.Connection) -> bool:
        """Tell whether there is anything new to be seen after the commit."""
        return bool(self._undo or self.publishing) or connection.total_changes() != self._rows_before

    def end(self, *, commit: bool) -> "MemoryEnded":
        connection, self._connection = self._open, None
        try:
            self._store.finish(self, connection, self._turn, commit=commit)
        except Exception as error:
            return MemoryEnded(error)
        return MemoryEnded(None)


class MemoryEnded:
    """The end of a transaction that took no time; see `core.store.Ended`."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def __await__(self) -> Generator[Any, None, None]:
        yield from ()
        self.wait()

    def wait(self) -> None:
        """Raise what the commit raised."""
        if self._error is not None:
            raise self._error


class _Turns:
    """Whose turn it is to write: tasks and threads alike, in the order in which they asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Future[None]] = deque()

    def ask(self) -> Future[None]:
        """Done as soon as it is the asker's turn."""
        turn: Future[None] = Future()
        with self._lock:
            self._waiting.append(turn)
            if self._waiting[0] is turn:
                turn.set_result(None)
        return turn

    def give_back(self, turn: Future[None]) -> None:
        """End a turn, also one that was never taken."""
        with self._lock:
            self._waiting.remove(turn)
            following = self._waiting[0] if self._waiting else None
            if following is not None and not following.done():
                # Whoever stopped waiting at this moment passes it on.
                with contextlib.suppress(InvalidStateError):
                    following.set_result(None)


def _connect(name: str, *, reader: bool = False) -> apsw.Connection:
    # SQLite's own lock would turn readers away for as long as a transaction is open, so the reader asks for none: it sees
    # the last commit, since pages are written at no other moment, and the store lets nobody read in that one.
    uri = f"file:/millstream-{name}?vfs=memdb{'&nolock=1' if reader else ''}"
    connection = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI)
    connection.execute("pragma query_only=1" if reader else "pragma cache_spill=0")
    return connection


def _copy(parked: Parked) -> Parked:
    return msgspec.structs.replace(parked)


def _mark_of(parked: Parked) -> Mark:
    if parked.envelope is not None:
        return Mark(parked.envelope.source, parked.envelope.id)
    if parked.message is not None and parked.message.id:
        return Mark(parked.message.source, parked.message.id)
    return Mark("", f"{parked.partition.topic}/{parked.partition.number}/{parked.position}")
