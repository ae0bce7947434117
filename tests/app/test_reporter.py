"""The reporter never holds up, nor ends, the service that it tells of."""

import asyncio
from collections.abc import Sequence
from typing import Any

from millstream.app.reporter import MOST_PENDING, Reporter
from millstream.app.system_clock import SystemClock
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import MillstreamError, StoreFullError, TooLargeError
from millstream.core.broker import Group, Topic
from millstream.core.facts import Operation


class Broker:
    """Takes what is published when it is let, and answers each time with the same."""

    def __init__(self, answer: MillstreamError | None = None) -> None:
        self.answer = answer
        self.asked, self.may = asyncio.Event(), asyncio.Event()
        self.taken: list[Sequence[Envelope]] = []

    async def declare(self, topics: Sequence[Topic], groups: Sequence[Group]) -> None:
        """Have them."""

    async def publish(self, envelopes: Sequence[Envelope]) -> list[MillstreamError | None]:
        self.taken.append(tuple(envelopes))
        self.asked.set()
        await self.may.wait()
        return [self.answer] * len(self.taken[-1])


def reporter_on(broker: Broker) -> Reporter:
    """Make one that nobody else uses."""
    parts: Any = broker, None
    return Reporter("shop", [], *parts, SystemClock())


OPERATION = Operation(id="1", kind="pause", group="g", by="me", reason="", at=0)


async def test_what_is_told_while_facts_are_on_their_way_is_published_next() -> None:
    """A slow publish neither loses a fact that comes meanwhile, nor trips over it."""
    broker = Broker()
    reporter = reporter_on(broker)
    reporter.tell(OPERATION, "accepted")

    flushing = asyncio.ensure_future(reporter._flush())  # noqa: SLF001
    await broker.asked.wait()
    reporter.tell(OPERATION, "done")
    broker.may.set()
    await flushing
    await reporter._flush()  # noqa: SLF001

    assert [len(page) for page in broker.taken] == [1, 1]
    assert broker.taken[0] != broker.taken[1]


async def test_facts_that_nobody_takes_do_not_fill_the_memory() -> None:
    """While the disk is full the newest are kept, and tried again; what is too large is not."""
    for answer, kept in ((StoreFullError("full"), MOST_PENDING), (TooLargeError("large"), 0)):
        broker = Broker(answer)
        broker.may.set()
        reporter = reporter_on(broker)

        for _ in range(3):
            for _ in range(MOST_PENDING):
                reporter.tell(OPERATION, "done")
            await reporter._safely(reporter._flush)  # noqa: SLF001
        before = len(broker.taken)
        await reporter._safely(reporter._flush)  # noqa: SLF001

        tried_again = broker.taken[before:]
        assert [len(page) for page in tried_again] == ([kept] if kept else [])
