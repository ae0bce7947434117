"""RabbitMQ with streams keeps what every broker with history has to keep, on a real server."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.brokers.rabbitmq_server import rabbitmq_url, tidied
from tools.services.rabbitmq import RabbitServer

from millstream.brokers.rabbitmq import RabbitBroker
from millstream.core.broker import Broker
from millstream.core.store import Store
from millstream.stores.sqlite import SqliteStore
from millstream.stores.sqlite_file import SqliteFile
from millstream.testing import BrokerSuite, WorkerSuite

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """A server of its own: topics of the suites have the same names as those that are queues elsewhere."""
    rabbitmq_url()
    server = RabbitServer(tmp_path_factory.mktemp("rabbitmq"))
    try:
        server.start()
        yield server
    finally:
        server.stop(kill=True)


class TestRabbitStreamBroker(BrokerSuite):
    """Order, durability, broadcasts and history; no transactions."""

    features = RabbitBroker.with_history
    # A server that was killed is back after seconds, on a busy machine after many.
    patience = 45.0
    limit = 150.0

    @pytest.fixture(autouse=True)
    def _server(self, server: RabbitServer) -> None:
        self.server = server
        self.url = f"rabbitmq://127.0.0.1:{server.port}?streams=1"

    def connect(self) -> Broker:
        return RabbitBroker(self.url)

    async def play(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with tidied(self.url, lambda name: self._token in name):
            await super().play(scenario)

    async def restart(self) -> None:
        await asyncio.to_thread(self.server.kill)
        await asyncio.to_thread(self.server.start)
        await self.reconnect()


class TestRabbitStreamWorker(WorkerSuite):
    """A service's store in an SQLite file, and streams of RabbitMQ between services."""

    features = RabbitBroker.with_history
    patience = 20.0

    @pytest.fixture(autouse=True)
    def _ground(self, tmp_path: Path, server: RabbitServer) -> None:
        self.folder = tmp_path
        self.url = f"rabbitmq://127.0.0.1:{server.port}?streams=1"

    async def play(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with tidied(self.url, lambda name: self._token in name):
            await super().play(scenario)

    def broker(self) -> Broker:
        return RabbitBroker(self.url)

    def store(self, broker: Broker) -> Store:
        return SqliteStore(SqliteFile(self.folder / "store.db"))
