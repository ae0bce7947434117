"""Kafka keeps what every broker has to keep, on a real server."""

from pathlib import Path

import pytest
from tests.brokers.kafka_server import kafka_url, restart_kafka

from millstream.brokers.kafka import KafkaBroker
from millstream.core.broker import Broker, Features
from millstream.core.store import Store
from millstream.stores.sqlite import SqliteStore
from millstream.stores.sqlite_file import SqliteFile
from millstream.testing import BrokerSuite, WorkerSuite

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

FEATURES = Features(
    ordered=True, replayable=True, durable=True, shared=True, broadcast=True, transactional=True, positional=True,
    retains_regardless=True, framed=True, largest=1 << 20,
)  # fmt: skip


class TestKafkaBroker(BrokerSuite):
    """Everything but the marks of relays."""

    features = FEATURES
    # A server that was killed is back after seconds, on a busy machine after many.
    patience = 45.0
    limit = 150.0

    def connect(self) -> Broker:
        return KafkaBroker(kafka_url())

    async def restart(self) -> None:
        await restart_kafka()
        await self.reconnect()


class TestKafkaWorker(WorkerSuite):
    """A service's store in an SQLite file, and Kafka between services."""

    features = FEATURES
    patience = 20.0

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def broker(self) -> Broker:
        return KafkaBroker(kafka_url())

    def store(self, broker: Broker) -> Store:
        return SqliteStore(SqliteFile(self.folder / "store.db"))
