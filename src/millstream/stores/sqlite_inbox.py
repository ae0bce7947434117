"""The inbox: which events a group has handled, within a window of time."""

from collections.abc import Sequence

from millstream.core.store import Mark, Parked
from millstream.stores.sqlite_connection import Connection, text_array
from millstream.stores.sqlite_file import SqliteFile

SCHEMA = """
create table if not exists store_scope(
  id integer primary key autoincrement, grp text not null, generation integer not null, source text not null,
  unique(grp, generation, source));
create table if not exists store_inbox(
  scope integer not null, id text not null, at integer not null, primary key(scope, id)) without rowid;
"""

#: Old marks are swept a few at a time, so that no commit pays for many.
SWEEP = 500


class SqliteInbox:
    """Marks as rows; a scope stands for (group, generation, source), so that a mark is little more than its id."""

    def __init__(self, file: SqliteFile, window: float) -> None:
        file.require(SCHEMA)
        file.on_rollback.add(self.forget_scopes)
        file.on_foreign.add(self.forget_scopes)
        self._file = file
        self._window = int(window * 1e6)
        self._scopes: dict[tuple[str, int, str], int] = {}
        self._sweep_from: tuple[int, str] = (0, "")
        self._since_sweep = 0

    def forget_scopes(self) -> None:
        """Ask the file again: what was learnt may have been rolled back or removed."""
        self._scopes.clear()

    def add(self, connection: Connection, group: str, generation: int, marks: Sequence[Mark], now: int) -> int:
        """Mark as handled, inside the caller's transaction; what is marked already stays so. Says how many were not."""
        added = 0
        by_source: dict[str, list[str]] = {}
        for mark in marks:
            by_source.setdefault(mark.source, []).append(mark.id)
        for source, ids in by_source.items():
            scope = self._scope(connection, group, generation, source)
            table, bound = text_array(ids)
            connection.execute(f"insert or ignore into store_inbox select ?, value, ? from {table}", (scope, now, bound))  # noqa: S608
            added += connection.changes()
        self._since_sweep += len(marks)
        if self._since_sweep >= SWEEP:
            self._sweep(connection, now)
        return added

    def knows(self, connection: Connection, parked: Parked, generation: int) -> bool:
        """Whether the event of a delivery that is to be parked anew is marked, as seen inside the caller's transaction."""
        if parked.id or parked.envelope is None:
            return False
        sql = "select 1 from store_inbox i join store_scope s on s.id = i.scope where s.grp=? and s.generation=? and s.source=? and i.id=?"
        what = (parked.group, generation, parked.envelope.source, parked.envelope.id)
        return connection.execute(sql, what).fetchone() is not None

    def _scope(self, connection: Connection, group: str, generation: int, source: str) -> int:
        key = (group, generation, source)
        scope = self._scopes.get(key)
        if scope is None:
            connection.execute("insert or ignore into store_scope(grp, generation, source) values(?,?,?)", key)
            row = connection.execute("select id from store_scope where grp=? and generation=? and source=?", key).fetchone()
            assert row is not None
            scope = self._scopes[key] = int(row[0])
        return scope

    def _sweep(self, connection: Connection, now: int) -> None:
        most = 2 * self._since_sweep
        self._since_sweep = 0
        start = self._sweep_from
        end = connection.execute(
            "select scope, id from store_inbox where (scope, id) > (?, ?) order by scope, id limit 1 offset ?", (*start, most)
        ).fetchone()
        old = now - self._window
        if end is None:
            self._sweep_from = (0, "")
            connection.execute("delete from store_inbox where (scope, id) > (?, ?) and at < ?", (*start, old))
        else:
            self._sweep_from = end
            connection.execute(
                "delete from store_inbox where (scope, id) > (?, ?) and (scope, id) <= (?, ?) and at < ?", (*start, *end, old)
            )

    def handled(self, group: str, generation: int, marks: Sequence[Mark]) -> set[Mark]:
        """Which of these are marked."""
        by_source: dict[str, list[Mark]] = {}
        for mark in marks:
            by_source.setdefault(mark.source, []).append(mark)
        found: set[Mark] = set()
        for source, asked in by_source.items():
            scope = self._file.query("select id from store_scope where grp=? and generation=? and source=?", (group, generation, source))
            if not scope:
                continue
            table, bound = text_array([mark.id for mark in asked])
            sql = f"select id from store_inbox where scope=? and id in {table}"  # noqa: S608
            known = {id_ for (id_,) in self._file.query(sql, (scope[0][0], bound))}
            if known:
                found.update(mark for mark in asked if mark.id in known)
        return found

    def has_marks(self, group: str, generation: int) -> bool:
        """Whether anything may be marked."""
        return bool(self._file.query("select 1 from store_scope where grp=? and generation=? limit 1", (group, generation)))

    def remove(self, connection: Connection, group: str) -> None:
        """Forget the marks of a group, of every generation; their rows go with their time, since millions at once would take long."""
        connection.execute("delete from store_scope where grp=?", (group,))
        self.forget_scopes()
