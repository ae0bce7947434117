"""A group's member on the embedded broker: what it owns, how far it has read, and its lease."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from millstream.brokers import sqlite_log
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import MillstreamError, PositionLostError
from millstream.core.broker import Assigned, Deliveries, Delivery, Lost, Partition, Received, Revoked
from millstream.stores.sqlite_connection import Connection
from millstream.stores.sqlite_process import is_alive
from millstream.stores.sqlite_wake import MEMBERS, NOTHING, News

if TYPE_CHECKING:
    from millstream.brokers.sqlite import SqliteBroker

#: Without any wake-up a subscription looks again after so many seconds: at the log, and whether a member has died.
IDLE_LOOK = 1.0
#: The broker's own position follows the store's, with one write for all that was settled within so many seconds.
FOLLOW = 0.05


@dataclass(slots=True)
class _Owned:
    tp: int
    started: bool = False
    cursor: int = 0
    """Where the next read begins."""
    ready: list[Delivery] = field(default_factory=list[Delivery])
    """Read, but not yet delivered."""
    paused: bool = False
    leaving: bool = False

    def hand_over(self, most: int) -> list[Delivery]:
        """The next of what is read."""
        some, self.ready = self.ready[:most], self.ready[most:]
        return some


class SqliteSubscription:
    """One member of a group; see `core.broker.Subscription`."""

    def __init__(self, broker: "SqliteBroker", group: str, member: str) -> None:
        self._broker = broker
        self._group = group
        self._member = member
        self._members: frozenset[str] = frozenset()
        self._owned: dict[Partition, _Owned] = {}
        self._tps: frozenset[int] = frozenset()
        """What it owns, as the file numbers it."""
        self._notices: list[Received] = []
        self._changed = asyncio.Event()
        self._renew_at = float("-inf")
        self._look_at = float("-inf")
        self._done: dict[int, int] = {}
        self._flush: asyncio.TimerHandle | None = None
        self._turn = 0
        self._stop = broker.file.on_change(self._hear)

    def _hear(self, news: News) -> None:
        if MEMBERS in news.kinds:
            self._look_at = float("-inf")
            self._changed.set()
        elif news.of(self._tps):
            self._changed.set()

    # Receiving

    async def receive(self, most: int, wait: float) -> Received:
        await self.extend()
        if self._notices:
            return self._notices.pop(0)
        self._changed.clear()
        items = self._fetch(most)
        if not items and wait > 0:
            pause = max(0.0, min(wait, IDLE_LOOK, self._renew_at - self._broker.monotonic()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            items = self._fetch(most)
        return Deliveries(items)

    def _fetch(self, most: int) -> list[Delivery]:
        mine = [(p, o) for p, o in self._owned.items() if o.started and not o.paused and not o.leaving]
        if not mine:
            return []
        items: list[Delivery] = []
        # What is read already goes first, so that never more than one page waits here; among the others everybody begins in turn.
        for _, owned in mine:
            if owned.ready:
                items += owned.hand_over(most - len(items))
        if len(items) >= most:
            return items
        heads = self._broker.log.heads([owned.tp for _, owned in mine])
        self._turn += 1
        size = 0
        for index in range(len(mine)):
            partition, owned = mine[(index + self._turn) % len(mine)]
            if heads.get(owned.tp, 0) <= owned.cursor:
                continue
            try:
                size += self._read_on(partition, owned, most - len(items))
            except MillstreamError:
                if items:
                    break  # what others have is handed over first; this one fails again when it comes first
                raise
            items += owned.hand_over(most - len(items))
            if len(items) >= most or size >= sqlite_log.READ_BYTES:
                break
        return items

    def _read_on(self, partition: Partition, owned: _Owned, most: int) -> int:
        """Read its next events; says how many bytes they take."""
        fetched, size = self._broker.log.fetch(owned.tp, partition, owned.cursor, most)
        if not fetched or fetched[0].position != owned.cursor:
            raise PositionLostError(self._lost(partition, owned.cursor))
        owned.ready = fetched
        owned.cursor = fetched[-1].position + 1
        return size

    def _lost(self, partition: Partition, position: int) -> str:
        return (
            f"group {self._group!r}: position {position} of {partition.topic}/{partition.number} has left the log: retention was "
            "forced, or the group's store is an older copy. See what was lost, then move the group with `millstream replay`."
        )

    # Owning

    async def extend(self) -> None:
        """Renew the lease when it is time to, and see who has come or gone."""
        now = self._broker.monotonic()
        if now >= self._renew_at or (now >= self._look_at and self._others_changed()):
            await self._renew()
        if now >= self._look_at:
            self._look_at = now + IDLE_LOOK

    def _others_changed(self) -> bool:
        """Whether something is free, or somebody else has come or died: read only, and cheap."""
        file, group = self._broker.file, self._group
        members = frozenset(member for (member,) in file.query("select member from broker_member where grp=?", (group,)))
        owners = {owner for (owner,) in file.query("select distinct owner from broker_position where grp=?", (group,))}
        return members != self._members or not owners <= members or not all(map(is_alive, members))

    async def _renew(self) -> None:
        broker = self._broker
        self._renew_at = broker.monotonic() + broker.lease / 4
        claim = await broker.file.write(self._claim, wakes=NOTHING)
        if claim.members != self._members:
            self._members = claim.members
            broker.file.announce(News(MEMBERS))
        lost = tuple(p for p, o in self._owned.items() if o.tp not in claim.kept)
        for partition in lost:
            del self._owned[partition]
        if lost:
            self._notices.append(Lost(lost))
        names = broker.tps_of(self._group)
        gained = {names[tp]: _Owned(tp) for tp in claim.taken if tp in names}
        self._owned.update(gained)
        if gained:
            self._notices.append(Assigned(tuple(gained)))
        self._tps = frozenset(owned.tp for owned in self._owned.values())
        revoked = tuple(p for p, o in self._owned.items() if o.tp in claim.surplus and not o.leaving)
        for partition in revoked:
            self._owned[partition].leaving = True
        if revoked:
            self._notices.append(Revoked(revoked, claim.expires))

    def _claim(self, connection: Connection) -> "_Claim":
        """Renew what is ours, see what is more than our share, take what is free."""
        broker, group, me = self._broker, self._group, self._member
        now = broker.monotonic()
        expires = now + broker.lease
        members = self._register(connection, now, expires)
        rows = connection.execute("select tp, owner, boot, expires from broker_position where grp=? order by tp", (group,)).fetchall()
        rank, count = sorted(members).index(me), len(members)
        share = len(rows) // count + (1 if rank < len(rows) % count else 0)
        mine = [tp for tp, owner, boot, _ in rows if owner == me and boot == broker.boot]
        free = [
            tp
            for tp, owner, boot, until in rows
            if owner != me and (owner not in members or boot != broker.boot or until <= now)
        ]
        taken = free[: max(0, share - len(mine))]
        # What is to be given up is not renewed: whoever waits for it has it at the deadline.
        leaving = {owned.tp for owned in self._owned.values() if owned.leaving}
        connection.executemany(
            "update broker_position set owner=?, boot=?, expires=? where grp=? and tp=?",
            [(me, broker.boot, expires, group, tp) for tp in (*mine, *taken) if tp not in leaving],
        )
        return _Claim(frozenset(mine), taken, frozenset(mine[share:]), frozenset(members), expires)

    def _register(self, connection: Connection, now: float, expires: float) -> set[str]:
        """Say that we are alive, and strike out who is not."""
        broker, group = self._broker, self._group
        connection.execute("insert or replace into broker_member values(?,?,?,?)", (group, self._member, broker.boot, expires))
        members: set[str] = set()
        for member, boot, until in connection.execute(
            "select member, boot, expires from broker_member where grp=?", (group,)
        ).fetchall():
            if boot == broker.boot and until > now and is_alive(member):
                members.add(member)
            else:
                connection.execute("delete from broker_member where grp=? and member=?", (group, member))
        return members

    def start(self, partition: Partition, position: int | None) -> None:
        owned = self._owned.get(partition)
        if owned is None:
            return
        rows = self._broker.file.query(
            "select g.committed, p.first, p.next from broker_position g join broker_partition p using(tp) where g.grp=? and g.tp=?",
            (self._group, owned.tp),
        )
        if not rows:
            return  # the group was forgotten: the next look reports the partition as lost
        committed, first, head = rows[0]
        cursor = committed if position is None else position
        if cursor > head:
            raise PositionLostError(
                f"group {self._group!r} has handled {partition.topic}/{partition.number} up to {cursor}, "
                f"but the log ends at {head}: the broker's file is an older copy. "
                "Restore the newer file, or move the group on purpose with `millstream replay`."
            )
        if cursor < first:
            raise PositionLostError(self._lost(partition, cursor))
        owned.cursor, owned.started = cursor, True
        owned.ready.clear()
        if cursor > committed:
            # The last owner died before the group's position here could follow its store's.
            self._follow({owned.tp: cursor})
        elif cursor < committed:
            # A replay, or an older store: what is handled again must not leave the log meanwhile.
            self._broker.file.submit(partial(self._go_back, owned.tp, cursor), wakes=NOTHING).add_done_callback(_ignore)

    def _go_back(self, tp: int, position: int, connection: Connection) -> None:
        sql = "update broker_position set committed=min(committed, ?) where grp=? and tp=? and owner=?"
        connection.execute(sql, (position, self._group, tp, self._member))

    def pause(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            if partition in self._owned:
                self._owned[partition].paused = True

    def resume(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            if partition in self._owned:
                self._owned[partition].paused = False
        self._changed.set()

    # Settling

    async def settle(self, done: Sequence[Delivery], released: Sequence[Delivery] = ()) -> None:
        self._follow(self._passed(done))
        for delivery in released:
            owned = self._owned.get(delivery.partition)
            if owned is not None and owned.started:
                owned.cursor = min(owned.cursor, delivery.position)
                owned.ready.clear()
        if released:
            self._changed.set()

    def _follow(self, passed: dict[int, int]) -> None:
        """Have the group's position here follow its store's, which is that of record: soon, with one write for many."""
        for tp, position in passed.items():
            self._done[tp] = max(position, self._done.get(tp, 0))
        if self._flush is None and self._done:
            self._flush = asyncio.get_running_loop().call_later(FOLLOW, self._flush_done)

    def _passed(self, done: Sequence[Delivery]) -> dict[int, int]:
        """How far these deliveries move each partition that is still ours."""
        passed: dict[Partition, int] = {}
        # Those of a partition come one after another: only the last of a run matters.
        last = done[0] if done else None
        for delivery in done:
            if last is not None and delivery.partition is not last.partition:
                passed[last.partition] = last.position + 1
            last = delivery
        if last is not None:
            passed[last.partition] = last.position + 1
        return {self._owned[partition].tp: position for partition, position in passed.items() if partition in self._owned}

    def _flush_done(self) -> "asyncio.Future[None] | None":
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        if not self._done:
            return None
        passed, self._done = self._done, {}
        rows = [(position, self._group, tp, self._member) for tp, position in passed.items()]

        def write(connection: Connection) -> None:
            connection.executemany("update broker_position set committed=max(committed, ?) where grp=? and tp=? and owner=?", rows)

        def written(future: "asyncio.Future[None]") -> None:
            if not future.cancelled() and future.exception() is not None and self._owned:
                self._follow(passed)

        future = self._broker.file.submit(write, wakes=NOTHING)
        future.add_done_callback(written)
        return future

    async def publish_and_settle(self, envelopes: Sequence[Envelope], done: Sequence[Delivery]) -> None:
        passed = self._passed(done)
        if len(passed) < len({delivery.partition for delivery in done}):
            raise self._broker.fenced(self._group)
        await self._broker.publish_and_commit(envelopes, self._group, self._member, passed)

    async def release(self, partitions: Sequence[Partition]) -> None:
        flushed = self._flush_done()
        if flushed is not None:
            await asyncio.wait([flushed])
        tps = [self._owned.pop(partition).tp for partition in partitions if partition in self._owned]
        rows = [(self._group, tp, self._member) for tp in tps]

        def write(connection: Connection) -> None:
            connection.executemany("update broker_position set owner=null where grp=? and tp=? and owner=?", rows)

        if rows:
            await self._broker.file.write(write, wakes=MEMBERS)

    async def close(self) -> None:
        self._stop()
        await self.release(list(self._owned))
        if self._flush is not None:
            self._flush.cancel()

        def write(connection: Connection) -> None:
            connection.execute("delete from broker_member where grp=? and member=?", (self._group, self._member))

        await self._broker.file.write(write, wakes=MEMBERS)


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a member has after a look: kept, newly taken, and more than its share."""

    kept: frozenset[int]
    taken: list[int]
    surplus: frozenset[int]
    members: frozenset[str]
    expires: float


def _ignore(future: "asyncio.Future[Any]") -> None:
    if not future.cancelled():
        future.exception()
