"""What of an apsw connection is used here, with types."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, cast

import apsw

Row = tuple[Any, ...]


class Cursor(Protocol):
    """The rows of one statement; it can run others, one after another."""

    @property
    def connection(self) -> "Connection": ...

    def __iter__(self) -> Iterator[Row]: ...

    def fetchone(self) -> Row | None: ...

    def fetchall(self) -> list[Row]: ...

    def execute(self, statements: str, bindings: Sequence[Any] | None = None) -> "Cursor": ...

    def executemany(self, statements: str, sequenceofbindings: Iterable[Sequence[Any]]) -> "Cursor": ...


class Connection(Protocol):
    """A connection to one file."""

    @property
    def in_transaction(self) -> bool: ...

    def cursor(self) -> Cursor: ...

    def execute(self, statements: str, bindings: Sequence[Any] | None = None) -> Cursor: ...

    def executemany(self, statements: str, sequenceofbindings: Iterable[Sequence[Any]]) -> Cursor: ...

    def changes(self) -> int: ...

    def last_insert_rowid(self) -> int: ...

    def data_version(self) -> int: ...

    def readonly(self, name: str) -> bool: ...

    def set_busy_timeout(self, milliseconds: int) -> None: ...

    def set_busy_handler(self, callable: Callable[[int], bool] | None) -> None: ...

    def set_wal_hook(self, callable: Callable[[Any, str, int], int] | None) -> None: ...

    def wal_checkpoint(self, dbname: str | None = None, mode: int = 0) -> tuple[int, int]: ...

    def close(self) -> None: ...


def connect(path: str, *, flags: int, vfs: str | None) -> Connection:
    """Open a file."""
    return cast(Connection, apsw.Connection(path, flags=flags, vfs=vfs, statementcachesize=200))


def text_array(values: Sequence[str]) -> tuple[str, Any]:
    """A table of texts with a column `value`, as SQL and what to bind to it.

    A statement for many values takes and gives up Python's lock once.
    """
    bind = cast(Any, apsw).carray
    if any("\0" in value for value in values):
        # As texts they would end there; as bytes they are whole.
        return "(select cast(value as text) as value from carray(?))", bind(tuple([value.encode() for value in values]))
    return "carray(?)", bind(tuple(values))


def copy(source: Connection, target: str, finish: Callable[[Connection], None]) -> Iterator[tuple[int, int]]:
    """Copy a file through an open connection to a new one, step by step, and `finish` it; yields pages done and in all."""
    connection = apsw.Connection(target)
    try:
        with connection.backup("main", cast(apsw.Connection, source), "main") as copying:
            while not copying.done:
                copying.step(1000)
                yield copying.page_count - copying.remaining, copying.page_count
        typed = cast(Connection, connection)
        typed.execute("pragma journal_mode=delete").fetchall()
        finish(typed)
    finally:
        connection.close()
