"""A service on RabbitMQ that notes what it handles: `python -m tests.brokers.rabbitmq_worker NAME URL FOLDER` runs one process of it."""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.brokers.words import until

from millstream import App, Transaction, event
from millstream.brokers.rabbitmq import RabbitBroker
from millstream.stores.sqlite import SqliteStore
from millstream.stores.sqlite_file import SqliteFile

ROOT = Path(__file__).parents[2]


@event("test.moved", key="key")
@dataclass(frozen=True)
class Moved:
    """Something has moved."""

    key: str
    number: int


def worker(name: str, url: str, folder: Path) -> App:
    """A process of the service; all that have the folder share its store."""
    app = App(name, schema="create table if not exists effect(ordinal integer primary key, key text, number integer)")
    app.configure(broker=RabbitBroker(url), store=SqliteStore(SqliteFile(folder / "store.db")))

    @app.subscriber(Moved, group=name)
    async def handle(moved: Moved, transaction: Transaction) -> None:
        transaction.execute("insert into effect(key, number) values (?, ?)", (moved.key, moved.number))

    return app


async def handled(app: App, least: int) -> None:
    """Wait until so many events have had their effect."""
    rows = 0

    async def look() -> None:
        nonlocal rows
        await asyncio.sleep(0.01)
        ((rows,),) = await app.read("select count(*) from effect")

    await until(lambda: rows >= least, look, lambda: f"only {rows} of {least} were handled")


async def handled_once_in_order(app: App, count: int) -> None:
    """Every event has had its effect once, and those of a key in their order."""
    rows = await app.read("select key, number from effect order by ordinal")
    assert sorted(number for _, number in rows) == list(range(count))
    for key in {key for key, _ in rows}:
        numbers = [number for k, number in rows if k == key]
        assert numbers == sorted(numbers), f"{key} came out of order"


async def started(name: str, url: str, folder: Path) -> asyncio.subprocess.Process:
    """A process of it, once it has found the server."""
    command = (sys.executable, "-m", "tests.brokers.rabbitmq_worker", name, url, str(folder))
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"started\n"
    return process


async def main() -> None:
    """One process, until it is killed."""
    async with worker(sys.argv[1], sys.argv[2], Path(sys.argv[3])) as app:
        print("started", flush=True)
        await app.run()


if __name__ == "__main__":
    asyncio.run(main())
