"""Reading a cluster's topics without a group: history, the oldest event that waits, and Millstream's own registers."""

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as Record

from millstream.brokers.kafka_errors import complaints, error_of, failure, is_passing
from millstream.brokers.kafka_settings import CLIENT_LOG, KafkaSettings
from millstream.contracts.errors import BrokerUnavailableError
from millstream.core.broker import Figure, Partition

T = TypeVar("T")
#: Seconds without any progress after which reading fails.
PATIENCE = 10.0
LOOK = 0.1
#: Seconds after which what does not come is taken for something that may not be read yet.
WITHHELD = 2.0
#: Seconds until what was found is looked for anew: a topic may have been made anew under the same name.
REMEMBERED = 300.0


class KafkaHistory:
    """One consumer in no group, on a thread of its own, for one question at a time."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, "millstream-kafka-history")
        self._consumer: Consumer | None = None
        self._found: dict[tuple[Partition, int], Figure] = {}
        """When the first record at or after a position was stored."""
        self._nothing: set[tuple[Partition, int, int]] = set()
        """Positions behind which nothing comes up to a head."""
        self._remembered_since = time.monotonic()

    async def read(self, partition: Partition, position: int, most: int) -> list[Record]:
        """So many records from a position on, up to the end that there is now; what is gone is skipped."""
        records, _ = await self._run(lambda consumer: _read(consumer, partition, position, most), f"reading {partition.topic}")
        return records

    async def read_to_end(self, partition: Partition, position: int) -> tuple[list[Record], int]:
        """All records from a position on, and the position behind them."""
        return await self._run(lambda consumer: _read(consumer, partition, position, sys.maxsize), f"reading {partition.topic}")

    async def times_of(self, positions: Mapping[Partition, int], heads: Mapping[Partition, int]) -> dict[Partition, Figure]:
        """When the first record at or after each position was stored, in microseconds since 1970, where there is one.

        An estimate where the topic keeps the time of its producers' clocks rather than the server's.
        Groups that rest are asked about again and again, and to look costs up to a second: what was found is remembered for a while.
        """
        if time.monotonic() - self._remembered_since > REMEMBERED:
            self._found.clear()
            self._nothing.clear()
            self._remembered_since = time.monotonic()
        asked = {
            p: where for p, where in positions.items() if (p, where) not in self._found and (p, where, heads[p]) not in self._nothing
        }
        if asked:
            records = await self._run(lambda consumer: _next_of(consumer, asked), "reading the next events")
            for p, record in records.items():
                if record is not None:
                    kind, millis = record.timestamp()
                    self._found[p, asked[p]] = Figure(millis * 1000, "exact" if kind == TIMESTAMP_LOG_APPEND_TIME else "estimated")
                else:
                    # Up to there are but the marks of transactions.
                    self._nothing.add((p, asked[p], heads[p]))
        return {p: self._found[p, where] for p, where in positions.items() if (p, where) in self._found}

    async def close(self) -> None:
        """End the consumer and its thread."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._end)
        self._thread.shutdown()

    def _end(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()

    async def _run(self, question: Callable[[Consumer], T], what: str) -> T:
        def ask() -> T:
            if self._consumer is None:
                self._consumer = Consumer(self._config(), logger=CLIENT_LOG)
            deadline = time.monotonic() + PATIENCE
            while True:
                try:
                    return question(self._consumer)
                except KafkaException as error:
                    if not is_passing(error_of(error)) or time.monotonic() > deadline:
                        raise failure(error, f"{self._settings.name}: {what}") from error
                    time.sleep(LOOK)
                finally:
                    self._consumer.unassign()

        return await asyncio.get_running_loop().run_in_executor(self._thread, ask)

    def _config(self) -> dict[str, Any]:
        return {
            **self._settings.client,
            "client.id": "millstream-history",
            # librdkafka insists on a group; nothing is ever committed to it.
            "group.id": "millstream-history",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            # What there is comes at once, and the end is told soon after.
            "fetch.wait.max.ms": 10,
            "fetch.queue.backoff.ms": 10,
            "queued.max.messages.kbytes": 8192,
            "error_cb": complaints(self._settings.name),
        }


def _read(consumer: Consumer, partition: Partition, position: int, most: int) -> tuple[list[Record], int]:
    where = TopicPartition(partition.topic, partition.number)
    first, head = consumer.get_watermark_offsets(where, timeout=PATIENCE)
    position = max(position, first)
    found: list[Record] = []
    if position >= head or most <= 0:
        return found, position
    consumer.assign([TopicPartition(partition.topic, partition.number, position)])
    deadline = time.monotonic() + PATIENCE
    while len(found) < most and position < head:
        batch = _some(consumer, min(most - len(found), 1000))
        for record in batch:
            offset = record.offset() or 0
            # What came after the question is the next one's.
            if _is_end(record) or offset >= head:
                return found, offset
            found.append(record)
            position = offset + 1
        if batch:
            deadline = time.monotonic() + PATIENCE
        _check(deadline, partition)
    return found, position


def _next_of(consumer: Consumer, positions: Mapping[Partition, int]) -> dict[Partition, Record | None]:
    """The first record at or after each position, None where none is; without those that a transaction under way keeps from being read."""
    consumer.assign([TopicPartition(p.topic, p.number, position) for p, position in positions.items()])
    found: dict[Partition, Record | None] = {}
    deadline = time.monotonic() + WITHHELD
    while len(found) < len(positions) and time.monotonic() < deadline:
        for record in _some(consumer, 100):
            found.setdefault(Partition(record.topic() or "", record.partition() or 0), None if _is_end(record) else record)
    return found


def _some(consumer: Consumer, most: int) -> list[Record]:
    """What is there; waits a moment for the first only."""
    first = consumer.poll(LOOK)
    if first is None:
        return []
    return [first, *(consumer.consume(most - 1, 0) if most > 1 else ())]


def _is_end(record: Record) -> bool:
    error = record.error()
    if error is None:
        return False
    # A position behind what retention has left, or beyond the end, has nothing to show.
    if error.code() in (KafkaError._PARTITION_EOF, KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
        return True
    raise KafkaException(error)


def _check(deadline: float, partition: Partition) -> None:
    if time.monotonic() > deadline:
        raise BrokerUnavailableError(
            f"reading {partition.topic}/{partition.number}: nothing came for {PATIENCE:g} s. Check that the cluster runs."
        )
