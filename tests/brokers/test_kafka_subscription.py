"""A member's back-pressure, on a stand-in for its thread: what is held back for a paused partition keeps nobody else's from coming."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.brokers import kafka_subscription
from millstream.brokers.kafka_groups import Beginning, GroupRecord
from millstream.brokers.kafka_poller import Gained, News, Taken
from millstream.brokers.kafka_subscription import KafkaSubscription
from millstream.core.broker import Assigned, Deliveries, Delivery, Partition

PARTITIONS = (Partition("t", 0), Partition("t", 1))
#: Records that may wait; then the thread polls nothing more.
MOST = 4


class Record:
    """What the client hands out."""

    def __init__(self, partition: int, offset: int) -> None:
        self._partition, self._offset = partition, offset

    def topic(self) -> str:
        return "t"

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def error(self) -> None:
        return None


class Reader:
    """What makes deliveries of them."""

    def delivery(self, partition: Partition, position: int, _record: Record) -> Delivery:
        return Delivery(partition, position, None)


class Thread:
    """The poller: it fetches what is not paused while there is room, and counts what was taken over."""

    def __init__(self, _config: Mapping[str, Any], _topics: Sequence[str], tell: Callable[[News], None]) -> None:
        self.tell = tell
        self.waiting = 0
        self.fetched = [0, 0]
        self.generations: dict[Partition, int] = {}
        self._under_way: list[Taken] = []
        self._paused: set[Partition] = set()

    def begin(self) -> None:
        self.tell(tuple(Gained(partition, 0, 1_000_000, 0) for partition in PARTITIONS))

    def fetch(self, number: int, count: int) -> None:
        """Get so many records of a partition from the server, if they may come."""
        if self.waiting < MOST and PARTITIONS[number] not in self._paused:
            first = self.fetched[number]
            self.fetched[number] += count
            records: Any = [Record(number, offset) for offset in reversed(range(first, first + count))]
            self._under_way.append(Taken(records, self.generations, 0))

    def hand_over(self) -> None:
        """Tell of all that was fetched, whatever was asked for meanwhile."""
        for taken in self._under_way:
            self.waiting += len(taken.records)
            self.tell(taken)
        self._under_way = []

    def start(self, partition: Partition, position: int, generation: int) -> None:
        self.fetched[partition.number] = position
        self.generations = {**self.generations, partition: generation}

    def commit(self, _offsets: Mapping[Partition, int]) -> None: ...

    def received(self, records: int, _size: int) -> None:
        self.waiting -= records

    def pause(self, partitions: Sequence[Partition]) -> None:
        self._paused.update(partitions)

    def resume(self, partitions: Sequence[Partition]) -> None:
        self._paused.difference_update(partitions)


class Ground:
    """A member that has both partitions."""

    def __init__(self) -> None:
        self.now = 0.0
        self.came: dict[Partition, list[int]] = {partition: [] for partition in PARTITIONS}

    async def join(self) -> None:
        record = GroupRecord(name="g", topics={"t": Beginning([0, 0])})
        nothing: Any = None
        reader: Any = Reader()
        self.member = KafkaSubscription(
            record, {}, reader, learn=self._learn, outgoing=nothing, transactions=nothing, closed=nothing, monotonic=self.monotonic
        )
        self.thread: Any = self.member._poller
        await asyncio.sleep(0)
        assert isinstance(await self.member.receive(1, 0), Assigned)
        for partition in PARTITIONS:
            self.member.start(partition, None)

    async def _learn(self, _topics: Sequence[str]) -> None: ...

    def monotonic(self) -> float:
        return self.now

    async def hand_over(self) -> None:
        self.thread.hand_over()
        # The loop hears it now.
        await asyncio.sleep(0)

    async def receive(self, most: int) -> int:
        match await self.member.receive(most, 0):
            case Deliveries(items):
                for item in items:
                    self.came[item.partition].append(item.position)
                await self.member.settle(items)
                return len(items)
            case other:
                raise AssertionError(other)

    async def all_that_waits(self) -> None:
        while await self.receive(100):
            pass


@pytest.fixture
def thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in, and a limit that is soon reached."""
    monkeypatch.setattr(kafka_subscription, "Poller", Thread)
    monkeypatch.setattr(kafka_subscription, "MOST_RECORDS", MOST)
    monkeypatch.setattr(kafka_subscription, "SHORT_PAUSE", 0.0)


@pytest.mark.usefixtures("thread")
async def test_what_comes_of_a_partition_after_its_pause_was_passed_on_keeps_no_room() -> None:
    """Records that were under way when a filling partition was paused at the client, too: there is room for others, then and later."""
    ground = Ground()
    await ground.join()
    one, _ = PARTITIONS
    ground.member.pause([one])
    ground.thread.fetch(0, 3)
    await ground.hand_over()
    ground.thread.fetch(0, 5)
    await ground.receive(3)
    await ground.hand_over()
    await ground.receive(5)
    assert ground.thread.waiting == 0

    ground.member.resume([one])
    await ground.all_that_waits()

    assert ground.thread.waiting == 0
    assert ground.came[one] == list(range(8))


ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("fetch"), st.integers(0, 1), st.integers(1, 4)),
        st.tuples(st.just("hand over")),
        st.tuples(st.just("receive"), st.sampled_from([1, 3, 100])),
        st.tuples(st.sampled_from(["pause", "resume", "rewind"]), st.integers(0, 1)),
    ),
    min_size=10, max_size=60,
)


@pytest.mark.usefixtures("thread")
@settings(max_examples=300, deadline=None)
@given(acts=ACTS)
def test_whatever_was_paused_and_resumed_all_comes_in_order_and_nothing_keeps_room(acts: list[Any]) -> None:
    """Fetches, receipts, pauses and rewinds in any order: once nothing is paused and nothing waits, there is all the room again."""

    async def play() -> None:
        ground = Ground()
        await ground.join()
        for act, *arguments in acts:
            match act:
                case "fetch":
                    ground.thread.fetch(*arguments)
                case "hand over":
                    await ground.hand_over()
                case "receive":
                    await ground.receive(*arguments)
                case "rewind":
                    ground.member.start(PARTITIONS[arguments[0]], len(ground.came[PARTITIONS[arguments[0]]]))
                case _:
                    getattr(ground.member, act)([PARTITIONS[arguments[0]]])
        ground.member.resume(PARTITIONS)
        await ground.hand_over()
        await ground.all_that_waits()

        assert ground.thread.waiting == 0
        for partition in PARTITIONS:
            assert ground.came[partition] == list(range(ground.thread.fetched[partition.number]))

    asyncio.run(play())
