"""What people see and press: lines, one line of figures that moves, and single keys."""

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Generator

CLEAR = "\r\x1b[2K"


class Terminal:
    """Standard output for people; without a terminal, or for machines, only lines."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self.moves = not quiet and sys.stdout.isatty()
        """Whether there is a line of figures."""
        self._status = ""

    def say(self, text: str) -> None:
        """Print lines for people; nothing where only JSON is wanted."""
        if not self._quiet:
            print(f"{CLEAR if self._status else ''}{text}", flush=True)
            self._draw()

    def status(self, text: str) -> None:
        """Replace the line of figures."""
        if self.moves:
            self._status = text[: shutil.get_terminal_size().columns - 1]
            self._draw()

    def end_status(self) -> None:
        """Leave no half line behind."""
        if self._status:
            print(CLEAR, end="", flush=True)
            self._status = ""

    def _draw(self) -> None:
        if self._status:
            print(f"{CLEAR}{self._status}", end="", flush=True)


@contextlib.contextmanager
def keys(pressed: Callable[[str], None], *, wanted: bool) -> Generator[bool]:
    """Hand over single key presses while inside, when there is a terminal; says whether there is."""
    if not wanted or not sys.stdin.isatty():
        yield False
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    loop = asyncio.get_running_loop()

    def read() -> None:
        for key in os.read(descriptor, 16).decode("ascii", "ignore"):
            pressed(key)

    tty.setcbreak(descriptor, termios.TCSADRAIN)
    loop.add_reader(descriptor, read)
    try:
        yield True
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
