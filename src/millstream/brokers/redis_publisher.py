"""Publishing: what several callers bring goes in one script, which the server carries out once, however often it is sent."""

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any

from millstream.brokers.redis_connection import Connection, UnknownScriptError, packed
from millstream.brokers.redis_names import MARKS, claims_of, id_before, publisher_of, stream_of
from millstream.brokers.redis_scripts import PUBLISH
from millstream.brokers.redis_settings import RedisSettings
from millstream.contracts.errors import BrokerError, BrokerUnavailableError, FencedError, MillstreamError
from millstream.core.broker import Origin, Partition

#: So many events, or bytes, go in one script.
MOST, MOST_BYTES = 500, 1 << 20
BACK_OFF = (0.05, 1.0)
PACKED = PUBLISH.encode()
#: What the server knows a script by that it was sent before.
DIGEST = sha1(PACKED, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An event as fields, and where it goes."""

    partition: Partition
    fields: list[bytes | str]
    size: int


@dataclass(frozen=True, slots=True)
class Settled:
    """Where a group stands in a partition once the events are published."""

    partition: Partition
    before: int
    """Where it stands now, else nothing is done."""
    position: int
    entries: int
    """How many entries lie before it; -1 where nobody knows."""


@dataclass(slots=True, eq=False)
class Call:
    """What one caller brings: its parts are stored in order, and after one that failed none is."""

    failed: MillstreamError | None = None


@dataclass(slots=True, eq=False)
class Page:
    """Events that are stored together or not at all, some of one call."""

    call: Call
    events: Sequence[Outgoing]
    deadline: float
    done: "asyncio.Future[MillstreamError | None]"
    origin: Origin | None = None
    group: str = ""
    token: str = ""
    settled: Sequence[Settled] = ()
    size: int = field(default=0)

    @property
    def alone(self) -> bool:
        """Whether nothing else may share its fate."""
        return self.origin is not None or bool(self.group)


class RedisPublisher:
    """One batch is on its way at a time; those who come meanwhile share the next."""

    def __init__(
        self, settings: RedisSettings, gone: Callable[[str], MillstreamError], connect: Callable[[], Awaitable[Connection]]
    ) -> None:
        self._settings = settings
        self._gone = gone
        self._connect = connect
        self._loop = asyncio.get_running_loop()
        self._token = publisher_of(secrets.token_hex(12))
        self._number = 0
        self._waiting: deque[Page] = deque()
        self._bell = asyncio.Event()
        self._connection: Connection | None = None
        self._known = False
        """Whether the server has the script: it has all that it was sent, until it starts anew."""
        self._task = self._loop.create_task(self._run())

    async def close(self) -> None:
        """Give up what is not acknowledged."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        closed = BrokerUnavailableError(f"{self._settings.name} was closed before it had acknowledged the event.")
        while self._waiting:
            self._finish(self._waiting.popleft(), closed)
        if self._connection is not None:
            await self._connection.close()

    def bring(self, call: Call, events: Sequence[Outgoing], **more: Any) -> "asyncio.Future[MillstreamError | None]":
        """Have events stored, after all that was brought before; None once they are durable, else why they are not."""
        deadline = self._loop.time() + self._settings.timeout
        page = Page(call, events, deadline, self._loop.create_future(), size=sum(event.size for event in events), **more)
        self._waiting.append(page)
        self._bell.set()
        return page.done

    async def _run(self) -> None:
        while True:
            await self._bell.wait()
            self._bell.clear()
            while batch := self._batch():
                try:
                    await self._carry_out(batch)
                except asyncio.CancelledError:
                    self._waiting.extendleft(page for page in reversed(batch) if not page.done.done())
                    raise
                if self._waiting:
                    await asyncio.sleep(0)

    async def _carry_out(self, batch: list[Page]) -> None:
        error = await self._stored(batch)
        # What is wrong with one of several shall not be the others' fault.
        again = error is not None and len(batch) > 1 and min(page.deadline for page in batch) > self._loop.time()
        for page in batch:
            self._finish(page, (page.call.failed or await self._stored([page])) if again else error)

    async def _stored(self, batch: list[Page]) -> MillstreamError | None:
        try:
            return await self._store(batch)
        except MillstreamError as error:
            return error
        except ValueError as error:
            # Text that has no bytes.
            return BrokerError(f"it cannot be sent: {error}")

    def _finish(self, page: Page, error: MillstreamError | None) -> None:
        if error is not None:
            page.call.failed = error
        if not page.done.done():
            page.done.set_result(error)

    def _batch(self) -> list[Page]:
        batch: list[Page] = []
        count = size = 0
        while self._waiting:
            page = self._waiting[0]
            full = count + len(page.events) > MOST or size + page.size > MOST_BYTES
            if batch and (full or page.alone or batch[0].alone):
                break
            self._waiting.popleft()
            if page.call.failed is not None:
                self._finish(page, page.call.failed)
            elif page.deadline <= self._loop.time():
                self._finish(page, self._late())
            else:
                batch.append(page)
                count += len(page.events)
                size += page.size
        return batch

    def _late(self) -> MillstreamError:
        return BrokerUnavailableError(
            f"not acknowledged by {self._settings.name} within {self._settings.timeout:g} s. It may be stored or not: publish it again "
            "under the same id."
        )

    async def _store(self, batch: list[Page]) -> MillstreamError | None:
        """Have a batch stored, on the next connection when this one is lost, until its time is over."""
        self._number += 1
        deadline = max(page.deadline for page in batch)
        pause = BACK_OFF[0]
        while True:
            left = deadline - self._loop.time()
            if left <= 0:
                return self._late()
            try:
                async with asyncio.timeout(left):
                    connection = await self._connected()
                    answer = await connection.answer(connection.send(self._pack(batch)))
                self._known = True
                return self._understood(batch[0], answer)
            except UnknownScriptError:
                self._known = False
            except TimeoutError:
                # What was sent may still be carried out; not after the next, whose number is higher.
                if self._connection is not None:
                    self._connection.abort()
                return self._late()
            except BrokerUnavailableError:
                pause = min(pause * 2, BACK_OFF[1])
                await asyncio.sleep(max(0.0, min(pause, deadline - self._loop.time())))

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.lost is not None:
            self._known = False
            self._connection = await self._connect()
        return self._connection

    def _pack(self, batch: Sequence[Page]) -> bytes:
        first = batch[0]
        keys: dict[Partition, int] = {}
        arguments: list[bytes | str | int] = []
        for settled in first.settled:
            key = keys.setdefault(settled.partition, len(keys) + 4)
            arguments += (key, id_before(settled.position), settled.entries, id_before(settled.before))
        for page in batch:
            for event in page.events:
                arguments += (keys.setdefault(event.partition, len(keys) + 4), len(event.fields))
                arguments += event.fields
        origin = first.origin
        marks = ("", "", "") if origin is None else (origin.store, origin.upto, "" if origin.after is None else origin.after)
        script = ("EVALSHA", DIGEST) if self._known else ("EVAL", PACKED)
        head = (*script, len(keys) + 3, self._token, MARKS, claims_of(first.group), *map(stream_of, keys))
        return packed((*head, self._number, *marks, first.token, first.group, len(first.settled), *arguments))

    def _understood(self, page: Page, answer: list[Any]) -> MillstreamError | None:
        match answer[0]:
            case b"ok" | b"again":
                return None
            case b"gone":
                return self._gone(answer[1].rpartition(b":")[0].decode())
            case b"fenced":
                assert page.origin is not None
                return FencedError(
                    f"the outbox of the store {page.origin.store} was copied up to {answer[1]}, not {page.origin.after}: another relay has "
                    "gone on while this one was stopped. Nothing was published; ask again how far it is."
                )
            case b"lost":
                return FencedError(f"{answer[1].decode()} is not this member's any more, so nothing was published; its new owner does it")
            case _:
                return BrokerError(f"{self._settings.name} answered {answer!r} to what was published")


def pages(events: Sequence[Outgoing]) -> list[tuple[int, int]]:
    """Cuts events into parts that one script takes, as from where to where."""
    cuts: list[tuple[int, int]] = []
    start = size = 0
    for index, event in enumerate(events):
        if index > start and (index - start >= MOST or size + event.size > MOST_BYTES):
            cuts.append((start, index))
            start, size = index, 0
        size += event.size
    if start < len(events):
        cuts.append((start, len(events)))
    return cuts
