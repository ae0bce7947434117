"""The store in one SQLite file: progress, inbox, outbox, parked deliveries, beside the service's own tables."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import FencedError, StatementError
from millstream.core.broker import Partition
from millstream.core.store import Assignment, Mark, Page, Parked, Request, RequestKind
from millstream.stores.sqlite_connection import Connection
from millstream.stores.sqlite_file import SqliteFile
from millstream.stores.sqlite_inbox import SqliteInbox
from millstream.stores.sqlite_outbox import SqliteOutbox, renumber
from millstream.stores.sqlite_parked import SqliteParked
from millstream.stores.sqlite_process import boot_id, is_alive
from millstream.stores.sqlite_transaction import SqliteTransaction
from millstream.stores.sqlite_wake import MEMBERS, NOTHING

SCHEMA = """
create table if not exists store_meta(key text primary key, value text not null) without rowid;
create table if not exists store_progress(
  grp text not null, topic text not null, number integer not null, epoch integer not null default 0,
  position integer, running integer not null default 0, primary key(grp, topic, number)) without rowid;
create table if not exists store_generation(grp text primary key, generation integer not null) without rowid;
create table if not exists store_suspect(
  grp text not null, topic text not null, number integer not null, position integer not null, count integer not null,
  primary key(grp, topic, number, position)) without rowid;
create table if not exists store_pause(grp text primary key) without rowid;
create table if not exists store_lead(role text primary key, member text not null, boot text not null, expires real not null)
  without rowid;
