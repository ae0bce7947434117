"""What the embedded broker owes beyond every broker: pages, retention, copies from another time, clocks, many topics."""

import asyncio
import shutil
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from millstream.brokers import sqlite_log
from millstream.brokers.sqlite import SqliteBroker
from millstream.brokers.sqlite_subscription import SqliteSubscription
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import BrokerError, ConfigurationError, PositionLostError, StoreMismatchError
from millstream.core.broker import Assigned, Deliveries, Delivery, Figure, Group, Message, Origin, Partition, Topic
from millstream.core.store import Page
from millstream.stores.sqlite import SqliteStore
from millstream.stores.sqlite_file import SqliteFile

P = Partition("made", 0)


def envelope(number: int, key: str | None = "k", topic: str = "made", body: bytes = b"") -> Envelope:
    """Make the event number so-and-so."""
    return Envelope(id=f"e-{number}", source="/test", type="made", key=key, time=1_000 + number, data=body or b"%d" % number, topic=topic)


async def take(subscription: SqliteSubscription, count: int, most: int = 100) -> list[Delivery]:
    """Take so many deliveries, starting whatever is assigned at the group's own position."""
    taken: list[Delivery] = []
    async with asyncio.timeout(10):
        while len(taken) < count:
            match await subscription.receive(most, 1.0):
                case Assigned(partitions):
                    for partition in partitions:
                        subscription.start(partition, None)
                case Deliveries(items):
                    assert len(items) <= most
                    taken += items
                case _:
                    pass
    return taken


def positions(deliveries: Sequence[Delivery]) -> list[int]:
    """Where they lie."""
    return [delivery.position for delivery in deliveries]


class Times:
    """A wall clock and a monotonic one that a test moves."""

    def __init__(self) -> None:
        self.micros = 1_000_000_000_000
        self.seconds = 1_000.0

    def broker(self, path: Path, lease: float = 10.0) -> SqliteBroker:
        """Make a broker that lives by them."""
        return SqliteBroker(SqliteFile(path), lease=lease, micros=lambda: self.micros, monotonic=lambda: self.seconds)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is."""
    return tmp_path / "b.db"


async def test_a_page_is_delivered_in_parts_and_its_rest_comes_again(path: Path) -> None:
    """Events that were published at once are taken a few at a time, released in the middle, and end up complete and in order."""
    async with SqliteBroker(SqliteFile(path)) as broker:
        await broker.declare([Topic(name="made", partitions=1)], [Group(name="g", topics=("made",))])
        await broker.publish([envelope(n) for n in range(1_200)])
        await broker.publish([envelope(1_200)])
        subscription = await broker.open("g")

        first = await take(subscription, 7, most=7)
        await subscription.settle(first[:4], first[4:])
        rest = await take(subscription, 1_197, most=7)

        assert positions(first) == list(range(7))
        assert [d.envelope for d in rest] == [envelope(n) for n in range(4, 1_201)]
        await subscription.close()


async def test_large_events_are_read_a_few_at_a_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many events are asked for, one read stops once it has enough bytes; the next goes on there."""
    monkeypatch.setattr(sqlite_log, "READ_BYTES", 100_000)
    async with SqliteBroker(SqliteFile(path)) as broker:
        await broker.declare([Topic(name="made", partitions=1)], [Group(name="g", topics=("made",))])
        await broker.publish([envelope(n, body=b"x" * 60_000) for n in range(20)])

        part = await broker.read(P, 0, 20)
        subscription = await broker.open("g")
        everything = await take(subscription, 20)

        assert 0 < len(part) < 20
        assert positions(everything) == list(range(20))
        await subscription.close()


async def test_bare_messages_lie_between_events_in_the_order_of_publishing(path: Path) -> None:
    """What is no event of ours keeps its place among those that are, with a name of its own."""
    message = Message(topic="made", body=b"\xff", key=b"k", headers=(("h", b"\xfe"),), time=5)
    async with SqliteBroker(SqliteFile(path)) as broker:
        await broker.declare([Topic(name="made", partitions=1)], [])
        await broker.publish([envelope(0)])
        await broker.publish_raw([message])
        await broker.publish([envelope(2)])

        first, second, third = await broker.read(P, 0, 10)

        assert [first.envelope, second.envelope, third.envelope] == [envelope(0), None, envelope(2)]
        assert second.message == Message(
            topic="made", body=b"\xff", key=b"k", headers=(("h", b"\xfe"),), time=5, source=f"millstream:{broker.log.id}/made", id="0-1"
        )


