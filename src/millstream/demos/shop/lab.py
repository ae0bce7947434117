"""The lab: lets the console do to the shop what the keys of the terminal do, over a socket in the shop's folder."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

#: One request, or one answer, has at most so many bytes.
LONGEST = 1 << 20

Action = Callable[[Mapping[str, Any]], Awaitable[object]]


class Lab:
    """Answers one JSON line for each: `{"do": NAME, ...}` with `{"ok": ...}` or `{"error": TEXT}`.

    Only this user can connect: the socket lies in a folder of the shop.
    """

    def __init__(self, path: Path, actions: Mapping[str, Action]) -> None:
        self.path = path
        self._actions = actions
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self.path, limit=LONGEST)
        self.path.chmod(0o600)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._server is not None:
            self._server.close()
        with contextlib.suppress(OSError):
            self.path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                await writer.drain()
        writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            asked: dict[str, Any] = json.loads(line)
            action = self._actions.get(str(asked.get("do")))
            if action is None:
                return {"error": f"the lab can do {', '.join(self._actions)}"}
            return {"ok": await action(asked)}
        except Exception as error:  # whatever it is, the shop goes on, and whoever asked is told
            return {"error": f"{type(error).__name__}: {error}"}
