"""What there is on AWS, asked of a stand-in."""

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from millstream.brokers.aws_client import AwsService
from millstream.brokers.aws_names import AwsNames
from millstream.brokers.aws_settings import settings_of
from millstream.brokers.aws_topology import AT_ONCE, AwsTopology


class SilentQueues:
    """SQS with many queues, that does not say whose they are."""

    def __init__(self) -> None:
        self.asked = asyncio.Semaphore(0)

    async def pages(self, call: str, field: str, **arguments: object) -> AsyncIterator[str]:
        """All queues."""
        for number in range(5 * AT_ONCE):
            yield f"https://sqs/t-{number}.fifo"

    async def call(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Asked, and never answered."""
        self.asked.release()
        return await asyncio.Future()


async def test_a_survey_that_is_given_up_leaves_nothing_behind() -> None:
    """What it had not come to yet was not begun: Python would say of each that it was never awaited."""
    settings, queues = settings_of("aws://eu-west-1"), SilentQueues()
    topology = AwsTopology(settings, AwsNames("t-", fifo=True), cast("AwsService", None), cast("AwsService", queues))
    survey = asyncio.create_task(topology.groups())
    for _ in range(AT_ONCE):
        await queues.asked.acquire()

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        survey.cancel()
        with pytest.raises(asyncio.CancelledError):
            await survey
        del survey
        gc.collect()

    assert queues.asked.locked(), "more were asked at the same time than may be"
    assert not [str(warning.message) for warning in told]
