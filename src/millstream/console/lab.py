"""The lab of a demo: faults on demand, and its proof; asked over the socket that the demo opens."""

import asyncio
import json
from pathlib import Path
from typing import Any

from millstream.contracts.errors import BrokerUnavailableError

#: A proof waits until everything is worked off, in seconds.
PATIENCE = 90.0
LONGEST = 1 << 20


class LabClient:
    """What a demo can be asked to do to itself."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def ask(self, action: str, **details: Any) -> Any:
        """Have it done; raises `BrokerUnavailableError` when the demo is gone or refuses."""
        try:
            async with asyncio.timeout(PATIENCE):
                reader, writer = await asyncio.open_unix_connection(self._path, limit=LONGEST)
                try:
                    writer.write(json.dumps({**details, "do": action}).encode() + b"\n")
                    answer: dict[str, Any] = json.loads(await reader.readline())
                finally:
                    writer.close()
        except (OSError, ValueError, TimeoutError) as error:
            raise BrokerUnavailableError(f"the demo does not answer ({error or 'it took too long'}); is it still running?") from error
        if "error" in answer:
            raise BrokerUnavailableError(f"the demo refused: {answer['error']}")
        return answer["ok"]
