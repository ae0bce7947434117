"""The tree of errors."""

import inspect

import pytest

from millstream.contracts import errors

ALL = [c for c in vars(errors).values() if inspect.isclass(c) and c.__module__ == errors.__name__]


@pytest.mark.parametrize("error", ALL, ids=lambda c: c.__name__)
def test_every_error_is_a_millstream_error_and_says_what_it_means(error: type[Exception]) -> None:
    """One except clause catches them all, and each explains itself in a docstring."""
    assert issubclass(error, errors.MillstreamError)
    assert error.__doc__


def test_what_may_pass_by_itself_is_told_apart_from_what_does_not() -> None:
    """Callers can retry an unavailable broker or a busy store without retrying every failure."""
    assert issubclass(errors.BrokerUnavailableError, errors.BrokerError)
    assert issubclass(errors.StoreBusyError, errors.StoreError)
    assert issubclass(errors.StoreFullError, errors.StoreError)
    assert issubclass(errors.EnvelopeError, errors.DecodeError)
