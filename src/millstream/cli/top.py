"""`millstream top`."""

import asyncio
import contextlib
import os
import sys
import termios
import time
import tty
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from millstream.cli.screen import PLAIN, Cell, Look, Screen
from millstream.cli.sight import HERE, Sight, looking
from millstream.cli.status import COLUMNS, row
from millstream.cli.wording import number, plain, span
from millstream.contracts.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.text import Text

#: Lines that are no groups.
AROUND = 6


async def top(
    *,
    every: Annotated[float, Parameter(help="Look again after so many seconds.")] = 1.0,
    sight: Sight = HERE,
    look: Look = PLAIN,
) -> None:
    """Watch all groups on the full screen, the worst first: rates, lag, failures.

    `q` or Ctrl-C ends it; a space stops it and lets it go on.

    For example:
      millstream top
      millstream top --broker sqlite:///shop.db --every 5
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or look.json:
        raise ConfigurationError("this needs a terminal, on which it draws. Elsewhere use: millstream status --output json")
    # Imported late: only here it is needed, and it is slow to load.
    from rich.console import Console
    from rich.live import Live

    keys = Keys()
    async with looking(sight) as glance:
        with keys.pressed(), Live(console=Console(), screen=True, auto_refresh=False) as live:
            while not keys.ended:
                if not keys.stopped:
                    await glance.look()
                    found = await glance.answers.overview()
                    live.update(drawn(found, look, live.console.width, live.console.height), refresh=True)
                await keys.wait(max(0.1, every))


def drawn(found: dict[str, Any], look: Look, width: int, height: int) -> "Text":
    """One screenful."""
    from rich.text import Text

    canvas = Canvas(look, width)
    canvas.row([Cell(f"millstream  {time.strftime('%H:%M:%S')}", "dim"), Cell(f"  {found['sentence']}", "bold")], cut=True)
    rates = f"published {found['published_per_second']:.1f}/s   handled {found['handled_per_second']:.1f}/s"
    sampled = f"   told of one in {found['one_in']}" if found["one_in"] > 1 else ""
    oldest = f"   oldest {span(found['oldest'])}" if found["oldest"] else ""
    canvas.say(f"{rates}   p95 {span(found['p95_latency'])}{oldest}   dead {number(found['dead'])}{sampled}", cut=True)
    canvas.say("")
    groups = found["groups"]
    room = max(1, height - AROUND)
    canvas.table(COLUMNS, [row(canvas, group) for group in groups[:room]])
    if len(groups) > room:
        canvas.say(f"and {len(groups) - room} more, which are better", "dim")
    if found["trouble"]:
        canvas.say(found["trouble"], "red", cut=True)
    canvas.lines += [Text("")] * max(0, height - 1 - len(canvas.lines))
    canvas.say("q quit   space stop", "dim")
    return Text("\n").join(canvas.lines[:height])


class Canvas(Screen):
    """Keeps its lines, instead of writing them."""

    def __init__(self, look: Look, width: int) -> None:
        super().__init__(look)
        self.lines: list[Text] = []
        self._width = width

    @property
    def width(self) -> int:
        """The terminal's."""
        return self._width

    def row(self, cells: Sequence[Cell], *, cut: bool = False) -> None:
        """One more line, never longer than the screen."""
        from rich.text import Text

        text = Text(no_wrap=True, overflow="ellipsis", end="")
        for cell in cells:
            text.append(plain(cell.text), style=cell.style or None)
        text.truncate(self._width, overflow="ellipsis")
        self.lines.append(text)


class Keys:
    """What is pressed meanwhile."""

    def __init__(self) -> None:
        self.ended = self.stopped = False
        self._wake = asyncio.Event()

    @contextmanager
    def pressed(self) -> Generator[None]:
        """Listen to single keys; the terminal is as it was afterwards."""
        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
        loop = asyncio.get_running_loop()
        tty.setcbreak(descriptor)
        loop.add_reader(descriptor, self._read)
        try:
            yield
        finally:
            loop.remove_reader(descriptor)
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)

    def _read(self) -> None:
        key = os.read(sys.stdin.fileno(), 16)
        if not key or key[:1] in (b"q", b"Q"):
            self.ended = True
        elif key[:1] == b" ":
            self.stopped = not self.stopped
        self._wake.set()

    async def wait(self, seconds: float) -> None:
        """Wait for a key, at most so long."""
        self._wake.clear()
        if not self.ended:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._wake.wait()
