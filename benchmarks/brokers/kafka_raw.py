"""Kafka's client by hand: a thread that polls, batches handed to the loop, one commit for each; no framework."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import msgspec
from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka import Message as Record
from confluent_kafka.admin import AdminClient

from benchmarks.brokers.drive import Counting, Seen, from_many, from_one, in_batches
from benchmarks.brokers.events import ATTRIBUTES, Published, Stored, Tick, published
from benchmarks.brokers.ours import unique
from benchmarks.subject import Figures

#: Records taken at a time, and that may wait for the loop.
CHUNK = 500
MOST = 6

Headers = list[tuple[str, str | bytes | None]]
#: The record's key is the partition key.
HEADERS: Headers = [(name, value.encode()) for name, value in ATTRIBUTES.items() if name != "ce_partitionkey"]

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Stored).decode
decode_tick = msgspec.json.Decoder(Tick).decode


def remove_topic(servers: str, topic: str) -> None:
    """Have a topic gone, if it is there."""
    admin = AdminClient({"bootstrap.servers": servers})
    if topic in admin.list_topics(timeout=10).topics:
        admin.delete_topics([topic])[topic].result(10)


class Bridge:
    """A consumer's thread: hands batches to the loop, and commits what the loop has done with."""

    def __init__(self, servers: str, topic: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._batches: asyncio.Queue[list[Record]] = asyncio.Queue()
        self._room = threading.Semaphore(MOST)
        self._done: list[Record] = []
        self._over = False
        self._topic = topic
        self._consumer = Consumer(
            {
                "bootstrap.servers": servers, "group.id": unique(), "group.protocol": "consumer", "auto.offset.reset": "earliest",
                "enable.auto.commit": False, "enable.auto.offset.store": False, "fetch.queue.backoff.ms": 10,
            }
        )  # fmt: skip
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()

    def _poll(self) -> None:
        consumer = self._consumer
        consumer.subscribe([self._topic])
        while not self._over:
            done, self._done = self._done, []
            for record in done:
                consumer.store_offsets(record)
            if done:
                consumer.commit(asynchronous=True)
            first = consumer.poll(0.05)
            if first is not None:
                self._room.acquire()
                self._loop.call_soon_threadsafe(self._batches.put_nowait, [first, *consumer.consume(CHUNK - 1, 0)])
        consumer.close()

    async def run(self, handle: Callable[[Record], Awaitable[object]], stop: asyncio.Event) -> None:
        """Handle record after record until it is time to stop."""
        while not stop.is_set():
            batch = await self._batches.get()
            last: dict[int | None, Record] = {}
            for record in batch:
                await handle(record)
                last[record.partition()] = record
            self._done += last.values()
            self._room.release()

    async def close(self) -> None:
        """End the thread."""
        self._over = True
        self._room.release()
        await asyncio.to_thread(self._thread.join)


async def consume(servers: str, topic: str, count: int, *, headers: bool = False) -> Figures:
    """Decode, await the handler, commit once a batch; with the headers, all of each event is read."""
    counting = Counting(count)

    async def handler(_order: Stored) -> None:
        counting.one()

    async def handle(record: Record) -> None:
        await handler(decode(record.value() or b""))

    async def handle_with_headers(record: Record) -> None:
        _envelope = dict(record.headers() or ())
        await handler(decode(record.value() or b""))

    bridge = Bridge(servers, topic)
    await bridge.run(handle_with_headers if headers else handle, counting.stop)
    await bridge.close()
    return counting.figures()


class Sender:
    """An idempotent producer and its thread, which wakes the loop once for all acknowledgements that are there."""

    def __init__(self, servers: str, topic: str, linger: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._topic = topic
        self._acknowledged: list[tuple[asyncio.Future[None], KafkaError | None]] = []
        self._over = False
        self._producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True, "linger.ms": linger, "batch.size": 262_144})
        self._producer.list_topics(topic, timeout=10)
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()

    async def publish(self, event: Published | Tick, headers: Headers | None = None) -> None:
        """Return when it is acknowledged."""
        acknowledged = self._loop.create_future()
        key = event.order_id if isinstance(event, Published) else event.key
        self._producer.produce(self._topic, encode(event), key, on_delivery=partial(self._report, acknowledged), headers=headers)
        await acknowledged

    async def publish_many(self, events: Sequence[Published], headers: Headers | None = None) -> None:
        """Return when all of them are."""
        acknowledged = self._loop.create_future()
        left = len(events)

        def report(error: KafkaError | None, _record: Record) -> None:
            nonlocal left
            left -= 1
            if error is not None or left == 0:
                self._report(acknowledged, error, _record)

        for event in events:
            self._producer.produce(self._topic, encode(event), event.order_id, on_delivery=report, headers=headers)
        await acknowledged

    def _report(self, acknowledged: "asyncio.Future[None]", error: KafkaError | None, _record: Record) -> None:
        self._acknowledged.append((acknowledged, error))

    def _poll(self) -> None:
        while not self._over:
            self._producer.poll(0.1)
            if self._acknowledged:
                acknowledged, self._acknowledged = self._acknowledged, []
                self._loop.call_soon_threadsafe(_resolve, acknowledged)

    async def close(self) -> None:
        """End the thread."""
        self._over = True
        await asyncio.to_thread(self._thread.join)


