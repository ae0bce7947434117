"""What a customer sends, and what is wrong with it."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs

import msgspec

from millstream.demos.shop.catalogue import BY_SKU
from millstream.demos.shop.contracts import Line

LARGEST_QUANTITY = 99
LONGEST_EMAIL = 254
MOST_FIELDS = 100
_EMAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*")
_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_QUANTITY = "quantity."


class InvalidOrder(Exception):
    """What is wrong with an order, field by field, in words for the customer."""

    def __init__(self, problems: dict[str, str]) -> None:
        super().__init__("; ".join(problems.values()))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """A valid order that is not placed yet."""

    email: str
    lines: list[Line]

    @property
    def fingerprint(self) -> str:
        """The same for the same order: one key cannot stand for two."""
        return hashlib.sha256(msgspec.json.encode([self.email, self.lines])).hexdigest()


def validate(email: object, quantities: Mapping[str, object]) -> OrderRequest:
    """Check everything and name every problem at once; prices come from the catalogue, never from the customer."""
    problems: dict[str, str] = {}
    if not isinstance(email, str) or len(email) > LONGEST_EMAIL or not _EMAIL.fullmatch(email):
        problems["email"] = "Please enter an e-mail address such as ada@example.com."
    lines: list[Line] = []
    for sku, quantity in quantities.items():
        if sku not in BY_SKU:
            problems[sku] = f"We do not sell {sku[:60]!r}."
        elif not isinstance(quantity, int) or isinstance(quantity, bool) or not 0 <= quantity <= LARGEST_QUANTITY:
            problems[sku] = f"{BY_SKU[sku].name}: choose a whole number from 0 to {LARGEST_QUANTITY}."
        elif quantity:
            lines.append(Line(sku=sku, quantity=quantity, unit_price=BY_SKU[sku].price))
    if not lines and not problems.keys() - {"email"}:
        problems["lines"] = "Please choose at least one product."
    if problems:
        raise InvalidOrder(problems)
    return OrderRequest(email=str(email), lines=sorted(lines, key=lambda line: line.sku))


def order_from_json(body: bytes) -> OrderRequest:
    """`{"email": "...", "lines": [{"sku": "oats", "quantity": 2}]}`."""
    try:
        data = json.loads(body)
        quantities: dict[str, object] = {}
        for line in data["lines"]:
            sku, quantity, earlier = str(line["sku"]), line["quantity"], quantities.get(str(line["sku"]), 0)
            both_whole = type(quantity) is int and type(earlier) is int
            quantities[sku] = earlier + quantity if both_whole else quantity  # pyright: ignore[reportOperatorIssue]
        email = data["email"]
    except (ValueError, KeyError, TypeError, RecursionError):
        wanted = 'Send JSON such as {"email": "ada@example.com", "lines": [{"sku": "oats", "quantity": 2}]}.'
        raise InvalidOrder({"body": wanted}) from None
    return validate(email, quantities)


def fields_of(body: bytes) -> dict[str, str]:
    """The fields of a form, the first of each name."""
    try:
        several = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise InvalidOrder({"body": "This form cannot be read. Send it as UTF-8 from the shop page."}) from None
    return {name: values[0].strip() for name, values in several.items()}


def order_from_form(fields: Mapping[str, str]) -> OrderRequest:
    """The fields of the shop page: `email` and `quantity.<sku>`."""
    quantities: dict[str, object] = {}
    for name, text in fields.items():
        if name.startswith(_QUANTITY):
            is_whole = text.isascii() and text.isdigit() and len(text) < 6
            quantities[name.removeprefix(_QUANTITY)] = int(text) if is_whole else (text or 0)
    return validate(fields.get("email", ""), quantities)


def idempotency_key(header: str | None, fields: Mapping[str, str]) -> str:
    """What tells this order from every other, however often it is sent."""
    key = header or fields.get("idempotency_key", "")
    if not _KEY.fullmatch(key):
        missing = "Send an Idempotency-Key header (any text unique to this order), so that sending again is safe."
        raise InvalidOrder({"idempotency_key": missing})
    return key
