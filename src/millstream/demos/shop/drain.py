"""Waiting until the shop has worked off every event."""

import asyncio
import time
from pathlib import Path

from millstream.demos.shop.auditor import rows, waiting_in_store

STORES = ("storefront", "inventory", "mailer", "analytics")
QUIET = 1.5


async def drain(data: Path, limit: float) -> bool:
    """True when nothing is left to do, and has not been for a moment; False at the limit."""
    end = time.monotonic() + limit
    quiet_since: float | None = None
    before: object = None
    while time.monotonic() < end:
        left, progress = await asyncio.to_thread(_look, data)
        now = time.monotonic()
        if left or progress != before:
            quiet_since, before = None, progress
        elif quiet_since is None:
            quiet_since = now
        elif now - quiet_since >= QUIET:
            return True
        await asyncio.sleep(0.1)
    return False


def _look(data: Path) -> tuple[int, object]:
    """How many deliveries wait, and the state of progress."""
    lag = rows(
        data / "broker.db",
        "select coalesce(sum(p.next - g.committed), 0) from broker_position g join broker_partition p on p.tp = g.tp",
    )[0][0]
    waiting = sum(waiting_in_store(data / f"{name}.db") for name in STORES)
    head = rows(data / "broker.db", "select sum(next) from broker_partition")[0][0]
    return lag + waiting, head
