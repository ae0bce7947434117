"""Time and processor time of a stretch of code."""

import time
from types import TracebackType
from typing import Self

from benchmarks.subject import Figures


class Stopwatch:
    """`with Stopwatch() as watch: ...`, then `watch.figures(events)`."""

    seconds = 0.0
    cpu = 0.0

    def __enter__(self) -> Self:
        self._started, self._used = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.seconds = time.perf_counter() - self._started
        self.cpu = time.process_time() - self._used

    def figures(self, events: int) -> Figures:
        """Events a second, and microseconds of all threads' processor time per event."""
        return {"rate": events / self.seconds, "cpu": self.cpu / events * 1e6}


def percentile(values: list[float], share: float) -> float:
    """The value that so great a share does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
