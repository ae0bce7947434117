"""Handlers with `exactly_once=True` on Kafka, as somebody sees them who knows nothing of Millstream: each input has its output once."""

import asyncio
import contextlib
import signal
import sqlite3
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer, TopicPartition
from tests.brokers.kafka_server import kafka_url, stands_still
from tests.brokers.kafka_transformer import transformer
from tests.brokers.words import PATIENCE, declared, made, published, taken, unique, until

from millstream import App
from millstream.app.control import sign
from millstream.brokers.kafka import KafkaBroker
from millstream.brokers.kafka_settings import settings_of
from millstream.core.broker import Partition, Topic
from millstream.core.facts import Operation
from millstream.stores.sqlite import SqliteStore
from millstream.stores.sqlite_file import SqliteFile
from millstream.testing.broker_ground import Member

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
COUNT = 3000
#: Keys, and those of them that have a dead letter.
KEYS = 50
FAILING = {f"k{number % KEYS}" for number in range(3, COUNT, 500)}
EXPECTED = sorted(number for number in range(COUNT) if f"k{number % KEYS}" not in FAILING or number < 3)


def committed(topic: str, partitions: int = 2) -> dict[str, list[int]]:
    """The numbers of each key in the order in which a plain consumer finds them, of what is committed."""
    consumer = Consumer(
        {
            "bootstrap.servers": str(settings_of(kafka_url()).client["bootstrap.servers"]), "group.id": "plain",
            "isolation.level": "read_committed", "enable.partition.eof": True, "fetch.wait.max.ms": 10, "auto.offset.reset": "earliest",
        }
    )  # fmt: skip
    consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    found: dict[str, list[int]] = {}
    ends = 0
    while ends < partitions:
        for record in consumer.consume(1000, 0.1):
            if record.error():
                ends += 1
                continue
            body = msgspec.json.decode(record.value() or b"")
            found.setdefault(body["key"], []).append(body["number"])
    consumer.close()
    return found


async def arrived(topic: str, reached: Callable[[int], bool], *, patience: float = PATIENCE) -> dict[str, list[int]]:
    """Read it again and again until so many are there."""
    found: dict[str, list[int]] = {}

    async def look() -> None:
        now = await asyncio.to_thread(committed, topic)
        found.clear()
        found.update(now)

    def count() -> int:
        return sum(map(len, found.values()))

    await until(lambda: reached(count()), look, lambda: f"{count()} outputs came", patience=patience)
    return found


async def produce(app: App, first: int, end: int) -> None:
    """Publish inputs with these numbers."""
    for sent in range(first, end, 100):
        await app.publish_many([app.state.given(f"k{number % KEYS}", number) for number in range(sent, min(sent + 100, end))])


@contextlib.asynccontextmanager
async def processes(name: str, folder: Path, count: int) -> AsyncGenerator[list[Any]]:
    """So many of the service; all of them are gone at the end."""
    command = (sys.executable, "-m", "tests.brokers.kafka_transformer", name, kafka_url(), str(folder))
    running = [await asyncio.create_subprocess_exec(*command, cwd=ROOT) for _ in range(count)]
    try:
        yield running
    finally:
        for process in running:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def have_joined(app: App, name: str, count: int) -> None:
    """Wait until so many members have something to do."""
    owners: set[str | None] = set()

    async def look() -> None:
        owners.clear()
        owners.update(state.owner for state in await app.broker.positions(name))

    await until(lambda: len(owners - {None}) == count, look, lambda: f"only {owners} work")


async def stopped(process: Process, store: Path) -> None:
    """Stop it where it has not locked the store, which is one file for all of them: else nobody could take over."""
    locked = True

    async def stop() -> None:
        nonlocal locked
        process.send_signal(signal.SIGSTOP)
        await until(lambda: stands_still(process.pid), lambda: asyncio.sleep(0.01), lambda: "it does not stand still")
        with contextlib.closing(sqlite3.connect(store, timeout=0, isolation_level=None)) as connection:
            try:
                connection.execute("begin immediate")
                locked = False
            except sqlite3.OperationalError:
                process.send_signal(signal.SIGCONT)

    await until(lambda: not locked, stop, lambda: "it has the store's lock all the time")


async def check(app: App, found: dict[str, list[int]]) -> None:
    """Each input has its output once, in the order of its key; what failed and what followed of its key waits in the store."""
    assert sorted(number for numbers in found.values() for number in numbers) == EXPECTED
    assert all(numbers == sorted(numbers) for numbers in found.values())
    parked = await app.store.parked(app.name, most=COUNT)
    assert sorted(p.state for p in parked).count("dead") == len(FAILING)
    assert len(parked) == COUNT - len(EXPECTED)


