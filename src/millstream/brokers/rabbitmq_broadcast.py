"""What every process is told: an exchange that copies to a queue of each listener."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from millstream.brokers.rabbitmq_amqp import Delivered
from millstream.brokers.rabbitmq_connection import Channel, Connection
from millstream.contracts.errors import BrokerUnavailableError, MillstreamError

EXCHANGE = "millstream.broadcast"


class RabbitListener:
    """One ear for what is broadcast; see `core.broker.Listener`."""

    def __init__(self, closed: Callable[["RabbitListener"], None]) -> None:
        self._closed = closed
        self._heard: list[bytes] = []
        self._bell = asyncio.Event()
        self._channel: Channel | None = None
        self._failure: MillstreamError | None = None

    async def begin(self, connection: Connection) -> None:
        """Return once everything that is said from now on will be heard."""
        channel = self._channel = await connection.channel()
        channel.on_message = self._came
        channel.on_closed = self._fail
        channel.on_cancel = lambda: self._fail(BrokerUnavailableError("the queue of this listener was deleted; listen again"))
        # Named by the server, and gone with its listener.
        queue, _, _ = await channel.queue("", exclusive=True, auto_delete=True)
        await channel.answer(channel.ask_binding(queue, EXCHANGE))
        await channel.consume(queue, unacknowledged=True)

    def _came(self, delivered: Delivered, header: bytes, body: bytes) -> None:
        self._heard.append(body)
        self._bell.set()

    def _fail(self, error: MillstreamError) -> None:
        self._failure = self._failure or error
        self._bell.set()

    async def receive(self, wait: float) -> Sequence[bytes]:
        if not self._heard and self._failure is None and wait > 0:
            self._bell.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._bell.wait()
        if not self._heard and self._failure is not None:
            raise self._failure
        heard, self._heard = self._heard, []
        return heard

    async def close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()
        self._closed(self)
