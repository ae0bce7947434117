"""`millstream demo shop`: starts the services, lets customers and faults loose, and proves what came of it."""

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from millstream.demos.shop.auditor import gather
from millstream.demos.shop.crash import ALL_POINTS, calm
from millstream.demos.shop.drain import drain
from millstream.demos.shop.faults import Injector, inject_at_random, kill_at_random, waited
from millstream.demos.shop.journal import answers
from millstream.demos.shop.options import DemoOptions, Protections, Settings
from millstream.demos.shop.processes import Processes, listen
from millstream.demos.shop.report import Run, as_text, proof
from millstream.demos.shop.traffic import Customers

DEMO_RATE = 5.0
DEMO_SECONDS = 60.0
PROOF_RATE = 25.0
PROOF_SECONDS = 20.0
DRAIN_LIMIT = 60.0
KILL_EVERY = 2.0
DUPLICATES_EVERY = 0.3
POISON_SHARE = 0.2
CRASH_PROBABILITY = 0.004
KEYS = "o order   d duplicates   k kill a service   p poison   q quit"


def demo(options: DemoOptions) -> int:
    """Run the shop for people; without a terminal it ends by itself. The exit code is the proof's verdict."""
    if options.prove:
        return prove(options)
    return asyncio.run(_Shop(options, faults=False).run())


def prove(options: DemoOptions) -> int:
    """Run the shop under faults without anybody watching, and print the proof."""
    return asyncio.run(_Shop(options, faults=True).run())


@dataclass(slots=True)
class _Stop:
    event: asyncio.Event = field(default_factory=asyncio.Event)
    signal_number: int | None = None

    def by_signal(self, number: int) -> None:
        self.signal_number = number
        self.event.set()


