"""The bridge: all of it arrives, in order, and it goes on where it was."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from millstream.app.bridge import Bridge
from millstream.app.system_clock import SystemClock
from millstream.brokers.memory import MemoryBroker, MemorySubscription
from millstream.brokers.sqlite import SqliteBroker
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import BrokerError, BrokerUnavailableError, ConfigurationError, MillstreamError, NotFoundError
from millstream.core.broker import Assigned, Deliveries, Delivery, Figure, Message, Partition, PartitionState, Received, Topic
from millstream.stores.sqlite_file import SqliteFile

CLOCK = SystemClock()


def event(number: int, key: str = "k", topic: str = "made") -> Envelope:
    return Envelope(id=f"e-{number}", source="/test", type="made", key=key, time=number, data=b"%d" % number, topic=topic)


def a_bridge(source: Any, target: Any, **options: Any) -> Bridge:
    return Bridge(source, target, clock=CLOCK, group="crossing", **options)


async def run(bridge: Bridge) -> Bridge:
    async with asyncio.timeout(20):
        await bridge.run(asyncio.Event())
    return bridge


async def history(broker: Any, topic: str = "made") -> list[Delivery]:
    return [delivery for partition, _, head in await broker.bounds(topic) for delivery in await broker.read(partition, 0, head)]


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.envelope.id for delivery in deliveries if delivery.envelope is not None]


class Moody(MemoryBroker):
    """A target whose moods are said beforehand: one for each call of `publish`."""

    def __init__(self) -> None:
        super().__init__()
        self.moods: list[BaseException | None] = []

    async def publish(self, envelopes: Sequence[Envelope], **options: Any) -> Sequence[MillstreamError | None]:
        mood = self.moods.pop(0) if self.moods else None
        if isinstance(mood, BrokerUnavailableError):
            # The first half arrives, and the rest does not.
            half = len(envelopes) // 2
            await super().publish(envelopes[:half])
            return [None] * half + [mood] * (len(envelopes) - half)
        if isinstance(mood, MillstreamError):
            return [mood if envelope.id == "e-3" else None for envelope in envelopes]
        results = await super().publish(envelopes, **options)
        if mood is not None:
            raise mood
        return results


class Late:
    """A member of a group that gets its first partition at once, and the others when it has looked in vain: somebody had them."""

    def __init__(self, subscription: MemorySubscription) -> None:
        self._subscription = subscription
        self._coming: list[Received] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._subscription, name)

    async def receive(self, most: int, wait: float) -> Received:
        came = await self._subscription.receive(most, 0.0)
        if isinstance(came, Assigned):
            self._coming = [Deliveries(()), Assigned(came.partitions[1:])]
            return Assigned(came.partitions[:1])
        return came if came.items or not self._coming else self._coming.pop(0)  # type: ignore[union-attr]


class Queue(MemoryBroker):
    """A source without positions, where nobody counts what a member has in hand."""

    name = "queue://"
    features = replace(MemoryBroker.features, positional=False, replayable=False)

    async def open(self, group: str, member: str = "") -> Any:
        return Late(await super().open(group, member))

    async def positions(self, group: str) -> Sequence[PartitionState]:
        unknown = Figure(None, "unknown")
        states = await super().positions(group)
        return [replace(state, committed=unknown, head=unknown, waiting=Figure(0, "estimated")) for state in states]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "source.db"


async def test_all_of_it_is_copied_once_and_later_only_what_is_new(path: Path) -> None:
    """Events and bare messages, of every topic, with their ids, keys and order; a topic's partitions and retention too."""
    async with SqliteBroker(SqliteFile(path)) as source, MemoryBroker() as target:
        await source.declare([Topic(name="made", partitions=3, retain_seconds=60), Topic(name="other", partitions=1)], [])
        events = [event(n, key=f"k{n % 5}") for n in range(2_500)]
        await source.publish(events)
        await source.publish_raw([Message(topic="other", key=b"k", body=b"\xff", headers=(("h", b"1"),), time=5)])

        first = await run(a_bridge(source, target))
        await source.publish([event(2_500, key="k0")])
        second = await run(a_bridge(source, target))
        third = await run(a_bridge(source, target))

        copied = [delivery.envelope for delivery in await history(target)]
        assert {key: [e for e in copied if e and e.key == key] for key in ("k0", "k3")} == {
            "k0": [e for e in [*events, event(2_500, key="k0")] if e.key == "k0"],
            "k3": [e for e in events if e.key == "k3"],
        }
        assert len(copied) == 2_501
        ((raw,),) = [[d.message for d in await history(target, "other")]]
        assert raw is not None
        assert (raw.body, raw.key, raw.headers) == (b"\xff", b"k", (("h", b"1"),))
        assert {t.name: (t.partitions, t.retain_seconds) for t in await target.topics()} == {"made": (3, 60.0), "other": (1, None)}
        assert [each.copied for each in (first, second, third)] == [{"made": 2_500, "other": 1}, {"made": 1}, {}]


async def test_a_crash_between_publishing_and_noting_it_repeats_and_loses_nothing(path: Path) -> None:
    """What was published but not noted is published again, with the same ids."""
    async with SqliteBroker(SqliteFile(path)) as source, Moody() as target:
        await source.declare([Topic(name="made", partitions=1)], [])
        await source.publish([event(n) for n in range(10)])
        target.moods = [ZeroDivisionError()]

        with pytest.raises(ZeroDivisionError):
            await run(a_bridge(source, target))
        await run(a_bridge(source, target))

        assert ids(await history(target)) == [f"e-{n}" for n in range(10)] * 2


