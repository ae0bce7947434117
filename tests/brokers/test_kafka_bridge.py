"""The bridge from topics of Kafka that are written in transactions."""

import asyncio
from pathlib import Path

import pytest
from confluent_kafka import Producer
from tests.brokers.kafka_server import kafka_url
from tests.brokers.words import unique

from millstream.app.bridge import Bridge
from millstream.app.system_clock import SystemClock
from millstream.brokers.kafka import KafkaBroker
from millstream.brokers.kafka_settings import settings_of
from millstream.brokers.sqlite import SqliteBroker
from millstream.core.broker import Topic
from millstream.stores.sqlite_file import SqliteFile

pytestmark = pytest.mark.slow


def write(topic: str) -> None:
    """Write two partitions in transactions: one ends with a mark, the other has nothing but what was undone."""
    producer = Producer({"bootstrap.servers": str(settings_of(kafka_url()).client["bootstrap.servers"]), "transactional.id": topic})
    producer.init_transactions(10)
    for number in range(3):
        producer.begin_transaction()
        producer.produce(topic, b"%d" % number, b"k", partition=0)
        producer.commit_transaction(10)
    producer.begin_transaction()
    for partition in (0, 1):
        producer.produce(topic, b"never", b"k", partition=partition)
    producer.flush(10)
    producer.abort_transaction(10)


async def test_marks_of_transactions_do_not_keep_the_bridge_waiting(tmp_path: Path) -> None:
    """Behind the last event there are marks and what was undone, which nobody gets: it is through all the same, and later again."""
    topic, group = unique("made"), unique("bridge")
    async with KafkaBroker(kafka_url()) as source, SqliteBroker(SqliteFile(tmp_path / "target.db")) as target:
        await source.declare([Topic(name=topic, partitions=2)], [])
        await asyncio.to_thread(write, topic)
        counts: list[int] = []
        for _ in range(2):
            bridge = Bridge(source, target, clock=SystemClock(), group=group, topics=[topic])
            async with asyncio.timeout(40):
                await bridge.run(asyncio.Event())
            counts.append(bridge.copied.total())
        came = [d.message for p, first, head in await target.bounds(topic) for d in await target.read(p, first, head)]
        heads = [head for _, _, head in await source.bounds(topic)]
        await source.forget(group)

    assert [message.body for message in came if message] == [b"0", b"1", b"2"]
    assert counts == [3, 0]
    assert heads == [8, 2]
