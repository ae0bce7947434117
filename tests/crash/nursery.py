"""Processes to be killed, by the hundred: forked from one that has imported everything and opened nothing.

A nursery is a process of its own, with one thread and no file of Millstream open, so
that a fork of it is as good as a fresh interpreter, and costs milliseconds.
"""

import contextlib
import ctypes
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]
MODULES = ("millstream.brokers.sqlite", "millstream.stores.sqlite", "tests.crash.services", "tests.crash.points")
PR_SET_PDEATHSIG = 1
LOST = 97
"""How a child ends that was still running when its time was over."""


class Nursery:
    """Runs functions in forked children, one at a time."""

    def __enter__(self) -> Self:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.nursery"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def run(self, target: str, *args: Any, log: Path, seconds: float = 30.0) -> int:
        """Call `module:function` in a child and wait for its end: its exit code, or minus the signal that killed it."""
        self.start(target, *args, log=log, seconds=seconds)
        return self.wait()

    def start(self, target: str, *args: Any, log: Path, seconds: float = 30.0) -> int:
        """The same without waiting; gives the child's process id."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([target, args, str(log), seconds], default=str) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def wait(self) -> int:
        """Wait for the end of the child that was started."""
        return self._answer()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the nursery died; its error is above")
        return int(line)


def serve() -> None:
    """Fork a child for each line of the standard input, and tell its number and how it ended."""
    for module in MODULES:
        importlib.import_module(module)
    for line in sys.stdin:
        target, args, log, seconds = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _child(target, args, log)
        print(pid, flush=True)
        print(_end_of(pid, seconds), flush=True)


def _end_of(pid: int, seconds: float) -> int:
    descriptor = os.pidfd_open(pid)
    try:
        # The standard input speaks up while a child runs only when it ends: whoever asked is gone.
        in_time = descriptor in select.select([descriptor, 0], [], [], seconds)[0]
        if not in_time:
            os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return code if in_time else LOST
    finally:
        os.close(descriptor)


def _child(target: str, args: list[Any], log: str) -> None:
    code = 1
    try:
        # Nobody is left behind when the nursery is killed.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        with contextlib.suppress(OSError):
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            for number in (1, 2):
                os.dup2(output, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        module, _, function = target.partition(":")
        getattr(importlib.import_module(module), function)(*args)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
