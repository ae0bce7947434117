"""`millstream backup`: copies a live file."""

import asyncio
from pathlib import Path

from millstream.app.settings import masked
from millstream.cli.place import HERE, Place, opened
from millstream.cli.progress import Progress
from millstream.cli.screen import PLAIN, Look, Screen
from millstream.cli.wording import size, span
from millstream.contracts.errors import RefusedError


def backup(destination: Path, /, *, place: Place = HERE, look: Look = PLAIN) -> None:
    """Copy a store's live file, as of one moment, to a new file; nobody has to stop.

    With the embedded broker in the same file its log is in the copy. Where the
    broker has a file of its own, copy that too: --store names any Millstream file.

    For example:
      millstream backup backups/shop-monday.db
      millstream backup backups/mailer.db --store sqlite:///mailer.db
    """
    screen = Screen(look)
    if destination.exists():
        raise RefusedError(f"{destination} exists already, and a backup never replaces anything. Name a new file.")
    if not destination.parent.is_dir():
        raise RefusedError(f"the folder {destination.parent} does not exist. Make it first: mkdir -p {destination.parent}")
    source, took = asyncio.run(_copy(place, destination))
    amount = destination.stat().st_size
    if look.json:
        screen.document("backup", source=source, destination=str(destination), bytes=amount, seconds=took)
    else:
        screen.say(f"{source} is copied to {destination}: {size(amount)} in {span(took)}")


async def _copy(place: Place, destination: Path) -> tuple[str, float]:
    async with opened(place) as where:
        started = where.clock.monotonic()
        with Progress("copied", unit="pages") as progress:
            await where.store.backup(str(destination), progress.at)
        return masked(where.settings.store), where.clock.monotonic() - started