async def test_the_same_key_goes_to_the_same_partition_as_text_and_as_bytes(path: Path) -> None:
    """The partition follows from the key's bytes alone."""
    async with SqliteBroker(SqliteFile(path)) as broker:
        await broker.declare([Topic(name="made", partitions=16)], [])
        keys = [f"schlüssel-{n}" for n in range(20)]
        await broker.publish([envelope(n, key) for n, key in enumerate(keys)])
        await broker.publish_raw([Message(topic="made", body=b"", key=key.encode()) for key in keys])

        for number in range(16):
            history = await broker.read(Partition("made", number), 0, 100)
            ours = [d.envelope.key for d in history if d.envelope]
            theirs = [d.message.key.decode() for d in history if d.message and d.message.key]
            assert ours == theirs


async def test_retention_by_age_removes_what_is_old_and_passed(path: Path) -> None:
    """By the topic's own setting, up to the age, and never past a group."""
    times = Times()
    async with times.broker(path) as broker:
        await broker.declare([Topic(name="made", partitions=1, retain_seconds=60)], [Group(name="g", topics=("made",))])
        for number in range(10):
            await broker.publish([envelope(number)])
            times.micros += 10_000_000
        subscription = await broker.open("g")
        taken = await take(subscription, 10)

        kept = await broker.retain("made")
        await subscription.settle(taken[:3])
        await subscription.close()
        passed = await broker.retain("made")
        await broker.seek("g", [(P, 10)])
        old = await broker.retain("made")

        assert (kept, passed, old) == (0, 3, 1)
        assert await broker.bounds("made") == [(P, 4, 10)]
        assert positions(await broker.read(P, 0, 100)) == [4, 5, 6, 7, 8, 9]


async def test_retention_by_size_keeps_the_newest(path: Path) -> None:
    """What is beyond so many bytes goes, oldest first; what is left is no more than was allowed."""
    async with SqliteBroker(SqliteFile(path)) as broker:
        await broker.declare([Topic(name="made", partitions=1, retain_bytes=50_000)], [])
        for number in range(100):
            await broker.publish([envelope(number, body=b"x" * 1_000)])

        removed = await broker.retain("made")
        again = await broker.retain("made")

        left = await broker.read(P, 0, 1_000)
        assert 100 - 50 < removed < 100 - 40
        assert again == 0
        assert positions(left) == list(range(removed, 100))
        await broker.declare([Topic(name="made")], [])
        (topic,) = await broker.topics()
        assert topic == Topic(name="made", partitions=1, retain_bytes=50_000)


async def test_large_and_small_pages_are_read_and_removed_alike(path: Path) -> None:
    """Events kept in their page's row and events kept beside it come in one order, and retention leaves nothing of either."""
    times = Times()
    bodies = [b"x" * size for size in (10, 3_000, 10, 200, 100_000, 10)]
    async with times.broker(path) as broker:
        await broker.declare([Topic(name="made", partitions=1, retain_seconds=60)], [])
        await broker.publish([envelope(0, body=bodies[0])])
        await broker.publish([envelope(1, body=bodies[1])])
        await broker.publish([envelope(number, body=bodies[number]) for number in (2, 3)])
        await broker.publish([envelope(number, body=bodies[number]) for number in (4, 5)])
        beside = broker.file.query("select count(*) from broker_body")

        read = await broker.read(P, 0, 10)
        times.micros += 100_000_000
        removed = await broker.retain("made")

        assert [delivery.envelope.data for delivery in read if delivery.envelope is not None] == bodies
        assert beside == [(2,)]
        assert removed == 6
        assert broker.file.query("select count(*) from broker_body") == [(0,)]


async def test_an_empty_log_goes_on_where_it_was(path: Path) -> None:
    """When everything has been removed the next event still gets the next position, after a restart, too."""
    times = Times()
    async with times.broker(path) as broker:
        await broker.declare([Topic(name="made", partitions=1, retain_seconds=1)], [])
        await broker.publish([envelope(n) for n in range(5)])
        times.micros += 10_000_000
        assert await broker.retain("made") == 5

    async with times.broker(path) as broker:
        await broker.publish([envelope(5)])

        assert await broker.bounds("made") == [(P, 5, 6)]
        assert positions(await broker.read(P, 0, 10)) == [5]


