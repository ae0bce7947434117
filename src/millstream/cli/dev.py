"""`millstream dev`: runs a service, and starts it anew when its code changes."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from millstream.app.settings import resolve
from millstream.cli.flags import flag
from millstream.cli.place import WHERE
from millstream.cli.screen import PLAIN, Look, Screen
from millstream.cli.stopping import LIFELINE, lifeline, stopping
from millstream.contracts.errors import ConfigurationError

#: How long a stopping process gets before it is killed: nobody waits long for a reload.
PATIENCE = 5.0
#: Changes within so many milliseconds are one: editors and version control write several files.
DEBOUNCE = 200


async def dev(
    target: Annotated[str | None, Parameter(name="MODULE:APP", help="The App; the setting `app` when it is left out.")] = None,
    /,
    *,
    watch: Annotated[tuple[Path, ...], Parameter(help="A folder whose changes count; the current one by default.", negative="")] = (),
    http: Annotated[str | None, Parameter(help="Serve /livez, /readyz and /metrics at HOST:PORT.")] = None,
    no_console: Annotated[bool, flag("Start no console.")] = False,
    broker: Annotated[str | None, Parameter(group=WHERE, help="URL of the broker, such as sqlite:///shop.db.")] = None,
    store: Annotated[str | None, Parameter(group=WHERE, help="URL of the service's store.")] = None,
    look: Look = PLAIN,
) -> int:
    """Run a service, and start it anew whenever a Python file changes.

    What was in flight is delivered again, as after any restart. A console on the
    service's broker is started with it, and its address is printed. Needs the
    extra `dev`.

    For example:
      millstream dev inventory:app
      millstream dev inventory:app --watch src --http 127.0.0.1:9464
    """
    settings = resolve(flag={"app": target, "broker": broker, "store": store, "http": http})
    if settings.app is None:
        raise ConfigurationError("no App was named. Say which: millstream dev MODULE:APP, or set `app` in pyproject.toml.")
    try:
        from watchfiles import PythonFilter, awatch  # pyright: ignore[reportUnknownVariableType]
    except ImportError:
        raise ConfigurationError("this needs watchfiles, which is not installed. Install it: pip install 'millstream[dev]'") from None
    folders = watch or (Path.cwd(),)
    if missing := [str(folder) for folder in folders if not folder.exists()]:  # noqa: ASYNC240 - once, at the start
        raise ConfigurationError(f"--watch {missing[0]}: there is no such folder.")
    command = [sys.executable, "-m", "millstream", "run", settings.app, "--workers", "1"]
    for name, value in (("broker", broker), ("store", store), ("http", http), ("output", look.output), ("color", look.color)):
        command += [f"--{name}", value] if value is not None else []
    screen, stop = Screen(look), asyncio.Event()
    console = None if no_console else _Console(settings.app, broker, screen)
    changes: AsyncIterator[AbstractSet[tuple[Any, str]]] = awatch(*folders, watch_filter=PythonFilter(), debounce=DEBOUNCE, stop_event=stop)
    with stopping(stop), lifeline() as line:
        process = await _start(command, line)
        try:
            if console is not None:
                await console.start()
            screen.hint(f"watching {', '.join(map(str, folders))}")
            async for changed in changes:
                names = _names(path for _, path in changed)
                screen.hint(f"{', '.join(names[:3])}{' and more' if len(names) > 3 else ''} changed: starting anew")
                await _stop(process)
                process = await _start(command, line)
                if console is not None:
                    await console.start()
        finally:
            await _stop(process)
            if console is not None:
                await console.stop()
    return 0


class _Console:
    """A console on the broker of the service, which stays the same while the service starts anew."""

    def __init__(self, app: str, broker: str | None, screen: Screen) -> None:
        where = ("--app", app, *(("--broker", broker) if broker is not None else ()))
        self._command = (sys.executable, "-m", "millstream", "console", *where, "--any-port", "--while-fed", "--output", "json")
        self._app = app
        self._screen = screen
        self._process: asyncio.subprocess.Process | None = None
        self._telling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Have one, unless there is one: code with a mistake in it does not say where its broker is."""
        if self._process is not None and self._process.returncode is None:
            return
        pipe, nowhere = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        # It ends with its standard input, and so with this process, however that ends. What is wrong with the code the service says.
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=pipe, stdout=pipe, stderr=nowhere, start_new_session=True
        )
        self._telling = asyncio.create_task(self._tell(self._process))

    async def _tell(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        line = await process.stdout.readline()
        if line:
            self._screen.hint(f"console {json.loads(line)['console']} (this address works once)")
        else:
            self._screen.hint(f"no console: `millstream console --app {self._app}` says why")

    async def stop(self) -> None:
        """End it, if there is one."""
        if self._process is None or self._telling is None:
            return
        await _stop(self._process)
        await self._telling


def _names(paths: Iterable[str]) -> list[str]:
    return sorted({os.path.relpath(path) for path in paths})


async def _start(command: Sequence[str], line: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(*command, env={**os.environ, LIFELINE: str(line)}, pass_fds=(line,))


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), PATIENCE)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
