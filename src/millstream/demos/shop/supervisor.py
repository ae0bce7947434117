"""`millstream demo shop`: starts the services, lets customers and faults loose, and proves what came of it."""

import asyncio
import contextlib
import json
import random
import signal
import sys
import time
import webbrowser
from collections.abc import Awaitable, Coroutine, Mapping
from dataclasses import asdict
from typing import Any

from millstream.demos.shop.auditor import gather
from millstream.demos.shop.console import ConsoleProcess, lab_socket
from millstream.demos.shop.crash import PROBABILITIES, calm
from millstream.demos.shop.drain import drain
from millstream.demos.shop.faults import Injector, inject_at_random, kill_at_random, waited
from millstream.demos.shop.folder import Folder
from millstream.demos.shop.journal import answers
from millstream.demos.shop.lab import Action, Lab
from millstream.demos.shop.options import DemoOptions, Settings
from millstream.demos.shop.processes import Processes, environment, listen
from millstream.demos.shop.report import Run, as_text, proof
from millstream.demos.shop.tables import figures
from millstream.demos.shop.terminal import Terminal, keys
from millstream.demos.shop.traffic import Customers
from millstream.demos.shop.witness import Witness, forget_groups

PORTS = {"shop": 8300, "mail": 8301, "dashboard": 8302, "smtp": 8325}
DEMO_RATE = 5.0
DEMO_SECONDS = 60.0
PROOF_RATE = 25.0
PROOF_SECONDS = 20.0
DRAIN_LIMIT = 60.0
KILL_EVERY = 2.0
DUPLICATES_EVERY = 0.3
POISON_SHARE = 0.2
STATUS_EVERY = 1.0
SOME_DUPLICATES = 10
FASTER = 1.5
KEYS = "o order   d duplicates   k kill a service   p poison   ? all keys   q quit"
HELP = """  o  place an order, as a customer would
  d  publish ten recent events a second time, under the ids they have
  k  kill -9 the next service; it is started again, and goes on where it was
  p  publish an event that breaks its contract: it becomes a dead letter, others of its topic flow on
  +  more customers   -  fewer customers
  q  stop, let the rest be worked off, and print the proof (Ctrl-C stops at once)"""


def run(options: DemoOptions, *, faults: bool) -> int:
    """One run from the first process to the last; its exit code."""
    return asyncio.run(_Shop(options, faults=faults).run())


