"""Publishing in order, beside a stand-in of the server that can be made to do what the real one does only at a bad moment."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import pytest

from millstream.brokers.rabbitmq_connection import Channel, Connection
from millstream.brokers.rabbitmq_publisher import Outgoing, RabbitPublisher
from millstream.brokers.rabbitmq_settings import settings_of
from millstream.contracts.errors import BrokerUnavailableError


class Told(Outgoing):
    """A message that says what it is, instead of how it is framed."""

    __slots__ = ("name",)

    def __init__(self, route: str, name: str) -> None:
        super().__init__("t", route, (b"", b"", b""))
        self.name = name

    def frames(self, channel: int, frame_max: int) -> bytes:
        return f"{self.route}={self.name};".encode()


class Server:
    """Routes to streams that are there, gives back the others, and confirms in order, once for each piece that it gets."""

    def __init__(self, unroutable: Counter[str]) -> None:
        self.unroutable = unroutable
        """Of each route, how many messages come before its stream is there."""
        self.log: list[tuple[str, str]] = []
        self.writable, self.frame_max, self.number, self.blocked = True, 1 << 17, 1, ""
        self.connection, self.closed = self, None
        self.on_confirm: Any = None
        self.on_return: Any = None
        self.on_closed: Any = None
        self.on_writable: Any = None
        self._tag = 0

    async def channel(self) -> Channel:
        return cast("Channel", self)

    async def confirm(self) -> None:
        self._tag = 0

    async def close(self) -> None: ...

    def write(self, data: bytes) -> None:
        asyncio.get_running_loop().call_soon(self._take, data)

    def _take(self, data: bytes) -> None:
        for message in data.decode().split(";")[:-1]:
            self._tag += 1
            route, _, name = message.partition("=")
            if self.unroutable[route] > 0:
                self.unroutable[route] -= 1
                self.on_return("t", route)
            else:
                self.log.append((route, name))
        if data:
            self.on_confirm(self._tag, True, True)

    def of(self, route: str) -> list[str]:
        """What a reader of a stream makes of it: the first of each."""
        return list(dict.fromkeys(name for where, name in self.log if where == route))


def publisher_on(*servers: Server) -> RabbitPublisher:
    """One that finds these servers, one connection after the other."""
    following = iter(servers)

    async def connect() -> Connection:
        return cast("Connection", next(following))

    return RabbitPublisher(settings_of("rabbitmq://localhost?streams=1"), connect, lambda exchange: None)


async def sent(publisher: RabbitPublisher, messages: Sequence[Outgoing]) -> None:
    async with asyncio.timeout(10):
        assert list(await publisher.send(messages)) == [None] * len(messages)


@pytest.mark.parametrize("missed", range(4))
async def test_a_stream_that_comes_in_the_middle_gets_its_messages_in_order(missed: int) -> None:
    """A server that was killed has each of its streams a little later than its exchanges: what was sent too soon is not overtaken."""
    server = Server(Counter({"0": missed, "2": 1}))
    publisher = publisher_on(server)

    await asyncio.gather(*(sent(publisher, [Told(str(n % 3), f"{call}-{n}") for n in range(30)]) for call in range(3)))

    for route in "012":
        assert server.of(route) == [f"{call}-{n}" for call in range(3) for n in range(30) if str(n % 3) == route]
    await publisher.close()


async def test_what_a_lost_connection_leaves_in_doubt_waits_for_its_stream_too() -> None:
    """On the next connection all begins anew: what waited, what was under way, and what comes meanwhile keep their order."""
    before, after = Server(Counter({"0": 1})), Server(Counter({"0": 2, "1": 1}))
    publisher = publisher_on(before, after)
    messages = [Told(str(n % 2), str(n)) for n in range(20)]
    sending = asyncio.create_task(sent(publisher, messages[:10]))
    while not before.log:  # noqa: ASYNC110 - it is looked at between any two steps of the loop
        await asyncio.sleep(0)
    before.on_closed(BrokerUnavailableError("it was killed"))
    await sent(publisher, messages[10:])
    await sending

    for route in "01":
        seen = list(dict.fromkeys([*before.of(route), *after.of(route)]))
        assert seen == [str(n) for n in range(20) if str(n % 2) == route]
    await publisher.close()
