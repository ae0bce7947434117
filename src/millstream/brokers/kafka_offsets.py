"""Where the groups of a cluster stand, and moving those that rest, through consumers that never join.

librdkafka's `AdminClient` could be asked the same, but where it asks a group's coordinator and meets a connection that is
just going, it aborts the process (its issues 4605 and 3663). The way in which members themselves ask does not.
"""

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from millstream.brokers.kafka_errors import complaints, error_of, failure, is_passing
from millstream.brokers.kafka_settings import CLIENT_LOG, KafkaSettings
from millstream.contracts.errors import BrokerError
from millstream.core.broker import Partition

T = TypeVar("T")
#: So many groups are asked about at a time.
AT_ONCE = 16
#: The consumers that are kept, each with its connections, for who asks about the same groups again and again.
KEPT = 32
#: Seconds that a question may take with its repetitions, that its coordinator has for an answer, and until it is asked again.
PATIENCE = 10.0
COORDINATOR = 3.0
PAUSE = 0.05
#: Seconds between two looks whether a commit was answered.
LOOK = 0.005
#: Somebody works in the group.
BUSY = (KafkaError.UNKNOWN_MEMBER_ID, KafkaError.NON_EMPTY_GROUP, KafkaError.REBALANCE_IN_PROGRESS, KafkaError.ILLEGAL_GENERATION)


@dataclass(frozen=True, slots=True)
class Stand:
    """Where a group stands in a partition."""

    offset: int
    member: str
    """Who has said so: the partition's owner, as long as the group runs. Empty when it was nobody of Millstream."""


class KafkaOffsets:
    """Asks and moves groups, in threads; a consumer is used by one at a time, and by nobody any more after an error."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(AT_ONCE, "millstream-kafka-offsets")
        self._idle: OrderedDict[str, Consumer] = OrderedDict()
        """By group, the one that was used last at the end."""
        self._lock = threading.Lock()
        self._complain = complaints(settings.name)
        self._is_open = True

    async def committed(self, group: str, partitions: Iterable[Partition]) -> dict[Partition, Stand | None]:
        """Where a group stands; None where it never was."""
        wanted = [TopicPartition(p.topic, p.number) for p in partitions]
        if not wanted:
            return {}
        found = await self._run(f"asking where group {group!r} stands", lambda: self._committed(group, wanted))
        return {Partition(f.topic, f.partition): Stand(f.offset, f.metadata or "") if f.offset >= 0 else None for f in found}

    async def commit(self, group: str, offsets: Mapping[Partition, int]) -> bool:
        """Move a group; False while somebody works in it."""
        if not offsets:
            return True
        places = [TopicPartition(p.topic, p.number, offset) for p, offset in offsets.items()]
        return await self._run(f"moving group {group!r}", lambda: self._commit(group, places))

    async def close(self) -> None:
        """End all consumers; who still asks gets an error."""
        self._is_open = False
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        self._threads.shutdown()
        while self._idle:
            self._idle.popitem()[1].close()

    async def _run(self, what: str, question: Callable[[], T]) -> T:
        deadline = time.monotonic() + PATIENCE
        while True:
            if not self._is_open:
                raise BrokerError(f"{self._settings.name} is not open: use it inside `async with`.")
            try:
                return await asyncio.get_running_loop().run_in_executor(self._threads, question)
            except KafkaException as error:
                if not is_passing(error_of(error)) or time.monotonic() > deadline:
                    raise failure(error, f"{self._settings.name}: {what}") from error
            await asyncio.sleep(PAUSE)

    # In a thread

    def _committed(self, group: str, wanted: list[TopicPartition]) -> list[TopicPartition]:
        consumer = self._take(group)
        try:
            found = consumer.committed(wanted, timeout=COORDINATOR)
            # What it has to say besides waits in there until somebody asks for it.
            consumer.poll(0)
            refused = next((f.error for f in found if f.error is not None), None)
            if refused is not None:
                raise KafkaException(refused)
        except BaseException:
            consumer.close()
            raise
        self._keep(group, consumer)
        return found

    def _commit(self, group: str, places: list[TopicPartition]) -> bool:
        answers: list[tuple[KafkaError | None, list[TopicPartition]]] = []

        def note(error: KafkaError | None, found: list[TopicPartition]) -> None:
            answers.append((error, found))

        consumer = self._new(group, on_commit=note)
        try:
            # Not `asynchronous=False`, which would wait for a coordinator for ever.
            consumer.commit(offsets=places, asynchronous=True)
            deadline = time.monotonic() + COORDINATOR
            while not answers:
                if time.monotonic() > deadline:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "the group's coordinator does not answer"))
                consumer.poll(LOOK)
        finally:
            consumer.close()
        error, found = answers[0]
        refused = [each for each in (error, *(f.error for f in found)) if each is not None]
        if any(each.code() in BUSY for each in refused):
            return False
        if refused:
            raise KafkaException(refused[0])
        return True

    def _take(self, group: str) -> Consumer:
        with self._lock:
            found = self._idle.pop(group, None)
        return self._new(group) if found is None else found

    def _keep(self, group: str, consumer: Consumer) -> None:
        spare = [consumer]
        with self._lock:
            if group not in self._idle and self._is_open:
                self._idle[group] = spare.pop()
                if len(self._idle) > KEPT:
                    spare.append(self._idle.popitem(last=False)[1])
        for each in spare:
            each.close()

    def _new(self, group: str, **more: Any) -> Consumer:
        settings: dict[str, Any] = {
            "reconnect.backoff.max.ms": 1000,
            **self._settings.client,
            "client.id": "millstream",
            "group.id": group,
            "enable.auto.commit": False,
            # A position is told at once, also while a transaction is about to move it.
            "isolation.level": "read_uncommitted",
            "error_cb": self._complain,
            **more,
        }
        return Consumer(settings, logger=CLIENT_LOG)
