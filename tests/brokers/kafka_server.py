"""The Kafka server that tests work on, the one of `make services`."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.brokers.servers import server_url
from tools.services.kafka import Kafka, KafkaCluster

VARIABLE = "MILLSTREAM_TEST_KAFKA"


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
