"""Which fields are in the JSON body what they are in Python, as the library that decodes the body describes it.

Everything here is a list of what is known to be harmless: what is not on it may change a value on its way.
"""

import enum
import inspect
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, cast

import msgspec.inspect as msg

_Schema = Mapping[str, Any]
#: Code of the user's that msgspec runs when it has read an object, or pydantic in its place.
_HOOKS = ("__post_init__", "__attrs_pre_init__", "__attrs_post_init__", "__pydantic_validator__")

_ALWAYS = {"type", "ref", "metadata", "strict"}
#: By the type of a schema of pydantic's, what may be said of it besides: what only refuses values, or concerns others than it.
_HARMLESS: Mapping[str, Collection[str]] = {
    "model": {"cls", "schema", "config", "frozen", "generic_origin", "extra_behavior"},
    "model-fields": {"fields", "model_name", "computed_fields", "extra_behavior"},
    "model-field": {"schema", "validation_alias", "serialization_alias", "frozen"},
    "definitions": {"schema", "definitions"},
    "definition-ref": {"schema_ref"},
    "default": {"schema", "default", "default_factory", "validate_default"},
    "nullable": {"schema"},
    "list": {"items_schema", "min_length", "max_length", "fail_fast"},
    "set": {"items_schema", "min_length", "max_length", "fail_fast"},
    "frozenset": {"items_schema", "min_length", "max_length", "fail_fast"},
    "tuple": {"items_schema", "variadic_item_index", "min_length", "max_length", "fail_fast"},
    "str": {"min_length", "max_length", "pattern", "regex_engine"},
    "int": {"ge", "gt", "le", "lt", "multiple_of"},
    "bool": (),
    "literal": {"expected"},
    "enum": {"cls", "members", "sub_type"},
}
_HARMLESS_CONFIG = {
    "title", "strict", "extra_fields_behavior", "from_attributes", "validate_by_alias", "validate_by_name", "serialize_by_alias",
    "validate_default", "str_min_length", "str_max_length", "regex_engine", "hide_input_in_errors", "revalidate_instances",
    "ser_json_bytes", "ser_json_inf_nan", "ser_json_temporal", "ser_json_timedelta",
}  # fmt: skip


def verbatim_path(cls: type[Any], path: Sequence[str]) -> tuple[str, ...] | None:
    """Where in the body a field lies whose value is what lies there; None where it may be another, or where nobody knows.

    A value is a text, a whole number or a boolean, or a list of such; on its way are objects and no lists of them.
    """
    follow = _through_pydantic if hasattr(cls, "model_validate_json") else _through_msgspec
    try:
        return follow(cls, path)
    except Exception:  # noqa: BLE001 - of a class that cannot be read nobody knows; why, whoever decodes it says
        return None


# What msgspec decodes: dataclasses, Structs and attrs classes


def _through_msgspec(cls: type[Any], path: Sequence[str]) -> tuple[str, ...] | None:
    node: msg.Type = msg.type_info(cls)
    wire: list[str] = []
    for name in path:
        if not isinstance(node, (msg.StructType, msg.DataclassType)) or _runs_code(node, name) or not _is_read_as_stored(node.cls, name):
            return None
        field = next(field for field in node.fields if field.name == name)
        wire.append(field.encode_name)
        node = _without_none(field.type)
    elements = [node.item_type] if isinstance(node, msg.CollectionType) else node.item_types if isinstance(node, msg.TupleType) else [node]
    return tuple(wire) if all(map(_is_value, elements)) else None


def _runs_code(node: msg.StructType | msg.DataclassType, name: str) -> bool:
    """Whether a field may be changed once it is read."""
    attributes: Sequence[Any] = getattr(node.cls, "__attrs_attrs__", ())
    return (
        any(hasattr(node.cls, hook) for hook in _HOOKS)
        or (isinstance(node, msg.StructType) and node.array_like)
        or any(attribute.validator is not None or (attribute.converter is not None and attribute.name == name) for attribute in attributes)
    )


def _without_none(node: msg.Type) -> msg.Type:
    if isinstance(node, msg.UnionType):
        others = [each for each in node.types if not isinstance(each, msg.NoneType)]
        return others[0] if len(others) == 1 else node
    return node


def _is_value(node: msg.Type) -> bool:
    if isinstance(node, msg.LiteralType):
        return _are_values(node.values, numbers=True)
    if isinstance(node, msg.EnumType):
        return _is_looked_up(node.cls, numbers=True)
    return isinstance(node, (msg.StrType, msg.IntType, msg.BoolType))


