"""The read model: every question that a screen asks, answered from the console's own tables."""

import time
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

#: A process that has not been heard of for so long is not there any more, in seconds.
GONE = 5.0
#: A trace stops after so many events, and says so.
MOST_TRACED = 2000


class Tables(Protocol):
    """Whoever runs a query on the read model."""

    async def read(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]: ...


_json = msgspec.json.Decoder().decode

EVENT = "id, source, type, topic, key, time, version, correlation, causation, by, partition, position"


def _event(row: tuple[Any, ...]) -> dict[str, Any]:
    id_, source, type_, topic, key, time_, version, correlation, causation, by, partition, position = row
    return {
        "id": id_, "source": source, "type": type_, "topic": topic, "key": key, "time": time_ / 1e6, "version": version,
        "correlation": correlation, "causation": causation, "by": by, "partition": partition,
        "position": None if position is None else str(position),
    }  # fmt: skip


class ReadModel:
    """Answers as plain values, ready for JSON; times are seconds since 1970."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def _read(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        return await self._tables.read(sql, params)

    # Processes, handlers, contracts

    async def processes(self) -> list[dict[str, Any]]:
        """Every process of the last day, those alive first."""
        now = time.time()
        rows = await self._read(
            "select process, app, host, pid, version, started, seen, stopping, troubles, paused, outbox, store from process"
            " order by seen desc"
        )
        return [
            {
                "process": process, "app": app, "host": host, "pid": pid, "version": version, "started": started / 1e6, "seen": seen / 1e6,
                "alive": not stopping and now - seen / 1e6 < GONE, "stopped": bool(stopping), "troubles": _json(troubles),
                "paused": _json(paused), "outbox": outbox, "store": store,
            }
            for process, app, host, pid, version, started, seen, stopping, troubles, paused, outbox, store in rows
        ]  # fmt: skip

    async def handlers(self) -> list[dict[str, Any]]:
        """What each app's newest process says that it handles."""
        rows = await self._read("select app, body from handler order by app, name")
        return [{"app": app, **_json(body)} for app, body in rows]

    async def contracts(self) -> list[dict[str, Any]]:
        """Every contract that a process knows, by name."""
        return [{"app": app, **_json(body)} for app, body in await self._read("select app, body from contract order by name")]

    # Flows

    async def flows(self, window: float, *, until: float | None = None) -> list[dict[str, Any]]:
        """What went from where to where in the last so many seconds."""
        end = int(time.time() if until is None else until)
        rows = await self._read(
            "select origin, target, kind, sum(count), sum(worked), sum(waited) from flow where second>? and second<=?"
            " group by origin, target, kind",
            end - int(window), end,
        )  # fmt: skip
        return [
            {"from": origin, "to": target, "kind": kind, "count": count, "worked": worked, "waited": waited}
            for origin, target, kind, count, worked, waited in rows
        ]

    async def rates(self, window: float, step: int) -> list[dict[str, Any]]:
        """Counts by kind in steps of so many seconds: the histogram over time."""
        end = int(time.time())
        start = end - int(window)
        rows = await self._read(
            "select (second / ?) * ?, kind, sum(count) from flow where second>? and second<=? and (kind<>'published' or origin like 'app:%'"
            " or origin like 'group:%') group by 1, 2 order by 1",
            step, step, start, end,
        )  # fmt: skip
        return [{"at": at, "kind": kind, "count": count} for at, kind, count in rows]

    # Events

    async def events(self, topic: str | None, *, before: int | None, limit: int) -> list[dict[str, Any]]:
        """The newest events first, each with its number for `before`."""
        where, params = ["1"], list[Any]()
        if topic is not None:
            where.append("topic=?")
            params.append(topic)
        if before is not None:
            where.append("n<?")
            params.append(before)
        sql = f"select n, {EVENT} from event where {' and '.join(where)} order by n desc limit ?"  # noqa: S608
        rows = await self._read(sql, *params, limit)
        return [{"n": row[0], **_event(row[1:])} for row in rows]

    async def event(self, id_: str, source: str | None = None) -> dict[str, Any] | None:
        """One event, and what became of it in each group."""
        rows = await self._read(f"select {EVENT} from event where id=? and (? is null or source=?) limit 1", id_, source, source)  # noqa: S608
        if not rows:
            return None
        event = _event(rows[0])
        return {**event, "attempts": await self.attempts([(event["id"], event["source"])])}

    async def attempts(self, events: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """Everything that was tried with these events, in order of time."""
        found: list[dict[str, Any]] = []
        for start in range(0, len(events), 200):
            some = events[start : start + 200]
            marks = ",".join(["(?,?)"] * len(some))
            rows = await self._read(
                "select grp, handler, id, source, kind, attempt, at, waited, worked, error, process from attempt"  # noqa: S608
                f" where (id, source) in (values {marks}) order by at, n",
                *[value for pair in some for value in pair],
            )
            found += [
                {
                    "group": group, "handler": handler, "id": id_, "source": source, "kind": kind, "attempt": attempt, "at": at / 1e6,
                    "waited": waited, "worked": worked, "error": error, "process": process,
                }
                for group, handler, id_, source, kind, attempt, at, waited, worked, error, process in rows
            ]  # fmt: skip
        return found

    async def trace(self, what: str) -> dict[str, Any] | None:
        """All that an event, a correlation or a business key has caused and was caused by."""
        rows = await self._read("select distinct correlation from event where id=? or correlation=? limit 1", what, what)
        if not rows:
            rows = await self._read("select correlation from event where key=? order by time desc limit 1", what)
        if not rows:
            return None
        correlation = rows[0][0]
        sql = f"select {EVENT} from event where correlation=? order by time, n limit ?"  # noqa: S608
        events = [_event(row) for row in await self._read(sql, correlation, MOST_TRACED + 1)]
        cut = len(events) > MOST_TRACED
        events = events[:MOST_TRACED]
        attempts = await self.attempts([(event["id"], event["source"]) for event in events])
        return {"correlation": correlation, "events": events, "attempts": attempts, "cut": cut}

    async def search(self, what: str, limit: int = 10) -> list[dict[str, Any]]:
        """Events whose id, correlation or key it is."""
        sql = f"select {EVENT} from event where id=?1 union select {EVENT} from event where key=?1 order by time desc limit ?2"  # noqa: S608
        found = [_event(row) for row in await self._read(sql, what, limit)]
        if not found:
            sql = f"select {EVENT} from event where correlation=? order by time limit ?"  # noqa: S608
            found = [_event(row) for row in await self._read(sql, what, limit)]
        return found

    # Dead letters

    async def dead(self) -> list[dict[str, Any]]:
        """Dead letters by what they have in common, those seen last first."""
        rows = await self._read(
            "select fingerprint, grp, type, max(error), count(*), count(distinct key), min(first_failure), max(last_failure), max(reason)"
            " from parked where state='dead' group by fingerprint, grp, type order by max(last_failure) desc"
        )
        return [
            {
                "fingerprint": fingerprint, "group": group, "type": type_, "error": error, "count": count, "keys": keys,
                "first": None if first is None else first / 1e6, "last": None if last is None else last / 1e6, "reason": reason,
            }
            for fingerprint, group, type_, error, count, keys, first, last, reason in rows
        ]  # fmt: skip

    async def parked(self, *, fingerprint: str | None = None, group: str | None = None, limit: int = 200) -> list[dict[str, Any]]:
        """What waits in the stores, without bodies and stacks."""
        where, params = ["1"], list[Any]()
        if fingerprint is not None:
            where.append("fingerprint=? and state='dead'")
            params.append(fingerprint)
        if group is not None:
            where.append("grp=?")
            params.append(group)
        columns = "source id handler type key time state attempts due first_failure last_failure error reason fingerprint".split()
        sql = f"select grp, {', '.join(columns)} from parked where {' and '.join(where)} order by last_failure desc limit ?"  # noqa: S608
        rows = await self._read(sql, *params, limit)
        names = ["group", *(column.removesuffix("_failure") for column in columns)]
        return [_seconds(dict(zip(names, row, strict=True)), "time", "due", "first", "last") for row in rows]

    async def parked_of(self, events: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """What waits of these events (id and source)."""
        found: list[dict[str, Any]] = []
        for start in range(0, len(events), 200):
            some = events[start : start + 200]
            marks = ",".join(["(?,?)"] * len(some))
            sql = f"select grp, source, id, state from parked where (id, source) in (values {marks})"  # noqa: S608
            rows = await self._read(sql, *[value for pair in some for value in pair])
            found += [{"group": group, "source": source, "id": id_, "state": state} for group, source, id_, state in rows]
        return found

    async def letter(self, group: str, source: str, id_: str) -> dict[str, Any] | None:
        """One parked delivery with all that is kept of it; `data` are its bytes."""
        columns = (
            "handler type key time topic partition position version correlation state attempts due first_failure last_failure"
            " error reason stack data size fingerprint"
        ).split()
        sql = f"select {', '.join(columns)} from parked where grp=? and source=? and id=?"  # noqa: S608
        rows = await self._read(sql, group, source, id_)
        if not rows:
            return None
        names = [column.removesuffix("_failure") for column in columns]
        letter = _seconds(dict(zip(names, rows[0], strict=True)), "time", "due", "first", "last")
        behind = "select count(*) from parked where grp=? and topic=? and key=? and state='queued'"
        blocked = await self._read(behind, group, letter["topic"], letter["key"])
        return {
            "group": group, "source": source, "id": id_, **letter, "position": str(letter["position"]), "blocked": blocked[0][0],
            "attempts_made": [a for a in await self.attempts([(id_, source)]) if a["group"] == group],
        }  # fmt: skip

    async def parked_counts(self) -> dict[str, dict[str, int]]:
        """How much is parked of each group, by state."""
        counts: dict[str, dict[str, int]] = {}
        for group, state, count in await self._read("select grp, state, count(*) from parked group by grp, state"):
            counts.setdefault(group, {})[state] = count
        return counts

    # Operations

    async def operations(self, limit: int = 200, group: str | None = None) -> list[dict[str, Any]]:
        """What operators asked for, the newest first."""
        rows = await self._read(
            "select id, kind, grp, by, reason, at, status, detail, answered, body from operation where ? is null or grp=?"
            " order by at desc limit ?",
            group, group, limit,
        )  # fmt: skip
        return [
            {
                "id": id_, "kind": kind, "group": grp, "by": by, "reason": reason, "at": at / 1e6, "status": status, "detail": detail,
                "answered": None if answered is None else answered / 1e6, "events": _json(body).get("events", []),
            }
            for id_, kind, grp, by, reason, at, status, detail, answered, body in rows
        ]  # fmt: skip


def _seconds(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value / 1e6 if name in names and value is not None else value for name, value in values.items()}
