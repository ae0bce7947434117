"""Handlers: what users write, compiled once into what the worker calls."""

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any, Literal, Union, cast

import msgspec

from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import ConfigurationError, HandlerResultError
from millstream.contracts.message import Contract, Wire, contract_of
from millstream.core.filter import Filter, Where, filter_of
from millstream.core.retry import Retry
from millstream.core.store import Transaction

DeliveryMode = Literal["effectively_once", "at_least_once"]
#: What is promised of a handler: what `delivery=` asks for, or `exactly_once=True`.
Promise = Literal["effectively_once", "at_least_once", "exactly_once"]


class Depends(msgspec.Struct, frozen=True):
    """A parameter whose value `make()` gives, afresh for each delivery.

    `make` is a function, an async function, or a generator of either kind that yields
    once: what follows its `yield` runs when the handler has ended.
    """

    make: Callable[[], Any]


class Context:
    """What a handler may know of the delivery it works on, and a way to publish."""

    __slots__ = ("_first", "attempt", "envelope", "group", "published")

    def __init__(self, envelope: Envelope, group: str, attempt: int, first: int | None) -> None:
        self.envelope = envelope
        self.group = group
        self.attempt = attempt
        """Which attempt this is, from 1."""
        self.published: list[object] = []
        self._first = first

    @property
    def correlation(self) -> str:
        """The id that everything caused by the same first event shares."""
        return self.envelope.correlation or self.envelope.id

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this delivery: for calls to systems that can refuse a repetition."""
        return f"{self.group}:{self.envelope.source}:{self.envelope.id}"

    @property
    def first_failure(self) -> datetime | None:
        """When this delivery failed for the first time; None on the first attempt."""
        return None if self._first is None else datetime.fromtimestamp(self._first / 1e6, UTC)

    def publish(self, message: object) -> None:
        """Publish in this delivery's unit of work: if the handler fails, nothing is published."""
        contract_of(message)
        self.published.append(message)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a subscriber declares beside its types."""

    group: str
    retry: Retry = Retry()
    where: Callable[[Any], bool] | Where | None = None
    concurrency: int = 16
    timeout: float = 30.0
    ordered: bool = True
    delivery: DeliveryMode | None = None
    exactly_once: bool = False
    start: Literal["latest", "earliest"] = "latest"
    wire: Wire | None = None
    id: str | None = None
    topic: str | None = None
    batch: int = 100
    most_parked: int = 10_000

    def __post_init__(self) -> None:
        for name, least in (("concurrency", 1), ("batch", 1), ("most_parked", 1)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"subscriber of group {self.group!r}: {name}={getattr(self, name)} must be at least {least}")
        if not self.timeout > 0:
            raise ConfigurationError(f"subscriber of group {self.group!r}: timeout={self.timeout} must be more than 0 seconds")


Call = Callable[[Any, Any, Transaction | None], Any]


class Handler(msgspec.Struct, frozen=True, kw_only=True):
    """A user's function, ready to be called: `call(message, context, transaction)`."""

    name: str
    location: str
    """`file:line` of the function."""
    summary: str
    """The first line of its docstring."""
    contracts: tuple[Contract, ...]
    returns: tuple[Contract, ...]
    """What its return annotation says that it publishes."""
    options: Options
    is_async: bool
    is_batch: bool
    takes_transaction: bool
    takes_context: bool
    delivery: Promise
    call: Call
    where: Callable[[Any], bool] | None = None
    """Whether it wants a decoded event."""
    filter: Filter | None = None
    """The same, where `where=` says it in fields and values."""

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics it reads."""
        return tuple(dict.fromkeys(self.options.topic or contract.topic for contract in self.contracts))

    @property
    def wire(self) -> Wire:
        """How the bytes that it reads are to be understood."""
        return self.options.wire or self.contracts[0].wire


def compile_handler(function: Callable[..., Any], types_: tuple[type, ...], options: Options) -> Handler:
    """Resolve what each parameter of `function` asks for; refuse what nobody can give."""
    name = getattr(function, "__qualname__", repr(function)).rpartition("<locals>.")[2]
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise ConfigurationError(f"handler {name}: the annotation {error.name!r} cannot be resolved; import it at run time") from error
    givers: list[Giver] = []
    event_hint: object = None
    for parameter in inspect.signature(function).parameters.values():
        giver = _giver(name, parameter, hints.get(parameter.name), has_event=event_hint is not None)
        givers.append(giver)
        if giver.kind == "event":
            event_hint = hints[parameter.name]
    if event_hint is None:
        raise ConfigurationError(f"handler {name}: no parameter takes an event; annotate one with a type made by @event or @command")
    found = _events(event_hint)
    types_ = types_ or found
    if unknown := [t.__name__ for t in types_ if t not in found]:
        raise ConfigurationError(f"handler {name}: subscribes to {', '.join(unknown)}, but its event parameter does not take it")
    is_async = inspect.iscoroutinefunction(function)
    kinds = [giver.kind for giver in givers]
    returns = hints.get("return", inspect.Parameter.empty)
    # A handler without a return annotation may publish for all we know: the safe mode is assumed.
    effectful = "transaction" in kinds or "context" in kinds or returns is not type(None)
    filter = _filter(name, options.where, types_)
    handler = Handler(
        name=name,
        location=_location(function),
        summary=(inspect.getdoc(function) or "").partition("\n")[0],
        contracts=tuple(contract_of(t) for t in types_),
        returns=_returned(returns),
        options=options,
        is_async=is_async,
        is_batch=typing.get_origin(event_hint) is list,
        takes_transaction="transaction" in kinds,
        takes_context="context" in kinds,
        delivery="exactly_once" if options.exactly_once else options.delivery or ("effectively_once" if effectful else "at_least_once"),
        call=_caller(name, function, givers, is_async=is_async),
        where=options.where if callable(options.where) else filter.matches if filter is not None else None,
        filter=filter,
    )
    _check(handler)
    return handler


def _filter(handler: str, where: object, types_: Sequence[type]) -> Filter | None:
    if where is None or callable(where):
        return None
    if not isinstance(where, Mapping):
        raise ConfigurationError(f"handler {handler}: where={where!r} is neither a function nor a mapping of fields to values")
    try:
        return filter_of(cast("Where", where), types_)
    except ConfigurationError as error:
        raise ConfigurationError(f"handler {handler}: {error}") from None


def _check(handler: Handler) -> None:
    options = handler.options
    if options.exactly_once and handler.takes_transaction:
        raise ConfigurationError(
            f"handler {handler.name}: exactly_once=True commits what it publishes in a transaction of the broker, and a Transaction is "
            "one of the store's: there is none that has both. Leave exactly_once= out (with a Transaction effects and events commit "
            "together already), or write through a connection of your own"
        )
    if options.exactly_once and options.delivery is not None:
        raise ConfigurationError(
            f"handler {handler.name}: exactly_once=True says how it is delivered, and so does delivery={options.delivery!r}; "
            "leave one of them out"
        )
    if handler.takes_transaction and handler.delivery == "at_least_once":
        raise ConfigurationError(
            f"handler {handler.name}: takes a Transaction, which commits with its inbox mark, so delivery='at_least_once' cannot be meant; "
            "leave delivery= out, or write through a connection of your own"
        )
    if handler.takes_context and handler.is_batch:
        raise ConfigurationError(
            f"handler {handler.name}: a Context belongs to one delivery, and a batch has many: what it published could not be told apart. "
            "Return for each item what is to be published, or take one event at a time"
        )
    if handler.wire != "cloudevents" and len(handler.contracts) != 1:
        raise ConfigurationError(
            f"handler {handler.name}: wire={handler.wire!r} carries no type, so it can subscribe to one type only; say wire='cloudevents' "
            "if all that comes has an envelope"
        )
    if options.id is not None and handler.wire == "cloudevents":
        raise ConfigurationError(
            f"handler {handler.name}: id={options.id!r} names a field of a body without an envelope; add wire='json' or wire='confluent'"
        )


class Giver(msgspec.Struct, frozen=True):
    """Where one argument of a handler comes from."""

    kind: Literal["event", "context", "transaction", "depends", "default"]
    value: Any = None


def _giver(handler: str, parameter: inspect.Parameter, hint: object, *, has_event: bool) -> Giver:
    if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
        raise ConfigurationError(f"handler {handler}: *{parameter.name} has no type to give a value by; name each parameter")
    if (depends := _depends(parameter.default, hint)) is not None:
        return Giver("depends", depends.make)
    if hint is Context:
        return Giver("context")
    if hint is Transaction:
        return Giver("transaction")
    if not has_event and _events(hint):
        return Giver("event")
    if parameter.default is inspect.Parameter.empty:
        raise ConfigurationError(
            f"handler {handler}: nothing can be given for the parameter {parameter.name!r}; annotate it with an event type, "
            "Context or Transaction, or give it a default of Depends(...)"
        )
    return Giver("default", parameter.default)


def _caller(name: str, function: Callable[..., Any], givers: Sequence[Giver], *, is_async: bool) -> Call:
    """The cheapest way to call this signature; the usual ones build no argument list."""
    kinds = tuple(giver.kind for giver in givers)
    if kinds == ("event",):
        return lambda message, _context, _transaction: function(message)
    if kinds == ("event", "context"):
        return lambda message, context, _transaction: function(message, context)
    if kinds == ("event", "transaction"):
        return lambda message, _context, transaction: function(message, transaction)
    if "depends" in kinds:
        return _with_dependencies(name, function, givers, is_async=is_async)
    gives = [_PLAIN[giver.kind] if giver.kind in _PLAIN else _constant(giver.value) for giver in givers]
    return lambda message, context, transaction: function(*[give(message, context, transaction) for give in gives])


_PLAIN: dict[str, Call] = {
    "event": lambda message, _context, _transaction: message,
    "context": lambda _message, context, _transaction: context,
    "transaction": lambda _message, _context, transaction: transaction,
}


def _constant(value: object) -> Call:
    return lambda _message, _context, _transaction: value


def _with_dependencies(name: str, function: Callable[..., Any], givers: Sequence[Giver], *, is_async: bool) -> Call:
    makers = [giver.value for giver in givers if giver.kind == "depends"]
    if not is_async and any(inspect.iscoroutinefunction(make) or inspect.isasyncgenfunction(make) for make in makers):
        raise ConfigurationError(f"handler {name}: an async dependency needs an async handler; write `async def {name}`")
    if not is_async:
        return _with_sync_dependencies(function, givers)

    async def call(message: Any, context: Any, transaction: Transaction | None) -> Any:
        async with AsyncExitStack() as stack:
            values: list[Any] = []
            for giver in givers:
                if giver.kind != "depends":
                    values.append(_plain(giver, message, context, transaction))
                elif inspect.isasyncgenfunction(giver.value):
                    values.append(await stack.enter_async_context(asynccontextmanager(giver.value)()))
                elif inspect.isgeneratorfunction(giver.value):
                    values.append(stack.enter_context(contextmanager(giver.value)()))
                else:
                    value = giver.value()
                    values.append(await value if inspect.isawaitable(value) else value)
            return await function(*values)

    return call


def _with_sync_dependencies(function: Callable[..., Any], givers: Sequence[Giver]) -> Call:
    from contextlib import ExitStack

    def call(message: Any, context: Any, transaction: Transaction | None) -> Any:
        with ExitStack() as stack:
            values: list[Any] = []
            for giver in givers:
                if giver.kind != "depends":
                    values.append(_plain(giver, message, context, transaction))
                elif inspect.isgeneratorfunction(giver.value):
                    values.append(stack.enter_context(contextmanager(giver.value)()))
                else:
                    values.append(giver.value())
            return function(*values)

    return call


def _plain(giver: Giver, message: Any, context: Any, transaction: Transaction | None) -> Any:
    give = _PLAIN.get(giver.kind)
    return give(message, context, transaction) if give else giver.value


def _depends(default: object, hint: object) -> Depends | None:
    if isinstance(default, Depends):
        return default
    return next((extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Depends)), None)


def _returned(hint: object) -> tuple[Contract, ...]:
    """The contracts that a return annotation names, however they are wrapped."""
    if isinstance(hint, type) and "__millstream__" in hint.__dict__:
        return (contract_of(hint),)
    found = [contract for argument in typing.get_args(hint) for contract in _returned(argument)]
    return tuple(dict.fromkeys(found))


def _events(hint: object) -> tuple[type, ...]:
    if typing.get_origin(hint) is list:
        return _events(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (Union, types.UnionType):
        arms = [_events(arm) for arm in typing.get_args(hint)]
        return tuple(t for arm in arms for t in arm) if all(arms) else ()
    return (hint,) if isinstance(hint, type) and "__millstream__" in hint.__dict__ else ()


def _location(function: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else ""


def messages_of(result: object, handler: str) -> list[object]:
    """The events that a handler returned: None, one, or several."""
    if result is None:
        return []
    if "__millstream__" in type(result).__dict__:
        return [result]
    several: list[object] = list(result) if isinstance(result, (list, tuple)) else [result]  # pyright: ignore[reportUnknownArgumentType]
    for message in several:
        if "__millstream__" not in type(message).__dict__:
            raise HandlerResultError(
                f"handler {handler} returned a {type(message).__name__}: return an event, a list of events, or None"
            )
    return several


def verdicts_of(result: object, count: int, handler: str) -> list[object]:
    """What a batch handler says of each of its `count` items: None, an exception, or what to publish."""
    if result is None:
        return [None] * count
    if not isinstance(result, list) or len(result) != count:  # pyright: ignore[reportUnknownArgumentType]
        raise HandlerResultError(
            f"batch handler {handler} must return None, or a list with one verdict for each of its {count} items "
            "(None, an exception, an event or a list of events)"
        )
    return list(result)  # pyright: ignore[reportUnknownArgumentType]
