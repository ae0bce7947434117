"""The suite finds what is wrong with a store: each of these breaks one promise, and one test says so."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from millstream.brokers.memory import MemoryBroker
from millstream.contracts.errors import MillstreamError
from millstream.core.broker import Broker, Partition
from millstream.core.store import Page, Parked, RequestKind, Store
from millstream.stores.memory import MemoryEnded, MemoryStore, MemoryTransaction
from millstream.testing import WorkerSuite


class ForgetsFences(MemoryTransaction):
    """Lets whoever comes commit."""

    def apply(self, page: Page) -> None:
        page.fences = {}
        super().apply(page)


class ForgetsMarks(MemoryTransaction):
    """Does not remember what was handled."""

    def apply(self, page: Page) -> None:
        page.marks, page.first = [], []
        super().apply(page)


class LosesEvents(MemoryTransaction):
    """Commits without the events."""

    def apply(self, page: Page) -> None:
        page.events = []
        super().apply(page)


class LosesParked(MemoryTransaction):
    """Forgets what waits."""

    def park(self, parked: Parked) -> bool:
        return super().park(parked) if parked.id else True


class KeepsParked(MemoryTransaction):
    """What is done waits for ever."""

    def unpark(self, id_: int) -> None:
        pass


class StripsParked(MemoryTransaction):
    """Keeps the bytes of a dead letter as text."""

    def park(self, parked: Parked) -> bool:
        if parked.envelope is not None:
            body = parked.envelope.data.decode(errors="replace").encode()
            parked = msgspec.structs.replace(parked, envelope=msgspec.structs.replace(parked.envelope, data=body))
        if parked.message is not None:
            parked = msgspec.structs.replace(parked, message=None)
        return super().park(parked)


class ForgetsPositions(MemoryTransaction):
    """Has no position of record."""

    def apply(self, page: Page) -> None:
        page.positions = {}
        super().apply(page)


class ForgetsSuspects(MemoryTransaction):
    """Does not count what kills."""

    def apply(self, page: Page) -> None:
        page.suspects = {}
        super().apply(page)


class CommitsAnyway(MemoryTransaction):
    """An error changes nothing about the commit."""

    def end(self, *, commit: bool) -> MemoryEnded:
        return super().end(commit=True)


class KeepsSavepoints(MemoryTransaction):
    """What was to be undone stays."""

    def rollback(self) -> None:
        self.release()


class Unguarded(MemoryTransaction):
    """Goes on writing after its end."""

    def end(self, *, commit: bool) -> MemoryEnded:
        connection = self._open
        ended = super().end(commit=commit)
        self._connection = connection
        return ended


class ForgetsPauses(MemoryStore):
    """A pause ends with the connection."""

    async def __aexit__(self, *error: Any) -> None:
        self.tables.paused.clear()
        await super().__aexit__(*error)


class ManyLeaders(MemoryStore):
    """Whoever asks leads."""

    async def lead(self, role: str, member: str, seconds: float) -> bool:
        return True


class ForgetsGenerations(MemoryStore):
    """A replay with effects is one without."""

    async def rewind(self, group: str, positions: Sequence[tuple[Partition, int]], *, effects: bool) -> None:
        await super().rewind(group, positions, effects=False)


class FencesNobody(MemoryStore):
    """Moves a group under its owner."""

    async def rewind(self, group: str, positions: Sequence[tuple[Partition, int]], *, effects: bool) -> None:
        epochs = {key: progress.epoch for key, progress in self.tables.progress.items()}
        await super().rewind(group, positions, effects=effects)
        for key, progress in self.tables.progress.items():
            progress.epoch = epochs.get(key, progress.epoch)


class NeverClean(MemoryStore):
    """Takes every owner for dead."""

    async def unassign(self, group: str, fences: dict[Partition, int]) -> None:
        pass


class ReadsAhead(MemoryStore):
    """Shows what is not committed."""

    def read_now(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        writer, _ = self._open
        return writer.execute(sql, tuple(params)).fetchall()


class LosesRequests(MemoryStore):
    """Says yes to operators and does nothing."""

    async def request(self, kind: RequestKind, parked: Sequence[int], reason: str, data: bytes = b"") -> int:
        return len([id_ for id_ in parked if id_ in self.tables.parked])


class NewName(MemoryStore):
    """Is another store each time it is opened."""

    async def __aenter__(self) -> "NewName":
        await super().__aenter__()
        self.id = f"{self.id}x"
        return self


class TellsNobody(MemoryStore):
    """Lets listeners sleep."""

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        return super().on_change(lambda: None)


class LetsOthersPass(MemoryStore):
    """What waits behind another is as ready as the first."""

    async def heads(self, group: str, partitions: Sequence[Partition], due: int, most: int) -> Sequence[Parked]:
        return [p for p in self.tables.parked.values() if p.group == group and p.state != "dead" and p.due <= due][:most]


class BackToFront(MemoryStore):
    """Hands over its outbox in the wrong order."""

    async def outbox(self, after: int, most: int) -> Sequence[tuple[int, Any]]:
        rows = await super().outbox(after, most)
        numbers, events = [number for number, _ in rows], [event for _, event in rows]
        return list(zip(numbers, reversed(events), strict=True))


class SendsTooMuch(MemoryStore):
    """Forgets one event more than was sent."""

    async def sent(self, upto: int) -> None:
        await super().sent(upto + 1)


def store_of(kind: type[MemoryTransaction]) -> type[MemoryStore]:
    """A store that is right but for its transactions."""

    class Broken(MemoryStore):
        async def begin(self) -> MemoryTransaction:
            transaction = await super().begin()
            transaction.__class__ = kind
            return transaction

        def begin_now(self) -> MemoryTransaction:
            transaction = super().begin_now()
            transaction.__class__ = kind
            return transaction

    Broken.__name__ = kind.__name__
    return Broken


BROKEN = [
    (store_of(ForgetsFences), "test_only_the_newest_owner_can_write"),
    (store_of(ForgetsFences), "test_whoever_was_fenced_off_changes_nothing"),
    (store_of(ForgetsMarks), "test_a_mark_counts_for_its_group_and_generation"),
    (store_of(ForgetsMarks), "test_a_duplicate_has_no_effect"),
    (store_of(ForgetsMarks), "test_what_was_parked_and_done_is_a_duplicate_in_every_group"),
    (store_of(LosesEvents), "test_effects_events_and_marks_commit_together"),
    (store_of(LosesEvents), "test_a_unit_of_work_publishes_with_its_commit"),
    (store_of(LosesParked), "test_a_dead_letter_has_everything_and_its_key_waits"),
    (store_of(LosesParked), "test_what_cannot_be_decoded_is_parked_with_its_bytes"),
    (store_of(KeepsParked), "test_a_dead_letter_is_redriven_in_the_order_of_its_key"),
    (store_of(StripsParked), "test_parked_deliveries_keep_everything"),
    (store_of(StripsParked), "test_what_cannot_be_decoded_is_parked_with_its_bytes"),
    (store_of(ForgetsPositions), "test_only_the_newest_owner_can_write"),
    (store_of(ForgetsSuspects), "test_suspects_are_counted"),
    (store_of(ForgetsSuspects), "test_after_a_death_each_delivery_in_flight_is_counted_before_it_runs"),
    (store_of(ForgetsSuspects), "test_what_has_killed_several_workers_is_parked"),
    (store_of(CommitsAnyway), "test_an_error_takes_back_all_of_a_transaction"),
    (store_of(CommitsAnyway), "test_a_unit_of_work_publishes_with_its_commit"),
    (store_of(KeepsSavepoints), "test_a_savepoint_can_be_undone_alone"),
    (store_of(KeepsSavepoints), "test_an_attempt_that_fails_leaves_nothing"),
    (store_of(Unguarded), "test_a_transaction_that_has_ended_is_refused"),
    (ForgetsPauses, "test_a_pause_is_remembered"),
    (ForgetsPauses, "test_a_pause_survives_a_restart"),
    (ManyLeaders, "test_one_member_at_a_time_has_a_role"),
    (ForgetsGenerations, "test_a_replay_with_effects_handles_everything_anew"),
    (FencesNobody, "test_a_group_can_be_moved_and_its_owner_is_fenced"),
    (NeverClean, "test_it_is_known_whether_the_last_owner_said_good_bye"),
    (ReadsAhead, "test_what_is_not_committed_is_not_read"),
    (LosesRequests, "test_requests_wait_for_the_owner"),
    (LosesRequests, "test_a_discarded_letter_lets_its_key_go_on"),
    (NewName, "test_a_store_keeps_its_name"),
    (TellsNobody, "test_whoever_listens_is_told_of_changes"),
    (LetsOthersPass, "test_only_the_first_of_a_sequence_is_ready"),
    (LetsOthersPass, "test_what_fails_waits_with_its_key_and_others_flow_on"),
    (BackToFront, "test_events_of_a_page_go_out_in_order"),
    (BackToFront, "test_outputs_wait_in_the_outbox_while_the_broker_is_away"),
    (SendsTooMuch, "test_events_of_a_page_go_out_in_order"),
]


def suite_for(store: type[MemoryStore], *, patience: float) -> WorkerSuite:
    """The suite on a store of this class, with an outbox."""

    class Suite(WorkerSuite):
        features = MemoryBroker.features
        silence, notice = 0.05, 0.3

        def broker(self) -> Broker:
            self.memory = getattr(self, "memory", None) or MemoryBroker()
            return self.memory

        def store(self, broker: Broker) -> Store:
            self.kept = getattr(self, "kept", None) or store()
            return self.kept

    suite = Suite()
    suite.patience = patience
    return suite


@pytest.mark.parametrize(("store", "test"), BROKEN, ids=[f"{s.__name__}-{t}" for s, t in BROKEN])
def test_a_broken_store_is_found_out(store: type[MemoryStore], test: str) -> None:
    """The test of the promise that is broken fails, where it passes for a store that keeps it."""
    with pytest.raises((AssertionError, ExceptionGroup, MillstreamError)):
        getattr(suite_for(store, patience=0.8), test)()


def test_every_test_named_here_passes_where_nothing_is_broken() -> None:
    """Or else a failure above would mean nothing."""
    for test in sorted({test for _, test in BROKEN}):
        getattr(suite_for(MemoryStore, patience=10.0), test)()
