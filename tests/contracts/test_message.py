"""Contracts and their bodies."""

import enum
import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.contracts.errors import ContractError, DecodeError
from millstream.contracts.message import Contract, codec_for, command, contract_of, event, key_of, key_text


@event("test.dataclass", key="id")
@dataclass(frozen=True)
class AsDataclass:
    """Kept in a dataclass.

    More that is not the summary.
    """

    id: UUID
    number: int
    amount: Decimal
    day: date
    moment: datetime
    text: str
    many: list[int]
    maybe: int | None = None


@event("test.slots", key="id")
@dataclass(frozen=True, slots=True)
class AsSlots:
    id: UUID
    number: int
    amount: Decimal
    day: date
    moment: datetime
    text: str
    many: list[int]
    maybe: int | None = None


@event("test.struct", key="id")
class AsStruct(msgspec.Struct, frozen=True):
    id: UUID
    number: int
    amount: Decimal
    day: date
    moment: datetime
    text: str
    many: list[int]
    maybe: int | None = None


@event("test.attrs", key="id")
@attrs.frozen
class AsAttrs:
    id: UUID
    number: int
    amount: Decimal
    day: date
    moment: datetime
    text: str
    many: list[int]
    maybe: int | None = None


@event("test.pydantic", key="id")
class AsPydantic(pydantic.BaseModel):
    id: UUID
    number: int
    amount: Decimal
    day: date
    moment: datetime
    text: str
    many: list[int]
    maybe: int | None = None


KINDS: list[type[Any]] = [AsDataclass, AsSlots, AsStruct, AsAttrs, AsPydantic]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda c: c.__name__)

ints = st.integers() | st.integers(-(10**400), 10**400) | st.sampled_from([2**53 + 1, 2**63, 2**64, -(2**63) - 1])
zones = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
values = st.fixed_dictionaries(
    {
        "id": st.uuids(),
        "number": ints,
        "amount": st.decimals(allow_nan=False, allow_infinity=False),
        "day": st.dates(),
        "moment": st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=zones),
        "text": st.text(),
        "many": st.lists(ints, max_size=4),
    },
    optional={"maybe": st.none() | ints},
)


@every_kind
@given(values=values)
def test_what_is_encoded_is_decoded_to_an_equal_value(kind: type[Any], values: dict[str, Any]) -> None:
    """Ints of any size, Decimals, dates, moments and UUIDs survive, in every kind of class."""
    message = kind(**values)
    codec = codec_for(contract_of(kind))
    back: Any = codec.decode(codec.encode(message))
    assert type(back) is kind
    assert back == message
    # Decimal("1.0") == Decimal("1"), but an amount keeps its digits.
    assert str(back.amount) == str(message.amount)


@every_kind
def test_an_int_beyond_64_bits_is_a_json_number(kind: type[Any]) -> None:
    """Other languages read the number they would expect, digit for digit."""
    number = 2**200 + 1
    message = kind(
        id=uuid4(),
        number=number,
        amount=Decimal("1.10"),
        day=date(2026, 1, 1),
        moment=datetime(2026, 1, 1, tzinfo=UTC),
        text="",
        many=[],
    )
    body = json.loads(codec_for(contract_of(kind)).encode(message))
    assert body["number"] == number
    assert body["amount"] == "1.10"


@every_kind
@pytest.mark.parametrize("body", [b"", b"{", b"{}", b"[]", b"null", b"\xff", b'"' + b"x" * 99, b"[" * 100_000])
def test_bytes_that_do_not_fit_are_a_decode_error(kind: type[Any], body: bytes) -> None:
    """A worker has one error to catch, whatever arrived and whatever the class is."""
    with pytest.raises(DecodeError, match=contract_of(kind).name):
        codec_for(contract_of(kind)).decode(body)


