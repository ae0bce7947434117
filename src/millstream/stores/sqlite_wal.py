"""Keeps the write-ahead log of a file short, without making those who write wait for it."""

import contextlib
import logging
import threading
import time

import apsw

from millstream.stores.sqlite_connection import Connection

log = logging.getLogger("millstream.store")

#: Pages in the log from which they are copied into the file.
COPY_AT = 1000
#: The log's file is cut back to this size when it starts anew after having grown larger, in bytes.
KEEP_BYTES = 16 << 20
#: A log of so many pages is one that somebody's open read transaction holds up: say so, now and then.
WARN_AT, WARN_EVERY = 50_000, 60.0


class WalKeeper:
    """Copies the log's pages into the file in a thread of its own, and lets the writer finish it.

    While others write, a copy never reaches the end of the log, and only from there can
    the log start anew: so the writer copies the few pages that are left, between two
    transactions. A reader that holds an old state lets the log grow, and never blocks a
    writer; the first copy after it has gone makes the log short again.
    """

    def __init__(self, path: str, connection: Connection) -> None:
        self._path = path
        self._connection = connection
        self._thread: threading.Thread | None = None
        self._copied = False
        self._pages = 0
        self._next = COPY_AT
        self._warned = float("-inf")

    def committed(self, pages: int) -> None:
        """Learn, on the writer's thread, how long the log is now."""
        if pages < self._pages:
            self._next = COPY_AT
        self._pages = pages

    def between(self, writer: Connection) -> None:
        """Do what is due while the writer's connection is in no transaction."""
        if self._pages < self._next or (self._thread is not None and self._thread.is_alive()):
            return
        if not self._copied:
            self._thread = threading.Thread(target=self._copy, name="millstream-wal", daemon=True)
            self._thread.start()
            return
        self._copied = False
        length, copied = _copy(writer)
        self._next = COPY_AT if length == copied else self._pages + COPY_AT
        if length != copied and self._pages > WARN_AT and time.monotonic() > self._warned + WARN_EVERY:
            self._warned = time.monotonic()
            log.warning(
                "%s-wal has grown to %d MB: some process keeps a read transaction open on this file. Nothing is lost and nobody is "
                "blocked, but the disk fills up until that transaction ends.",
                self._path,
                self._pages * 4096 >> 20,
            )

    def _copy(self) -> None:
        _copy(self._connection)
        self._copied = True

    def close(self) -> None:
        """Wait for a copy that is under way."""
        if self._thread is not None:
            self._thread.join()
        self._connection.close()


def _copy(connection: Connection) -> tuple[int, int]:
    """Copy what no reader still needs from the log; says how long it is and how much of it is copied."""
    # Another process may be at it. What really fails here fails for the writer as well, and is reported there.
    with contextlib.suppress(apsw.Error):
        return connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    return 1, 0
