"""The store port: what a service keeps in one transaction with its own data."""

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Literal, Protocol, Self

import msgspec

from millstream.contracts.envelope import Envelope
from millstream.core.broker import Message, Partition


class Transaction(Protocol):
    """What a handler writes, in the same transaction as its inbox mark and its events."""

    def execute(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]: ...

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None: ...


ParkState = Literal["retry", "queued", "dead"]


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
    message: Message | None = None
    """The bytes as they came, when no envelope could be read from them."""
    state: ParkState
    attempts: int = 0
    due: int = 0
    first_failure: int | None = None
    last_failure: int | None = None
    error: str = ""
    reason: str = ""
    stack: str = ""

    @property
    def identity(self) -> tuple[str, str]:
        """Source and id of its event; of what nobody understood, what its broker calls it, or else its place."""
        if self.envelope is not None:
            return self.envelope.source, self.envelope.id
        if self.message is not None and self.message.id:
            return self.message.source, self.message.id
        return "", f"{self.partition.topic}/{self.partition.number}/{self.position}"


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


class Page(msgspec.Struct, kw_only=True):
    """All that one commit of a worker changes, beside what handlers wrote themselves."""

    group: str
    generation: int = 0
    fences: dict[Partition, int] = msgspec.field(default_factory=dict[Partition, int])
    """The epoch under which each partition of this page is owned."""
    positions: dict[Partition, int] = msgspec.field(default_factory=dict[Partition, int])
    marks: list[Mark] = msgspec.field(default_factory=list[Mark])
    """What is handled, or marked as that, whether it was before or not."""
    first: list[Mark] = msgspec.field(default_factory=list[Mark])
    """What is handled for the first time. Where it is not (handled or parked by another worker meanwhile, as a duplicate
    that lies in another partition can be), nothing of the page is kept, and `FencedError` is raised."""
    events: list[Envelope] = msgspec.field(default_factory=list[Envelope])
    park: list[Parked] = msgspec.field(default_factory=list[Parked])
    """New ones (id 0) are added, others replaced."""
    restore: list[Parked] = msgspec.field(default_factory=list[Parked])
    """New ones as well, of events that are marked as handled because an operator discarded them: added unless they are parked."""
    already: list[Parked] = msgspec.field(default_factory=list[Parked])
    """Set by the commit: those of `park` that were not added, since their event was handled or parked before, and those of
    `restore` that were parked before."""
    unpark: list[int] = msgspec.field(default_factory=list[int])
    present: list[int] = msgspec.field(default_factory=list[int])
    """Parked deliveries that this page answers. Where one is gone, because another worker that shares the partition has handled
    it, nothing of the page is kept, and `FencedError` is raised."""
    suspects: dict[tuple[Partition, int], int] = msgspec.field(default_factory=dict[tuple[Partition, int], int])
    """How often the handling of a position began and never ended; 0 forgets it."""
    requests: list[int] = msgspec.field(default_factory=list[int])
    """Operators' requests that are hereby executed."""

    def is_empty(self) -> bool:
        """Tell whether a commit would change nothing."""
        changes = (self.positions, self.marks, self.first, self.events, self.park, self.restore, self.unpark, self.suspects, self.requests)
        return not any(changes)


RequestKind = Literal["redrive", "discard", "repair"]


class Request(msgspec.Struct, frozen=True):
    """What an operator asked for; the partition's owner executes it."""

    id: int
    kind: RequestKind
    parked: int
    reason: str = ""
    data: bytes = b""
    """The body that a `repair` puts in the place of the one that cannot be handled."""


class StoreTransaction(Transaction, Protocol):
    """The store's write transaction, open: savepoints, and the page that ends it."""

    def savepoint(self) -> None: ...

    def release(self) -> None:
        """Keep what was written since the last savepoint."""
        ...

    def rollback(self) -> None:
        """Undo what was written since the last savepoint, and end that savepoint."""
        ...

    def apply(self, page: Page) -> None:
        """Write a page; raises `FencedError` if an epoch is no longer the newest."""
        ...

    def end(self, *, commit: bool) -> "Ended":
        """Give the transaction back at once, to be committed or rolled back; never waits itself."""
        ...


class Ended(Protocol):
    """The end of a transaction: awaited on the loop, or waited for in a thread, until it is durable.

    Both raise what the commit raised; then nothing of it was kept.
    """

    def __await__(self) -> Generator[Any, None, None]: ...

    def wait(self) -> None: ...


