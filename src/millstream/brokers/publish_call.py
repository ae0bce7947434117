"""One call of a publisher whose messages are answered one by one."""

import asyncio

from millstream.contracts.errors import BrokerError, MillstreamError

_UNKNOWN = BrokerError("nobody has said yet what became of it")


class PublishCall:
    """The messages of one call, and what became of them; `finished` when all are answered.

    The caller waits for `heard`: when it is cancelled, the sending goes on.
    """

    __slots__ = ("began", "finished", "heard", "missing", "results")

    def __init__(self, size: int, began: float) -> None:
        self.began = began
        self.missing = size
        self.results: list[MillstreamError | None] = [_UNKNOWN] * size
        loop = asyncio.get_running_loop()
        self.finished: asyncio.Future[None] = loop.create_future()
        self.heard: asyncio.Future[None] = loop.create_future()

    def settle(self, index: int, result: MillstreamError | None) -> None:
        """What became of one; the first answer counts."""
        if self.results[index] is _UNKNOWN:
            self.results[index] = result
            self.missing -= 1
            if not self.missing:
                self.finished.set_result(None)
                if not self.heard.done():
                    self.heard.set_result(None)

    def give_up(self, error: MillstreamError) -> None:
        """Settle all that nobody has answered."""
        for index, result in enumerate(self.results):
            if result is _UNKNOWN:
                self.settle(index, error)
