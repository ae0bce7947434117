"""The outcomes of one commit, and how observers are told of them."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from millstream.app.work import Work
from millstream.contracts.envelope import Envelope
from millstream.core.broker import Delivery
from millstream.core.observe import Kind, Observer, Outcome, Outcomes

log = logging.getLogger("millstream.worker")


class Observers:
    """All who want to know; one that raises does not hurt the others, nor the worker."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def __bool__(self) -> bool:
        return bool(self._observers)

    def started(self, group: str, deliveries: Sequence[Delivery]) -> None:
        """These have been taken up."""
        for observer in self._observers:
            try:
                observer.started(group, deliveries)
            except Exception:
                log.exception("the observer %r failed", observer)

    def settled(self, outcomes: Outcomes) -> None:
        """These have been committed."""
        for observer in self._observers:
            try:
                observer.settled(outcomes)
            except Exception:
                log.exception("the observer %r failed", observer)


class WorkOutcomes:
    """Made of what the worker keeps anyway, so that a batch nobody looks into costs nothing.

    `offset` turns the worker's monotonic times into seconds since 1970.
    """

    __slots__ = ("_offset", "_works", "group")

    def __init__(self, group: str, works: Sequence[Work], offset: float) -> None:
        self.group = group
        self._works = works
        self._offset = offset

    def __len__(self) -> int:
        return len(self._works)

    def __iter__(self) -> Iterator[Outcome]:
        return map(self._outcome, self._works)

    def counts(self) -> Mapping[tuple[str, Kind], int]:
        """How many there are of each handler and kind."""
        return Counter((work.handler.name if work.handler is not None else "", work.kind or "skipped") for work in self._works)

    def pick(self, wanted: Callable[[Kind, Envelope | None], bool]) -> Iterator[Outcome]:
        """Only those wanted."""
        return (self._outcome(work) for work in self._works if wanted(work.kind or "skipped", work.envelope))

    def _outcome(self, work: Work) -> Outcome:
        envelope, started = work.envelope, work.started
        return Outcome(
            work.kind or "skipped",
            self.group,
            work.handler.name if work.handler is not None else "",
            work.owned.partition,
            work.delivery.position,
            envelope,
            work.attempt,
            max(0.0, started + self._offset - envelope.time / 1e6) if started and envelope is not None else 0.0,
            work.worked,
            tuple(work.published),
            work.error,
            work.park,
        )
