"""What the server says of a stream, and of where a group stands in it."""

from dataclasses import dataclass
from typing import Any

from millstream.brokers.redis_names import PLAIN, position_near


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """A stream at one moment, and where a group stood."""

    stream: str
    """What tells it from one that had its name before."""
    first: int
    """The first position that is still there; the head, when nothing is."""
    head: int
    length: int
    erased: int
    """The last position that somebody erased by itself; 0 where none was."""
    removed: int
    """The last that retention has taken."""
    place: int | None
    """The group's next position; None when it stands nowhere."""
    read: int
    """How many entries lie before it; -1 where nobody knows."""
    lag: int
    oldest: int | None
    """When, in microseconds, the next entry of the group was stored."""

    def lacks(self, position: int) -> bool:
        """Whether something is gone that was to be read from a position on."""
        if position <= self.removed:
            return True
        return position < self.first and self.first < PLAIN and self.erased < position


def stand_of(answer: list[Any]) -> Stand | None:
    """One stream of what `SURVEY` answers; None when there is none."""
    if not answer:
        return None
    last, first, length, erased, removed, stream, place, read, lag, oldest = answer
    head = position_near(last) + 1
    return Stand(
        stream=stream.decode(),
        first=position_near(first) if first else head,
        head=head,
        length=length,
        erased=position_near(erased),
        removed=position_near(removed) if removed else 0,
        place=position_near(place) + 1 if place else None,
        read=read,
        lag=lag,
        oldest=int(oldest) * 1000 if oldest else None,
    )
