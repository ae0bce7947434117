"""The embedded broker keeps what every broker has to keep, on a real file."""

from pathlib import Path

import pytest

from millstream.brokers.sqlite import SqliteBroker
from millstream.core.broker import Broker
from millstream.stores.sqlite_file import SqliteFile
from millstream.testing import BrokerSuite


class TestSqliteBroker(BrokerSuite):
    """Everything but transactions, which it has through the store in its own file."""

    features = SqliteBroker.features

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.path = tmp_path / "broker.db"

    def connect(self) -> Broker:
        return SqliteBroker(SqliteFile(self.path), lease=1.0)
