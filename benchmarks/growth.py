"""What one more event costs when the file holds few and when it holds very many; the inbox grows with it."""

from pathlib import Path
from statistics import median

from benchmarks.consume import FILL, Counting, app_effectively_once, fill
from benchmarks.stopwatch import Stopwatch
from benchmarks.subject import Family, Figures, Row, Run
from millstream.contracts.ids import new_id
from millstream.core.store import Mark, Page

#: Events published and handled in one round; rounds, of which the medians count.
MEASURED, ROUNDS = 20_000, 5
FEW = 10_000


async def sizes(run: Run) -> Figures:
    """Processor time to publish and to handle 20,000 events, once so many are stored and marked as handled."""
    return await _measure(run, 1_000_000)


async def large(run: Run) -> Figures:
    """The same with ten million; takes minutes and a few GB."""
    return await _measure(run, 10_000_000)


async def _measure(run: Run, many: int) -> Figures:
    """By turns beside many and beside few, so that both see the same machine."""
    full = run.folder / "many"
    full.mkdir()
    await _grow(full, many)
    taken: dict[str, list[float]] = {"publish": [], "handle": [], "publish few": [], "handle few": []}
    for number in range(ROUNDS):
        nearly_empty = run.folder / f"few-{number}"
        nearly_empty.mkdir()
        await _grow(nearly_empty, FEW)
        for folder, first, suffix in ((nearly_empty, FEW, " few"), (full, many + number * MEASURED, "")):
            publish, handle = await _go_on(folder, first)
            taken[f"publish{suffix}"].append(publish)
            taken[f"handle{suffix}"].append(handle)
    return {what: median(taken[what]) / median(taken[f"{what} few"]) for what in ("publish", "handle")}


async def _go_on(folder: Path, first: int) -> tuple[float, float]:
    """Microseconds of processor time to publish one more event, and to handle it."""
    counting = Counting(MEASURED)
    async with app_effectively_once(folder, counting, "events") as app:
        with Stopwatch() as publishing:
            await fill(app, MEASURED, first=first)
        with Stopwatch() as handling:
            await app.run(counting.stop)
    return publishing.figures(MEASURED)["cpu"], handling.figures(MEASURED)["cpu"]


async def _grow(folder: Path, count: int) -> None:
    """Store so many events, and mark as many as handled, in the past as their ids say."""
    async with app_effectively_once(folder, Counting(0), "events") as app:
        await fill(app, count)
        for first in range(0, count, FILL):
            marks = [Mark("/bench", new_id(1_700_000_000_000 + n, n.to_bytes(10))) for n in range(first, min(first + FILL, count))]
            await app.store.commit(Page(group="bench.reserve", marks=marks))
        # All of it is handled: the group goes on where the measurement begins.
        ends = [(partition, head) for partition, _, head in await app.broker.bounds("order.created")]
        await app.store.rewind("bench.reserve", ends, effects=False)


FAMILY = Family(
    title="Cost of one more event, processor time at 10^6 stored against 10^4 (inbox included)",
    rounds=1,
    rows=[
        Row(title="publish", subject=sizes, figure="publish", unit="x", target=1.25),
        Row(title="handle effectively once", subject=sizes, figure="handle", unit="x", target=1.25),
    ],
)

LARGE = Family(
    title="Cost of one more event, processor time at 10^7 stored against 10^4 (inbox included)",
    rounds=1,
    rows=[
        Row(title="publish", subject=large, figure="publish", unit="x", target=1.25),
        Row(title="handle effectively once", subject=large, figure="handle", unit="x", target=1.25),
    ],
)
