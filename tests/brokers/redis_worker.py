"""A service on Redis that notes what it handles: `python -m tests.brokers.redis_worker NAME URL FOLDER` runs one process of it."""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

from millstream import App, Transaction, event
from millstream.brokers.redis import RedisBroker
from millstream.stores.sqlite import SqliteStore
from millstream.stores.sqlite_file import SqliteFile


@event("test.moved", key="key")
@dataclass(frozen=True)
class Moved:
    """Something has moved."""

    key: str
    number: int


def worker(name: str, url: str, folder: Path) -> App:
    """A process of the service; all that have the folder share its store."""
    app = App(name, schema="create table if not exists effect(ordinal integer primary key, key text, number integer)")
    app.configure(broker=RedisBroker(url), store=SqliteStore(SqliteFile(folder / "store.db")))

    @app.subscriber(Moved, group=name)
    async def handle(moved: Moved, transaction: Transaction) -> None:
        transaction.execute("insert into effect(key, number) values (?, ?)", (moved.key, moved.number))

    return app


if __name__ == "__main__":
    asyncio.run(worker(sys.argv[1], sys.argv[2], Path(sys.argv[3])).run())
