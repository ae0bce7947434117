"""What it costs a worker to tell what it does: the same work with facts and without, in turn in one process.

How fast a machine is changes by more than facts cost, from one minute to the next; so two services
handle the same events, one that tells and one that does not, a few seconds each, back and forth.
"""

import asyncio
import statistics
from collections.abc import Callable

from benchmarks.consume import Counting, app_at_least_once, app_effectively_once, fill
from benchmarks.stopwatch import Stopwatch
from benchmarks.subject import Family, Figures, Row, Run
from millstream import App
from millstream.app.worker import MOST_IN_FLIGHT

#: With facts the processor may work so much longer, and so fewer events a second may be handled.
MOST, LEAST = 1.05, 0.95
#: Pairs of turns; whoever comes first in one comes second in the next.
PAIRS = 6


async def _compared(make: Callable[[str, Counting], App], count: int) -> Figures:
    """What telling takes, in times of what silence takes: processor time, and rate, in the median of some pairs of turns."""
    counting = {name: Counting(0) for name in ("told", "silent")}
    apps = {name: make(name, counting[name]) for name in counting}
    apps["told"].configure(facts="on")
    apps["silent"].configure(facts="off")

    async def turn(name: str) -> Figures:
        counted = counting[name]
        counted.left, counted.stop = count, asyncio.Event()
        with Stopwatch() as watch:
            await apps[name].run(counted.stop)
        return watch.figures(count - counted.left)

    processor: list[float] = []
    rate: list[float] = []
    async with apps["told"], apps["silent"]:
        # What is in hand at the end of a turn is handled, too.
        await fill(apps["silent"], PAIRS * (count + 2 * MOST_IN_FLIGHT))
        for number in range(PAIRS):
            order = ("told", "silent") if number % 2 else ("silent", "told")
            took = {name: await turn(name) for name in order}
            processor.append(took["told"]["cpu"] / took["silent"]["cpu"])
            rate.append(took["told"]["rate"] / took["silent"]["rate"])
    return {"processor": statistics.median(processor), "rate": statistics.median(rate)}


async def at_least_once(run: Run) -> Figures:
    """A handler that does nothing: what facts cost in the worst case."""
    # So many that the start, when everything is told one by one, is little of it.
    return await _compared(lambda name, counting: app_at_least_once(run.folder, counting, name), run.count(400_000))


async def one_file(run: Run) -> Figures:
    """All of it is told, in the file that the work is done in."""
    return await _compared(lambda name, counting: app_effectively_once(run.folder, counting, "events", name), run.count(50_000))


async def two_files(run: Run) -> Figures:
    """All of it is told, past the outbox."""
    return await _compared(lambda name, counting: app_effectively_once(run.folder, counting, f"store-{name}", name), run.count(50_000))


FAMILY = Family(
    title="What facts cost",
    rows=[
        row
        for name, subject in (
            ("at least once", at_least_once),
            ("effectively once, one file", one_file),
            ("effectively once, two files", two_files),
        )
        for row in (
            Row(title=f"{name}: processor time, beside silence", subject=subject, figure="processor", unit="times", target=MOST),
            Row(title=f"{name}: rate, beside silence", subject=subject, figure="rate", unit="times", target=LEAST, better="more"),
        )
    ],
    rounds=5,
)
