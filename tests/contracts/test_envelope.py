"""The value that travels."""

import pytest

from millstream.contracts.envelope import Envelope


def test_an_envelope_cannot_be_changed() -> None:
    """Whoever holds an envelope holds what was published."""
    envelope = Envelope(id="1", source="/shop", type="order.created", time=1)
    with pytest.raises(AttributeError):
        envelope.id = "2"  # type: ignore[misc]


def test_an_envelope_without_a_time_cannot_be_made_by_accident() -> None:
    """Time has no default, because nothing here may read a clock."""
    with pytest.raises(TypeError, match="time"):
        Envelope(id="1", source="/shop", type="order.created")  # type: ignore[call-arg]


def test_envelopes_with_the_same_values_are_equal() -> None:
    """An envelope is a value: two copies of one event compare equal."""
    one, two = (Envelope(id="1", source="/shop", type="order.created", time=1, data=b"{}") for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