class _Shop:
    """One run of the whole system."""

    def __init__(self, options: DemoOptions, *, faults: bool) -> None:
        self._options = options
        self._faults = faults
        self._folder = Folder(options.data)
        self._terminal = Terminal(quiet=options.output == "json")
        listening = listen(*PORTS.values())
        ports = {name: each.getsockname()[1] for name, each in zip(PORTS, listening, strict=True)}
        self._settings = Settings(
            data=str(self._folder.path),
            shop_port=ports["shop"],
            mail_port=ports["mail"],
            dashboard_port=ports["dashboard"],
            smtp=options.smtp or f"127.0.0.1:{ports['smtp']}",
            own_mail=options.smtp is None,
            naive=options.naive,
            mutation=options.mutate,
            seed=options.seed,
            broker=options.broker or "",
            run=self._folder.mark if options.broker else "",
            listening={name: each.fileno() for name, each in zip(PORTS, listening, strict=True)},
            crash=PROBABILITIES if faults else {},
        )
        calm(self._settings, False)
        self._processes = Processes(self._settings, options.services, listening)
        # Nobody watches a proof.
        self._console = None if faults else ConsoleProcess(self._settings, environment(self._settings))
        self._random = random.Random(options.seed)
        rate = options.rate if options.rate is not None else PROOF_RATE if faults else DEMO_RATE
        chance = random.Random(f"{options.seed}/customers")
        self._customers = Customers(ports["shop"], answers(self._folder.path), chance, rate)
        self._closing = asyncio.Event()
        self._interrupted = asyncio.Event()
        self._signal = 0
        self._next_to_kill = 0
        self._background: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Everything from the first process to none left; the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with contextlib.suppress(NotImplementedError):
                loop.add_signal_handler(number, self._interrupt, number)
        code = 1
        try:
            self._processes.start_all()
            if self._console is not None:
                self._console.start()
            code = await self._until_interrupted(self._open())
        finally:
            with contextlib.suppress(OSError):  # the terminal may be gone
                self._terminal.end_status()
            if self._console is not None:
                self._console.stop()
            self._processes.stop_all()
            if not self._folder.is_kept:
                await forget_groups(self._settings)
            # What went wrong is worth a look; what went well is not.
            self._folder.close(keep=code == 1)
        return code

    def _interrupt(self, number: int) -> None:
        self._signal = number
        self._interrupted.set()

    async def _until_interrupted(self, life: Coroutine[Any, Any, int]) -> int:
        """The exit code of a whole life, or of the signal that ended it."""
        living = asyncio.create_task(life)
        signalled = asyncio.create_task(self._interrupted.wait())
        await asyncio.wait((living, signalled), return_when=asyncio.FIRST_COMPLETED)
        signalled.cancel()
        if living.done():
            return living.result()
        living.cancel()
        await asyncio.wait((living,))
        return 128 + self._signal

    async def _open(self) -> int:
        started = time.monotonic()
        watch = asyncio.create_task(self._processes.watch())
        try:
            await self._processes.until_ready()
            if self._console is not None:
                await self._console.until_ready()
            self._say_ready(time.monotonic() - started)
            async with (
                Witness.where_needed(self._settings),
                Injector(self._settings, random.Random(f"{self._options.seed}/injector")) as injector,
                Lab(lab_socket(self._settings), self._lab_actions(injector, started)),
            ):
                return await self._business(injector)
        finally:
            watch.cancel()

    def _lab_actions(self, injector: Injector, started: float) -> dict[str, Action]:
        """What the keys do, for the console."""

        async def state(_asked: Mapping[str, Any]) -> dict[str, Any]:
            return {
                "rate": self._customers.rate,
                "services": [{"name": name, "pid": pid} for name, pid in self._processes.pids.items()],
                "figures": asdict(await asyncio.to_thread(figures, self._folder.path)),
                "kills": self._processes.deaths.kills,
                "duplicates": injector.duplicates,
                "poison": injector.poison,
                "mode": self._options.mode,
            }

        async def order(_asked: Mapping[str, Any]) -> dict[str, Any]:
            order_id = await self._customers.order()
            return {"order_id": order_id, "url": f"http://127.0.0.1:{self._settings.shop_port}/orders/{order_id}"}

        async def duplicate(_asked: Mapping[str, Any]) -> dict[str, Any]:
            return {"events": await injector.duplicate(SOME_DUPLICATES)}

        async def poison(_asked: Mapping[str, Any]) -> dict[str, Any]:
            return {"id": await injector.publish_poison()}

        async def kill(asked: Mapping[str, Any]) -> dict[str, Any]:
            return {"pid": self._processes.kill(str(asked.get("name")))}

        async def rate(asked: Mapping[str, Any]) -> dict[str, Any]:
            wanted = float(asked["rate"])
            self._customers.rate = min(200.0, max(0.5, wanted)) if wanted else 0.0
            return {"rate": self._customers.rate}

        async def proof(_asked: Mapping[str, Any]) -> dict[str, Any]:
            self._customers.resting = True
            try:
                return await self._prove(injector, time.monotonic() - started)
            finally:
                self._customers.resting = False

        return {"state": state, "order": order, "duplicate": duplicate, "poison": poison, "kill": kill, "rate": rate, "prove": proof}

    async def _business(self, injector: Injector) -> int:
        started = time.monotonic()
        await self._until_closing(injector)
        seconds = time.monotonic() - started
        calm(self._settings, True)
        self._terminal.say("Closed. Working off what is left, then checking every promise...")
        report = await self._prove(injector, seconds)
        print(json.dumps(report) if self._options.output == "json" else as_text(report), flush=True)
        if self._folder.is_kept or not report["ok"]:
            self._terminal.say(f"The databases, mails and logs are in {self._folder.path}")
        return 0 if report["ok"] else 1

    async def _until_closing(self, injector: Injector) -> None:
        """Let customers come, and faults if wanted, until the time is up or somebody stops it."""
        closing = self._closing
        work: list[Awaitable[None]] = [self._customers.come(closing), self._as_told(injector)]
        if self._faults:
            work.append(kill_at_random(self._processes, self._options.services, KILL_EVERY, self._random, closing))
            chance = random.Random(f"{self._options.seed}/faults")
            work.append(inject_at_random(injector, DUPLICATES_EVERY, POISON_SHARE, chance, closing))
        elif self._terminal.moves:
            work.append(self._show_figures(injector))
        tasks = [asyncio.ensure_future(each) for each in work]
        try:
            with keys(lambda key: self._press(key, injector), wanted=not self._faults) as listening:
                if listening:
                    self._terminal.say(f"\n  {KEYS}\n")
                await waited(closing, self._length())
        finally:
            closing.set()
            await asyncio.gather(*tasks)

    def _length(self) -> float | None:
        if self._options.seconds is not None:
            return self._options.seconds
        if self._faults:
            return PROOF_SECONDS
        if self._options.forever or sys.stdin.isatty():
            return None
        return DEMO_SECONDS

    async def _as_told(self, injector: Injector) -> None:
        """What the flags ask for, once."""
        for _ in range(self._options.orders):
            self._customers.order()
        for name in self._options.kill:
            self._kill(name)
        for _ in range(self._options.poison):
            self._terminal.say(f"published poison: {await injector.publish_poison()}")
        missing = self._options.duplicates
        while missing and not self._closing.is_set():
            missing -= await injector.duplicate(missing)
            # There may be fewer events yet than were asked for.
            await waited(self._closing, 0.2 if missing else 0.0)
        if self._options.duplicates:
            self._terminal.say(f"published again: {self._options.duplicates - missing} events")

    async def _show_figures(self, injector: Injector) -> None:
        while not await waited(self._closing, STATUS_EVERY):
            found = await asyncio.to_thread(figures, self._folder.path)
            self._terminal.status(
                f"{found.orders} orders, {found.published} events, {found.waiting} waiting, {found.dead_letters} dead; "
                f"{self._processes.deaths.kills} kills, {injector.duplicates} duplicates, {injector.poison} poison"
            )

    async def _prove(self, injector: Injector, seconds: float) -> dict[str, Any]:
        await self._customers.last_answers()
        left = await drain(self._folder.path, DRAIN_LIMIT)
        evidence = await asyncio.to_thread(gather, self._folder.path, own_mail_server=self._options.smtp is None)
        run = Run(
            mode=self._options.mode,
            broker=self._settings.broker_url.partition(":")[0],
            seed=self._options.seed,
            seconds=seconds,
            kills=self._processes.deaths.kills,
            duplicates=injector.duplicates,
            left=left,
            failures=self._processes.deaths.failures,
        )
        return proof(evidence, run)

    def _press(self, key: str, injector: Injector) -> None:
        match key:
            case "q":
                self._closing.set()
            case "o":
                self._later(self._order())
            case "d":
                self._later(self._duplicate(injector))
            case "k":
                names = self._options.services
                self._kill(names[self._next_to_kill % len(names)])
                self._next_to_kill += 1
            case "p":
                self._later(self._poison(injector))
            case "+" | "-":
                self._customers.rate = min(200.0, max(0.5, self._customers.rate * (FASTER if key == "+" else 1 / FASTER)))
                self._terminal.say(f"{self._customers.rate:.1f} orders a second")
            case "?":
                self._terminal.say(HELP)
            case _:
                pass

    async def _order(self) -> None:
        order_id = await self._customers.order()
        self._terminal.say(f"placed an order: http://127.0.0.1:{self._settings.shop_port}/orders/{order_id}")

    async def _duplicate(self, injector: Injector) -> None:
        self._terminal.say(f"published again: {await injector.duplicate(SOME_DUPLICATES)} events")

    async def _poison(self, injector: Injector) -> None:
        self._terminal.say(f"published poison: {await injector.publish_poison()}")

    def _kill(self, name: str) -> None:
        pid = self._processes.kill(name)
        self._terminal.say(f"kill -9 {name} ({pid or 'it is dead already'})")

    def _later(self, action: Awaitable[None]) -> None:
        async def run() -> None:
            try:
                await action
            except Exception as error:
                self._terminal.say(f"that failed: {error}")

        task = asyncio.create_task(run())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _say_ready(self, seconds: float) -> None:
        for name, wanted in PORTS.items():
            port = self._port(name)
            if port != wanted and not (name in ("mail", "smtp") and self._options.smtp):
                print(f"Port {wanted} is taken: {name} is on {port}.", file=sys.stderr, flush=True)
        urls = {
            "shop": f"http://127.0.0.1:{self._settings.shop_port}",
            "mail": None if self._options.smtp else f"http://127.0.0.1:{self._settings.mail_port}",
            "dashboard": f"http://127.0.0.1:{self._settings.dashboard_port}",
            "console": self._console.url if self._console is not None else None,
        }
        if self._options.output == "json" and not self._faults:
            print(json.dumps({**urls, "processes": self._processes.pids}), flush=True)
        self._terminal.say(
            f"  Console    {urls['console'] or 'see run/console.log'}   see it all; the address works once\n"
            f"  Shop       {urls['shop']}   place an order yourself\n"
            f"  Mail       {urls['mail'] or self._settings.smtp}   every e-mail really sent over SMTP\n"
            f"  Dashboard  {urls['dashboard']}   what was sold, live\n"
            f"  Data       {self._folder.path}\n"
            f"  {len(self._options.services)} services, each a process with its own database; started in {seconds:.1f} s"
        )
        if self._options.open:
            webbrowser.open(str(urls["console"] or urls["shop"]))

    def _port(self, name: str) -> int:
        smtp = int(self._settings.smtp.rpartition(":")[2])
        ports = (self._settings.shop_port, self._settings.mail_port, self._settings.dashboard_port, smtp)
        return dict(zip(PORTS, ports, strict=True))[name]
