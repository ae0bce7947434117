"""Publishing to Kafka: an idempotent producer whose acknowledgements wake the loop once for all that are there."""

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as Record

from millstream.brokers.kafka_errors import complaints, error_of, unusable
from millstream.brokers.kafka_settings import CLIENT_LOG, PRODUCER, KafkaSettings
from millstream.brokers.refused_keys import RefusedKeys
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import MillstreamError
from millstream.core.broker import Message

log = logging.getLogger("millstream.kafka")

T = TypeVar("T", Envelope, Message)
Answers = Sequence[KafkaError | MillstreamError | None]
#: What is handed to Kafka: topic, value, key and headers. A plain tuple, because there are many.
Outgoing = tuple[str, bytes, bytes | None, list[tuple[str, str | bytes | None]]]
#: From so many records, or callers, on it is worth a millisecond to send them together.
MANY = 8
#: Records that are handed over in one go; then others have their turn.
TURN = 500
#: Nobody has said yet what became of a record.
_UNKNOWN = object()
#: Seconds between looks at whether something has waited too long for its acknowledgement.
LOOK = 0.25


class KafkaProducer:
    """Sends records for any number of callers of one loop, and takes no longer for one than it has to.

    librdkafka sends a request for each partition, with what is there at that moment. For
    a lone caller that moment is now; for many at once it is a millisecond later, when
    their records make fuller requests. As a producer has one way only, there are two.
    """

    def __init__(self, settings: KafkaSettings, largest: int) -> None:
        self._prompt = Line(settings, largest, linger=0)
        self._gathering = Line(settings, largest, linger=1)

    def send(self, items: Sequence[T], record: Callable[[T], Outgoing]) -> Coroutine[Any, Any, Answers]:
        """One answer for each item: None once its record is stored as safely as its topic says, or what `record` raised."""
        few = len(items) < MANY and self._prompt.waiting + self._gathering.waiting < MANY
        return (self._prompt if few else self._gathering).send(items, record)

    async def close(self) -> None:
        """Wait for what is under way, and end."""
        await asyncio.gather(self._prompt.close(), self._gathering.close())