@pytest.mark.timeout(240)
async def test_each_input_has_its_output_once_although_workers_come_and_go_and_die(tmp_path: Path) -> None:
    """Processes join, leave in peace, and one is killed, under load."""
    name = unique("transform")
    async with transformer(name, kafka_url(), tmp_path) as app, processes(name, tmp_path, 2) as (doomed, leaving):
        await have_joined(app, name, 2)
        await produce(app, 0, 1000)
        doomed.kill()
        async with processes(name, tmp_path, 1):
            await produce(app, 1000, 2000)
            await arrived(f"{name}.made", lambda count: count > len(EXPECTED) // 3)
            leaving.send_signal(signal.SIGTERM)
            await produce(app, 2000, COUNT)
            await leaving.wait()
            found = await arrived(f"{name}.made", lambda count: count >= len(EXPECTED))

            await check(app, found)


@pytest.mark.parametrize("protocol", ["consumer", "classic&session.timeout.ms=1500&heartbeat.interval.ms=300"])
async def test_a_transaction_of_a_process_that_was_stopped_is_refused(protocol: str) -> None:
    """It had proven that its events were its own when it was stopped; by then another has them, and has published for them."""
    url = f"{kafka_url()}&group_protocol={protocol}"
    async with KafkaBroker(url) as broker:
        topic, group = await declared(broker, partitions=1)
        output = unique("output")
        await broker.declare([Topic(name=output, partitions=1)], [])
        await published(broker, made(topic, 3))
        command = (sys.executable, "-m", "tests.brokers.kafka_zombie", url, group, output)
        zombie = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
        try:
            await until(lambda: stands_still(zombie.pid), lambda: asyncio.sleep(0.01), lambda: "it never came to its transaction")
            heir = Member(await broker.open(group, "heir"))
            items = await taken(heir, 3, settle=False)
            await heir.subscription.publish_and_settle(made(output, 3, prefix="heir"), items)
            zombie.send_signal(signal.SIGCONT)
            async with asyncio.timeout(PATIENCE):
                said, _ = await zombie.communicate()
        finally:
            if zombie.returncode is None:
                zombie.kill()
            await zombie.wait()
        await heir.close()
        outputs = await broker.read(Partition(output, 0), 0, 100)

        assert said.startswith(b"fenced: ")
        assert [d.envelope.id for d in outputs if d.envelope] == ["heir-0", "heir-1", "heir-2"]


@pytest.mark.nightly
@pytest.mark.timeout(300)
async def test_a_zombie_publishes_nothing(tmp_path: Path) -> None:
    """A process is stopped with work in hand, another takes over, and then the first goes on: it publishes nothing of what it had."""
    name = unique("zombie")
    async with transformer(name, kafka_url(), tmp_path) as app, processes(name, tmp_path, 1) as (zombie,):
        await have_joined(app, name, 1)
        await produce(app, 0, 1000)
        await arrived(f"{name}.made", lambda count: count > 0)
        await stopped(zombie, tmp_path / "store.db")
        async with processes(name, tmp_path, 1):
            await produce(app, 1000, COUNT)
            # One member does all of it, and goes slowly where keys have dead letters: a minute on a busy machine is not enough.
            await arrived(f"{name}.made", lambda count: count >= len(EXPECTED), patience=200)
            zombie.send_signal(signal.SIGCONT)
            await have_joined(app, name, 2)
            await produce(app, COUNT, COUNT + 100)
            extra = [number for number in range(COUNT, COUNT + 100) if f"k{number % KEYS}" not in FAILING]
            found = await arrived(f"{name}.made", lambda count: count >= len(EXPECTED) + len(extra))

            assert sorted(number for numbers in found.values() for number in numbers) == sorted(EXPECTED + extra)
            assert all(numbers == sorted(numbers) for numbers in found.values())


async def test_a_group_is_moved_back_while_it_runs(tmp_path: Path) -> None:
    """Its members leave for a moment, Kafka's position is moved, and what was handled is handled again."""
    name = unique("moved")
    stop = asyncio.Event()
    service = transformer(name, kafka_url(), tmp_path)
    service.configure(broker=KafkaBroker(kafka_url()), store=SqliteStore(SqliteFile(tmp_path / "store.db")), facts="on")
    async with service as app, asyncio.TaskGroup() as tasks:
        tasks.create_task(app.run(stop, grace=1))
        await have_joined(app, name, 1)
        await produce(app, 10, 20)
        await arrived(f"{name}.made", lambda count: count >= 10)
        positions = tuple((f"{name}.given", number, 0) for number in range(4))
        operation = Operation(
            id=unique("op"), kind="reset", group=name, by="ana", reason="a test", at=app.clock.micros(), positions=positions
        )
        await app.broker.broadcast(sign(operation, None))
        found = await arrived(f"{name}.made", lambda count: count >= 20)
        stop.set()

        assert sorted(number for numbers in found.values() for number in numbers) == sorted([*range(10, 20)] * 2)
