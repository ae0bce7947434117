"""Facts made of what a process knows: one function for each kind of thing.

URLs in errors lose their passwords here: facts are read by more people than a service's log.
"""

from collections.abc import Iterator, Sequence

import msgspec

from millstream.app.settings import masked_text
from millstream.contracts.envelope import Envelope
from millstream.contracts.message import Contract
from millstream.core.facts import DATA_LIMIT, ContractFact, DeliveryFact, HandlerFact, ParkedFact, PublishedFact
from millstream.core.handler import Handler
from millstream.core.observe import Outcome
from millstream.core.store import Parked

#: A message of facts has about so many bytes at most; a single dead letter can be a little more.
LARGEST = 256 << 10

#: Keys and errors are told by so many of their characters.
LONGEST_KEY, LONGEST_ERROR = 1000, 2000

_NOBODY = Envelope(id="", source="", type="", time=0)


def _key(envelope: Envelope) -> str | None:
    key = envelope.key
    return key if key is None or len(key) <= LONGEST_KEY else key[:LONGEST_KEY]


def _text(text: str) -> str:
    return masked_text(text[:LONGEST_ERROR])


def published_fact(envelope: Envelope) -> PublishedFact:
    """An event that was published."""
    return PublishedFact(
        envelope.id, envelope.source, envelope.type, envelope.topic, _key(envelope), envelope.time, envelope.version,
        envelope.correlation, envelope.causation, envelope.attempt,
    )  # fmt: skip


def delivery_fact(outcome: Outcome, now: int) -> DeliveryFact:
    """What became of a delivery."""
    envelope = outcome.envelope or _NOBODY
    parked = outcome.waited_as or outcome.parked
    source, id_ = parked.identity if parked is not None else (envelope.source, envelope.id)
    return DeliveryFact(
        outcome.kind, outcome.handler, outcome.partition.topic, outcome.partition.number, outcome.position,
        id_, source, envelope.type, _key(envelope), envelope.time,
        envelope.correlation, envelope.causation, envelope.attempt, envelope.version,
        outcome.attempt, now, outcome.waited, outcome.worked, tuple(map(published_fact, outcome.published)),
        _text(outcome.error) if outcome.error else "",
    )  # fmt: skip


def parked_fact(parked: Parked, handler: str) -> ParkedFact:
    """A delivery that waits in the store."""
    envelope = parked.envelope or _NOBODY
    data = envelope.data if parked.envelope is not None else parked.message.body if parked.message is not None else b""
    source, id_ = parked.identity
    return ParkedFact(
        group=parked.group, handler=handler, topic=parked.partition.topic, partition=parked.partition.number, position=parked.position,
        id=id_, source=source, type=envelope.type, key=_key(envelope), time=envelope.time, version=envelope.version,
        correlation=envelope.correlation, state=parked.state, attempts=parked.attempts, due=parked.due,
        first_failure=parked.first_failure, last_failure=parked.last_failure, data=data[:DATA_LIMIT], size=len(data),
        error=_text(parked.error), reason=_text(parked.reason), stack=masked_text(parked.stack),
    )  # fmt: skip


def handler_fact(handler: Handler) -> HandlerFact:
    """A handler and its policies."""
    options = handler.options
    return HandlerFact(
        name=handler.name, group=options.group, summary=handler.summary, location=handler.location,
        types=tuple(contract.name for contract in handler.contracts), topics=handler.topics,
        publishes=tuple(contract.name for contract in handler.returns), delivery=handler.delivery, ordered=options.ordered,
        concurrency=options.concurrency, timeout=options.timeout, attempts=options.retry.attempts, wants=_wants(handler),
    )  # fmt: skip


def _wants(handler: Handler) -> str:
    if handler.filter is not None:
        return _text(str(handler.filter))
    if handler.where is None:
        return ""
    name = getattr(handler.where, "__name__", "<lambda>")
    return f"those that {'a function' if name == '<lambda>' else name} lets through"


def contract_fact(contract: Contract) -> ContractFact:
    """A contract and its schema."""
    return ContractFact(
        contract.name, contract.version, contract.key, contract.topic, contract.kind, contract.summary, msgspec.Raw(schema_of(contract)),
        contract.wire,
    )  # fmt: skip


def schema_of(contract: Contract) -> bytes:
    """The JSON Schema of a contract's body, as JSON; an empty schema where none can be made."""
    try:
        if hasattr(contract.type, "model_json_schema"):
            return msgspec.json.encode(contract.type.model_json_schema())
        return msgspec.json.encode(msgspec.json.schema(contract.type))
    except Exception:  # whatever a library of models raises for what JSON cannot describe
        return b"{}"


def in_parts(
    deliveries: Sequence[DeliveryFact], parked: Sequence[ParkedFact]
) -> Iterator[tuple[list[DeliveryFact], list[ParkedFact]]]:
    """Split what is to be told into messages that every broker takes; what waits stays with its delivery."""
    waiting: dict[tuple[str, str], list[ParkedFact]] = {}
    for each in parked:
        waiting.setdefault((each.source, each.id), []).append(each)
    some: list[DeliveryFact] = []
    with_them: list[ParkedFact] = []
    size = 0
    for delivery in deliveries:
        of_it = waiting.pop((delivery.source, delivery.id), []) if waiting else []
        more = 400 + 300 * len(delivery.published) + len(delivery.error) + sum(map(size_of, of_it))
        if some and size + more > LARGEST:
            yield some, with_them
            some, with_them, size = [], [], 0
        some.append(delivery)
        with_them += of_it
        size += more
    yield some, with_them


def size_of(parked: ParkedFact) -> int:
    """About how many bytes it takes to tell of it: a body travels in base64."""
    return 600 + len(parked.data) * 4 // 3 + len(parked.stack)
