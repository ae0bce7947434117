"""Filters in fields and values: what they let through, and what is refused when they are written."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.contracts.errors import ConfigurationError
from millstream.core.filter import Filter, filter_of, union

VALUES = st.sampled_from(["EUR", "CHF", 1, 2, True, False])
FIELDS = st.sampled_from(["currency", "count", "customer.country"])
WHERE = st.dictionaries(FIELDS, st.lists(VALUES, min_size=1, max_size=3), min_size=1, max_size=3)
FILTERS = WHERE.map(lambda where: filter_of(where, None))
CUSTOMERS: st.SearchStrategy[object] = st.fixed_dictionaries({"country": VALUES})
BODIES: st.SearchStrategy[object] = st.fixed_dictionaries({}, optional={"currency": VALUES, "count": VALUES, "customer": CUSTOMERS})


@pytest.mark.parametrize(
    ("where", "body", "wanted"),
    [
        ({"currency": "EUR"}, {"currency": "EUR"}, True),
        ({"currency": "EUR"}, {"currency": "eur"}, False),
        ({"currency": ["EUR", "CHF"]}, {"currency": "CHF"}, True),
        ({"currency": "EUR", "count": 2}, {"currency": "EUR", "count": 3}, False),
        ({"currency": "EUR"}, {}, False),
        ({"currency": "EUR"}, {"currency": None}, False),
        ({"customer.country": "DE"}, {"customer": {"country": "DE"}}, True),
        ({"customer.country": "DE"}, {"customer": "DE"}, False),
        ({"lines.sku": "mug"}, {"lines": [{"sku": "cup"}, {"sku": "mug"}]}, True),
        ({"lines.sku": "mug"}, {"lines": []}, False),
        ({"count": 1}, {"count": 1.0}, True),
        ({"count": 1}, {"count": True}, False),
        ({"paid": True}, {"paid": 1}, False),
    ],
)
def test_a_body_is_wanted_when_every_field_has_one_of_its_values(where: Mapping[str, Any], body: object, wanted: bool) -> None:
    """As JSON says it: a list has what any of its elements has, and True is no 1."""
    assert filter_of(where, None).matches(json.dumps(body).encode()) is wanted


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[1]", b'"EUR"', b"[" * 100_000])
def test_what_is_no_object_is_wanted(body: bytes) -> None:
    """Whoever decodes it says what is wrong with it; skipped in silence, nobody would."""
    assert filter_of({"currency": "EUR"}, None).matches(body)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({}, "leave it out"),
        ({"curency": "EUR"}, "did you mean 'currency'"),
        ({"x.y": "EUR"}, "there are currency, count, customer"),
        ({"customer.": "EUR"}, "'customer.' for a field"),
        ({7: "EUR"}, "7 for a field"),
        ({"currency": []}, "'currency' to be"),
        ({"currency": None}, "'currency' to be None"),
        ({"currency": ["EUR", None]}, "'currency' to be"),
        ({"count": float("nan")}, "'count' to be nan"),
        ({"customer": {"country": "DE"}}, "'customer' to be"),
        ({"customer": "DE", "customer.country": "DE"}, "'customer' and 'customer.country'"),
    ],
)
def test_a_filter_that_can_never_be_meant_is_refused(where: Any, said: str) -> None:
    """By the field's name, and with what to write instead."""
    with pytest.raises(ConfigurationError) as caught:
        filter_of(where, ["currency", "count", "customer"])
    assert said in str(caught.value)


@given(st.lists(FILTERS, min_size=1, max_size=4), BODIES)
def test_the_union_lets_through_what_any_does(filters: list[Filter], body: object) -> None:
    """A broker that is told of it keeps nothing back that a handler wants."""
    together, raw = union(filters), json.dumps(body).encode()
    if any(one.matches(raw) for one in filters):
        assert together is None or together.matches(raw)


def test_the_union_of_one_is_itself_and_of_a_handler_without_a_filter_everything() -> None:
    """None is everything."""
    one = filter_of({"currency": "EUR"}, None)
    assert union([one]) == one
    assert union([one, None]) is None
    assert union([]) is None
    assert union([one, filter_of({"count": 1}, None)]) is None
