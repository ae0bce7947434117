"""What RabbitMQ does not remember: which topics and groups there are, and which store keeps a group's progress."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import msgspec

from millstream.brokers.rabbitmq_connection import LOCKED, NOT_FOUND, Channel, Connection, RefusedError
from millstream.brokers.rabbitmq_publisher import Outgoing
from millstream.contracts.errors import BrokerError, BrokerUnavailableError, MillstreamError
from millstream.core.broker import Group, Topic

log = logging.getLogger("millstream.rabbitmq")

#: A queue that holds one message: everything that is known. An exchange of that name says that it was made.
QUEUE = "millstream.register"
#: Whoever has this queue, which only one connection can have, may look and change.
LOCK = "millstream.register.lock"
#: Seconds to wait for the register while others have it, and for its message when its last reader died with it in hand.
PATIENCE = 30.0
RETURNS = 5.0
#: Seconds that a server which has just come back may say that there is no register, although there was one.
RECOVERS = 10.0


class TopicRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A topic that was made."""

    partitions: int
    retain_seconds: float | None = None
    retain_bytes: int | None = None
    streams: bool = False
    """Whether its partitions are streams."""

    def topic(self, name: str) -> Topic:
        """It, as the port says it."""
        return Topic(name=name, partitions=self.partitions, retain_seconds=self.retain_seconds, retain_bytes=self.retain_bytes)


class GroupRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A group that was declared."""

    topics: tuple[str, ...]
    start: Literal["latest", "earliest"] = "latest"
    store: str | None = None

    def group(self, name: str) -> Group:
        """It, as the port says it."""
        return Group(name=name, topics=self.topics, start=self.start, store=self.store)


class Register(msgspec.Struct, frozen=True):
    """Everything that is known, and how often it was changed."""

    version: int = 0
    topics: dict[str, TopicRecord] = {}
    groups: dict[str, GroupRecord] = {}


Publish = Callable[[Outgoing], Awaitable[MillstreamError | None]]


class RabbitRegister:
    """Reads and changes the register, one process at a time."""

    def __init__(
        self,
        name: str,
        connect: Callable[[], Awaitable[Connection]],
        publish: Publish,
        arguments: Callable[[Connection], Mapping[str, Any]],
    ) -> None:
        self._name = name
        self._connect = connect
        self._publish = publish
        self._arguments = arguments
        self._using = asyncio.Lock()
        self._made = False

    async def read(self) -> Register:
        """All of it, as of now."""
        return await self._locked(None)

    async def change(
        self, decide: Callable[[Register], Register], *, before: Callable[[Register], Awaitable[None]] | None = None
    ) -> Register:
        """Write what `decide` makes of it, unless that is the same; nobody else changes anything meanwhile.

        `before` is called with what there was, and has to end before anything is written.
        """
        return await self._locked(decide, before)

    async def _locked(
        self, decide: Callable[[Register], Register] | None, before: Callable[[Register], Awaitable[None]] | None = None
    ) -> Register:
        deadline = asyncio.get_running_loop().time() + PATIENCE
        async with self._using:
            while True:
                connection = await self._connect()
                async with await connection.channel() as channel:
                    try:
                        await channel.queue(LOCK, exclusive=True)
                    except RefusedError as error:
                        if error.code != LOCKED:
                            raise
                    else:
                        try:
                            return await self._use(connection, channel, decide, before)
                        finally:
                            with contextlib.suppress(MillstreamError):
                                await self._unlock(connection)
                if asyncio.get_running_loop().time() > deadline:
                    raise BrokerUnavailableError(
                        f"{self._name}: another process has had the register of topics and groups for {PATIENCE:g} s. "
                        "Look for one that hangs; the same call may succeed later."
                    )
                await asyncio.sleep(random.uniform(0.002, 0.03))  # noqa: S311 - so that two do not meet again

    async def _unlock(self, connection: Connection) -> None:
        # On a channel of its own: what was asked before may have closed the other.
        async with await connection.channel() as channel:
            await channel.answer(channel.ask_deletion(LOCK))

    async def _use(
        self,
        connection: Connection,
        channel: Channel,
        decide: Callable[[Register], Register] | None,
        before: Callable[[Register], Awaitable[None]] | None,
    ) -> Register:
        if not self._made:
            made = await self._was_made(connection)
            if not made and decide is None:
                return Register()
            if not made:
                await channel.queue(QUEUE, arguments=self._arguments(connection))
                await self._write(Register())
            await channel.declare_exchange(QUEUE, "fanout")
        self._made = True
        tags, register = await self._take(channel)
        changed = register if decide is None else decide(register)
        if changed is register or changed == register:
            for tag in tags:
                channel.requeue(tag)
            return register
        if before is not None:
            await before(register)
        changed = msgspec.structs.replace(changed, version=register.version + 1)
        await self._write(changed)
        for tag in tags:
            channel.ack(tag)
        return changed

    async def _was_made(self, connection: Connection) -> bool:
        """Whether there is a register. Where only its exchange is, its queue is waited for: an empty one would forget all groups."""
        deadline = asyncio.get_running_loop().time() + RECOVERS
        while True:
            if await self._exists(connection, lambda channel: channel.ask_queue(QUEUE, passive=True)):
                return True
            if not await self._exists(connection, lambda channel: channel.ask_exchange(QUEUE)):
                return False
            if asyncio.get_running_loop().time() > deadline:
                log.warning(
                    "%s: the queue %s is gone, and with it what was known of topics and groups: they are declared anew", self._name, QUEUE
                )
                return False
            await asyncio.sleep(0.1)

    @staticmethod
    async def _exists(connection: Connection, ask: "Callable[[Channel], asyncio.Future[bytes]]") -> bool:
        async with await connection.channel() as channel:
            try:
                await channel.answer(ask(channel))
            except RefusedError as error:
                if error.code == NOT_FOUND:
                    return False
                raise
        return True

    async def _take(self, channel: Channel) -> tuple[list[int], Register]:
        """What the queue holds. Whoever died while changing it may have left both the old and the new."""
        deadline = asyncio.get_running_loop().time() + RETURNS
        while True:
            tags: list[int] = []
            found: list[Register] = []
            while (got := await channel.get(QUEUE)) is not None:
                delivered, _, body = got
                tags.append(delivered.tag)
                try:
                    found.append(msgspec.json.decode(body, type=Register))
                except msgspec.MsgspecError as error:
                    raise BrokerError(f"{self._name}: the queue {QUEUE} holds what is not Millstream's: {error}. Remove it.") from error
            if found:
                newest = max(found, key=lambda register: register.version)
                for tag, register in zip(tags, found, strict=True):
                    if register is not newest:
                        channel.ack(tag)
                return [tag for tag, register in zip(tags, found, strict=True) if register is newest], newest
            if asyncio.get_running_loop().time() > deadline:
                # Whoever made the queue died before it wrote.
                await self._write(Register())
            await asyncio.sleep(0.01)

    async def _write(self, register: Register) -> None:
        error = await self._publish(Outgoing("", QUEUE, (b"application/json", b"", msgspec.json.encode(register))))
        if error is not None:
            raise error
