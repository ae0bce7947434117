"""The broker port: what routes events, in batches."""

from collections.abc import Sequence
from types import TracebackType
from typing import Literal, Protocol, Self, runtime_checkable

import msgspec

from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import MillstreamError
from millstream.core.filter import Wants


class Features(msgspec.Struct, frozen=True, kw_only=True):
    """What a broker promises beyond delivery; the suites hold it to that."""

    ordered: bool = False
    """Events of a key reach a group in the order in which they were published."""
    replayable: bool = False
    """History can be read, and a group can be moved to any position in it."""
    durable: bool = False
    """What was published survives the death of every process."""
    shared: bool = False
    """Several processes can share a group."""
    broadcast: bool = False
    """Every process can be told something at once."""
    transactional: bool = False
    """`publish_and_settle` does both or neither."""
    marks: bool = False
    """`publish(origin=...)` remembers how far a relay came, in the same commit as the events."""
    positional: bool = False
    """Positions of a partition rise, and are the same for every member: redelivery is known by them."""
    shares_partitions: bool = False
    """Several members may hold events of one partition at once: then no epoch can fence, only an inbox mark."""
    retains_regardless: bool = False
    """Retention does not wait for groups: one that falls too far behind loses events, and stops loudly."""
    deduplicates: bool = False
    """An event that is published again within minutes is no second event: nobody gets it."""
    framed: bool = False
    """What is published with `wire="confluent"` has the id of its schema in front, as Confluent's deserializers want it."""
    largest: int = 1 << 30
    """The largest body of an event in bytes, checked at publish."""


class Topic(msgspec.Struct, frozen=True, kw_only=True):
    """A named log; its number of partitions is fixed when it is created.

    `partitions=None` takes those it has, and 8 when it is new. Retention removes what
    is older than `retain_seconds`, and the oldest beyond `retain_bytes`, but never what
    a group has not passed; None keeps what the topic has, and everything when it is new.
    """

    name: str
    partitions: int | None = None
    retain_seconds: float | None = None
    retain_bytes: int | None = None
    keyed: bool | None = None
    """Whether its events have keys, where a broker makes different things of the two; None where nobody said."""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Consumers that share the work of some topics.

    `store` is the id of the store that keeps the group's progress. A broker that
    remembers another one refuses: two stores would each think they own the group.
    """

    name: str
    topics: tuple[str, ...]
    start: Literal["latest", "earliest"] = "latest"
    store: str | None = None
    wants: tuple[tuple[str, Wants | None], ...] | None = None
    """What its handlers want of each topic, for brokers that can filter; None where nobody said, and everything stays as it is."""


class Partition(msgspec.Struct, frozen=True, order=True, gc=False):
    """One ordered part of a topic."""

    topic: str
    number: int


class Message(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Bytes with what their transport says of them, before anybody has understood them.

    `source` and `id` are the broker's own name for a message that it stored; an empty
    `id` means that it has none, and then nothing can tell a repetition from a new one.
    """

    topic: str
    body: bytes
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    time: int = 0
    source: str = ""
    id: str = ""


class Delivery(msgspec.Struct, gc=False):
    """One event, handed to one group.

    `envelope` is None when the bytes are not (or not yet) understood as one; `message`
    then holds them as they came.
    """

    partition: Partition
    position: int
    envelope: Envelope | None
    message: Message | None = None
    redelivered: int = 0
    """How often it was handed out before, where the broker counts; positions say it elsewhere."""


class Deliveries(msgspec.Struct, frozen=True):
    """Deliveries, those of a partition in its order."""

    items: Sequence[Delivery]


class Assigned(msgspec.Struct, frozen=True):
    """These partitions are this subscription's from now on.

    Nothing of them is delivered before `start()` has said where to go on.
    """

    partitions: tuple[Partition, ...]


class Revoked(msgspec.Struct, frozen=True):
    """These partitions go to another; what is in hand may be settled until `deadline` (monotonic seconds).

    The subscriber answers with `release()` when it has stopped working on them.
    """

    partitions: tuple[Partition, ...]
    deadline: float


class Lost(msgspec.Struct, frozen=True):
    """These partitions are gone already; nothing of them can be settled."""

    partitions: tuple[Partition, ...]


Received = Deliveries | Assigned | Revoked | Lost


class Figure(msgspec.Struct, frozen=True):
    """A number, and how it was come by; `unknown` has no value, never a guess."""

    value: int | None
    quality: Literal["exact", "estimated", "unknown"] = "exact"


class PartitionState(msgspec.Struct, frozen=True, kw_only=True):
    """Where a group stands in a partition."""

    partition: Partition
    committed: Figure
    """Everything before this position is done."""
    head: Figure
    """The position that the next event will get."""
    oldest: Figure
    """When (microseconds) the next event to handle was published; unknown when there is none."""
    owner: str | None = None
    """The member that has it now."""
    waiting: Figure = Figure(None, "unknown")
    """How many events are not done. Unknown where positions have no gaps: then the head less what is committed."""


class Dropped(msgspec.Struct, frozen=True):
    """Events that a broker took from this process and nobody will get, as long as that goes on."""

    topic: str
    count: int
    trouble: str = ""
    """Whose they are, and what to do; empty where no group reads the topic."""


@runtime_checkable
class Dropping(Protocol):
    """A broker that keeps nothing for a group that does not exist yet, and knows when that is so."""

    def dropped(self) -> Sequence[Dropped]:
        """What nobody gets at the moment; it asks no server."""
        ...


