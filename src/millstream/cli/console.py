"""`millstream console`."""

import asyncio
import importlib
import json
import os
import signal
import sys
import webbrowser
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from millstream.app.settings import masked, resolve
from millstream.cli.flags import flag
from millstream.cli.place import WHERE, Place, there
from millstream.contracts.errors import ConfigurationError


def console(
    *,
    host: Annotated[str, Parameter(help="Where it listens; anything but this machine needs tokens.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Its port; 0 takes a free one.")] = 7788,
    allow_host: Annotated[
        tuple[str, ...], Parameter(help="A name by which browsers reach it from elsewhere, as in their address line.", negative="")
    ] = (),
    any_port: Annotated[bool, flag("Take a free port when that one is taken.")] = False,
    while_fed: Annotated[bool, flag("End when standard input is closed: for programs that start it.")] = False,
    read_only: Annotated[bool, flag("Look, and change nothing.")] = False,
    data: Annotated[Path | None, Parameter(help="The file of its read model; it can be deleted at any time.")] = None,
    name: Annotated[str, Parameter(help="What the system is called in its title.")] = "",
    lab: Annotated[Path | None, Parameter(help="The socket of a demo that takes faults.", show=False)] = None,
    open: Annotated[bool, flag("Show it in the browser.")] = False,
    broker: Annotated[str | None, Parameter(group=WHERE, help="URL of the broker, such as sqlite:///shop.db.")] = None,
    app: Annotated[str | None, Parameter(group=WHERE, help="MODULE:APP whose broker is meant.")] = None,
    output: Annotated[Literal["text", "json"], Parameter(name=["--output", "-o"], help="Text for people, or JSON.")] = "text",
) -> int:
    """Show a running system in the browser, and repair it there.

    It reads what services tell of themselves (the setting `facts`), keeps a read
    model in a file of its own, and can be stopped, deleted and started anew
    without harm.

    For example:
      millstream console --broker sqlite:///shop.db
      millstream console --read-only --open
    """
    settings = resolve(flag={"broker": broker}) if app is None else Place(broker=broker, app=app).settings()[0]
    if settings.broker.startswith("memory:"):
        there(settings.broker, "broker", settings)
    # Found by name, because the console stands beside the CLI: neither knows the other.
    server = importlib.import_module("millstream.console.server")
    running = server.Console(
        broker=settings.broker,
        store=importlib.import_module("millstream.console.model_file").url_of_model(settings.broker, data),
        host=host,
        port=port,
        any_port=any_port,
        hosts=allow_host,
        tokens=_tokens(os.environ.get("MILLSTREAM_CONSOLE_TOKENS", "")),
        read_only=read_only,
        name=name or masked(settings.broker),
        control_key=settings.control_key,
        lab=lab,
    )
    if output == "json":
        print(json.dumps({"schema": "millstream.v1.console", "console": running.url, "port": running.port, "pid": os.getpid()}), flush=True)
    else:
        print(f"Console  {running.url}\n         The address works once; the browser then stays signed in.", flush=True)
    if open:
        webbrowser.open(running.url)
    asyncio.run(_serve(running.serve, while_fed=while_fed))
    return 0


async def _serve(serve: Callable[[asyncio.Event], Awaitable[None]], *, while_fed: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    if while_fed:
        # Whoever started it may be killed: then its end of the pipe is closed, and nobody needs this any more.
        loop.add_reader(sys.stdin.fileno(), lambda: None if sys.stdin.buffer.read1(1) else stop.set())  # type: ignore[union-attr]
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await serve(stop)


def _tokens(text: str) -> dict[str, str]:
    """Tokens and roles, as `token=role,token=role`."""
    tokens: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        token, equals, role = pair.rpartition("=")
        if not equals or role not in ("viewer", "operator", "admin") or len(token) < 16:
            raise ConfigurationError(
                "MILLSTREAM_CONSOLE_TOKENS is wrong: write token=role, comma-separated; a role is viewer, operator or admin, "
                "and a token has at least 16 characters"
            )
        tokens[token] = role
    return tokens
