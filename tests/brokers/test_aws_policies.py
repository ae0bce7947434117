"""Policies of SNS: what they say, and that none keeps back an event that a handler wants, as far as Amazon documents what it does."""

import dataclasses
import enum
import itertools
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Literal, Union

import attrs
import msgspec
import pydantic
import pydantic.dataclasses
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millstream.brokers.aws_filter import ABSENT, BESIDES, MOST_COMBINATIONS, MOST_FIELDS, policy_of
from millstream.contracts.errors import ContractError, DecodeError
from millstream.contracts.message import codec_for, contract_of, event
from millstream.core.filter import Filter, Wants, filter_of, wants_of

MISSING = object()


def delivered(policy: dict[str, Any], document: object) -> bool:
    """Whether SNS delivers a body under a policy; where Amazon says nothing of it, it does not."""
    found = document if isinstance(document, dict) else {}
    return all(
        any(delivered(alternative, found) for alternative in wanted) if name == "$or"
        # How what is wanted of several fields goes together with the elements of a list is said nowhere.
        else (not isinstance(found.get(name), list) and delivered(wanted, found.get(name))) if isinstance(wanted, dict)
        else any(_is_said(rule, found.get(name, MISSING)) for rule in wanted)
        for name, wanted in policy.items()
    )  # fmt: skip


def _is_said(rule: Any, found: object) -> bool:
    if isinstance(rule, dict) and "exists" in rule:
        return found not in (MISSING, None, "", []) if rule["exists"] else found is MISSING
    if isinstance(found, list):
        return any(_is_said(rule, element) for element in found if not isinstance(element, list))
    if isinstance(rule, dict):
        sign, number = rule["numeric"]
        assert sign == "="
        assert abs(number) <= 10**9
        return isinstance(found, (int, float)) and not isinstance(found, bool) and found == number
    return type(found) is type(rule) and found == rule


@pytest.mark.parametrize(
    ("policy", "document", "expected"),
    [
        ({"a": ["EUR"]}, {"a": "EUR"}, True),
        ({"a": ["EUR"]}, {"a": "eur"}, False),
        ({"a": ["EUR", {"exists": False}]}, {"b": 1}, True),
        ({"a": ["EUR", {"exists": False}]}, {"a": None}, False),
        ({"a": [{"exists": True}]}, {"a": None}, False),
        ({"a": ["EUR"]}, {"a": ["CHF", "EUR"]}, True),
        ({"a": [{"numeric": ["=", 1]}]}, {"a": 1.0}, True),
        ({"a": [{"numeric": ["=", 1]}]}, {"a": True}, False),
        ({"a": {"b": ["x"]}, "c": [True]}, {"a": {"b": "x"}, "c": True}, True),
        ({"a": {"b": ["x"]}}, {"a": [{"b": "x"}]}, False),
        ({"$or": [{"a": [1]}, {"b": ["x"]}]}, {"b": "x"}, True),
    ],
)
def test_the_policies_of_these_tests_say_what_amazons_say(policy: Any, document: Any, expected: bool) -> None:
    assert delivered(policy, document) is expected


# Policies


def wants(*fields: Any) -> Wants:
    """Each a path and its values."""
    return Wants(tuple((tuple(path.split(".")), tuple(values)) for path, *values in fields))


@pytest.mark.parametrize(
    ("fields", "data"),
    [
        ([("currency", "EUR")], {"currency": ["EUR", ABSENT]}),
        ([("customer.country", "DE", "CH")], {"customer": {"country": ["DE", "CH", ABSENT]}}),
        ([("customer.country", "DE"), ("customer.vip", True)], {"customer": {"country": ["DE", ABSENT], "vip": [True, ABSENT]}}),
        ([("count", 3)], {"count": [{"numeric": ["=", 3]}, ABSENT]}),
        ([("count", 3.0)], {"count": [{"numeric": ["=", 3]}, ABSENT]}),
        ([("price", 2.5), ("currency", "EUR")], {"currency": ["EUR", ABSENT]}),
    ],
)
def test_sns_is_told_what_it_compares_as_json_does(fields: Any, data: object) -> None:
    assert json.loads(policy_of(wants(*fields))) == {"$or": [{"data": data}, *BESIDES]}


