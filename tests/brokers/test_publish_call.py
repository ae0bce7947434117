"""A call of a publisher, whoever still waits for it."""

import asyncio

import pytest

from millstream.brokers.publish_call import PublishCall
from millstream.contracts.errors import BrokerError


async def test_a_caller_that_stops_waiting_stops_no_sending() -> None:
    """Its messages are answered, and the call is over, as if it waited."""
    call = PublishCall(2, 0.0)
    waiting = asyncio.ensure_future(_wait(call))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert not call.finished.done()
    call.settle(0, None)
    call.settle(1, refused := BrokerError("no"))

    assert call.finished.result() is None
    assert call.results == [None, refused]


async def test_the_first_answer_counts() -> None:
    """What is answered twice, or given up afterwards, keeps what was said first."""
    call = PublishCall(2, 0.0)
    call.settle(0, None)
    call.settle(0, BrokerError("late"))
    call.give_up(gone := BrokerError("gone"))
    await call.heard

    assert call.results == [None, gone]


async def _wait(call: PublishCall) -> None:
    await call.heard
