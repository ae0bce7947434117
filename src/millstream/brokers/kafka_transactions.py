"""Publishing and settling in one Kafka transaction."""

import asyncio
import contextlib
import secrets
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Thread
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka import Message as Record

from millstream.brokers import kafka_groups
from millstream.brokers.kafka_errors import FENCED, complaints, error_of, failure, is_passing
from millstream.brokers.kafka_producer import Outgoing
from millstream.brokers.kafka_settings import CLIENT_LOG, PRODUCER, KafkaSettings
from millstream.contracts.errors import FencedError, MillstreamError, PublishError
from millstream.core.broker import Partition

#: A process that dies inside a transaction holds up readers for so long, in seconds.
TIMEOUT = 10.0
#: librdkafka's own end of a call may come so many seconds after its timeout.
LATE = 2.0
#: The group gives its members new numbers while they work; so often a transaction is done again for that.
ATTEMPTS = 5
#: So many hundredths of a second are waited for what became of the records of a transaction that failed.
REPORTS = 100
#: The member is what it was, under a newer number.
STALE = frozenset((KafkaError.STALE_MEMBER_EPOCH, KafkaError.REBALANCE_IN_PROGRESS, KafkaError.CONCURRENT_TRANSACTIONS))

#: Asks the consumer's thread to prove that partitions are its own; None if they are not.
Membership = Callable[[Sequence[Partition]], "Future[Any]"]


class _RefusedError(Exception):
    """These records will never be taken."""

    def __init__(self, errors: Sequence[tuple[Outgoing, KafkaError]]) -> None:
        super().__init__(errors)
        self.errors = errors