@pytest.mark.parametrize("values", [(2.5,), (10**12,), (10**400,), (float("inf"),), (1, 2.5), ("",), ('a"b',), ("a\\b",), ("a\nb",)])
def test_of_what_it_compares_otherwise_sns_is_told_nothing(values: Any) -> None:
    assert policy_of(wants(("field", *values))) == "{}"


@pytest.mark.parametrize("path", [("$or",), ("customer.country",), ("customer", "$or"), ("exists",)])
def test_of_what_is_no_name_to_it_sns_is_told_nothing(path: Any) -> None:
    """A field may have any name in a body, and to SNS a dot leads deeper and a dollar is an operator."""
    assert policy_of(Wants(((path, ("EUR",)),))) == "{}"


def test_a_filter_beyond_what_sns_takes_is_told_in_part() -> None:
    """What is left out lets more through, and the worker skips it."""
    six = json.loads(policy_of(wants(*((f"f{n}", True) for n in range(6)))))
    many = json.loads(policy_of(wants(("currency", *map(str, range(MOST_COMBINATIONS))), ("paid", True))))
    assert 0 < len(six["$or"][0]["data"]) <= MOST_FIELDS
    assert many["$or"][0]["data"] == {"paid": [True, ABSENT]}


# Contracts


class Currency(enum.Enum):
    EUR = "EUR"
    CHF = "CHF"


class AnyCase(enum.Enum):
    EUR = "EUR"

    @classmethod
    def _missing_(cls, value: object) -> Any:
        return cls.EUR if str(value).upper() == "EUR" else None


class Labelled(str, enum.Enum):
    EUR = "eur", "EUR"

    def __new__(cls, value: str, label: str) -> "Labelled":
        made = str.__new__(cls, label)
        made._value_ = value
        return made


class Number(enum.IntEnum):
    ONE = 1


TEXTS = ["EUR", "eur", " EUR", "CHF"]
NUMBERS = [1, 2, 1.0, 1.5, "1", "1.5", True, 10**12]
#: A type of a field, and what may stand in its place in a body.
SCALARS: list[tuple[Any, list[Any]]] = [
    (str, TEXTS),
    (int, NUMBERS),
    (bool, [True, False, "true", 1]),
    (Decimal, NUMBERS),
    (Literal["EUR", "CHF"], TEXTS),
    (Literal[1, 2], NUMBERS),
    (Currency, TEXTS),
    (AnyCase, TEXTS),
    (Labelled, TEXTS),
    (Number, NUMBERS),
    (str | int, [*TEXTS, *NUMBERS]),
    (Any, [*TEXTS, *NUMBERS, {"a": "EUR"}]),
    (Annotated[str, msgspec.Meta(max_length=3)], TEXTS),
    (Annotated[str, pydantic.AfterValidator(str.upper)], TEXTS),
    (Annotated[str, pydantic.StringConstraints(to_upper=True)], TEXTS),
]
WANTED: dict[bool, list[Any]] = {True: ["EUR", "eur", "CHF"], False: [1, 2.0, "1", "1.5", True, False, 10**12]}
#: What a field may have of it.
SHAPES: dict[str, Callable[[Any, list[Any]], tuple[Any, list[Any]]]] = {
    "one": lambda hint, found: (hint, found),
    "none": lambda hint, found: (Union[hint, None], [*found, None]),  # noqa: UP007 - of a type that is made here
    "list": lambda hint, found: (list[hint], [[], *([one] for one in found), found[:2]]),
    "tuple": lambda hint, found: (tuple[hint, ...], [[], *([one] for one in found), found[:2]]),
    "pair": lambda hint, found: (tuple[str, hint], [["EUR", one] for one in found]),
    "lists": lambda hint, found: (list[list[hint]], [[], *([[one]] for one in found)]),
}
NAMES = ("first", "second_one")
#: A class, bodies that may be one of it, and the paths of its fields with values that they may have.
Made = tuple[Any, list[Any], dict[str, list[Any]]]


