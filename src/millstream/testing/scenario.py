"""Scenarios: what the suites' tests are made of; plain functions for any test runner, asynchronous inside."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, Protocol, TypeVar

from millstream.core.broker import Features


class Stage(Protocol):
    """What a scenario runs on: a suite that says what is promised, and opens and closes what is tested."""

    features: Features

    async def play(self, scenario: Callable[[], Coroutine[Any, Any, None]], /) -> None:
        """Run one scenario."""
        ...


S = TypeVar("S", bound=Stage)
Scenario = Callable[[S], Coroutine[Any, Any, None]]


def promised(*features: str) -> Callable[[Scenario[S]], Callable[[S], None]]:
    """Make a scenario a test of brokers that declare all these features; others skip it."""
    _verify(*features)

    def decorate(scenario: Scenario[S]) -> Callable[[S], None]:
        def reason(declared: Features) -> str:
            missing = [name for name in features if not getattr(declared, name)]
            return f"the broker's features do not promise {', '.join(missing)}" if missing else ""

        return _test(scenario, reason)

    return decorate


def refused(feature: str) -> Callable[[Scenario[S]], Callable[[S], None]]:
    """Make a scenario a test of brokers that do not declare this feature; others skip it."""
    _verify(feature)

    def decorate(scenario: Scenario[S]) -> Callable[[S], None]:
        return _test(scenario, lambda declared: f"the broker's features promise {feature}" if getattr(declared, feature) else "")

    return decorate


def skip(reason: str) -> NoReturn:
    """End this test without a verdict."""
    # Here and not above: who tests an application with another runner needs no pytest.
    import pytest

    pytest.skip(reason)


async def expect(error: type[Exception] | tuple[type[Exception], ...], call: Coroutine[Any, Any, object]) -> None:
    """The call has to fail with this error (or one of these), and say why."""
    names = " or ".join(e.__name__ for e in (error if isinstance(error, tuple) else (error,)))
    try:
        result = await call
    except error as raised:
        message = str(raised)
    else:
        raise AssertionError(f"this should have raised {names}, and gave {result!r}")
    assert message, f"{names} was raised without a word"


def _verify(*features: str) -> None:
    unknown = set(features) - set(Features.__struct_fields__)
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: is no feature of a broker; see core.broker.Features")


def _test(scenario: Scenario[S], reason: Callable[[Features], str]) -> Callable[[S], None]:
    # Not functools.wraps: plugins would look through it, see a coroutine function and run that.
    def test(suite: S) -> None:
        if why := reason(suite.features):
            skip(why)
        asyncio.run(suite.play(functools.partial(scenario, suite)))

    test.__name__, test.__qualname__, test.__doc__ = scenario.__name__, scenario.__qualname__, scenario.__doc__
    return test
