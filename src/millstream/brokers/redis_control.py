"""The connection for everything but publishing and reading, made anew when it was lost."""

import asyncio
from collections.abc import Sequence

from millstream.brokers.redis_connection import Answer, Argument, Connection
from millstream.brokers.redis_names import REMOVED, STREAMS, stream_of
from millstream.brokers.redis_scripts import SURVEY
from millstream.brokers.redis_settings import RedisSettings
from millstream.brokers.redis_survey import Stand, stand_of
from millstream.core.broker import Partition


class RedisControl:
    """Commands, scripts, and what is asked of streams."""

    def __init__(self, settings: RedisSettings, name: str) -> None:
        self.settings = settings
        self._name = name
        self._connecting = asyncio.Lock()
        self._connection: Connection | None = None

    async def connected(self) -> Connection:
        """The connection, made anew when it was lost."""
        async with self._connecting:
            if self._connection is None or self._connection.lost is not None:
                self._connection = await Connection.connect(self.settings, name=self._name)
            return self._connection

    async def call(self, *command: Argument) -> Answer:
        """Carry out one command."""
        return await (await self.connected()).call(*command)

    async def run(self, script: str, keys: Sequence[str], arguments: Sequence[Argument] = ()) -> Answer:
        """Carry out a script."""
        return await self.call("EVAL", script, len(keys), *keys, *arguments)

    async def survey(self, partitions: Sequence[Partition], group: str = "", *, oldest: bool = False) -> list[Stand | None]:
        """How the streams of these are, and where a group stands in them; None where there is no stream."""
        if not partitions:
            return []
        answers = await self.run(SURVEY, (STREAMS, REMOVED, *map(stream_of, partitions)), (group, int(oldest)))
        return [stand_of(answer) for answer in answers]

    async def close(self) -> None:
        """End it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
