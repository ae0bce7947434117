"""The RabbitMQ server that tests work on, the one of `make services`."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
from tests.brokers.servers import server_url
from tests.brokers.words import names
from tools.services.rabbitmq import RabbitMQ

from millstream.brokers.rabbitmq import RabbitBroker

VARIABLE = "MILLSTREAM_TEST_RABBITMQ"


def rabbitmq_url() -> str:
    """Where it is; the test is skipped when nobody has started one."""
    return server_url("rabbitmq", VARIABLE)


async def restart_rabbitmq() -> None:
    """Kill it and start it again, if it is ours."""
    service = RabbitMQ()
    if service.env().get(VARIABLE) != rabbitmq_url():
        pytest.skip("this server was not started by `make services`, so it is not killed")
    await asyncio.to_thread(service.server.kill)
    await asyncio.to_thread(service.start)


@asynccontextmanager
async def tidied(url: str, mine: Callable[[str], bool] | None = None) -> AsyncGenerator[None]:
    """Remove the groups of a test afterwards: a topic that tests share would fill the queues of them all."""
    before = len(names)
    try:
        yield
    finally:
        ours = set(names[before:])
        async with RabbitBroker(url) as broker:
            for group in await broker.groups():
                if group.name in ours or (mine is not None and mine(group.name)):
                    await broker.forget(group.name)
