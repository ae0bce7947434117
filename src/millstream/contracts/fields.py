"""The fields of a contract's body: what they are called in Python, and where in the body they lie."""

import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Union

from millstream.contracts.verbatim import verbatim_path

#: What has elements of one type: a path leads through each of them.
_SEVERAL = (list, tuple, set, frozenset, Sequence, Iterable)


class UnknownFieldError(LookupError):
    """A path names a field that its class does not have."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(name)
        self.name = name
        self.known = known


class NoValueError(LookupError):
    """A path ends at what is never one value, and leads further."""

    def __init__(self, known: Sequence[str]) -> None:
        super().__init__()
        self.known = known
        """The fields that it has; none of a mapping, which has any."""


def fields_of(cls: object) -> Mapping[str, object] | None:
    """The fields of a dataclass, Struct, attrs class or pydantic model, and their types as they are annotated; None of anything else."""
    if not isinstance(cls, type):
        return None
    if hasattr(cls, "model_validate_json"):
        model: Any = cls
        return {name: field.annotation for name, field in model.model_fields.items()} | dict.fromkeys(model.model_computed_fields)
    try:
        hints = typing.get_type_hints(cls)
    except (NameError, TypeError):
        hints = {}
    names: Iterable[str]
    if (stored := getattr(cls, "__struct_fields__", None)) is not None:
        names = stored
    elif (attributes := getattr(cls, "__attrs_attrs__", None)) is not None:
        names = [attribute.name for attribute in attributes]
    elif (declared := getattr(cls, "__dataclass_fields__", None)) is not None:
        names = [name for name in declared if typing.get_origin(hints.get(name)) is not typing.ClassVar]
    else:
        return None
    return {name: hints.get(name) for name in names}


def wire_path(cls: type[Any], path: Sequence[str]) -> tuple[str, ...] | None:
    """Where a field lies in the JSON body, if what lies there is its value: a text, a whole number, a boolean, or a list of such.

    None where it may be another, because code of the user's stands between them, where it
    lies in each of several objects, or where nobody knows. Raises `UnknownFieldError` for a
    field that a class on the way does not have, and `NoValueError` where the path ends too early.
    """
    hint: object = cls
    for name in path:
        fields = fields_of(hint)
        if fields is None:
            return None
        if name not in fields:
            raise UnknownFieldError(name, tuple(fields))
        hint = _inner(fields[name])
    plain = typing.get_origin(hint) or hint
    if isinstance(plain, type) and issubclass(plain, Mapping):
        raise NoValueError(())
    if (within := fields_of(hint)) is not None and not _is_written_as_a_value(hint):
        raise NoValueError(tuple(within))
    return verbatim_path(cls, path)


def _inner(hint: object) -> object:
    """A type without its None, and the type of what it has several of; None where there are different ones."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _inner(arguments[0])
    if origin in (Union, types.UnionType):
        others = [argument for argument in arguments if argument is not type(None)]
    elif origin in _SEVERAL:
        others = [argument for argument in arguments if argument is not Ellipsis]
    else:
        return hint
    return _inner(others[0]) if others and all(other == others[0] for other in others) else None


def _is_written_as_a_value(cls: Any) -> bool:
    """Whether a pydantic model may be one text or number in JSON."""
    return hasattr(cls, "model_validate_json") and bool(cls.__pydantic_root_model__ or cls.__pydantic_decorators__.model_serializers)
