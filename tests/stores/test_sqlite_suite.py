"""The embedded store keeps what every store has to keep, in one file with the broker and in two."""

from pathlib import Path

import pytest

from millstream.brokers.sqlite import SqliteBroker
from millstream.core.broker import Broker
from millstream.core.store import Store
from millstream.stores.sqlite import SqliteStore
from millstream.stores.sqlite_file import SqliteFile
from millstream.testing import WorkerSuite


class TestOneFile(WorkerSuite):
    """A commit publishes by itself."""

    features = SqliteBroker.features
    silence = 0.1

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def broker(self) -> Broker:
        return SqliteBroker(SqliteFile(self.folder / "broker.db"), lease=2.0)

    def store(self, broker: Broker) -> Store:
        assert isinstance(broker, SqliteBroker)
        return SqliteStore(broker.file, append=broker.append)


class TestTwoFiles(TestOneFile):
    """An outbox in the service's own file, and a relay to the broker's."""

    def store(self, broker: Broker) -> Store:
        return SqliteStore(SqliteFile(self.folder / "store.db"))
