"""Filters in fields and values: what they let through, what a broker is told, and what is refused when they are written."""

import enum
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from ipaddress import IPv4Address
from typing import Any
from uuid import UUID

import pydantic
import pytest

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
        ({"anything": "EUR"}, Order(anything=["EUR", ["CHF"]]), True),
        ({"anything": "EUR"}, Order(anything=[["EUR"], "CHF", []]), True),
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
        ({"currency": {"EUR": 1}}, "'currency' to be"),
        ({"customer": {"country": "DE"}}, "'customer', which is never one value; write customer.country, or another field of it"),
        ({"lines": "mug"}, "'lines', which is never one value; write lines.sku"),
        ({"labels": "red"}, "'labels', which is never one value; write labels. and a key of it"),
        ({"customer": "DE", "customer.country": "DE"}, "'customer' and 'customer.country'"),
    ],
)
def test_a_filter_that_can_never_be_meant_is_refused(where: Any, said: str) -> None:
    """By the field's name, and with what to write instead."""
    with pytest.raises(ConfigurationError) as caught:
        filter_of(where, [Order])
    assert said in str(caught.value)


class Kind(str, enum.Enum):
    """Members that are another text than their value."""

    LARGE = "L", "large"

    def __new__(cls, value: str, label: str) -> "Kind":
        made = str.__new__(cls, label)
        made._value_ = value
        return made


class Tone(pydantic.RootModel[str]):
    pass


class Part(pydantic.BaseModel):
    name: str


class Short(pydantic.BaseModel):
    name: str

    @pydantic.model_serializer
    def _as_text(self) -> str:
        return self.name


class Model(pydantic.BaseModel):
    url: pydantic.HttpUrl = pydantic.HttpUrl("https://example.org/a")
    address: IPv4Address = IPv4Address("10.0.0.1")
    lasts: timedelta = timedelta(minutes=90)
    price: Decimal = Decimal("1.50")
    kind: Kind = Kind.LARGE
    tone: Tone = Tone("red")
    tones: list[Tone] = [Tone("red"), Tone("blue")]
    short: Short = Short(name="mug")
    open: Any = None


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ({"url": "https://example.org/a"}, True),
        ({"url": "https://example.org/b"}, False),
        ({"address": "10.0.0.1"}, True),
        ({"lasts": "PT1H30M"}, True),
        ({"price": "1.50"}, True),
        ({"kind": "L"}, True),
        ({"kind": "large"}, False),
        ({"tone": "red"}, True),
        ({"tones": ["blue", "green"]}, True),
        ({"tones": "green"}, False),
        ({"short": "mug"}, True),
    ],
)
def test_what_only_a_model_has_is_compared_as_the_model_writes_it(where: Any, wanted: bool) -> None:
    """An address is a text in JSON, and so is a model of one text."""
    assert filter_of(where, [Model]).matches(Model()) is wanted


@pytest.mark.parametrize("value", [Part(name="mug"), Customer("DE"), object(), b"mug", {"mug"}])
def test_what_is_no_one_value_after_all_is_not_wanted_and_no_error(value: Any) -> None:
    """Of a field that may be anything nobody knows before it comes."""
    assert filter_of({"open": "mug"}, [Model]).matches(Model(open=value)) is (value == {"mug"} or value == b"mug")


def test_a_field_has_to_be_in_every_type_of_the_handler() -> None:
    assert filter_of({"currency": "EUR"}, [Order, Payment]).matches(Payment("EUR", paid=True))
    with pytest.raises(ConfigurationError, match="no 'paid'"):
        filter_of({"paid": True}, [Payment, Order])


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
