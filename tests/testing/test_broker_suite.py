"""The suite finds what is wrong with a broker: each of these breaks one promise, and one test says so."""

import itertools
import time
from collections.abc import Sequence
from types import TracebackType

import pytest

from millstream.brokers.memory import MemoryBroker, MemoryListener, MemorySubscription
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import MillstreamError, TooLargeError
from millstream.core.broker import Broker, Delivery, Features, Group, Message, Origin, Partition, Received, Topic
from millstream.testing import BrokerSuite
from millstream.testing.broker_ground import replaced

Results = Sequence[MillstreamError | None]


class LosesOne(MemoryBroker):
    """Accepts everything, and forgets one in forty."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = itertools.cycle(range(40))

    async def publish(self, envelopes: Sequence[Envelope], *, origin: Origin | None = None) -> Results:
        await super().publish([e for e in envelopes if next(self.turns)], origin=origin)
        return [None] * len(envelopes)


class Reorders(MemoryBroker):
    """Stores the events of a call back to front."""

    async def publish(self, envelopes: Sequence[Envelope], *, origin: Origin | None = None) -> Results:
        return list(await super().publish(list(reversed(envelopes)), origin=origin))[::-1]


class Rounds(MemoryBroker):
    """Keeps the time in milliseconds."""

    async def publish(self, envelopes: Sequence[Envelope], *, origin: Origin | None = None) -> Results:
        return await super().publish([replaced(e, time=e.time // 1000 * 1000) for e in envelopes], origin=origin)


class Strips(MemoryBroker):
    """Takes white space and nulls off the ends of a body."""

    async def publish(self, envelopes: Sequence[Envelope], *, origin: Origin | None = None) -> Results:
        return await super().publish([replaced(e, data=e.data.strip(b"\0 \n")) for e in envelopes], origin=origin)


class DropsHeaders(MemoryBroker):
    """Keeps of foreign messages only the body."""

    async def publish_raw(self, messages: Sequence[Message]) -> Results:
        return await super().publish_raw([Message(topic=m.topic, body=m.body) for m in messages])


class TakesAnySize(MemoryBroker):
    """Says that it has stored what was too large."""

    async def publish(self, envelopes: Sequence[Envelope], *, origin: Origin | None = None) -> Results:
        results = await super().publish(envelopes, origin=origin)
        return [None if isinstance(result, TooLargeError) else result for result in results]


class OneTopic(MemoryBroker):
    """Puts what belongs on the topics t1, t2 and so on, on t0."""

    async def publish(self, envelopes: Sequence[Envelope], *, origin: Origin | None = None) -> Results:
        return await super().publish([replaced(e, topic=e.topic.rpartition(".t")[0] + ".t0") if ".t" in e.topic else e for e in envelopes])


class StartsEarly(MemoryBroker):
    """Begins every group with the first event."""

    async def declare(self, topics: Sequence[Topic], groups: Sequence[Group]) -> None:
        await super().declare(topics, [Group(name=g.name, topics=g.topics, start="earliest", store=g.store) for g in groups])


class IgnoresStores(MemoryBroker):
    """Lets any store claim a group."""

    async def declare(self, topics: Sequence[Topic], groups: Sequence[Group]) -> None:
        await super().declare(topics, [Group(name=g.name, topics=g.topics, start=g.start) for g in groups])


class ForgetsOnClose(MemoryBroker):
    """Loses the newest event of each partition with its connection."""

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /) -> None:
        for log in self.logs.values():
            if log.events:
                log.events.pop()


class ForgetsMarks(MemoryBroker):
    """Takes a relay's mark and does not know it afterwards."""

    async def relayed(self, store: str) -> int:
        return 0


class RemovesEarly(MemoryBroker):
    """Retention does not wait for groups."""

    async def retain(self, topic: str, *, force: bool = False) -> int:
        return await super().retain(topic, force=True)


class ForgetsNobody(MemoryBroker):
    """A forgotten group goes on where it was."""

    async def forget(self, group: str) -> None:
        pass


