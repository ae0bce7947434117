"""The outcomes of one commit, and how observers are told of them."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from millstream.app.work import Work
from millstream.core.broker import Delivery
from millstream.core.observe import Kind, Observer, Outcome, Outcomes
from millstream.core.sampling import is_chosen, last_characters

log = logging.getLogger("millstream.worker")

#: Who tells of one correlation in so many, or of fewer, is asked about few: they are found when deliveries come.
MANY = 64
_LAST, _BUT_ONE = last_characters(MANY), last_characters(MANY // 16)


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


def sample(works: Sequence[Work]) -> None:
    """Mark what may be told of where one in `MANY` is: while they are new, and the processor has them at hand."""
    few = [w for w in works if (e := w.envelope) is not None and (e.correlation or e.id or " ")[-1] in _LAST]
    for work in [w for w in few if (e := w.envelope) is not None and (e.correlation or e.id)[-2:-1] in _BUT_ONE]:
        work.sampled = True


class WorkOutcomes:
    """Made of what the worker keeps anyway, so that a batch nobody looks into costs next to nothing.

    `offset` turns the worker's monotonic times into seconds since 1970.
    """

    __slots__ = ("_handler", "_offset", "_some", "_works", "group")

    def __init__(self, group: str, works: Sequence[Work], offset: float) -> None:
        self.group = group
        self._works = works
        self._offset = offset
        # The one look at all of them, on the hot path of every worker.
        self._some = [work for work in works if work.kind != "handled" or work.sampled or work.parked is not None]
        """All that did not go smoothly, and of the others those that may be told of where one in `MANY` is."""
        first = works[0].handler if works else None
        self._handler = first if first is not None and [w.handler for w in works].count(first) == len(works) else None
        """Who has taken all of them, if it was one."""

    def __len__(self) -> int:
        return len(self._works)

    def __iter__(self) -> Iterator[Outcome]:
        return map(self._outcome, self._works)

    def counts(self) -> Mapping[tuple[str, Kind], int]:
        """How many there are of each handler and kind."""
        if self._handler is not None and all([work.kind == "handled" for work in self._some]):
            # Nearly always: then nothing is counted one by one.
            return {(self._handler.name, "handled"): len(self._works)}
        return Counter((work.handler.name if work.handler is not None else "", work.kind or "skipped") for work in self._works)

    def pick(self, one_in: int) -> Sequence[Outcome]:
        """All that failed, waits or has waited, and of the handled ones one correlation in so many."""
        works = self._some if one_in >= MANY else self._works
        return [self._outcome(work) for work in works if _is_wanted(work, one_in)]

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