def test_a_field_the_reader_does_not_know_is_ignored() -> None:
    """A publisher may add a field before its consumers know it."""

    @event("test.tolerant")
    @dataclass
    class Tolerant:
        a: int

    assert codec_for(contract_of(Tolerant)).decode(b'{"a":1,"b":2}') == Tolerant(1)


def test_a_constructor_that_refuses_is_a_decode_error() -> None:
    """A class may check itself with any exception, and the event still ends as undecodable."""

    @event("test.picky")
    @dataclass
    class Picky:
        a: int

        def __post_init__(self) -> None:
            raise KeyError("never")

    with pytest.raises(DecodeError, match="never"):
        codec_for(contract_of(Picky)).decode(b'{"a":1}')


def test_a_value_json_cannot_hold_is_a_contract_error() -> None:
    """The publisher hears of it, and nothing half encoded leaves."""

    @event("test.anything")
    @dataclass
    class Anything:
        a: Any

    with pytest.raises(ContractError, match=r"test\.anything"):
        codec_for(contract_of(Anything)).encode(Anything(object()))


def test_a_field_that_cannot_be_read_is_reported_with_the_contract() -> None:
    """A type without a JSON form is found when the codec is compiled, not at the first event."""

    @event("test.unreadable")
    @dataclass
    class Unreadable:
        a: int | bytes | str

    with pytest.raises(ContractError, match=r"test\.unreadable"):
        codec_for(contract_of(Unreadable))


def test_big_ints_survive_in_fields_without_a_type() -> None:
    """Even where the contract says Any, an int is not rounded to a float."""

    @event("test.loose")
    @dataclass
    class Loose:
        a: Any

    codec = codec_for(contract_of(Loose))
    assert codec.decode(codec.encode(Loose({"n": 2**70}))) == Loose({"n": 2**70})


def test_a_pydantic_alias_is_written_as_it_is_read() -> None:
    """A model with aliases reads back what it wrote."""

    @event("test.alias")
    class Aliased(pydantic.BaseModel):
        order_id: str = pydantic.Field(alias="orderId")

    codec = codec_for(contract_of(Aliased))
    body = codec.encode(Aliased(orderId="1"))
    assert json.loads(body) == {"orderId": "1"}
    assert codec.decode(body) == Aliased(orderId="1")


def test_a_codec_is_compiled_once() -> None:
    """Publishing the second event of a type costs no compilation."""
    assert codec_for(contract_of(AsStruct)) is codec_for(contract_of(AsStruct))


def test_a_contract_holds_what_was_declared() -> None:
    """Name, version, key, topic, kind, wire, type and summary are there for everyone to read."""
    assert contract_of(AsDataclass) == Contract(
        "test.dataclass", 1, "id", "test.dataclass", "event", "cloudevents", AsDataclass, "Kept in a dataclass."
    )

    @command("test.ship", version=3, topic="test.orders", wire="json")
    @dataclass
    class Ship:
        a: int

    assert contract_of(Ship) == Contract("test.ship", 3, None, "test.orders", "command", "json", Ship, "")
    with pytest.raises(AttributeError):
        contract_of(Ship).version = 4  # type: ignore[misc]


@every_kind
def test_the_class_stays_the_class(kind: type[Any]) -> None:
    """A decorated class is used and asked like before, and knows its contract."""
    assert contract_of(kind).type is kind
    assert kind.__millstream__ is contract_of(kind)


def test_a_class_without_docstring_has_no_summary() -> None:
    """What dataclass, Struct, attrs or pydantic generate is not taken for the user's words."""
    assert [contract_of(kind).summary for kind in KINDS[1:]] == ["", "", "", ""]


def test_an_instance_has_the_contract_of_its_class() -> None:
    """Whoever holds an event need not look for its class."""

    @event("test.small")
    @dataclass
    class Small:
        a: int

    assert contract_of(Small(1)) is contract_of(Small)


