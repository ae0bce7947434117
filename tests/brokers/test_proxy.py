"""The proxy does to connections what networks do, and nothing else."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest
from tests.brokers.proxy import Proxy

#: Long enough for loopback, many times over.
SOON = 0.05


class Echo(asyncio.Protocol):
    """The server's end of a connection: it answers what it is told, and what all are told is remembered."""

    def __init__(self, heard: "Heard") -> None:
        self._heard = heard

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)
        self._heard.text += data
        self._heard.news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._heard.ended.set()


class Heard:
    """What a server has been told."""

    def __init__(self) -> None:
        self.text = b""
        self.news, self.ended = asyncio.Event(), asyncio.Event()

    async def until(self, text: bytes) -> None:
        async with asyncio.timeout(5):
            while self.text != text:
                self.news.clear()
                await self.news.wait()


class Client:
    """Who speaks to it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def says(self, text: bytes) -> None:
        self.writer.write(text)
        await self.writer.drain()

    async def hears(self, text: bytes) -> None:
        async with asyncio.timeout(5):
            assert await self.reader.readexactly(len(text)) == text

    async def hears_nothing(self) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SOON):
                await self.reader.read(1)

    async def is_reset(self) -> None:
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(5):
                await self.reader.read(1)


class Ground:
    """A server that answers what it is told, a proxy before it, and clients."""

    def __init__(self, server: asyncio.Server, proxy: Proxy, heard: Heard) -> None:
        self.server, self.proxy, self.heard = server, proxy, heard
        self._writers: list[asyncio.StreamWriter] = []

    async def client(self) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.proxy.port)
        self._writers.append(writer)
        return Client(reader, writer)

    async def greeted(self) -> Client:
        """A client that has been answered once."""
        client = await self.client()
        await client.says(b"one")
        await client.hears(b"one")
        return client

    async def close(self) -> None:
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@pytest.fixture
async def ground() -> AsyncGenerator[Ground]:
    """All of it, on loopback."""
    heard = Heard()
    server = await asyncio.get_running_loop().create_server(lambda: Echo(heard), "127.0.0.1", 0)
    async with server, Proxy(*server.sockets[0].getsockname()) as proxy:
        ground = Ground(server, proxy, heard)
        yield ground
        await ground.close()


async def test_what_both_sides_say_passes_whole(ground: Ground) -> None:
    """More than any buffer holds, from one who reads nothing of it until all is said."""
    text = bytes(range(256)) * 40_000
    client = await ground.client()

    saying = asyncio.create_task(client.says(text))
    await client.hears(text)
    await saying
    client.writer.close()
    await ground.heard.ended.wait()

    assert ground.proxy.passed == 2 * len(text)
    assert ground.proxy.connections == 0


async def test_connections_that_are_dropped_are_reset_at_both_ends(ground: Ground) -> None:
    """Both are told, and whoever connects again gets through."""
    client = await ground.greeted()

    ground.proxy.drop()

    await client.is_reset()
    await ground.heard.ended.wait()
    await ground.greeted()


async def test_a_stalled_connection_stays_open_and_says_nothing(ground: Ground) -> None:
    """Nobody is told, old or new; afterwards everything arrives that was said meanwhile."""
    old = await ground.greeted()

    ground.proxy.stall()
    new = await ground.client()
    for client in (old, new):
        await client.says(b"two")
        await client.hears_nothing()

    assert ground.heard.text == b"one"
    await ground.proxy.mend()
    await old.hears(b"two")
    await new.hears(b"two")


async def test_where_answers_are_stalled_questions_arrive(ground: Ground) -> None:
    """The server does what it was asked, and who asked never knows it."""
    client = await ground.client()

    ground.proxy.stall(answers_only=True)
    await client.says(b"one")
    await ground.heard.until(b"one")
    await client.hears_nothing()
    ground.proxy.drop()

    await client.is_reset()


async def test_a_word_that_is_awaited_arrives_changed_once(ground: Ground) -> None:
    """Whoever waits is told when it is said, and the server hears something else of it, that time."""
    client = await ground.client()
    said, unsaid = ground.proxy.listen_for(b"two", instead=b"TWO"), ground.proxy.listen_for(b"three")

    await client.says(b"one two two")
    await client.hears(b"one TWO two")
    await client.says(b"two")
    await client.hears(b"two")

    assert said.is_set()
    assert not unsaid.is_set()


async def test_what_was_said_by_one_who_has_given_up_arrives_late(ground: Ground) -> None:
    """A server may be asked by connections whose client has long since asked again in another."""
    client = await ground.greeted()

    ground.proxy.stall()
    await client.says(b"two")
    client.writer.close()
    await client.writer.wait_closed()
    assert not ground.heard.ended.is_set()
    await ground.proxy.mend()

    await ground.heard.until(b"onetwo")
    await ground.heard.ended.wait()


async def test_a_proxy_that_refuses_is_nobody(ground: Ground) -> None:
    """Who was connected is reset, who connects is refused, and afterwards it is at its old place."""
    client = await ground.greeted()
    port = ground.proxy.port

    await ground.proxy.refuse()

    await client.is_reset()
    with pytest.raises(ConnectionRefusedError):
        await ground.client()
    await ground.proxy.mend()
    await ground.greeted()
    assert ground.proxy.port == port


async def test_a_server_that_is_gone_is_gone_through_the_proxy_too(ground: Ground) -> None:
    """Whoever connects is told so at once."""
    ground.server.close()

    client = await ground.client()

    await client.is_reset()
