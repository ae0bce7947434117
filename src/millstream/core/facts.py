"""Facts: what Millstream reports of itself, and the operations that people ask of it.

Facts travel as events of one internal topic, and operations as broadcasts, so that both
work the same on every broker. One message covers hundreds of deliveries.
"""

from typing import Literal

import msgspec

from millstream.contracts.errors import DecodeError
from millstream.contracts.message import codec_for, contract_of, event
from millstream.core.broker import Topic
from millstream.core.observe import Kind

#: Where facts are published. Topics of this prefix are Millstream's own, and nothing in them is reported as a fact.
FACTS_TOPIC = "millstream.facts"
INTERNAL = "millstream."
#: One partition, so that what is told of one event stays in order; kept for a day and up to 256 MiB.
TOPIC = Topic(name=FACTS_TOPIC, partitions=1, retain_seconds=24 * 3600.0, retain_bytes=256 << 20)


class PublishedFact(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """An event that was published."""

    id: str
    source: str
    type: str
    topic: str
    key: str | None
    time: int
    version: int
    correlation: str | None = None
    causation: str | None = None
    attempt: str | None = None
    """`group/attempt` of the handling that published it."""


class DeliveryFact(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What became of one attempt at one delivery."""

    kind: Kind
    handler: str
    topic: str
    partition: int
    position: int
    id: str
    source: str
    type: str
    key: str | None
    time: int
    correlation: str | None
    causation: str | None
    by: str | None
    """`group/attempt` of the handling that published the event."""
    version: int
    attempt: int
    at: int
    """When it was committed, in microseconds since 1970."""
    waited: float
    worked: float
    published: tuple[PublishedFact, ...] = ()
    error: str = ""


class ParkedFact(msgspec.Struct, frozen=True):
    """All that is kept of a delivery that waits: enough to look into it and to repair it.

    Source and id are those of `Parked.identity`.
    """

    group: str
    handler: str
    topic: str
    partition: int
    position: int
    id: str
    source: str
    type: str
    key: str | None
    time: int
    version: int
    correlation: str | None
    state: Literal["retry", "queued", "dead"]
    attempts: int
    due: int
    first_failure: int | None
    last_failure: int | None
    error: str
    reason: str
    stack: str
    data: bytes
    """The body, byte for byte; cut at `DATA_LIMIT`."""
    size: int
    """The body's whole size."""


#: Longer bodies are reported by their beginning.
DATA_LIMIT = 64 << 10


class ContractFact(msgspec.Struct, frozen=True):
    """A contract that a process knows."""

    name: str
    version: int
    key: str | None
    topic: str
    kind: Literal["event", "command"]
    summary: str
    schema: msgspec.Raw
    """Its JSON Schema."""
    wire: str = "cloudevents"


class HandlerFact(msgspec.Struct, frozen=True):
    """A handler that a process runs."""

    name: str
    group: str
    summary: str
    location: str
    types: tuple[str, ...]
    topics: tuple[str, ...]
    publishes: tuple[str, ...]
    """The types that its annotation says it publishes."""
    delivery: str
    ordered: bool
    concurrency: int
    timeout: float
    attempts: int
    wants: str = ""
    """Of these types only some events: which, in words for people."""


class Manifest(msgspec.Struct, frozen=True, tag="manifest"):
    """What a process is, told when it starts and again now and then."""

    app: str
    process: str
    at: int
    started: int
    host: str
    pid: int
    version: str
    broker: str
    store: str
    handlers: tuple[HandlerFact, ...]
    contracts: tuple[ContractFact, ...]


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat"):
    """That a process is alive, and how it is."""

    app: str
    process: str
    at: int
    troubles: tuple[str, ...] = ()
    paused: tuple[str, ...] = ()
    outbox: int = 0
    stopping: bool = False
    unread: tuple[tuple[str, int], ...] = ()
    """Topics that no group reads, and how many events this process has published there: its broker keeps them for nobody."""


class Deliveries(msgspec.Struct, frozen=True, tag="deliveries"):
    """What a group's worker has done since its last message.

    Counts are exact. `one_in` says that only the deliveries of one correlation in so many
    are told one by one; failures always are.
    """

    app: str
    process: str
    at: int
    group: str
    counts: tuple[tuple[str, Kind, int], ...]
    one_in: int
    deliveries: tuple[DeliveryFact, ...]
    parked: tuple[ParkedFact, ...] = ()


class Publications(msgspec.Struct, frozen=True, tag="published"):
    """What a process has published outside of handlers since its last message."""

    app: str
    process: str
    at: int
    count: int
    one_in: int
    events: tuple[PublishedFact, ...]


class Waiting(msgspec.Struct, frozen=True, tag="waiting"):
    """What is parked of a group, told anew now and then: facts of it may be older than any that are still kept.

    Told in parts, of which the last says so; then whatever was parked before `taken`, and
    is not among them, waits no longer.
    """

    app: str
    process: str
    at: int
    group: str
    taken: int
    parked: tuple[ParkedFact, ...]
    last: bool


OperationKind = Literal["pause", "resume", "redrive", "discard", "restore", "repair", "reset", "tell"]


class Operation(msgspec.Struct, frozen=True, tag="operation"):
    """What an operator asks for; whoever owns its group carries it out, once.

    `tell` asks every service to tell anew what is parked; its group is empty.
    """

    id: str
    kind: OperationKind
    group: str
    by: str
    reason: str
    at: int
    events: tuple[tuple[str, str], ...] = ()
    """Source and id of the dead letters meant, for `redrive`, `discard`, `restore` and `repair`."""
    data: bytes = b""
    """The new body, for `repair`."""
    positions: tuple[tuple[str, int, int], ...] = ()
    """Topic, partition and position: where to, for `reset`; where each of the events is, for `restore`."""
    effects: bool = False
    """Whether a `reset` has effects happen again that have happened already."""


class OperationFact(msgspec.Struct, frozen=True, tag="done"):
    """What became of an operation."""

    app: str
    process: str
    at: int
    operation: Operation
    status: Literal["accepted", "done", "refused", "failed"]
    detail: str = ""


Fact = Manifest | Heartbeat | Deliveries | Waiting | Publications | OperationFact


@event("millstream.fact", topic=FACTS_TOPIC)
class FactMessage(msgspec.Struct, frozen=True):
    """What Millstream tells of itself."""

    fact: Fact


FACT_TYPE = contract_of(FactMessage).name
_fact = codec_for(contract_of(FactMessage))
encode_operation = msgspec.json.Encoder().encode
_decode_operation = msgspec.json.Decoder(Operation).decode


def encode_fact(fact: Fact) -> bytes:
    """A fact as it is published."""
    return _fact.encode(FactMessage(fact))


def decode_operation(data: bytes) -> Operation:
    """Read an operation; raises `DecodeError` for what is none."""
    try:
        return _decode_operation(data)
    except msgspec.MsgspecError as error:
        raise DecodeError(f"this is no operation that this version knows: {error}") from error


def is_internal(topic: str) -> bool:
    """Whether a topic is Millstream's own."""
    return topic.startswith(INTERNAL)
