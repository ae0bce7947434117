"""What the producer says is stored is stored, whatever became of the requests before."""

import asyncio

import pytest
from tests.brokers.kafka_server import proxied, refuse_the_first
from tests.brokers.words import declared, made, published

from millstream.core.broker import Partition

pytestmark = pytest.mark.slow


async def test_a_refused_request_is_not_taken_for_stored_because_the_next_one_was() -> None:
    """A server refuses the first request that it gets of a producer, and would take the others: all events are stored, in their order."""
    async with proxied() as (broker, proxy):
        topic, _ = await declared(broker, partitions=1)
        # So large that each goes in a request of its own.
        sent = made(topic, 6, keys=1, data=b"x" * 400_000)

        refused = asyncio.create_task(refuse_the_first(proxy, b"e-0", b"e-4"))
        await published(broker, sent)
        await refused

        assert [d.envelope and d.envelope.id for d in await broker.read(Partition(topic, 0), 0, 10)] == [e.id for e in sent]
