"""Where fields lie on the wire, and which of them travel as they are."""

import enum
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal

import attrs
import msgspec
import pydantic
import pytest

from millstream.contracts.fields import UnknownFieldError, wire_path


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 1


@dataclass
class Inner:
    code: str


@dataclass
class Plain:
    constant: ClassVar[str] = "never sent"
    text: str = ""
    count: int | None = None
    flag: bool = False
    price: float = 0.0
    amount: Decimal = Decimal(0)
    colour: Colour = Colour.RED
    kind: Literal["a", 1] = "a"
    inner: Inner | None = None
    inners: tuple[Inner, ...] = ()
    open: Any = None
    either: Inner | Colour | None = None


class Renamed(msgspec.Struct, rename="camel"):
    order_id: str


class AsList(msgspec.Struct, array_like=True):
    order_id: str


@dataclass
class Changing:
    text: str

    def __post_init__(self) -> None:
        self.text = self.text.upper()


@attrs.define
class Converting:
    text: str = attrs.field(converter=str.upper)
    other: str = ""


class Aliased(pydantic.BaseModel):
    order_id: str = pydantic.Field(alias="orderId")
    secret: str = pydantic.Field(exclude=True)
    short: Annotated[str, pydantic.StringConstraints(to_upper=True)]
    number: int
    colour: Colour
    level: Level

    @pydantic.computed_field
    @property
    def twice(self) -> int:
        return 2 * self.number


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    number: int


class Upper(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(str_to_upper=True)
    text: str


class Validated(pydantic.BaseModel):
    text: str

    @pydantic.field_validator("text")
    @classmethod
    def _changed(cls, value: str) -> str:
        return value.strip()


@pytest.mark.parametrize(
    ("cls", "path", "wire"),
    [
        (Plain, "text", ("text",)),
        (Plain, "count", ("count",)),
        (Plain, "flag", ("flag",)),
        (Plain, "colour", ("colour",)),
        (Plain, "kind", ("kind",)),
        (Plain, "inner.code", ("inner", "code")),
        (Plain, "inners.code", ("inners", "code")),
        (Renamed, "order_id", ("orderId",)),
        (Aliased, "order_id", ("orderId",)),
        (Aliased, "colour", ("colour",)),
        (Strict, "number", ("number",)),
        (Converting, "other", ("other",)),
    ],
)
def test_what_travels_as_it_is_has_a_place_in_the_body(cls: type[Any], path: str, wire: tuple[str, ...]) -> None:
    assert wire_path(cls, path.split(".")) == wire


@pytest.mark.parametrize(
    ("cls", "path"),
    [
        (Plain, "price"),  # fractions are written in many ways
        (Plain, "amount"),
        (Plain, "inner"),
        (Plain, "open"),
        (Plain, "open.anything"),
        (Plain, "either.code"),
        (AsList, "order_id"),
        (Changing, "text"),
        (Converting, "text"),
        (Aliased, "secret"),
        (Aliased, "short"),
        (Aliased, "number"),  # "1" is taken for a number, too
        (Aliased, "level"),
        (Aliased, "twice"),
        (Upper, "text"),
        (Validated, "text"),
    ],
)
def test_what_may_be_another_value_on_the_wire_has_none(cls: type[Any], path: str) -> None:
    assert wire_path(cls, path.split(".")) is None


@pytest.mark.parametrize(("cls", "path"), [(Plain, "constant"), (Plain, "txt"), (Plain, "inner.text"), (Aliased, "orderId")])
def test_a_field_that_is_not_there_is_named(cls: type[Any], path: str) -> None:
    with pytest.raises(UnknownFieldError) as caught:
        wire_path(cls, path.split("."))
    assert caught.value.name == path.split(".")[-1]
