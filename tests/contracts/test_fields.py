"""Where fields lie on the wire, and which of them travel as they are."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal

import attrs
import msgspec
import pydantic
import pydantic.dataclasses
import pytest

from millstream.contracts.fields import NoValueError, UnknownFieldError, wire_path


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 1


class AnyCase(enum.Enum):
    RED = "RED"

    @classmethod
    def _missing_(cls, value: object) -> "AnyCase":
        return cls(str(value).upper())


class Synonym(enum.Enum):
    RED = "red"


#: As `_add_value_alias_` does from Python 3.13 on.
Synonym._value2member_map_["rot"] = Synonym.RED


@dataclass
class Inner:
    code: str


@dataclass
class Other:
    code: str
    name: str


@dataclass
class Plain:
    constant: ClassVar[str] = "never sent"
    text: str = ""
    count: int | None = None
    flag: bool = False
    price: float = 0.0
    amount: Decimal = Decimal(0)
    colour: Colour = Colour.RED
    level: Level = Level.HIGH
    any_case: AnyCase = AnyCase.RED
    synonym: Synonym = Synonym.RED
    kind: Literal["a", 1] = "a"
    short: Annotated[str, msgspec.Meta(max_length=3)] = ""
    inner: Inner | None = None
    inners: tuple[Inner, ...] = ()
    labels: list[str] | None = None
    pair: tuple[str, int] = ("", 0)
    lists: tuple[tuple[str, ...], ...] = ()
    mixed: tuple[str, Decimal] = ("", Decimal(0))
    objects: tuple[Inner, Other] | None = None
    open: Any = None
    either: Inner | Colour | None = None
    numbers: dict[str, int] | None = None


class Renamed(msgspec.Struct, rename="camel"):
    order_id: str


class AsList(msgspec.Struct, array_like=True):
    order_id: str


class Hidden(msgspec.Struct):
    text: str

    def __getattribute__(self, name: str) -> Any:
        return str(super().__getattribute__(name)).upper()


class Shadowing(Renamed):
    @property
    def order_id(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "always"


@dataclass
class Changing:
    text: str

    def __post_init__(self) -> None:
        self.text = self.text.upper()


class Upwards:
    """What a field keeps is not what is read of it."""

    def __get__(self, of: Any, kind: object = None) -> str:
        return "" if of is None else of.__dict__["kept"].upper()

    def __set__(self, of: Any, value: str) -> None:
        of.__dict__["kept"] = value


@dataclass
class Described:
    text: str = Upwards()  # type: ignore[assignment]


@attrs.define
class Converting:
    text: str = attrs.field(converter=str.upper)
    other: str = ""


def _changed(one: Any, attribute: object, value: str) -> None:
    object.__setattr__(one, "text", "")


@attrs.define
class Checking:
    text: str
    other: str = attrs.field(default="", validator=_changed)


@pydantic.dataclasses.dataclass
class Nested:
    code: str

    @pydantic.field_validator("code")
    @classmethod
    def _changed(cls, value: str) -> str:
        return value.upper()


@dataclass
class Noted:
    code: Annotated[str, pydantic.AfterValidator(str.upper)]


class Below(pydantic.BaseModel):
    code: str


class Aliased(pydantic.BaseModel):
    order_id: str = pydantic.Field(alias="orderId")
    read: str = pydantic.Field(validation_alias="READ", serialization_alias="WRITTEN")
    several: str = pydantic.Field(validation_alias=pydantic.AliasChoices("one", "other"))
    secret: str = pydantic.Field(exclude=True)
    upper: Annotated[str, pydantic.StringConstraints(to_upper=True)]
    short: Annotated[str, pydantic.StringConstraints(max_length=3)] = ""
    uppers: list[Annotated[str, pydantic.AfterValidator(str.upper)]]
    number: int
    colour: Colour = Colour.RED
    again: Colour | None = None
    level: Level
    any_case: AnyCase
    address: pydantic.HttpUrl
    labels: list[str]
    words: Sequence[str]
    kinds: set[Literal["a", "b"]] = set()
    below: Below | None = None
    aside: Below
    many: list[Below]
    nested: Nested
    noted: Noted

    @pydantic.computed_field
    @property
    def twice(self) -> int:
        return 2 * self.number


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    number: int
    flags: tuple[bool, ...]
    level: Level
    lax: int = pydantic.Field(strict=False)
    above: "Strict | None" = None


class Upper(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(str_to_upper=True)
    text: str


class ByName(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(populate_by_name=True)
    text: str = pydantic.Field(alias="Text")
    plain: str


class Validated(pydantic.BaseModel):
    text: str
    other: str

    @pydantic.field_validator("text")
    @classmethod
    def _changed(cls, value: str) -> str:
        return value.strip()


class Meddling(pydantic.BaseModel):
    text: str
    other: str

    @pydantic.field_validator("other")
    @classmethod
    def _changed(cls, value: str, info: pydantic.ValidationInfo) -> str:
        info.data["text"] = value
        return value


class Whole(pydantic.BaseModel):
    text: str

    @pydantic.model_validator(mode="after")
    def _changed(self) -> "Whole":
        self.text = self.text.upper()
        return self


class Late(pydantic.BaseModel):
    text: str

    def model_post_init(self, context: object) -> None:
        self.text = self.text.upper()


class Own(pydantic.BaseModel):
    text: str

    def __init__(self, **given: Any) -> None:
        super().__init__(**{name: str(value).upper() for name, value in given.items()})


class Loud(pydantic.BaseModel):
    text: str

    @classmethod
    def model_validate_json(cls, json_data: Any, **options: Any) -> Any:
        return super().model_validate_json(json_data.upper(), **options)


class Bare(pydantic.RootModel[str]):
    pass


class Rooted(pydantic.BaseModel):
    bare: Bare


@pytest.mark.parametrize(
    ("cls", "path", "wire"),
    [
        (Plain, "text", ("text",)),
        (Plain, "count", ("count",)),
        (Plain, "flag", ("flag",)),
        (Plain, "colour", ("colour",)),
        (Plain, "level", ("level",)),
        (Plain, "kind", ("kind",)),
        (Plain, "short", ("short",)),  # what only refuses values changes none
        (Plain, "inner.code", ("inner", "code")),
        (Plain, "labels", ("labels",)),
        (Plain, "pair", ("pair",)),
        (Renamed, "order_id", ("orderId",)),
        (Converting, "other", ("other",)),
        (Aliased, "order_id", ("orderId",)),
        (Aliased, "read", ("READ",)),
        (Aliased, "short", ("short",)),
        (Aliased, "colour", ("colour",)),
        (Aliased, "again", ("again",)),
        (Aliased, "labels", ("labels",)),
        (Aliased, "kinds", ("kinds",)),
        (Aliased, "below.code", ("below", "code")),
        (Aliased, "aside.code", ("aside", "code")),
        (Strict, "number", ("number",)),
        (Strict, "flags", ("flags",)),
        (Strict, "above.above.number", ("above", "above", "number")),
        (ByName, "plain", ("plain",)),
        (Validated, "other", ("other",)),
    ],
)
def test_what_travels_as_it_is_has_a_place_in_the_body(cls: type[Any], path: str, wire: tuple[str, ...]) -> None:
    assert wire_path(cls, path.split(".")) == wire


@pytest.mark.parametrize(
    ("cls", "path"),
    [
        (Plain, "price"),  # fractions are written in many ways
        (Plain, "amount"),
        (Plain, "any_case"),
        (Plain, "synonym"),
        (Plain, "inners.code"),  # nobody knows how a broker looks at several objects
        (Plain, "lists"),
        (Plain, "mixed"),
        (Plain, "objects.name"),
        (Plain, "open"),
        (Plain, "open.anything"),
        (Plain, "either.code"),
        (Plain, "numbers.one"),
        (AsList, "order_id"),
        (Hidden, "text"),
        (Shadowing, "order_id"),
        (Changing, "text"),
        (Described, "text"),
        (Converting, "text"),
        (Checking, "text"),
        (Nested, "code"),
        (Aliased, "several"),
        (Aliased, "secret"),
        (Aliased, "upper"),
        (Aliased, "uppers"),
        (Aliased, "number"),  # "1" is taken for a number, too
        (Aliased, "level"),
        (Aliased, "any_case"),
        (Aliased, "address"),
        (Aliased, "words"),
        (Aliased, "many.code"),
        (Aliased, "nested.code"),
        (Aliased, "noted.code"),
        (Aliased, "twice"),
        (Strict, "lax"),
        (Strict, "level"),  # true is taken for 1
        (Upper, "text"),
        (ByName, "text"),
        (Validated, "text"),
        (Meddling, "text"),
        (Whole, "text"),
        (Late, "text"),
        (Own, "text"),
        (Loud, "text"),
        (Rooted, "bare"),
        (Rooted, "bare.root"),
    ],
)
def test_what_may_be_another_value_on_the_wire_has_none(cls: type[Any], path: str) -> None:
    assert wire_path(cls, path.split(".")) is None


@pytest.mark.parametrize(("cls", "path"), [(Plain, "constant"), (Plain, "txt"), (Plain, "inner.text"), (Aliased, "orderId")])
def test_a_field_that_is_not_there_is_named(cls: type[Any], path: str) -> None:
    with pytest.raises(UnknownFieldError) as caught:
        wire_path(cls, path.split("."))
    assert caught.value.name == path.split(".")[-1]


@pytest.mark.parametrize(
    ("cls", "path", "known"),
    [
        (Plain, "inner", ("code",)),
        (Plain, "inners", ("code",)),
        (Plain, "numbers", ()),
        (Aliased, "below", ("code",)),
        (Aliased, "noted", ("code",)),
    ],
)
def test_a_path_that_ends_before_a_value_says_what_there_is(cls: type[Any], path: str, known: tuple[str, ...]) -> None:
    """Of a mapping nobody knows its keys."""
    with pytest.raises(NoValueError) as caught:
        wire_path(cls, path.split("."))
    assert caught.value.known == known


def test_a_class_that_nobody_can_read_has_no_places() -> None:
    """Its types are not there, and what msgspec says of that it says when the contract is used."""

    @dataclass
    class Lost:
        text: "Nowhere"  # type: ignore[name-defined]  # noqa: F821

    assert wire_path(Lost, ["text"]) is None