async def test_a_target_that_is_away_is_tried_again_and_nothing_turns_round(path: Path) -> None:
    """Of a page that arrived in part only the rest is repeated."""
    async with SqliteBroker(SqliteFile(path)) as source, Moody() as target:
        await source.declare([Topic(name="made", partitions=1)], [])
        await source.publish([event(n) for n in range(10)])
        target.moods = [BrokerUnavailableError("away"), BrokerUnavailableError("still away")]

        bridge = await run(a_bridge(source, target))

        assert ids(await history(target)) == [f"e-{n}" for n in range(10)]
        assert bridge.copied == {"made": 10}


async def test_an_event_that_the_target_refuses_is_named_and_can_be_left_out(path: Path) -> None:
    """It stops there, rather than lose it silently; with its id named it is skipped, and counted."""
    async with SqliteBroker(SqliteFile(path)) as source, Moody() as target:
        await source.declare([Topic(name="made", partitions=1)], [])
        await source.publish([event(n) for n in range(5)])
        target.moods = [BrokerError("it is too odd.")]

        with pytest.raises(BrokerError, match=r"does not take event 'e-3' \(made/0 at 3\): it is too odd.*--skip e-3"):
            await run(a_bridge(source, target))
        bridge = await run(a_bridge(source, target, skip=["e-3"]))

        assert "e-3" not in ids(await history(target))
        assert ids(await history(target))[-4:] == ["e-0", "e-1", "e-2", "e-4"]
        assert (bridge.copied, bridge.skipped) == ({"made": 4}, {"made": 1})


async def test_a_message_that_nothing_names_is_no_riddle(path: Path) -> None:
    """It cannot be left out by its id, so the error says what can be done."""
    async with SqliteBroker(SqliteFile(path)) as source, Moody() as target:
        bridge = a_bridge(source, target)
        delivery = Delivery(Partition("made", 0), 3, None, Message(topic="made", body=b"x"))

        error = str(bridge._refused(delivery, BrokerError("it is too odd")))

        assert error.endswith("it is too odd. Everything before it is copied. It has no id to leave it out by: remove it at the source.")


async def test_a_source_that_is_away_is_joined_again(path: Path) -> None:
    """What was in hand comes again, and nothing is lost; what else is wrong is raised."""
    async with SqliteBroker(SqliteFile(path)) as source, MemoryBroker() as target:
        await source.publish([event(n) for n in range(10)])
        open_, troubles = source.open, [BrokerUnavailableError("away"), BrokerUnavailableError("still away")]

        async def open_in_trouble(group: str, member: str = "") -> Any:
            if troubles:
                raise troubles.pop(0)
            return await open_(group, member)

        source.open = open_in_trouble  # type: ignore[method-assign, assignment]
        bridge = await run(a_bridge(source, target))
        assert ids(await history(target)) == [f"e-{n}" for n in range(10)]
        assert (bridge.copied, troubles) == ({"made": 10}, [])

        troubles.append(BrokerError("broken"))
        with pytest.raises(BrokerError, match="broken"):
            await run(a_bridge(source, target))


async def test_a_queue_is_empty_when_each_part_of_it_was_looked_into() -> None:
    """What a member that died had in hand is counted by nobody: the bridge waits until it has every partition itself."""
    async with Queue() as source, MemoryBroker() as target:
        await source.declare([Topic(name="made", partitions=3)], [])
        nothing = await run(a_bridge(source, target))
        await source.publish([event(n, key=f"k{n}") for n in range(30)])

        bridge = await run(a_bridge(source, target))

        assert (nothing.copied, bridge.copied) == ({}, {"made": 30})


async def test_only_the_topics_that_are_named_are_copied(path: Path) -> None:
    """Those that it was asked for before stay where they are, and are not waited for."""
    async with SqliteBroker(SqliteFile(path)) as source, MemoryBroker() as target:
        await source.publish([event(0), event(1, topic="other")])
        await run(a_bridge(source, target, topics=["made"]))
        await source.publish([event(2)])

        other = await run(a_bridge(source, target, topics=["other"]))
        made = await run(a_bridge(source, target, topics=["made"]))

        assert (other.copied, made.copied) == ({"other": 1}, {"made": 1})
        assert ids(await history(target)) == ["e-0", "e-2"]


async def test_following_copies_what_comes_and_topics_that_come(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it is stopped; and then it is where it was."""
    monkeypatch.setattr("millstream.app.bridge.TOPICS_EVERY", 0.0)
    monkeypatch.setattr("millstream.app.bridge.LOOK", 0.02)
    stop, reached = asyncio.Event(), asyncio.Queue[int]()
    async with SqliteBroker(SqliteFile(path)) as source, MemoryBroker() as target, asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        await source.publish([event(0)])
        bridge = a_bridge(source, target)
        running = tasks.create_task(bridge.run(stop, follow=True, told=reached.put_nowait))
        assert await reached.get() == 1

        await source.publish([event(1)])
        assert await reached.get() == 2
        await source.publish([event(2, topic="new")])
        assert await reached.get() == 3
        stop.set()
        await running

        assert ids(await history(target, "new")) == ["e-2"]
        assert bridge.copied == {"made": 2, "new": 1}


async def test_a_bridge_that_leads_nowhere_is_refused(path: Path) -> None:
    """To itself, or from a topic that is not there: the error says what there is."""
    async with SqliteBroker(SqliteFile(path)) as source, MemoryBroker() as target:
        await source.publish([event(0)])

        with pytest.raises(ConfigurationError, match="would go round"):
            a_bridge(source, source)
        with pytest.raises(NotFoundError, match=r"no topic ordered\. It has: made"):
            await run(a_bridge(source, target, topics=["ordered"]))

        assert await source.groups() == []
        assert Partition("ordered", 0) not in [p for p, _, _ in await target.bounds("ordered")]
