"""What a command shows: data on stdout, everything else on stderr; text for people, JSON for programs."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from cyclopts import Group, Parameter

from millstream.cli.flags import flag
from millstream.cli.wording import plain, safe_json, shortened

if TYPE_CHECKING:
    from rich.console import Console

#: Every JSON document says its shape; a change that would break readers gets a new number.
VERSION = "millstream.v1"
LOOK = Group("Output", sort_key=90)
NARROWEST = 20
SHORT_ID = 12
GAP = 2
UNLIMITED = 100_000

Style = Literal["", "bold", "dim", "green", "yellow", "red", "cyan"]

_encode = msgspec.json.Encoder(decimal_format="number").encode


@dataclass(frozen=True, slots=True)
class Cell:
    """A text of a table, and how it looks."""

    text: str
    style: Style = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    In a narrow terminal columns are cut, but not below `least`; ids are cut in their
    middle. When that is not enough, the columns of the highest `drop` go first.
    """

    name: str
    right: bool = False
    drop: int = 0
    id: bool = False
    least: int | None = None

    def narrowest(self, width: int) -> int:
        """To how much it may be cut from a width."""
        least = self.least or (SHORT_ID if self.id else width)
        return min(width, max(least, len(self.name)))


@Parameter(name="*")
@dataclass(frozen=True)
class Look:
    """How a command's result is shown."""

    output: Annotated[
        Literal["text", "json"], Parameter(name=["--output", "-o"], group=LOOK, help="Text for people, or JSON of a fixed shape.")
    ] = "text"
    color: Annotated[
        Literal["auto", "always", "never"], Parameter(group=LOOK, help="Colours; NO_COLOR and FORCE_COLOR count for auto.")
    ] = "auto"
    wide: Annotated[bool, flag("Cut nothing to the terminal's width."), Parameter(group=LOOK)] = False
    debug: Annotated[bool, flag("Show where an error came from."), Parameter(group=LOOK)] = False

    @property
    def json(self) -> bool:
        """Whether programs read it."""
        return self.output == "json"


PLAIN = Look()


class Screen:
    """Writes a command's result as its `Look` says."""

    def __init__(self, look: Look) -> None:
        self.look = look
        self.json = look.json
        self._consoles: dict[bool, Console] = {}

    def document(self, kind: str, **fields: Any) -> None:
        """One JSON document, on one line."""
        text = _encode({"schema": f"{VERSION}.{kind}", **fields}).decode()
        print(safe_json(text), flush=True)

    def say(self, text: str, style: Style = "", *, cut: bool = False) -> None:
        """One line of data for people; control characters in it are written out."""
        self.row([Cell(text, style)], cut=cut)

    def row(self, cells: Sequence[Cell], *, cut: bool = False) -> None:
        """One line of differently styled parts."""
        self._print(cells, error=False, cut=cut)

    def hint(self, text: str) -> None:
        """What to do next, beside the data."""
        self._print([Cell(text, "dim")], error=True, cut=False)

    def warn(self, text: str) -> None:
        """Something the user should know, beside the data."""
        self._print([Cell("warning: ", "yellow"), Cell(text)], error=True, cut=False)

    def fail(self, text: str) -> None:
        """Why the command failed."""
        lines = text.splitlines() or [""]
        self._print([Cell("error: ", "red"), Cell(lines[0])], error=True, cut=False)
        for line in lines[1:]:
            self._print([Cell(line)], error=True, cut=False)

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell | str]]) -> None:
        """Rows below a head; in a narrow terminal columns are dropped or cut, lines are never broken."""
        cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
        texts = [[plain(cell.text) for cell in row] for row in cells]
        widths = _fit(columns, texts, self.width)
        head = [Cell(_filled(c, c.name, widths[i]), "dim") for i, c in enumerate(columns) if widths[i]]
        self.row(_spaced(head))
        for row, text in zip(cells, texts, strict=True):
            shown = [Cell(_filled(c, text[i], widths[i]), row[i].style) for i, c in enumerate(columns) if widths[i]]
            self.row(_spaced(shown))

    @property
    def width(self) -> int:
        """How many characters fit in a line; without a terminal nothing is cut."""
        if self.look.wide:
            return UNLIMITED
        if (columns := os.environ.get("COLUMNS", "")).isdigit():
            return max(NARROWEST, int(columns))
        return self._console(error=False).width if sys.stdout.isatty() else UNLIMITED

    def mark(self, pretty: str, simple: str) -> str:
        """A sign, or a simpler one where the terminal cannot show it."""
        try:
            pretty.encode(sys.stdout.encoding or "ascii")
        except (UnicodeEncodeError, LookupError):
            return simple
        return pretty

    def _print(self, cells: Sequence[Cell], *, error: bool, cut: bool) -> None:
        from rich.text import Text

        # What is not data may be broken between words; data never is.
        wrap = error and sys.stderr.isatty()
        text = Text(no_wrap=not wrap, overflow="fold" if wrap else "ignore")
        for cell in cells:
            text.append(plain(cell.text), style=cell.style or None)
        if cut and len(text) > self.width:
            text.truncate(self.width, overflow="ellipsis")
        text.rstrip()
        self._console(error=error).print(text, soft_wrap=not wrap, markup=False, highlight=False, emoji=False)

    def _console(self, *, error: bool) -> "Console":
        # Imported late: JSON needs none of it, and it is slow to load.
        from rich.console import Console

        class Honest(Console):
            def on_broken_pipe(self) -> None:
                # Rich would end the program as failed; a reader that has seen enough is none.
                raise BrokenPipeError

        if error not in self._consoles:
            color = self.look.color
            self._consoles[error] = Honest(
                stderr=error,
                force_terminal={"always": True, "never": None, "auto": None}[color],
                no_color=color == "never" or None,
                color_system="standard" if color == "always" else "auto",
                legacy_windows=False,
            )
        return self._consoles[error]


def _fit(columns: Sequence[Column], texts: Sequence[Sequence[str]], width: int) -> list[int]:
    """The width of each column; 0 for those that are dropped."""
    from rich.cells import cell_len

    widths = [min(width, max([len(c.name), *(cell_len(row[i]) for row in texts)])) for i, c in enumerate(columns)]
    narrowest = [column.narrowest(w) for column, w in zip(columns, widths, strict=True)]
    for index in sorted(range(len(columns)), key=lambda i: -columns[i].drop):
        if columns[index].drop and _line(narrowest) > width:
            widths[index] = narrowest[index] = 0
    while _line(widths) > width:
        # Where it may be cut; and when nothing may, the widest has to.
        able = [i for i, w in enumerate(widths) if w > narrowest[i]] or [i for i, w in enumerate(widths) if w > 1]
        if not able:
            break
        widths[max(able, key=lambda i: widths[i])] -= 1
    return widths


def _line(widths: Sequence[int]) -> int:
    """How long a line of such columns is."""
    shown = [width for width in widths if width]
    return sum(shown) + GAP * (len(shown) - 1)


def _filled(column: Column, text: str, width: int) -> str:
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) > width:
        text = shortened(text, width) if column.id and text.isascii() else set_cell_size(text, width - 1).rstrip() + "…"
    return " " * (width - cell_len(text)) + text if column.right else set_cell_size(text, width)


def _spaced(cells: Sequence[Cell]) -> list[Cell]:
    spaced: list[Cell] = []
    for cell in cells:
        spaced += [Cell(" " * GAP), cell] if spaced else [cell]
    return spaced
