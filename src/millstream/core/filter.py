"""What a subscription wants, said in fields and values, so that a broker can be told, too."""

import difflib
import enum
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import msgspec

from millstream.contracts.errors import ConfigurationError
from millstream.contracts.fields import NoValueError, UnknownFieldError, wire_path

Value = str | int | float | bool
#: What users write: a field, dots for what lies deeper, and the value or values that it may have.
Where = Mapping[str, Value | Sequence[Value]]


class Condition(msgspec.Struct, frozen=True):
    """A field, and the values that it may have."""

    path: tuple[str, ...]
    values: tuple[Value, ...]
    wire: tuple[str, ...] | None
    """Where it lies in the JSON body, if what lies there is its value; else None."""


class Filter(msgspec.Struct, frozen=True):
    """Conditions on an event, all of which have to hold."""

    conditions: tuple[Condition, ...]

    def __str__(self) -> str:
        said = ((".".join(c.path), " or ".join(json.dumps(value, ensure_ascii=False) for value in c.values)) for c in self.conditions)
        return ", and ".join(f"{field} is {values}" for field, values in said)

    def matches(self, event: object) -> bool:
        """Whether a decoded event is wanted."""
        as_json = _as_pydantic_writes if hasattr(event, "model_dump_json") else msgspec.to_builtins
        return all(_has(event, condition.path, condition.values, as_json) for condition in self.conditions)


class Wants(msgspec.Struct, frozen=True):
    """What a broker may be told: an event whose body has one of these fields with another value is wanted by nobody."""

    fields: tuple[tuple[tuple[str, ...], tuple[Value, ...]], ...]
    """Fields of the JSON body, each by its path, and the values that are wanted. A body without the field may be wanted."""


def filter_of(where: Where, types: Sequence[type[Any]]) -> Filter:
    """The filter that a subscriber to these types has written.

    Raises `ConfigurationError`, which names the field and what is wrong with it.
    """
    if not where:
        raise ConfigurationError("where={} wants everything; leave it out")
    for path in where:
        below = next((other for other in where if str(other).startswith(f"{path}.")), None)
        if below is not None:
            raise ConfigurationError(f"where= names {path!r} and {below!r}, which lies in it: no value can be both; leave one out")
    return Filter(tuple(_condition(path, given, types) for path, given in where.items()))


def _condition(name: object, given: object, types: Sequence[type[Any]]) -> Condition:
    if not isinstance(name, str) or not all(name.split(".")):
        raise ConfigurationError(f"where= has {name!r} for a field; write the name of one, or customer.country for one that lies deeper")
    path = tuple(name.split("."))
    try:
        places = {wire_path(cls, path) for cls in types}
    except UnknownFieldError as error:
        near = difflib.get_close_matches(error.name, error.known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(error.known)}"
        raise ConfigurationError(f"where= names the field {name!r}, and there is no {error.name!r}: {hint}") from None
    except NoValueError as error:
        further = f"{name}.{error.known[0]}, or another field of it" if error.known else f"{name}. and a key of it"
        raise ConfigurationError(f"where= names {name!r}, which is never one value; write {further}") from None
    several = list(cast("Sequence[object]", given)) if isinstance(given, (list, tuple)) else [given]
    values = [value for value in several if isinstance(value, (str, int, float, bool)) and value == value]  # noqa: PLR0124 - NaN
    if not values or len(values) < len(several):
        raise ConfigurationError(f"where= wants {name!r} to be {given!r}; give a text, a number, True or False, or a list of such values")
    return Condition(path, tuple(values), places.pop() if len(places) == 1 else None)


def wants_of(filters: Sequence[Filter | None]) -> Wants | None:
    """What any of these may want, as far as a broker can be told; None where that is everything."""
    if not filters or None in filters:
        return None
    each = [{c.wire: c.values for c in one.conditions if c.wire is not None} for one in filters if one is not None]
    common = [path for path in each[0] if all(path in fields for fields in each)]
    if not common:
        return None
    return Wants(tuple((path, _different(value for fields in each for value in fields[path])) for path in common))


def _different(values: Iterable[Value]) -> tuple[Value, ...]:
    # To Python True is 1.
    return tuple({(isinstance(value, bool), value): value for value in values}.values())


def _has(value: object, path: Sequence[str], values: Sequence[Value], as_json: Callable[[object], object]) -> bool:
    """Whether what lies at a path is one of these; of several, whether any of them is."""
    waiting = [(value, path)]  # A list of what is still to be seen: events of others may be nested deeper than Python's stack.
    while waiting:
        value, path = waiting.pop()
        if isinstance(value, (list, tuple, set, frozenset)):
            waiting.extend((element, path) for element in cast("Iterable[object]", value))
        elif path:
            name, further = path[0], path[1:]
            inner = cast("Mapping[str, object]", value).get(name) if isinstance(value, Mapping) else getattr(value, name, None)
            if inner is not None:
                waiting.append((inner, further))
        elif not isinstance(value, Mapping):
            # As JSON has it: a Decimal, a UUID and a time are texts, an enum is its value, whatever else it is besides.
            plain: object = value.value if isinstance(value, enum.Enum) else value
            if not isinstance(plain, (str, int, float)) and plain is not None:
                plain = as_json(plain)
            if any(plain == wanted and isinstance(plain, bool) == isinstance(wanted, bool) for wanted in values):
                return True
    return False


def _as_pydantic_writes(value: object) -> object:
    from pydantic_core import to_jsonable_python  # Only who has a model has it.

    return to_jsonable_python(value, fallback=str)
