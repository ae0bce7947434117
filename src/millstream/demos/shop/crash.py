"""Named places where a service dies as if by `kill -9`, so that kills hit the dangerous moments often enough."""

import os
import random
import signal
from collections.abc import Sequence
from pathlib import Path

from millstream.core.broker import Delivery
from millstream.core.observe import Outcomes
from millstream.demos.shop.options import Settings

INSIDE_UNIT_OF_WORK = "inside-unit-of-work"
BETWEEN_COMMIT_AND_PUBLISH = "between-commit-and-publish"
AFTER_SMTP_BEFORE_RECORD = "after-smtp-before-record"
DELIVERIES_IN_HAND = "deliveries-in-hand"
AFTER_HANDLE_BEFORE_ACK = "after-handle-before-ack"

#: How likely a service dies each time it passes.
PROBABILITIES = {
    INSIDE_UNIT_OF_WORK: 0.004,
    BETWEEN_COMMIT_AND_PUBLISH: 0.01,
    AFTER_SMTP_BEFORE_RECORD: 0.004,
    DELIVERIES_IN_HAND: 0.002,
    AFTER_HANDLE_BEFORE_ACK: 0.004,
}


class CrashPoints:
    """Dies at a named point with that point's probability."""

    def __init__(self, probabilities: dict[str, float], seed: str, calm_sign: Path) -> None:
        self._probabilities = probabilities
        self._calm_sign = calm_sign
        self._random = random.Random(seed)

    def reach(self, point: str) -> None:
        """Perhaps never return."""
        probability = self._probabilities.get(point, 0.0)
        if probability and self._random.random() < probability and not self._calm_sign.exists():
            os.kill(os.getpid(), signal.SIGKILL)

    def started(self, group: str, deliveries: Sequence[Delivery]) -> None:
        """As an observer of the app: deliveries are in hand, and no handler has run."""
        self.reach(DELIVERIES_IN_HAND)

    def settled(self, outcomes: Outcomes) -> None:
        """As an observer of the app: all is committed, and the broker may or may not have noted it."""
        self.reach(AFTER_HANDLE_BEFORE_ACK)


def crash_points(settings: Settings, service: str) -> CrashPoints:
    """The points of one service process; each restart continues with other chances."""
    return CrashPoints(settings.crash, f"{settings.seed}/{service}/{os.getpid()}", _calm_sign(settings))


def calm(settings: Settings, is_calm: bool) -> None:  # noqa: FBT001
    """Tell every process that no crash point may fire any more, or again."""
    sign = _calm_sign(settings)
    sign.parent.mkdir(parents=True, exist_ok=True)
    if is_calm:
        sign.touch()
    else:
        sign.unlink(missing_ok=True)


def _calm_sign(settings: Settings) -> Path:
    return settings.folder / "run" / "calm"