def upper(one: Any, *_: object) -> None:
    for name in NAMES:
        if isinstance(getattr(one, name, None), str):
            object.__setattr__(one, name, getattr(one, name).upper())


def loud(one: Any, **given: Any) -> None:
    pydantic.BaseModel.__init__(one, **{name: value.upper() if isinstance(value, str) else value for name, value in given.items()})


def dataclass_of(fields: dict[str, Any], defaults: dict[str, Any], hook: bool, _: str) -> tuple[Any, dict[str, str]]:
    made = [(n, t, dataclasses.field(**({"default": defaults[n]} if n in defaults else {}))) for n, t in fields.items()]
    return dataclasses.make_dataclass("D", made, kw_only=True, namespace={"__post_init__": upper} if hook else {}), {}


def struct_of(fields: dict[str, Any], defaults: dict[str, Any], hook: bool, variant: str) -> tuple[Any, dict[str, str]]:
    made = [(n, t, defaults[n]) if n in defaults else (n, t) for n, t in fields.items()]
    rename = "camel" if variant == "alias" else None
    namespace = {"__post_init__": upper} if hook else {}
    return msgspec.defstruct("S", made, kw_only=True, rename=rename, namespace=namespace), {"second_one": "secondOne"} if rename else {}


def attrs_of(fields: dict[str, Any], defaults: dict[str, Any], hook: bool, variant: str) -> tuple[Any, dict[str, str]]:
    def field(name: str) -> Any:
        given = {"default": defaults[name]} if name in defaults else {}
        return attrs.field(type=fields[name], kw_only=True, validator=upper if variant == "validator" else None, **given)

    body = {"class_body": {"__attrs_post_init__": upper}} if hook else {}
    return attrs.make_class("A", {name: field(name) for name in fields}, **body), {}


def model_of(fields: dict[str, Any], defaults: dict[str, Any], hook: bool, variant: str) -> tuple[Any, dict[str, str]]:
    config: dict[str, Any] = {
        "upper": {"str_to_upper": True}, "strict": {"strict": True}, "alias": {"populate_by_name": True},
    }.get(variant, {})  # fmt: skip
    space: dict[str, Any] = {"model_config": pydantic.ConfigDict(**config), "__annotations__": fields} | defaults
    if hook:
        space |= {"model_post_init": upper}
    if variant == "init":
        space |= {"__init__": loud}
    if variant == "validator":
        space |= {"_upper": pydantic.field_validator(*fields)(lambda cls, value: value.upper() if isinstance(value, str) else value)}
    if variant in ("alias", "other alias"):
        default = {"default": defaults["second_one"]} if "second_one" in defaults else {}
        choices = pydantic.AliasChoices("third", "secondOne") if variant == "other alias" else "secondOne"
        space |= {"second_one": pydantic.Field(validation_alias=choices, **default)}
    return type(pydantic.BaseModel)("M", (pydantic.BaseModel,), space | {"__module__": __name__, "__qualname__": "M"}), {
        "alias": {"second_one": "secondOne"}, "other alias": {"second_one": "third"},
    }.get(variant, {})  # fmt: skip


def pydantic_dataclass_of(fields: dict[str, Any], defaults: dict[str, Any], hook: bool, variant: str) -> tuple[Any, dict[str, str]]:
    made, wire = dataclass_of(fields, defaults, hook, variant)
    return pydantic.dataclasses.dataclass(made, config=pydantic.ConfigDict(str_to_upper=variant == "upper")), wire


MSGSPEC: list[Callable[..., tuple[Any, dict[str, str]]]] = [dataclass_of, struct_of, attrs_of]
PYDANTIC: list[Callable[..., tuple[Any, dict[str, str]]]] = [model_of]
NESTED = [model_of, model_of, dataclass_of, pydantic_dataclass_of]
VARIANTS = ["", "", "alias", "other alias", "upper", "strict", "validator", "init"]