class _Shop:
    """One run of the whole system."""

    def __init__(self, options: DemoOptions, *, faults: bool) -> None:
        # Refuses an unknown mutation before anything starts.
        Protections.chosen(naive=options.naive, mutation=options.mutate)
        self._options = options
        self._faults = faults
        self._folder = Path(options.data or tempfile.mkdtemp(prefix="millstream-shop-")).resolve()
        self._folder.mkdir(parents=True, exist_ok=True)
        listening = listen(8300, 8301, 8302, 8325)
        shop, mail, dashboard, smtp = (each.getsockname()[1] for each in listening)
        self._settings = Settings(
            data=str(self._folder),
            shop_port=shop,
            mail_port=mail,
            dashboard_port=dashboard,
            smtp=options.smtp or f"127.0.0.1:{smtp}",
            naive=options.naive,
            mutation=options.mutate,
            seed=options.seed,
            listening=dict(zip(("shop", "mail", "dashboard", "smtp"), (each.fileno() for each in listening), strict=True)),
            crash=dict.fromkeys(ALL_POINTS, CRASH_PROBABILITY) if faults else {},
        )
        calm(self._settings, False)
        own_mail = () if options.smtp else ("catcher",)
        self._names = ("storefront", "inventory", "mailer", "analytics", *own_mail)
        self._processes = Processes(self._settings, self._names, listening)
        self._random = random.Random(options.seed)
        self._customers = Customers(shop, answers(self._folder), random.Random(f"{options.seed}/customers"))
        self._stop = _Stop()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with contextlib.suppress(NotImplementedError):
                loop.add_signal_handler(number, self._stop.by_signal, number)
        try:
            self._processes.start_all()
            return await self._open()
        finally:
            self._processes.stop_all()

    async def _open(self) -> int:
        watch = asyncio.create_task(self._processes.watch())
        ready = asyncio.create_task(self._processes.until_ready())
        stopped = asyncio.create_task(self._stop.event.wait())
        try:
            await asyncio.wait((ready, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                return self._signal_code()
            await ready
            self._say_ready()
            async with Injector(self._settings, random.Random(f"{self._options.seed}/injector")) as injector:
                return await self._business(injector)
        finally:
            for task in (watch, ready, stopped):
                task.cancel()

    async def _business(self, injector: Injector) -> int:
        started = time.monotonic()
        await self._until_closing(injector)
        if self._stop.signal_number is not None:
            return self._signal_code()
        seconds = time.monotonic() - started
        calm(self._settings, True)
        report = await self._prove(injector, seconds)
        print(json.dumps(report) if self._options.output == "json" else as_text(report, self._folder), flush=True)
        if report["ok"] and self._options.data is None:
            self._processes.stop_all()
            shutil.rmtree(self._folder, ignore_errors=True)
        return 0 if report["ok"] else 1

    async def _until_closing(self, injector: Injector) -> None:
        """Let customers come, and faults if wanted, until the time is up or somebody stops it."""
        closing = self._stop.event
        rate = self._options.rate if self._options.rate is not None else PROOF_RATE if self._faults else DEMO_RATE
        work = []
        if rate > 0:
            work.append(self._customers.come(rate, closing))
        if self._faults:
            work.append(kill_at_random(self._processes, self._names, KILL_EVERY, self._random, closing))
            chance = random.Random(f"{self._options.seed}/faults")
            work.append(inject_at_random(injector, DUPLICATES_EVERY, POISON_SHARE, chance, closing))
        tasks = [asyncio.create_task(each) for each in work]
        try:
            with _keys(lambda key: self._press(key, injector), wanted=not self._faults):
                await waited(closing, self._length())
        finally:
            closing.set()
            await asyncio.gather(*tasks)

    def _length(self) -> float:
        if self._options.seconds is not None:
            return self._options.seconds
        if self._faults:
            return PROOF_SECONDS
        if self._options.forever or sys.stdin.isatty():
            return float("inf")
        return DEMO_SECONDS

    async def _prove(self, injector: Injector, seconds: float) -> dict[str, Any]:
        await self._customers.last_answers()
        drained = await drain(self._folder, DRAIN_LIMIT)
        evidence = await asyncio.to_thread(gather, self._folder, own_mail_server=self._options.smtp is None)
        mutated = f"mutation {self._options.mutate}" if self._options.mutate else "protected"
        run = Run(
            mode="naive" if self._options.naive else mutated,
            seed=self._options.seed,
            seconds=seconds,
            kills=self._processes.deaths.kills,
            duplicates=injector.duplicates,
            drained=drained,
            failures=self._processes.deaths.failures,
        )
        return proof(evidence, run)

    def _press(self, key: str, injector: Injector) -> None:
        if key == "q":
            self._stop.event.set()
        elif key == "o":
            self._customers.order()
            print("placed an order", flush=True)
        elif key == "k":
            name = self._random.choice(self._names)
            print(f"kill -9 {name} ({self._processes.kill(name) or 'it is dead already'})", flush=True)
        elif key == "d":
            self._later(injector.duplicate(10), "published again: {} events")
        elif key == "p":
            self._later(injector.publish_poison(), "published poison {}")

    def _later(self, action: Any, words: str) -> None:
        task = asyncio.ensure_future(action)
        task.add_done_callback(lambda done: print(words.format(done.exception() or done.result()), flush=True))

    def _say_ready(self) -> None:
        settings = self._settings
        ready = {
            "shop": f"http://127.0.0.1:{settings.shop_port}",
            "mail": None if self._options.smtp else f"http://127.0.0.1:{settings.mail_port}",
            "dashboard": f"http://127.0.0.1:{settings.dashboard_port}",
            "processes": self._processes.pids,
        }
        if self._options.output == "json":
            if not self._faults:
                print(json.dumps(ready), flush=True)
            return
        print(f"Shop       {ready['shop']}\nMail       {ready['mail'] or settings.smtp}\nDashboard  {ready['dashboard']}")
        print(KEYS if sys.stdin.isatty() and not self._faults else f"Data       {self._folder}", flush=True)

    def _signal_code(self) -> int:
        return 128 + (self._stop.signal_number or signal.SIGTERM)


@contextlib.contextmanager
def _keys(pressed: Any, *, wanted: bool) -> Any:
    """Hand over single key presses while inside, when there is a terminal."""
    if not wanted or not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    loop = asyncio.get_running_loop()

    def read() -> None:
        for key in os.read(descriptor, 16).decode("ascii", "ignore"):
            pressed(key)

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, read)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
