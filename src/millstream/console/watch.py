"""The watch: samples where every group stands, and says what to think of it."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from millstream.app.queries import lag_of
from millstream.contracts.errors import MillstreamError
from millstream.core.broker import Broker, Partition, PartitionState
from millstream.core.clock import Clock
from millstream.core.facts import is_internal
from millstream.core.verdict import WINDOW, Sample, Verdict, drained_in, judge, worst

#: How often groups are sampled, in seconds; less often where that would take more than a quarter of the time, but with no longer a pause.
EVERY, SELDOM = 1.0, 5.0
#: So many groups are asked about at a time: a server that is far away answers all of them while it would have answered one.
AT_ONCE = 16
#: A position that goes back within so many seconds of an operator's move has gone back because of it.
EXPLAINED = 120.0
#: So many seconds after an event what services tell of it, and what is counted of a queue, should have come.
SEEN = 5.0


class Watch:
    """The last samples of every partition of every group; what is unknown stays unknown."""

    def __init__(self, broker: Broker, clock: Clock) -> None:
        self._broker = broker
        self._clock = clock
        self._samples: dict[str, dict[Partition, deque[Sample]]] = {}
        self._states: dict[str, Sequence[PartitionState]] = {}
        self._ceilings: dict[str, dict[Partition, tuple[int, float]]] = {}
        """Where a group stood that has gone back since, and when that was seen; until it is there again."""
        self._judged: dict[tuple[str, bool, str, float | None], dict[Partition, Verdict]] = {}
        """What was thought of the newest samples."""
        self._sampled = asyncio.Event()
        self._unknown = ""
        """Why the last group that could not be asked could not."""
        self.trouble = ""
        """Why the broker cannot be asked at the moment."""

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            began = self._clock.monotonic()
            try:
                await self.sample()
            except MillstreamError as error:
                self.trouble = str(error)
            await self._clock.sleep(max(EVERY, min(SELDOM, 3 * (self._clock.monotonic() - began))))

    async def sample(self) -> None:
        """Take one sample of everything."""
        self._unknown = ""
        groups = [group.name for group in await self._broker.groups() if not is_internal(group.name)]
        for first in range(0, len(groups), AT_ONCE):
            some = groups[first : first + AT_ONCE]
            now = self._clock.micros() / 1e6
            for name, states in zip(some, await asyncio.gather(*map(self._positions, some)), strict=True):
                if states is not None:
                    self._note(name, states, now)
        for gone in self._samples.keys() - groups:
            del self._samples[gone], self._states[gone]
            self._ceilings.pop(gone, None)
        self._judged.clear()
        self.trouble = self._unknown
        self._sampled.set()

    async def _positions(self, group: str) -> Sequence[PartitionState] | None:
        """One that cannot be asked does not keep the others from being seen."""
        try:
            return await self._broker.positions(group)
        except MillstreamError as error:
            self._unknown = str(error)
            return None

    def _note(self, group: str, states: Sequence[PartitionState], at: float) -> None:
        self._states[group] = states
        by_partition = self._samples.setdefault(group, {})
        for state in states:
            self._note_position(group, state, at)
            samples = by_partition.setdefault(state.partition, deque(maxlen=WINDOW))
            samples.append(
                Sample(
                    at=at,
                    position=state.committed.value,
                    head=state.head.value,
                    owned=True if state.owner is not None else False if self._broker.features.positional else None,
                    waiting=state.waiting.value,
                    oldest=None if state.oldest.value is None else state.oldest.value / 1e6,
                )
            )

    def _note_position(self, group: str, state: PartitionState, at: float) -> None:
        """Remember from where it went back, until it has caught up with that."""
        ceilings = self._ceilings.setdefault(group, {})
        samples = self._samples[group].get(state.partition)
        before = samples[-1].position if samples else None
        now = state.committed.value
        ceiling = ceilings.get(state.partition, (0, 0.0))[0]
        if before is not None and now is not None and now < before:
            ceilings[state.partition] = max(before, ceiling), at
        elif now is None or now >= ceiling:
            ceilings.pop(state.partition, None)

    async def ready(self) -> None:
        """Wait for the first sample, but not for ever."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * EVERY):
                await self._sampled.wait()

    def names(self) -> list[str]:
        """The groups that there are."""
        return sorted(self._samples)

    def verdicts(self, group: str, *, paused: bool, blocked: str = "", moved: float | None = None) -> dict[Partition, Verdict]:
        """What to think of each partition of a group; `moved` is when an operator has last moved it, in seconds since 1970."""
        asked = (group, paused, blocked, moved)
        if asked not in self._judged:
            ceilings = self._ceilings.get(group, {})
            explained = {p for p, (_, at) in ceilings.items() if moved is not None and abs(at - moved) < EXPLAINED}
            self._judged[asked] = {
                partition: judge(tuple(samples), paused=paused, replaying=partition in explained, blocked=blocked)
                for partition, samples in self._samples.get(group, {}).items()
            }
        return self._judged[asked]

    def verdict(self, group: str, *, paused: bool, blocked: str = "", moved: float | None = None) -> Verdict:
        """What to think of a group: its worst partition's verdict."""
        return worst(list(self.verdicts(group, paused=paused, blocked=blocked, moved=moved).values()))

    def untold(self, group: str, event: Mapping[str, Any]) -> Literal["waiting", "passed", "unknown"]:
        """What became of an event of which a group has told nothing.

        `passed`: its position is beyond it. `unknown`: there are no positions, and its queue is empty.
        """
        states = [state for state in self._states.get(group, ()) if state.partition.topic == event["topic"]]
        if event["position"] is not None:
            here = next((state.committed.value for state in states if state.partition.number == event["partition"]), None)
            if here is not None:
                return "passed" if here > int(event["position"]) else "waiting"
        long_ago = self._clock.micros() / 1e6 - event["time"] > SEEN
        return "unknown" if long_ago and states and all(state.waiting.value == 0 for state in states) else "waiting"

    def standing(self, group: str) -> dict[str, Any]:
        """Its lag in events and seconds, members, and when it will be gone; None where unknown."""
        states = self._states.get(group, ())
        lags = [lag for state in states if (lag := lag_of(state).value) is not None]
        oldest = [state.oldest.value / 1e6 for state in states if state.oldest.value is not None]
        drains = [seconds for samples in self._samples.get(group, {}).values() if (seconds := drained_in(tuple(samples))) is not None]
        return {
            "lag": sum(lags) if len(lags) == len(states) and states else None,
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
