"""The flow map in a browser: what a frame costs the page when much flows, and whether its memory stays flat.

`python -m benchmarks.browser` shows Chromium the map of a system with 300 nodes, through a
real console. It is told of 5,000 deliveries a second, where the map shows rates, and of as
many as can be dots; `--seconds 1800` looks for leaks. Processor time is the main thread's
own, so that what else the machine does counts little.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, CDPSession, Page, async_playwright

from benchmarks.stopwatch import percentile
from millstream.app.connect import connect_broker
from millstream.app.system_clock import SystemClock
from millstream.contracts.envelope import Envelope
from millstream.contracts.ids import new_id
from millstream.core.broker import Broker, Group, Topic
from millstream.core.facts import (
    FACT_TYPE,
    FACTS_TOPIC,
    TOPIC,
    Deliveries,
    DeliveryFact,
    Fact,
    HandlerFact,
    Heartbeat,
    Manifest,
    Publications,
    PublishedFact,
    encode_fact,
)

#: Handlers, as many types of events, and services that publish by themselves: 300 nodes.
HANDLERS, SERVICES = 140, 20
#: Deliveries a second: so many that rates are shown, and so few that each is a dot.
MUCH, DOTS = 5000, 170
#: Facts come so often a second.
TENTHS = 10
FRAME = 1 / 60
#: Milliseconds of the main thread in a frame, and how much the memory may grow in all.
MOST_WORK, MOST_GROWTH = 8.0, 1.1
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TRACED = ["toplevel", "disabled-by-default-devtools.timeline", "__metadata"]
#: The page is left alone first: half a minute after it was loaded the browser puts all of its memory in order, once, in 10 ms.
SETTLES = 60.0
#: How long a stretch is traced: a trace is kept in memory.
STRETCH = 20.0


def service_of(handler: int) -> str:
    """Handlers are spread over the services."""
    return f"service-{handler % SERVICES}"


def group_of(handler: int) -> str:
    """Each handler has a group of its own."""
    return f"{service_of(handler)}.handle_{handler}"


def type_of(handler: int) -> str:
    """What a handler takes."""
    return f"subject-{handler}.happened"


def follower_of(handler: int) -> int:
    """Who takes what a handler publishes: a tree, seven wide at its root."""
    return (handler * 2 + SERVICES) % HANDLERS


def manifests(now: int) -> Iterator[Fact]:
    """What every service says that it is."""
    for n in range(SERVICES):
        handlers = tuple(
            HandlerFact(
                f"handle_{h}", group_of(h), "", "service.py:1", (type_of(h),), (type_of(h),), (type_of(follower_of(h)),),
                "effectively_once", True, 16, 30, 5,
            )
            for h in range(n, HANDLERS, SERVICES)
        )  # fmt: skip
        yield Manifest(service_of(n), f"host-{n}-1", now, now, "host", n, "1", "b", "s", handlers, ())


def a_tenth(now: int, rate: int, chance: random.Random) -> Iterator[Fact]:
    """What is told of a tenth of a second, by all services; each delivery publishes an event."""
    per_handler = Counter(chance.randrange(HANDLERS) for _ in range(rate // TENTHS))
    for h, count in per_handler.items():
        made: list[DeliveryFact] = []
        for _ in range(count):
            id_, effect = new_id(now // 1000, os.urandom(10)), new_id(now // 1000, os.urandom(10))
            key, next_ = f"order-{chance.randrange(10**9)}", type_of(follower_of(h))
            published = PublishedFact(effect, f"/{service_of(h)}", next_, next_, key, now, 1, id_, id_, f"{group_of(h)}/1")
            event = (id_, "/service-0", type_of(h), key, now - 2000, None, None, None, 1)
            place = (f"handle_{h}", type_of(h), 0, 1)
            made.append(DeliveryFact("handled", *place, *event, 1, now, 0.002, 0.001, (published,)))
        yield Deliveries(service_of(h), f"host-{h % SERVICES}-1", now, group_of(h), ((f"handle_{h}", "handled", count),), 1, tuple(made))


def a_beat(now: int) -> Iterator[Fact]:
    """What services say every second: that they are alive, and that they have published something by themselves."""
    for n in range(SERVICES):
        yield Heartbeat(service_of(n), f"host-{n}-1", now)
        id_ = new_id(now // 1000, os.urandom(10))
        event = PublishedFact(id_, f"/{service_of(n)}", type_of(n), type_of(n), "k", now, 1, None, None, None)
        yield Publications(service_of(n), f"host-{n}-1", now, 1, 1, (event,))


class System:
    """Services as far as a console hears of them."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._chance = random.Random(7)  # the same system each time
        self.rate = 0
        """Deliveries a second, which may change."""

    async def declare(self) -> None:
        """Topics and groups, as services declare them."""
        topics = [Topic(name=type_of(h), partitions=1) for h in range(HANDLERS)]
        await self._broker.declare([TOPIC, *topics], [Group(name=group_of(h), topics=(type_of(h),)) for h in range(HANDLERS)])
        await self._tell(list(manifests(time.time_ns() // 1000)))

    async def run(self) -> None:
        """Tell what happens, until cancelled."""
        due, told = time.monotonic(), 0
        while True:
            now = time.time_ns() // 1000
            facts = list(a_tenth(now, self.rate, self._chance))
            if told % TENTHS == 0:
                facts += a_beat(now)
            await self._tell(facts)
            told += 1
            due = max(due + 1 / TENTHS, time.monotonic() - 1)
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _tell(self, facts: list[Fact]) -> None:
        now = time.time_ns() // 1000
        ids = [new_id(now // 1000, os.urandom(10)) for _ in facts]
        envelopes = [
            Envelope(id=id_, source="/bench", type=FACT_TYPE, topic=FACTS_TOPIC, time=now, data=encode_fact(fact))
            for id_, fact in zip(ids, facts, strict=True)
        ]
        await self._broker.publish(envelopes)


@asynccontextmanager
async def console(folder: Path) -> AsyncGenerator[str]:
    """A console of its own process; gives the address that signs in."""
    where = ("--broker", f"sqlite:///{folder}/broker.db", "--data", str(folder / "console.db"), "--port", "0")
    words = ("console", *where, "--output", "json")
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "millstream", *words, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield json.loads(await process.stdout.readline())["console"]
    finally:
        process.terminate()
        await process.wait()


async def traced(browser: Browser, page: Page, seconds: float) -> list[float]:
    """The main thread's work in each frame of a stretch, in milliseconds."""
    await browser.start_tracing(page=page, categories=TRACED)
    await asyncio.sleep(seconds)
    return frames(json.loads(await browser.stop_tracing())["traceEvents"], seconds)


def frames(events: list[dict[str, Any]], seconds: float) -> list[float]:
    """What tasks took on the busiest main thread, frame by frame; those without any are frames, too."""
    mains = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name" and e["args"]["name"] == "CrRendererMain"}
    tasks = [e for e in events if e["name"] == "RunTask" and e.get("ph") == "X" and (e["pid"], e["tid"]) in mains]
    spent: Counter[tuple[int, int]] = Counter()
    for task in tasks:
        spent[task["pid"], task["tid"]] += task.get("tdur", task["dur"])
    if not spent:
        raise SystemExit("Chromium has traced nothing of the page: its traces have changed")
    ((main, _),) = spent.most_common(1)
    mine = [task for task in tasks if (task["pid"], task["tid"]) == main]
    first = min(task["ts"] for task in mine)
    work = [0.0] * round(seconds / FRAME)
    for task in mine:
        frame = int((task["ts"] - first) / 1e6 / FRAME)
        if frame < len(work):
            work[frame] += task.get("tdur", task["dur"]) / 1000
    return work


async def memory(cdp: CDPSession) -> dict[str, float]:
    """What the page holds, after everything that can go has gone."""
    for _ in range(2):
        await cdp.send("HeapProfiler.collectGarbage")
    metrics = {each["name"]: each["value"] for each in (await cdp.send("Performance.getMetrics"))["metrics"]}
    usage = await cdp.send("Runtime.getHeapUsage")
    # Typed arrays are beside the heap, and what the browser keeps of the document in one of its own.
    heap, document = usage["usedSize"] + usage["backingStorageSize"], usage["embedderHeapUsedSize"]
    return {"heap": heap / 1e6, "document": document / 1e6, "nodes": metrics["Nodes"], "listeners": metrics["JSEventListeners"]}


def in_words(held: dict[str, float]) -> str:
    """What the page holds."""
    return f"{held['heap']:5.2f} MB, the document {held['document']:5.1f} MB, {held['nodes']:.0f} nodes, {held['listeners']:.0f} listeners"


def told_of(name: str, work: list[float]) -> bool:
    """Print how much work a frame was; tells whether it was little enough."""
    busy = sum(work) / (len(work) * FRAME * 10)
    p50, p95, p99, worst = percentile(work, 0.5), percentile(work, 0.95), percentile(work, 0.99), max(work)
    over = sum(each > MOST_WORK for each in work) / len(work) * 100
    good = p99 <= MOST_WORK
    print(
        f"  {name:<34} a frame {p50:5.1f} ms, p95 {p95:5.1f}, p99 {p99:5.1f}, worst {worst:5.1f};"
        f" {over:.1f} % above {MOST_WORK:.0f} ms; busy {busy:4.1f} %  {'ok' if good else 'SLOW'}"
    )
    return good


async def measure(folder: Path, executable: str, seconds: float) -> bool:
    """Everything, in one folder; tells whether all of it is as it should be."""
    arguments = ["--no-sandbox", "--enable-precise-memory-info"]
    async with (
        connect_broker(f"sqlite:///{folder}/broker.db", SystemClock()) as broker,
        console(folder) as address,
        async_playwright() as playwright,
    ):
        system = System(broker)
        await system.declare()
        telling = asyncio.create_task(system.run())
        browser = await playwright.chromium.launch(executable_path=executable, args=arguments)
        page = await browser.new_page(viewport={"width": 1440, "height": 900})
        await page.goto(address)
        await page.goto(address.partition("?")[0].rstrip("/") + "/map?level=handlers")
        nodes = page.locator(".stage [data-node]")
        await nodes.nth(2 * HANDLERS + SERVICES - 1).wait_for(state="attached", timeout=60_000)
        print(f"{await nodes.count()} nodes, {await page.locator('.stage .edge').count()} edges\n")
        cdp = await page.context.new_cdp_session(page)
        await cdp.send("Performance.enable")
        await cdp.send("HeapProfiler.enable")
        good = True
        system.rate = MUCH
        await asyncio.sleep(SETTLES)
        stretches = {"as good as nothing": 0, f"{2 * DOTS + SERVICES} dots a second": DOTS, f"{MUCH:,} deliveries a second": MUCH}
        for name, rate in stretches.items():
            system.rate = rate
            await asyncio.sleep(5)  # until it is on the screen
            good = told_of(name, await traced(browser, page, STRETCH)) and good
        print()
        held = [await memory(cdp)]
        print(f"      0 s: {in_words(held[0])}", flush=True)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.sleep(min(30.0, max(1.0, seconds / 6)))
            held.append(await memory(cdp))
            print(f"  {seconds - (until - time.monotonic()):5.0f} s: {in_words(held[-1])}", flush=True)
        growth = held[-1]["heap"] / held[0]["heap"]
        flat = growth <= MOST_GROWTH
        print(f"\n  memory after {seconds:.0f} s at {MUCH:,}/s: {growth:.2f} times as much  {'ok' if flat else 'GROWS'}")
        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await telling
        await browser.close()
    return good and flat


def main() -> None:
    """Measure, and say so if something is too slow."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.browser", description=__doc__)
    parser.add_argument("--seconds", type=float, default=180.0, help="how long its memory is watched (default %(default)s)")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where its files are (default %(default)s)")
    given = parser.parse_args()
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        raise SystemExit("There is no Chromium on this machine; on Debian: apt-get install --no-install-recommends chromium")
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        good = asyncio.run(measure(Path(folder), executable, given.seconds))
    if not good:
        print("\nSome of it is more than it should be.", file=sys.stderr)


if __name__ == "__main__":
    main()
