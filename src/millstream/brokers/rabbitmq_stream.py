"""Topics as streams of RabbitMQ: made, read without a group, and where groups stand in them."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from millstream.brokers import rabbitmq_amqp as amqp
from millstream.brokers.rabbitmq_amqp import Delivered, Timestamp
from millstream.brokers.rabbitmq_connection import DIFFERENT, NOT_FOUND, Connection, RefusedError
from millstream.brokers.rabbitmq_publisher import Outgoing
from millstream.brokers.rabbitmq_register import TopicRecord
from millstream.brokers.rabbitmq_wire import RabbitReader, route_of
from millstream.contracts.errors import BrokerError, BrokerUnavailableError, ConfigurationError, MillstreamError
from millstream.core.broker import Delivery, Partition

#: How many questions are asked of the streams at a time, messages of an answer, and as many as a channel can ask for.
AT_ONCE = 16
PAGE = 1000
EVERYTHING = 65_535
#: Seconds in which a server that has just come back has to have its streams ready.
PATIENCE = 15.0
AGAIN = 0.1
#: A stream forgets in whole segments, so they are smaller than RabbitMQ makes them where something is to be forgotten.
SEGMENTS = (1 << 20, 64 << 20)
#: The last moment that a server can be asked for, in seconds.
LATEST = 1 << 36
#: Where a group stands is told anew every second, and only the last of it counts.
RECORDS = {"x-queue-type": "stream", "x-max-length-bytes": 128 << 10, "x-stream-max-segment-size-bytes": 64 << 10}

_OFFSET = b"\x0fx-stream-offsetl"


class Place(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a group stands in a partition, and which member said so."""

    position: int
    member: str = ""


def stream_of(partition: Partition) -> str:
    """The stream of a partition; a colon in a name is written as %3A, so that no two have the same."""
    return f"{partition.topic.replace('%', '%25').replace(':', '%3A')}:{partition.number}"


def record_of(queue: str) -> str:
    """The stream that says where a group stands, of the group's queue."""
    return f"{queue}:at"


def is_gone(error: RefusedError) -> bool:
    """Whether there is no such stream, rather than one whose server has just come back and does not have it ready."""
    return error.code == NOT_FOUND and "is down" not in error.text


def offset_of(header: bytes) -> int:
    """The position of a message."""
    if header.count(_OFFSET) == 1:
        at = header.index(_OFFSET) + len(_OFFSET)
        return int.from_bytes(header[at : at + 8], "big")
    # Somebody's header has such a value.
    return next(value for name, value in amqp.read_table(amqp.read_properties(header).headers) if name == "x-stream-offset")


def _arguments(record: TopicRecord) -> dict[str, Any]:
    arguments: dict[str, Any] = {"x-queue-type": "stream"}
    if record.retain_seconds is not None or record.retain_bytes is not None:
        share = SEGMENTS[1] if record.retain_bytes is None else record.retain_bytes // record.partitions // 4
        arguments["x-stream-max-segment-size-bytes"] = min(max(share, SEGMENTS[0]), SEGMENTS[1])
    if record.retain_seconds is not None:
        arguments["x-max-age"] = f"{max(math.ceil(record.retain_seconds), 1)}s"
    if record.retain_bytes is not None:
        arguments["x-max-length-bytes"] = record.retain_bytes // record.partitions
    return arguments


Raw = tuple[int, Delivered, bytes, bytes]


