"""Reading streams without a group: events from a position on, and the position of a moment."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from millstream.brokers.nats_connection import Connection
from millstream.brokers.nats_jetstream import API, JetStream, StreamInfo
from millstream.brokers.nats_names import stream_of
from millstream.brokers.nats_wire import NatsReader
from millstream.contracts.errors import BrokerUnavailableError
from millstream.core.broker import Delivery, Partition

#: How many messages are asked for at a time, and seconds to wait for them.
PAGE = 1000
SECONDS = 15.0
#: The last moment that the server can count in nanoseconds.
LATEST = 9_000_000_000_000_000


class _Made(msgspec.Struct, frozen=True):
    name: str


Raw = tuple[int, int, bytes, bytes]


class NatsHistory:
    """Asks streams for what they hold, with a consumer for each question."""

    def __init__(self, jetstream: JetStream, connect: Callable[[], Awaitable[Connection]]) -> None:
        self._jetstream = jetstream
        self._connect = connect

    async def read(self, partition: Partition, info: StreamInfo, position: int, most: int) -> list[Delivery]:
        """Events from a position on."""
        most = min(most, info.head - position)
        if most <= 0:
            return []
        stream = stream_of(partition)
        start = {"deliver_policy": "by_start_sequence", "opt_start_seq": max(position, info.first)}
        reader = NatsReader(partition, stream, info.created)
        return [reader.delivery(*raw) for raw in await self._fetch(stream, start, most)]

    async def position_at(self, partition: Partition, info: StreamInfo, micros: int) -> int:
        """The first position whose event was stored at that time or later."""
        moment = datetime.fromtimestamp(min(max(micros, 0), LATEST) / 1_000_000, UTC)
        # To the microsecond, whatever a float makes of it.
        text = moment.replace(microsecond=min(max(micros, 0), LATEST) % 1_000_000).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        found = await self._fetch(stream_of(partition), {"deliver_policy": "by_start_time", "opt_start_time": text}, 1)
        return found[0][0] if found else info.head

    async def _fetch(self, stream: str, start: dict[str, Any], most: int) -> list[Raw]:
        connection = await self._connect()
        inbox = f"{connection.inbox}.{secrets.token_hex(4)}.h"
        found: list[Raw] = []
        ended = asyncio.Event()

        def came(subject: bytes, reply: bytes, head: bytes, body: bytes) -> None:
            if not reply:
                ended.set()
                return
            fields = reply.split(b".")
            at = 5 if len(fields) < 11 else 7
            found.append((int(fields[at]), int(fields[at + 2]), head, body))
            if len(found) >= wanted:
                ended.set()

        wanted = 0
        number = connection.subscribe(inbox, came)
        try:
            config = {
                **start, "ack_policy": "none", "replay_policy": "instant", "mem_storage": True, "num_replicas": 1,
                "inactive_threshold": int(SECONDS * 1e9),
            }  # fmt: skip
            body = {"stream_name": stream, "config": config}
            made = await self._jetstream.call(f"reading stream {stream}", f"CONSUMER.CREATE.{stream}", body, _Made)
            more = True
            while more and len(found) < most:
                ended.clear()
                before, page = len(found), min(PAGE, most - len(found))
                wanted = before + page
                connection.publish(f"{API}.CONSUMER.MSG.NEXT.{stream}.{made.name}", b'{"batch":%d,"no_wait":true}' % page, reply=inbox)
                async with asyncio.timeout(SECONDS):
                    await ended.wait()
                more = len(found) == wanted
            connection.publish(f"{API}.CONSUMER.DELETE.{stream}.{made.name}", b"")
        except TimeoutError as error:
            raise BrokerUnavailableError(f"stream {stream} does not answer within {SECONDS:g} s. Try again later.") from error
        finally:
            connection.unsubscribe(number)
        return found