class KafkaTransactions:
    """A transactional producer for one member of a group.

    Its offsets carry the member's number in the group: once the group has gone on
    without it, its transactions are refused.
    """

    def __init__(self, settings: KafkaSettings, group: str, member: str, membership: Membership, largest: int) -> None:
        self._settings = settings
        self._group = group
        self._member = member
        self._membership = membership
        self._largest = largest
        self._thread = ThreadPoolExecutor(1, "millstream-kafka-transactions")
        self._producer: Producer | None = None

    async def run(self, records: Sequence[Outgoing], offsets: Mapping[Partition, int]) -> None:
        """Publish and settle, or neither; raises `FencedError` if another member has taken over."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._run, records, offsets)

    async def close(self) -> None:
        """End the producer; what it had not committed is undone."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._end)
        self._thread.shutdown()

    # The thread

    def _run(self, records: Sequence[Outgoing], offsets: Mapping[Partition, int]) -> None:
        for attempt in range(ATTEMPTS):
            try:
                member = self._membership(tuple(offsets)).result(TIMEOUT)
            except TimeoutError:
                member = None
            if member is None:
                raise self._fenced("the group has given the partitions to another member")
            try:
                self._commit(records, offsets, member)
            except _RefusedError as exception:
                self._undo(exception, exception.errors[0][1])
                # What a producer sends next, after one of its records was refused, librdkafka may purge.
                self._end()
                raise PublishError(self._answers(records, exception.errors)) from exception
            except KafkaException as exception:
                error = error_of(exception)
                self._undo(exception, error)
                if error.code() in STALE and attempt + 1 < ATTEMPTS:
                    continue
                if error.code() in FENCED:
                    raise self._fenced(error.str()) from exception
                raise failure(error, f"{self._settings.name}: publishing and settling for group {self._group!r}") from exception
            return

    def _commit(self, records: Sequence[Outgoing], offsets: Mapping[Partition, int], member: Any) -> None:
        producer = self._producer or self._begin()
        producer.begin_transaction()
        failures: list[tuple[Outgoing, KafkaError]] = []

        def report(error: KafkaError | None, record: Record) -> None:
            if error is not None:
                failures.append(((record.topic() or "", record.value() or b"", record.key(), []), error))

        produce = producer.produce
        for record in records:
            topic, value, key, headers = record
            try:
                produce(topic, value, key, on_delivery=report, headers=headers)
            except BufferError:
                self._produce_slowly(producer, record, report)
            except KafkaException as exception:
                if is_passing(error_of(exception)) or error_of(exception).fatal():
                    raise
                raise _RefusedError([(record, error_of(exception))]) from exception
        try:
            if offsets:
                self._settle(producer, offsets, member)
            producer.commit_transaction(TIMEOUT)
        except KafkaException as exception:
            error = error_of(exception)
            if error.code() in FENCED:
                raise
            # A transaction may be given up before it is heard which of its records was refused.
            waits = 0 if is_passing(error) or error.code() in STALE else REPORTS
            while waits and not failures:
                producer.poll(0.01)
                waits -= 1
            if not failures:
                raise
            # What a record failed of says more than that the transaction did; and what fails with it, because it was purged, nothing.
            refused = [(record, error) for record, error in failures if not is_passing(error)]
            raise (_RefusedError(refused) if refused else KafkaException(failures[0][1])) from exception

    def _settle(self, producer: Producer, offsets: Mapping[Partition, int], member: Any) -> None:
        """Add the offsets to the transaction, in a thread that can be left behind.

        librdkafka (seen in 2.16) looks for the group's server without any limit of time: where that server left the
        cluster just then, the call may come back minutes later or never. A transaction that is left behind in it cannot
        be committed any more, since the thread does nothing but this; the servers undo it after its timeout.
        """
        answer: Future[None] = Future()

        def settle() -> None:
            try:
                places = [TopicPartition(p.topic, p.number, offset, self._member) for p, offset in offsets.items()]
                producer.send_offsets_to_transaction(places, member, TIMEOUT)
            except BaseException as exception:  # noqa: BLE001 - whoever waits has it, but not this frame, which has the producer
                answer.set_exception(exception.with_traceback(None))
            else:
                answer.set_result(None)

        Thread(target=settle, name="millstream-kafka-offsets", daemon=True).start()
        try:
            answer.result(TIMEOUT + LATE)
        except TimeoutError:
            self._producer = None
            error = KafkaError(KafkaError._TIMED_OUT, "the group's server was not found in time; it may have left the cluster")
            raise KafkaException(error) from None

    def _answers(self, records: Sequence[Outgoing], errors: "Sequence[tuple[Outgoing, KafkaError]]") -> list[MillstreamError | None]:
        """What became of each record, where some were refused: a record is known by what it says."""
        what = f"{self._settings.name}: publishing in a transaction for group {self._group!r}"
        said = {record[:3]: failure(error, what) for record, error in errors}
        return [said.get(record[:3]) for record in records]

    def _produce_slowly(self, producer: Producer, record: Outgoing, report: Callable[[KafkaError | None, Record], None]) -> None:
        while True:
            try:
                topic, value, key, headers = record
                producer.produce(topic, value, key, on_delivery=report, headers=headers)
            except BufferError:
                producer.poll(0.1)
            else:
                return

    def _begin(self) -> Producer:
        settings: dict[str, Any] = {
            # A transaction that follows another at once is told to wait for so long.
            "retry.backoff.ms": 5,
            **self._settings.client,
            **PRODUCER,
            "client.id": f"millstream-{self._group}",
            # A name of its own for every member: what fences a member is its number in the group.
            "transactional.id": f"millstream.{self._group}.{secrets.token_hex(8)}",
            "transaction.timeout.ms": int(TIMEOUT * 1000),
            "partitioner": "murmur2_random",
            "message.max.bytes": self._largest,
            "linger.ms": 0,
            # Nobody waits for a record but with all the others.
            "delivery.report.only.error": True,
            "error_cb": complaints(self._settings.name),
        }
        producer = Producer(settings, logger=CLIENT_LOG)
        # Connected first: without a connection it would look for one half a second later.
        producer.list_topics(kafka_groups.TOPIC, timeout=TIMEOUT)
        producer.init_transactions(TIMEOUT)
        self._producer = producer
        return producer

    def _undo(self, failed: Exception, error: KafkaError) -> None:
        """Abort; a producer that cannot even do that is thrown away, and the servers abort for it."""
        # It is thrown away here, in this thread, and not in the event loop, which has the exception last: its frames have the producer.
        traceback.clear_frames(failed.__traceback__)
        producer = self._producer
        if producer is None:
            return
        if not error.fatal():
            with contextlib.suppress(KafkaException):
                producer.abort_transaction(TIMEOUT)
                return
        self._end()

    def _end(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(KafkaException):
                producer.purge()
            # Dropped rather than closed, which would try again to abort what cannot be aborted.
            del producer

    def _fenced(self, why: str) -> MillstreamError:
        return FencedError(
            f"group {self._group!r} on {self._settings.name}: {why}. Nothing was published or settled; the new owner does it."
        )