# What pydantic decodes: its own models


def _through_pydantic(cls: Any, path: Sequence[str]) -> tuple[str, ...] | None:
    if next(each for each in cls.__mro__ if "model_validate_json" in vars(each)).__module__ != "pydantic.main":
        return None
    definitions: dict[str, _Schema] = {}
    node, strict = _opened(cls.__pydantic_core_schema__, definitions), False
    wire: list[str] = []
    for name in path:
        if node is None or node["type"] != "model" or not _is_read_as_stored(node["cls"], name):
            return None
        config: _Schema = node.get("config") or {}
        fields: _Schema = node["schema"].get("fields", {})
        if not _is_harmless(node["schema"]) or _said(config) - _HARMLESS_CONFIG or any(map(_is_handed_others, fields.values())):
            return None
        field: _Schema | None = fields.get(name)
        if field is None or not _is_harmless(field):
            return None
        alias: object = field.get("validation_alias", name)
        if not isinstance(alias, str) or (alias != name and (config.get("validate_by_name") or config.get("validate_by_alias") is False)):
            return None
        wire.append(alias)
        node, strict = _opened(field["schema"], definitions), bool(config.get("strict"))
    if node is None:
        return None
    several: object = node.get("items_schema", [node])
    elements = cast("Sequence[_Schema]", several if isinstance(several, list) else [several])
    return tuple(wire) if all(_is_scalar(_opened(each, definitions, none=False), strict=strict) for each in elements) else None


def _opened(node: _Schema, definitions: dict[str, _Schema], *, none: bool = True) -> _Schema | None:
    """What a schema is but for its default, its None and its place; None where it is in doubt."""
    while _is_harmless(node):
        kind = node["type"]
        if kind == "definitions":
            definitions.update((each["ref"], each) for each in node["definitions"])
        if kind == "definition-ref":
            node = definitions[node["schema_ref"]]
        elif kind == "definitions" or (none and kind in ("default", "nullable")):
            node = node["schema"]
        else:
            return node
    return None


def _is_harmless(node: _Schema) -> bool:
    return node["type"] in _HARMLESS and not _said(node) - _ALWAYS - set(_HARMLESS[node["type"]])


def _said(node: _Schema) -> set[str]:
    return {name for name, value in node.items() if value is not None and value is not False}


def _is_handed_others(node: object) -> bool:
    """Whether code of a field's is handed the fields of its model that are read already, which it might change."""
    if isinstance(node, (list, tuple)):
        return any(map(_is_handed_others, cast("Sequence[object]", node)))
    if not isinstance(node, dict):
        return False
    schema = cast("dict[str, object]", node)
    handed = schema.get("type") == "with-info" or bool(schema.get("default_factory_takes_data"))
    return schema.get("type") != "model" and (handed or any(map(_is_handed_others, schema.values())))


def _is_scalar(node: _Schema | None, *, strict: bool) -> bool:
    if node is None:
        return False
    match node["type"]:
        case "str":
            return True
        case "int" | "bool":
            # Who is not strict takes a text for a number, too,
            return bool(node.get("strict", strict))
        # and even who is takes true for what is 1.
        case "literal":
            return _are_values(node["expected"], numbers=False)
        case "enum":
            return _is_looked_up(node["cls"], numbers=False)
        case _:
            return False


# Both


def _is_read_as_stored(cls: type[Any], name: str) -> bool:
    """Whether who reads a field of an object gets what was written to it."""
    kept: object = inspect.getattr_static(cls, name, None)
    slot = isinstance(kept, types.MemberDescriptorType)
    return cls.__getattribute__ is object.__getattribute__ and (slot or not any(hasattr(kept, way) for way in ("__get__", "__set__")))


def _are_values(values: Iterable[object], *, numbers: bool) -> bool:
    return all(type(value) is str or (numbers and type(value) is int) for value in values)


def _is_looked_up(cls: Any, *, numbers: bool) -> bool:
    """Whether a member of an enum is found by its value and by nothing else."""
    by_value: Mapping[object, enum.Enum] = cls._value2member_map_
    return (
        cls._missing_.__func__ is cast("Any", enum.Enum)._missing_.__func__
        and _are_values((member.value for member in cls), numbers=numbers)
        and all(type(member.value) is type(value) and member.value == value for value, member in by_value.items())
    )