class Origin(msgspec.Struct, frozen=True):
    """How far a relay has copied the outbox of a store, once these events are published.

    They are published all or none. With `after`, none are where the relay had not come
    exactly so far before: another one has gone on meanwhile (`FencedError`).
    """

    store: str
    upto: int
    after: int | None = None


class Subscription(Protocol):
    """A group's share of its topics, for one member; used from one task at a time.

    - `receive` waits at most `wait` seconds and hands over at most `most` events;
      it returns empty `Deliveries` when nothing came.
    - A delivery that was neither settled nor released when the subscription closes or
      dies is delivered again, to whoever is assigned its partition next.
    """

    async def receive(self, most: int, wait: float) -> Received:
        """The next notice, or deliveries; cancelled, it loses nothing that is not delivered again.

        Raises `PositionLostError` when retention has passed what comes next.
        """
        ...

    def start(self, partition: Partition, position: int | None) -> None:
        """Deliver from `position`, or from the group's own if it is None.

        Raises `PositionLostError` if the log no longer, or not yet, reaches there.
        """
        ...

    async def settle(self, done: Sequence[Delivery], released: Sequence[Delivery] = ()) -> None:
        """`done` are handled for good; `released` are to be delivered again.

        Within a partition deliveries are settled in order, without gaps. It may return
        before the broker has noted it: the position of record is the store's.
        """
        ...

    async def extend(self) -> None:
        """Keep what is in hand for another lease; called several times a lease while handlers work."""
        ...

    def pause(self, partitions: Sequence[Partition]) -> None:
        """Deliver nothing of these until `resume`; they stay this member's."""
        ...

    def resume(self, partitions: Sequence[Partition]) -> None: ...

    async def release(self, partitions: Sequence[Partition]) -> None:
        """Give these up: their work has stopped, and what is not settled goes to the next owner."""
        ...

    async def publish_and_settle(self, envelopes: Sequence[Envelope], done: Sequence[Delivery]) -> None:
        """Both or neither; a broker without `transactional` raises `ConfigurationError`.

        `PublishError` says which of the events will never be taken, whatever else is published with them.
        """
        ...

    async def close(self) -> None: ...


class Listener(Protocol):
    """One process's ear for what is broadcast from now on."""

    async def receive(self, wait: float) -> Sequence[bytes]:
        """What was broadcast since the last call, waiting at most so many seconds for the first."""
        ...

    async def close(self) -> None: ...


class Broker(Protocol):
    """Routes events from producers to groups.

    Every broker promises, and `testing.BrokerSuite` checks, that:

    - `publish` returns only when each event is as durable as the broker can make it,
      and stores the events of a call in the order given, per key;
    - every event reaches every group at least once;
    - a group starts at its creation, unless it was declared `earliest`;
    - what `features` declares is kept, and what it does not is refused, never faked.
    """

    @property
    def features(self) -> Features: ...

    @property
    def name(self) -> str:
        """What to call it in messages: a URL without secrets."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    async def declare(self, topics: Sequence[Topic], groups: Sequence[Group]) -> None:
        """Make what is missing, and verify what is there; raises `ConfigurationError` where they differ."""
        ...

    async def publish(self, envelopes: Sequence[Envelope], *, origin: Origin | None = None) -> Sequence[MillstreamError | None]:
        """One result for each event, in order: None when it is durable, else why it is not.

        A topic that does not exist is made. After an event that failed, later ones of its
        key fail too, so that whoever tries again turns nothing round.

        `origin` (with `marks`) commits a relay's progress together with the events.
        """
        ...

    async def publish_raw(self, messages: Sequence[Message]) -> Sequence[MillstreamError | None]:
        """Publish bytes that are not ours, as another system's producer would: for bridges and tests."""
        ...

    async def relayed(self, store: str) -> int:
        """How far the outbox of a store has been copied here; 0 when nothing is known of it."""
        ...

    async def open(self, group: str, member: str) -> Subscription:
        """Join a group that was declared."""
        ...

    async def read(self, partition: Partition, position: int, most: int) -> Sequence[Delivery]:
        """History from a position on, without a group; skips what retention has taken."""
        ...

    async def broadcast(self, body: bytes) -> None:
        """Tell every process that listens."""
        ...

    async def listen(self) -> Listener: ...

    async def topics(self) -> Sequence[Topic]: ...

    async def groups(self) -> Sequence[Group]: ...

    async def bounds(self, topic: str) -> Sequence[tuple[Partition, int, int]]:
        """Each partition of a topic, its first position that is still there, and its head."""
        ...

    async def positions(self, group: str) -> Sequence[PartitionState]: ...

    async def seek(self, group: str, positions: Sequence[tuple[Partition, int]]) -> None:
        """Move a group that nobody runs; `BrokerError` while somebody does."""
        ...

    async def position_at(self, partition: Partition, micros: int) -> int:
        """The first position whose event was stored at that time or later."""
        ...

    async def retain(self, topic: str, *, force: bool = False) -> int:
        """Remove what the topic's retention no longer keeps; with `force` also what groups have not passed.

        Returns how many events went. A broker that does this by itself returns 0.
        """
        ...

    async def forget(self, group: str) -> None:
        """Remove a group and its positions; retention no longer waits for it."""
        ...
