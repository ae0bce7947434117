"""The watch: samples where every group stands, and says what to think of it."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from millstream.contracts.errors import MillstreamError
from millstream.core.broker import Broker, Partition, PartitionState
from millstream.core.clock import Clock
from millstream.core.facts import is_internal
from millstream.core.verdict import WINDOW, Sample, Verdict, drained_in, judge, worst

#: How often groups are sampled, in seconds.
EVERY = 1.0


class Watch:
    """The last samples of every partition of every group; what is unknown stays unknown."""

    def __init__(self, broker: Broker, clock: Clock) -> None:
        self._broker = broker
        self._clock = clock
        self._samples: dict[str, dict[Partition, deque[Sample]]] = {}
        self._states: dict[str, Sequence[PartitionState]] = {}
        self._sampled = asyncio.Event()
        self.trouble = ""
        """Why the broker cannot be asked at the moment."""

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            try:
                await self.sample()
                self.trouble = ""
            except MillstreamError as error:
                self.trouble = str(error)
            await self._clock.sleep(EVERY)

    async def sample(self) -> None:
        """Take one sample of everything."""
        now = self._clock.micros() / 1e6
        names: set[str] = set()
        for group in await self._broker.groups():
            if is_internal(group.name):
                continue
            names.add(group.name)
            states = self._states[group.name] = await self._broker.positions(group.name)
            by_partition = self._samples.setdefault(group.name, {})
            for state in states:
                samples = by_partition.setdefault(state.partition, deque(maxlen=WINDOW))
                samples.append(
                    Sample(
                        at=now,
                        position=state.committed.value,
                        head=state.head.value,
                        owned=state.owner is not None,
                        oldest=None if state.oldest.value is None else state.oldest.value / 1e6,
                    )
                )
        for gone in set(self._samples) - names:
            del self._samples[gone], self._states[gone]
        self._sampled.set()

    async def ready(self) -> None:
        """Wait for the first sample, but not for ever."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * EVERY):
                await self._sampled.wait()

    def names(self) -> list[str]:
        """The groups that there are."""
        return sorted(self._samples)

    def verdicts(self, group: str, *, paused: bool, blocked: str = "") -> dict[Partition, Verdict]:
        """What to think of each partition of a group."""
        return {
            partition: judge(tuple(samples), paused=paused, blocked=blocked) for partition, samples in self._samples.get(group, {}).items()
        }

    def verdict(self, group: str, *, paused: bool, blocked: str = "") -> Verdict:
        """What to think of a group: its worst partition's verdict."""
        return worst(list(self.verdicts(group, paused=paused, blocked=blocked).values()))

    def standing(self, group: str) -> dict[str, Any]:
        """Its lag in events and seconds, members, and when it will be gone; None where unknown."""
        states = self._states.get(group, ())
        known = [(state.head.value, state.committed.value) for state in states]
        lags = [head - committed for head, committed in known if head is not None and committed is not None]
        oldest = [state.oldest.value / 1e6 for state in states if state.oldest.value is not None]
        drains = [seconds for samples in self._samples.get(group, {}).values() if (seconds := drained_in(tuple(samples))) is not None]
        return {
            "lag": sum(max(0, lag) for lag in lags) if len(lags) == len(states) and states else None,
            "age": max(0.0, self._clock.micros() / 1e6 - min(oldest)) if oldest else None,
            "members": len({state.owner for state in states if state.owner is not None}),
            "drained_in": max(drains, default=None),
            "topics": sorted({state.partition.topic for state in states}),
        }

    def partitions(self, group: str, verdicts: Mapping[Partition, Verdict]) -> list[dict[str, Any]]:
        """Each partition with its figures, samples and verdict."""
        found: list[dict[str, Any]] = []
        for state in self._states.get(group, ()):
            verdict = verdicts.get(state.partition)
            samples = self._samples.get(group, {}).get(state.partition, ())
            found.append(
                {
                    "topic": state.partition.topic,
                    "partition": state.partition.number,
                    "position": _text(state.committed.value),
                    "head": _text(state.head.value),
                    "quality": state.head.quality,
                    "lag": samples[-1].lag if samples else None,
                    "oldest": None if state.oldest.value is None else state.oldest.value / 1e6,
                    "owner": state.owner,
                    "verdict": None if verdict is None else as_json(verdict),
                    "samples": [{"at": sample.at, "position": _text(sample.position), "lag": sample.lag} for sample in samples],
                }
            )
        return found


def as_json(verdict: Verdict) -> dict[str, Any]:
    """A verdict for a screen."""
    return {"state": verdict.state, "rule": verdict.rule, "sentence": verdict.sentence, "severity": verdict.severity}


def _text(value: int | None) -> str | None:
    """A position as text: a browser's numbers end at 2^53."""
    return None if value is None else str(value)
