"""Contracts: plain types with a name, a version and a key, and their JSON bodies."""

import re
from collections.abc import Callable
from functools import lru_cache
from operator import attrgetter
from typing import Any, Literal, NamedTuple, TypeVar, cast
from uuid import UUID

import msgspec

from millstream.contracts.errors import ContractError, DecodeError

Kind = Literal["event", "command"]
Wire = Literal["cloudevents", "json", "confluent"]

_Class = TypeVar("_Class", bound=type)
_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*", re.ASCII)
_WIRES = ("cloudevents", "json", "confluent")

# CloudEvents forbids these in every attribute, and the key travels as one.
_UNSAFE = "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"


class Contract(msgspec.Struct, frozen=True):
    """What a decorated type promises to those who publish and those who handle it."""

    name: str
    version: int
    key: str | None
    """The field whose value orders events; None where order does not matter."""
    topic: str
    kind: Kind
    wire: Wire
    type: type[Any]
    summary: str
    """The first line of the type's docstring, or an empty string."""


class BodyCodec(NamedTuple):
    """One contract's way to bytes and back.

    `encode` raises ContractError for a value that JSON cannot hold; `decode` raises
    DecodeError for bytes that are not this contract, whatever is wrong with them.
    """

    encode: Callable[[object], bytes]
    decode: Callable[[bytes], object]


def event(
    name: str, *, version: int = 1, key: str | None = None, topic: str | None = None, wire: Wire = "cloudevents"
) -> Callable[[_Class], _Class]:
    """Make a dataclass, msgspec Struct, attrs class or pydantic model the contract of an event.

    The class itself is returned, unchanged but for `__millstream__`. The topic is the
    event's name unless `topic` puts several types on one topic. `wire` says how messages
    without an envelope are read, as bare JSON or in Confluent's frame; on Kafka the latter
    is also how it is published. A wrong declaration raises ContractError here, when the
    module is imported.
    """
    return _declare("event", name, version, key, topic, wire)


def command(
    name: str, *, version: int = 1, key: str | None = None, topic: str | None = None, wire: Wire = "cloudevents"
) -> Callable[[_Class], _Class]:
    """Like `event`, for what somebody asks for instead of what has happened."""
    return _declare("command", name, version, key, topic, wire)


def contract_of(cls_or_instance: object) -> Contract:
    """The contract of a decorated class or of its instance.

    A subclass has its parent's fields but not its parent's contract: it needs its own.
    """
    cls = cast("type[Any]", cls_or_instance if isinstance(cls_or_instance, type) else type(cls_or_instance))
    contract = getattr(cls, "__millstream__", None)
    if isinstance(contract, Contract) and contract.type is cls:
        return contract
    raise ContractError(
        f"{cls.__qualname__} is not a contract, so it has no name to travel under; "
        f'put @event("some.name") or @command("some.name") above the class'
    )


class Publisher(NamedTuple):
    """All that publishing a message of one type takes, looked up once."""

    contract: Contract
    encode: Callable[[object], bytes]
    key: Callable[[object], str | None]


@lru_cache(maxsize=4096)
def publisher_of(cls: type[Any]) -> Publisher:
    """How messages of a decorated class are published; raises ContractError where it is none."""
    contract = contract_of(cls)
    return Publisher(contract, codec_for(contract).encode, _key_reader(cls))


def key_of(message: object) -> str | None:
    """The key of one message as text, or None where its contract declares no key."""
    return _key_reader(type(message))(message)


@lru_cache(maxsize=4096)
def _key_reader(cls: type[Any]) -> Callable[[object], str | None]:
    contract = contract_of(cls)
    field = contract.key
    if field is None:
        return lambda _message: None
    value_of = attrgetter(field)

    def key(message: object) -> str | None:
        value = value_of(message)
        # What nearly every key is.
        if type(value) is str and value and value.isprintable():
            return value
        try:
            return key_text(value)
        except ContractError as error:
            raise ContractError(f"{contract.name}: the key field {field!r} cannot be used: {error}") from None

    return key


def key_text(value: object) -> str:
    """A key as the text that travels; the same value gives the same text everywhere."""
    # bool is an int to Python, but True as a key is always a mistake.
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return int.__str__(value)
        except ValueError as error:
            raise ContractError(f"an int this long cannot be a key: {error}; use a shorter key") from error
    if isinstance(value, UUID):
        return str(value)
    if not isinstance(value, str):
        raise ContractError(
            f"a key is a str, an int or a UUID, not {type(value).__name__}; choose another field as key"
        )
    # A str enum is a str too, and must travel as its value.
    text = str.__str__(value)
    if not text:
        raise ContractError("a key must not be empty, or unrelated events would wait for each other; give it a value")
    if not is_safe(text):
        raise ContractError(
            f"the key {text!r} has characters that cannot travel in a header; remove control characters"
        )
    return text


