"""Asking the read model's tables, whoever keeps them open."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol


class Tables(Protocol):
    """Whoever runs a query on the read model."""

    async def read(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]: ...


class Names:
    """What the numbers of the tables stand for; names are never changed, only added."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._texts: dict[int, str] = {}

    async def know(self, numbers: Iterable[int]) -> dict[int, str]:
        """Texts by number, these among them."""
        if any(number not in self._texts for number in numbers):
            newest = max(self._texts, default=0)
            self._texts |= dict(await self._tables.read("select n, text from name where n>?", (newest,)))  # type: ignore[arg-type]
        return self._texts

    async def number(self, text: str) -> int | None:
        """The number of a text; None if nothing was ever called so."""
        rows = await self._tables.read("select n from name where text=?", (text,))
        return rows[0][0] if rows else None


async def by_pairs(
    tables: Tables, sql: str, pairs: Sequence[tuple[Any, ...]], params: Sequence[Any] = (), *, at_once: int = 200
) -> list[tuple[Any, ...]]:
    """Rows of a query for many tuples: `{}` in it stands for their placeholders."""
    found: list[tuple[Any, ...]] = []
    for start in range(0, len(pairs), at_once):
        some = pairs[start : start + at_once]
        marks = ",".join([f"({','.join('?' * len(some[0]))})"] * len(some))
        found += await tables.read(sql.format(marks), [*[value for pair in some for value in pair], *params])
    return found