class Line:
    """An idempotent producer and the thread that hears what became of its records.

    A record that fails takes everything with it that is under way, so that no later
    record of its key can be stored without it.
    """

    def __init__(self, settings: KafkaSettings, largest: int, *, linger: float) -> None:
        self._settings = settings
        self._largest = largest
        self._linger = linger
        self._loop = asyncio.get_running_loop()
        self._producer: Producer | None = None
        self._threads: list[threading.Thread] = []
        self._done: deque[_Batch] = deque()
        self._waiting: dict[_Batch, float] = {}
        """Batches under way, and when each began; the oldest first."""
        self._drained = asyncio.Event()
        self._watch: asyncio.TimerHandle | None = None
        # At once: a producer that has no connection yet when its first record comes waits for half a second.
        self._start()

    @property
    def waiting(self) -> int:
        """How many calls are under way."""
        return len(self._waiting)

    async def send(self, items: Sequence[T], record: Callable[[T], Outgoing]) -> Answers:
        """One answer for each item: None once its record is stored as safely as its topic says, or what `record` raised."""
        if not items:
            return ()
        batch = _Batch(len(items), self._done.append, self._loop.create_future())
        self._waiting[batch] = self._loop.time()
        if self._watch is None:
            self._watch = self._loop.call_later(LOOK, self._look)
        producer = self._producer or self._start()
        given = 0
        while given < len(items) and self._producer is producer:
            turn = self._give(producer, items[given : given + TURN] if len(items) > TURN else items, record, batch, given)
            given += turn
            if not turn:
                # librdkafka's queue is full: some of it has to go first.
                self._drained.clear()
                await self._drained.wait()
            elif given < len(items):
                await asyncio.sleep(0)
        # Whoever stops waiting does not stop the sending.
        return await batch.finished

    def _give(
        self, producer: Producer, items: Sequence[T], record: Callable[[T], Outgoing], batch: "_Batch", first: int
    ) -> int:
        """Hand over as many as are taken now, and say how many."""
        produce, reported, refused = producer.produce, batch.reported, batch.refused
        # Each record is made when it is handed over: ten thousand of them at once would cost more to keep than to make.
        for index, item in enumerate(items, first):
            try:
                if refused:
                    refused.check(item.topic, item.key)
                topic, value, key, headers = record(item)
                produce(topic, value, key, on_delivery=partial(reported, index), headers=headers)
            except BufferError:
                return index - first
            except MillstreamError as error:
                refused.add(item.topic, item.key)
                batch.refuse(index, error)
            except KafkaException as error:
                if error_of(error).code() == KafkaError._FATAL:
                    self._replace(producer)
                    return index - first
                batch.refuse(index, error_of(error))
        if self._done:
            self._resolve()
        return len(items)

    async def close(self) -> None:
        """Wait for what is under way, and end."""
        while self._waiting:
            self._drained.clear()
            await self._drained.wait()
        self._producer = None
        if self._watch is not None:
            self._watch.cancel()
        for thread in self._threads:
            await asyncio.to_thread(thread.join, 2)

    def _start(self) -> Producer:
        try:
            self._producer = producer = Producer(self._config(), logger=CLIENT_LOG)
        except KafkaException as error:
            raise unusable(error, self._settings.name) from error
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=self._poll, args=(producer,), name="millstream-kafka-producer", daemon=True)
        self._threads.append(thread)
        thread.start()
        return producer

    def _config(self) -> dict[str, Any]:
        return {
            "reconnect.backoff.max.ms": 1000,
            **self._settings.client,
            **PRODUCER,
            "client.id": "millstream",
            # A key is where Java's and KafkaJS's producers put it; librdkafka's own default differs.
            "partitioner": "murmur2_random",
            "linger.ms": self._linger,
            "message.max.bytes": self._largest,
            # Well below what the smallest of usual topics takes at a time.
            "batch.size": 262_144,
            # Records give up together, see _look, and never one before another.
            "message.timeout.ms": 0,
            "enable.gapless.guarantee": True,
            # A topic that was deleted is told of before its records have waited too long for anything else.
            "topic.metadata.propagation.max.ms": min(10_000, int(self._settings.timeout * 500)),
            "queue.buffering.max.messages": 100_000,
            "queue.buffering.max.kbytes": 262_144,
            "error_cb": complaints(self._settings.name),
        }

    def _poll(self, producer: Producer) -> None:
        """The thread: takes acknowledgements, and wakes the loop once for all that came together."""
        while self._producer is producer:
            try:
                producer.poll(LOOK)
            except KafkaException as error:
                log.warning("%s: a producer has failed and is replaced: %s", self._settings.name, error_of(error).str())
                self._in_loop(partial(self._replace, producer))
                break
            if self._done:
                self._in_loop(self._resolve)

    def _in_loop(self, call: Callable[[], None]) -> None:
        # The loop may be closed already, and then nobody waits.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call)

    def _resolve(self) -> None:
        while self._done:
            batch = self._done.popleft()
            self._waiting.pop(batch, None)
            if not batch.finished.done():
                batch.finished.set_result(batch.answers)
        self._drained.set()

    def _look(self) -> None:
        """Have everything fail when something has waited too long."""
        self._watch = None
        if not self._waiting:
            return
        oldest = next(iter(self._waiting.values()))
        if self._producer is not None and self._loop.time() - oldest > self._settings.timeout:
            self._replace(self._producer)
        self._watch = self._loop.call_later(LOOK, self._look)

    def _replace(self, producer: Producer) -> None:
        """Everything under way fails; the next record goes to a new producer."""
        if self._producer is not producer:
            return
        self._producer = None
        # What was not sent never will be, and what was is forgotten: it may be stored, or not.
        producer.purge(blocking=False)
        for batch in self._waiting:
            batch.give_up(KafkaError(KafkaError._PURGE_INFLIGHT, "not acknowledged in time"))
            self._done.append(batch)
        self._resolve()


class _Batch:
    """The records of one call, and what became of them."""

    __slots__ = ("_answers", "_expected", "_reported", "_settled", "finished", "refused")

    def __init__(
        self, size: int, settled: Callable[["_Batch"], None], finished: asyncio.Future[Answers]
    ) -> None:
        self.finished = finished
        self.refused = RefusedKeys()
        self._answers: list[Any] = [_UNKNOWN] * size
        self._settled = settled
        self._reported = 0
        """Changed by the polling thread alone."""
        self._expected = size
        """Changed by the loop alone."""

    @property
    def answers(self) -> Answers:
        """What became of each, once that is known of all."""
        return self._answers

    def reported(self, index: int, error: KafkaError | None, _record: Record) -> None:
        """In the polling thread: one record is stored, or is not."""
        self._answers[index] = error
        self._reported += 1
        if self._reported == self._expected:
            self._settled(self)

    def refuse(self, index: int, error: KafkaError | MillstreamError) -> None:
        """On the loop: this one was not even taken."""
        self._answers[index] = error
        self._expected -= 1
        # The thread may have seen the last of the others before it was known to be the last.
        if self._reported == self._expected:
            self._settled(self)

    def give_up(self, error: KafkaError) -> None:
        """On the loop: whatever is not known by now has failed."""
        self._answers = [error if answer is _UNKNOWN else answer for answer in self._answers]
