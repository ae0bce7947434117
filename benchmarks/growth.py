"""What one more event costs when the file holds few and when it holds very many; the inbox grows with it."""

from benchmarks.consume import FILL, Counting, app_effectively_once, fill
from benchmarks.stopwatch import Stopwatch
from benchmarks.subject import Family, Figures, Row, Run
from millstream.contracts.ids import new_id
from millstream.core.store import Mark, Page

MEASURED = 20_000


async def sizes(run: Run) -> Figures:
    """Processor time to publish and to handle 20,000 events, once so many are stored and marked as handled."""
    return await _measure(run, (10_000, 100_000, 1_000_000))


async def large(run: Run) -> Figures:
    """The same with ten million; takes minutes and a few GB."""
    return await _measure(run, (10_000, 10_000_000))


async def _measure(run: Run, levels: tuple[int, ...]) -> Figures:
    figures: Figures = {}
    stored = 0
    for level in levels:
        await _grow(run, stored, level)
        counting = Counting(MEASURED)
        async with app_effectively_once(run.folder, counting, "events") as app:
            with Stopwatch() as publishing:
                await fill(app, MEASURED, first=level)
            with Stopwatch() as handling:
                await app.run(counting.stop)
        figures[f"publish {level}"] = publishing.figures(MEASURED)["cpu"]
        figures[f"handle {level}"] = handling.figures(MEASURED)["cpu"]
        stored = level + MEASURED
    for what in ("publish", "handle"):
        figures[what] = figures[f"{what} {levels[-1]}"] / figures[f"{what} {levels[0]}"]
    return figures


async def _grow(run: Run, stored: int, level: int) -> None:
    """Store events until there are so many, and mark as many as handled, in the past as their ids say."""
    async with app_effectively_once(run.folder, Counting(0), "events") as app:
        await fill(app, level - stored, first=stored)
        for first in range(stored, level, FILL):
            marks = [Mark("/bench", new_id(1_700_000_000_000 + n, n.to_bytes(10))) for n in range(first, min(first + FILL, level))]
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
