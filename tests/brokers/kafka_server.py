"""The Kafka server that tests work on, the one of `make services`."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.brokers.proxy import Proxy
from tests.brokers.servers import server_url
from tools.services.kafka import Kafka, KafkaCluster

from millstream.brokers.kafka import KafkaBroker

VARIABLE = "MILLSTREAM_TEST_KAFKA"
#: Seconds; a request that is sent at all is sent much sooner.
SOON = 0.3


def kafka_url(variable: str = VARIABLE) -> str:
    """Where it is; the test is skipped when nobody has started one."""
    return server_url("kafka", variable)


async def restart_kafka() -> None:
    """Kill it and start it again, if it is ours."""
    server = Kafka()
    if server.env().get(VARIABLE) != kafka_url():
        pytest.skip("this server was not started by `make services`, so it is not killed")
    await asyncio.to_thread(server.cluster.kill)
    await asyncio.to_thread(server.start)


@asynccontextmanager
async def proxied() -> AsyncGenerator[tuple[KafkaBroker, Proxy]]:
    """The broker, whose clients come to their server through a proxy."""
    cluster = Kafka().cluster
    if Kafka().env().get(VARIABLE) != kafka_url():
        pytest.skip("this server was not started by `make services`, and there is no way to it through a proxy")
    server, way = cluster.line(1)
    async with Proxy("127.0.0.1", server, at=way) as proxy, KafkaBroker(f"kafka://127.0.0.1:{way}?allow_single_replica=1") as broker:
        yield broker, proxy


async def refuse_the_first(proxy: Proxy, first: bytes, later: bytes) -> None:
    """Have the server refuse the request with a word in it, and its client not know before it has sent a later one, if it will.

    What a server refuses that has only just become a leader; here because a checksum is wrong.
    """
    first_is_sent, later_is_sent = proxy.listen_for(first, instead=first.swapcase()), proxy.listen_for(later)
    await first_is_sent.wait()
    proxy.stall(answers_only=True)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SOON):
            await later_is_sent.wait()
    await proxy.mend()


def running(cluster: KafkaCluster) -> Iterator[KafkaCluster]:
    """Servers of a test's own, for its fixture; started only where tests work on Kafka at all."""
    kafka_url()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop(kill=True)


def stands_still(pid: int) -> bool:
    """Whether every thread of a process is stopped."""
    return all(file.read_text().rpartition(")")[2].split()[0] == "T" for file in Path(f"/proc/{pid}/task").glob("*/stat"))
