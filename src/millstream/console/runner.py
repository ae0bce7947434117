"""What operators ask for, from the moment they ask until it is known what became of it.

It is noted before anything is sent, so that it goes on after a restart, and sent again until
somebody answers: whoever carries it out does so once. What then becomes of the events is
read from the facts.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from millstream.app.control import sign
from millstream.console.schema import KINDS
from millstream.console.tables import Tables
from millstream.contracts.errors import MillstreamError
from millstream.contracts.ids import new_id
from millstream.core.broker import Broker
from millstream.core.facts import Operation, OperationKind
from millstream.core.store import Store

log = logging.getLogger("millstream.console")

#: How often it is looked at what became of operations, in seconds.
LOOK = 0.5
#: An operation that nobody answers is sent again so often, and given up after so long, in seconds.
AGAIN = 3.0
GIVE_UP = 600.0
#: One whose events come to no end is not followed for longer, in seconds.
FOLLOWED = 24 * 3600.0
#: What was asked is kept for so long, which is seen to so often, in seconds.
KEPT = 90 * 24 * 3600.0
TIDY = 3600.0
#: Events that one broadcast names, and one operation in all.
PART = 500
MOST_EVENTS = 20_000
#: Operations whose events are followed.
ABOUT_EVENTS = ("redrive", "discard", "restore", "repair")

Event = tuple[str, str]
"""Source and id."""

_HANDLED, _FAILED, _DISCARDED = KINDS.index("handled"), KINDS.index("parked"), KINDS.index("discarded")

_encode = msgspec.json.Encoder().encode
_events = msgspec.json.Decoder(list[tuple[str, str, int]]).decode
_positions = msgspec.json.Decoder(list[tuple[str, int, int]]).decode


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator asks for."""

    kind: OperationKind
    group: str
    by: str
    reason: str
    events: Sequence[Event] = ()
    data: bytes = b""
    positions: Sequence[tuple[str, int, int]] = ()
    effects: bool = False
    canary: bool = False
    """Whether the first event goes alone, and the others only if it was handled."""


