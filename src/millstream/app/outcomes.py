"""The outcomes of one commit, and how observers are told of them."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from millstream.app.work import Work
from millstream.core.broker import Delivery
from millstream.core.observe import Kind, Observer, Outcome, Outcomes
from millstream.core.sampling import is_chosen, last_characters

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

    __slots__ = ("_offset", "_plain", "_works", "group")

    def __init__(self, group: str, works: Sequence[Work], offset: float) -> None:
        self.group = group
        self._works = works
        self._offset = offset
        self._plain: bool | None = None
        """Whether all of them were handled, once somebody has asked."""

    def __len__(self) -> int:
        return len(self._works)

    def __iter__(self) -> Iterator[Outcome]:
        return map(self._outcome, self._works)

    def counts(self) -> Mapping[tuple[str, Kind], int]:
        """How many there are of each handler and kind."""
        works = self._works
        if works and self._all_handled():
            # Nearly always, and of one handler: then nothing is counted one by one.
            handler = works[0].handler
            if handler is not None and [work.handler for work in works].count(handler) == len(works):
                return {(handler.name, "handled"): len(works)}
        return Counter((work.handler.name if work.handler is not None else "", work.kind or "skipped") for work in self._works)

    def pick(self, one_in: int) -> Sequence[Outcome]:
        """All that failed, waits or has waited, and of the handled ones one correlation in so many."""
        works = self._works
        if one_in == 1:
            return [self._outcome(work) for work in works if work.kind is not None and work.kind != "skipped"]
        ends = last_characters(one_in)
        if self._all_handled():
            # Nearly always; and then nothing but this look is taken at the many.
            return [
                self._outcome(w)
                for w in works
                if w.parked or ((e := w.envelope) and (c := e.correlation or e.id)[-1:] in ends and is_chosen(c, one_in))
            ]
        return [self._outcome(work) for work in works if _is_wanted(work, one_in)]

    def _all_handled(self) -> bool:
        if self._plain is None:
            self._plain = [work.kind for work in self._works].count("handled") == len(self._works)
        return self._plain

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
            work.parked,
        )


def _is_wanted(work: Work, one_in: int) -> bool:
    if work.kind in (None, "skipped"):
        return False
    if work.kind not in ("handled", "duplicate") or work.parked is not None or work.envelope is None:
        return True
    return is_chosen(work.envelope.correlation or work.envelope.id, one_in)
