"""The store port: what a service keeps in one transaction with its own data."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar

import msgspec

from millstream.contracts.envelope import Envelope
from millstream.core.broker import Partition

T = TypeVar("T")


class Transaction(Protocol):
    """What a handler writes, in the same transaction as its inbox mark and its events."""

    def execute(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]: ...

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None: ...


ParkState = Literal["retry", "queued", "dead", "redrive"]


class Parked(msgspec.Struct, kw_only=True):
    """A delivery that waits in the store: to be retried, behind another, or dead.

    `id` is 0 until the store has given it one; ids of a sequence rise in its order.
    `due` is the wall time in microseconds from which a retry may run.
    """

    id: int = 0
    group: str
    partition: Partition
    position: int
    sequence: str
    envelope: Envelope | None
    raw: bytes = b""
    state: ParkState
    attempts: int = 0
    due: int = 0
    first_failure: int | None = None
    last_failure: int | None = None
    error: str = ""
    reason: str = ""
    stack: str = ""


class Assignment(msgspec.Struct, frozen=True):
    """What a store knows of a partition at the moment it is fenced for a new owner."""

    partition: Partition
    epoch: int
    position: int | None
    """Everything before it is handled (the position of record); None for a new group."""
    clean: bool
    """The last owner said good-bye; otherwise what it had in flight is suspect."""


class Mark(msgspec.Struct, frozen=True, gc=False):
    """An inbox mark: this event is handled by this group."""

    source: str
    id: str


@dataclass(slots=True, kw_only=True)
class Page:
    """All that one commit of a worker changes, beside what handlers wrote themselves."""

    group: str
    generation: int = 0
    fences: dict[Partition, int] = field(default_factory=dict[Partition, int])
    positions: dict[Partition, int] = field(default_factory=dict[Partition, int])
    marks: list[Mark] = field(default_factory=list[Mark])
    events: list[Envelope] = field(default_factory=list[Envelope])
    park: list[Parked] = field(default_factory=list[Parked])
    """New ones (id 0) are added, others replaced."""
    unpark: list[int] = field(default_factory=list[int])
    suspects: dict[tuple[Partition, int], int] = field(default_factory=dict[tuple[Partition, int], int])
    """How often the handling of a position began and never ended; 0 forgets it."""
    requests: list[int] = field(default_factory=list[int])
    """Operators' requests that are hereby executed."""

    def is_empty(self) -> bool:
        """Tell whether a commit would change nothing."""
        return not (
            self.positions or self.marks or self.events or self.park or self.unpark or self.suspects or self.requests
        )


class Request(msgspec.Struct, frozen=True):
    """What an operator asked for; the partition's owner executes it."""

    id: int
    kind: Literal["redrive", "discard"]
    parked: int
    reason: str = ""


class StoreTransaction(Transaction, Protocol):
    """The store's write transaction, open: savepoints, and the page that ends it."""

    def savepoint(self) -> None: ...

    def release(self) -> None: ...

    def rollback(self) -> None:
        """Undo what was written since the last savepoint."""
        ...

    def apply(self, page: Page) -> None:
        """Write a page; raises `FencedError` if an epoch is no longer the newest."""
        ...


class Store(Protocol):
    """A service's own durable memory.

    Every store promises, and `testing.WorkerSuite` checks, that:

    - `commit` and `transaction` change all of it or nothing, durably;
    - a page whose epochs are not the newest changes nothing and raises `FencedError`;
    - a mark is unique on (group, generation, source, id), a parked delivery on
      (group, source, id);
    - events of a page wait in the outbox, in order, until `sent`.
    """

    @property
    def id(self) -> str: ...

    @property
    def relays(self) -> bool:
        """Whether events wait in an outbox (False: a commit publishes them itself)."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    async def script(self, sql: str) -> None: ...

    async def assign(self, group: str, partitions: Sequence[Partition]) -> Sequence[Assignment]: ...

    async def unassign(self, group: str, fences: dict[Partition, int]) -> None:
        """Note that an owner stopped cleanly; a stale epoch changes nothing."""
        ...

    async def commit(self, page: Page) -> None: ...

    def transaction(self) -> AbstractAsyncContextManager[StoreTransaction]: ...

    async def handled(self, group: str, generation: int, marks: Sequence[Mark]) -> set[Mark]: ...

    async def generation(self, group: str) -> int: ...

    async def suspects(self, group: str, partition: Partition) -> dict[int, int]: ...

    async def parked(
        self, group: str | None = None, *, partitions: Sequence[Partition] | None = None, dead: bool = False, most: int = 1000
    ) -> Sequence[Parked]: ...

    async def sequences(self, group: str, partition: Partition) -> dict[str, int]:
        """The blocked sequences and how many deliveries wait in each."""
        ...

    async def heads(self, group: str, partitions: Sequence[Partition]) -> Sequence[Parked]:
        """The first parked delivery of each sequence."""
        ...

    async def request(self, kind: Literal["redrive", "discard"], parked: Sequence[int], reason: str) -> int: ...

    async def requests(self, group: str) -> Sequence[Request]: ...

    async def outbox(self, most: int) -> Sequence[tuple[int, Envelope]]: ...

    async def sent(self, upto: int) -> None: ...

    async def outbox_size(self) -> int: ...

    async def read(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]: ...

    async def backup(self, destination: str, progress: Callable[[int, int], None] | None = None) -> None: ...
