"""The read model: what processes say that they are, what flowed between them, and what operators did."""

import time
from dataclasses import dataclass
from typing import Any

import msgspec

from millstream.console.dead_letters import DeadLetters
from millstream.console.schema import MOST_STEPS, STEPS
from millstream.console.stored_events import StoredEvents
from millstream.console.tables import Names, Tables

#: A process that has not been heard of for so long is not there any more, in seconds.
GONE = 5.0
#: Processes listed at most.
MOST_PROCESSES = 500
#: What a handler's app has not repeated for so long is not in its code any more, in microseconds.
REPEATED = 120_000_000
#: Points of a curve over time.
MOST_POINTS = 360

_json = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Flows:
    """What went from where to where, in a time of so many seconds."""

    span: float
    rows: list[dict[str, Any]]


class ReadModel:
    """Answers as plain values, ready for JSON; times are seconds since 1970."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self.events = StoredEvents(tables, Names(tables))
        self.letters = DeadLetters(tables)

    async def _read(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        return await self._tables.read(sql, params)

    # Processes, handlers, contracts

    async def processes(self) -> list[dict[str, Any]]:
        """Every process of the last day, those alive first."""
        now = time.time()
        rows = await self._read(
            "select process, app, host, pid, version, started, seen, stopping, troubles, paused, outbox, store, unread from process"
            " order by seen desc limit ?",
            MOST_PROCESSES,
        )
        return [
            {
                "process": process, "app": app, "host": host, "pid": pid, "version": version, "started": started / 1e6, "seen": seen / 1e6,
                "alive": not stopping and now - seen / 1e6 < GONE, "stopped": bool(stopping), "troubles": _json(troubles),
                "paused": _json(paused), "outbox": outbox, "store": store, "unread": _json(unread),
            }
            for process, app, host, pid, version, started, seen, stopping, troubles, paused, outbox, store, unread in rows
        ]  # fmt: skip

    async def handlers(self) -> list[dict[str, Any]]:
        """What each app's processes say that they handle."""
        rows = await self._read(
            "select app, body from handler h where at > (select max(at) from handler where app=h.app) - ? order by app, name", REPEATED
        )
        return [{"app": app, **_json(body)} for app, body in rows]

    async def contracts(self) -> list[dict[str, Any]]:
        """Every contract that a process knows, by name."""
        return [{"app": app, **_json(body)} for app, body in await self._read("select app, body from contract order by name")]

    # Flows

    async def flows(self, window: float, *, until: float | None = None) -> Flows:
        """What went from where to where in about the last so many seconds."""
        step, start, end = steps_of(window, until)
        rows = await self._read(
            "select origin, target, kind, sum(count), sum(told), sum(worked), sum(waited) from flow join edge on n=edge"
            " where step=? and at>=? and at<=? group by edge",
            step, start, end,
        )  # fmt: skip
        return Flows(
            end - start + 1.0,
            [
                {"from": origin, "to": target, "kind": kind, "count": count, "told": told, "worked": worked, "waited": waited}
                for origin, target, kind, count, told, worked, waited in rows
            ],
        )

    async def rates(self, window: float, *, until: float | None = None) -> list[dict[str, Any]]:
        """Counts by kind, step by step: the histogram over time."""
        step, start, end = steps_of(window, until)
        rows = await self._read(
            "select at, kind, count from total where step=? and at>=? and at<=? order by at", step, start, end
        )
        return [{"at": at, "kind": kind, "count": count, "step": step} for at, kind, count in rows]

    async def history(self, group: str, window: float = 6 * 3600.0) -> list[dict[str, Any]]:
        """Where a group stood while the console was looking, a few hundred points at most."""
        now = int(time.time())
        step = max(1, int(window) // MOST_POINTS)
        rows = await self._read(
            "select max(at), lag, max(age), members, avg(handled), max(failed), state from standing where grp=? and at>? group by at / ?"
            " order by at",
            group, now - int(window), step,
        )  # fmt: skip
        names = ("at", "lag", "age", "members", "handled_per_second", "failed", "state")
        return [dict(zip(names, row, strict=True)) for row in rows]

    # Operations

    async def operations(self, limit: int = 200, group: str | None = None) -> list[dict[str, Any]]:
        """What operators asked for, the newest first: from here, with what became of it, and from elsewhere, as facts tell."""
        where = "1" if group is None else "grp=?"
        rows = await self._read(
            f"select * from (select {ASKED} from asked where {where} order by at desc limit ?) union all select * from"  # noqa: S608
            f" (select {ANSWERED} from operation where {where} and not exists(select 1 from part where part.id=operation.id)"
            " order by at desc limit ?) order by 6 desc limit ?",
            *([] if group is None else [group]), limit, *([] if group is None else [group]), limit, limit,
        )  # fmt: skip
        return [_operation(row) for row in rows]

    async def operation(self, id_: str) -> dict[str, Any] | None:
        """One of them, with all the events that it names."""
        rows = await self._read(f"select {ASKED} from asked where id=?1 union all select {ANSWERED} from operation where id=?1", id_)  # noqa: S608
        if not rows:
            return None
        parts = await self._read("select events from part where asked=? order by number", id_)
        operation = _operation(rows[0])
        if parts:
            operation["events"] = [event[:2] for (events,) in parts for event in _json(events)]
        return operation


#: The same columns of what was asked here, and of what was answered to whoever asked. The first events are enough for a list.
ASKED = (
    "id, kind, grp, by, reason, at, status, detail, answered, canary, wanted, handled, failed, discarded,"
    " (select events from part where asked=asked.id order by number limit 1)"
)
ANSWERED = (
    "id, kind, grp, by, reason, at, status, detail, answered, 0, json_array_length(body, '$.events'), null, null, null, body->>'$.events'"
)
LISTED = 20


def _operation(row: tuple[Any, ...]) -> dict[str, Any]:
    id_, kind, group, by, reason, at, status, detail, answered, canary, asked, handled, failed, discarded, events = row
    return {
        "id": id_, "kind": kind, "group": group, "by": by, "reason": reason, "at": at / 1e6, "status": status, "detail": detail,
        "answered": None if answered is None else answered / 1e6, "canary": bool(canary),
        "progress": {"asked": asked or 0, "handled": handled, "failed": failed, "discarded": discarded},
        "events": [event[:2] for event in _json(events or "[]")[:LISTED]],
    }  # fmt: skip


def steps_of(window: float, until: float | None = None) -> tuple[int, int, int]:
    """In what steps a time is looked at, the first of them, and its end; few enough, and none that is forgotten already."""
    now = int(time.time())
    end = now if until is None else int(until)
    fitting = [step for step, kept in STEPS.items() if window / step <= MOST_STEPS and now - (end - window) <= kept]
    step = fitting[0] if fitting else max(STEPS)
    start = end - int(window) + 1
    return step, start - start % step, end