"""

#: How long the inbox remembers an event, in seconds: a duplicate that comes later is handled again.
INBOX_WINDOW = 7 * 24 * 3600.0
#: Partitions checked and moved by one statement.
FENCES = 64

Append = Callable[[Connection, Sequence[Envelope]], None]


class SqliteStore:
    """A `Store` in one file.

    With `append` (the embedded broker's, on the same file) a commit writes its events
    straight into the log, and there is nothing to relay.
    """

    local = True

    def __init__(
        self,
        file: SqliteFile,
        *,
        append: Append | None = None,
        window: float = INBOX_WINDOW,
        micros: Callable[[], int] = lambda: time.time_ns() // 1000,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.file = file
        file.require(SCHEMA)
        self._inbox = SqliteInbox(file, window)
        self._outbox = SqliteOutbox(file)
        self._parked = SqliteParked(file)
        self._append = append
        self._micros = micros
        self._monotonic = monotonic
        self._boot = boot_id()
        self._id = ""

    @property
    def id(self) -> str:
        return self._id

    @property
    def relays(self) -> bool:
        return self._append is None

    async def __aenter__(self) -> Self:
        await self.file.__aenter__()
        try:
            self._id = await self.file.write(self._identify)
        except BaseException:
            await self.file.__aexit__()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.file.__aexit__(*error)

    def _identify(self, connection: Connection) -> str:
        connection.execute("insert or ignore into store_meta values('id', ?)", (secrets.token_hex(8),))
        row = connection.execute("select value from store_meta where key='id'").fetchone()
        return str(row[0]) if row else ""

    async def script(self, sql: str) -> None:
        """Run the service's own schema; it has to be repeatable (`create table if not exists`)."""
        try:
            await self.file.write(lambda connection: connection.execute(sql) and None)
        except StatementError as error:
            raise StatementError(f"the schema of App(schema=...) failed: {error.__cause__}; it has to be repeatable SQL.") from error

    # Who may work

    async def assign(self, group: str, partitions: Sequence[Partition], *, shared: bool = False) -> Sequence[Assignment]:
        def write(connection: Connection) -> list[Assignment]:
            assigned: list[Assignment] = []
            for partition in partitions:
                key = (group, partition.topic, partition.number)
                row = connection.execute(
                    "select epoch, position, running from store_progress where grp=? and topic=? and number=?", key
                ).fetchone()
                epoch, position, running = row or (0, None, 0)
                epoch = max(epoch, 1) if shared else epoch + 1
                connection.execute("insert or replace into store_progress values(?,?,?,?,?,1)", (*key, epoch, position))
                assigned.append(Assignment(partition, epoch, position, not running))
            return assigned

        return await self.file.write(write, wakes=NOTHING)

    async def unassign(self, group: str, fences: dict[Partition, int]) -> None:
        rows = [(group, partition.topic, partition.number, epoch) for partition, epoch in fences.items()]

        def write(connection: Connection) -> None:
            connection.executemany("update store_progress set running=0 where grp=? and topic=? and number=? and epoch=?", rows)

        await self.file.write(write, wakes=NOTHING)

    async def lead(self, role: str, member: str, seconds: float) -> bool:
        now = self._monotonic()

        def holds(row: tuple[Any, ...] | None) -> bool:
            return row is not None and row[0] != member and row[1] == self._boot and row[2] > now and is_alive(row[0])

        sql = "select member, boot, expires from store_lead where role=?"
        if any(holds(row) for row in self.file.query(sql, (role,))):
            return False

        def write(connection: Connection) -> bool:
            if holds(connection.execute(sql, (role,)).fetchone()):
                return False
            connection.execute("insert or replace into store_lead values(?,?,?,?)", (role, member, self._boot, now + seconds))
            return True

        return await self.file.write(write, wakes=NOTHING)

    # What a worker commits

    async def commit(self, page: Page) -> None:
        await self.file.write(lambda connection: self.apply(connection, page))

    async def begin(self) -> SqliteTransaction:
        return SqliteTransaction(self.file.path, await self.file.borrow(), self.apply)

    def begin_now(self) -> SqliteTransaction:
        return SqliteTransaction(self.file.path, self.file.borrow_now(), self.apply)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[SqliteTransaction]:
        transaction = await self.begin()
        try:
            yield transaction
        except BaseException:
            await transaction.end(commit=False)
            raise
        await transaction.end(commit=True)

    def apply(self, connection: Connection, page: Page) -> None:
        """Write a page inside a transaction that the caller ends."""
        self._move(connection, page)
        if page.present and not self._parked.all_there(connection, page.present):
            raise FencedError(
                f"another worker of group {page.group!r} has handled a delivery that waited, at the same time. Nothing of this was kept."
            )
        if page.first:
            self._first(connection, page)
        if page.marks:
            self._inbox.add(connection, page.group, page.generation, page.marks, self._micros())
        if page.events:
            (self._append or self._outbox.add)(connection, page.events)
        page.already.clear()
        for parked in page.park:
            if self._inbox.knows(connection, parked, page.generation) or not self._parked.put(connection, parked):
                page.already.append(parked)
        page.already += [parked for parked in page.restore if not self._parked.put(connection, parked)]
        self._parked.remove(connection, page.unpark)
        for (partition, position), count in page.suspects.items():
            where = (page.group, partition.topic, partition.number, position)
            if count:
                connection.execute("insert or replace into store_suspect values(?,?,?,?,?)", (*where, count))
            else:
                connection.execute("delete from store_suspect where grp=? and topic=? and number=? and position=?", where)
        for id_ in page.requests:
            connection.execute("delete from store_request where id=?", (id_,))

    def _first(self, connection: Connection, page: Page) -> None:
        """Mark what must not have been handled, or parked, by anybody yet."""
        added = self._inbox.add(connection, page.group, page.generation, page.first, self._micros())
        if added != len(page.first) or self._parked.any_of(connection, page.group, page.first):
            raise FencedError(
                f"another worker of group {page.group!r} has handled the same event at the same time: it was published twice, and lies in "
                "two partitions. Nothing of this was kept; what is handled already is known now."
            )

    def _move(self, connection: Connection, page: Page) -> None:
        """Check the fences, and move the positions of those partitions that have moved."""
        if page.positions.keys() - page.fences.keys():
            raise ValueError("a page moves a position that it does not fence: nobody would notice that another owns it")
        fences = list(page.fences.items())
        for start in range(0, len(fences), FENCES):
            some = fences[start : start + FENCES]
            params: list[Any] = []
            for partition, epoch in some:
                params += (partition.topic, partition.number, epoch, page.positions.get(partition))
            values = ",".join(["(?,?,?,?)"] * len(some))
            connection.execute(
                f"with moved(topic, number, epoch, position) as (values {values})"  # noqa: S608
                " update store_progress set position=coalesce(moved.position, store_progress.position) from moved"
                " where grp=? and store_progress.topic=moved.topic and store_progress.number=moved.number"
                " and store_progress.epoch=moved.epoch",
                (*params, page.group),
            )
            if connection.changes() != len(some):
                names = ", ".join(f"{partition.topic}/{partition.number}" for partition, _ in some)
                raise FencedError(
                    f"group {page.group!r} no longer owns all of {names}: another worker took over while this one was stopped. "
                    "Nothing of this was kept; the new owner does it."
                )

    # What was handled, and how far

    async def handled(self, group: str, generation: int, marks: Sequence[Mark]) -> set[Mark]:
        """Which of these the group has handled, or parked."""
        return self._inbox.handled(group, generation, marks) | self._parked.handled(group, marks) if marks else set()

    async def has_marks(self, group: str, generation: int) -> bool:
        return self._inbox.has_marks(group, generation) or self._parked.count(group) > 0

    async def generation(self, group: str) -> int:
        rows = self.file.query("select generation from store_generation where grp=?", (group,))
        return rows[0][0] if rows else 0

    async def rewind(self, group: str, positions: Sequence[tuple[Partition, int]], *, effects: bool) -> None:
        """Move the position of record; with `effects` what was handled before is handled anew."""

        def write(connection: Connection) -> None:
            for partition, position in positions:
                connection.execute(
                    "insert into store_progress(grp, topic, number, epoch, position) values(?,?,?,1,?)"
                    " on conflict do update set position=excluded.position, epoch=epoch+1",
                    (group, partition.topic, partition.number, position),
                )
            if effects:
                connection.execute(
                    "insert into store_generation values(?, 1) on conflict do update set generation=generation+1", (group,)
                )

        await self.file.write(write)

    async def forget(self, group: str) -> None:
        """Remove all that is kept for a group, its dead letters included."""

        def write(connection: Connection) -> None:
            self._inbox.remove(connection, group)
            self._parked.remove_group(connection, group)
            for table in ("progress", "generation", "suspect", "pause"):
                connection.execute(f"delete from store_{table} where grp=?", (group,))  # noqa: S608

        await self.file.write(write)

    async def suspects(self, group: str, partition: Partition) -> dict[int, int]:
        rows = self.file.query(
            "select position, count from store_suspect where grp=? and topic=? and number=?",
            (group, partition.topic, partition.number),
        )
        return {position: count for position, count in rows}

    # What is parked

    async def parked(
        self, group: str | None = None, *, ids: Sequence[int] | None = None, dead: bool = False, after: int = 0, most: int = 1000
    ) -> Sequence[Parked]:
        return self._parked.select(group, ids=ids, dead=dead, after=after, most=most)

    async def parked_count(self, group: str) -> int:
        return self._parked.count(group)

    async def sequences(self, group: str, partition: Partition) -> dict[str, int]:
        return self._parked.sequences(group, partition)

    async def heads(self, group: str, partitions: Sequence[Partition], due: int, most: int) -> Sequence[Parked]:
        return self._parked.heads(group, partitions, due, most)

    async def next_due(self, group: str) -> int | None:
        return self._parked.next_due(group)

    async def request(self, kind: RequestKind, parked: Sequence[int], reason: str, data: bytes = b"") -> int:
        now = self._micros()
        return await self.file.write(lambda connection: self._parked.request(connection, kind, parked, reason, data, now))

    async def requests(self, group: str) -> Sequence[Request]:
        return self._parked.requests(group)

    async def pause(self, group: str, *, paused: bool) -> None:
        sql = "insert or ignore into store_pause values(?)" if paused else "delete from store_pause where grp=?"
        await self.file.write(lambda connection: connection.execute(sql, (group,)) and None, wakes=MEMBERS)

    async def paused(self) -> frozenset[str]:
        return frozenset(group for (group,) in self.file.query("select grp from store_pause"))

    # What waits for the relay

    async def outbox(self, after: int, most: int) -> Sequence[tuple[int, Envelope]]:
        return self._outbox.after(after, most)

    async def sent(self, upto: int) -> None:
        await self.file.write(lambda connection: self._outbox.sent(connection, upto), wakes=NOTHING)

    async def outbox_size(self) -> int:
        return self._outbox.size()

    # The service's own

    async def read(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self.file.query(sql, params)

    async def backup(self, destination: str, progress: Callable[[int, int], None] | None = None) -> None:
        """Copy the live file, as of one moment, to a new file; it has its name once it is complete."""
        loop = asyncio.get_running_loop()

        def tell(done: int, pages: int) -> None:
            if progress is not None:
                loop.call_soon_threadsafe(progress, done, pages)

        await asyncio.to_thread(self.file.copy, destination, tell, renumber)

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        return self.file.on_change(lambda _: listener())
