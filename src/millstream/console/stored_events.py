"""Events and what was tried with them, from the read model: lists, traces and searches."""

import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import msgspec

from millstream.console.filter import STATUS, Condition, Filter, numbers_of
from millstream.console.schema import ERA, FAILURES, KINDS
from millstream.console.tables import Names, Tables, by_pairs

#: A trace stops after so many events, and says so.
MOST_TRACED = 2000
#: A search looks at so many events at a time, and goes on for so many seconds before it answers.
STEP = 5_000
#: As many at a time at most where an index lists them, which are all over the file.
LISTED = 1_000
PATIENCE = 0.06
#: Attempts from which percentiles are taken.
SAMPLE = 5000

EVENT = "n, id, source, type, topic, key, time, version, correlation, causation, by, partition, position"
ATTEMPT = "grp, handler, kind, attempt, at, waited, worked, error, process"

Key = tuple[str, str]
"""Id and source of an event."""


#: Lists the numbers of events, below one and not below another: asked with both, and how many there may be.
Numbers = Callable[[int, int, int], Awaitable[list[int]]]
#: The same for those of one text.
ListsOf = Callable[[str, int, int, int], Awaitable[list[int]]]


@dataclass(frozen=True, slots=True)
class Driver:
    """Which events are looked at, from the newest to the oldest: those listed, or all."""

    how: Literal["scan", "index"]
    numbers: Numbers | None = None


