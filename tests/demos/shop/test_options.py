"""Flags that make no sense are refused before anything starts."""

import pytest

from millstream.contracts.errors import ConfigurationError
from millstream.demos.shop.options import MUTATIONS, DemoOptions, Protections


def test_an_unknown_mutation_is_refused() -> None:
    """A proof of a misspelt mutation would prove nothing."""
    with pytest.raises(ConfigurationError, match="no_outbox"):
        DemoOptions(mutate="no_outbux")


@pytest.mark.parametrize(
    "wrong",
    [{"rate": -1.0}, {"rate": float("nan")}, {"seconds": float("inf")}, {"output": "yaml"}, {"kill": ("bank",)}, {"smtp": "localhost"}],
)
def test_what_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    """Each with the flag's name and what it may be."""
    with pytest.raises(ConfigurationError):
        DemoOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_mutation_takes_away_exactly_one_protection(mutation: str) -> None:
    """Otherwise it would not be known which one the proof missed."""
    left = Protections.chosen(naive=False, mutation=mutation)

    assert [left.outbox, left.inbox, left.handle_before_ack].count(False) == 1
    assert not left.all_on


def test_the_demo_has_no_catcher_when_mails_go_elsewhere() -> None:
    """A mail server of the user's takes its place."""
    assert "catcher" in DemoOptions().services
    assert "catcher" not in DemoOptions(smtp="127.0.0.1:1025").services
