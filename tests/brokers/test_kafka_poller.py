"""A member's thread, on a stand-in for the client: what a real server is like for moments only."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from millstream.brokers import kafka_poller
from millstream.brokers.kafka_poller import SECONDS, Failed, News, Poller


class Clock:
    """The time that the thread sees."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class SlowClient:
    """A client that is given a partition at once, and whose servers say late where the group stands, and then nothing."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def subscribe(self, topics: Sequence[str], *, on_assign: Callable[[Any, list[TopicPartition]], None], **others: object) -> None:
        """Join."""
        on_assign(self, [TopicPartition(topics[0], 0)])

    def committed(self, places: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        """The first of three questions: answered just in time."""
        self._clock.now += min(timeout, 0.9 * SECONDS)
        return places

    def offsets_for_times(self, places: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        """The others: not answered."""
        self._clock.now += timeout
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    def poll(self, timeout: float) -> None:
        """Nothing comes."""

    def consume(self, records: int, timeout: float) -> list[object]:
        """Nothing comes."""
        return []

    def incremental_assign(self, places: list[TopicPartition]) -> None:
        """Taken over, though nothing is read."""

    def pause(self, places: list[TopicPartition]) -> None:
        """So is this."""

    def close(self) -> None:
        """Leave."""


def test_who_does_not_learn_where_a_partition_begins_gives_up_within_ten_seconds_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The group waits for its members' answers no longer than `GIVE_UP`: three questions may not take ten seconds each."""
    clock = Clock()
    monkeypatch.setattr(kafka_poller, "time", clock)
    monkeypatch.setattr(kafka_poller, "Consumer", lambda config, logger: SlowClient(clock))
    told: list[tuple[News, float]] = []
    happened = threading.Event()

    def tell(news: News) -> None:
        told.append((news, clock.now))
        happened.set()

    poller = Poller({"group.id": "g", "client.id": "m"}, ["t"], tell)
    poller.begin()
    assert happened.wait(10)
    poller.close().result(10)

    (news, when), *others = told
    assert isinstance(news, Failed)
    assert news.error.code() == KafkaError._TIMED_OUT
    assert when <= SECONDS + 1
    assert not others
