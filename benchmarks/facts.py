"""What it costs a worker to tell what it does: the same work with facts and without."""

from benchmarks.consume import Counting, app_at_least_once, app_effectively_once, work
from benchmarks.subject import Family, Figures, Row, Run
from millstream.app.settings import Switch

#: With facts the processor may work so much longer, and so fewer events a second may be handled.
MOST, LEAST = 1.05, 0.95


async def _at_least_once(run: Run, facts: Switch) -> Figures:
    # So long that the start, when everything is told one by one, is little of it.
    count = run.count(1_200_000)
    counting = Counting(count)
    app = app_at_least_once(run.folder, counting)
    app.configure(facts=facts)
    return await work(app, counting, count)


async def _effectively_once(run: Run, store: str, facts: Switch) -> Figures:
    count = run.count(100_000)
    counting = Counting(count)
    app = app_effectively_once(run.folder, counting, store)
    app.configure(facts=facts)
    return await work(app, counting, count)


async def silent_at_least_once(run: Run) -> Figures:
    """Nothing is told."""
    return await _at_least_once(run, "off")


async def told_at_least_once(run: Run) -> Figures:
    """All of it is told, sampled above a thousand a second."""
    return await _at_least_once(run, "on")


async def silent_one_file(run: Run) -> Figures:
    """Nothing is told."""
    return await _effectively_once(run, "events", "off")


async def told_one_file(run: Run) -> Figures:
    """All of it is told, in the same file."""
    return await _effectively_once(run, "events", "on")


async def silent_two_files(run: Run) -> Figures:
    """Nothing is told."""
    return await _effectively_once(run, "store", "off")


async def told_two_files(run: Run) -> Figures:
    """All of it is told, past the outbox."""
    return await _effectively_once(run, "store", "on")


FAMILY = Family(
    title="What facts cost",
    rows=[
        row
        for name, told, silent in (
            ("at least once", told_at_least_once, silent_at_least_once),
            ("effectively once, one file", told_one_file, silent_one_file),
            ("effectively once, two files", told_two_files, silent_two_files),
        )
        for row in (
            Row(title=f"{name}: processor time", subject=told, figure="cpu", unit="us", target=MOST, beside=silent, compared="ratio"),
            Row(
                title=f"{name}: rate", subject=told, figure="rate", unit="/s", target=LEAST, better="more", beside=silent, compared="ratio"
            ),
        )
    ],
    rounds=5,
)
