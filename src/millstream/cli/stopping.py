"""When a command that goes on and on has to stop: a signal, or the end of whoever started it."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Generator

#: A descriptor that ends when the process that started this one is gone; set by who starts it, and only then.
LIFELINE = "MILLSTREAM_LIFELINE"


@contextlib.contextmanager
def stopping(stop: asyncio.Event) -> Generator[None]:
    """Set `stop` at SIGTERM, at Ctrl-C, when the terminal closes, and when the starter of this process is gone.

    A hang-up that is ignored already, as under `nohup`, stays ignored.
    """
    loop = asyncio.get_running_loop()
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, stop.set)
    descriptor = os.environ.get(LIFELINE, "")
    watched = int(descriptor) if descriptor.isdigit() else None

    def gone() -> None:
        loop.remove_reader(int(descriptor))
        stop.set()

    if watched is not None:
        loop.add_reader(watched, gone)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
        if watched is not None:
            loop.remove_reader(watched)


@contextlib.contextmanager
def lifeline() -> Generator[int]:
    """A descriptor for the processes that are started inside: it ends with this process, however that ends."""
    # The write end is never used; closing it, which the system does at the latest, is what is seen.
    read, held = os.pipe()
    try:
        yield read
    finally:
        os.close(read)
        os.close(held)
