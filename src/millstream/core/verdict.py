"""Lag with a verdict: what a group's samples say of it, in a sentence; a decision, taken without waiting."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

State = Literal["unknown", "paused", "replaying", "stopped", "rewound", "stalled", "behind", "catching up", "idle", "caught up"]

#: Samples that make a window, and how many of them a verdict needs at least.
WINDOW = 10
LEAST = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Where a group stood in one partition at one moment."""

    at: float
    """Seconds since 1970."""
    position: int | None
    head: int | None
    owned: bool | None
    """Whether a live member had the partition; None where the broker cannot tell."""
    oldest: float | None = None
    """When the next event to handle was published, in seconds since 1970."""
    waiting: int | None = None
    """How many events are not done, where the broker counts them: a queue has no positions."""

    @property
    def lag(self) -> int | None:
        """Events to go; None while it is unknown."""
        if self.position is None or self.head is None:
            return self.waiting
        return max(0, self.head - self.position)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A state, the number of the rule that found it, and what it means in words."""

    state: State
    rule: int
    sentence: str

    @property
    def severity(self) -> int:
        """The worst comes first in lists: larger is worse."""
        return _SEVERITY[self.state]


_SEVERITY: dict[State, int] = {
    "stopped": 9,
    "stalled": 8,
    "rewound": 7,
    "behind": 6,
    "unknown": 5,
    "paused": 4,
    "replaying": 3,
    "catching up": 2,
    "idle": 0,
    "caught up": 0,
}


def judge(samples: Sequence[Sample], *, paused: bool = False, replaying: bool = False, blocked: str = "") -> Verdict:
    """Judge one partition by its samples, oldest first; the first rule that matches wins.

    `blocked` names what the group waits for, where that is known, for the sentence.
    """
    window = [sample for sample in samples if sample.lag is not None][-WINDOW:]
    if paused:
        return Verdict(state="paused", rule=1, sentence="Paused by an operator")
    if len(window) < LEAST:
        return Verdict(state="unknown", rule=0, sentence=f"Not enough data yet ({len(window)} of {LEAST})")
    lags = [sample.lag or 0 for sample in window]
    last = window[-1]
    span = last.at - window[0].at
    if replaying:
        return Verdict(state="replaying", rule=2, sentence=f"Replaying: {lags[-1]} to go")
    if lags[-1] and last.owned is False and window[-2].owned is False:
        return Verdict(state="stopped", rule=3, sentence=f"Nobody works on it; {_events(lags[-1])}")
    positions = [sample.position or 0 for sample in window]
    if positions[-1] < max(positions):
        return Verdict(state="rewound", rule=4, sentence=f"Its position went back by {max(positions) - positions[-1]}")
    # Whether a queue makes progress, its length alone does not say.
    if min(lags) > 0 and positions[-1] == positions[0] and last.position is not None:
        reason = f"Blocked: {blocked}" if blocked else f"No progress for {_seconds(span)}"
        return Verdict(state="stalled", rule=5, sentence=f"{reason}; {_events(lags[-1])}")
    if min(lags) > 0:
        slope = _slope(window)
        if slope < 0:
            return Verdict(state="catching up", rule=7, sentence=f"Caught up in about {_seconds(lags[-1] / -slope)}; {_events(lags[-1])}")
        pace = f"Falling behind by {slope:.1f} events/s" if slope else "Behind, and not catching up"
        return Verdict(state="behind", rule=6, sentence=f"{pace}; {_events(lags[-1])}")
    if not any(lags) and window[0].head == last.head is not None:
        return Verdict(state="idle", rule=8, sentence=f"Nothing new for {_seconds(span)}")
    return Verdict(state="caught up", rule=9, sentence="Caught up")


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """A group's verdict: that of its worst partition; idle only if all are."""
    if not verdicts:
        return Verdict(state="unknown", rule=0, sentence="It has no partitions")
    found = max(verdicts, key=lambda verdict: verdict.severity)
    if found.severity == 0:
        return next((verdict for verdict in verdicts if verdict.state == "caught up"), found)
    return found


def drained_in(samples: Sequence[Sample]) -> float | None:
    """Seconds until the lag is gone at the present rate; None if it does not shrink."""
    window = [sample for sample in samples if sample.lag is not None][-WINDOW:]
    if len(window) < LEAST or not window[-1].lag:
        return None
    slope = _slope(window)
    return window[-1].lag / -slope if slope < 0 else None


def _slope(window: Sequence[Sample]) -> float:
    """The median of all slopes between two samples: one outlier does not turn it (Theil-Sen)."""
    slopes = [
        ((later.lag or 0) - (earlier.lag or 0)) / (later.at - earlier.at)
        for index, earlier in enumerate(window)
        for later in window[index + 1 :]
        if later.at > earlier.at
    ]
    return median(slopes) if slopes else 0.0


def _events(count: int) -> str:
    return f"{count} event waits" if count == 1 else f"{count} events wait"


def _seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"