@pytest.mark.parametrize("thing", [1, "x", None, int, object()])
def test_what_is_no_contract_is_refused_with_the_fix(thing: object) -> None:
    """The message names the decorator to use."""
    with pytest.raises(ContractError, match="@event"):
        contract_of(thing)


def test_a_subclass_does_not_inherit_the_contract() -> None:
    """Two types never travel under one name by accident."""

    class Child(AsDataclass):
        pass

    with pytest.raises(ContractError, match="Child"):
        contract_of(Child)


@pytest.mark.parametrize("name", ["a", "order.created", "order_2.created_at", "a.b.c", "0"])
def test_lower_case_words_joined_by_dots_are_a_name(name: str) -> None:
    """Words of letters, digits and underscores."""

    @event(name)
    @dataclass
    class Named:
        a: int

    assert contract_of(Named).name == name


@pytest.mark.parametrize(
    "name", ["", "Order", "order-created", ".a", "a.", "a..b", "a b", "é", "a\n", "order.Created", "a/b", "٣"]
)
def test_any_other_name_is_refused(name: str) -> None:
    """What one broker could not use as a topic is refused on all."""
    with pytest.raises(ContractError, match="cannot name a contract"):
        event(name)


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1"])
def test_versions_are_whole_numbers_from_one(version: Any) -> None:
    """There is no version zero."""
    with pytest.raises(ContractError, match="version"):
        event("test.version", version=version)


def test_an_unknown_wire_is_refused() -> None:
    """A misspelt wire does not fall back to the default."""
    with pytest.raises(ContractError, match="wire"):
        event("test.wire", wire="xml")  # type: ignore[arg-type]


@pytest.mark.parametrize("topic", ["", "a\nb"])
def test_a_topic_no_broker_can_have_is_refused(topic: str) -> None:
    """An empty topic is a mistake, not the default."""
    with pytest.raises(ContractError, match="topic"):
        event("test.topic", topic=topic)


def test_a_class_without_fields_of_its_own_kind_is_refused() -> None:
    """Also when the two decorators are in the wrong order."""
    with pytest.raises(ContractError, match="above"):

        @dataclass
        @event("test.order")
        class Wrong:  # pyright: ignore[reportUnusedClass]
            a: int


@every_kind
def test_a_key_that_is_no_field_is_refused(kind: type[Any]) -> None:
    """A misspelt key is found at import, and the fields are listed."""
    with pytest.raises(ContractError, match="number"):
        event("test.key", key="order_id")(kind)


class Colour(str, enum.Enum):
    RED = "red"


UNIQUE = UUID("12345678-1234-5678-1234-567812345678")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("o-1", "o-1"),
        ("é 1", "é 1"),
        (Colour.RED, "red"),
        (7, "7"),
        (-(2**70), str(-(2**70))),
        (0, "0"),
        (UNIQUE, str(UNIQUE)),
    ],
)
def test_a_key_has_one_text(value: object, text: str) -> None:
    """Strings as they are, numbers in decimal, UUIDs in their usual form."""
    assert key_text(value) == text


@pytest.mark.parametrize(
    "value", [None, True, 1.5, b"x", (1,), Decimal(1), "", "a\x00", "a\nb", "\ud800", pytest.param(10**5000, id="long")]
)
def test_what_cannot_order_events_is_refused_as_key(value: object) -> None:
    """Nothing that is empty, ambiguous or cannot travel in a header becomes a key."""
    with pytest.raises(ContractError, match="key"):
        key_text(value)


def test_the_key_of_a_message_is_the_text_of_its_field() -> None:
    """And None where the contract has no key."""

    @event("test.keyed", key="a")
    @dataclass
    class Keyed:
        a: int | None

    @event("test.keyless")
    @dataclass
    class Keyless:
        a: int

    assert key_of(Keyed(1)) == "1"
    assert key_of(Keyless(1)) is None
    with pytest.raises(ContractError, match=r"test\.keyed"):
        key_of(Keyed(None))