class Store(Protocol):
    """A service's own durable memory.

    Every store promises, and `testing.WorkerSuite` checks, that:

    - `commit` and `transaction` change all of it or nothing, durably;
    - a page whose epochs are not the newest changes nothing and raises `FencedError`;
    - a mark is unique on (group, generation, source, id), a parked delivery on
      (group, source, id); a commit says which were there before (`Page.first`, `Page.already`);
    - events of a page wait in the outbox, in order, until `sent`.

    What fails for a reason that may pass (locked, full) raises `StoreBusyError` or
    `StoreFullError`, and nothing was changed.
    """

    @property
    def id(self) -> str:
        """Names this store for ever; a copy has the same."""
        ...

    @property
    def relays(self) -> bool:
        """Whether events wait in an outbox (False: a commit publishes them itself)."""
        ...

    @property
    def local(self) -> bool:
        """Whether only processes of this machine can use it."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /) -> None: ...

    async def script(self, sql: str) -> None:
        """Run the service's own schema; it has to be repeatable."""
        ...

    async def assign(self, group: str, partitions: Sequence[Partition], *, shared: bool = False) -> Sequence[Assignment]:
        """Fence off every earlier owner of these partitions; where they are `shared`, own them beside the others."""
        ...

    async def unassign(self, group: str, fences: dict[Partition, int]) -> None:
        """Note that an owner stopped cleanly; a stale epoch changes nothing."""
        ...

    async def commit(self, page: Page) -> None: ...

    def transaction(self) -> AbstractAsyncContextManager[StoreTransaction]:
        """The write transaction, once it is free: committed at the end, rolled back on an error.

        No other write of this store happens inside it. Statements run on the caller's thread.
        """
        ...

    async def begin(self) -> StoreTransaction:
        """The same without a block: whoever gets it must call its `end`."""
        ...

    def begin_now(self) -> StoreTransaction:
        """The same for a caller that cannot await, on the loop's thread or any other: blocks it until it is free."""
        ...

    async def handled(self, group: str, generation: int, marks: Sequence[Mark]) -> set[Mark]:
        """Which of these the group has handled, or parked."""
        ...

    async def has_marks(self, group: str, generation: int) -> bool:
        """Whether `handled` could find anything at all."""
        ...

    async def generation(self, group: str) -> int: ...

    async def rewind(self, group: str, positions: Sequence[tuple[Partition, int]], *, effects: bool) -> None:
        """Move the position of record, fencing whoever works; with `effects` what was handled is handled anew."""
        ...

    async def forget(self, group: str) -> None:
        """Remove all that is kept for a group, its dead letters included."""
        ...

    async def suspects(self, group: str, partition: Partition) -> dict[int, int]: ...

    async def parked(
        self,
        group: str | None = None,
        *,
        ids: Sequence[int] | None = None,
        dead: bool = False,
        after: int = 0,
        most: int = 1000,
    ) -> Sequence[Parked]:
        """What is parked, in order of id from the first beyond `after`."""
        ...

    async def parked_count(self, group: str) -> int: ...

    async def sequences(self, group: str, partition: Partition) -> dict[str, int]:
        """The blocked sequences and how many deliveries wait in each."""
        ...

    async def heads(self, group: str, partitions: Sequence[Partition], due: int, most: int) -> Sequence[Parked]:
        """The first parked delivery of each sequence, where it is not dead and due by then."""
        ...

    async def next_due(self, group: str) -> int | None:
        """When the next of them is due."""
        ...

    async def request(self, kind: RequestKind, parked: Sequence[int], reason: str, data: bytes = b"") -> int:
        """Leave a request for the owner; says how many of these exist."""
        ...

    async def requests(self, group: str) -> Sequence[Request]: ...

    async def pause(self, group: str, *, paused: bool) -> None:
        """Have a group's workers take nothing more, or go on; it survives every restart."""
        ...

    async def paused(self) -> frozenset[str]:
        """The groups that are paused."""
        ...

    async def lead(self, role: str, member: str, seconds: float) -> bool:
        """Whether this member holds the role (such as the relay's) for so long from now; one does at a time."""
        ...

    async def outbox(self, after: int, most: int) -> Sequence[tuple[int, Envelope]]: ...

    async def sent(self, upto: int) -> None: ...

    async def outbox_size(self) -> int: ...

    async def read(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query of the service's own, from the newest committed state."""
        ...

    async def backup(self, destination: str, progress: Callable[[int, int], None] | None = None) -> None:
        """Copy all of it, as of one moment, to a new file; `progress` gets pages done and in all."""
        ...

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` on the loop when somebody, perhaps, has written; returns how to stop that."""
        ...
