"""Handlers: what users write, compiled once into what the worker calls."""

import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Union

from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import ConfigurationError, HandlerResultError
from millstream.contracts.message import Contract, contract_of
from millstream.core.retry import Retry
from millstream.core.store import Transaction

Delivery = Literal["effectively_once", "at_least_once"]


@dataclass(frozen=True, slots=True)
class Depends:
    """A parameter whose value is made by calling `make()`, afresh for each delivery."""

    make: Callable[[], Any]


class Context:
    """What a handler may know of the delivery it works on, and a way to publish."""

    __slots__ = ("_first", "attempt", "envelope", "group", "published")

    def __init__(self, envelope: Envelope, group: str, attempt: int, first: int | None) -> None:
        self.envelope = envelope
        self.group = group
        self.attempt = attempt
        self.published: list[object] = []
        self._first = first

    @property
    def correlation(self) -> str:
        """The id that everything caused by the same first event shares."""
        return self.envelope.correlation or self.envelope.id

    @property
    def first_failure(self) -> datetime | None:
        """When this delivery failed for the first time; None on the first attempt."""
        return None if self._first is None else datetime.fromtimestamp(self._first / 1e6, UTC)

    def publish(self, message: object) -> None:
        """Publish in this delivery's unit of work: if the handler fails, nothing is published."""
        contract_of(message)
        self.published.append(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a subscriber declares beside its types."""

    group: str
    retry: Retry = Retry()
    where: Callable[[Any], bool] | None = None
    concurrency: int = 16
    timeout: float = 30.0
    ordered: bool = True
    delivery: Delivery | None = None
    start: Literal["latest", "earliest"] = "latest"
    wire: Literal["cloudevents", "json"] | None = None
    id: str | None = None
    topic: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """A user's function, ready to be called: `call(message, context, transaction)`."""

    name: str
    function: Callable[..., Any]
    contracts: tuple[Contract, ...]
    options: Options
    is_async: bool
    is_batch: bool
    takes_transaction: bool
    delivery: Delivery
    call: Callable[[Any, Context, Transaction | None], Any]

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics it reads."""
        return tuple(dict.fromkeys(self.options.topic or contract.topic for contract in self.contracts))


def compile_handler(function: Callable[..., Any], types_: tuple[type, ...], options: Options) -> Handler:
    """Resolve what each parameter of `function` asks for; refuse what nobody can give."""
    name = getattr(function, "__qualname__", repr(function))
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise ConfigurationError(f"handler {name}: the annotation {error.name!r} cannot be resolved; import it at run time") from error
    givers: list[Callable[[Any, Context, Transaction | None], Any]] = []
    is_batch = takes_context = takes_transaction = has_event = False
    for parameter in inspect.signature(function).parameters.values():
        hint = hints.get(parameter.name)
        depends = _depends(parameter.default, hint)
        if depends is not None:
            givers.append(lambda _m, _c, _t, make=depends.make: make())
        elif hint is Context:
            takes_context = True
            givers.append(lambda _m, c, _t: c)
        elif hint is Transaction:
            takes_transaction = True
            givers.append(lambda _m, _c, t: t)
        elif not has_event and (found := _events(hint)):
            has_event = True
            is_batch = typing.get_origin(hint) is list
            types_ = types_ or found
            if unknown := [t.__name__ for t in types_ if t not in found]:
                raise ConfigurationError(
                    f"handler {name}: subscribes to {', '.join(unknown)}, but its parameter {parameter.name!r} does not take it"
                )
            givers.append(lambda m, _c, _t: m)
        elif parameter.default is inspect.Parameter.empty:
            raise ConfigurationError(
                f"handler {name}: nothing can be given for the parameter {parameter.name!r}; annotate it with an event type, "
                "Context or Transaction, or give it a default of Depends(...)"
            )
        else:
            givers.append(lambda _m, _c, _t, value=parameter.default: value)
    if not has_event:
        raise ConfigurationError(f"handler {name}: no parameter takes an event; annotate one with a type made by @event or @command")
    returns = hints.get("return", inspect.Parameter.empty)
    # A handler without a return annotation may publish for all we know: the safe mode is assumed.
    effectful = takes_transaction or takes_context or returns is not type(None)
    delivery = options.delivery or ("effectively_once" if effectful else "at_least_once")
    return Handler(
        name=name,
        function=function,
        contracts=tuple(contract_of(t) for t in types_),
        options=options,
        is_async=inspect.iscoroutinefunction(function),
        is_batch=is_batch,
        takes_transaction=takes_transaction,
        delivery=delivery,
        call=_caller(function, givers),
    )


def _caller(function: Callable[..., Any], givers: list[Callable[..., Any]]) -> Callable[[Any, Context, Transaction | None], Any]:
    if len(givers) == 1:
        return lambda message, _context, _transaction: function(message)
    return lambda message, context, transaction: function(*[give(message, context, transaction) for give in givers])


def _depends(default: object, hint: object) -> Depends | None:
    if isinstance(default, Depends):
        return default
    return next((extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Depends)), None)


def _events(hint: object) -> tuple[type, ...]:
    if typing.get_origin(hint) is list:
        return _events(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (Union, types.UnionType):
        arms = [_events(arm) for arm in typing.get_args(hint)]
        return tuple(t for arm in arms for t in arm) if all(arms) else ()
    return (hint,) if isinstance(hint, type) and "__millstream__" in hint.__dict__ else ()


def messages_of(result: object, handler: str) -> list[object]:
    """The events that a handler returned: None, one, or several."""
    if result is None:
        return []
    several: list[object] = list(result) if isinstance(result, (list, tuple)) else [result]  # pyright: ignore[reportUnknownArgumentType]
    for message in several:
        if "__millstream__" not in type(message).__dict__:
            raise HandlerResultError(
                f"handler {handler} returned a {type(message).__name__}: return an event, a list of events, or None"
            )
    return several
