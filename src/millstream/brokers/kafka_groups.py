"""What Kafka does not remember of a group: which store keeps its progress, and where it began.

A compacted topic of the cluster keeps one record per group. Whoever changes it first
takes a transactional id that all share: that fences everybody else who was about to
change it, so a change is decided on what is really there.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import msgspec
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as Record

from millstream.brokers.kafka_errors import error_of, failure, is_forbidden
from millstream.brokers.kafka_history import KafkaHistory
from millstream.brokers.kafka_settings import CLIENT_LOG, PRODUCER, KafkaSettings
from millstream.contracts.errors import BrokerUnavailableError
from millstream.core.broker import Group, Partition

TOPIC = "_millstream.groups"
_HERE = Partition(TOPIC, 0)
#: Seconds that one request may take, and that others may come before us.
SECONDS = 10.0
PATIENCE = 30.0


class Beginning(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a group began in a topic."""

    offsets: list[int]
    """By partition. A partition that came later is read from its first event on."""
    committed: bool = True
    """Whether Kafka's own record of the group has it; it cannot while the group runs."""


class GroupRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What is remembered of a group."""

    name: str
    start: Literal["latest", "earliest"] = "latest"
    store: str | None = None
    topics: dict[str, Beginning] = {}

    def group(self) -> Group:
        """The group as it was declared."""
        return Group(name=self.name, topics=tuple(self.topics), start=self.start, store=self.store)

    def beginning(self, partition: Partition) -> int | None:
        """Where to begin if Kafka knows no position; None if it must have known one."""
        began = self.topics.get(partition.topic)
        if began is None:
            return None
        if partition.number >= len(began.offsets):
            return 0
        return None if began.committed else began.offsets[partition.number]


Records = Mapping[str, GroupRecord]
#: Decides on changes: the new record of each group that changes, None to remove it.
Decide = Callable[[Records], Awaitable[Mapping[str, GroupRecord | None]]]


class KafkaGroups:
    """The register of groups."""

    def __init__(self, settings: KafkaSettings, history: KafkaHistory) -> None:
        self._settings = settings
        self._history = history
        self._records: dict[str, GroupRecord] = {}
        self._next = 0
        self._reading = asyncio.Lock()

    async def records(self) -> Records:
        """All groups, as of now."""
        async with self._reading:
            found, self._next = await self._history.read_to_end(_HERE, self._next)
            for record in found:
                name, value = (record.key() or b"").decode("utf-8", "replace"), record.value()
                if value:
                    self._records[name] = msgspec.json.decode(value, type=GroupRecord)
                else:
                    self._records.pop(name, None)
        return dict(self._records)

    async def change(self, decide: Decide) -> None:
        """Write what `decide` says, unless somebody else has changed something meanwhile: then it is asked again."""
        deadline = time.monotonic() + PATIENCE
        while True:
            # In a box, so that its last reference can be dropped in a thread: that waits for its own threads.
            box: list[Producer] = []
            try:
                box.append(await asyncio.to_thread(self._take))
                changes = await decide(await self.records())
                if not changes:
                    return
                await self._see(await asyncio.to_thread(self._write, box[0], changes))
                return
            except KafkaException as exception:
                error = error_of(exception)
                # Somebody else took the register, or nobody knows what happened: what is there now tells.
                if is_forbidden(error) or time.monotonic() > deadline:
                    raise failure(error, f"{self._settings.name}: writing the register of groups") from exception
            finally:
                await asyncio.to_thread(box.clear)
            await asyncio.sleep(random.uniform(0, 0.1))  # noqa: S311 - so that two do not meet again

    def _take(self) -> Producer:
        """Become the one who may change the register."""
        settings: dict[str, Any] = {
            "retry.backoff.ms": 5,
            **self._settings.client,
            **PRODUCER,
            "client.id": "millstream-groups",
            "transactional.id": TOPIC,
            "transaction.timeout.ms": 10_000,
            "linger.ms": 0,
            # That another one has taken the register is no accident.
            "log_level": 0,
        }
        producer = Producer(settings, logger=CLIENT_LOG)
        # Connected first: without a connection it would look for one half a second later.
        producer.list_topics(TOPIC, timeout=SECONDS)
        producer.init_transactions(SECONDS)
        return producer

    def _write(self, producer: Producer, changes: Mapping[str, GroupRecord | None]) -> int:
        """Write the changes, and say where."""
        places: list[int] = []

        def report(error: KafkaError | None, written: Record) -> None:
            if error is None:
                places.append(written.offset() or 0)

        producer.begin_transaction()
        for name, record in changes.items():
            value = None if record is None else msgspec.json.encode(record)
            producer.produce(TOPIC, value, name.encode(), partition=0, on_delivery=report)
        producer.commit_transaction(SECONDS)
        return max(places)

    async def _see(self, place: int) -> None:
        """Wait until what was committed can be read: the mark that says so comes a moment after the answer."""
        deadline = time.monotonic() + SECONDS
        while self._next <= place:
            await self.records()
            if time.monotonic() > deadline:
                raise BrokerUnavailableError(
                    f"{self._settings.name}: the register of groups cannot be read. Look whether its topic has a leader (kafka-topics.sh "
                    f"--describe --topic {TOPIC})."
                )
