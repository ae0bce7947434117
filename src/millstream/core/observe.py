"""The one seam through which everything that happens to deliveries is seen."""

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from millstream.contracts.envelope import Envelope
from millstream.core.broker import Delivery, Partition

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


class Observer(Protocol):
    """Sees everything, a batch at a time; it must not raise and must not wait.

    Each delivery that is taken up is in one call of `started`, and in one call of
    `settled` for every attempt that was committed.
    """

    def started(self, group: str, deliveries: Sequence[Delivery]) -> None: ...

    def settled(self, outcomes: Sequence[Outcome]) -> None: ...
