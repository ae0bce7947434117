"""The one seam through which everything that happens to deliveries is seen."""

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from millstream.contracts.envelope import Envelope
from millstream.core.broker import Partition

Kind = Literal["handled", "retry", "parked", "queued", "duplicate", "skipped"]


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What became of one delivery, after the commit that made it so.

    `waited` is from the event's time to the start of this attempt, `worked` the
    handler's own time, both in seconds.
    """

    kind: Kind
    group: str
    partition: Partition
    position: int
    envelope: Envelope | None
    attempt: int = 1
    waited: float = 0.0
    worked: float = 0.0
    published: tuple[Envelope, ...] = ()
    error: str = ""


#: Called once per batch, never per event; it must not raise and must not wait.
Observer = Callable[[Sequence[Outcome]], None]