class SeeksAnyway(MemoryBroker):
    """Moves a group under its members."""

    async def seek(self, group: str, positions: Sequence[tuple[Partition, int]]) -> None:
        self._groups[group].committed.update(positions)


class TellsOne(MemoryBroker):
    """Only one listener hears a broadcast."""

    async def broadcast(self, body: bytes) -> None:
        for listener in self._listeners[:1]:
            listener.heard.append(body)

    async def listen(self) -> MemoryListener:
        return await super().listen()


class GivesEverybodyAll(MemoryBroker):
    """Each member of a group has all of its partitions."""

    async def open(self, group: str, member: str) -> MemorySubscription:
        members = self._groups[group]
        alone = type(members)(self, members.group)
        alone.committed = members.committed
        subscription = MemorySubscription(self, alone, member)
        alone.join(subscription)
        return subscription


class KnowsNoMoments(MemoryBroker):
    """Finds the beginning and the end, and for any moment between them the end."""

    async def position_at(self, partition: Partition, micros: int) -> int:
        return await super().position_at(partition, micros if micros <= 0 else 1 << 62)


class RunsLate(MemoryBroker):
    """Its clock is a second off, and it calls what it reads there exact."""

    def __init__(self) -> None:
        super().__init__(micros=lambda: time.time_ns() // 1000 - 1_000_000)


class ForgetsReleased(MemorySubscription):
    """What is released is never seen again."""

    async def settle(self, done: Sequence[Delivery], released: Sequence[Delivery] = ()) -> None:
        await super().settle([*done, *released])


class SettlesOnClose(MemorySubscription):
    """What is in hand when a member leaves counts as done."""

    async def close(self) -> None:
        for partition, positions in self._in_hand.items():
            if positions:
                self._members.committed[partition] = max(positions) + 1
        await super().close()


class NeverSettles(MemorySubscription):
    """What is done comes again to the next member."""

    async def settle(self, done: Sequence[Delivery], released: Sequence[Delivery] = ()) -> None:
        await super().settle((), released)


class NeverPauses(MemorySubscription):
    """Delivers from paused partitions."""

    def pause(self, partitions: Sequence[Partition]) -> None:
        pass


class StartsAnywhere(MemorySubscription):
    """Accepts a position that the log does not reach."""

    def start(self, partition: Partition, position: int | None) -> None:
        head = self._broker.logs[partition].head
        super().start(partition, None if position is None else min(position, head))


class Halves(MemorySubscription):
    """Settles before it knows whether it can publish."""

    async def publish_and_settle(self, envelopes: Sequence[Envelope], done: Sequence[Delivery]) -> None:
        await self.settle(done)
        self._broker.append(envelopes)()


class LosesWhenCancelled(MemorySubscription):
    """What came while nobody waited any more counts as done."""

    async def receive(self, most: int, wait: float) -> Received:
        try:
            return await super().receive(most, wait)
        except BaseException:
            for delivery in self._next(most):
                await self.settle([delivery])
            raise


def broker_of(kind: type[MemorySubscription]) -> type[MemoryBroker]:
    """A broker that is right but for its subscriptions."""

    class Broken(MemoryBroker):
        async def open(self, group: str, member: str) -> MemorySubscription:
            subscription = await super().open(group, member)
            subscription.__class__ = kind
            return subscription

    Broken.__name__ = kind.__name__
    return Broken


BROKEN = [
    (LosesOne, "test_what_was_published_arrives_whole"),
    (LosesOne, "test_members_share_what_many_publishers_send"),
    (LosesOne, "test_nothing_is_lost_while_members_come_and_go"),
    (Reorders, "test_each_key_keeps_its_order"),
    (Rounds, "test_what_was_published_arrives_whole"),
    (Strips, "test_odd_and_large_bodies_arrive_byte_for_byte"),
    (DropsHeaders, "test_bytes_of_others_arrive_as_they_are"),
    (TakesAnySize, "test_an_event_at_the_limit_arrives_and_one_beyond_is_refused"),
    (OneTopic, "test_topics_are_separate"),
    (StartsEarly, "test_a_group_starts_at_its_creation"),
    (IgnoresStores, "test_a_group_belongs_to_one_store"),
    (ForgetsOnClose, "test_closing_loses_nothing_that_was_acknowledged"),
    (ForgetsOnClose, "test_restarts_under_load_lose_nothing"),
    (ForgetsMarks, "test_a_relay_finds_its_mark"),
    (RemovesEarly, "test_retention_waits_for_every_group"),
    (ForgetsNobody, "test_a_forgotten_group_is_gone"),
    (SeeksAnyway, "test_a_group_that_nobody_runs_can_be_moved"),
    (KnowsNoMoments, "test_a_moment_lies_between_what_was_stored_before_and_after"),
    (RunsLate, "test_the_lag_is_told"),
    (TellsOne, "test_everybody_hears_a_broadcast"),
    (GivesEverybodyAll, "test_one_member_at_a_time_has_a_key"),
    (GivesEverybodyAll, "test_another_member_takes_over_what_one_gives_up"),
    (broker_of(ForgetsReleased), "test_what_is_released_comes_again"),
    (broker_of(ForgetsReleased), "test_members_that_release_everything_lose_nothing"),
    (broker_of(SettlesOnClose), "test_a_group_goes_on_where_it_stopped"),
    (broker_of(NeverSettles), "test_a_group_goes_on_where_it_stopped"),
    (broker_of(NeverSettles), "test_what_is_in_hand_can_be_kept"),
    (broker_of(NeverSettles), "test_the_lag_is_told"),
    (broker_of(NeverPauses), "test_a_paused_partition_delivers_nothing"),
    (broker_of(StartsAnywhere), "test_a_member_may_say_where_to_go_on"),
    (broker_of(Halves), "test_publishing_and_settling_happen_together"),
    (broker_of(LosesWhenCancelled), "test_a_cancelled_receive_loses_nothing"),
]


def suite_for(broker: type[MemoryBroker], features: Features) -> BrokerSuite:
    """The suite, impatient, on a broker of this class."""

    class Suite(BrokerSuite):
        patience, silence = 0.3, 0.02

        def connect(self) -> Broker:
            self.memory = getattr(self, "memory", None) or broker()
            return self.memory

    suite = Suite()
    suite.features = features
    return suite


DURABLE = Features(
    ordered=True, replayable=True, durable=True, broadcast=True, transactional=True, marks=True, positional=True, largest=16 << 20
)


@pytest.mark.parametrize(("broker", "test"), BROKEN, ids=[f"{b.__name__}-{t}" for b, t in BROKEN])
def test_a_broken_broker_is_found_out(broker: type[MemoryBroker], test: str) -> None:
    """The test of the promise that is broken fails, and the same test passes where it is kept."""
    broken, right = suite_for(broker, DURABLE), suite_for(MemoryBroker, DURABLE)

    getattr(right, test)()

    with pytest.raises((AssertionError, ExceptionGroup, MillstreamError)):
        getattr(broken, test)()


def test_a_broker_that_declares_less_than_it_is_held_to_is_found_out() -> None:
    """Dropping a promise is not a way to pass."""
    suite = suite_for(MemoryBroker, DURABLE)

    with pytest.raises(AssertionError, match="declares otherwise: durable"):
        suite.test_the_broker_declares_what_it_is_held_to()


def test_what_is_not_promised_is_skipped_with_the_reason() -> None:
    """A report tells a broker without a feature from one that was not tested."""
    suite = suite_for(MemoryBroker, Features())

    with pytest.raises(pytest.skip.Exception, match="do not promise ordered"):
        suite.test_each_key_keeps_its_order()


@pytest.mark.parametrize(
    "test",
    [
        "test_without_history_nobody_is_promised_any",
        "test_without_broadcast_nobody_waits_for_one",
        "test_without_marks_none_is_taken",
        "test_without_transactions_none_is_faked",
    ],
)
def test_a_feature_that_is_faked_is_found_out(test: str) -> None:
    """What is not declared has to be refused: somebody might rely on it."""
    suite = suite_for(MemoryBroker, Features(largest=16 << 20))

    with pytest.raises(AssertionError, match="should have raised ConfigurationError"):
        getattr(suite, test)()
