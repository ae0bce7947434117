"""What is told of many deliveries is found by one look when they come, and is what everybody else chooses."""

from hypothesis import example, given
from hypothesis import strategies as st

from millstream.app.outcomes import MANY, WorkOutcomes, sample
from millstream.app.work import Owned, Work
from millstream.contracts.envelope import Envelope
from millstream.core.broker import Delivery, Partition
from millstream.core.observe import Kind
from millstream.core.sampling import is_chosen

PLACE = Partition("order.placed", 0)


def work(id_: str, correlation: str | None = None, kind: Kind | None = None) -> Work:
    """A delivery of an event."""
    envelope = Envelope(id=id_, source="/orders", type="order.placed", time=1, data=b"{}", topic=PLACE.topic, correlation=correlation)
    return Work(Delivery(PLACE, 0, envelope), envelope, Owned(PLACE, 1), None, "k", kind=kind)


@given(st.text(max_size=5), st.none() | st.text(max_size=5))
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
