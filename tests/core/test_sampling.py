"""Everybody chooses the same correlations, and about as many as was asked for."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.contracts.ids import new_id
from millstream.core.sampling import is_chosen, last_characters

RATES = [1 << power for power in range(11)]


@given(st.text(min_size=1))
def test_who_is_one_in_many_is_one_in_fewer(correlation: str) -> None:
    """So that two services that sample differently still tell the same story."""
    chosen = [is_chosen(correlation, one_in) for one_in in RATES]

    assert chosen == sorted(chosen, reverse=True)
    assert chosen[0]


@given(st.text(min_size=1), st.sampled_from(RATES))
def test_the_quick_look_leaves_out_nobody(correlation: str, one_in: int) -> None:
    """Whoever is chosen ends as chosen ones end, or nothing is left out at all."""
    assert one_in == 1 or not is_chosen(correlation, one_in) or correlation[-1:] in last_characters(one_in)


@pytest.mark.parametrize("one_in", [2, 8, 16, 64, 256])
def test_about_one_in_so_many_ids_is_chosen(one_in: int) -> None:
    """Ids are spread evenly."""
    ids = [new_id(n, os.urandom(10)) for n in range(20_000)]

    count = sum(is_chosen(id_, one_in) for id_ in ids)

    assert count == pytest.approx(20_000 / one_in, rel=0.35)
