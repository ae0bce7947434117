"""The Kafka server that tests work on, the one of `make services`."""

import asyncio

import pytest
from tests.brokers.servers import server_url
from tools.services.kafka import Kafka

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
