"""The bridge on every broker: there and back, killed on either way, everything arrives as it was."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.brokers.servers import server_url
from tests.brokers.words import made, published, unique
from tools.services.nats import NatsServer

from millstream.app.bridge import Bridge
from millstream.app.connect import connect_broker
from millstream.app.system_clock import SystemClock
from millstream.contracts.envelope import Envelope
from millstream.contracts.partition import partition_of
from millstream.core.broker import Broker, Delivery, Message, Topic

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[2]
CLOCK = SystemClock()
PARTITIONS = 3
COUNT = 144
KEYS = ("plain", "ключ", "two words", "100%", "a/b:c", "k5", "k6", "k7")
BODIES = (
    (b'{"number": 1}', "application/json"),
    ('{"Größe": "5 €", "wer": "👩‍🚀"}'.encode(), "application/json"),
    (b' {"white" : "space" }\n', "application/json"),
    (b"this is no JSON", "application/json"),
    (b"", "application/json"),
    (bytes(range(256)), "application/octet-stream"),
    (b"line\r\n\twith tab\0", "text/plain; charset=utf-8"),
    (b"x" * 50_000, "text/plain"),
)
ATTRIBUTES: Sequence[Mapping[str, Any]] = (
    {},
    {"extensions": {"tenant": "größe 1", "percent": "100%25"}},
    {"schema": "https://example.org/a%20b", "version": 7},
    {"correlation": "c-1", "causation": "e-0", "attempt": "group/2"},
    {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=1,b=2"},
    {"time": 0},
)


@dataclass(frozen=True)
class Other:
    """A broker to go to and to come back from."""

    service: str
    variable: str
    options: str = ""

    def url(self) -> str:
        """Where it is."""
        url = server_url(self.service, self.variable)
        return f"{url}{'&' if '?' in url else '?'}{self.options}" if self.options else url


OTHERS = {
    "kafka": Other("kafka", "MILLSTREAM_TEST_KAFKA"),
    "rabbitmq": Other("rabbitmq", "MILLSTREAM_TEST_RABBITMQ"),
    "rabbitmq-streams": Other("rabbitmq", "MILLSTREAM_TEST_RABBITMQ", "streams=1"),
    "nats": Other("nats", "MILLSTREAM_TEST_NATS"),
    "redis": Other("redis", "MILLSTREAM_TEST_REDIS"),
    "aws": Other("aws", "MILLSTREAM_TEST_AWS", "poll=1&visibility=2"),
}


def envelopes(topic: str) -> list[Envelope]:
    """Events of every kind, each key with all of them in turn."""
    plain = made(topic, COUNT)
    for number, envelope in enumerate(plain):
        data, content_type = BODIES[number // len(KEYS) % len(BODIES)]
        attributes = {"key": KEYS[number % len(KEYS)] if number % 9 else None, "data": data, "content_type": content_type}
        plain[number] = replace(envelope, **attributes, **ATTRIBUTES[number // 3 % len(ATTRIBUTES)])
    return plain


def messages(topic: str) -> list[Message]:
    """Messages of others, which have no id to be known by, but are all different."""
    return [
        Message(
            topic=topic, key=b"\xff%d" % (number % 3) if number % 4 else None, body=b'{"bare": %d}' % number + b"\xfe" * (number % 2),
            headers=(("kind", b"bare"), ("odd-one", "größe".encode())) if number % 5 else (),
        )
        for number in range(24)
    ]  # fmt: skip


async def history(broker: Broker, topic: str) -> list[Delivery]:
    """All that is kept of a topic, partition by partition."""
    return [delivery for partition, first, head in await broker.bounds(topic) for delivery in await broker.read(partition, first, head)]


def in_order(deliveries: Sequence[Delivery]) -> dict[Any, list[Any]]:
    """What came of each key, in the order in which it came first; of what has no key, in any."""
    found: dict[Any, list[Any]] = {}
    for delivery in deliveries:
        envelope, message = delivery.envelope, delivery.message
        event: Any = envelope or (message and (message.body, message.headers))
        those = found.setdefault((envelope or message).key, [])  # type: ignore[union-attr]
        if event not in those:
            those.append(event)
    found[None].sort(key=repr)
    return found


def places(deliveries: Sequence[Delivery]) -> set[tuple[Any, int]]:
    """In which partition each key is."""
    keys = [(d.envelope.key if d.envelope else d.message.key if d.message else None, d.partition.number) for d in deliveries]
    return {(key, number) for key, number in keys if key is not None}


async def cross(source: str, target: str, topic: str, group: str) -> int:
    """Copy until all that is there is copied, and say how much that was."""
    async with connect_broker(source, CLOCK) as origin, connect_broker(target, CLOCK) as destination:
        bridge = Bridge(origin, destination, clock=CLOCK, group=group, topics=[topic])
        async with asyncio.timeout(60):
            await bridge.run(asyncio.Event())
        return bridge.copied.total()


async def cross_killed(source: str, target: str, topic: str, group: str) -> int:
    """The same, once the process that did it first was killed on the way; says how much was left."""
    command = (sys.executable, "-m", "tests.brokers.doomed_bridge", source, target, topic, group)
    doomed = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert doomed.returncode == -signal.SIGKILL, doomed.stdout + doomed.stderr
    return await cross(source, target, topic, group)


def cases() -> Iterator[Any]:
    """Each broker; killed on the way back, too, where its server notices at once that a member died."""
    for name, other in OTHERS.items():
        prompt = name.startswith("rabbitmq")
        if not prompt:
            # What stands in for AWS is slow.
            yield pytest.param(other, False, id=name, marks=pytest.mark.nightly if name == "aws" else ())
        yield pytest.param(other, True, id=f"{name}-twice", marks=() if prompt else pytest.mark.nightly)


@pytest.mark.parametrize(("other", "twice"), [*cases()])
async def test_there_and_back_everything_arrives_as_it_was(other: Other, twice: bool, tmp_path: Path) -> None:
    """From a file to a broker and to another file, and the bridge is killed between publishing and noting it: ids, keys and
    their order, partitions, attributes and bodies are those of before."""
    url, topic, group = other.url(), unique("made"), unique("bridge")
    here, there = f"sqlite:///{tmp_path}/here.db", f"sqlite:///{tmp_path}/there.db"
    async with connect_broker(here, CLOCK) as source, connect_broker(url, CLOCK) as broker:
        await source.declare([Topic(name=topic, partitions=PARTITIONS)], [])
        await published(source, envelopes(topic))
        assert not any(await source.publish_raw(messages(topic)))
        await broker.declare([Topic(name=topic, partitions=PARTITIONS)], [])
        sent = await history(source, topic)
        alike = next(t.partitions for t in await broker.topics() if t.name == topic) == PARTITIONS
    try:
        # Now, since a queue has what comes from now on.
        nothing = await cross(url, there, topic, group)
        left_here = await cross_killed(here, url, topic, group)
        left_there = await (cross_killed if twice else cross)(url, there, topic, group)
        again = await cross(url, there, topic, group)
        async with connect_broker(there, CLOCK) as target:
            came = await history(target, topic)
    finally:
        async with connect_broker(url, CLOCK) as broker:
            await broker.forget(group)

    assert in_order(came) == in_order(sent)
    assert not alike or places(came) == places(sent)
    assert left_here < len(sent)
    assert not twice or left_there < len(came)
    assert (nothing, again) == (0, 0)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of these tests' own: the shared ones are killed by whoever tests on them, perhaps just now."""
    server_url("nats", "MILLSTREAM_TEST_NATS")
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    try:
        server.start()
        yield f"nats://127.0.0.1:{server.port}"
    finally:
        server.stop(kill=True)


