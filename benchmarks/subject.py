"""What is measured, and how it is told."""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

#: What one run of a subject found, by name: "rate" is events a second, "cpu" microseconds of processor time per event.
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Run:
    """What a subject is given: a folder of its own on disk, and how much of the usual work to do."""

    folder: Path
    scale: float = 1.0

    def count(self, usual: int) -> int:
        """So many events, scaled, in whole hundreds."""
        return max(100, round(usual * self.scale / 100) * 100)


Subject = Callable[[Run], Coroutine[Any, Any, Figures]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: a figure of a subject, its target, and the limit it is measured beside."""

    title: str
    subject: Subject
    figure: str
    unit: str
    target: float | None = None
    """None where a figure is only told."""
    better: Literal["more", "less"] = "less"
    beside: Subject | None = None
    """The bare limit, run in turn with the subject."""
    compared: Literal["ratio", "difference", "only told"] = "only told"
    """Whether the target is for the figure itself, or for what it is against the limit's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Subjects that are run in turn, a fresh process each, `rounds` times."""

    title: str
    rows: Sequence[Row]
    rounds: int = 3
    needs: str = ""
    """The variable that says where its server is; without it the family is left out."""

    def subjects(self) -> list[Subject]:
        """Each subject once, the limits beside those that they are limits of."""
        return list(dict.fromkeys(s for row in self.rows for s in (row.beside, row.subject) if s is not None))
