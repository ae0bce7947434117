"""Waiting until the shop has worked off every event."""

import asyncio
import time
from pathlib import Path

from millstream.demos.shop.tables import left_to_do

QUIET = 1.5
LOOK = 0.1


async def drain(folder: Path, limit: float) -> int:
    """How much is left: 0 when nothing was, and has not been for a moment, or what still waits at the limit."""
    end = time.monotonic() + limit
    quiet_since: float | None = None
    before: object = None
    while True:
        left, progress = await asyncio.to_thread(left_to_do, folder)
        now = time.monotonic()
        if left or progress != before:
            quiet_since, before = None, progress
        elif quiet_since is None:
            quiet_since = now
        elif now - quiet_since >= QUIET:
            return 0
        if now >= end:
            return max(left, 1)
        await asyncio.sleep(LOOK)
