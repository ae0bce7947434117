"""The outbox: what commits have published and the relay has yet to copy, in pages."""

from collections.abc import Sequence

import msgspec

from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import StoreMismatchError
from millstream.stores.sqlite_connection import Connection
from millstream.stores.sqlite_file import SqliteFile

SCHEMA = """
create table if not exists store_outbox(last integer primary key, count integer not null, events blob not null);
create table if not exists store_sent(one integer primary key check(one=1), upto integer not null, base integer not null);
insert or ignore into store_sent values(1, 0, 0);
"""

#: A copy numbers on from so far ahead that no number of it was ever given by the original.
AHEAD = 1 << 32

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Envelope]).decode

_LAST = "max((select coalesce(max(last), 0) from store_outbox), (select max(upto, base) from store_sent))"


class SqliteOutbox:
    """Each commit's events are one row, named by the number of its last event; numbers are never used twice."""

    def __init__(self, file: SqliteFile) -> None:
        file.require(SCHEMA)
        self._file = file

    def add(self, connection: Connection, events: Sequence[Envelope]) -> None:
        """Append events, inside the caller's transaction."""
        count = len(events)
        connection.execute(f"insert into store_outbox values({_LAST} + ?, ?, ?)", (count, count, _encode(events)))  # noqa: S608

    def after(self, after: int, most: int) -> list[tuple[int, Envelope]]:
        """The next events beyond `after`, each with its number."""
        found: list[tuple[int, Envelope]] = []
        ((last, sent, base),) = self._file.query(f"select {_LAST}, upto, base from store_sent")  # noqa: S608
        if after > last:
            raise StoreMismatchError(
                f"{self._file.path}: the broker has copied this store's outbox up to {after}, but it ends at {last}: the store's file "
                "is an older copy of itself, and what it publishes now would be taken for copied already. Restore the newest copy, "
                "or one made by `millstream backup`, which can go on beside what its original has published."
            )
        if 0 < after < sent:
            raise StoreMismatchError(
                f"{self._file.path}: the broker says that it has copied this store's outbox up to {after}, but it had acknowledged "
                f"{sent}: the broker's file is an older copy of itself, and {sent - after} events are missing in it. Restore the newest "
                "copy of the broker's file, or give the services a new one."
            )
        # Of a page that was sent in part, the rest alone.
        after = max(after, sent, base)
        while len(found) < most:
            page = self._file.query(
                "select last, count, events from store_outbox where last>? order by last limit 1", (found[-1][0] if found else after,)
            )
            if not page:
                break
            last, count, events = page[0]
            numbered = zip(range(last - count + 1, last + 1), _decode(events), strict=True)
            found += [(number, envelope) for number, envelope in numbered if number > after]
        return found[:most]

    def sent(self, connection: Connection, upto: int) -> None:
        """Remove what the broker has; a page goes when all of it is there."""
        connection.execute("update store_sent set upto=max(upto, ?)", (upto,))
        connection.execute("delete from store_outbox where last<=?", (upto,))

    def size(self) -> int:
        """How many events have yet to be sent."""
        return self._file.query(f"select {_LAST} - max(upto, base) from store_sent")[0][0]  # noqa: S608


def renumber(connection: Connection) -> None:
    """Make a copy fit to take its original's place: its events get numbers that the original has never told a broker.

    What waited in the copy may have been sent since; it is sent again, and whoever reads it knows its id.
    """
    if connection.execute("select 1 from sqlite_schema where name='store_outbox'").fetchone() is not None:
        connection.execute("update store_outbox set last=last+?", (AHEAD,))
        connection.execute("update store_sent set base=max(upto, base)+?", (AHEAD,))
