"""Asks where a group stands, again and again, and says each answer: `python -m tests.brokers.kafka_asker URL GROUP`."""

import asyncio
import contextlib
import sys

from millstream.brokers.kafka import KafkaBroker
from millstream.contracts.errors import MillstreamError

#: A console asks about many groups at the same time.
AT_ONCE = 6


async def _ask(broker: KafkaBroker, group: str) -> None:
    while True:
        with contextlib.suppress(MillstreamError):
            print([state.owner for state in await broker.positions(group)], flush=True)


async def _main(url: str, group: str) -> None:
    async with KafkaBroker(url) as broker, asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(_ask(broker, group))


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
