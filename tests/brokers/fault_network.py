"""The network of a fault run: each process has a line to the broker of its own, and each line can be cut."""

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, TypeVar

from tests.brokers.proxy import Proxy
from tools.services.service import lasting_port

T = TypeVar("T")
Cut = Literal["dropped", "stalled", "unanswered", "refused"]


class Route(NamedTuple):
    """The way to one server."""

    shown: int
    """The port in the broker's URL."""
    target: int
    """The port that the proxy connects to."""
    at: int = 0
    """The proxy's own port, where the server tells clients of it; 0 for any."""


class Network:
    """Lines of proxies, in a thread of their own: a run waits for processes, and cannot serve them."""

    def __init__(self, lines: Sequence[Sequence[Route]]) -> None:
        self._routes = lines
        self._lines: list[list[Proxy]] = []
        self._stack = AsyncExitStack()

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._thread.start()
        self._do(self._open())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._do(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def passed(self) -> int:
        """How many bytes have gone through all lines."""
        return sum(proxy.passed for line in self._lines for proxy in line)

    def through(self, line: int, url: str) -> str:
        """The URL as the process on a line is to know it."""
        for route, proxy in zip(self._routes[line], self._lines[line], strict=True):
            url = url.replace(f"127.0.0.1:{route.shown}", f"127.0.0.1:{proxy.port}")
        return url

    def cut(self, line: int, how: Cut) -> None:
        """Cut a line until it is mended; one that is dropped is whole again at once."""
        self._do(self._cut(line, how))

    def mend(self, line: int, *, dropped: bool = False) -> None:
        """Have a line pass everything again; with `dropped`, nothing of what was held back."""
        self._do(self._mend(line, dropped))

    async def _open(self) -> None:
        for routes in self._routes:
            proxies = [Proxy("127.0.0.1", route.target, at=route.at or lasting_port()) for route in routes]
            self._lines.append([await self._stack.enter_async_context(proxy) for proxy in proxies])

    async def _cut(self, line: int, how: Cut) -> None:
        for proxy in self._lines[line]:
            if how == "dropped":
                proxy.drop()
            elif how == "refused":
                await proxy.refuse()
            else:
                proxy.stall(answers_only=how == "unanswered")

    async def _mend(self, line: int, dropped: bool) -> None:
        for proxy in self._lines[line]:
            if dropped:
                proxy.drop()
            await proxy.mend()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)
