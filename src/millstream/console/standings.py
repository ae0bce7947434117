"""Where groups stood: noted now and then, while a console looks, for the curves over time."""

import asyncio
import logging
import time

from millstream.console.answers import Answers
from millstream.console.schema import KEEP, STANDINGS
from millstream.contracts.errors import MillstreamError
from millstream.core.store import Store

log = logging.getLogger("millstream.console")


async def note_standings(store: Store, answers: Answers) -> None:
    """Note it until cancelled."""
    while True:
        await asyncio.sleep(STANDINGS)
        try:
            await note_once(store, answers, int(time.time()))
        except MillstreamError as error:
            log.warning("where groups stand was not noted: %s", error)


async def note_once(store: Store, answers: Answers, now: int) -> None:
    """Note it now, and forget what is too old."""
    groups = await answers.groups()
    async with store.transaction() as tx:
        tx.executemany(
            "insert or replace into standing values(?,?,?,?,?,?,?,?)",
            [
                (
                    group["name"], now, group["lag"], group["age"], group["members"], group["handled_per_second"], group["failed"],
                    group["verdict"]["state"],
                )
                for group in groups
            ],
        )  # fmt: skip
        tx.executemany("delete from standing where grp=? and at<?", [(group["name"], now - int(KEEP)) for group in groups])
