"""The memory broker keeps its promises."""

from millstream.brokers.memory import MemoryBroker
from millstream.core.broker import Broker, Features
from millstream.testing import BrokerSuite


class TestMemoryBroker(BrokerSuite):
    """All but durability, and that within one process."""

    features = Features(
        ordered=True, replayable=True, broadcast=True, transactional=True, marks=True, positional=True, largest=16 << 20
    )

    def connect(self) -> Broker:
        self.memory = getattr(self, "memory", None) or MemoryBroker()
        return self.memory