class RabbitStreams:
    """The streams of a server, asked over the connection that `connect` gives."""

    def __init__(
        self,
        name: str,
        connect: Callable[[], Awaitable[Connection]],
        publish: Callable[[Outgoing], Awaitable[MillstreamError | None]],
        reader: RabbitReader,
    ) -> None:
        self._name = name
        self._connect = connect
        self._publish = publish
        self._reader = reader
        self._turns = asyncio.Semaphore(AT_ONCE)

    # Making them

    async def make_topic(self, topic: str, record: TopicRecord, others: str) -> None:
        """Have the streams of a topic, filled from its exchange; what has another routing key comes from `others`."""
        streams = {number: stream_of(Partition(topic, number)) for number in range(record.partitions)}
        try:
            await self._declare(list(streams.values()), _arguments(record))
        except RefusedError as error:
            if error.code != DIFFERENT:
                raise
            raise ConfigurationError(
                f"topic {topic!r}: a stream or queue of it is on {self._name} with other settings: {error.text}. What a stream keeps is "
                "fixed when it is made: declare that, change it with a policy of RabbitMQ, or use a new topic."
            ) from error
        connection = await self._connect()
        async with await connection.channel() as channel:
            asked = [channel.ask_binding(stream, topic, route_of(number)) for number, stream in streams.items()]
            # Last: before its streams take what is theirs, nothing of it may seem to be somebody else's.
            asked.append(channel.ask_binding(streams[0], others))
            for answer in asked:
                await channel.answer(answer)

    async def make_records(self, queues: Sequence[str]) -> None:
        """Have what says where a group stands."""
        await self._declare([record_of(queue) for queue in queues], RECORDS)

    async def _declare(self, names: Sequence[str], arguments: dict[str, Any]) -> None:
        async def declare(name: str) -> None:
            async with self._turns, await (await self._connect()).channel() as channel:
                await channel.queue(name, arguments=arguments)

        # Side by side: each takes the server a while.
        await asyncio.gather(*(declare(name) for name in names))

    # Reading them

    async def bounds(self, partition: Partition) -> tuple[int, int]:
        """The first position of a partition that is still there, and its head."""
        # In this order: what is told is not more than there was.
        first, last = await asyncio.gather(self._fetch(stream_of(partition), "first", 1), self._last(stream_of(partition)))
        head = last[0] + 1 if last else 0
        return first[0][0] if first else head, head

    async def first(self, partition: Partition) -> int:
        """The first position that is still there; 0 where there is nothing."""
        found = await self._fetch(stream_of(partition), "first", 1)
        return found[0][0] if found else 0

    async def head(self, partition: Partition) -> int:
        """The position behind everything that is there."""
        last = await self._last(stream_of(partition))
        return last[0] + 1 if last else 0

    async def read(self, partition: Partition, position: int, most: int) -> list[Delivery]:
        """So many events from a position on, up to the end that there is now."""
        found: list[Raw] = []
        wanted = max(position, 0)
        while len(found) < most:
            page = min(PAGE, most - len(found))
            came = [raw for raw in await self._fetch(stream_of(partition), wanted, page) if raw[0] >= wanted]
            found += came
            if len(came) < page:
                break
            wanted = came[-1][0] + 1
        return [self._reader.delivery(partition, offset, delivered, header, body) for offset, delivered, header, body in found[:most]]

    async def position_at(self, partition: Partition, micros: int) -> int:
        """The first position that was stored in that second or later."""
        moment = Timestamp(min(max(micros, 0) // 1_000_000, LATEST))
        found = await self._fetch(stream_of(partition), moment, 1)
        return found[0][0] if found else await self.head(partition)

    # Where groups stand

    async def place(self, queue: str) -> Place | None:
        """Where a group stands in the partition of its queue."""
        last = await self._last(record_of(queue))
        return None if last is None else msgspec.json.decode(last[3], type=Place)

    async def put_place(self, queue: str, place: Place) -> None:
        """Have it stand there."""
        error = await self._publish(Outgoing("", record_of(queue), (b"application/json", b"", msgspec.json.encode(place))))
        if error is not None:
            raise error

    # Asking

    async def _last(self, stream: str) -> Raw | None:
        found = await self._fetch(stream, "last", EVERYTHING)
        return found[-1] if found else None

    async def _fetch(self, stream: str, start: int | str, most: int) -> list[Raw]:
        """At least so many messages from a place on, or all that there are; now and then more."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE
        while True:
            try:
                async with self._turns:
                    return await self._ask(stream, start, most)
            except RefusedError as error:
                if is_gone(error):
                    raise BrokerError(
                        f"the stream {stream!r} is not on {self._name} any more, and what it kept is gone with it. Find out who deleted "
                        "it; the service's next start declares it anew."
                    ) from error
                if loop.time() > deadline:
                    raise BrokerUnavailableError(
                        f"{self._name}: {error.text}. The stream {stream!r} may be ready later: try again."
                    ) from error
            await asyncio.sleep(AGAIN)

    async def _ask(self, stream: str, start: int | str, most: int) -> list[Raw]:
        found: list[Raw] = []
        connection = await self._connect()
        async with await connection.channel() as channel:

            def came(delivered: Delivered, header: bytes, body: bytes) -> None:
                if channel.consumer == b"read":
                    found.append((offset_of(header), delivered, header, body))

            channel.on_message = came
            await channel.prefetch(most)
            await channel.consume(stream, tag="read", arguments={"x-stream-offset": start})
            # Nobody says where a stream ends. But a second consumer is answered only when the stream has told the channel of
            # what it has for the first one, and what is asked after that, only when that was delivered.
            await channel.consume(stream, tag="end", arguments={"x-stream-offset": "next"})
            await channel.prefetch(1)
        return found
