"""What helps to test services, brokers and stores, in Millstream and in what is built on it."""

from millstream.testing.broker_suite import BrokerSuite
from millstream.testing.harness import TestApp
from millstream.testing.manual_clock import ManualClock
from millstream.testing.worker_suite import WorkerSuite

__all__ = ["BrokerSuite", "ManualClock", "TestApp", "WorkerSuite"]
