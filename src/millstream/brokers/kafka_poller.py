"""The one thread that touches a consumer: polls, commits, and answers the group's rebalances."""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as Record

from millstream.brokers.kafka_errors import complaints, error_of, is_passing
from millstream.brokers.kafka_settings import CLIENT_LOG
from millstream.core.broker import Partition

log = logging.getLogger("millstream.kafka")

#: Records taken from the client at a time.
CHUNK = 1000
#: Records and bytes that may wait for whoever receives; then nothing more is fetched.
MOST_RECORDS = 3 * CHUNK
MOST_BYTES = 32 << 20
#: Seconds that a poll waits: little while somebody may be waiting for a command to be executed.
IDLE, BUSY = 0.05, 0.005
#: How long after a command the next one may well come, in seconds.
ACTIVE = 1.0
#: A receiver that takes nothing for so many seconds has its partitions paused, and the group's business goes on.
STALLED = 0.5
#: Seconds after which a client that was woken is woken once more.
AGAIN = 0.01
#: Seconds between two commits: each is a write for the servers, and what is committed is where others see the group.
COMMIT_EVERY = 0.25
#: Seconds that a request may take.
SECONDS = 10.0
#: Seconds after which a partition that could not be signed is signed again.
SIGN_AGAIN = 0.5
#: Seconds that a member waits for the answer to its last commit, and to its good-bye.
LAST = 2.0
#: Seconds without any server after which whoever receives is told.
OUTAGE = 10.0
#: Seconds that the group waits, when partitions were gained, for somebody to say where to begin.
ANSWER = 0.5
#: Seconds that a member gets to give up a partition that another one needs.
GRACE = 10.0


@dataclass(frozen=True, slots=True)
class Taken:
    """Records, with the generation that each partition had when they were polled."""

    records: list[Record]
    """The last one first: whoever takes one from the end lets go of it at once, which is cheaper than to keep it for the rest."""
    generations: Mapping[Partition, int]
    size: int


@dataclass(frozen=True, slots=True)
class Gained:
    """A partition of ours, and where it and the group stood at that moment."""

    partition: Partition
    first: int
    head: int
    committed: int | None


@dataclass(frozen=True, slots=True)
class Leaving:
    """Partitions that another needs, until a deadline of the machine's monotonic clock."""

    partitions: tuple[Partition, ...]
    deadline: float


