"""The NATS server that tests work on, the one of `make services`."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from tests.brokers.servers import server_url
from tools.services.nats import Nats

from millstream.brokers.nats import NatsBroker
from millstream.brokers.nats_names import escaped, stream_of

VARIABLE = "MILLSTREAM_TEST_NATS"


def nats_url() -> str:
    """Where it is; the test is skipped when nobody has started one."""
    return server_url("nats", VARIABLE)


async def restart_nats() -> None:
    """Kill it and start it again, if it is ours."""
    service = Nats()
    if service.env().get(VARIABLE) != nats_url():
        pytest.skip("this server was not started by `make services`, so it is not killed")
    await asyncio.to_thread(service.server.stop, kill=True)
    await asyncio.to_thread(service.start)


@asynccontextmanager
async def tidied(url: str) -> AsyncGenerator[None]:
    """Remove afterwards what was made inside: a server keeps everything, and hundreds of streams make it slow."""
    async with NatsBroker(url) as broker:
        before = {record.name for record in await broker._register.topics()}, {record.name for record in await broker._register.groups()}
    try:
        yield
    finally:
        async with NatsBroker(url) as broker:
            for record in await broker._register.groups():
                if record.name not in before[1]:
                    await broker.forget(record.name)
            for record in await broker._register.topics():
                if record.name not in before[0]:
                    await broker._register._bucket.remove(f"topic.{escaped(record.name)}")
                    for partition in record.all():
                        await broker._jetstream.call("tidying", f"STREAM.DELETE.{stream_of(partition)}", None, dict)
