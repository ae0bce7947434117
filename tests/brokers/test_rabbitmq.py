"""RabbitMQ keeps what every broker has to keep, on a real server."""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from tests.brokers.rabbitmq_server import rabbitmq_url, restart_rabbitmq, tidied

from millstream.brokers.rabbitmq import RabbitBroker
from millstream.core.broker import Broker, Features
from millstream.core.store import Store
from millstream.stores.sqlite import SqliteStore
from millstream.stores.sqlite_file import SqliteFile
from millstream.testing import BrokerSuite, WorkerSuite

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

FEATURES = Features(ordered=True, durable=True, shared=True, broadcast=True, largest=16 << 20)


class TestRabbitBroker(BrokerSuite):
    """Order, durability and broadcasts; no history, and no transactions."""

    features = FEATURES
    # A server that was killed is back after seconds, on a busy machine after many.
    patience = 45.0
    limit = 150.0

    def connect(self) -> Broker:
        return RabbitBroker(rabbitmq_url())

    async def play(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with tidied(rabbitmq_url(), lambda group: self._token in group):
            await super().play(scenario)

    async def restart(self) -> None:
        await restart_rabbitmq()
        await self.reconnect()


class TestRabbitWorker(WorkerSuite):
    """A service's store in an SQLite file, and RabbitMQ between services."""

    features = FEATURES
    patience = 20.0

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    async def play(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with tidied(rabbitmq_url(), lambda group: self._token in group):
            await super().play(scenario)

    def broker(self) -> Broker:
        return RabbitBroker(rabbitmq_url())

    def store(self, broker: Broker) -> Store:
        return SqliteStore(SqliteFile(self.folder / "store.db"))
