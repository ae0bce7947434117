"""The witness: where the broker is no file of the shop's, it writes down every event that is published, for the proof.

It is a group of its own that handles nothing. It also notes, again and again, how much the
shop's groups have yet to do: a broker can be asked that, and the auditor asks nobody.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import apsw
import msgspec

from millstream.app.connect import connect_broker
from millstream.app.system_clock import SystemClock
from millstream.contracts.errors import MillstreamError
from millstream.core.broker import Assigned, Broker, Deliveries, Delivery, Group, PartitionState, Revoked, Topic
from millstream.demos.shop.options import GROUPS, Settings
from millstream.demos.shop.tables import WITNESS, WITNESSED

TOPICS = ("order.placed", "stock.reserved", "order.rejected", "confirmation.sent")
PAGE = 500
LOOK = 0.2
#: After an error of the broker it is asked again so much later, in seconds.
AWAY = 0.3
#: How long it may take to remove the groups at the end, in seconds.
PATIENCE = 10.0
INSERT = "insert or ignore into log(source, id, type, key, data, envelope) values(?, ?, ?, ?, ?, ?)"


class Witness:
    """Sees all that the shop publishes."""

    def __init__(self, settings: Settings, broker: Broker) -> None:
        self._broker = broker
        self._group = settings.group("witness")
        self._groups = [settings.group(name) for name in GROUPS]
        self._connection: Any = apsw.Connection(str(settings.folder / WITNESS))
        self._connection.execute("pragma journal_mode=wal; pragma synchronous=off").fetchall()
        self._connection.execute(WITNESSED)

    @classmethod
    @asynccontextmanager
    async def where_needed(cls, settings: Settings) -> AsyncGenerator[None]:
        """Watch from now on; nothing where the log is a file."""
        if not settings.broker:
            yield
            return
        async with connect_broker(settings.broker, SystemClock()) as broker:
            witness = cls(settings, broker)
            topics = [Topic(name=name, keyed=True) for name in TOPICS]
            await broker.declare(topics, [Group(name=witness._group, topics=TOPICS, start=settings.start)])
            async with asyncio.TaskGroup() as tasks:
                working = [tasks.create_task(witness._watch()), tasks.create_task(witness._look())]
                try:
                    yield
                finally:
                    for task in working:
                        task.cancel()

    async def _watch(self) -> None:
        """Write down what comes, however often the broker goes away."""
        while True:
            with contextlib.suppress(MillstreamError):
                subscription = await self._broker.open(self._group, "witness")
                try:
                    while True:
                        match await subscription.receive(PAGE, LOOK):
                            case Assigned(partitions):
                                for partition in partitions:
                                    subscription.start(partition, None)
                            case Revoked(partitions):
                                await subscription.release(partitions)
                            case Deliveries(items) if items:
                                self._write(items)
                                await subscription.settle(items)
                            case _:
                                pass
                finally:
                    await subscription.close()
            await asyncio.sleep(AWAY)

    def _write(self, items: Sequence[Delivery]) -> None:
        with self._connection:
            self._connection.executemany(INSERT, [_row(delivery) for delivery in items])

    async def _look(self) -> None:
        """Note how far the groups are; one that cannot be asked is not through."""
        while True:
            waiting = 0
            try:
                for group in (self._group, *self._groups):
                    waiting += sum(map(_behind, await self._broker.positions(group)))
            except MillstreamError:
                waiting = 1
            self._connection.execute("update standing set waiting=?", (waiting,))
            await asyncio.sleep(LOOK)


async def forget_groups(settings: Settings) -> None:
    """Leave no groups of a shop that is over on a broker that others use."""
    if not settings.broker:
        return
    with contextlib.suppress(MillstreamError, TimeoutError):
        async with asyncio.timeout(PATIENCE), connect_broker(settings.broker, SystemClock()) as broker:
            for name in ("witness", *GROUPS):
                await broker.forget(settings.group(name))


def _row(delivery: Delivery) -> tuple[object, ...]:
    envelope, message = delivery.envelope, delivery.message
    if envelope is None:
        return "", message.id if message is not None else "", "", None, message.body if message is not None else b"", None
    return envelope.source, envelope.id, envelope.type, envelope.key, envelope.data, msgspec.msgpack.encode(envelope)


def _behind(state: PartitionState) -> int:
    if state.waiting.value is not None:
        return state.waiting.value
    if state.committed.value is not None and state.head.value is not None:
        return max(0, state.head.value - state.committed.value)
    return 0
