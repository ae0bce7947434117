"""The words in which tests on real servers are written, whatever the broker."""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from millstream.contracts.envelope import Envelope
from millstream.core.broker import Broker, Delivery, Group, Topic
from millstream.testing.broker_ground import Member

PATIENCE = 60.0
#: Every name that `unique` has given, for those who tidy up.
names: list[str] = []


def unique(word: str) -> str:
    """A name that no other test uses."""
    names.append(f"{word}.{secrets.token_hex(4)}")
    return names[-1]


def made(topic: str, count: int, *, keys: int = 8, prefix: str = "e", **attributes: Any) -> list[Envelope]:
    """So many events of one topic over so many keys."""
    return [
        Envelope(
            **{
                "id": f"{prefix}-{number}", "source": "/test", "type": "made", "key": f"k{number % keys}", "topic": topic,
                "time": 1_767_225_600_000_000 + number, "data": b'{"number":%d}' % number,
            }
            | attributes
        )
        for number in range(count)
    ]  # fmt: skip


async def declared(broker: Broker, *, partitions: int = 4, **group: Any) -> tuple[str, str]:
    """A new topic, and a new group that reads it."""
    topic, name = unique("made"), unique("group")
    await broker.declare([Topic(name=topic, partitions=partitions)], [Group(name=name, topics=(topic,), **group)])
    return topic, name


async def published(broker: Broker, envelopes: Sequence[Envelope]) -> None:
    """Publish; all of it has to be accepted."""
    results = await broker.publish(envelopes)
    assert not any(results), next(filter(None, results))


async def works(broker: Broker) -> None:
    """What was published there comes back, and a listener hears what is told to all."""
    topic, group = await declared(broker, partitions=2)
    sent = made(topic, 200, data=b"x" * 10_000)
    await published(broker, sent)
    member = Member(await broker.open(group, "m"))
    came = [delivery.envelope for delivery in await taken(member, 200)]
    listener = await broker.listen()
    await broker.broadcast(b"hello")
    heard = await listener.receive(10)
    await member.close()

    assert sorted(e.id for e in came if e) == sorted(e.id for e in sent)
    assert list(heard) == [b"hello"]


async def until(
    reached: Callable[[], bool], step: Callable[[], Any], otherwise: Callable[[], str], *, patience: float = PATIENCE
) -> None:
    """Do one step after another until something is so."""
    try:
        async with asyncio.timeout(patience):
            while not reached():
                await step()
    except TimeoutError as error:
        raise AssertionError(f"{otherwise()} within {patience:g} s") from error


async def taken(member: Member, count: int, *, settle: bool = True) -> list[Delivery]:
    """Receive until so many have come."""
    items: list[Delivery] = []

    async def step() -> None:
        came = await member.step(count - len(items))
        items.extend(came)
        if settle:
            await member.settle(came)

    await until(lambda: len(items) >= count, step, lambda: f"only {len(items)} of {count} deliveries came")
    return items
