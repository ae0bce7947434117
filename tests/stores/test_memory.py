"""The memory store keeps what every store has to keep, with the memory broker and apart from it."""

from millstream.brokers.memory import MemoryBroker
from millstream.core.broker import Broker
from millstream.core.store import Store
from millstream.stores.memory import MemoryStore
from millstream.testing import WorkerSuite


class TestMemory(WorkerSuite):
    """Broker and store in one place: a commit publishes by itself."""

    features = MemoryBroker.features
    silence = 0.1

    def broker(self) -> Broker:
        self.memory = getattr(self, "memory", None) or MemoryBroker()
        return self.memory

    def store(self, broker: Broker) -> Store:
        self.kept = getattr(self, "kept", None) or MemoryStore(append=self.memory.append)
        return self.kept


class TestMemoryWithRelay(TestMemory):
    """Broker and store apart: an outbox, and a relay."""

    def store(self, broker: Broker) -> Store:
        self.kept = getattr(self, "kept", None) or MemoryStore()
        return self.kept
