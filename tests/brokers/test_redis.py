"""Redis Streams keep what every broker has to keep, on a real server."""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from tests.brokers.redis_server import redis_url, restart_redis, tidied

from millstream.brokers.redis import LARGEST, RedisBroker
from millstream.core.broker import Broker, Features
from millstream.core.store import Store
from millstream.stores.sqlite import SqliteStore
from millstream.stores.sqlite_file import SqliteFile
from millstream.testing import BrokerSuite, WorkerSuite

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

FEATURES = Features(
    ordered=True, replayable=True, durable=True, shared=True, broadcast=True, transactional=True, marks=True, positional=True,
    largest=LARGEST,
)  # fmt: skip


class TestRedisBroker(BrokerSuite):
    """Everything that there is."""

    features = FEATURES
    # A server that was killed is back after seconds, on a busy machine after many.
    patience = 45.0
    limit = 150.0

    def connect(self) -> Broker:
        return RedisBroker(redis_url())

    async def play(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with tidied(redis_url(), lambda group: self._token in group):
            await super().play(scenario)

    async def restart(self) -> None:
        await restart_redis()
        await self.reconnect()


class TestRedisWorker(WorkerSuite):
    """A service's store in an SQLite file, and Redis between services."""

    features = FEATURES
    patience = 20.0

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    async def play(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with tidied(redis_url(), lambda group: self._token in group):
            await super().play(scenario)

    def broker(self) -> Broker:
        return RedisBroker(redis_url())

    def store(self, broker: Broker) -> Store:
        return SqliteStore(SqliteFile(self.folder / "store.db"))
