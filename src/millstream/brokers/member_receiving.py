"""How a member that is served by tasks of its own receives: deliveries first, then notices, then why it failed."""

import asyncio
from collections import deque

from millstream.contracts.errors import MillstreamError
from millstream.core.broker import Deliveries, Delivery, Received


class MemberReceiving:
    """The `receive` of a subscription; `_next` says what there is to deliver."""

    def __init__(self) -> None:
        self._notices: deque[Received] = deque()
        self._failure: MillstreamError | None = None
        self._bell = asyncio.Event()
        """Rung when there may be something to receive."""
        self._over = False

    async def receive(self, most: int, wait: float) -> Received:
        # Whoever asks again and again must let others run, the connection above all.
        await asyncio.sleep(0)
        items = self._next(most)
        if not items and not self._notices and self._failure is None and wait > 0:
            self._bell.clear()
            # Not a timeout, which would stand between what has come and whoever waits for it.
            end = asyncio.get_running_loop().call_later(wait, self._bell.set)
            try:
                await self._bell.wait()
            finally:
                end.cancel()
            items = self._next(most)
        if items:
            return Deliveries(items)
        if self._notices:
            return self._notices.popleft()
        if self._failure is not None:
            raise self._failure
        return Deliveries(())

    def _next(self, most: int) -> list[Delivery]:
        """At most so many deliveries; none while a notice or a failure has to be heard first."""
        raise NotImplementedError

    def _notify(self, notice: Received) -> None:
        self._notices.append(notice)
        self._bell.set()

    def _fail(self, error: MillstreamError) -> None:
        if self._failure is None and not self._over:
            self._failure = error
        self._bell.set()
