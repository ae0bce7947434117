"""How a service of the shop runs as a process: it stops on SIGTERM and never outlives the supervisor."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from millstream.demos.shop.web import Server

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Be killed when the supervisor goes away, however it goes."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The supervisor holds the other end of stdin: its end is the portable sign, and covers a death before prctl.
    threading.Thread(target=_exit_at_end_of_input, name="supervisor-watch", daemon=True).start()


def _exit_at_end_of_input() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


def run_service(serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run the service's coroutine until SIGTERM or SIGINT."""

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError):
                loop.add_signal_handler(number, stop.set)
        await serve(stop)

    die_with_parent()
    asyncio.run(main())


async def run_together(server: "Server", stop: asyncio.Event, *others: Awaitable[None]) -> None:
    """Serve until `stop`; when any part ends, the others end with it."""

    async def until_stopped() -> None:
        await stop.wait()
        server.should_exit = True

    async def until_server_ends() -> None:
        try:
            await server.serve(sockets=[server.socket])
        finally:
            stop.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(until_stopped())
        group.create_task(until_server_ends())
        for other in others:
            group.create_task(_stopping_at_end(other, stop))


async def _stopping_at_end(part: Awaitable[None], stop: asyncio.Event) -> None:
    try:
        await part
    finally:
        stop.set()
