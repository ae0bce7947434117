"""Confluent's serializers and Millstream read each other, on a real Kafka and a real schema registry.

The serializers are those of Confluent's Python client, in a process and an environment of their own; the registry is Apicurio's, which
speaks as Confluent's does and can be had without Docker.
"""

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from tests.brokers.kafka_server import kafka_url
from tests.brokers.words import PATIENCE, unique, until
from tools.services.environment import python_environment
from tools.services.registry import Registry
from tools.services.service import ServiceError

from millstream import App, Context, Transaction, event
from millstream.app.bridge import Bridge
from millstream.app.system_clock import SystemClock
from millstream.brokers.kafka import KafkaBroker
from millstream.brokers.kafka_settings import settings_of
from millstream.brokers.memory import MemoryBroker
from millstream.contracts.errors import RegistryError
from millstream.contracts.message import contract_of
from millstream.stores.sqlite import SqliteStore
from millstream.stores.sqlite_file import SqliteFile

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

CLIENT = Path(__file__).with_name("confluent_client.py")
#: More than our own client needs, and other versions: never where the tests run.
PACKAGES = "confluent-kafka[avro,json,schemaregistry]==2.16.1"


@event("confluent.order", topic="confluent.orders", wire="confluent")
@dataclass(frozen=True)
class Order:
    """What another team publishes."""

    orderId: int
    status: str


@event("confluent.asked", key="order_id")
@dataclass(frozen=True)
class Asked:
    """What a handler answers."""

    order_id: str


@event("confluent.shipped", key="order_id", topic="confluent.shipped", wire="confluent")
@dataclass(frozen=True)
class Shipped:
    """What another team reads."""

    order_id: str
    note: str


@event("confluent.shipped", version=2, key="order_id", topic="confluent.shipped", wire="confluent")
@dataclass(frozen=True)
class ShippedLater:
    """The same with one field more."""

    order_id: str
    note: str
    weight: int = 1


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """The URL of a registry that is these tests' alone."""
    kafka_url()
    server = Registry(tmp_path_factory.mktemp("registry"))
    try:
        server.install()
    except ServiceError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    server.start()
    yield server.url
    server.stop()


@pytest.fixture(scope="module")
def python() -> Path:
    """An interpreter that finds Confluent's serializers."""
    kafka_url()
    try:
        return python_environment("confluent", PACKAGES)
    except ServiceError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


