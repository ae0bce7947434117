"""The Redis server that tests work on, the one of `make services`, and the words that its tests share."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.brokers.servers import server_url
from tools.services.redis import Redis

from millstream.brokers.redis import RedisBroker
from millstream.contracts.envelope import Envelope
from millstream.core.broker import Delivery, Group, Topic
from millstream.testing.broker_ground import Member

VARIABLE = "MILLSTREAM_TEST_REDIS"
PATIENCE = 60.0


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


def unique(word: str) -> str:
    """A name that no other test uses."""
    return f"{word}.{secrets.token_hex(4)}"


def made(topic: str, count: int, *, keys: int = 8, prefix: str = "e", **attributes: Any) -> list[Envelope]:
    """So many events of one topic over so many keys."""
    return [
        Envelope(
            **{
                "id": f"{prefix}-{number}", "source": "/test", "type": "made", "key": f"k{number % keys}", "topic": topic,
                "time": 1_767_225_600_000_000 + number, "data": b'{"number":%d}' % number,
            }
            | attributes
        )
        for number in range(count)
    ]  # fmt: skip


async def declared(broker: RedisBroker, *, partitions: int = 4, **group: Any) -> tuple[str, str]:
    """A new topic, and a new group that reads it."""
    topic, name = unique("made"), unique("group")
    await broker.declare([Topic(name=topic, partitions=partitions)], [Group(name=name, topics=(topic,), **group)])
    return topic, name


async def published(broker: RedisBroker, envelopes: Sequence[Envelope]) -> None:
    """Publish; all of it has to be accepted."""
    results = await broker.publish(envelopes)
    assert not any(results), next(filter(None, results))


async def until(reached: Callable[[], bool], step: Callable[[], Any], otherwise: Callable[[], str]) -> None:
    """Do one step after another until something is so."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not reached():
                await step()
    except TimeoutError as error:
        raise AssertionError(f"{otherwise()} within {PATIENCE:g} s") from error


async def taken(member: Member, count: int, *, settle: bool = True) -> list[Delivery]:
    """Receive until so many have come."""
    items: list[Delivery] = []

    async def step() -> None:
        came = await member.step(count - len(items))
        items.extend(came)
        if settle:
            await member.settle(came)

    await until(lambda: len(items) >= count, step, lambda: f"only {len(items)} of {count} deliveries came")
    return items