@pytest.mark.parametrize("source", ["kafka", "rabbitmq", "redis"])
async def test_from_one_server_to_another_everything_arrives_as_it_was(source: str, target: str) -> None:
    """A team that changes its broker: ids, keys and their order, partitions, attributes and bodies are those of before. From RabbitMQ,
    which notices at once that a member died, the bridge is killed on the way."""
    url, topic, group = OTHERS[source].url(), unique("made"), unique("bridge")
    async with connect_broker(url, CLOCK) as old, connect_broker(target, CLOCK) as new:
        for broker in (old, new):
            await broker.declare([Topic(name=topic, partitions=PARTITIONS)], [])
        # Now, since a queue has what comes from now on.
        await cross(url, target, topic, group)
        sent = envelopes(topic)
        await published(old, sent)
        try:
            left = await (cross_killed if source == "rabbitmq" else cross)(url, target, topic, group)
            came = await history(new, topic)
        finally:
            await old.forget(group)

    unkeyed = sorted([e for e in sent if e.key is None], key=repr)
    assert in_order(came) == {None: unkeyed} | {key: [e for e in sent if e.key == key] for key in {e.key for e in sent} - {None}}
    assert places(came) == {(e.key, partition_of(e.key, PARTITIONS)) for e in sent if e.key is not None}
    assert left < len(sent) if source == "rabbitmq" else left == len(sent)
