"""Triage: what a delivery is, before anybody handles it."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import structs

from millstream.app.judge import Judge, said_by
from millstream.app.work import Owned, Work
from millstream.contracts.codec import STRUCTURED_CONTENT_TYPE, from_binary, from_plain, from_structured
from millstream.contracts.confluent import bare_key, from_framed, unframed
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import DecodeError, EnvelopeError, MillstreamError
from millstream.contracts.message import codec_for
from millstream.core.broker import Delivery, Message
from millstream.core.handler import Handler
from millstream.core.store import Mark, Parked


class Triage:
    """Finds for each delivery its handler, its typed message and its sequence."""

    def __init__(self, handlers: Sequence[Handler], judge: Judge, broker: str) -> None:
        self._judge = judge
        self._broker = broker
        self._handlers = {contract.name: handler for handler in handlers for contract in handler.contracts}
        self._bare = {topic: handler for handler in handlers if handler.wire != "cloudevents" for topic in handler.topics}

    def again(self, parked: Parked, owned: Owned) -> Work:
        """A parked delivery, for its next attempt; one that nobody understands is judged already."""
        delivery = Delivery(parked.partition, parked.position, parked.envelope, parked.message)
        envelope = parked.envelope or self.read(delivery).envelope
        handler = self._handlers.get(envelope.type) if envelope else None
        work = Work(delivery, envelope, owned, handler, parked.sequence)
        work.parked = parked
        work.attempt = parked.attempts + 1
        if envelope is None or handler is None:
            self._judge.bury(work, "no handler understands it", parked.error.partition(":")[0] or "MissingHandler")
        elif handler.where is not None:
            self._filter(work, handler.where)
        return work

    def read(self, delivery: Delivery) -> Delivery:
        """The same with its envelope, where it came without one and its bytes can be understood."""
        if delivery.message is None:
            return delivery
        try:
            return structs.replace(delivery, envelope=self._understand(delivery, delivery.message))
        except MillstreamError:
            return delivery

    def work_of(self, delivery: Delivery, owned: Owned, known: set[Mark]) -> Work:
        envelope = delivery.envelope
        if envelope is None:
            return self._triage_message(delivery, owned)
        handler = self._handlers.get(envelope.type)
        if handler is None:
            work = Work(delivery, envelope, owned, None, "")
            work.kind = "skipped"
            return work
        sequence = envelope.key if envelope.key is not None and handler.options.ordered else f"\x00{delivery.position}"
        work = Work(delivery, envelope, owned, handler, sequence)
        if known and Mark(envelope.source, envelope.id) in known:
            work.kind = "duplicate"
            return work
        if handler.delivery == "effectively_once":
            mark = Mark(envelope.source, envelope.id)
            if mark in self._judge.pending:
                work.kind = "duplicate"
                return work
            self._judge.pending.add(mark)
            work.mark = mark
        if handler.where is not None:
            self._filter(work, handler.where)
        return work

    def problem(self, envelope: Envelope) -> str | None:
        """What keeps this from being handled, if anything does."""
        handler = self._handlers.get(envelope.type)
        if handler is None:
            return f"no handler of this group takes {envelope.type}"
        contract = next(contract for contract in handler.contracts if contract.name == envelope.type)
        try:
            codec_for(contract).decode(envelope.data)
        except DecodeError as error:
            return str(error)
        return None

    def _filter(self, work: Work, where: Callable[[Any], bool]) -> None:
        """Skip what the subscription does not want."""
        if not self._judge.decode(work):
            return
        try:
            if not where(work.message):
                work.kind = "skipped"
        except BaseException as error:  # noqa: BLE001 - the user's filter, whose SystemExit must not end the worker
            work.doom = (f"where= failed: {said_by(error)}", type(error).__name__)

    def _triage_message(self, delivery: Delivery, owned: Owned) -> Work:
        """Understand bytes that came without an envelope, or park them as they are."""
        message = delivery.message or Message(topic=delivery.partition.topic, body=b"")
        try:
            envelope = self._understand(delivery, message)
        except MillstreamError as error:
            work = Work(delivery, None, owned, None, f"\x00{delivery.position}")
            self._judge.bury(work, str(error), type(error).__name__)
            return work
        return self.work_of(Delivery(delivery.partition, delivery.position, envelope, message), owned, set())

    def _understand(self, delivery: Delivery, message: Message) -> Envelope:
        content_type = next((value for name, value in message.headers if name.lower() == "content-type"), b"")
        if content_type.startswith(STRUCTURED_CONTENT_TYPE.encode()):
            return from_structured(message.body)
        handler = self._bare.get(message.topic)
        if handler is None or any(name == "ce_specversion" for name, _ in message.headers):
            return unframed(from_binary(message.headers, message.body))
        schema, body, raw_key = None, message.body, message.key
        if handler.wire == "confluent":
            schema, body = from_framed(message.headers, body)
            raw_key = None if raw_key is None else bare_key(message.headers, raw_key)
        id_, field = message.id, handler.options.id
        if field is not None:
            try:
                value = msgspec.json.decode(body, type=dict[str, msgspec.Raw])[field]
                named = msgspec.json.decode(value)
                # One that says nothing would make all that say nothing repetitions of each other.
                id_ = id_ if named in (None, "") else str(named)
            except (msgspec.MsgspecError, KeyError, TypeError, UnicodeDecodeError) as error:
                raise EnvelopeError(f"the body has no field {field!r} to take the event's id from (id={field!r}): {error}") from error
        if not id_ and handler.delivery == "effectively_once":
            raise EnvelopeError(
                f"this message has no id, so {handler.name} cannot tell a repetition from a new one: name a field of the body "
                "with id=, or subscribe with delivery='at_least_once'"
            )
        key = None if raw_key is None else raw_key.decode("utf-8", "backslashreplace")
        source = message.source or f"/{self._broker}/{message.topic}"
        # Nobody named it: where it lies tells it at least from the others.
        id_ = id_ or f"{delivery.partition.number}/{delivery.position}"
        return from_plain(body, contract=handler.contracts[0], id=id_, source=source, key=key, time=message.time, schema=schema)
