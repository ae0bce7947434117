"""Duplicates and poison, put straight into the log, behind the back of every service."""

import asyncio
import random
import time
import uuid
from typing import Self

import apsw

from millstream.brokers.sqlite import SqliteBroker
from millstream.contracts.envelope import Envelope
from millstream.demos.shop.journal import injections
from millstream.demos.shop.options import Settings
from millstream.demos.shop.processes import Processes
from millstream.stores.sqlite_file import SqliteFile

TOPICS = ("order.placed", "stock.reserved", "order.rejected", "confirmation.sent")
POISON = (
    b'{"order_id": "half an ord',
    b'{"order_id": 17, "email": null, "lines": "none"}',
    b"\x00\xff\xfe not text at all",
    b'{"order_id": "ord_poison", "email": "a@example.com", "lines": [{"sku": "oats"}]}',
)


class Injector:
    """A producer that misbehaves on purpose."""

    def __init__(self, settings: Settings, chance: random.Random) -> None:
        self._broker = SqliteBroker(SqliteFile(str(settings.folder / "broker.db")))
        self._journal = injections(settings.folder)
        self._path = settings.folder / "broker.db"
        self._random = chance
        self.duplicates = 0
        self.poison = 0

    async def __aenter__(self) -> Self:
        await self._broker.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._broker.__aexit__(*error)

    async def duplicate(self, most: int = 1) -> int:
        """Publish recent events again, under the ids they have."""
        recent = self._recent_events()
        chosen = self._random.sample(recent, min(most, len(recent)))
        if chosen:
            await self._broker.publish(chosen)
            self.duplicates += len(chosen)
        return len(chosen)

    async def publish_poison(self) -> str:
        """Publish an OrderPlaced that breaks its contract."""
        event_id = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        body = self._random.choice(POISON)
        # Noted first: a poison event that nobody knows of could not be looked for.
        self._journal.note(kind="poison", id=event_id, source="/poisoner", data=body.hex())
        await self._broker.publish(
            [
                Envelope(
                    id=event_id,
                    source="/poisoner",
                    type="order.placed",
                    key=f"poison-{event_id[:8]}",
                    time=time.time_ns() // 1000,
                    data=body,
                    topic="order.placed",
                )
            ]
        )
        self.poison += 1
        return event_id

    def _recent_events(self) -> list[Envelope]:
        connection = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            rows = connection.execute(
                "select e.id, e.source, e.type, e.key, e.time, e.data, e.version, e.correlation, e.causation, e.attempt, "
                "t.name from broker_event e join broker_partition p on p.tp = e.tp join broker_topic t on t.id = p.topic "
                "where e.source != '/poisoner' order by e.pos desc limit 50"
            ).fetchall()
        finally:
            connection.close()
        names = ("id", "source", "type", "key", "time", "data", "version", "correlation", "causation", "attempt", "topic")
        return [Envelope(**dict(zip(names, row, strict=True))) for row in rows]


async def kill_at_random(
    processes: Processes, names: tuple[str, ...], every: float, chance: random.Random, until: asyncio.Event
) -> None:
    """`kill -9` one service after another, at moments that nobody can foresee."""
    while not await waited(until, chance.expovariate(1 / every)):
        processes.kill(chance.choice(names))


async def inject_at_random(
    injector: Injector, every: float, poison: float, chance: random.Random, until: asyncio.Event
) -> None:
    """Duplicates again and again, and a poison event now and then."""
    while not await waited(until, chance.expovariate(1 / every)):
        await injector.duplicate(chance.randint(1, 3))
        if chance.random() < poison:
            await injector.publish_poison()


async def waited(until: asyncio.Event, seconds: float) -> bool:
    """Wait so long; True at once when `until` is set."""
    try:
        await asyncio.wait_for(until.wait(), seconds)
    except TimeoutError:
        return False
    return True
