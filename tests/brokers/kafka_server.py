"""The Kafka server that tests work on: the one of `make services`."""

import asyncio
import os

import pytest
from tools.services.kafka import Kafka

VARIABLE = "MILLSTREAM_TEST_KAFKA"


def kafka_url(variable: str = VARIABLE) -> str:
    """Where it is; the test is skipped when nobody has started one, and fails where that was promised."""
    url = os.environ.get(variable)
    if url:
        return url
    how = f"{variable} is not set: make services ONLY=kafka; source .services/env"
    if os.environ.get("MILLSTREAM_TEST_SERVICES"):
        pytest.fail(f"the servers were asked for (MILLSTREAM_TEST_SERVICES), and {how}")
    pytest.skip(how)


async def restart_kafka() -> None:
    """Kill it and start it again, if it is ours."""
    server = Kafka()
    if server.env().get(VARIABLE) != kafka_url():
        pytest.skip("this server was not started by `make services`, so it is not killed")
    await asyncio.to_thread(server.cluster.kill)
    await asyncio.to_thread(server.start)
