"""ManualClock: time that moves when a test says so."""

import asyncio
import heapq
import itertools
import math

#: How many turns of the loop a woken sleeper gets before time moves on.
TURNS = 50
#: 2030-01-01T00:00:00Z
START = 1_893_456_000_000_000


class ManualClock:
    """A `Clock` whose wall time and monotonic time stand still until `advance` moves them.

    Sleepers wake in the order of their time, each at exactly its time, and what a
    woken sleeper starts is counted from there: a loop that sleeps a minute runs sixty
    times in an hour that takes no time at all.
    """

    def __init__(self, micros: int = START) -> None:
        self._wall = micros
        self._elapsed = 0
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def micros(self) -> int:
        return self._wall

    def monotonic(self) -> float:
        return self._elapsed / 1e6

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Rounded up: a sleeper is never woken earlier than it asked.
        heapq.heappush(self._sleepers, (self._elapsed + math.ceil(seconds * 1e6), next(self._order), woken))
        await woken

    @property
    def next_wake(self) -> float | None:
        """In how many seconds the next sleeper is due; None while nobody sleeps."""
        self._forget_cancelled()
        return (self._sleepers[0][0] - self._elapsed) / 1e6 if self._sleepers else None

    async def advance(self, seconds: float) -> None:
        """Move both times on, waking whoever sleeps until then."""
        if seconds < 0:
            raise ValueError(f"advance({seconds}): monotonic time never goes back; use step() to set the wall clock back")
        end = self._elapsed + round(seconds * 1e6)
        await self._turn()
        while self._forget_cancelled() and self._sleepers[0][0] <= end:
            due, _, woken = heapq.heappop(self._sleepers)
            self._move_to(due)
            woken.set_result(None)
            await self._turn()
        self._move_to(end)
        await self._turn()

    def step(self, seconds: float) -> None:
        """Set the wall clock alone, forwards or back, as an administrator or NTP would."""
        self._wall += round(seconds * 1e6)

    def _move_to(self, elapsed: int) -> None:
        self._wall += elapsed - self._elapsed
        self._elapsed = elapsed

    def _forget_cancelled(self) -> bool:
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return bool(self._sleepers)

    async def _turn(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)
