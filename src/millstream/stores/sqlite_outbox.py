"""The outbox: what commits have published and the relay has yet to copy, in pages."""

from collections.abc import Sequence

import msgspec

from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import StoreMismatchError
from millstream.stores.sqlite_connection import Connection
from millstream.stores.sqlite_file import SqliteFile

SCHEMA = """
create table if not exists store_outbox(last integer primary key, count integer not null, events blob not null);
create table if not exists store_sent(one integer primary key check(one=1), upto integer not null);
insert or ignore into store_sent values(1, 0);
"""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Envelope]).decode

_LAST = "max((select coalesce(max(last), 0) from store_outbox), (select upto from store_sent))"


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
        ((last, sent),) = self._file.query(f"select {_LAST}, upto from store_sent")  # noqa: S608
        if after > last:
            raise StoreMismatchError(
                f"{self._file.path}: the broker has copied this store's outbox up to {after}, but it ends at {last}: "
                "the store is an older copy of itself. What it publishes now would be taken for copied already. "
                "Restore the newest copy of the store; its events must not be lost silently."
            )
        # Of a page that was sent in part, the rest alone.
        after = max(after, sent)
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
        return self._file.query(f"select {_LAST} - upto from store_sent")[0][0]  # noqa: S608
