"""Service: what every server can do, and the few things that all of them need."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

#: Where everything is kept: programs, data, logs, process ids and the URLs.
HOME = Path(__file__).parents[2] / ".services"
#: Seconds that a server gets to be ready, and to stop.
PATIENCE = 60.0


class ServiceError(Exception):
    """A server cannot be installed, started or stopped; the message says what to do."""


class Service(Protocol):
    """A server: installed once, started and stopped often, on 127.0.0.1 only.

    What was started is known by files in its folder, so that another process can stop it.
    """

    name: str

    def install(self) -> None:
        """Get what is missing, or raise `ServiceError` with how to."""
        ...

    def start(self) -> None:
        """Start it, with the data it had, and return when it is ready; nothing happens if it runs."""
        ...

    def stop(self, *, kill: bool = False) -> None:
        """End its processes and wait until they are gone; with `kill` without asking them."""
        ...

    def is_running(self) -> bool:
        """Whether somebody has started it, and nobody has stopped it."""
        ...

    def clear(self) -> None:
        """Forget what it held, once it is stopped."""
        ...

    def env(self) -> Mapping[str, str]:
        """What tests need to know to reach it: MILLSTREAM_TEST_... and the URL."""
        ...


class Child:
    """A process that outlives whoever started it; a file remembers which one it is."""

    def __init__(self, folder: Path, name: str, *, ask: int = signal.SIGTERM) -> None:
        """`ask` is the signal that it ends at."""
        self.log = folder / f"{name}.log"
        self._pid_file = folder / f"{name}.pid"
        self._ask = ask

    def start(self, command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
        """Start it in a session of its own, so that it is not ended with the terminal."""
        self._pid_file.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                command, env={**os.environ, **(env or {})}, cwd=cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._pid_file.write_text(f"{process.pid} {_started(process.pid)}")
        # It outlives this object, and Python shall not complain that nobody waited for it.
        process.returncode = 0

    @property
    def pid(self) -> int | None:
        """Its process id while it runs; None when it does not, even if another process has that number now."""
        try:
            pid, started = self._pid_file.read_text().split(" ", 1)
        except (FileNotFoundError, ValueError):
            return None
        return int(pid) if _started(int(pid)) == started != "" else None

    def children(self) -> Sequence[int]:
        """The processes that it has started, where they can be known."""
        file = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(pid) for pid in file.read_text().split()] if file.exists() else []

    def wait_until(self, ready: Callable[[], bool], what: str) -> None:
        """Return when it is ready; if it ends before, or takes too long, say what it wrote last."""
        deadline = time.monotonic() + PATIENCE
        while not ready():
            if self.pid is None or time.monotonic() > deadline:
                happened = "ended" if self.pid is None else f"was not ready within {PATIENCE:g} s"
                tail = "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-30:])
                self.stop(kill=True)
                raise ServiceError(f"{what} {happened}. Its last lines, from {self.log}:\n{tail}")
            time.sleep(0.05)

    def stop(self, *, kill: bool = False) -> None:
        """End it, at first by asking, and return when it is gone."""
        deadline = time.monotonic() + PATIENCE / 4
        while (pid := self.pid) is not None:
            os.kill(pid, signal.SIGKILL if kill or time.monotonic() > deadline else self._ask)
            _wait_gone(self, 0.5)
        self._pid_file.unlink(missing_ok=True)


class Kept(Protocol):
    """A server with its data in one folder."""

    @property
    def folder(self) -> Path: ...

    @property
    def pid(self) -> int | None: ...

    def start(self) -> None: ...

    def stop(self, *, kill: bool = False) -> None: ...


S = TypeVar("S", bound=Kept)


class OneServer(Generic[S]):
    """A service that is one server."""

    def __init__(self, server: S) -> None:
        self.server = server

    def start(self) -> None:
        self.server.start()

    def stop(self, *, kill: bool = False) -> None:
        self.server.stop(kill=kill)

    def is_running(self) -> bool:
        return self.server.pid is not None

    def clear(self) -> None:
        shutil.rmtree(self.server.folder, ignore_errors=True)


def _wait_gone(child: Child, seconds: float) -> None:
    """Wait until a process has ended, at most so long."""
    deadline = time.monotonic() + seconds
    while (pid := child.pid) is not None and time.monotonic() < deadline:
        # It may be our own child, which stays as a zombie until it is waited for.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        time.sleep(0.02)


def end_orphans(pids: Collection[int]) -> None:
    """Kill those whose parent was killed, and return when they are gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid in pids:
        while _started(pid):
            time.sleep(0.02)


def _started(pid: int) -> str:
    """When a process began, as text that no later process of that number has; empty when there is none."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if state == "Z" else rest[18]
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return ""
    found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def free_port(preferred: int = 0) -> int:
    """A port of 127.0.0.1 that nobody has: the preferred one if possible."""
    for port in dict.fromkeys((preferred, 0)):
        with socket.socket() as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listening.bind(("127.0.0.1", port))
            except OSError:
                continue
            return listening.getsockname()[1]
    raise ServiceError("there is no free port on 127.0.0.1; stop something that listens there")


def lasting_port(preferred: int = 0) -> int:
    """A port of 127.0.0.1 that nobody has, and that no connection is given as its own: who leaves it for a while finds it free again."""
    candidate = preferred or 20_000 + secrets.randbelow(12_768)
    while free_port(candidate) != candidate:
        candidate = 20_000 + secrets.randbelow(12_768)
    return candidate


def kept_port(folder: Path, preferred: int = 0) -> int:
    """The port of the server whose data are in this folder, which it keeps until it is cleared."""
    file = folder / "port"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(str(lasting_port(preferred)))
    return int(file.read_text())


def require_debian(packages: Mapping[str, str]) -> None:
    """Have programs (as `program: package that brings it`) installed; as root at once, else by whoever is told how."""
    missing = sorted({package for program, package in packages.items() if shutil.which(program) is None})
    if not missing:
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ServiceError(f"{', '.join(missing)} is missing. On Debian or Ubuntu: sudo {' '.join(command)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # What is missing may only be unknown to an old list of packages.
    for attempt in (["apt-get", "update", "--quiet"], command):
        done = subprocess.run(attempt, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ServiceError(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-2000:]}")
