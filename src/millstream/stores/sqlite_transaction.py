"""The write transaction of a store's file, as its borrower sees it."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import apsw

from millstream.contracts.errors import NotStartedError, StatementError, StoreError
from millstream.core.store import Page
from millstream.stores.sqlite_connection import Connection, Cursor
from millstream.stores.sqlite_errors import sqlite_errors, translated
from millstream.stores.sqlite_writer import Borrowed

#: What would end or bend the transaction under Millstream's feet, at the start of any of several statements.
_SPACE = r"(?:\s|--[^\n]*\n|/\*.*?\*/)*"
_FORBIDDEN = re.compile(
    rf"(?:^|;){_SPACE}(?:(begin|commit|end|rollback|savepoint|release|attach|detach|vacuum)|(?:insert|update){_SPACE}or{_SPACE}(rollback))\b",
    re.IGNORECASE | re.DOTALL,
)
MOST_CHECKED = 1_000


class SqliteTransaction:
    """On the thread of whoever borrowed it.

    The borrower's mistakes raise `StatementError`, and the transaction goes on; what is
    wrong with the file raises a `StoreError`, and nothing of the transaction is kept.
    """

    _checked: set[str] = set()  # noqa: RUF012 - statements seen to be harmless, by all transactions

    def __init__(self, path: str, borrowed: Borrowed, apply: Callable[[Connection, Page], None]) -> None:
        self._path = path
        self._borrowed = borrowed
        self._apply = apply
        # One for all statements: making a cursor costs as much as a small insert.
        self._cursor = borrowed.connection.cursor() if borrowed.connection is not None else None

    @property
    def _open(self) -> Cursor:
        if self._cursor is None:
            raise NotStartedError("this transaction has ended: use it only while its handler runs")
        return self._cursor

    def execute(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        cursor = self._open
        if sql not in self._checked:
            self._check(sql)
        try:
            return cursor.execute(sql, tuple(params)).fetchall()
        except apsw.Error as error:
            raise translated(error, self._path) from error

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        cursor = self._open
        if sql not in self._checked:
            self._check(sql)
        try:
            cursor.executemany(sql, [tuple(row) for row in rows])
        except apsw.Error as error:
            raise translated(error, self._path) from error

    def _check(self, sql: str) -> None:
        found = _FORBIDDEN.search(sql)
        if found is not None:
            raise StatementError(
                f"{(found[1] or found[2]).upper()} cannot be used here: the transaction is Millstream's, which commits it together with "
                "the events and the inbox. Leave it out; to take a handler's writes back, raise an exception."
            )
        if len(self._checked) >= MOST_CHECKED:
            self._checked.clear()
        self._checked.add(sql)

    def savepoint(self) -> None:
        cursor = self._still_there()
        try:
            cursor.execute("savepoint handler")
        except apsw.Error as error:
            raise translated(error, self._path) from error

    def release(self) -> None:
        try:
            self._open.execute("release handler")
        except apsw.Error as error:
            self._still_there()
            raise translated(error, self._path) from error

    def rollback(self) -> None:
        with sqlite_errors(self._path):
            cursor = self._still_there()
            cursor.execute("rollback to handler")
            cursor.execute("release handler")

    def _still_there(self) -> Cursor:
        cursor = self._open
        if not cursor.connection.in_transaction:
            raise StoreError(f"{self._path}: SQLite gave up the transaction after an error of the disk; nothing of it was kept.")
        return cursor

    def apply(self, page: Page) -> None:
        with sqlite_errors(self._path):
            self._apply(self._still_there().connection, page)

    def end(self, *, commit: bool) -> Borrowed:
        self._cursor = None
        return self._borrowed.end(commit=commit)