def is_safe(text: str) -> bool:
    """Whether a text can travel as an attribute: without control characters and what is no character."""
    # isprintable is one fast call and refuses a little too much; the expression, compiled when it is first needed, has the last word.
    return text.isprintable() or re.search(_UNSAFE, text) is None


def codec_for(contract: Contract) -> BodyCodec:
    """The body codec of a contract, compiled at the first call and kept."""
    return _codec(contract.type)


def _declare(
    kind: Kind, name: str, version: int, key: str | None, topic: str | None, wire: Wire
) -> Callable[[_Class], _Class]:
    if not _NAME.fullmatch(name):
        raise ContractError(
            f"{name!r} cannot name a contract: names are lower-case words, digits and underscores joined by dots; "
            f'write something like "order.created"'
        )
    # A version arrives from outside too, where `True` would pass for 1.
    if type(version) is not int or version < 1:
        raise ContractError(f"{name}: version {version!r} is not a whole number from 1; count versions 1, 2, 3")
    if topic is not None and (not topic or not is_safe(topic)):
        raise ContractError(f"{name}: {topic!r} cannot name a topic; leave it out to use the contract's name")
    if wire not in _WIRES:
        raise ContractError(f"{name}: unknown wire {wire!r}; use one of {', '.join(_WIRES)}")

    def declare(cls: _Class) -> _Class:
        fields = _fields(cls)
        if fields is None:
            raise ContractError(
                f"{cls.__qualname__} has no declared fields, so {name} would have no body; make it a dataclass, "
                f"msgspec.Struct, attrs class or pydantic model, with @{kind} above (outside) the other decorator"
            )
        if key is not None and key not in fields:
            raise ContractError(
                f"{name}: the key {key!r} is not a field of {cls.__qualname__}; "
                f"use one of {', '.join(fields) or 'none'}"
            )
        contract = Contract(name, version, key, topic or name, kind, wire, cls, _summary(cls))
        type.__setattr__(cls, "__millstream__", contract)
        return cls

    return declare


def _fields(cls: type[Any]) -> tuple[str, ...] | None:
    # Only what the class's own decorator has left in place: a plain subclass of a dataclass is fine.
    if (names := getattr(cls, "__struct_fields__", None)) is not None:
        return tuple(names)
    if _is_pydantic(cls):
        return tuple(cls.model_fields)
    if (attributes := getattr(cls, "__attrs_attrs__", None)) is not None:
        return tuple(attribute.name for attribute in attributes)
    if (attributes := getattr(cls, "__dataclass_fields__", None)) is not None:
        return tuple(attributes)
    return None


def _is_pydantic(cls: type[Any]) -> bool:
    # By its methods: importing pydantic to ask would cost everybody who does not use it.
    return hasattr(cls, "model_validate_json") and hasattr(cls, "model_dump_json")


def _summary(cls: type[Any]) -> str:
    doc = cls.__doc__
    # dataclass writes "Name(field: type)" where the user wrote nothing.
    if not doc or doc.startswith(f"{cls.__name__}("):
        return ""
    # pydantic and Struct classes without a docstring may inherit their base's.
    if "__doc__" not in cls.__dict__:
        return ""
    return doc.strip().partition("\n")[0].strip()


@lru_cache(maxsize=4096)
def _codec(cls: type[Any]) -> BodyCodec:
    contract = contract_of(cls)
    encode, decode = _pydantic_functions(cls) if _is_pydantic(cls) else _msgspec_functions(contract)
    label = f"{contract.name} version {contract.version}"

    def checked_encode(message: object) -> bytes:
        try:
            return encode(message)
        except Exception as error:
            raise ContractError(
                f"{label} could not be encoded as JSON: {error}; use field types that JSON can hold"
            ) from error

    def checked_decode(body: bytes) -> object:
        try:
            return decode(body)
        # Validators and __post_init__ are users' code and raise anything; whatever it is, these bytes do not fit.
        except Exception as error:
            raise DecodeError(
                f"these {len(body)} bytes are not {label}: {error}; "
                f"repair the body, or publish what changed as a new version"
            ) from error

    return BodyCodec(checked_encode, checked_decode)


def _msgspec_functions(contract: Contract) -> tuple[Callable[[object], bytes], Callable[[bytes], object]]:
    try:
        decoder = msgspec.json.Decoder[Any](contract.type)
    except Exception as error:
        raise ContractError(
            f"{contract.name}: the fields of {contract.type.__qualname__} cannot be read from JSON: {error}; "
            f"use types that msgspec supports, or a pydantic model"
        ) from error
    return msgspec.json.Encoder(decimal_format="string").encode, decoder.decode


def _pydantic_functions(cls: type[Any]) -> tuple[Callable[[object], bytes], Callable[[bytes], object]]:
    def encode(message: Any) -> bytes:
        # by_alias, because model_validate_json reads aliases.
        return message.model_dump_json(by_alias=True).encode()

    return encode, cls.model_validate_json
