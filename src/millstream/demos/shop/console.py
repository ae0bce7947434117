"""The console that watches the shop: a process of its own, which the shop does not need."""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from millstream.demos.shop.options import Settings

PORT = 7788
#: How long its address is waited for, in seconds; without it the shop opens all the same.
PATIENCE = 10.0
PATIENCE_AT_STOP = 3.0


def lab_socket(settings: Settings) -> Path:
    """Where the console asks for faults and for the proof."""
    return settings.folder / "run" / "lab.sock"


class ConsoleProcess:
    """`millstream console` on the shop's broker."""

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        self._settings = settings
        self._environment = dict(environment)
        self._process: subprocess.Popen[str] | None = None
        self.url: str | None = None
        """Where it is, with a token that works once; None while it is not there."""

    @property
    def pid(self) -> int | None:
        """Its process."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it, on its usual port or a free one."""
        with (self._settings.folder / "run" / "console.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "millstream", "console", "--broker", self._settings.broker_url),
                    *("--port", str(PORT), "--any-port", "--name", "Mill shop", "--output", "json", "--while-fed"),
                    *("--lab", str(lab_socket(self._settings))),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
                cwd=self._settings.folder,
                start_new_session=True,
                text=True,
            )

    async def until_ready(self) -> None:
        """Wait until it has said where it is."""
        process = self._process
        if process is None or process.stdout is None:
            return
        with contextlib.suppress(TimeoutError, json.JSONDecodeError):
            async with asyncio.timeout(PATIENCE):
                line: Any = json.loads(await asyncio.to_thread(process.stdout.readline))
                self.url = str(line["console"])

    def stop(self) -> None:
        """End it, and wait until it has ended."""
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        process.terminate()
        try:
            process.wait(PATIENCE_AT_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
