"""What customers send is checked completely, and nothing of it is trusted."""

import pytest

from millstream.demos.shop.contracts import Line
from millstream.demos.shop.order_form import InvalidOrder, fields_of, idempotency_key, order_from_form, order_from_json, validate


def test_an_order_names_every_problem_at_once() -> None:
    """A customer is not sent round once per mistake."""
    with pytest.raises(InvalidOrder) as caught:
        validate("nobody", {"oats": 100, "gold": 1})

    assert caught.value.problems.keys() == {"email", "oats", "gold"}


def test_an_order_of_nothing_is_refused() -> None:
    """Zeros are what a form sends for products that nobody chose."""
    with pytest.raises(InvalidOrder) as caught:
        validate("ada@example.com", {"oats": 0})

    assert caught.value.problems.keys() == {"lines"}


@pytest.mark.parametrize("quantity", [True, 1.0, -1, "2", None])
def test_a_quantity_is_a_whole_number(quantity: object) -> None:
    """JSON's other kinds of value are refused, not converted."""
    with pytest.raises(InvalidOrder):
        validate("ada@example.com", {"oats": quantity})


def test_a_form_and_json_give_the_same_order() -> None:
    """The price is the catalogue's either way."""
    form = order_from_form({"email": "ada@example.com", "quantity.oats": "2", "quantity.millstone": "0"})
    text = order_from_json(b'{"email": "ada@example.com", "lines": [{"sku": "oats", "quantity": 2, "unit_price": 1}]}')

    assert form == text
    assert form.fingerprint == text.fingerprint
    assert form.lines == [Line(sku="oats", quantity=2, unit_price=259)]


def test_lines_of_one_product_add_up() -> None:
    """Twice two are four, and more than the limit together is too much."""
    twice = order_from_json(b'{"email": "a@b.c", "lines": [{"sku": "oats", "quantity": 2}, {"sku": "oats", "quantity": 2}]}')

    assert twice.lines == [Line(sku="oats", quantity=4, unit_price=259)]
    with pytest.raises(InvalidOrder):
        order_from_json(b'{"email": "a@b.c", "lines": [{"sku": "oats", "quantity": 60}, {"sku": "oats", "quantity": 60}]}')


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"email": "a@b.c", "lines": 3}', b"\xff", b"[" * 60_000])
def test_unreadable_json_is_a_clear_error(body: bytes) -> None:
    """Nothing that a client sends is a server error."""
    with pytest.raises(InvalidOrder):
        order_from_json(body)


@pytest.mark.parametrize("body", [b"\xff=1", b"&".join(b"a=1" for _ in range(200))])
def test_an_unreadable_form_is_a_clear_error(body: bytes) -> None:
    """Neither other encodings nor thousands of fields get further than this."""
    with pytest.raises(InvalidOrder):
        fields_of(body)


def test_an_address_cannot_smuggle_headers() -> None:
    """A line break in an address would start another header of the mail."""
    with pytest.raises(InvalidOrder):
        validate("ada@example.com\nBcc: all@example.com", {"oats": 1})


@pytest.mark.parametrize("key", ["", "with blanks", "x" * 201, "\n"])
def test_an_order_needs_a_usable_key(key: str) -> None:
    """Without one, nobody could tell a second click from a second order."""
    with pytest.raises(InvalidOrder):
        idempotency_key(key, {})
