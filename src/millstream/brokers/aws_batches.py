"""Requests of ten entries: SQS and SNS take no more at once, and cost as much for one."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

MOST_ENTRIES = 10
#: Requests of one kind that are on their way at the same time.
AT_ONCE = 8


class Batches(Generic[T]):
    """Sends entries in full requests: one that is not full is sent only while no other is on its way.

    `send` gets at most ten, and deals with every failure itself.
    """

    def __init__(self, send: Callable[[Sequence[T]], Awaitable[None]]) -> None:
        self._send = send
        self._waiting: deque[T] = deque()
        self._running: set[asyncio.Task[None]] = set()

    def put(self, entries: Sequence[T]) -> None:
        """Have these sent."""
        self._waiting += entries
        self._start()

    async def flush(self, most: int = 0) -> None:
        """Return when no more than so many are waiting or on their way."""
        while len(self._waiting) + len(self._running) * MOST_ENTRIES > most and self._running:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)

    def _start(self) -> None:
        while self._waiting and (not self._running or (len(self._waiting) >= MOST_ENTRIES and len(self._running) < AT_ONCE)):
            task = asyncio.create_task(self._run())
            self._running.add(task)
            task.add_done_callback(self._ended)
            if len(self._running) * MOST_ENTRIES >= len(self._waiting):
                break

    async def _run(self) -> None:
        while len(self._waiting) >= MOST_ENTRIES or (self._waiting and len(self._running) == 1):
            await self._send([self._waiting.popleft() for _ in range(min(MOST_ENTRIES, len(self._waiting)))])

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is None:
            self._start()