async def test_a_group_whose_position_has_left_the_log_stops_and_says_why(path: Path) -> None:
    """After forced retention nothing is skipped in silence: the group's start raises, and so does a position given by its store."""
    times = Times()
    async with times.broker(path) as broker:
        await broker.declare([Topic(name="made", partitions=1, retain_seconds=1)], [Group(name="g", topics=("made",))])
        await broker.publish([envelope(n) for n in range(10)])
        times.micros += 10_000_000
        removed = await broker.retain("made", force=True)
        await broker.publish([envelope(10)])
        subscription = await broker.open("g")
        assert await subscription.receive(1, 0) == Assigned((P,))

        for position in (None, 3):
            with pytest.raises(PositionLostError, match="has left the log"):
                subscription.start(P, position)
        await subscription.close()
        (state,) = await broker.positions("g")
        assert removed == 10
        assert state.committed == Figure(0)


async def test_what_is_removed_under_a_reading_group_is_noticed(path: Path) -> None:
    """Forced retention while the group reads on: the next read raises and does not jump."""
    times = Times()
    async with times.broker(path) as broker:
        await broker.declare([Topic(name="made", partitions=1, retain_seconds=1)], [Group(name="g", topics=("made",))])
        for number in range(10):
            await broker.publish([envelope(number)])
        subscription = await broker.open("g")
        await take(subscription, 2, most=1)
        times.micros += 10_000_000
        await broker.retain("made", force=True)

        with pytest.raises(PositionLostError, match="position 2 of made/0 has left the log"):
            await take(subscription, 1)
        await subscription.close()


