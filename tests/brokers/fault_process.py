"""A client that writes down all it does: `python -m tests.brokers.fault_process ROLE NAME URL MADE TURNED GROUP FOLDER SEED`.

It `produce`s events to MADE, `consume`s for a group, `turn`s each event of MADE into one of TURNED in a transaction
of the broker, or does the `work` of an app whose handler has its effect in a store.
"""

import asyncio
import faulthandler
import json
import random
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millstream import App, Topic, Transaction, event
from millstream.app.connect import connect_broker
from millstream.app.system_clock import SystemClock
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import FencedError, MillstreamError, PublishError, TooLargeError
from millstream.core.broker import Assigned, Broker, Deliveries, Delivery, Lost, Revoked, Subscription
from millstream.testing.history import Journal, Stored

KEYS, MOST = 16, 20
#: Between two batches, and after an error, in seconds.
PAUSE, AWAY = 0.05, 0.1
#: How often a batch has an event that is too large, and a transaction is not committed at once, or not at all.
TOO_LARGE, SLOW, UNDONE = 0.01, 0.1, 0.05
#: How long a transaction is open that is not committed at once, in seconds.
OPEN = 0.1
SCHEMA = "create table if not exists effect(key text not null, value text not null)"


def made(topic: str, key: str, id: str, value: str, *, size: int = 0) -> Envelope:
    """An event that tells of a value, which is its own or that of the event it was made of."""
    data = json.dumps({"key": key, "value": value, "more": "x" * size} if size else {"key": key, "value": value})
    return Envelope(id=id, source="/faults", type="made", key=key, time=time.time_ns() // 1000, data=data.encode(), topic=topic)


async def produce(broker: Broker, topic: str, journal: Journal, chance: random.Random, stop: asyncio.Event) -> None:
    """Publish batch after batch; what is not acknowledged may be there or not, unless it was refused."""
    while not stop.is_set():
        batch: list[Envelope] = []
        large = chance.randrange(MOST) if chance.random() < TOO_LARGE else MOST
        for number in range(chance.randint(1, MOST)):
            key, value = f"k{chance.randrange(KEYS)}", journal.value()
            journal.sending(key, value)
            batch.append(made(topic, key, value, value, size=broker.features.largest if number == large else 0))
        try:
            results: Sequence[MillstreamError | None] = await broker.publish(batch)
        except MillstreamError as error:
            results = [error] * len(batch)
        for envelope, result in zip(batch, results, strict=True):
            if result is None:
                journal.acknowledged(str(envelope.key), envelope.id)
            elif isinstance(result, TooLargeError):
                journal.failed(str(envelope.key), envelope.id)
        await asyncio.sleep(AWAY if any(results) else chance.uniform(0, 2 * PAUSE))


class Consumer:
    """A member of a group that only reads."""

    def __init__(self, broker: Broker, group: str, name: str, journal: Journal, stop: asyncio.Event) -> None:
        self._broker, self._group, self._name, self._journal, self._stop = broker, group, name, journal, stop
        self._called = f"{group}/{name}"

    async def run(self) -> None:
        """Take and settle, and join again after an error, until it is stopped."""
        while not self._stop.is_set():
            try:
                subscription = await self._broker.open(self._group, self._name)
                self._moved()
                try:
                    await self._take(subscription)
                finally:
                    await subscription.close()
            except MillstreamError:
                self._moved()
                await asyncio.sleep(AWAY)

    async def _take(self, subscription: Subscription) -> None:
        while not self._stop.is_set():
            match await subscription.receive(200, 0.1):
                case Assigned(partitions):
                    self._moved()
                    for partition in partitions:
                        subscription.start(partition, None)
                case Revoked(partitions):
                    self._moved()
                    await subscription.release(partitions)
                case Lost():
                    self._moved()
                case Deliveries(items) if items:
                    await self._handle(subscription, items)
                case Deliveries():
                    pass

    async def _handle(self, subscription: Subscription, items: Sequence[Delivery]) -> None:
        self._journal.polled(self._called, [_stored(delivery) for delivery in items])
        # Before it is done: whoever dies in between takes it once more.
        self._journal.settled(self._called, [delivery.envelope.id for delivery in items if delivery.envelope is not None])
        await subscription.settle(items)

    def _moved(self) -> None:
        self._journal.moved(self._called)


class Turner(Consumer):
    """A member of a group that publishes an event for each it reads, and settles, in one transaction."""

    def __init__(
        self, broker: Broker, group: str, name: str, journal: Journal, stop: asyncio.Event, topic: str, chance: random.Random
    ) -> None:
        super().__init__(broker, group, name, journal, stop)
        self._topic, self._chance = topic, chance
        self._sending: list[Envelope] = []
        self._asked = False
        self.is_watched = False
        """Whether somebody else calls `commit`."""

    async def _handle(self, subscription: Subscription, items: Sequence[Delivery]) -> None:
        large = self._chance.random() < TOO_LARGE
        while not await self._try(subscription, items, large=large):
            large = False

    async def _try(self, subscription: Subscription, items: Sequence[Delivery], *, large: bool) -> bool:
        """Whether it was published; False where it was refused, and may be without what was too large."""
        self._sending, self._asked = [], False
        for delivery in items:
            assert delivery.envelope is not None
            key, value = str(delivery.envelope.key), self._journal.value()
            self._journal.sending(key, value)
            size = self._broker.features.largest if large and delivery is items[-1] else 0
            self._sending.append(made(self._topic, key, value, json.loads(delivery.envelope.data)["value"], size=size))
        if not self.is_watched:
            self.commit()
        try:
            await subscription.publish_and_settle(self._sending, items)
        except PublishError:
            self._failed()
            return False
        except FencedError:
            self._failed()
            raise
        except MillstreamError:
            if not self._asked:
                self._failed()
            raise
        for envelope in self._sending:
            self._journal.acknowledged(str(envelope.key), envelope.id)
        return True

    def commit(self) -> None:
        """Note that the transaction is about to be committed; from now on nobody knows until it is."""
        if not self._asked:
            for envelope in self._sending:
                self._journal.committing(str(envelope.key), envelope.id)
            self._asked = True

    def _failed(self) -> None:
        for envelope in self._sending:
            self._journal.failed(str(envelope.key), envelope.id)

    def _moved(self) -> None:
        """It writes down nothing of what it reads."""


def watch_kafka(turner: Turner, chance: random.Random) -> None:
    """Have its transactions note when they commit, and some of them wait with it, or be undone instead."""
    from confluent_kafka import KafkaError, KafkaException, Producer

    from millstream.brokers import kafka_transactions

    class Watched(Producer):
        def commit_transaction(self, *arguments: Any) -> None:
            self.flush(OPEN)
            way = chance.random()
            if way < SLOW:
                time.sleep(OPEN)
            if way > 1 - UNDONE:
                raise KafkaException(KafkaError(KafkaError._FAIL, "a run of faults undoes this"))
            turner.commit()
            super().commit_transaction(*arguments)

    kafka_transactions.Producer = Watched  # type: ignore[misc]
    turner.is_watched = True


def watch_rabbitmq(journal: Journal) -> None:
    """Have what its publisher sends again be noted: what a lost connection left in doubt a stream may hold twice, and nothing else."""
    from millstream.brokers.rabbitmq_connection import Channel
    from millstream.brokers.rabbitmq_publisher import Outgoing, RabbitPublisher

    lost, refuse = RabbitPublisher._lost, RabbitPublisher._refuse

    def note(message: Outgoing) -> None:
        event = json.loads(message._content[2])
        journal.repeating(event["key"], event["value"])

    def noted_lost(publisher: RabbitPublisher, channel: Channel, error: MillstreamError) -> None:
        if publisher._channel is channel:
            for message in publisher._flight.values():
                note(message)
        lost(publisher, channel, error)

    def noted_refuse(publisher: RabbitPublisher, message: Outgoing) -> None:
        note(message)
        refuse(publisher, message)

    RabbitPublisher._lost = noted_lost  # type: ignore[method-assign]
    RabbitPublisher._refuse = noted_refuse  # type: ignore[method-assign]


def worker(url: str, topic: str, group: str, folder: Path) -> App:
    """A service that has an effect in its store for each event, once."""

    @event("made", topic=topic, key="key")
    @dataclass(frozen=True)
    class Made:
        key: str
        value: str

    app = App(
        "faults", broker=url, store=f"sqlite:///{folder}/worker.db", schema=SCHEMA, topics=[Topic(name=topic, partitions=4, keyed=True)]
    )

    @app.subscriber(Made, group=group)
    async def note(event: Made, tx: Transaction) -> None:
        tx.execute("insert into effect values(?, ?)", (event.key, event.value))

    return app


def _stored(delivery: Delivery) -> Stored:
    envelope, partition = delivery.envelope, delivery.partition
    assert envelope is not None
    return Stored(f"{partition.topic}/{partition.number}", delivery.position, str(envelope.key), envelope.id)


async def main(role: str, name: str, url: str, topic: str, turned: str, group: str, folder: str, seed: str) -> None:
    """Run until SIGTERM; at SIGUSR1 say what all threads are doing."""
    faulthandler.register(signal.SIGUSR1)
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    chance = random.Random(f"{seed}/{name}")
    if role == "work":
        async with worker(url, topic, group, Path(folder)) as app:
            Journal(Path(folder), name)
            await app.run(stop)
        return
    async with connect_broker(url, SystemClock()) as broker:
        journal = Journal(Path(folder), name)
        if role == "produce":
            if url.startswith("amqp:"):
                watch_rabbitmq(journal)
            await produce(broker, topic, journal, chance, stop)
        elif role == "consume":
            await Consumer(broker, group, name, journal, stop).run()
        else:
            turner = Turner(broker, group, name, journal, stop, turned, chance)
            if url.startswith("kafka:"):
                watch_kafka(turner, chance)
            await turner.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