def _resolve(acknowledged: "list[tuple[asyncio.Future[None], KafkaError | None]]") -> None:
    for future, error in acknowledged:
        assert error is None, error
        future.set_result(None)


@contextlib.asynccontextmanager
async def sending(servers: str, topic: str, linger: float) -> AsyncGenerator[Sender]:
    """A sender that is closed afterwards."""
    sender = Sender(servers, topic, linger)
    try:
        yield sender
    finally:
        await sender.close()


async def publish_from_many(servers: str, topic: str, count: int) -> Figures:
    """From 100 tasks, with a linger of a millisecond: without, there is a request for nearly every event."""
    async with sending(servers, topic, 1) as sender:
        return await from_many(sender.publish, published(0, count))


async def publish_from_one(servers: str, topic: str, count: int) -> Figures:
    """From one task, without linger."""
    async with sending(servers, topic, 0) as sender:
        return await from_one(sender.publish, published(0, count))


async def publish_batches(servers: str, topic: str, count: int, *, headers: bool = False) -> Figures:
    """A thousand at a time; with the headers of CloudEvents, or as much as their bytes."""
    async with sending(servers, topic, 1) as sender:
        return await in_batches(lambda events: sender.publish_many(events, HEADERS if headers else None), published(0, count))


async def latency(servers: str, topic: str, count: int, *, headers: bool = False) -> Figures:
    """From producer to handler, in one process; with the headers of CloudEvents, which are read."""
    seen, stop = Seen(), asyncio.Event()

    async def handle(record: Record) -> None:
        _envelope = dict(record.headers() or ()) if headers else None
        seen.one(decode_tick(record.value() or b""))

    bridge = Bridge(servers, topic)
    running = asyncio.create_task(bridge.run(handle, stop))
    async with sending(servers, topic, 0) as sender:
        figures = await seen.measure(lambda tick: sender.publish(tick, HEADERS if headers else None), count)
    running.cancel()
    await bridge.close()
    return figures


async def read_process_write(servers: str, topic: str, output: str, count: int, reserve: Callable[[Stored], Any]) -> Figures:
    """A transaction for every page: decode, handle, produce, send the offsets, commit. One thread, as most write it."""
    return await asyncio.to_thread(_transactions, servers, topic, output, count, reserve)


def _transactions(servers: str, topic: str, output: str, count: int, reserve: Callable[[Stored], Any]) -> Figures:
    counting = Counting(count)
    consumer = Consumer(
        {
            "bootstrap.servers": servers, "group.id": unique(), "group.protocol": "consumer", "auto.offset.reset": "earliest",
            "enable.auto.commit": False, "isolation.level": "read_committed", "fetch.queue.backoff.ms": 10,
        }
    )  # fmt: skip
    producer = Producer({"bootstrap.servers": servers, "transactional.id": unique(), "linger.ms": 0, "retry.backoff.ms": 5})
    producer.init_transactions(10)
    consumer.subscribe([topic])
    left = count
    while left > 0:
        first = consumer.poll(1)
        if first is None:
            continue
        records = [first, *consumer.consume(CHUNK - 1, 0)]
        producer.begin_transaction()
        for record in records:
            made = reserve(decode(record.value() or b""))
            producer.produce(output, encode(made), made.order_id)
            counting.one()
        producer.send_offsets_to_transaction(consumer.position(consumer.assignment()), consumer.consumer_group_metadata(), 10)
        producer.commit_transaction(10)
        left -= len(records)
    consumer.close()
    return counting.figures()
