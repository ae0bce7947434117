"""One delivery on its way through a worker, and the partition that it belongs to."""

from collections import deque
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, Protocol

import msgspec

from millstream.contracts.envelope import Envelope
from millstream.core.broker import Delivery, Partition
from millstream.core.handler import Context, Handler
from millstream.core.observe import Kind
from millstream.core.store import Mark, Parked

#: What this task or thread works on, for log lines; whatever a handler starts inherits it.
IN_HAND: ContextVar[Sequence["Work"]] = ContextVar("millstream.in_hand", default=())


class Owned:
    """A partition that this worker owns: what is in flight, and which sequences are blocked."""

    __slots__ = (
        "blocked",
        "chains",
        "cleared",
        "epoch",
        "gone",
        "in_flight",
        "leaving",
        "noted",
        "partition",
        "passed",
        "paused",
        "refused",
        "retrying",
        "suspect_upto",
        "suspects",
        "unfinished",
        "upto",
    )

    def __init__(self, partition: Partition, epoch: int) -> None:
        self.partition = partition
        self.epoch = epoch
        self.gone = False
        """Another owns it now: whatever still comes back for it is dropped."""
        self.leaving = False
        """It is being handed over: nothing more of it is taken up."""
        self.paused = False
        self.in_flight: deque[Work] = deque()
        """In the order of the partition, from the first that is not settled."""
        self.chains: dict[str, Work] = {}
        """What is to be handled of each sequence, one after another: the last of each."""
        self.blocked: dict[str, int] = {}
        """How many deliveries are parked of each sequence, those not yet committed included."""
        self.retrying: set[int] = set()
        """The parked deliveries that are in flight."""
        self.unfinished = 0
        """How many deliveries, parked ones included, are in the hands of handlers, or wait for one."""
        self.suspect_upto = 0
        """What lies before may have killed the last owner, and runs alone."""
        self.suspects: dict[int, int] = {}
        """How often each of these positions was in hand when an owner died."""
        self.noted: set[int] = set()
        """The positions that the store has a count of."""
        self.cleared: set[int] = set()
        """The parked deliveries that have run alone since, and killed nobody."""
        self.passed = 0
        """What lies before is done, wherever the broker has the group."""
        self.upto: int | None = None
        """How far this worker has moved the broker's position, where that is the one of record."""
        self.refused: dict[str, int] = {}
        """Sequences of which the broker refused what one published, and up to where others of them were in flight then."""

    def drop(self) -> None:
        """Another owns it now."""
        self.gone = True
        self.in_flight.clear()
        self.retrying.clear()
        self.chains.clear()

    def suspect_as(self, former: "Owned") -> None:
        """Go on with what was suspected when this worker had it last."""
        self.suspect_upto, self.suspects = former.suspect_upto, former.suspects
        self.noted, self.cleared = former.noted, former.cleared

    def block(self, sequence: str) -> None:
        """Note one more parked delivery of a sequence."""
        self.blocked[sequence] = self.blocked.get(sequence, 0) + 1

    def unblock(self, sequence: str) -> None:
        """Note that one of them has left."""
        left = self.blocked.get(sequence, 0) - 1
        if left > 0:
            self.blocked[sequence] = left
        else:
            self.blocked.pop(sequence, None)


# gc=False: thousands are in flight, and the one cycle they are part of (`Owned.in_flight`) is undone by hand.
class Work(msgspec.Struct, eq=False, gc=False):
    """What a worker knows of one delivery, from its arrival to its commit."""

    delivery: Delivery
    envelope: Envelope | None
    owned: Owned
    handler: Handler | None
    sequence: str
    message: Any = None
    """As its handler takes it; only while it is in its hands."""
    behind: "Work | None" = None
    """What is to be handled next of its sequence."""
    attempt: int = 1
    again: float | None = None
    """In how many seconds it is called again, while its sequence waits behind it."""
    first_failure: int | None = None
    """When it failed for the first time, where it has not waited in the store since."""
    parked: Parked | None = None
    """Where it was waiting, if this is not its first attempt."""
    kind: Kind | None = None
    """What became of it, once that is known."""
    doom: tuple[str, str] | None = None
    """Why it is to be parked when its turn comes, without an attempt: the reason, and the error's name."""
    published: Sequence[Envelope] = ()
    mark: Mark | None = None
    """What the inbox remembers it by, once it is handled; None where nothing has to be remembered."""
    park: Parked | None = None
    error: str = ""
    committed: bool = False
    """Its effects are in the store already; only the position has to follow."""
    finished: bool = False
    """It can be committed, or is dropped."""
    settled: bool = False
    sampled: bool = False
    """Observers may want to know of it, though they are told of few."""
    started: float = 0.0
    worked: float = 0.0

    def context(self, group: str) -> Context:
        """What its handler may know."""
        assert self.envelope is not None
        return Context(self.envelope, group, self.attempt, self.parked.first_failure if self.parked else self.first_failure)


class Job:
    """One call of a handler: for one delivery, or for a batch of different keys."""

    __slots__ = ("argument", "context", "group", "handler", "lent", "works")

    def __init__(self, handler: Handler, works: list[Work], group: str, part_of: "Job | None" = None) -> None:
        self.handler = handler
        self.works = works
        self.group = group
        self.argument: Any = [work.message for work in works] if handler.is_batch else works[0].message
        self.context: Context | None = works[0].context(group) if handler.takes_context else None
        self.lent: list[Lent] = part_of.lent if part_of is not None else []
        """What a thread may hold of the store for it."""

    def take_back(self) -> bool:
        """Have that back, whatever the thread does; False if it is being committed at this moment."""
        return all([lent.take_back() for lent in tuple(self.lent)])


class Lent(Protocol):
    """Something of the store's, in the hands of a thread."""

    def take_back(self) -> bool: ...
