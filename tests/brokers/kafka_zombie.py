"""A member of a group that stands still at the worst moment: `python -m tests.brokers.kafka_zombie URL GROUP OUTPUT`.

It has three events in hand, and what proves to a transaction that they are its own: there it stops itself, as a machine does that
pauses for long. Continued, it goes on as if nothing had been, and prints what came of it.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tests.brokers.words import made, taken

from millstream.brokers.kafka import KafkaBroker
from millstream.brokers.kafka_producer import Outgoing
from millstream.brokers.kafka_transactions import KafkaTransactions
from millstream.contracts.errors import FencedError
from millstream.core.broker import Partition
from millstream.testing.broker_ground import Member


class _Pausing(KafkaTransactions):
    def _commit(self, records: Sequence[Outgoing], offsets: Mapping[Partition, int], member: Any) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)
        super()._commit(records, offsets, member)


async def main(url: str, group: str, output: str) -> None:
    """Take three events, and publish three others for them."""
    async with KafkaBroker(url) as broker:
        member = Member(await broker.open(group, "zombie"))
        items = await taken(member, 3, settle=False)
        subscription = member.subscription
        subscription._make_transactions = lambda membership: _Pausing(  # type: ignore[attr-defined]
            broker._settings, group, "zombie", membership, 1 << 20
        )
        try:
            await subscription.publish_and_settle(made(output, 3, prefix="zombie"), items)
        except FencedError as error:
            print("fenced:", error)
        else:
            print("published")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
