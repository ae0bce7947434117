"""The service processes: started, watched, killed on request, restarted, and never left behind."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from millstream.demos.shop.options import Settings
from millstream.demos.shop.ready import ready_pid

PATIENCE_AT_STOP = 5.0
WATCH = 0.05
SOONEST_CRASH_LOOP = 1.0
LONGEST_PAUSE = 2.0
#: Where the package `millstream` was imported from.
PACKAGES = Path(__file__).resolve().parents[3]


@dataclass(slots=True)
class Service:
    """One service and its present process."""

    name: str
    process: subprocess.Popen[bytes]
    started: float
    quick_deaths: int = 0


@dataclass(slots=True)
class Deaths:
    """How processes ended that were not asked to."""

    kills: int = 0
    failures: list[str] = field(default_factory=list[str])


class Processes:
    """All services of one shop."""

    def __init__(self, settings: Settings, names: tuple[str, ...], listening: Sequence[socket.socket]) -> None:
        self.names = names
        self._listening = listening
        self._settings = settings
        self._services: dict[str, Service] = {}
        self._stopping = False
        self._restarts: dict[str, float] = {}
        self.deaths = Deaths()
        (settings.folder / "run").mkdir(parents=True, exist_ok=True)

    @property
    def pids(self) -> dict[str, int]:
        return {name: service.process.pid for name, service in self._services.items()}

    def start_all(self) -> None:
        for name in self.names:
            self._start(name)

    def _start(self, name: str, quick_deaths: int = 0) -> None:
        with (self._settings.folder / "run" / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "millstream.demos.shop", name],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment(self._settings),
                cwd=self._settings.folder,
                pass_fds=[each.fileno() for each in self._listening],
                start_new_session=True,
            )
        self._services[name] = Service(name, process, time.monotonic(), quick_deaths)

    async def until_ready(self, limit: float = 30.0) -> None:
        """Wait until every service has said that it is ready."""
        end = time.monotonic() + limit
        while not all(ready_pid(self._settings, name) == pid for name, pid in self.pids.items()):
            if time.monotonic() > end:
                missing = [name for name, pid in self.pids.items() if ready_pid(self._settings, name) != pid]
                raise TimeoutError(
                    f"{', '.join(missing)} did not start within {limit:.0f} s. What they said is in "
                    f"{self._settings.folder / 'run'}/*.log; correct that, or name another folder with --data."
                )
            await asyncio.sleep(0.02)

    async def watch(self) -> None:
        """Restart whatever dies; a service that dies at once each time is restarted more slowly."""
        while not self._stopping:
            now = time.monotonic()
            for service in list(self._services.values()):
                code = service.process.poll()
                if code is None or self._stopping:
                    continue
                if service.name not in self._restarts:
                    self._note_death(service, code)
                    quick = now - service.started < SOONEST_CRASH_LOOP
                    service.quick_deaths = service.quick_deaths + 1 if quick else 0
                    self._restarts[service.name] = now + min(LONGEST_PAUSE, 0.1 * 2**service.quick_deaths)
                if now >= self._restarts[service.name]:
                    del self._restarts[service.name]
                    _close_input(service.process)
                    self._start(service.name, service.quick_deaths)
            await asyncio.sleep(WATCH)

    def _note_death(self, service: Service, code: int) -> None:
        if code == -signal.SIGKILL:
            self.deaths.kills += 1
        else:
            self.deaths.failures.append(f"{service.name} ended with {code}")

    def kill(self, name: str) -> int | None:
        """`kill -9`; the process id, or None when it is dead already."""
        process = self._services[name].process
        if process.poll() is not None:
            return None
        process.kill()
        return process.pid

    def stop_all(self) -> None:
        """Ask every process to stop, then insist. Afterwards none is left."""
        self._stopping = True
        processes = [service.process for service in self._services.values()]
        for process in processes:
            if process.poll() is None:
                process.terminate()
        end = time.monotonic() + PATIENCE_AT_STOP
        for process in processes:
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _close_input(process)
        for each in self._listening:
            each.close()


def environment(settings: Settings) -> dict[str, str]:
    """The user's environment without the settings of the user's own service; those of a pyproject.toml stay out by the folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MILLSTREAM_")}
    # Services run in the shop's folder: what the user's Python finds from where the user is, must be found from there.
    entries = [entry for entry in kept.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if Path.cwd() == PACKAGES:
        entries.append(str(PACKAGES))
    if entries:
        kept["PYTHONPATH"] = os.pathsep.join(str(Path(entry).absolute()) for entry in entries)
    return {**kept, **settings.to_environment(), "MILLSTREAM_FACTS": "on"}


def _close_input(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()


def listen(*wanted: int) -> list[socket.socket]:
    """Listen on the wanted ports of 127.0.0.1, each replaced by a free one when it is taken.

    The supervisor keeps them open and services inherit them: no other program can take the port of a service
    that is being restarted, and a customer waits instead of being turned away.
    """
    return [_listen(port) for port in wanted]


def _listen(port: int) -> socket.socket:
    for candidate in (*range(port, port + 100, 10), 0):
        attempt = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind(("127.0.0.1", candidate))
            attempt.listen(128)
        except OSError:
            attempt.close()
        else:
            return attempt
    raise OSError("There is no free port on 127.0.0.1.")
