"""The one seam through which everything that happens to deliveries is seen."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from millstream.contracts.envelope import Envelope
from millstream.core.broker import Delivery, Partition
from millstream.core.store import Parked

Kind = Literal["handled", "retry", "parked", "queued", "duplicate", "skipped", "discarded"]


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What became of one delivery, after the commit that made it so.

    `waited` is from the event's time to the start of this attempt, `worked` the
    handler's own time, both in seconds. `error` says why, for `retry` and `parked`.
    """

    kind: Kind
    group: str
    handler: str
    partition: Partition
    position: int
    envelope: Envelope | None
    attempt: int = 1
    waited: float = 0.0
    worked: float = 0.0
    published: tuple[Envelope, ...] = ()
    error: str = ""
    parked: Parked | None = None
    """What is kept of it in the store, for `retry`, `parked` and `queued`."""
    waited_as: Parked | None = None
    """Where it was waiting in the store before this attempt."""


class Outcomes(Protocol):
    """The outcomes of one commit, of one group; each is made only when it is asked for."""

    group: str

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Outcome]: ...

    def counts(self) -> Mapping[tuple[str, Kind], int]:
        """How many there are of each handler's name (empty where none took it) and kind."""
        ...

    def pick(self, one_in: int) -> Sequence[Outcome]:
        """All that failed, waits or has waited, and of what was handled one correlation in so many; the rest costs next to nothing.

        `one_in` is a power of two. What was skipped is not among them.
        """
        ...


class Observer(Protocol):
    """Sees everything, a batch at a time; it must not raise and must not wait.

    Each delivery that is taken up is in one call of `started`, and in one call of
    `settled` for every attempt that was committed.
    """

    def started(self, group: str, deliveries: Sequence[Delivery]) -> None: ...

    def settled(self, outcomes: Outcomes) -> None: ...
