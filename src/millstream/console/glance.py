"""A glance at a system, without a server: the same answers as the screens', for as long as a command runs."""

import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec

from millstream.app.connect import connect_store
from millstream.app.system_clock import SystemClock
from millstream.console.answers import Answers
from millstream.console.model_file import group_of, is_read_model, path_of_model, url_of_model
from millstream.console.projection import Rows
from millstream.console.read_model import ReadModel
from millstream.console.schema import MOST_EVENTS, SCHEMA
from millstream.console.watch import Watch
from millstream.contracts.errors import ConfigurationError
from millstream.core.broker import Broker, Partition
from millstream.core.facts import FACTS_TOPIC, FactMessage
from millstream.core.store import Store
from millstream.core.verdict import LEAST, WINDOW
from millstream.stores.sqlite import SqliteStore
from millstream.stores.sqlite_file import SqliteFile
from millstream.stores.sqlite_reader import SqliteReader

#: Messages of facts folded in at once.
CHUNK = 50
#: Groups are looked at so often in a row, so many seconds apart, before anything is said of those that lag.
PACE = 0.25

Progress = Callable[[int, int], None]

_fact = msgspec.json.Decoder(FactMessage).decode


class Glance:
    """The answers, and how to bring them up to date."""

    def __init__(self, broker: Broker, answers: Answers, model: ReadModel, watch: Watch, store: Store | None) -> None:
        self.answers = answers
        self.model = model
        self._broker = broker
        self._watch = watch
        self._store = store
        """The read model that has to be written here; None where a console writes it."""
        self._positions: dict[Partition, int] = {}

    async def start(self, positions: dict[Partition, int], progress: Progress) -> None:
        """Read all that services have told, from these positions on, and look at the groups."""
        self._positions = positions
        await self.catch_up(progress)
        clock = SystemClock()
        for number in range(WINDOW):
            await self._watch.sample()
            lags = [self._watch.standing(name)["lag"] for name in self._watch.names()]
            if number + 1 >= LEAST and not any(lags):
                break
            await clock.sleep(PACE if any(lags) else 0.05)

    async def look(self) -> None:
        """Look again."""
        await self.catch_up()
        await self._watch.sample()

    async def catch_up(self, progress: Progress | None = None) -> None:
        """Fold in what was told since."""
        if self._store is None:
            return
        if not self._broker.features.replayable:
            raise ConfigurationError(
                f"{self._broker.name} keeps no history, and nothing can be read of what services have told. `millstream console` hears it "
                "as it comes."
            )
        if not any(topic.name == FACTS_TOPIC for topic in await self._broker.topics()):
            return
        for partition, first, head in await self._broker.bounds(FACTS_TOPIC):
            begin = at = max(first, self._positions.get(partition, 0))
            while at < head:
                read = await self._broker.read(partition, at, min(CHUNK, head - at))
                if not read:
                    break
                facts = [_fact(delivery.envelope.data).fact for delivery in read if delivery.envelope is not None]
                async with self._store.transaction() as tx:
                    Rows(facts).write(tx, most_events=MOST_EVENTS)
                at = read[-1].position + 1
                if progress is not None:
                    progress(at - begin, head - begin)
            self._positions[partition] = at


@asynccontextmanager
async def glance(broker: Broker, broker_url: str, data: Path | None, progress: Progress) -> AsyncGenerator[Glance]:
    """Look at a system: through the read model of its console, where one runs, or one made for the moment.

    The read model of a console that does not run is copied, and brought up to date.
    """
    clock, url = SystemClock(), url_of_model(broker_url, data)
    path = path_of_model(url)
    async with AsyncExitStack() as stack:
        store: Store | None = None
        positions: dict[Partition, int] = {}
        if not await _is_kept(broker, url):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="millstream-")))
            copied = folder / "glance.db"
            if await is_read_model(path, clock):
                async with connect_store(url, None, clock) as kept:
                    await kept.backup(str(copied))
                    rows = await kept.read("select topic, number, position from store_progress where grp=?", (group_of(url),))
                    positions = {Partition(topic, number): position or 0 for topic, number, position in rows}
            # It is gone in a moment: nothing of it has to survive.
            store = await stack.enter_async_context(SqliteStore(SqliteFile(copied, synchronous="OFF")))
            await store.script(SCHEMA)
            path = copied
        reader = stack.enter_context(SqliteReader(str(path)))
        model, watch = ReadModel(reader), Watch(broker, clock)
        found = Glance(broker, Answers(model, watch, broker), model, watch, store)
        await found.start(positions, progress)
        yield found


async def _is_kept(broker: Broker, url: str) -> bool:
    """Whether a console runs that keeps this read model up to date."""
    group = group_of(url)
    if not any(each.name == group for each in await broker.groups()):
        return False
    return any(state.owner is not None for state in await broker.positions(group))

