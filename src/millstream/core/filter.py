"""What a subscription wants, said in fields and values, so that a broker can be told, too."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import msgspec

from millstream.contracts.errors import ConfigurationError

Value = str | int | float | bool
#: What users write: a field of the body, dots for what lies deeper, and the value or values that it may have.
Where = Mapping[str, Value | Sequence[Value]]

_decode = msgspec.json.Decoder().decode


class Filter(msgspec.Struct, frozen=True):
    """Conditions on the fields of a JSON body, all of which have to hold."""

    fields: tuple[tuple[str, tuple[Value, ...]], ...]
    """Each field by its path, and the values it may have."""

    def matches(self, body: bytes) -> bool:
        """Whether a body is wanted; one that is no JSON object is, so that whoever decodes it says what is wrong with it."""
        try:
            document: object = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return True
        return not isinstance(document, dict) or all(
            _has(cast("object", document), path.split("."), values) for path, values in self.fields
        )


def filter_of(where: Where, fields: Sequence[str] | None) -> Filter:
    """The filter that a subscriber has written, whose contract has these fields in its body; None where nobody knows them.

    Raises `ConfigurationError`, which names the field and what is wrong with it.
    """
    if not where:
        raise ConfigurationError("where={} wants everything; leave it out")
    for path in where:
        below = next((other for other in where if str(other).startswith(f"{path}.")), None)
        if below is not None:
            raise ConfigurationError(f"where= names {path!r} and {below!r}, which lies in it: no value can be both; leave one out")
    return Filter(tuple((path, _values(path, given, fields)) for path, given in where.items()))


def _values(path: object, given: object, fields: Sequence[str] | None) -> tuple[Value, ...]:
    if not isinstance(path, str) or not all(path.split(".")):
        raise ConfigurationError(f"where= has {path!r} for a field; write the name of one, or customer.country for one that lies deeper")
    first = path.partition(".")[0]
    if fields is not None and first not in fields:
        near = difflib.get_close_matches(first, fields, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(fields)}"
        raise ConfigurationError(f"where= names the field {first!r}, and the body has none of that name: {hint}")
    several = list(cast("Sequence[object]", given)) if isinstance(given, (list, tuple, set, frozenset)) else [given]
    values = [value for value in several if isinstance(value, (str, int, float, bool)) and value == value]  # noqa: PLR0124 - NaN
    if not values or len(values) < len(several):
        raise ConfigurationError(f"where= wants {path!r} to be {given!r}; give a text, a number, True or False, or a list of such values")
    return tuple(values)


def union(filters: Sequence[Filter | None]) -> Filter | None:
    """What lets through all that any of these does, and perhaps more; None where that is everything."""
    if not filters or None in filters:
        return None
    each = [dict(one.fields) for one in filters if one is not None]
    common = [path for path in each[0] if all(path in fields for fields in each)]
    if not common:
        return None
    return Filter(tuple((path, _different(value for fields in each for value in fields[path])) for path in common))


def _different(values: Iterable[Value]) -> tuple[Value, ...]:
    # To Python True is 1.
    return tuple({(isinstance(value, bool), value): value for value in values}.values())


def _has(document: object, path: Sequence[str], values: Sequence[Value]) -> bool:
    """Whether what lies at a path is one of these; of a list, whether any element is."""
    if isinstance(document, list):
        return any(_has(element, path, values) for element in cast("list[object]", document))
    if path:
        return isinstance(document, dict) and _has(cast("dict[str, object]", document).get(path[0]), path[1:], values)
    # True is no 1 in JSON.
    return any(document == value and isinstance(document, bool) == isinstance(value, bool) for value in values)
