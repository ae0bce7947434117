"""Waiting inside plain functions that a coroutine calls.

`Transaction.execute` is a plain call, and yet its first use may have to wait for the
store's one write transaction. The coroutine is therefore run in a greenlet, from which
such a call can hand a future to the event loop and go on when it is done.
"""

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet

T = TypeVar("T")


class Patient(Coroutine[Any, Any, None]):
    """A coroutine whose plain calls may use `wait_for`."""

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._steps = _drive(coroutine)

    def send(self, value: Any, /) -> Any:
        return self._steps.send(value)

    def throw(self, *error: Any) -> Any:
        return self._steps.throw(*error)

    def close(self) -> None:
        self._steps.close()

    def __await__(self) -> Generator[Any, Any, None]:
        return self._steps


class _Ended:
    """What a greenlet switches back with when its coroutine is over."""


_ENDED = _Ended()


def _drive(coroutine: Coroutine[Any, Any, None]) -> Generator[Any, Any, None]:
    parent = getcurrent()
    child = greenlet(_steps, parent)
    # The coroutine sees the context variables of the task that runs it.
    child.gr_context = parent.gr_context
    yielded = child.switch(coroutine)
    while yielded is not _ENDED:
        try:
            value = yield yielded
        except BaseException as error:  # cancellation: it is raised where the coroutine waits
            child.parent = getcurrent()
            yielded = child.throw(error)
        else:
            child.parent = getcurrent()
            yielded = child.switch(value)


def _steps(coroutine: Coroutine[Any, Any, None]) -> object:
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            yielded = coroutine.send(value) if error is None else coroutine.throw(error)
        except StopIteration:
            return _ENDED
        value, error = None, None
        try:
            value = _to_loop(yielded)
        except BaseException as raised:  # it is the coroutine's to handle
            error = raised


def _to_loop(yielded: object) -> Any:
    parent = getcurrent().parent
    assert parent is not None
    return parent.switch(yielded)


def wait_for(future: "asyncio.Future[T]") -> T:
    """The result of a future, from a plain function somewhere below a `Patient` coroutine."""
    steps = future.__await__()
    try:
        yielded: object = next(steps)
        while True:
            value = _to_loop(yielded)
            yielded = steps.send(value)
    except StopIteration as done:
        return done.value
