"""The register of topics and groups while its queue is away, on the real server."""

import asyncio
import secrets
from collections.abc import AsyncGenerator

import pytest
from tests.brokers.rabbitmq_server import rabbitmq_url
from tests.brokers.words import declared

from millstream.brokers import rabbitmq_register
from millstream.brokers.rabbitmq import RabbitBroker
from millstream.brokers.rabbitmq_connection import Channel, Connection
from millstream.brokers.rabbitmq_settings import settings_of
from millstream.core.broker import Topic

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


@pytest.fixture
async def queue(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[str]:
    """A register of this test's own."""
    rabbitmq_url()
    name = f"millstream.register.{secrets.token_hex(4)}"
    monkeypatch.setattr(rabbitmq_register, "QUEUE", name)
    monkeypatch.setattr(rabbitmq_register, "LOCK", f"{name}.lock")
    yield name
    connection = await Connection.connect(settings_of(rabbitmq_url()))
    await take_away(await connection.channel(), name)
    await connection.close()


async def take_away(channel: Channel, queue: str) -> None:
    await channel.answer(channel.ask_deletion(queue))


async def test_a_register_that_a_restarted_server_does_not_show_yet_is_waited_for(queue: str) -> None:
    """A new process would take its absence for a new server, write an empty one, and every group would be forgotten."""
    async with RabbitBroker(rabbitmq_url()) as before:
        topic, group = await declared(before)
        known = await before._register.read()  # pyright: ignore[reportPrivateUsage]
        channel = await before._channel()  # pyright: ignore[reportPrivateUsage]
        await take_away(channel, queue)
        async with RabbitBroker(rabbitmq_url()) as after:
            asking = asyncio.create_task(after.groups())
            await asyncio.wait({asking}, timeout=0.5)
            await channel.queue(queue, arguments=before._register._arguments(channel.connection))  # pyright: ignore[reportPrivateUsage]
            await before._register._write(known)  # pyright: ignore[reportPrivateUsage]

            assert [(one.name, one.topics) for one in await asking] == [(group, (topic,))]


async def test_a_register_that_somebody_has_deleted_is_made_anew(
    queue: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning: what was declared before is not known any more."""
    monkeypatch.setattr(rabbitmq_register, "RECOVERS", 0.2)
    async with RabbitBroker(rabbitmq_url()) as before:
        topic, _ = await declared(before)
        await take_away(await before._channel(), queue)  # pyright: ignore[reportPrivateUsage]
    async with RabbitBroker(rabbitmq_url()) as after:
        await after.declare([Topic(name=f"{topic}.next")], [])

        assert [one.name for one in await after.topics()] == [f"{topic}.next"]
    assert {record.levelname for record in caplog.records if "declared anew" in record.message} == {"WARNING"}
