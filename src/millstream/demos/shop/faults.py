"""What goes wrong on purpose: duplicates, poison, and services killed at moments that nobody foresees."""

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Self

import msgspec

from millstream.app.connect import connect_broker
from millstream.app.system_clock import SystemClock
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import BrokerUnavailableError, MillstreamError, StoreBusyError
from millstream.core.broker import Message
from millstream.demos.shop.journal import injections
from millstream.demos.shop.options import Settings
from millstream.demos.shop.processes import Processes
from millstream.demos.shop.tables import WITNESS, rows

TOPICS = ("order.placed", "stock.reserved", "order.rejected", "confirmation.sent")
#: Bodies that break the contract of OrderPlaced, each in another way; each gets a number of its own.
POISON = (
    b'{"order_id": "half an order %s',
    b'{"order_id": "%s", "email": null, "lines": "none"}',
    b"\x00\xff\xfe not text at all %s",
    b'{"order_id": "%s", "email": "a@example.com", "lines": [{"sku": "oats"}]}',
)
RECENT = 20
NEWEST = f"select envelope from log where envelope is not null and source != '/poisoner' order by number desc limit {8 * RECENT}"  # noqa: S608
#: The log answers or gives up after some seconds, each time.
TRIES = 10
#: A broker that is away is tried again so much later.
AWAY = 0.5


class Injector:
    """A producer that misbehaves on purpose."""

    def __init__(self, settings: Settings, chance: random.Random) -> None:
        self._broker = connect_broker(settings.broker_url, SystemClock())
        self._witness = settings.folder / WITNESS if settings.broker else None
        self._journal = injections(settings.folder)
        self._random = chance
        self.duplicates = 0
        self.poison = 0

    async def __aenter__(self) -> Self:
        await self._broker.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._broker.__aexit__(None, None, None)

    async def duplicate(self, most: int = 1) -> int:
        """Publish so many recent events again, under the ids they have; fewer when there are fewer."""
        recent = await self._recent_events()
        chosen = self._random.sample(recent, min(most, len(recent)))
        if chosen:
            await _until_taken(lambda: self._broker.publish(chosen))
            self.duplicates += len(chosen)
        return len(chosen)

    async def publish_poison(self) -> str:
        """Publish what claims to be an OrderPlaced and is none; say what it was."""
        # Another on each run, whatever its seed: a broker that removes duplicates would remove what it remembers from the run before.
        number = uuid.uuid4().hex
        body = self._random.choice(POISON).replace(b"%s", number.encode())
        # Noted first: a poison event that nobody knows of could not be looked for.
        self._journal.note(kind="poison", data=body.hex())
        if self._random.random() < 0.5:
            # As a stranger to the system would send it: bytes without an envelope.
            message = Message(topic="order.placed", body=body)
            await _until_taken(lambda: self._broker.publish_raw([message]))
        else:
            envelope = self._poisoned(body, f"poison-{number}")
            await _until_taken(lambda: self._broker.publish([envelope]))
        self.poison += 1
        return repr(body)[2:-1]

    def _poisoned(self, body: bytes, key: str) -> Envelope:
        return Envelope(
            id=str(uuid.uuid4()),
            source="/poisoner",
            type="order.placed",
            key=key,
            time=time.time_ns() // 1000,
            data=body,
            topic="order.placed",
        )

    async def _recent_events(self) -> list[Envelope]:
        """The newest good events of each partition."""
        if self._witness is not None:
            said = await asyncio.to_thread(rows, self._witness, NEWEST)
            return [msgspec.msgpack.decode(envelope, type=Envelope) for (envelope,) in said]
        found: list[Envelope] = []
        for topic in TOPICS:
            for partition, first, head in await self._broker.bounds(topic):
                if head > first:
                    last = await self._broker.read(partition, max(first, head - RECENT), RECENT)
                    found += [each.envelope for each in last if each.envelope is not None and each.envelope.source != "/poisoner"]
        return found


async def _until_taken(publish: Callable[[], Awaitable[Sequence[MillstreamError | None]]]) -> None:
    """Publish, and again while the log is locked or the broker away: what was noted has to be there."""
    errors: list[MillstreamError] = []
    tries = 0
    while tries < TRIES:
        try:
            results = await publish()
        except (StoreBusyError, BrokerUnavailableError) as error:
            results = [error]
        errors = [error for error in results if error is not None]
        if not errors:
            return
        if isinstance(errors[0], BrokerUnavailableError):
            await asyncio.sleep(AWAY)
        elif not isinstance(errors[0], StoreBusyError):
            raise errors[0]
        else:
            tries += 1
    raise errors[0]


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


async def waited(until: asyncio.Event, seconds: float | None) -> bool:
    """Wait so long (None: without end); True at once when `until` is set."""
    try:
        await asyncio.wait_for(until.wait(), seconds)
    except TimeoutError:
        return False
    return True
