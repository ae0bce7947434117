"""What becomes of a transactional producer whose calls fail, or do not come back: no server is needed to see it."""

import asyncio
import gc
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from millstream.brokers.kafka_producer import Outgoing
from millstream.brokers.kafka_settings import settings_of
from millstream.brokers.kafka_transactions import KafkaTransactions
from millstream.contracts.errors import BrokerUnavailableError
from millstream.core.broker import Partition

RECORDS: Sequence[Outgoing] = [("topic", b"event", b"key", [])]
OFFSETS = {Partition("topic", 0): 1}


class Producers:
    """Stand-ins for librdkafka's, in the order in which they were made."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.ended: list[str] = []
        """The threads in which they ended."""
        self.one_has_ended = threading.Event()
        self.stuck = threading.Event()
        """What the first producer waits for when it is to settle."""
        self.failing = False
        """Whether the first one fails when it is to settle, and again when it is to abort."""

    def __call__(self, settings: Mapping[str, Any], logger: Any) -> "Standin":
        self.calls.append([])
        return Standin(self, self.calls[-1], first=len(self.calls) == 1)


class Standin:
    """One producer."""

    def __init__(self, producers: Producers, calls: list[str], *, first: bool) -> None:
        self._producers = producers
        self._calls = calls
        self._first = first

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **options: Any) -> None:
            self._calls.append(name)
            if self._first and name == "send_offsets_to_transaction":
                self._producers.stuck.wait()
            if self._first and self._producers.failing and name in ("send_offsets_to_transaction", "abort_transaction"):
                raise KafkaException(KafkaError(KafkaError._TRANSPORT))

        return call

    def __del__(self) -> None:
        self._producers.ended.append(threading.current_thread().name)
        self._producers.one_has_ended.set()


@pytest.fixture
def producers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Producers]:
    found = Producers()
    monkeypatch.setattr("millstream.brokers.kafka_transactions.Producer", found)
    yield found
    found.stuck.set()


def member_of_a_group() -> KafkaTransactions:
    def membership(_: Sequence[Partition]) -> "Future[str]":
        answer: Future[str] = Future()
        answer.set_result("member")
        return answer

    return KafkaTransactions(settings_of("kafka://127.0.0.1:1"), "group", "m", membership, 1000)


async def test_a_call_that_does_not_come_back_is_left_behind_and_the_next_transaction_has_a_new_producer(
    producers: Producers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """librdkafka waits for a group's server that has left the cluster without any limit: the group would stand still."""
    for limit in ("TIMEOUT", "LATE"):
        monkeypatch.setattr(f"millstream.brokers.kafka_transactions.{limit}", 0.05)
    transactions = member_of_a_group()

    with pytest.raises(BrokerUnavailableError, match="may have left the cluster"):
        await transactions.run(RECORDS, OFFSETS)
    await transactions.run(RECORDS, OFFSETS)
    producers.stuck.set()
    await asyncio.to_thread(producers.one_has_ended.wait, 10)
    await transactions.close()

    left, new = producers.calls
    # It could still come back: then nothing may have been committed, nor be committed by anybody.
    assert left[-1] == "send_offsets_to_transaction"
    assert new[-3:] == ["send_offsets_to_transaction", "commit_transaction", "purge"]
    assert producers.ended[0] == "millstream-kafka-offsets"


async def test_a_producer_that_is_thrown_away_does_not_end_in_the_event_loop(producers: Producers) -> None:
    """Its end waits for all its threads: in the event loop everything else would wait with it."""
    producers.stuck.set()
    producers.failing = True
    transactions = member_of_a_group()

    gc.disable()
    try:
        with pytest.raises(BrokerUnavailableError) as failed:
            await transactions.run(RECORDS, OFFSETS)
        await asyncio.to_thread(producers.one_has_ended.wait, 10)
    finally:
        gc.enable()
    await transactions.close()

    assert isinstance(failed.value.__cause__, KafkaException)
    assert producers.ended, "it has not ended, although nobody needs it"
    assert producers.ended[0].startswith("millstream-kafka-")
