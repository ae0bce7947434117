"""NATS JetStream keeps what every broker has to keep, on a real server."""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from tests.brokers.nats_server import nats_url, restart_nats, tidied

from millstream.brokers.nats import NatsBroker
from millstream.core.broker import Broker, Features
from millstream.core.store import Store
from millstream.stores.sqlite import SqliteStore
from millstream.stores.sqlite_file import SqliteFile
from millstream.testing import BrokerSuite, WorkerSuite

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

FEATURES = Features(
    ordered=True, replayable=True, durable=True, shared=True, broadcast=True, positional=True, deduplicates=True, largest=768 << 10
)


class TestNatsBroker(BrokerSuite):
    """Order, history, durability and broadcasts; no transactions, and no marks of relays."""

    features = FEATURES
    # A server that was killed is back after seconds, on a busy machine after many.
    patience = 45.0
    limit = 150.0

    def connect(self) -> Broker:
        return NatsBroker(nats_url())

    async def play(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with tidied(nats_url()):
            await super().play(scenario)

    async def restart(self) -> None:
        await restart_nats()
        await self.reconnect()


class TestNatsWorker(WorkerSuite):
    """A service's store in an SQLite file, and JetStream between services."""

    features = FEATURES
    patience = 20.0

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    async def play(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with tidied(nats_url()):
            await super().play(scenario)

    def broker(self) -> Broker:
        return NatsBroker(nats_url())

    def store(self, broker: Broker) -> Store:
        return SqliteStore(SqliteFile(self.folder / "store.db"))
