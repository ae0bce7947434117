"""The Redis server that tests work on, the one of `make services`."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
from tests.brokers.servers import server_url
from tools.services.redis import Redis

from millstream.brokers.redis import RedisBroker

VARIABLE = "MILLSTREAM_TEST_REDIS"


def redis_url() -> str:
    """Where it is; the test is skipped when nobody has started one."""
    return server_url("redis", VARIABLE)


async def restart_redis() -> None:
    """Kill it and start it again, if it is ours."""
    service = Redis()
    if service.env().get(VARIABLE) != redis_url():
        pytest.skip("this server was not started by `make services`, so it is not killed")
    await asyncio.to_thread(service.server.stop, kill=True)
    await asyncio.to_thread(service.start)


@asynccontextmanager
async def tidied(url: str, mine: Callable[[str], bool]) -> AsyncGenerator[None]:
    """Remove the groups of a test afterwards, so that those after it find few."""
    try:
        yield
    finally:
        async with RedisBroker(url) as broker:
            for group in await broker.groups():
                if mine(group.name):
                    await broker.forget(group.name)
