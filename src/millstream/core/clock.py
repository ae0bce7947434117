"""The clock port: nothing else in Millstream learns the time or waits for it."""

from typing import Protocol


class Clock(Protocol):
    """Wall time, monotonic time and waiting, so that a test can move all three.

    Every clock promises that:

    - `micros()` is UTC since the epoch, in microseconds; it may step;
    - `monotonic()` is in seconds, never steps back, and is the same for every
      process of one boot of the machine (leases are measured with it);
    - `sleep()` returns no earlier than asked, and is cancelled like any await.
    """

    def micros(self) -> int: ...

    def monotonic(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...
