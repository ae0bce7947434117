"""SNS and SQS keep what every broker has to keep, as far as independent stand-ins can tell."""

import pytest
from tests.brokers.aws_server import MINISTACK, MOTO, aws_url

from millstream.brokers.aws import AwsBroker
from millstream.core.broker import Broker, Features
from millstream.testing import BrokerSuite

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

FIFO = Features(
    ordered=True, durable=True, shared=True, broadcast=True, shares_partitions=True, retains_regardless=True, deduplicates=True,
    largest=160 << 10,
)  # fmt: skip


class TestMinistackBroker(BrokerSuite):
    """On the fast one."""

    features = FIFO
    patience = 20.0
    limit = 120.0
    variable = MINISTACK

    def connect(self) -> Broker:
        return AwsBroker(aws_url(self.variable))


class TestMotoBroker(TestMinistackBroker):
    """On the slow one, whose work grows with what it holds."""

    patience = 60.0
    limit = 170.0
    variable = MOTO
