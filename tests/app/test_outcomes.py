"""What is told of many deliveries is found by one look when they come, and is what everybody else chooses."""

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import example, given
from hypothesis import strategies as st

from millstream import App, event
from millstream.app.outcomes import MANY, WorkOutcomes, sample
from millstream.app.work import Owned, Work
from millstream.contracts.envelope import Envelope
from millstream.core.broker import Delivery, Partition
from millstream.core.observe import Kind, Outcomes
from millstream.core.sampling import is_chosen
from millstream.testing import TestApp

PLACE = Partition("order.placed", 0)


def work(id_: str, correlation: str | None = None, kind: Kind | None = None) -> Work:
    """A delivery of an event."""
    envelope = Envelope(id=id_, source="/orders", type="order.placed", time=1, data=b"{}", topic=PLACE.topic, correlation=correlation)
    return Work(Delivery(PLACE, 0, envelope), envelope, Owned(PLACE, 1), None, "k", kind=kind)


# Ids end in such digits; and in anything, where they are another's.
TEXTS = st.text("0123456789abcdef", max_size=4) | st.text(max_size=5)


@event("sampled.placed", key="number")
@dataclass(frozen=True)
class Placed:
    """Something that happens often."""

    number: int


class Picking:
    """Wants to know of one correlation in `MANY`."""

    def __init__(self) -> None:
        self.picked: set[str] = set()

    def started(self, group: str, deliveries: Sequence[Delivery]) -> None: ...

    def settled(self, outcomes: Outcomes) -> None:
        self.picked |= {outcome.envelope.id for outcome in outcomes.pick(MANY) if outcome.envelope is not None}


async def test_a_worker_tells_of_everybody_who_is_chosen() -> None:
    """Not only of what fails."""
    picking = Picking()
    app = App("desk", broker="memory://", observers=[picking])

    @app.subscriber(Placed)
    async def note(_placed: Placed) -> None:
        """Take it."""

    async with TestApp(app) as test:
        ids = {envelope.id for envelope in await app.publish_many([Placed(n) for n in range(2000)])}
        await test.run_until_idle()

    assert picking.picked == {id_ for id_ in ids if is_chosen(id_, MANY)}
    assert picking.picked


@given(TEXTS, st.none() | TEXTS)
@example("ab20", None)
@example("ab00", None)
@example("ab04", None)
@example("", "")
@example("0", None)
def test_the_first_look_finds_who_is_chosen_and_nobody_else(id_: str, correlation: str | None) -> None:
    """Whatever ids look like."""
    one = work(id_, correlation)
    sample([one])

    assert one.sampled == is_chosen(correlation or id_, MANY)


def test_nothing_that_failed_is_left_out_however_few_are_told() -> None:
    """It is told although no look has marked it."""
    works = [work(f"o-{n}x", kind="handled") for n in range(50)] + [work("o-failed-x", kind="parked"), work("o-again-x", kind="retry")]
    sample(works)
    outcomes = WorkOutcomes("g", works, 0.0)

    assert [outcome.kind for outcome in outcomes.pick(1 << 12)] == ["parked", "retry"]
    assert sum(outcomes.counts().values()) == 52