@dataclass(frozen=True, slots=True)
class Gone:
    """Partitions that are no longer ours."""

    partitions: tuple[Partition, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """Nothing more will come."""

    error: KafkaError


News = Taken | tuple[Gained, ...] | Leaving | Gone | Failed


class Poller:
    """A consumer and its thread.

    `tell` is called in the thread with everything that happens. All other methods may be
    called from elsewhere; what they ask for is done in their order, soon.
    """

    def __init__(self, config: Mapping[str, Any], topics: Sequence[str], tell: Callable[[News], None]) -> None:
        self._consumer = Consumer({**config, "on_commit": self._committed, "error_cb": self._note_error}, logger=CLIENT_LOG)
        self._complain = complaints(f"a member of group {config['group.id']!r}")
        self._name = str(config["client.id"])
        self._topics = list(topics)
        self._tell = tell
        self._commands: deque[Callable[[], None]] = deque()
        self._active_until = 0.0
        self._room = threading.Event()
        self._told = 0
        self._told_bytes = 0
        self._received = 0
        self._received_bytes = 0
        self._stalled = False
        self._generations: dict[Partition, int] = {}
        """Of the partitions that were started; never changed, but replaced."""
        self._paused: set[Partition] = set()
        self._beginnings: dict[Partition, tuple[int, int] | None] = {}
        """Of partitions that were just gained: the position and the generation, once somebody has said where to begin."""
        self._awakened: list[Partition] = []
        """Started or resumed just now."""
        self._again: list[Partition] = []
        self._again_at = 0.0
        self._assigned: set[Partition] = set()
        self._leaving: set[Partition] = set()
        self._offsets: dict[Partition, int] = {}
        """To be committed."""
        self._unsigned: dict[Partition, int | None] = {}
        """Partitions that do not bear our name yet, with the offset to put it to; None until it is known where to begin."""
        self._signing: dict[Partition, int] = {}
        """Those of them that are in a commit under way, with the last offset that was sent."""
        self._commit_at = 0.0
        self._sign_at = 0.0
        self._committing = False
        self._memberships: list[tuple[Sequence[Partition], Future[Any]]] = []
        """Who wants to settle in a transaction."""
        self._silent_since: float | None = None
        """When the client lost its last server; None while it has one, as far as we know."""
        self._ask_at = 0.0
        self._closing = False
        self._ended: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="millstream-kafka-consumer", daemon=True)

    def begin(self) -> None:
        """Join the group."""
        self._thread.start()

    # What others ask for

    def start(self, partition: Partition, position: int, generation: int) -> None:
        """Fetch from a position on; what comes from now on has this generation."""
        self._ask(lambda: self._start(partition, position, generation))

    def pause(self, partitions: Sequence[Partition]) -> None:
        """Fetch nothing of these."""
        self._ask(lambda: self._pause(partitions))

    def resume(self, partitions: Sequence[Partition]) -> None:
        """Fetch them again."""
        self._ask(lambda: self._resume(partitions))

    def release(self, partitions: Sequence[Partition]) -> None:
        """Nothing more will be settled of these: the group may have them."""
        self._ask(lambda: self._leaving.difference_update(partitions))

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Note how far the group has come, soon."""
        self._commands.append(lambda: self._note(offsets))

    def membership(self, partitions: Sequence[Partition]) -> "Future[Any]":
        """What a transaction needs to prove that these are ours; None if they are not."""
        answer: Future[Any] = Future()
        self._ask(lambda: self._memberships.append((partitions, answer)))
        return answer

    def received(self, records: int, size: int) -> None:
        """So much was taken over from what was told."""
        self._received += records
        self._received_bytes += size
        self._room.set()

    def close(self) -> "Future[None]":
        """Commit, leave the group, and end."""
        self._closing = True
        self._room.set()
        return self._ended

    def _ask(self, command: Callable[[], None]) -> None:
        self._active_until = time.monotonic() + ACTIVE
        self._commands.append(command)
        self._room.set()

    # The thread

    def _run(self) -> None:
        try:
            self._consumer.subscribe(self._topics, on_assign=self._gained, on_revoke=self._revoked, on_lost=self._lost)
            while not self._closing:
                self._step()
        except KafkaException as error:
            self._tell(Failed(error_of(error)))
        except Exception as error:
            log.exception("a consumer failed")
            self._tell(Failed(KafkaError(KafkaError._FAIL, repr(error))))
        finally:
            self._leave()

    def _leave(self) -> None:
        try:
            self._closing = True
            self._execute()
            self._commit_last()
            # It says good-bye to the group, for as long as it takes: where no server answers we are gone before.
            closing = threading.Thread(target=self._consumer.close, name="millstream-kafka-closing", daemon=True)
            closing.start()
            closing.join(LAST)
        except Exception:
            log.exception("a consumer did not end well")
        finally:
            # Whoever still asks is answered, and nothing touches the consumer any more: it may not have ended yet.
            self._assigned.clear()
            while self._commands:
                self._commands.popleft()()
            self._prove()
            self._ended.set_result(None)

    def _step(self) -> None:
        self._execute()
        self._commit_soon()
        if self._silent_since is not None and time.monotonic() >= self._ask_at:
            self._ask_servers(self._silent_since)
        if self._is_full() and not self._stalled and not self._wait_for_room():
            return
        if self._stalled and not self._is_full(half=True):
            self._stalled = False
            self._resume_all()
        records = self._consumer.consume(CHUNK, 0)
        if not records:
            first = self._consumer.poll(BUSY if time.monotonic() < self._active_until else IDLE)
            if first is None:
                return
            records = [first, *self._consumer.consume(CHUNK - 1, 0)]
        size = sum(map(len, records))
        self._told += len(records)
        self._told_bytes += size
        records.reverse()
        self._tell(Taken(records, self._generations, size))

    def _is_full(self, *, half: bool = False) -> bool:
        waiting, size = self._told - self._received, self._told_bytes - self._received_bytes
        return waiting * 2 >= MOST_RECORDS or size * 2 >= MOST_BYTES if half else waiting >= MOST_RECORDS or size >= MOST_BYTES

    def _wait_for_room(self) -> bool:
        """Wait until the receiver has taken something; when it takes nothing for long, pause, so that polling can go on."""
        deadline = time.monotonic() + STALLED
        while self._is_full() and not self._closing:
            if time.monotonic() > deadline:
                self._stalled = True
                self._consumer.pause(_places(self._assigned))
                return True
            self._room.clear()
            if self._is_full() and not self._commands:
                self._room.wait(IDLE)
            self._execute()
            self._commit_soon()
        return not self._closing

    def _execute(self) -> None:
        while self._commands:
            self._commands.popleft()()
        # A commit that is under way must not arrive after a transaction's, and move the group back. In a rebalance its answer cannot.
        if self._memberships and (not self._committing or self._leaving or self._closing):
            self._prove()
        if self._awakened:
            self._awaken(self._awakened)
            # It may have been asleep again before it knew what to look at.
            self._again, self._again_at, self._awakened = self._awakened, time.monotonic() + AGAIN, []
        elif self._again and time.monotonic() >= self._again_at:
            self._awaken(self._again)
            self._again = []

    def _prove(self) -> None:
        asking, self._memberships = self._memberships, []
        for partitions, answer in asking:
            ours = self._assigned.issuperset(partitions) and not self._closing
            # Where a partition that we have to give up is just being signed, that could come last: the heir does it again.
            ours = ours and self._leaving.isdisjoint(self._signing.keys() & set(partitions))
            self._withdraw(partitions)
            answer.set_result(self._consumer.consumer_group_metadata() if ours else None)

    def _awaken(self, partitions: Sequence[Partition]) -> None:
        """Have the client look at once at what was started: it would by itself, but up to a second later."""
        # A question to each server that has some of them is what its connection wakes up for.
        with contextlib.suppress(KafkaException):
            self._consumer.offsets_for_times(_places([p for p in partitions if p in self._assigned], OFFSET_END), timeout=1)

    def _start(self, partition: Partition, position: int, generation: int) -> None:
        if partition not in self._assigned:
            return
        if partition in self._unsigned and self._unsigned[partition] is None:
            self._unsigned[partition] = position
        if partition in self._beginnings:
            self._beginnings[partition] = position, generation
            return
        self._consumer.seek(TopicPartition(partition.topic, partition.number, position))
        self._generations = {**self._generations, partition: generation}
        self._offsets.pop(partition, None)
        if partition not in self._paused and not self._stalled:
            self._consumer.resume(_places([partition]))
        self._awakened.append(partition)

    def _pause(self, partitions: Sequence[Partition]) -> None:
        mine = self._assigned.intersection(partitions)
        self._paused |= mine
        if mine:
            self._consumer.pause(_places(mine - self._beginnings.keys()))

    def _resume(self, partitions: Sequence[Partition]) -> None:
        mine = self._assigned.intersection(partitions)
        self._paused -= mine
        if not self._stalled:
            self._wake(mine)

    def _resume_all(self) -> None:
        self._wake(self._assigned - self._paused)

    def _wake(self, partitions: set[Partition]) -> None:
        started = partitions & self._generations.keys()
        if started:
            self._consumer.resume(_places(started))
            self._awakened += started

    # Commits

    def _note(self, offsets: Mapping[Partition, int]) -> None:
        for partition, offset in offsets.items():
            if partition in self._assigned and offset > self._offsets.get(partition, -1):
                self._offsets[partition] = offset

    def _commit_soon(self) -> None:
        if self._committing:
            return
        now = time.monotonic()
        if (self._offsets and now >= self._commit_at) or (self._unsigned and now >= self._sign_at):
            self._commit()

    def _commit(self) -> None:
        signed = {partition: offset for partition, offset in self._unsigned.items() if offset is not None}
        offsets, self._offsets = signed | self._offsets, {}
        if not offsets:
            return
        self._signing = {p: offsets.get(p, offset) for p, offset in (self._signing | signed).items()}
        for partition in offsets:
            self._unsigned.pop(partition, None)
        self._commit_at = time.monotonic() + COMMIT_EVERY
        self._committing = True
        try:
            self._consumer.commit(offsets=_offsets(offsets, self._name), asynchronous=True)
        except KafkaException as error:
            self._committed(error_of(error), [])

    def _committed(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        """In the thread: the server's answer. What it refused the next commit covers, and the position of record is the store's."""
        self._committing = False
        signed, self._signing = self._signing, {}
        if error is not None:
            log.debug("a commit was refused: %s", error)
            self._unsigned |= {p: offset for p, offset in signed.items() if p in self._assigned and p not in self._leaving}
            self._sign_at = time.monotonic() + SIGN_AGAIN

    def _commit_last(self) -> None:
        """Commit what is left, and wait a little for the answer: a server that is down must not keep us."""
        self._commit()
        deadline = time.monotonic() + LAST
        while self._committing and time.monotonic() < deadline:
            self._consumer.poll(BUSY)

    # Rebalances, inside of a poll

    def _gained(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        partitions = [Partition(place.topic, place.partition) for place in places]
        try:
            gained = self._look_up(partitions)
        except KafkaException as error:
            self._tell(Failed(error_of(error)))
            consumer.incremental_assign(_places(partitions, OFFSET_END))
            consumer.pause(_places(partitions))
            return
        self._assigned.update(partitions)
        # Who asks who has a partition is told the name in its offset: ours from now on, not only once an event was handled.
        self._unsigned |= {g.partition: g.committed for g in gained}
        beginnings = self._ask_where(gained)
        fetched = {g.partition: g.first if g.committed is None else g.committed for g in gained}
        fetched |= {partition: begun[0] for partition, begun in beginnings.items() if begun is not None}
        consumer.incremental_assign(_offsets(fetched))
        # Nothing comes before somebody has said where to begin.
        silent = [p for p in partitions if beginnings.get(p) is None or p in self._paused or self._stalled]
        consumer.pause(_places(silent))
        self._generations = {**self._generations, **{p: begun[1] for p, begun in beginnings.items() if begun is not None}}

    def _ask_where(self, gained: tuple[Gained, ...]) -> dict[Partition, tuple[int, int] | None]:
        """Tell of new partitions, and wait a little for where to begin: what is fetched from there at once need not be sought later."""
        self._beginnings = {g.partition: None for g in gained}
        if gained:
            self._tell(gained)
        deadline = time.monotonic() + ANSWER
        while None in self._beginnings.values() and not self._closing and time.monotonic() < deadline:
            self._room.clear()
            if not self._commands:
                self._room.wait(BUSY)
            self._execute()
        beginnings, self._beginnings = self._beginnings, {}
        return beginnings

    def _look_up(self, partitions: Sequence[Partition]) -> tuple[Gained, ...]:
        """Where these and the group stand; asked again while the servers agree on a new leader, but not for long."""
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                return self._look_up_now(partitions, deadline) if partitions else ()
            except KafkaException as error:
                if not is_passing(error_of(error)) or self._closing or time.monotonic() > deadline:
                    raise
                time.sleep(IDLE)

    def _look_up_now(self, partitions: Sequence[Partition], deadline: float) -> tuple[Gained, ...]:
        def left() -> float:
            return max(deadline - time.monotonic(), IDLE)

        committed = self._consumer.committed(_places(partitions), timeout=left())
        firsts = self._consumer.offsets_for_times(_places(partitions, OFFSET_BEGINNING), timeout=left())
        heads = self._consumer.offsets_for_times(_places(partitions, OFFSET_END), timeout=left())
        for answer in (*committed, *firsts, *heads):
            if answer.error is not None:
                raise KafkaException(answer.error)
        known = [{Partition(a.topic, a.partition): a.offset for a in answers} for answers in (firsts, heads, committed)]
        return tuple(
            Gained(p, known[0][p], known[1][p], known[2][p] if known[2][p] >= 0 else None) for p in partitions
        )

    def _revoked(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        """Wait until they are released, and hold the group up no longer than the deadline."""
        partitions = tuple(Partition(place.topic, place.partition) for place in places)
        self._leaving = set(partitions)
        deadline = time.monotonic() + GRACE
        if partitions and not self._closing:
            self._tell(Leaving(partitions, deadline))
        while self._leaving and not self._closing and time.monotonic() < deadline:
            self._room.clear()
            if not self._commands:
                self._room.wait(IDLE)
            self._execute()
        # It is under way before the group hears that we have given them up.
        self._commit()
        late = tuple(sorted(self._leaving))
        self._drop(partitions)
        consumer.incremental_unassign(_places(partitions))
        if late:
            self._tell(Gone(late))

    def _lost(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        partitions = tuple(Partition(place.topic, place.partition) for place in places)
        self._drop(partitions)
        consumer.incremental_unassign(_places(partitions))
        if partitions:
            self._tell(Gone(partitions))

    def _drop(self, partitions: Sequence[Partition]) -> None:
        self._assigned.difference_update(partitions)
        self._paused.difference_update(partitions)
        self._leaving.difference_update(partitions)
        self._generations = {p: g for p, g in self._generations.items() if p not in partitions}
        self._withdraw(partitions)

    def _withdraw(self, partitions: Sequence[Partition]) -> None:
        """Commit nothing more of what is known of these."""
        for partition in partitions:
            self._offsets.pop(partition, None)
            self._unsigned.pop(partition, None)
            self._signing.pop(partition, None)

    def _note_error(self, error: KafkaError) -> None:
        self._complain(error)
        if error.code() == KafkaError._ALL_BROKERS_DOWN and self._silent_since is None:
            self._silent_since = time.monotonic()

    def _ask_servers(self, since: float) -> None:
        """All servers were gone: see whether one is back, and after a while say that none is."""
        try:
            self._consumer.list_topics(self._topics[0], timeout=1)
            self._silent_since = None
        except KafkaException as error:
            if time.monotonic() - since > OUTAGE:
                raise KafkaException(KafkaError(KafkaError._ALL_BROKERS_DOWN, f"no server answers since {OUTAGE:g} s")) from error
        self._ask_at = time.monotonic() + 1


def _places(partitions: "Sequence[Partition] | set[Partition]", offset: int | None = None) -> list[TopicPartition]:
    if offset is None:
        return [TopicPartition(p.topic, p.number) for p in partitions]
    return [TopicPartition(p.topic, p.number, offset) for p in partitions]


def _offsets(offsets: Mapping[Partition, int], member: str = "") -> list[TopicPartition]:
    return [TopicPartition(p.topic, p.number, offset, member) for p, offset in offsets.items()]
