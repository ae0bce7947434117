"""The real time; nothing else in Millstream reads it on its own."""

import asyncio
import time


class SystemClock:
    """A `Clock` of this machine."""

    def micros(self) -> int:
        return time.time_ns() // 1000

    # A worker asks twice for every delivery.
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
