"""The fields of a contract's body: what they are called in Python, and what of them travels as it is."""

import enum
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Union

#: What has elements: a path leads through each of them.
_SEVERAL = (list, tuple, set, frozenset, Sequence, Iterable)
#: What pydantic does to texts when a model says so.
_CHANGES_TEXTS = ("str_to_lower", "str_to_upper", "str_strip_whitespace", "coerce_numbers_to_str")


class Field(NamedTuple):
    """One field of a class."""

    hint: object
    """Its type, as it is annotated."""
    wire: str | None
    """Its name in the JSON body; None where it has none, or where what stands there need not be the field's value."""
    lax: bool = False
    """Whether a number may travel as text: then only texts are what they are."""


class UnknownFieldError(LookupError):
    """A path names a field that its class does not have."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(name)
        self.name = name
        self.known = known


def fields_of(cls: object) -> Mapping[str, Field] | None:
    """The fields of a dataclass, Struct, attrs class or pydantic model; None of anything else."""
    if not isinstance(cls, type):
        return None
    if hasattr(cls, "model_validate_json"):
        return _of_model(cls)
    try:
        hints = typing.get_type_hints(cls)
    except (NameError, TypeError):
        hints = {}
    names: Mapping[str, str | None]
    if (struct := getattr(cls, "__struct_config__", None)) is not None:
        given: Any = cls
        exact = not struct.array_like and not hasattr(cls, "__post_init__")
        names = dict(zip(given.__struct_fields__, given.__struct_encode_fields__, strict=True))
    elif (attributes := getattr(cls, "__attrs_attrs__", None)) is not None:
        exact = not hasattr(cls, "__attrs_post_init__")
        names = {attribute.name: attribute.name if attribute.converter is None else None for attribute in attributes}
    elif (declared := getattr(cls, "__dataclass_fields__", None)) is not None:
        exact = not hasattr(cls, "__post_init__")
        names = {name: name for name in declared if typing.get_origin(hints.get(name)) is not typing.ClassVar}
    else:
        return None
    return {name: Field(hints.get(name), wire if exact else None) for name, wire in names.items()}


def _of_model(cls: Any) -> Mapping[str, Field]:
    decorated, config = cls.__pydantic_decorators__, cls.model_config
    exact = not any(
        (
            decorated.validators, decorated.field_validators, decorated.root_validators, decorated.model_validators,
            decorated.field_serializers, decorated.model_serializers, *(config.get(name) for name in _CHANGES_TEXTS),
        )
    )  # fmt: skip
    lax = not config.get("strict", False)
    found: dict[str, Field] = {}
    for name, field in cls.model_fields.items():
        as_it_is = exact and not field.metadata and not field.exclude
        found[name] = Field(field.annotation, (field.serialization_alias or name) if as_it_is else None, lax)
    return found | {name: Field(None, None) for name in cls.model_computed_fields}


def wire_path(cls: type[Any], path: Sequence[str]) -> tuple[str, ...] | None:
    """Where a field lies in the JSON body, if what lies there is the field's value, for texts, whole numbers and booleans.

    None where it may be another, because code of the user's stands between them, or where
    nobody knows. Raises `UnknownFieldError` for a field that a class on the way does not have.
    """
    hint: object = cls
    wire: list[str] = []
    exact, lax = True, False
    for name in path:
        fields = fields_of(_inner(hint))
        if fields is None:
            return None
        if name not in fields:
            raise UnknownFieldError(name, tuple(fields))
        field = fields[name]
        hint, lax = field.hint, lax or field.lax
        exact = exact and field.wire is not None
        wire.append(field.wire or "")
    return tuple(wire) if exact and _is_plain(_inner(hint), lax=lax) else None


def _inner(hint: object) -> object:
    """A type without its None, and the type of what it has several of."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        others = [argument for argument in arguments if argument is not type(None)]
        return _inner(others[0]) if len(others) == 1 else None
    return _inner(arguments[0]) if origin in _SEVERAL and arguments else hint


def _is_plain(hint: object, *, lax: bool) -> bool:
    values: Iterable[object]
    if typing.get_origin(hint) is Literal:
        values = typing.get_args(hint)
    elif isinstance(hint, type) and issubclass(hint, enum.Enum):
        values = [member.value for member in hint]
    else:
        return hint is str or (hint in (int, bool) and not lax)
    return all(isinstance(value, str if lax else (str, int)) for value in values)