class StoredEvents:
    """Answers as plain values; times are seconds since 1970."""

    def __init__(self, tables: Tables, names: Names) -> None:
        self._tables = tables
        self._names = names

    async def _read(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        return await self._tables.read(sql, params)

    async def _events(self, rows: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
        names = await self._names.know([number for row in rows for number in (*row[2:5], row[10]) if number is not None])
        return [
            {
                "n": n, "id": id_, "source": names[source], "type": names[type_], "topic": names[topic], "key": key, "time": at / 1e6,
                "version": version, "correlation": correlation, "causation": causation, "by": None if by is None else names[by],
                "partition": partition, "position": None if position is None else str(position),
            }
            for n, id_, source, type_, topic, key, at, version, correlation, causation, by, partition, position in rows
        ]  # fmt: skip

    async def span(self) -> tuple[int, int]:
        """The numbers of the oldest event, and of the next one to come."""
        ((first, last),) = await self._read(
            "select (select n from event order by n limit 1), (select n from event order by n desc limit 1)"
        )
        return (0, 0) if first is None else (first, last + 1)

    # Lists

    async def page(self, filter: Filter, *, topic: str | None = None, before: int | None = None, limit: int = 50) -> dict[str, Any]:
        """The newest events that fit, and how much was looked at to find them; `next` is where to go on."""
        first, end = await self.span()
        head = end if before is None else min(before, end)
        if filter.since is not None:
            first = max(first, await self._heard(first, head, time.time() - filter.since))
        names = await self._names.know([await self._newest_name()])
        condition = Condition(filter, names, time.time())
        driver = await self._driver(filter, topic, names)
        rows, scanned, at = await self._search(driver, condition, first, head, limit)
        events = await self._events(rows)
        outcomes = await self._outcomes([event["n"] for event in events])
        for event in events:
            event["outcomes"] = outcomes.get(event["n"], [])
        return {
            "events": events, "more": at > first, "next": at if at > first else None, "scanned": scanned, "total": end - first,
            "by": driver.how, "back_to": await self._heard_at(at) if end > first else None,
        }  # fmt: skip

    async def _newest_name(self) -> int:
        return (await self._read("select coalesce(max(n), 0) from name"))[0][0]

    async def _heard_at(self, n: int) -> float | None:
        rows = await self._read("select heard from event where n>=? order by n limit 1", n)
        return float(rows[0][0]) if rows else None

    async def _heard(self, first: int, end: int, at: float) -> int:
        """The first number that was heard of at that time or later; numbers rise with the time, so a few looks are enough."""
        while first < end:
            middle = (first + end) // 2
            heard = await self._heard_at(middle)
            if heard is None or heard >= at:
                end = middle
            else:
                first = middle + 1
        return first

    async def _driver(self, filter: Filter, topic: str | None, names: dict[int, str]) -> Driver:
        """How to look: by an index where something names all that can fit, or else through everything."""
        exact: dict[str, ListsOf] = {"key": self._with_key, "id": self._with_id, "corr": self._of_correlation}
        for term in filter.only("key", "id", "corr", None):
            for field, lists in exact.items():
                numbers = partial(lists, term.value)
                if term.field in (None, field) and await numbers(1 << 62, 0, 1):
                    return Driver("index", numbers)
        if any(set(STATUS[term.value]) <= set(FAILURES) for term in filter.only("status")):
            return Driver("index", self._failed)
        for field, of in (("type", self._of_type), ("topic", self._of_topic)):
            for term in filter.only(field):
                fitting = numbers_of(names, term.value)
                if len(fitting) <= 1:
                    return Driver("index", partial(of, fitting[0] if fitting else None))
        return Driver("scan") if topic is None else Driver("index", partial(self._of_topic, await self._names.number(topic)))

    async def _search(
        self, driver: Driver, condition: Condition, first: int, head: int, limit: int
    ) -> tuple[list[tuple[Any, ...]], int, int]:
        """Look from the newest to the oldest, for a while: what was found, at how much it looked, and from where on it has seen all."""
        until = time.monotonic() + PATIENCE
        rows: list[tuple[Any, ...]] = []
        scanned, at, most = 0, head, limit
        while at > first and len(rows) < limit and (at == head or time.monotonic() < until):
            left = limit - len(rows)
            if driver.numbers is None:
                numbers, low = range(max(first, at - STEP), at), max(first, at - STEP)
                where, params = "n>=? and n<?", (low, at)
            else:
                numbers = await driver.numbers(at, first, most)
                low = numbers[-1] if len(numbers) == most else first
                most = min(2 * most, LISTED)
                where, params = "n in (select value from json_each(?))", (msgspec.json.encode(numbers).decode(),)
            sql = f"select {EVENT} from event where {where} and ({condition.sql}) order by n desc limit ?"  # noqa: S608
            found = await self._read(sql, *params, *condition.params, left)
            # Where it has found enough it has stopped: what lies behind was not looked at.
            at = found[-1][0] if len(found) == left else low
            scanned += sum(n >= at for n in numbers)
            rows += found
        return rows, scanned, at

    async def _numbers(self, sql: str, *params: Any) -> list[int]:
        return [n for (n,) in await self._read(sql, *params)]

    async def _with_key(self, key: str, below: int, first: int, most: int) -> list[int]:
        oldest, end = await self.span()
        found: list[int] = []
        for era in range((min(below, end) - 1) >> ERA, (max(first, oldest) >> ERA) - 1, -1):
            found += await self._numbers(
                f"select n from event where n >> {ERA}=? and key=? and n<? and n>=? order by n desc limit ?",  # noqa: S608
                era, key, below, first, most - len(found),
            )  # fmt: skip
            if len(found) == most:
                break
        return found

    async def _with_id(self, id_: str, below: int, first: int, most: int) -> list[int]:
        return await self._numbers("select n from event where id=? and n<? and n>=? order by n desc limit ?", id_, below, first, most)

    async def _of_correlation(self, correlation: str, below: int, first: int, most: int) -> list[int]:
        return await self._numbers(
            "select * from (select n from event where correlation=?1 and correlation<>id and n<?2 and n>=?3 order by n desc limit ?4)"
            " union all select n from event where id=?1 and correlation=?1 and n<?2 and n>=?3 order by 1 desc limit ?4",
            correlation, below, first, most,
        )  # fmt: skip

    async def _failed(self, below: int, first: int, most: int) -> list[int]:
        kinds = f"kind in ({FAILURES[0]}, {FAILURES[1]})"
        sql = f"select distinct event from attempt where {kinds} and event<? and event>=? order by event desc limit ?"  # noqa: S608
        return await self._numbers(sql, below, first, most)

    async def _of_type(self, type_: int | None, below: int, first: int, most: int) -> list[int]:
        return await self._numbers("select n from event where type=? and n<? and n>=? order by n desc limit ?", type_, below, first, most)

    async def _of_topic(self, topic: int | None, below: int, first: int, most: int) -> list[int]:
        return await self._numbers(
            "select * from (select n from event where type=?1 and topic=?1 and n<?2 and n>=?3 order by n desc limit ?4) union all"
            " select * from (select n from event where topic=?1 and topic<>type and n<?2 and n>=?3 order by n desc limit ?4)"
            " order by 1 desc limit ?4",
            topic, below, first, most,
        )  # fmt: skip

    async def _outcomes(self, numbers: Sequence[int]) -> dict[int, list[tuple[str, str]]]:
        sql = "with w(n) as (values {}) select distinct event, grp, kind from w cross join attempt on event=w.n"
        rows = await by_pairs(self._tables, sql, [(n,) for n in numbers])
        names = await self._names.know([group for _, group, _ in rows])
        found: defaultdict[int, list[tuple[str, str]]] = defaultdict(list)
        for n, group, kind in rows:
            found[n].append((names[group], _kind(kind)))
        return {n: sorted(outcomes) for n, outcomes in found.items()}

    # Single events

    async def event(self, id_: str, source: str | None = None) -> dict[str, Any] | None:
        """One event."""
        sql = f"select {EVENT} from event where id=? and (? is null or source=(select n from name where text=?)) limit 1"  # noqa: S608
        events = await self._events(await self._read(sql, id_, source, source))
        return events[0] if events else None

    async def attempts(self, events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Everything that was tried with these events, in order of time."""
        by_number = {event["n"]: event for event in events}
        sql = f"with w(n) as (values {{}}) select event, seq, {ATTEMPT} from w cross join attempt on event=w.n"  # noqa: S608
        rows = await by_pairs(self._tables, sql, [(n,) for n in by_number])
        names = await self._names.know([number for row in rows for number in (row[2], row[3], row[10])])
        return [
            {
                "group": names[group], "handler": names[handler], "id": by_number[event]["id"], "source": by_number[event]["source"],
                "kind": _kind(kind), "attempt": attempt, "at": at / 1e6, "waited": waited, "worked": worked, "error": error or "",
                "process": names[process],
            }
            for event, _, group, handler, kind, attempt, at, waited, worked, error, process in sorted(rows, key=_in_time)
        ]  # fmt: skip

    async def trace(self, what: str) -> dict[str, Any] | None:
        """All that an event, a correlation or a business key has caused and was caused by."""
        found = (
            await self._with_id(what, 1 << 62, 0, 1)
            or await self._of_correlation(what, 1 << 62, 0, 1)
            or await self._with_key(what, 1 << 62, 0, 1)
        )
        if not found:
            return None
        ((correlation,),) = await self._read("select correlation from event where n=?", found[0])
        return await self.correlated(correlation)

    async def correlated(self, correlation: str) -> dict[str, Any]:
        """The events of one correlation in order of time, as many as are shown at most."""
        rows = await self._read(
            f"select {EVENT} from event where correlation=? and correlation<>id order by n limit ?", correlation, MOST_TRACED + 1  # noqa: S608
        )
        rows += await self._read(f"select {EVENT} from event where id=?1 and correlation=?1", correlation)  # noqa: S608
        events = await self._events(sorted(rows))
        cut = len(events) > MOST_TRACED
        events = sorted(events[:MOST_TRACED], key=lambda event: (event["time"], event["n"]))
        return {"correlation": correlation, "events": events, "cut": cut}

    async def search(self, what: str, limit: int = 10) -> list[dict[str, Any]]:
        """Events whose id, key or correlation it is; else those whose id begins with it, or whose key does among the newest."""
        for exact in (self._with_id, self._with_key, self._of_correlation):
            if numbers := await exact(what, 1 << 62, 0, limit):
                return await self._numbered(numbers)
        # The next text after all that begin with it.
        beyond = what[:-1] + chr(min(ord(what[-1]) + 1, 0x10FFFF)) if what else ""
        _, end = await self.span()
        numbers = await self._numbers(
            f"select n from event where n >> {ERA}=? and key>=? and key<? limit ?", max(0, end - 1) >> ERA, what, beyond, limit  # noqa: S608
        )
        numbers += await self._numbers("select n from event where id>=? and id<? order by id limit ?", what, beyond, limit - len(numbers))
        return await self._numbered(list(dict.fromkeys(numbers)))

    async def _numbered(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        sql = f"select {EVENT} from event where n in ({','.join('?' * len(numbers))}) order by n desc"  # noqa: S608
        return await self._events(await self._read(sql, *numbers))

    async def recent(self, window: float) -> list[tuple[str, str, float, float]]:
        """Type, group, seconds waited and worked of the last deliveries that were handled, some thousand at most."""
        rows = await self._read(
            "select e.type, a.grp, a.waited, a.worked from (select * from attempt order by event desc, seq desc limit ?) a"
            " cross join event e on e.n=a.event where a.kind=0 and a.at>=?",
            SAMPLE, int((time.time() - window) * 1e6),
        )  # fmt: skip
        names = await self._names.know([number for row in rows for number in row[:2]])
        return [(names[type_], names[group], waited, worked) for type_, group, waited, worked in rows]



def _kind(number: int) -> str:
    return KINDS[number]


def _in_time(row: tuple[Any, ...]) -> tuple[int, int]:
    """The order of attempts: when, and then as they were told."""
    return row[6], row[1]
