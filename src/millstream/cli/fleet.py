"""Several worker processes of one service: started, watched, replaced and stopped together."""

import asyncio
import contextlib
import logging
import os
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from millstream.app.http import Health
from millstream.app.merged_metrics import merged
from millstream.app.settings import UNIX
from millstream.cli.stopping import LIFELINE, lifeline

log = logging.getLogger("millstream.run")

#: A worker's number; set by who starts it, and only then.
WORKER = "MILLSTREAM_WORKER"

#: A dead worker is replaced after this many seconds, doubled each time it dies soon.
FIRST_WAIT = 0.2
LONGEST_WAIT = 30.0
#: A worker that lived so many seconds was well.
WELL = 60.0
#: What a worker gets beyond its grace before it is killed.
MARGIN = 5.0
#: A worker that ends with this will do so each time: its command line or its settings are wrong.
HOPELESS = (2,)
SCRAPE_TIMEOUT = 5.0


@dataclass(slots=True)
class _Worker:
    number: int
    socket: str
    process: asyncio.subprocess.Process | None = None
    deaths: int = 0


@dataclass(slots=True)
class Fleet:
    """`size` processes that run the same command, until `stop` is set.

    Each gets its number and a Unix socket for health and metrics in its environment. One
    that dies is replaced, after a while that grows with every early death.
    """

    command: Sequence[str]
    size: int
    grace: float
    stop: asyncio.Event
    _workers: list[_Worker] = field(default_factory=list[_Worker])
    _hopeless: int = 0

    async def run(self) -> int:
        """Run them; the exit code is 0 when all of them stopped well."""
        with tempfile.TemporaryDirectory(prefix="millstream-") as folder, lifeline() as line:
            self._workers = [_Worker(n, str(Path(folder) / f"{n}.sock")) for n in range(1, self.size + 1)]
            async with asyncio.TaskGroup() as tasks:
                kept = [tasks.create_task(self._keep(worker, line)) for worker in self._workers]
            return self._hopeless or max(task.result() for task in kept)

    def pids(self) -> list[int]:
        """The processes that live now."""
        return [worker.process.pid for worker in self._workers if worker.process is not None and worker.process.returncode is None]

    def health(self) -> Health:
        """What all of them say, each with its number."""
        return Health(troubles=self._troubles, metrics=self._metrics)

    async def _keep(self, worker: _Worker, line: int) -> int:
        """Keep one worker alive; gives how the last of its processes ended."""
        while not self.stop.is_set():
            started = asyncio.get_running_loop().time()
            code = await self._live(worker, line)
            if self.stop.is_set():
                return code
            if code in HOPELESS:
                self._hopeless = code
                self.stop.set()
                return code
            worker.deaths = 0 if asyncio.get_running_loop().time() - started > WELL else worker.deaths
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(worker.deaths, 20))
            worker.deaths += 1
            log.error("worker %d ended %s; it is replaced in %.1f s", worker.number, _how(code), wait)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), wait)
        return 0

    async def _live(self, worker: _Worker, line: int) -> int:
        """Start a process, and see it to its end."""
        environment = {**os.environ, WORKER: str(worker.number), LIFELINE: str(line), "MILLSTREAM_HTTP": f"{UNIX}{worker.socket}"}
        process = worker.process = await asyncio.create_subprocess_exec(*self.command, env=environment, pass_fds=(line,))
        log.info("worker %d is process %d", worker.number, process.pid)
        ended = asyncio.create_task(process.wait())
        stopped = asyncio.create_task(self.stop.wait())
        try:
            await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                _send(process, signal.SIGTERM)
                await asyncio.wait((ended,), timeout=self.grace + MARGIN)
            if not ended.done():
                log.error("worker %d did not stop in time and is killed; what it had in hand is delivered again", worker.number)
        finally:
            stopped.cancel()
            if not ended.done():
                _send(process, signal.SIGKILL)
        return await ended

    async def _troubles(self) -> list[str]:
        answers = await asyncio.gather(*(self._ask(worker, "/readyz") for worker in self._workers))
        found: list[str] = []
        for worker, answer in zip(self._workers, answers, strict=True):
            if answer is None:
                found.append(f"worker {worker.number}: does not answer; it is starting, or being replaced")
            elif answer[0] != 200:
                found += [f"worker {worker.number}: {line}" for line in answer[1].splitlines()]
        return found

    async def _metrics(self) -> bytes:
        answers = await asyncio.gather(*(self._ask(worker, "/metrics") for worker in self._workers))
        told = zip(self._workers, answers, strict=True)
        return merged({str(worker.number): answer[1] for worker, answer in told if answer is not None and answer[0] == 200}).encode()

    async def _ask(self, worker: _Worker, path: str) -> tuple[int, str] | None:
        """A worker's answer: status and text; None when it does not answer."""
        try:
            async with asyncio.timeout(SCRAPE_TIMEOUT):
                reader, writer = await asyncio.open_unix_connection(worker.socket)
                try:
                    writer.write(f"GET {path} HTTP/1.0\r\nHost: worker\r\n\r\n".encode())
                    head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
                finally:
                    writer.close()
            return int(head.split(b" ", 2)[1]), body.decode()
        except (OSError, TimeoutError, IndexError, ValueError):
            return None


def _send(process: asyncio.subprocess.Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def _how(code: int) -> str:
    return f"by signal {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