async def test_what_one_partition_has_lost_takes_nothing_from_another(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events that were read together with a failing partition are delivered before its error is."""
    monkeypatch.setattr(sqlite_log, "PAGE_EVENTS", 10)
    async with SqliteBroker(SqliteFile(path)) as broker:
        await broker.declare([Topic(name="made", partitions=2)], [Group(name="g", topics=("made",))])
        await broker.publish([envelope(n, f"k{n}") for n in range(200)])
        await broker.file.write(lambda c: c.execute("delete from broker_page where at <= ?", (1 << sqlite_log.SHIFT,)) and None)
        subscription = await broker.open("g")
        received = await subscription.receive(1, 0)
        assert isinstance(received, Assigned)
        for partition in received.partitions:
            subscription.start(partition, 0)
        (_, _, head), (other, _, other_head) = await broker.bounds("made")

        taken: list[Delivery] = []
        errors: list[PositionLostError] = []
        while len(taken) < other_head or not errors:
            try:
                received = await subscription.receive(7, 0)
            except PositionLostError as error:
                errors.append(error)
            else:
                assert isinstance(received, Deliveries)
                taken += received.items

        assert head > 0
        assert {d.partition for d in taken} == {other}
        assert positions(taken) == list(range(other_head))
        assert "position 0 of made/0 has left the log" in str(errors[0])
        await subscription.close()


async def test_a_replay_holds_retention_up(path: Path) -> None:
    """A group that goes back keeps what it has yet to handle again."""
    times = Times()
    async with times.broker(path) as broker:
        await broker.declare([Topic(name="made", partitions=1, retain_seconds=1)], [Group(name="g", topics=("made",))])
        for number in range(10):
            await broker.publish([envelope(number)])
        await broker.seek("g", [(P, 10)])
        times.micros += 10_000_000
        subscription = await broker.open("g")
        assert await subscription.receive(1, 0) == Assigned((P,))

        subscription.start(P, 4)
        removed = await broker.retain("made")

        assert removed == 4
        assert positions(await take(subscription, 6)) == [4, 5, 6, 7, 8, 9]
        await subscription.close()


async def test_a_time_leads_to_the_first_event_stored_then_or_later(path: Path) -> None:
    """Exact to the publish, before the first, between two and after the last, with removed history, too."""
    times = Times()
    async with times.broker(path) as broker:
        await broker.declare([Topic(name="made", partitions=1, retain_seconds=1_000_000)], [])
        start = times.micros
        for number in range(0, 30, 3):
            await broker.publish([envelope(number + n) for n in range(3)])
            times.micros += 100

        found = [await broker.position_at(P, start + micros) for micros in (-5, 0, 1, 100, 101, 900, 901)]
        await broker.declare([Topic(name="made", retain_seconds=0)], [])
        times.micros = start + 500
        await broker.retain("made")
        first = await broker.position_at(P, 0)

        assert found == [0, 0, 3, 3, 6, 27, 30]
        assert first == 15


async def test_a_brokers_file_from_yesterday_is_noticed(path: Path) -> None:
    """A group that has handled more than the log now holds stops and says so; nothing is skipped."""
    async with SqliteBroker(SqliteFile(path)) as broker:
        await broker.declare([Topic(name="made", partitions=1)], [Group(name="g", topics=("made",))])
        await broker.publish([envelope(0)])
    shutil.copy(path, path.with_name("yesterday.db"))
    async with SqliteBroker(SqliteFile(path)) as broker:
        await broker.publish([envelope(n) for n in range(1, 10)])
    shutil.copy(path.with_name("yesterday.db"), path)

    async with SqliteBroker(SqliteFile(path)) as broker:
        subscription = await broker.open("g")
        assert await subscription.receive(1, 0) == Assigned((P,))

        with pytest.raises(PositionLostError, match="the broker's file is an older copy"):
            subscription.start(P, 10)
        await subscription.close()


async def relay(store: SqliteStore, broker: SqliteBroker) -> list[str]:
    """Copy the outbox once, as the relay does; tell what was copied."""
    after = await broker.relayed(store.id)
    rows = await store.outbox(after, 10)
    if rows:
        assert set(await broker.publish([e for _, e in rows], origin=Origin(store.id, rows[-1][0], after))) == {None}
        await store.sent(rows[-1][0])
    return [e.id for _, e in rows]


async def test_a_store_from_yesterday_is_noticed(tmp_path: Path) -> None:
    """Its outbox ends before what was already copied from it: the relay is told, and nothing is passed over in silence."""
    service = tmp_path / "s.db"
    async with SqliteBroker(SqliteFile(tmp_path / "b.db")) as broker:
        async with SqliteStore(SqliteFile(service)) as store:
            await store.commit(Page(group="g", events=[envelope(0)]))
        shutil.copy(service, tmp_path / "yesterday.db")
        async with SqliteStore(SqliteFile(service)) as store:
            await store.commit(Page(group="g", events=[envelope(1)]))
            assert await relay(store, broker) == ["e-0", "e-1"]
        shutil.copy(tmp_path / "yesterday.db", service)

        async with SqliteStore(SqliteFile(service)) as store:
            with pytest.raises(StoreMismatchError, match="the store's file is an older copy of itself"):
                await relay(store, broker)


async def test_a_backup_of_a_store_goes_on_beside_what_its_original_has_published(tmp_path: Path) -> None:
    """Restored after the original had published more, it loses no event of its own, old or new."""
    service = tmp_path / "s.db"
    async with SqliteBroker(SqliteFile(tmp_path / "b.db")) as broker:
        async with SqliteStore(SqliteFile(service)) as store:
            for number in range(3):
                await store.commit(Page(group="g", events=[envelope(number)]))
            await store.sent(1)
            await store.backup(str(tmp_path / "yesterday.db"))
            await store.commit(Page(group="g", events=[envelope(n) for n in (3, 4, 5)]))
            assert await relay(store, broker) == ["e-1", "e-2", "e-3", "e-4", "e-5"]
        shutil.copy(tmp_path / "yesterday.db", service)

        async with SqliteStore(SqliteFile(service)) as store:
            waiting = await store.outbox_size()
            await store.commit(Page(group="g", events=[envelope(30)]))
            again = await relay(store, broker)
            await store.commit(Page(group="g", events=[envelope(31)]))

            assert waiting == 2
            assert again == ["e-1", "e-2", "e-30"]
            assert await relay(store, broker) == ["e-31"]
            assert await store.outbox_size() == 0


async def test_a_brokers_file_older_than_what_it_has_acknowledged_is_noticed(tmp_path: Path) -> None:
    """What a relay handed over and the broker no longer has is not passed over in silence."""
    log = tmp_path / "b.db"
    async with SqliteStore(SqliteFile(tmp_path / "s.db")) as store:
        for number in range(2):
            shutil.copy(log, tmp_path / "yesterday.db") if number else None
            async with SqliteBroker(SqliteFile(log)) as broker:
                await store.commit(Page(group="g", events=[envelope(number)]))
                await relay(store, broker)
        shutil.copy(tmp_path / "yesterday.db", log)

        async with SqliteBroker(SqliteFile(log)) as broker:
            with pytest.raises(StoreMismatchError, match="1 events are missing"):
                await relay(store, broker)


async def test_a_group_with_another_store_is_refused(path: Path) -> None:
    """The broker remembers whose progress the group's is, and forgets it with the group."""
    async with SqliteBroker(SqliteFile(path)) as broker:
        await broker.declare([], [Group(name="g", topics=("made",), store="one")])
        await broker.declare([], [Group(name="g", topics=("made",))])

        with pytest.raises(StoreMismatchError, match="in the store one, and this one is two"):
            await broker.declare([], [Group(name="g", topics=("made",), store="two")])
        await broker.forget("g")
        await broker.declare([], [Group(name="g", topics=("made",), store="two")])

        assert await broker.groups() == [Group(name="g", topics=("made",), store="two")]


async def test_the_wall_clock_changes_no_lease(path: Path) -> None:
    """A step of a day forward and back moves no partition; the monotonic clock does."""
    times = Times()
    async with times.broker(path, lease=10.0) as broker:
        await broker.declare([Topic(name="made", partitions=2)], [Group(name="g", topics=("made",))])
        first = await broker.open("g", "first")
        await first.receive(1, 0)
        for step in (86_400_000_000, -2 * 86_400_000_000):
            times.micros += step
            assert [state.owner for state in await broker.positions("g")] == ["first", "first"]
            with pytest.raises(BrokerError, match="is running"):
                await broker.seek("g", [(P, 0)])

        times.seconds += 11.0

        assert [state.owner for state in await broker.positions("g")] == [None, None]
        second = await broker.open("g", "second")
        assert await second.receive(1, 0) == Assigned((P, Partition("made", 1)))
        await first.close()
        await second.close()


async def test_many_topics_are_read_by_one_group(path: Path) -> None:
    """Three hundred topics, declared, published to and read in one go each, without cross-talk."""
    names = [f"topic.{n}" for n in range(300)]
    async with SqliteBroker(SqliteFile(path)) as broker:
        await broker.declare([Topic(name=name) for name in names], [Group(name="g", topics=tuple(names))])
        results = await broker.publish([envelope(n, f"k{n}", topic=name) for n, name in enumerate(names * 2)])
        subscription = await broker.open("g")

        taken = await take(subscription, 600)

        assert set(results) == {None}
        assert len(await broker.positions("g")) == 2_400
        assert sorted(d.envelope.topic for d in taken if d.envelope) == sorted(names * 2)
        assert all(d.envelope and d.envelope.topic == d.partition.topic for d in taken)
        await subscription.close()


async def test_a_name_that_cannot_be_kept_is_refused_alone(path: Path) -> None:
    """Of the events of one call those with an impossible topic or attribute fail by themselves."""
    events = [envelope(0), envelope(1, topic=""), envelope(2, topic="a\nb"), envelope(3, key="\ud800"), envelope(4, topic="ünï /.*")]
    async with SqliteBroker(SqliteFile(path)) as broker:
        results = await broker.publish(events)

        assert [type(result) for result in results] == [type(None), ConfigurationError, ConfigurationError, BrokerError, type(None)]
        assert sorted(topic.name for topic in await broker.topics()) == ["made", "ünï /.*"]


@pytest.mark.parametrize("together", [True, False])
async def test_an_event_that_cannot_be_kept_is_refused_alone(path: Path, together: bool) -> None:  # noqa: FBT001
    """Half a character is nothing that a file can hold; its neighbours are stored, whichever way they were published."""
    bad = msgspec.structs.replace(envelope(1), key="another", correlation="\ud800")
    events = [envelope(0), bad, envelope(2)]
    async with SqliteBroker(SqliteFile(path)) as broker:
        await broker.declare([Topic(name="made", partitions=1)], [])

        if together:
            results = await broker.publish(events)
        else:
            results = [result for (result,) in await asyncio.gather(*[broker.publish([event]) for event in events])]

        assert [result is None for result in results] == [True, False, True]
        assert "Correct its attributes" in str(results[1])
        assert [d.envelope for d in await broker.read(P, 0, 9)] == [events[0], events[2]]


async def test_what_is_published_at_one_moment_lies_in_the_order_of_the_calls(path: Path) -> None:
    """One by one, several at once and bare messages: a key's order is that of the calls, also where they share a commit."""
    async with SqliteBroker(SqliteFile(path)) as broker:
        await broker.declare([Topic(name="made", partitions=1)], [])
        steps = [[0], [1], [2, 3], [4], [5, 6], [7, 8], [9]]

        await asyncio.gather(*[broker.publish([envelope(n) for n in step]) for step in steps])

        assert [d.envelope for d in await broker.read(P, 0, 20)] == [envelope(n) for n in range(10)]


async def test_a_topic_that_was_rolled_back_is_made_again(path: Path) -> None:
    """A publish that fails after it has made its topic leaves no memory of it behind."""
    async with SqliteBroker(SqliteFile(path)) as broker:
        store = SqliteStore(broker.file, append=broker.append)
        async with store:
            with pytest.raises(ZeroDivisionError):
                async with store.transaction() as transaction:
                    transaction.apply(Page(group="g", events=[envelope(0)]))
                    raise ZeroDivisionError

            await broker.publish([envelope(1, topic="other"), envelope(2)])

            history = [d.envelope for n in range(8) for d in await broker.read(Partition("made", n), 0, 10)]
            assert history == [envelope(2)]


async def test_positions_stay_without_gaps_after_a_rollback(path: Path) -> None:
    """What was taken back leaves no hole and no double use of a position."""
    async with SqliteBroker(SqliteFile(path)) as broker, SqliteStore(broker.file, append=broker.append) as store:
        await broker.declare([Topic(name="made", partitions=1)], [])
        await broker.publish([envelope(0)])
        with pytest.raises(ZeroDivisionError):
            async with store.transaction() as transaction:
                transaction.apply(Page(group="g", events=[envelope(1), envelope(2)]))
                raise ZeroDivisionError

        await broker.publish([envelope(3)])

        history = await broker.read(P, 0, 10)
        assert [(d.position, d.envelope) for d in history] == [(0, envelope(0)), (1, envelope(3))]


@pytest.mark.parametrize("events", [200, 20_000])
async def test_finding_a_position_takes_as_many_steps_in_a_long_log_as_in_a_short_one(path: Path, events: int) -> None:
    """Looking up bounds, positions and times, and reading a page, cost SQLite the same few thousand steps at any length."""
    async with SqliteBroker(SqliteFile(path, synchronous="OFF")) as broker:
        await broker.declare([Topic(name="made", partitions=1)], [Group(name="g", topics=("made",), start="earliest")])
        for start in range(0, events, 20):
            await broker.publish([envelope(start + n) for n in range(20)])
        steps = 0

        def count() -> bool:
            nonlocal steps
            steps += 1
            return False

        broker.file.reader.set_progress_handler(count, 10)  # type: ignore[attr-defined]
        await broker.bounds("made")
        await broker.positions("g")
        await broker.position_at(P, 0)
        await broker.read(P, events // 2, 100)

        assert steps < 200


async def test_reading_large_events_takes_no_more_memory_than_one_read_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are asked for, and of however many partitions: the others are not even looked at."""
    monkeypatch.setattr(sqlite_log, "READ_BYTES", 200_000)
    async with SqliteBroker(SqliteFile(tmp_path / "b.db")) as broker:
        await broker.declare([Topic(name="made", partitions=4)], [Group(name="g", topics=("made",), start="earliest")])
        await broker.publish([envelope(number, key=str(number), body=bytes(100_000)) for number in range(100)])
        subscription = await broker.open("g", "m")
        first = await take(subscription, 1, most=1000)
        tracemalloc.start()
        try:
            second = await take(subscription, 1, most=1000)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        await subscription.close()

    assert 1 <= len(first) < 10
    assert 1 <= len(second) < 10
    assert peak < 2_000_000
