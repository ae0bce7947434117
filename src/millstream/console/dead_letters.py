"""What is parked in the stores of services, as facts tell of it."""

from collections.abc import Sequence
from typing import Any

from millstream.console.tables import Tables, by_pairs

LISTED = "source id handler type key time state attempts due first_failure last_failure error reason fingerprint at".split()
WHOLE = (
    "handler type key time topic partition position version correlation state attempts due first_failure last_failure"
    " error reason size fingerprint at"
).split()
TIMES = ("time", "due", "first", "last", "at")


class DeadLetters:
    """Answers as plain values; times are seconds since 1970."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def _read(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        return await self._tables.read(sql, params)

    async def groups(self) -> list[dict[str, Any]]:
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

    async def listed(
        self, *, fingerprint: str | None = None, group: str | None = None, state: str | None = None, limit: int = 200
    ) -> list[dict[str, Any]]:
        """What is parked, without bodies and stacks; what was discarded only when it is asked for."""
        where, params = ["state<>'discarded'" if state is None else "state=?"], list[Any]() if state is None else [state]
        if fingerprint is not None:
            where.append("fingerprint=?")
            params.append(fingerprint)
        if group is not None:
            where.append("grp=?")
            params.append(group)
        sql = f"select grp, {', '.join(LISTED)} from parked where {' and '.join(where)} order by last_failure desc limit ?"  # noqa: S608
        rows = await self._read(sql, *params, limit)
        names = ["group", *(column.removesuffix("_failure") for column in LISTED)]
        return [_seconds(dict(zip(names, row, strict=True))) for row in rows]

    async def of_events(self, events: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """What is parked of these events (id and source)."""
        sql = (
            "with w(id, source) as (values {}) select grp, p.source, p.id, state from w cross join parked p"
            " on p.id=w.id and p.source=w.source"
        )
        rows = await by_pairs(self._tables, sql, events)
        return [{"group": group, "source": source, "id": id_, "state": state} for group, source, id_, state in rows]

    async def letter(self, group: str, source: str, id_: str) -> dict[str, Any] | None:
        """One parked delivery with all that is kept of it; `data` are its bytes."""
        sql = f"select {', '.join(WHOLE)} from parked where grp=? and source=? and id=?"  # noqa: S608
        rows = await self._read(sql, group, source, id_)
        bodies = await self._read("select stack, data from letter where grp=? and source=? and id=?", group, source, id_)
        if not rows or not bodies:
            return None
        letter = _seconds(dict(zip([column.removesuffix("_failure") for column in WHOLE], rows[0], strict=True)))
        sql = "select count(*) from parked where grp=? and topic=? and key=? and state='queued'"
        blocked = await self._read(sql, group, letter["topic"], letter["key"])
        return {
            "group": group, "source": source, "id": id_, **letter, "position": str(letter["position"]), "blocked": blocked[0][0],
            "stack": bodies[0][0], "data": bodies[0][1],
        }  # fmt: skip

    async def counts(self) -> dict[str, dict[str, int]]:
        """How much is parked of each group, by state."""
        counts: dict[str, dict[str, int]] = {}
        for group, state, count in await self._read("select grp, state, count(*) from parked group by grp, state"):
            counts.setdefault(group, {})[state] = count
        return counts


def _seconds(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value / 1e6 if name in TIMES and value is not None else value for name, value in values.items()}
