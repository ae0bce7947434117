"""The broker port: what routes events, in batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, Self

import msgspec

from millstream.contracts.envelope import Envelope


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What a broker promises beyond delivery; the suites hold it to that."""

    ordered: bool = False
    """Events of a key reach a group in the order in which they were published."""
    replayable: bool = False
    """History can be read, and a group can be moved to any position in it."""
    durable: bool = False
    """What was published survives the death of every process."""
    shared: bool = False
    """Several processes can share a group."""
    positions_exact: bool = False
    """Head, committed and lag are counted, not estimated."""
    largest: int = 1 << 30
    """The largest event in bytes, checked at publish."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A named log; its number of partitions is fixed when it is created."""

    name: str
    partitions: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Consumers that share the work of some topics."""

    name: str
    topics: tuple[str, ...]
    start: Literal["latest", "earliest"] = "latest"


class Partition(msgspec.Struct, frozen=True, order=True):
    """One ordered part of a topic."""

    topic: str
    number: int


class Delivery(msgspec.Struct, gc=False):
    """One event, handed to one group.

    `envelope` is None when the bytes could not be understood as one; `raw` then
    holds them as they came, and `problem` says what is wrong with them.
    """

    partition: Partition
    position: int
    envelope: Envelope | None
    raw: bytes = b""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Deliveries:
    """Deliveries in the order of their partition."""

    items: Sequence[Delivery]


@dataclass(frozen=True, slots=True)
class Assigned:
    """These partitions are this subscription's from now on.

    Nothing of them is delivered before `start()` has said where to go on.
    """

    partitions: tuple[Partition, ...]


@dataclass(frozen=True, slots=True)
class Revoked:
    """These partitions go to another; what is in hand may be settled until `deadline`.

    The subscriber answers with `release()` when it has stopped working on them.
    """

    partitions: tuple[Partition, ...]
    deadline: float


@dataclass(frozen=True, slots=True)
class Lost:
    """These partitions are gone already; nothing of them can be settled."""

    partitions: tuple[Partition, ...]


Received = Deliveries | Assigned | Revoked | Lost


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionState:
    """Where a group stands in a partition; `None` is unknown, never a guess."""

    partition: Partition
    committed: int | None
    """Everything before this position is done."""
    head: int | None
    """The position that the next event will get."""
    oldest: int | None = None
    """The time (microseconds) of the next event to handle, if there is one."""
    owner: str | None = None


class Subscription(Protocol):
    """A group's share of its topics, for one member.

    - `receive` waits at most `wait` seconds and hands over at most `most` events;
      it returns empty `Deliveries` when nothing came.
    - `done` says that everything before a position is handled: contiguous, per partition.
      What was not done is delivered again to whoever is assigned next.
    """

    async def receive(self, most: int, wait: float) -> Received: ...

    def start(self, partition: Partition, position: int | None) -> None:
        """Deliver from `position`, or from the group's own if it is None."""
        ...

    async def done(self, positions: Sequence[tuple[Partition, int]]) -> None: ...

    def pause(self, partitions: Sequence[Partition]) -> None: ...

    def resume(self, partitions: Sequence[Partition]) -> None: ...

    async def release(self, partitions: Sequence[Partition]) -> None: ...

    async def close(self) -> None: ...


class Broker(Protocol):
    """Routes events from producers to groups.

    Every broker promises, and `testing.BrokerSuite` checks, that:

    - `publish` returns only when each event is as durable as the broker can make it;
      it stores all events of a call in the order given, per key, or raises having
      acknowledged none;
    - every event reaches every group at least once;
    - a group starts at its creation, unless it was declared `earliest`;
    - what `features` declares is kept, and what it does not is refused, never faked.
    """

    @property
    def features(self) -> Features: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    async def declare(self, topics: Sequence[Topic], groups: Sequence[Group]) -> None: ...

    async def publish(self, envelopes: Sequence[Envelope]) -> None: ...

    async def open(self, group: str, member: str) -> Subscription: ...

    async def read(self, partition: Partition, position: int, most: int) -> Sequence[Delivery]: ...

    async def topics(self) -> Sequence[Topic]: ...

    async def groups(self) -> Sequence[Group]: ...

    async def positions(self, group: str) -> Sequence[PartitionState]: ...

    async def seek(self, group: str, positions: Sequence[tuple[Partition, int]]) -> None: ...

    async def position_at(self, partition: Partition, micros: int) -> int: ...

    async def forget(self, group: str) -> None: ...
