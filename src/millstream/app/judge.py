"""The judge: says what becomes of each delivery, from what its handler did."""

import random
import traceback
from collections.abc import Callable, Sequence

from millstream.app.registry import Schemas
from millstream.app.work import Job, Work
from millstream.contracts.confluent import frame_trouble
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import ContractError, DecodeError, HandlerResultError, MillstreamError, TooLargeError
from millstream.contracts.ids import LAST_MILLIS, derived_id
from millstream.contracts.message import codec_for, publisher_of
from millstream.core.broker import Broker
from millstream.core.clock import Clock
from millstream.core.handler import Handler, messages_of, verdicts_of
from millstream.core.retry import Again, Park
from millstream.core.store import Mark, Page, Parked, ParkState

#: So many characters are kept of a stack, and of what an error says.
STACK_LIMIT = 8000
ERROR_LIMIT = 2000

Verdict = list[Envelope] | BaseException


class Judge:
    """Decides without waiting, and notes its decision in the work itself.

    `waits(seconds)` is called for what is to be tried again then.
    """

    def __init__(
        self,
        group: str,
        handlers: Sequence[Handler],
        *,
        source: str,
        broker: Broker,
        clock: Clock,
        waits: Callable[[float], None],
        schemas: Schemas,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._group = group
        self._decoders = {contract.name: codec_for(contract).decode for handler in handlers for contract in handler.contracts}
        self._source = source
        self._broker = broker
        self._largest = broker.features.largest
        self._shares = broker.features.shares_partitions
        self._clock = clock
        self._waits = waits
        self._schemas = schemas
        self._chance = chance
        self.generation = 0
        """How often the group was replayed with effects."""
        self.pending: set[Mark] = set()
        """What is in flight in any partition, where an event may be handled once only."""
        self.marked = False
        """Whether the inbox could know any delivery of this group."""

    def admits(self, work: Work) -> bool:
        """Decode what can be handled now; park what must not overtake, and what can never be handled."""
        blocked = work.owned.blocked
        if blocked and work.sequence in blocked and work.parked is None:
            work.kind = "queued"
            work.park = self._parked(work, "queued", "waits behind another of its key")
            return False
        # Only now, so that few typed messages are alive at a time.
        if work.doom is None and (work.message is not None or self.decode(work)):
            return True
        assert work.doom is not None
        self.bury(work, *work.doom)
        return False

    def decode(self, work: Work) -> bool:
        """Give it its typed message; tell whether its bytes are one."""
        envelope = work.envelope
        assert envelope is not None
        try:
            work.message = self._decoders[envelope.type](envelope.data)
        except DecodeError as error:
            work.doom = (f"cannot be decoded: {frame_trouble(envelope) or error}", "DecodeError")
            return False
        return True

    def bury(self, work: Work, reason: str, error: str) -> None:
        now, reason = self._clock.micros(), _kept(reason[:ERROR_LIMIT])
        work.kind, work.error = "parked", reason
        work.park = self._parked(work, "dead", reason)
        work.park.error, work.park.last_failure = error, now
        work.park.first_failure = work.park.first_failure or now

    def _parked(self, work: Work, state: ParkState, reason: str) -> Parked:
        """The row of a delivery that is parked, or stays so."""
        if work.parked is not None:
            work.parked.state, work.parked.reason = state, reason
            return work.parked
        self.marked = True
        work.owned.block(work.sequence)
        return Parked(
            group=self._group,
            partition=work.owned.partition,
            position=work.delivery.position,
            sequence=work.sequence,
            envelope=work.envelope,
            message=None if work.envelope is not None else work.delivery.message,
            state=state,
            reason=reason,
            attempts=work.owned.suspects.get(work.delivery.position, 0) if state == "dead" else 0,
        )

    def succeeded(self, work: Work, result: object, published: Sequence[object]) -> None:
        """Note what a handler returned and published; raises what makes it a failure after all."""
        if result is not None or published:
            assert work.handler is not None
            messages = messages_of(result, work.handler.name)
            work.published = self._envelopes(work, [*published, *messages] if published else messages)
        work.kind = "handled"
        if work.parked is not None:
            self.handled(work)

    def handled(self, work: Work) -> None:
        """Note that all is done for it."""
        work.kind = "handled"
        if work.parked is not None:
            assert work.envelope is not None
            if work.handler is not None and work.handler.options.exactly_once:
                return  # its group has no inbox: moved back, it is handled again
            work.mark = Mark(work.envelope.source, work.envelope.id)
            self.marked = True

    def failed(self, work: Work, error: BaseException) -> None:
        """Note that a handler raised, and decide what follows."""
        assert work.handler is not None
        # A handler's SystemExit, KeyboardInterrupt or CancelledError is a failure like any other.
        failure = error if isinstance(error, Exception) else RuntimeError(f"handler raised {type(error).__name__}")
        if isinstance(failure, (HandlerResultError, ContractError, TooLargeError)):
            decision: Again | Park = Park("what the handler publishes is wrong, and would be again")
        else:
            decision = work.handler.options.retry.decide(work.attempt, failure, self._chance())
        now = self._clock.micros()
        if isinstance(decision, Again) and work.handler.options.exactly_once and work.parked is None:
            work.again, work.error = decision.after, said_by(error)
            work.first_failure = work.first_failure or now
            return
        said, stack = said_by(error), _kept("".join(traceback.format_exception(error))[-STACK_LIMIT:])
        if isinstance(decision, Again):
            work.kind = "retry"
            row = self._parked(work, "retry", "waits for its next attempt")
            row.due = now + int(decision.after * 1e6)
            self._waits(decision.after)
        else:
            work.kind = "parked"
            row = self._parked(work, "dead", decision.reason)
        row.attempts = work.attempt
        row.first_failure, row.last_failure = row.first_failure or work.first_failure or now, now
        row.error = work.error = said
        row.stack = stack
        work.park = row

    def refused(self, work: Work, error: BaseException) -> None:
        """Note that the broker will never take what it published: it is as if its handler had failed for good."""
        work.published = ()
        self.bury(work, f"what it published was refused: {error}", said_by(error))
        assert work.park is not None
        work.park.attempts = work.attempt

    def queue(self, work: Work) -> None:
        """Have one that was handled already wait behind another of its key, which has failed after all."""
        work.published = ()
        work.kind, work.park = "queued", self._parked(work, "queued", "waits behind another of its key")

    def verdicts(self, job: Job, result: object) -> list[Verdict]:
        """For each delivery of a job: the events to publish, or why it failed."""
        name = job.handler.name
        if not job.handler.is_batch:
            messages = messages_of(result, name)
            if job.context is not None and job.context.published:
                messages = [*job.context.published, *messages]
            return [self._verdict(job.works[0], messages)]
        verdicts: list[Verdict] = []
        for work, verdict in zip(job.works, verdicts_of(result, len(job.works), name), strict=True):
            if isinstance(verdict, BaseException):
                verdicts.append(verdict)
            else:
                try:
                    verdicts.append(self._verdict(work, messages_of(verdict, name)))
                except HandlerResultError as error:
                    verdicts.append(error)
        return verdicts

    def _verdict(self, work: Work, messages: list[object]) -> Verdict:
        try:
            return self._envelopes(work, messages)
        except MillstreamError as error:
            return error

    def judge(self, job: Job, verdicts: Sequence[Verdict]) -> None:
        """Note what becomes of each delivery of a job."""
        for work, verdict in zip(job.works, verdicts, strict=True):
            if isinstance(verdict, BaseException):
                self.failed(work, verdict)
            else:
                work.published = verdict
                self.handled(work)

    def page_of(self, job: Job, verdicts: Sequence[Verdict]) -> Page:
        """What a job that succeeded commits, but for positions."""
        page = Page(group=self._group, generation=self.generation)
        for work, verdict in zip(job.works, verdicts, strict=True):
            assert work.envelope is not None
            assert not isinstance(verdict, BaseException)
            page.fences[work.owned.partition] = work.owned.epoch
            page.events += verdict
            mark = Mark(work.envelope.source, work.envelope.id)
            if work.parked is not None:
                page.marks.append(mark)
                page.unpark.append(work.parked.id)
                if self._shares:
                    page.present.append(work.parked.id)
            else:
                page.first.append(mark)
        return page

    def _envelopes(self, work: Work, messages: Sequence[object]) -> list[Envelope]:
        cause = work.envelope
        assert cause is not None
        if not messages:
            return []
        now, largest = self._clock.micros(), self._largest
        correlation, attempt = cause.correlation or cause.id, f"{self._group}/{work.attempt}"
        # A replay with effects is meant to have them further on, too.
        publisher = f"{self._group}#{self.generation}" if self.generation else self._group
        made: list[Envelope] = []
        millis = min(max(cause.time, 0) // 1000, LAST_MILLIS)
        for ordinal, message in enumerate(messages):
            contract, encode, key = publisher_of(type(message))
            data = encode(message)
            if len(data) > largest:
                raise TooLargeError(f"a {contract.name} of {len(data)} bytes is more than the {largest} that {self._broker.name} takes")
            made.append(
                Envelope(
                    # From the input alone, so that whoever handles the input again publishes what is known already.
                    id=derived_id(cause.source, cause.id, publisher, ordinal, millis),
                    source=self._source,
                    type=contract.name,
                    key=key(message),
                    time=now,
                    data=data,
                    schema=None if contract.wire != "confluent" else self._schemas.of(contract),
                    version=contract.version,
                    correlation=correlation,
                    causation=cause.id,
                    attempt=attempt,
                    traceparent=cause.traceparent,
                    tracestate=cause.tracestate,
                    topic=contract.topic,
                )
            )
        return made


def said_by(error: BaseException) -> str:
    """An error's name and what it says, as it can be kept; it is users' code that says it."""
    try:
        text = str(error)
    except Exception as failed:
        text = f"(it cannot say what it is: {type(failed).__name__})"
    return _kept(f"{type(error).__name__}: {text}"[:ERROR_LIMIT])


def _kept(text: str) -> str:
    """Without what cannot be stored, such as a file's name that is no text."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
