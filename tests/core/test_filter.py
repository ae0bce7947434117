"""Filters in fields and values: what they let through, what a broker is told, and what is refused when they are written."""

import enum
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.contracts.errors import ConfigurationError
from millstream.core.filter import Filter, Wants, filter_of, wants_of


class Size(enum.Enum):
    LARGE = "L"
    SMALL = "S"


@dataclass
class Customer:
    country: str
    vip: bool = False


@dataclass
class Line:
    sku: str


@dataclass
class Order:
    currency: str = "EUR"
    count: int = 1
    price: Decimal = Decimal("1.50")
    size: Size = Size.LARGE
    customer: Customer | None = None
    lines: list[Line] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    anything: Any = None
    number: UUID = UUID(int=1)


@dataclass
class Payment:
    currency: str
    paid: bool


@pytest.mark.parametrize(
    ("where", "order", "wanted"),
    [
        ({"currency": "EUR"}, Order(), True),
        ({"currency": "eur"}, Order(), False),
        ({"currency": ["CHF", "EUR"]}, Order(), True),
        ({"currency": "EUR", "count": 2}, Order(), False),
        ({"customer.country": "DE"}, Order(customer=Customer("DE")), True),
        ({"customer.country": "DE"}, Order(customer=Customer("CH")), False),
        ({"customer.country": "DE"}, Order(), False),
        ({"lines.sku": "mug"}, Order(lines=[Line("cup"), Line("mug")]), True),
        ({"lines.sku": "mug"}, Order(), False),
        ({"labels.tone": "red"}, Order(labels={"tone": "red"}), True),
        ({"labels.tone": "red"}, Order(), False),
        ({"count": 1.0}, Order(), True),
        ({"count": True}, Order(), False),
        ({"customer.vip": 1}, Order(customer=Customer("DE", vip=True)), False),
        ({"customer.vip": True}, Order(customer=Customer("DE", vip=True)), True),
        ({"price": "1.50"}, Order(), True),
        ({"size": "L"}, Order(), True),
        ({"number": str(UUID(int=1))}, Order(), True),
    ],
)
def test_an_event_is_wanted_when_every_field_has_one_of_its_values(where: Any, order: Order, wanted: bool) -> None:
    """Values are as in JSON, of a list one element is enough, and True is no 1."""
    assert filter_of(where, [Order]).matches(order) is wanted


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({}, "leave it out"),
        ({"curency": "EUR"}, "no 'curency': did you mean 'currency'"),
        ({"x.y": "EUR"}, "no 'x': there are currency, count"),
        ({"customer.contry": "DE"}, "no 'contry': did you mean 'country'"),
        ({"lines.skew": "mug"}, "no 'skew'"),
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
        filter_of(where, [Order])
    assert said in str(caught.value)


def test_a_field_has_to_be_in_every_type_of_the_handler() -> None:
    assert filter_of({"currency": "EUR"}, [Order, Payment]).matches(Payment("EUR", paid=True))
    with pytest.raises(ConfigurationError, match="no 'paid'"):
        filter_of({"paid": True}, [Payment, Order])


VALUES = st.sampled_from(["EUR", "CHF", 1, 2, True, False])
WHERE = st.dictionaries(
    st.sampled_from(["currency", "count", "lines.sku"]), st.lists(VALUES, min_size=1, max_size=3), min_size=1, max_size=3
)
LINES: st.SearchStrategy[list[Line]] = st.lists(st.builds(Line, sku=VALUES), max_size=2)
ORDERS = st.builds(Order, currency=VALUES, count=VALUES, lines=LINES)


def told(wants: Wants, order: Order) -> bool:
    """What a broker makes of it that compares as JSON does."""
    bodies: dict[tuple[str, ...], list[Any]] = {
        ("currency",): [order.currency], ("count",): [order.count], ("lines", "sku"): [line.sku for line in order.lines],
    }  # fmt: skip
    return all(
        any(found == value and isinstance(found, bool) == isinstance(value, bool) for found in bodies[path] for value in values)
        for path, values in wants.fields
    )


@given(st.lists(WHERE, min_size=1, max_size=4), ORDERS)
def test_a_broker_that_is_told_keeps_nothing_back_that_any_handler_wants(wheres: list[dict[str, Any]], order: Order) -> None:
    filters = [filter_of(where, [Order]) for where in wheres]
    wants = wants_of(filters)
    if any(one.matches(order) for one in filters):
        assert wants is None or told(wants, order)


def test_of_a_handler_without_a_filter_everything_is_wanted() -> None:
    """None is everything; what only some say is not told."""
    one = filter_of({"currency": "EUR"}, [Order])
    assert wants_of([one]) == Wants(((("currency",), ("EUR",)),))
    assert wants_of([one, None]) is None
    assert wants_of([]) is None
    assert wants_of([one, filter_of({"count": 1}, [Order])]) is None
    assert wants_of([Filter(())]) is None


def test_one_and_true_are_two_values_to_a_broker_too() -> None:
    """To Python they are equal, and one of them would be left out."""
    one, true = (filter_of({"count": value}, [Order]) for value in (1, True))
    wants = wants_of([one, true])
    assert wants is not None
    assert [(value, type(value)) for value in wants.fields[0][1]] == [(1, int), (True, bool)]


@pytest.mark.parametrize("innermost", ["EUR", {"EUR": "CHF"}])
def test_what_is_nested_deeper_than_pythons_stack_is_looked_through(innermost: Any) -> None:
    """Any program may publish such a body, and an error would make a dead letter of it."""
    deep = innermost
    for _ in range(5_000):
        deep = [deep]
    assert filter_of({"anything": "EUR"}, [Order]).matches(Order(anything=deep)) == (innermost == "EUR")
    assert not filter_of({"anything": "EUR"}, [Order]).matches(Order(anything={"deep": deep}))
