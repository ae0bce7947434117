"""The embedded broker keeps its promises on a real file."""

import asyncio
from pathlib import Path

import pytest

from millstream.brokers.sqlite import SqliteBroker
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import ConfigurationError, PositionLostError, StoreTooNewError
from millstream.core.broker import Assigned, Deliveries, Delivery, Group, Revoked, Topic
from millstream.stores.sqlite_file import SqliteFile


def envelope(number: int, key: str | None = None) -> Envelope:
    """Make the event number so-and-so."""
    return Envelope(
        id=f"e-{number}", source="/test", type="made", key=key, time=1_700_000_000_000_000 + number, data=b"%d" % number, topic="made"
    )


async def take(subscription: object, count: int) -> list[Delivery]:
    """Take so many deliveries, starting whatever is assigned at the group's own position."""
    taken: list[Delivery] = []
    async with asyncio.timeout(10):
        while len(taken) < count:
            match await subscription.receive(100, 1.0):  # type: ignore[attr-defined]
                case Assigned(partitions):
                    for partition in partitions:
                        subscription.start(partition, None)  # type: ignore[attr-defined]
                case Deliveries(items):
                    taken += items
    return taken


async def test_what_was_published_is_read_back_whole_by_a_group(tmp_path: Path) -> None:
    """A hundred events reach the group, equal to what was published."""
    sent = [envelope(n, key=f"k{n % 7}") for n in range(100)]
    async with SqliteBroker(SqliteFile(tmp_path / "b.db")) as broker:
        await broker.declare([Topic(name="made")], [Group(name="g", topics=("made",))])
        await broker.publish(sent)

        subscription = await broker.open("g")
        taken = await take(subscription, 100)
        await subscription.close()

    assert sorted((d.envelope for d in taken), key=lambda e: e.time) == sent  # type: ignore[union-attr]


async def test_each_key_keeps_its_order(tmp_path: Path) -> None:
    """A thousand events over 16 keys from ten publishers arrive in the order of their key."""
    async with SqliteBroker(SqliteFile(tmp_path / "b.db")) as broker:
        await broker.declare([Topic(name="made")], [Group(name="g", topics=("made",))])
        for start in range(0, 1000, 100):
            await asyncio.gather(*(broker.publish([envelope(n, f"k{n % 16}")]) for n in range(start, start + 100)))

        subscription = await broker.open("g")
        taken = await take(subscription, 1000)
        await subscription.close()

    for key in range(16):
        numbers = [int(d.envelope.data) for d in taken if d.envelope and d.envelope.key == f"k{key}"]
        assert numbers == list(range(key, 1000, 16))


async def test_a_group_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """What was done before the close is not delivered again; the rest is."""
    async with SqliteBroker(SqliteFile(tmp_path / "b.db")) as broker:
        await broker.declare([Topic(name="made", partitions=1)], [Group(name="g", topics=("made",))])
        await broker.publish([envelope(n) for n in range(10)])
        first = await broker.open("g")
        taken = await take(first, 10)
        await first.settle(taken[:4])
        await first.close()

        second = await broker.open("g")
        again = await take(second, 6)
        await second.close()

    assert [d.position for d in again] == [4, 5, 6, 7, 8, 9]


async def test_two_members_share_the_partitions(tmp_path: Path) -> None:
    """Each of two members gets half, and every event reaches exactly one of them."""
    async with SqliteBroker(SqliteFile(tmp_path / "b.db")) as broker:
        await broker.declare([Topic(name="made", partitions=2)], [Group(name="g", topics=("made",))])
        first, second = await broker.open("g", "first"), await broker.open("g", "second")
        assert isinstance(await first.receive(1, 0), Assigned)
        await second.receive(1, 0)

        revoked = await first.receive(1, 5)
        assert isinstance(revoked, Revoked)
        await first.release(revoked.partitions)
        assigned = await second.receive(1, 5)

        assert assigned == Assigned(revoked.partitions)
        assert {state.owner for state in await broker.positions("g")} == {"first", "second"}
        await first.close()
        await second.close()


async def test_a_topic_keeps_its_number_of_partitions(tmp_path: Path) -> None:
    """Declaring another number is refused, with the number it has."""
    async with SqliteBroker(SqliteFile(tmp_path / "b.db")) as broker:
        await broker.declare([Topic(name="made", partitions=2)], [])

        with pytest.raises(ConfigurationError, match="has 2 partitions, not 4"):
            await broker.declare([Topic(name="made", partitions=4)], [])


async def test_retention_waits_for_every_registered_group(tmp_path: Path) -> None:
    """Nothing that a group has not passed is removed, unless forced; then the group stops and says why."""
    async with SqliteBroker(SqliteFile(tmp_path / "b.db")) as broker:
        await broker.declare([Topic(name="made", partitions=1, retain_seconds=-1)], [Group(name="g", topics=("made",))])
        await broker.publish([envelope(n) for n in range(10)])

        kept = await broker.retain("made")
        forced = await broker.retain("made", force=True)

        assert (kept, forced) == (0, 10)
        await broker.publish([envelope(10)])
        subscription = await broker.open("g")
        with pytest.raises(PositionLostError, match="has left the log"):
            await take(subscription, 1)
        await subscription.close()


async def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    """A newer format is refused by name, and not written to."""
    async with SqliteBroker(SqliteFile(tmp_path / "b.db")) as broker:
        await broker.file.write(lambda c: c.execute("pragma user_version=99") and None)

    with pytest.raises(StoreTooNewError, match="newer Millstream"):
        async with SqliteBroker(SqliteFile(tmp_path / "b.db")):
            pass
