"""A producer or a consumer that writes down all it does: `python -m tests.brokers.fault_process ROLE NAME URL TOPIC GROUP FOLDER SEED`."""

import asyncio
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from millstream.app.connect import connect_broker
from millstream.app.system_clock import SystemClock
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import MillstreamError
from millstream.core.broker import Assigned, Broker, Deliveries, Delivery, Lost, Revoked, Subscription
from millstream.testing.history import Journal, Stored

KEYS, MOST = 16, 20
#: Between two batches, and after an error, in seconds.
PAUSE, AWAY = 0.01, 0.1


async def produce(broker: Broker, topic: str, journal: Journal, chance: random.Random, stop: asyncio.Event) -> None:
    """Publish batch after batch; what is not acknowledged may be there or not, and is left at that."""
    while not stop.is_set():
        batch: list[Envelope] = []
        for _ in range(chance.randint(1, MOST)):
            key, value = f"k{chance.randrange(KEYS)}", journal.value()
            journal.sending(key, value)
            batch.append(
                Envelope(id=value, source="/faults", type="made", key=key, time=time.time_ns() // 1000, data=value.encode(), topic=topic)
            )
        try:
            results: Sequence[MillstreamError | None] = await broker.publish(batch)
        except MillstreamError as error:
            results = [error] * len(batch)
        for envelope, result in zip(batch, results, strict=True):
            if result is None:
                journal.acknowledged(str(envelope.key), envelope.id)
        await asyncio.sleep(AWAY if any(results) else chance.uniform(0, 2 * PAUSE))


async def consume(broker: Broker, group: str, consumer: str, journal: Journal, stop: asyncio.Event) -> None:
    """Take and settle, and join again after an error, until it is stopped."""
    while not stop.is_set():
        try:
            subscription = await broker.open(group, consumer.partition("/")[2])
            journal.moved(consumer)
            try:
                await _take(subscription, consumer, journal, stop)
            finally:
                await subscription.close()
        except MillstreamError:
            journal.moved(consumer)
            await asyncio.sleep(AWAY)


async def _take(subscription: Subscription, consumer: str, journal: Journal, stop: asyncio.Event) -> None:
    while not stop.is_set():
        match await subscription.receive(200, 0.1):
            case Assigned(partitions):
                journal.moved(consumer)
                for partition in partitions:
                    subscription.start(partition, None)
            case Revoked(partitions):
                journal.moved(consumer)
                await subscription.release(partitions)
            case Lost():
                journal.moved(consumer)
            case Deliveries(items) if items:
                journal.polled(consumer, [_stored(delivery) for delivery in items])
                # Before it is done: whoever dies in between takes it once more.
                journal.settled(consumer, [delivery.envelope.id for delivery in items if delivery.envelope is not None])
                await subscription.settle(items)
            case Deliveries():
                pass


def _stored(delivery: Delivery) -> Stored:
    envelope, partition = delivery.envelope, delivery.partition
    assert envelope is not None
    return Stored(f"{partition.topic}/{partition.number}", delivery.position, str(envelope.key), envelope.id)


async def main(role: str, name: str, url: str, topic: str, group: str, folder: str, seed: str) -> None:
    """Run until SIGTERM."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    journal = Journal(Path(folder), name)
    async with connect_broker(url, SystemClock()) as broker:
        if role == "produce":
            await produce(broker, topic, journal, random.Random(f"{seed}/{name}"), stop)
        else:
            await consume(broker, group, f"{group}/{name}", journal, stop)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
