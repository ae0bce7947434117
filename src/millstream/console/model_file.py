"""The read model's file: whose it is, and of which version."""

import logging
from hashlib import blake2b
from pathlib import Path

from millstream.app.connect import EMBEDDED, connect_store, path_of
from millstream.console.schema import VERSION
from millstream.contracts.errors import ConfigurationError
from millstream.core.clock import Clock
from millstream.core.facts import INTERNAL

log = logging.getLogger("millstream.console")

#: The groups in which consoles read facts, one each.
GROUPS = f"{INTERNAL}console."
#: What every version's read model has.
FIRST_TABLES = frozenset(("process", "handler", "contract", "event", "attempt", "parked", "flow", "operation"))


def url_of_model(broker: str, data: Path | None) -> str:
    """The URL of a system's read model: the file that is named, or one beside an embedded broker, or else in the working folder."""
    if data is None:
        beside = Path(broker.removeprefix(EMBEDDED)) if broker.startswith(EMBEDDED) else Path("millstream.db")
        data = beside.with_name(f"{beside.stem}-console.db")
    return f"{EMBEDDED}{data.expanduser().absolute()}"


def group_of(store: str) -> str:
    """The group in which the console of this read model reads facts."""
    return f"{GROUPS}{blake2b(store.encode(), digest_size=4).hexdigest()}"


def path_of_model(store: str) -> Path:
    """The file that a URL of a read model names."""
    return Path(path_of(store)).expanduser().absolute()


async def is_read_model(path: Path, clock: Clock) -> bool:
    """Whether a file is there, and is a read model of this version."""
    try:
        return _is_there(path) and await _is_current(f"{EMBEDDED}{path}", path, clock)
    except ConfigurationError:
        return False


async def discard_other_versions(store: str, clock: Clock) -> None:
    """Delete a read model that another version of Millstream has made: it is made anew from the facts.

    Any other file than a read model is refused, and not touched.
    """
    path = path_of_model(store)
    if _is_there(path) and not await _is_current(store, path, clock):
        log.info("%s is the read model of another version, and is made anew", path)
        for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            file.unlink(missing_ok=True)


def _is_there(path: Path) -> bool:
    return path.exists()


async def _is_current(store: str, path: Path, clock: Clock) -> bool:
    async with connect_store(store, None, clock) as opened:
        rows = await opened.read("select name from sqlite_schema where type='table' and name not like 'sqlite_%'")
        found = {name for (name,) in rows if not name.startswith(("store_", "millstream_"))}
        if found and not found >= FIRST_TABLES:
            raise ConfigurationError(
                f"{path} is no read model of a console, but holds other data ({', '.join(sorted(found)[:3])}); it was not touched. "
                "Name another file: millstream console --data FILE"
            )
        return not found or ("read_model" in found and await opened.read("select version from read_model") == [(VERSION,)])
