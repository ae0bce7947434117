"""Memory, and the time it takes to start."""

import asyncio
import json
import os
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.consume import Counting, app_at_least_once, fill
from benchmarks.subject import Family, Figures, Row, Run
from millstream import App


def rss() -> float:
    """This process's memory, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


async def memory(run: Run) -> Figures:
    """A worker's memory before it handles anything, and its largest after each tenth of a million events."""
    count = run.count(1_000_000)
    code = f"import asyncio; from benchmarks.footprint import fill_from_here as f; asyncio.run(f({str(run.folder)!r}, {count}))"
    counting = Counting(count)
    app = app_at_least_once(run.folder, counting)
    async with app:
        filling = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
        await filling.wait()
        idle, seen = rss(), list[float]()
        running = asyncio.create_task(app.run(counting.stop))
        mark = count
        while not running.done():
            await asyncio.sleep(0.02)
            if counting.left <= mark:
                seen.append(rss())
                mark = counting.left - count // 10
        await running
    return {"idle": idle, "most": max(seen), "growth": seen[-1] - seen[1]}


async def fill_from_here(folder: str, count: int) -> None:
    """What the publishing process does."""
    async with App("publisher", broker=f"sqlite:///{folder}/events.db") as app:
        await fill(app, count)


async def import_asyncio(run: Run) -> Figures:
    """An interpreter that imports asyncio, and ends."""
    return {"ms": await _python(run, "import asyncio")}


async def import_millstream(run: Run) -> Figures:
    """The same, and millstream."""
    return {"ms": await _python(run, "import asyncio, millstream")}


async def _python(run: Run, code: str) -> float:
    """The best of several starts, in ms; the first one compiles what is imported, as an installation has done already."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(run.folder)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    taken: list[float] = []
    for _ in range(9):
        started = time.perf_counter()
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, env=environment)
        await process.wait()
        taken.append((time.perf_counter() - started) * 1e3)
    return min(taken)


async def demo_shop(run: Run) -> Figures:
    """From the command to the first event that its analytics have handled, in seconds."""
    started = time.perf_counter()
    command = ("-m", "millstream", "demo", "shop", "--output", "json", "--orders", "1", "--forever", "--data", str(run.folder / "shop"))
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        ready: dict[str, Any] = json.loads(await process.stdout.readline())
        ready_after = time.perf_counter() - started
        async with asyncio.timeout(30):
            while not await asyncio.to_thread(_orders_counted, ready["dashboard"]):  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.05)
        handled_after = time.perf_counter() - started
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
    return {"ready": ready_after, "handled": handled_after}


def _orders_counted(dashboard: str) -> int:
    with urllib.request.urlopen(f"{dashboard}/figures", timeout=5) as response:
        return json.load(response)["funnel"][0]["count"]


FAMILY = Family(
    title="Memory of a worker over a million events",
    rounds=1,
    rows=[
        Row(title="before the first event", subject=memory, figure="idle", unit="MB", target=60),
        Row(title="at most", subject=memory, figure="most", unit="MB", target=60),
        Row(title="grown from the second tenth to the last", subject=memory, figure="growth", unit="MB", target=3),
    ],
)

START = Family(
    title="Start",
    rows=[
        Row(
            title="import millstream, above asyncio", subject=import_millstream, figure="ms", unit="ms", target=30,
            beside=import_asyncio, compared="difference",
        ),
        Row(title="millstream demo shop, to its ready line", subject=demo_shop, figure="ready", unit="s"),
        Row(title="millstream demo shop, to the first event handled", subject=demo_shop, figure="handled", unit="s", target=5),
    ],
)  # fmt: skip