class Runner:
    """Sends operations, and follows them; everything it knows is in the console's own store."""

    def __init__(
        self, store: Store, tables: Tables, broker: Broker, key: str | None, told: Callable[[str, str, str], None]
    ) -> None:
        self._store = store
        self._tables = tables
        self._broker = broker
        self._key = key
        self._told = told
        self._wake = asyncio.Event()

    async def ask(self, asked: Asked) -> str:
        """Note it, and have it sent; gives its id."""
        if len(asked.events) > MOST_EVENTS:
            raise ValueError(f"events: {MOST_EVENTS} at once are the most; do the rest afterwards")
        micros = time.time_ns() // 1000
        id_ = new_id(micros // 1000, os.urandom(10))
        parts = _parts(await self._with_attempts(asked.events), canary=asked.canary)
        async with self._store.transaction() as tx:
            tx.execute(
                "insert into asked(id, kind, grp, by, reason, at, status, detail, canary, data, positions, effects, wanted)"
                " values(?,?,?,?,?,?,'sent',?,?,?,?,?,?)",
                (
                    id_, asked.kind, asked.group, asked.by, asked.reason, micros, "waiting for a running process of this service",
                    asked.canary, asked.data, _encode(asked.positions).decode(), asked.effects, len(asked.events),
                ),
            )  # fmt: skip
            tx.executemany(
                "insert into part(id, asked, number, events) values(?,?,?,?)",
                [(f"{id_}.{number}" if len(parts) > 1 else id_, id_, number, _encode(some).decode()) for number, some in enumerate(parts)],
            )
        self._wake.set()
        return id_

    async def _with_attempts(self, events: Sequence[Event]) -> list[tuple[str, str, int]]:
        """The same with the number of the last attempt that is known of each: what comes after it, comes of the operation."""
        rows = await self._tables.read(
            "select j.value->>0, j.value->>1, (select coalesce(max(seq), 0) from event e join attempt a on a.event=e.n"
            " where e.id=j.value->>1 and e.source=(select n from name where text=j.value->>0)) from json_each(?) j",
            (_encode(events).decode(),),
        )
        return [(source, id_, last or 0) for source, id_, last in rows]

    async def run(self) -> None:
        """Go on with everything that has not come to its end, until cancelled."""
        tidied = float("-inf")
        while True:
            try:
                if time.monotonic() - tidied > TIDY:
                    tidied = time.monotonic()
                    await self.forget(time.time() - KEPT)
                await self.step()
            except MillstreamError as error:
                log.warning("operations wait: %s", error)
            self._wake.clear()
            try:
                async with asyncio.timeout(LOOK):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def step(self) -> None:
        """Look once at each of them, in the order in which they were asked."""
        for row in await self._tables.read(
            "select id, kind, grp, by, reason, at, status, canary, data, positions, effects, wanted, handled, failed, discarded from asked"
            " where status in ('sent', 'accepted') order by at limit 200"
        ):
            id_, kind, group, by, reason, at, status, canary, data, positions, effects, wanted, *counts = row
            operation = Operation(
                id=id_, kind=kind, group=group, by=by, reason=reason, at=at, data=data,
                positions=tuple(_positions(positions)), effects=bool(effects),
            )  # fmt: skip
            await self._go_on(operation, status, canary=bool(canary) and wanted > 1, wanted=wanted, before=counts)

    async def _go_on(self, operation: Operation, status: str, *, canary: bool, wanted: int, before: list[int]) -> None:
        parts = await self._tables.read(
            "select p.id, p.number, p.sent, p.events, o.status, o.detail, o.answered from part p left join operation o on o.id=p.id"
            " where p.asked=? order by p.number",
            (operation.id,),
        )
        counts = await self._counts(operation) if operation.kind in ABOUT_EVENTS else (0, 0, 0)
        age = time.time() - operation.at / 1e6
        answers = [part for part in parts if part[4] is not None]
        refused = next((part for part in answers if part[4] in ("failed", "refused")), None)
        if refused is not None:
            await self._note(operation, refused[4], refused[5], counts, before, status)
        elif canary and (why := _stops(parts, counts)):
            await self._note(operation, "failed", f"{why}; the other {wanted - 1} were left alone", counts, before, status)
        elif len(answers) == len(parts) and (operation.kind not in ABOUT_EVENTS or self._is_over(answers, counts)):
            await self._note(operation, "done", _summed([part[5] for part in answers]), counts, before, status)
        elif not answers and age > GIVE_UP:
            detail = f"nobody has answered for {GIVE_UP / 60:.0f} min: no process of this service runs, or its control key is another"
            await self._note(operation, "failed", detail, counts, before, status)
        elif age > FOLLOWED:
            await self._note(operation, "done", "not followed any longer", counts, before, status)
        else:
            await self._send(operation, parts, hold=canary and not counts[0])
            if answers:
                detail = "the first one goes alone" if canary and not counts[0] else "carried out; what becomes of the events is followed"
                await self._note(operation, "accepted", detail, counts, before, status)

    def _is_over(self, answers: Sequence[tuple[Any, ...]], counts: tuple[int, int, int]) -> bool:
        """Whether all events that were found have come to an end."""
        return sum(counts) >= sum(_found(part[5]) for part in answers)

    async def _counts(self, operation: Operation) -> tuple[int, int, int]:
        """How many of its events were handled, failed again, and were discarded since it was asked."""
        if operation.kind == "restore":
            rows = await self._tables.read(
                "select count(*) from part p, json_each(p.events) j join parked k on k.grp=? and k.source=j.value->>0 and k.id=j.value->>1"
                " where p.asked=? and k.state<>'discarded'",
                (operation.group, operation.id),
            )
            return rows[0][0], 0, 0
        rows = await self._tables.read(
            "select kind, count(distinct e.n) from part p, json_each(p.events) j"
            " cross join event e on e.id=j.value->>1 and e.source=(select n from name where text=j.value->>0)"
            " cross join attempt a on a.event=e.n and a.seq>j.value->>2 and a.grp=(select n from name where text=?)"
            " and a.kind in (?,?,?) where p.asked=? group by kind",
            (operation.group, _HANDLED, _FAILED, _DISCARDED, operation.id),
        )
        found = dict(rows)  # type: ignore[arg-type]
        return found.get(_HANDLED, 0), found.get(_FAILED, 0), found.get(_DISCARDED, 0)

    async def _send(self, operation: Operation, parts: Sequence[tuple[Any, ...]], *, hold: bool) -> None:
        """Send what was not answered; of a canary nothing but the first, until that was handled."""
        now = time.time_ns() // 1000
        for id_, number, sent, events, answered, *_ in parts:
            if answered is not None or (hold and number) or (sent is not None and now - sent < AGAIN * 1e6):
                continue
            await self._broker.broadcast(sign(msgspec.structs.replace(operation, id=id_, events=_named(events)), self._key))
            async with self._store.transaction() as tx:
                tx.execute("update part set sent=? where id=?", (now, id_))

    async def _note(
        self, operation: Operation, status: str, detail: str, counts: tuple[int, int, int], before: list[int], was: str
    ) -> None:
        if status == was and list(counts) == before:
            return
        answered = time.time_ns() // 1000 if was == "sent" else None
        async with self._store.transaction() as tx:
            tx.execute(
                "update asked set status=?, detail=?, handled=?, failed=?, discarded=?, answered=coalesce(answered, ?) where id=?",
                (status, detail, *counts, answered, operation.id),
            )
        self._told(operation.id, status, detail)

    async def forget(self, older: float) -> None:
        """Forget what has ended and was asked before that time, in seconds since 1970."""
        async with self._store.transaction() as tx:
            tx.execute("delete from part where asked in (select id from asked where at<?)", (int(older * 1e6),))
            tx.execute("delete from asked where at<?", (int(older * 1e6),))


def _stops(parts: Sequence[tuple[Any, ...]], counts: tuple[int, int, int]) -> str:
    """Why a canary ends with its first event; empty where it does not."""
    if parts[1][2] is not None or counts[0]:
        return ""
    if counts[1]:
        return "the first one has failed again"
    if parts[0][4] is not None and not _found(parts[0][5]):
        return "the first one does not wait any more"
    return "the first one was discarded" if counts[2] else ""


def _named(events: str) -> tuple[Event, ...]:
    return tuple((source, id_) for source, id_, _ in _events(events))


def _parts(events: Sequence[tuple[str, str, int]], *, canary: bool) -> list[Sequence[tuple[str, str, int]]]:
    alone = [events[:1]] if canary and len(events) > 1 else []
    rest = events[len(alone) :]
    return [*alone, *(rest[start : start + PART] for start in range(0, len(rest), PART))] or [()]


def _found(detail: str) -> int:
    """How many events an answer says that it has found, as in `3 of 4`."""
    count, of, _ = detail.partition(" of ")
    return int(count) if of and count.isdecimal() else 0


def _summed(details: Sequence[str]) -> str:
    """One detail for all parts."""
    if len(details) == 1:
        return details[0]
    total = sum(int(detail.rpartition(" of ")[2]) for detail in details if detail.rpartition(" of ")[2].isdecimal())
    return f"{sum(map(_found, details))} of {total}"
