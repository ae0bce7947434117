"""Requests are full under load, whoever asks and whenever the answers come: on a stand-in that answers in any order."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any, cast

import pytest

from millstream.brokers.aws_batches import AT_ONCE, MOST_ENTRIES, Batches
from millstream.brokers.aws_client import AwsService
from millstream.brokers.aws_publisher import AwsPublisher
from millstream.brokers.aws_wire import Entry

CALLERS, EACH = 97, 20


class Service:
    """Answers each request after a while, and notes how full it was and how many others were on their way."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._on_their_way = 0
        self.seen: list[tuple[int, int]] = []

    async def answer(self, entries: Sequence[Any]) -> None:
        """Take a request."""
        self.seen.append((len(entries), self._on_their_way))
        self._on_their_way += 1
        for _ in range(self._random.randrange(1, 30)):
            await asyncio.sleep(0)
        self._on_their_way -= 1

    async def call(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Be SNS."""
        await self.answer(arguments["PublishBatchRequestEntries"])
        return {"Successful": [{"Id": entry["Id"]} for entry in arguments["PublishBatchRequestEntries"]]}

    def holds(self) -> None:
        """Whether nothing that was not full was sent beside another, and nothing too much at the same time."""
        assert sum(size for size, _ in self.seen) == CALLERS * EACH
        assert all(others < AT_ONCE for _, others in self.seen)
        assert {size for size, others in self.seen if others} == {MOST_ENTRIES}


@pytest.mark.parametrize("seed", range(5))
async def test_what_is_published_goes_in_full_requests(seed: int) -> None:
    """Many callers, each of whom waits for its event, and then does something else."""
    service, chance = Service(seed), random.Random(seed)
    publisher = AwsPublisher(cast("AwsService", service), "aws://test", fifo=False)

    async def caller(number: int) -> None:
        for ordinal in range(EACH):
            name = f"{number}-{ordinal}"
            assert list(await publisher.send([("arn:t", Entry(body="{}", attributes={}, group=name, deduplication=name))])) == [None]
            for _ in range(chance.randrange(5)):
                await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        for number in range(CALLERS):
            tasks.create_task(caller(number))

    service.holds()


@pytest.mark.parametrize("seed", range(5))
async def test_what_is_settled_goes_in_full_requests(seed: int) -> None:
    """Deliveries end one by one, while others are being told of already."""
    service, chance = Service(seed), random.Random(seed)
    batches = Batches[int](service.answer)

    async def worker() -> None:
        for number in range(EACH):
            batches.put([number])
            for _ in range(chance.randrange(50)):
                await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(CALLERS):
            tasks.create_task(worker())
    await batches.flush()

    service.holds()
