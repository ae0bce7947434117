"""What every process is told: a topic of one partition, which each listener reads from its end."""

import asyncio
import contextlib
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from millstream.brokers.kafka_errors import complaints, error_of, failure
from millstream.brokers.kafka_settings import CLIENT_LOG, KafkaSettings
from millstream.contracts.errors import MillstreamError

TOPIC = "_millstream.broadcast"
#: Nobody reads what was said before; it is kept for a while for whoever looks for the reason of something.
KEPT_SECONDS = 3600
SECONDS = 10.0
LOOK = 0.1


class KafkaListener:
    """One ear for what is broadcast, with a thread of its own; see `core.broker.Listener`."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._heard: list[bytes] = []
        self._something = asyncio.Event()
        self._failure: MillstreamError | None = None
        self._closing = False
        self._begun: Future[None] = Future()
        self._ended: Future[None] = Future()
        self._thread = threading.Thread(target=self._listen, name="millstream-kafka-listener", daemon=True)

    async def begin(self) -> None:
        """Return once everything that is said from now on will be heard."""
        self._thread.start()
        await asyncio.wrap_future(self._begun)

    async def receive(self, wait: float) -> Sequence[bytes]:
        if not self._heard and wait > 0 and self._failure is None:
            self._something.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._something.wait()
        if self._failure is not None:
            raise self._failure
        heard, self._heard = self._heard, []
        return heard

    async def close(self) -> None:
        if not self._closing:
            self._closing = True
            await asyncio.wrap_future(self._ended)

    def _listen(self) -> None:
        """The thread."""
        consumer: Consumer | None = None
        try:
            consumer = Consumer(self._config(), logger=CLIENT_LOG)
            _, end = consumer.get_watermark_offsets(TopicPartition(TOPIC, 0), timeout=SECONDS)
            consumer.assign([TopicPartition(TOPIC, 0, end)])
            self._begun.set_result(None)
            while not self._closing:
                self._poll(consumer)
        except KafkaException as error:
            self._fail(failure(error_of(error), f"{self._settings.name}: listening"))
        finally:
            if consumer is not None:
                consumer.close()
            self._ended.set_result(None)

    def _poll(self, consumer: Consumer) -> None:
        first = consumer.poll(LOOK)
        if first is None:
            return
        records = [first, *consumer.consume(1000, 0)]
        for record in records:
            error = record.error()
            if error is not None:
                raise KafkaException(error)
        self._in_loop([record.value() or b"" for record in records])

    def _in_loop(self, heard: list[bytes]) -> None:
        def hear() -> None:
            self._heard += heard
            self._something.set()

        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(hear)

    def _fail(self, error: MillstreamError) -> None:
        if not self._begun.done():
            self._begun.set_exception(error)
            return
        self._failure = error
        self._in_loop([])

    def _config(self) -> dict[str, Any]:
        return {
            **self._settings.client,
            "client.id": "millstream-listener",
            # librdkafka insists on a group; nothing is ever committed to it.
            "group.id": "millstream-listener",
            "enable.auto.commit": False,
            # What was said while we could not listen is over.
            "auto.offset.reset": "latest",
            "queued.max.messages.kbytes": 4096,
            "error_cb": complaints(self._settings.name),
        }
