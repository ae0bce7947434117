"""A service on Kafka that reads and writes in one: `python -m tests.brokers.kafka_transformer NAME URL FOLDER` is a process of it."""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

from millstream import App, Context, Retry, Topic, event
from millstream.brokers.kafka import KafkaBroker
from millstream.stores.sqlite import SqliteStore
from millstream.stores.sqlite_file import SqliteFile


def transformer(name: str, url: str, folder: Path) -> App:
    """A process of the service; all that have the name and the folder are one group, which only keeps its dead letters in the store."""

    @event(f"{name}.given", key="key")
    @dataclass(frozen=True)
    class Given:
        """What is read."""

        key: str
        number: int

    @event(f"{name}.made", key="key")
    @dataclass(frozen=True)
    class Made:
        """What is written."""

        key: str
        number: int

    app = App(name, topics=[Topic(name=f"{name}.given", partitions=4), Topic(name=f"{name}.made", partitions=2)])
    app.configure(broker=KafkaBroker(url), store=SqliteStore(SqliteFile(folder / "store.db")))
    app.state.given = Given

    @app.subscriber(Given, group=name, exactly_once=True, retry=Retry(attempts=2, first=0.01, longest=0.01))
    async def make(given: Given, context: Context) -> Made:
        if given.number % 97 == 7 and context.attempt == 1:
            raise ValueError("not at once")
        if given.number % 500 == 3:
            raise ValueError("never")
        return Made(given.key, given.number)

    return app


if __name__ == "__main__":
    asyncio.run(transformer(sys.argv[1], sys.argv[2], Path(sys.argv[3])).run())
