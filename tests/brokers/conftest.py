"""What tests of several files ask for."""

from collections.abc import AsyncGenerator

import pytest
from tests.brokers.aws_server import aws_url

from millstream.brokers.aws import AwsBroker


@pytest.fixture
async def ministack() -> AsyncGenerator[AwsBroker]:
    """A broker on the stand-in that is most like Amazon: it applies filter policies to bodies, which moto takes for attributes."""
    async with AwsBroker(aws_url()) as broker:
        yield broker