@st.composite
def classes(draw: st.DrawFn, kinds: list[Any], depth: int = 2) -> Made:
    fields: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    bodies: dict[str, list[Any]] = {}
    paths: dict[str, list[Any]] = {}
    for name in NAMES:
        if depth > 1 and draw(st.sampled_from([False, False, True])):
            hint, found, below = draw(classes(NESTED if kinds is PYDANTIC else kinds, depth - 1))
            paths |= {f"{name}.{path}": values for path, values in below.items()}
        else:
            hint, found = draw(st.sampled_from([*SCALARS[:1] * 4, *SCALARS]))
            paths[name] = WANTED["EUR" in found]
        hint, found = SHAPES[draw(st.sampled_from(["one", "one", *SHAPES]))](hint, found)
        if draw(st.booleans()):
            defaults[name] = None if None in found else "EUR"
        fields[name], bodies[name] = hint, found
    make, hook, variant = draw(st.sampled_from(kinds)), draw(st.sampled_from([False, True])), draw(st.sampled_from(VARIANTS))
    cls, wire = make(fields, defaults, hook, variant)
    chance = draw(st.randoms(use_true_random=False))
    several = [{wire.get(name, name): chance.choice(bodies[name]) for name in NAMES} for _ in range(30)]
    # By another name, or not at all.
    others = [{name: chance.choice(bodies[name])} | body for body in several for name in wire]
    return cls, [*several, *others, *({name: body[name]} for body in several[:5] for name in body)], paths


def keeps_nothing_back(cls: Any, bodies: list[Any], groups: Callable[[list[Filter]], list[list[Filter]]], wheres: list[Any]) -> None:
    """What any filter of a group wants is delivered to it."""
    declared = event("made")(cls)
    try:
        codec = codec_for(contract_of(declared))
    except ContractError:
        return
    made = groups([filter_of(where, [declared]) for where in wheres])
    policies = [json.loads(policy_of(wants_of(group))) for group in made]
    for body in bodies:
        try:
            decoded = codec.decode(json.dumps(body).encode())
        except DecodeError:
            continue
        for group, policy in zip(made, policies, strict=True):
            if any(one.matches(decoded) for one in group):
                assert delivered(policy, {"specversion": "1.0", "data": body}), (body, policy)


@pytest.mark.parametrize(
    ("make", "variant"),
    [
        (dataclass_of, ""), (struct_of, ""), (struct_of, "alias"), (attrs_of, ""), (attrs_of, "validator"),
        *((model_of, variant) for variant in sorted(set(VARIANTS))),
    ],
)  # fmt: skip
def test_whatever_is_made_of_a_field_no_value_that_is_wanted_is_kept_back(make: Callable[..., Any], variant: str) -> None:
    """By code of the contract's own, by its library, or by neither."""
    for hook, (hint, found), shape in itertools.product((False, True), SCALARS, SHAPES.values()):
        of, candidates = shape(hint, found)
        cls, wire = make({"second_one": of}, {}, hook, variant)
        name = wire.get("second_one", "second_one")
        bodies = [{name: one} for one in candidates] + [{name: one, "second_one": candidates[0]} for one in candidates]
        wheres = [{"second_one": value} for value in WANTED["EUR" in found]]
        keeps_nothing_back(cls, bodies, lambda filters: [[one] for one in filters], wheres)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.sampled_from([MSGSPEC, PYDANTIC]))
def test_what_any_handler_of_a_group_wants_is_delivered(data: st.DataObject, kinds: list[Any]) -> None:
    """Several fields, objects within objects, and several handlers."""
    cls, bodies, paths = data.draw(classes(kinds))
    several = data.draw(st.integers(2, 3))

    def groups(filters: list[Filter]) -> list[list[Filter]]:
        return [*([one] for one in filters), *itertools.combinations(filters[-6:], several)]

    wheres: list[Any] = [{path: value} for path, values in paths.items() for value in values] + [dict(list(paths.items())[:2])]
    keeps_nothing_back(cls, bodies, groups, wheres)