async def client(python: Path, registry: str, command: str, topic: str, argument: object) -> Any:
    """Run the other team's program; gives what it printed."""
    server = str(settings_of(kafka_url()).client["bootstrap.servers"])
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = await asyncio.create_subprocess_exec(
        str(python), str(CLIENT), server, registry, command, topic, json.dumps(argument), env=environment, cwd=python.parent,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, error = await process.communicate()
    assert process.returncode == 0, error.decode()
    return json.loads(out or b"null")


def service(name: str, folder: Path, **options: Any) -> App:
    """An app on the real Kafka, with a store of its own."""
    app = App(unique(name), **options)
    app.configure(broker=KafkaBroker(kafka_url()), store=SqliteStore(SqliteFile(folder / f"{name}.db")))
    return app


async def run_until(app: App, done: asyncio.Event) -> None:
    async with asyncio.timeout(PATIENCE):
        await app.run(done)


async def test_what_confluents_serializers_write_reaches_a_typed_handler(python: Path, registry: str, tmp_path: Path) -> None:
    """With the id before the body and in a header, with keys of text and framed ones; Avro becomes a dead letter. No registry is asked."""
    app = service("reading", tmp_path)
    seen: list[tuple[Order, str | None, str]] = []
    done = asyncio.Event()

    @app.subscriber(Order)
    async def take(order: Order, context: Context, transaction: Transaction) -> None:
        seen.append((order, context.envelope.key, context.envelope.schema or ""))
        if len(seen) == 3:
            done.set()

    async with app:
        letters: Sequence[Any] = ()

        async def look() -> None:
            nonlocal letters
            letters = await app.store.parked(dead=True)
            await asyncio.sleep(0)

        value = {"orderId": 1, "status": "new"}
        messages = [
            {"as": "avro", "value": value, "keyAs": "text", "key": "one"},
            {"as": "json", "value": value, "keyAs": "text", "key": "one"},
            {"as": "json", "value": value, "keyAs": "json", "key": "two"},
            {"as": "header", "value": value, "keyAs": "json", "key": "three"},
        ]
        await client(python, registry, "publish", "confluent.orders", messages)
        await run_until(app, done)
        await until(lambda: len(letters) == 1, look, lambda: "no dead letter came")

    assert sorted(key or "" for _, key, _ in seen) == ["one", "three", "two"]
    assert {order for order, _, _ in seen} == {Order(1, "new")}
    schemas = {key: schema for _, key, schema in seen}
    assert schemas["one"] == schemas["two"] == f"confluent:{int(schemas['one'].removeprefix('confluent:'))}"
    assert len(schemas["three"]) == len("confluent:") + 36
    assert "may be one of Avro or Protobuf" in letters[0].reason


async def test_a_confluent_deserializer_reads_what_we_publish(python: Path, registry: str, tmp_path: Path) -> None:
    """Published at once, through the outbox, by a handler and in a Kafka transaction: each is found by its id, and fits its schema."""
    app = service("publishing", tmp_path, registry=registry, publishes=[Shipped])
    later = service("later", tmp_path, registry=registry, publishes=[ShippedLater])
    done, seen = asyncio.Event(), list[tuple[Shipped, str, bytes]]()

    @app.subscriber(Asked, group=f"{app.name}.plain")
    async def answer(asked: Asked) -> Shipped:
        return Shipped(asked.order_id, "by a handler")

    @app.subscriber(Asked, group=f"{app.name}.exactly", exactly_once=True)
    async def transact(asked: Asked) -> Shipped:
        return Shipped(asked.order_id, "in a transaction")

    @app.subscriber(Shipped, where={"order_id": ["o-1", "o-2"]})
    async def watch(shipped: Shipped, context: Context) -> None:
        seen.append((shipped, context.envelope.schema or "", context.envelope.data))
        if len(seen) == 5:
            done.set()

    async with app, later:
        await app.publish(Shipped("o-1", "at once"))
        async with app.unit_of_work() as work:
            work.publish(Shipped("o-1", "through the outbox"))
        await app.publish(Asked("o-2"))
        await later.publish(ShippedLater("o-2", "a newer version", 5))
        await run_until(app, done)
    theirs = await client(python, registry, "read", "confluent.shipped", 5)

    notes = {"at once", "through the outbox", "by a handler", "in a transaction", "a newer version"}
    assert {each["value"]["note"] for each in theirs} == notes
    assert {(each["key"], each["value"]["order_id"]) for each in theirs} == {("o-1", "o-1"), ("o-2", "o-2")}
    fields = {each["value"]["note"]: each["fields"] for each in theirs}
    assert fields["at once"] == ["note", "order_id"]
    assert fields["a newer version"] == ["note", "order_id", "weight"]
    assert all(each["headers"]["ce_type"] == "confluent.shipped" and "ce_dataschema" not in each["headers"] for each in theirs)
    assert {shipped.note for shipped, _, _ in seen} == notes
    assert {data[:1] for _, _, data in seen} == {b"{"}
    assert len({schema for _, schema, _ in seen}) == 2


async def test_frames_go_over_a_bridge_and_come_back(registry: str) -> None:
    """Elsewhere an event is bare and says its schema; on Kafka it is framed again as it was."""
    topic, over = unique("framed"), MemoryBroker()
    app = App(unique("bridging"), registry=registry, broker=kafka_url(), publishes=[Shipped])
    async with app, over:
        placed = structs.replace(app.envelope_of(Shipped("o-1", "there")), topic=topic)
        assert await app.broker.publish([placed]) == [None]
        await Bridge(app.broker, over, clock=SystemClock(), group=unique("there"), topics=[topic]).run(asyncio.Event())
        await Bridge(over, app.broker, clock=SystemClock(), group=unique("back"), topics=[topic]).run(asyncio.Event())
        (there,) = [delivery.envelope for delivery in over.history()]
        records = [d.envelope for partition, first, _ in await app.broker.bounds(topic) for d in await app.broker.read(partition, first, 9)]

    assert placed.schema is not None
    assert there == records[0] == records[1] == placed


async def test_the_command_line_publishes_in_the_frame_too(registry: str, tmp_path: Path) -> None:
    """With an App that knows the contract; the registry is the environment's."""
    topic = unique("typed")
    (tmp_path / "typed_app.py").write_text(
        "from dataclasses import dataclass\n"
        "from millstream import App, event\n\n"
        f'@event("typed", topic="{topic}", wire="confluent", key="name")\n'
        "@dataclass\n"
        "class Typed:\n"
        "    name: str\n\n"
        'app = App("typed")\n'
    )
    command = [sys.executable, "-m", "millstream", "publish", "typed", "--app", "typed_app:app", "--data", '{"name": "a"}']
    environment = {**os.environ, "MILLSTREAM_BROKER": kafka_url(), "MILLSTREAM_REGISTRY": registry}
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr

    async with KafkaBroker(kafka_url()) as broker:
        (envelope,) = [d.envelope for partition, first, _ in await broker.bounds(topic) for d in await broker.read(partition, first, 9)]

    assert envelope is not None
    assert (envelope.data, envelope.key) == (b'{"name": "a"}', "a")
    assert (envelope.schema or "").startswith("confluent:")


async def test_a_schema_that_the_registry_refuses_keeps_the_app_from_starting(registry: str, tmp_path: Path) -> None:
    """One that breaks what its subject promises, and one that is only looked up and is not there."""
    topic = unique("strict")

    @event("strict", topic=topic, wire="confluent")
    @dataclass
    class Before:
        count: int

    @event("strict", topic=topic, wire="confluent", version=2)
    @dataclass
    class After:
        count: str

    with pytest.raises(RegistryError, match="it is not there"):
        await service("looking", tmp_path, registry=f"{registry}?register=0", publishes=[Before]).__aenter__()
    async with service("strict", tmp_path, registry=registry, publishes=[Before]) as app:
        made = app.envelope_of(Before(1)).schema
    async with service("found", tmp_path, registry=f"{registry}?register=0", publishes=[Before]) as app:
        assert app.envelope_of(Before(1)).schema == made
    await asyncio.to_thread(_be_strict, registry, f"{contract_of(Before).topic}-value")
    with pytest.raises(RegistryError, match="breaks the subject's compatibility"):
        await service("broken", tmp_path, registry=registry, publishes=[After]).__aenter__()


def _be_strict(registry: str, subject: str) -> None:
    """Have a subject take compatible schemas alone."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{registry}/config/{subject}", b'{"compatibility":"BACKWARD"}', headers, method="PUT")
    urllib.request.urlopen(request, timeout=10).close()
