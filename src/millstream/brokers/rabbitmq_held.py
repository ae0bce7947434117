"""What members of a group hold: the processes that have some are asked, since a queue counts only what lies in it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Sequence

import msgspec

from millstream.brokers import rabbitmq_amqp as amqp
from millstream.brokers.rabbitmq_amqp import Delivered
from millstream.brokers.rabbitmq_connection import Channel, Connection
from millstream.core.broker import Partition

#: Whoever has members hears here, by the name of their group, what is asked of it.
EXCHANGE = "millstream.members"
#: Seconds to wait for the answers: they come from memory.
PATIENCE = 0.5


class Held(msgspec.Struct, frozen=True, array_like=True):
    """What a member has of a queue that is its own."""

    topic: str
    number: int
    member: str
    count: int
    oldest: int | None
    """When (microseconds) the first of it was published."""

    @property
    def partition(self) -> Partition:
        """Whose queue it is."""
        return Partition(self.topic, self.number)


class _Ask(msgspec.Struct, frozen=True):
    group: str
    to: str
    number: int


class _Answer(msgspec.Struct, frozen=True):
    number: int
    held: list[Held]


class _Asking:
    """A question, and what was answered so far."""

    def __init__(self, wanted: set[Partition]) -> None:
        self.missing = wanted
        self.found: list[Held] = []
        self.done = asyncio.Event()


class RabbitHeld:
    """Asks the processes that have members of a group, and answers for those of this one.

    It has one channel and one queue of its own, which go with their connection and are
    made anew when somebody next asks, or says again that there are members.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]], report: Callable[[str], Sequence[Held]]) -> None:
        self._connect = connect
        self._report = report
        """What the members of this process hold of a group."""
        self._opening = asyncio.Lock()
        self._channel: Channel | None = None
        self._queue = ""
        self._bound: set[str] = set()
        self._number = 0
        self._asked: dict[int, _Asking] = {}

    async def hear(self, groups: Collection[str]) -> None:
        """Answer what is asked of these groups from now on."""
        channel = await self._open()
        for group in [group for group in groups if group not in self._bound]:
            await channel.answer(channel.ask_binding(self._queue, EXCHANGE, group))
            self._bound.add(group)

    async def ask(self, group: str, wanted: Collection[Partition]) -> list[Held]:
        """What members of other processes hold of these; of those that do not answer in time there is nothing."""
        channel = await self._open()
        self._number = number = self._number + 1
        asking = self._asked[number] = _Asking(set(wanted))
        _send(channel, EXCHANGE, group, _Ask(group, self._queue, number))
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await asking.done.wait()
        finally:
            del self._asked[number]
        return asking.found

    async def _open(self) -> Channel:
        async with self._opening:
            if self._channel is None or self._channel.closed is not None:
                channel = await (await self._connect()).channel()
                await channel.declare_exchange(EXCHANGE, "direct")
                self._queue, _, _ = await channel.queue("", exclusive=True, auto_delete=True)
                channel.on_message = lambda delivered, header, body: self._came(channel, delivered, body)
                await channel.consume(self._queue, unacknowledged=True)
                self._channel, self._bound = channel, set()
            return self._channel

    def _came(self, channel: Channel, delivered: Delivered, body: bytes) -> None:
        # What is no message of ours is nothing to answer.
        with contextlib.suppress(msgspec.MsgspecError):
            if delivered.exchange:
                ask = msgspec.json.decode(body, type=_Ask)
                _send(channel, "", ask.to, _Answer(ask.number, list(self._report(ask.group))))
            else:
                self._answered(msgspec.json.decode(body, type=_Answer))

    def _answered(self, answer: _Answer) -> None:
        asking = self._asked.get(answer.number)
        if asking is not None:
            asking.found += answer.held
            asking.missing.difference_update(held.partition for held in answer.held)
            if not asking.missing:
                asking.done.set()


def _send(channel: Channel, exchange: str, route: str, what: _Ask | _Answer) -> None:
    connection = channel.connection
    message = amqp.content(channel.number, b"application/json", b"", msgspec.json.encode(what), frame_max=connection.frame_max)
    connection.write(amqp.publish_method(channel.number, exchange, route, mandatory=False) + message)
