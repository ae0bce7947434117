"""What a process tells of itself: failures always, the rest as the budget allows, and nothing that would hold it up."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from millstream import App, Transaction, event
from millstream.app import reporter as module
from millstream.app.facts_of import LARGEST, handler_fact
from millstream.app.outcomes import WorkOutcomes, sample
from millstream.app.reporter import BUDGET, MOST_BUFFERED, MOST_PENDING, Reporter
from millstream.app.work import Owned, Work
from millstream.brokers.memory import MemoryBroker
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import BrokerUnavailableError, MillstreamError
from millstream.contracts.ids import new_id
from millstream.core.broker import Delivery, Dropped, Message, Partition
from millstream.core.facts import (
    DATA_LIMIT,
    FACTS_TOPIC,
    Deliveries,
    DeliveryFact,
    Fact,
    FactMessage,
    Heartbeat,
    Manifest,
    Operation,
    OperationFact,
    Publications,
    Waiting,
)
from millstream.core.observe import Kind
from millstream.core.sampling import is_chosen
from millstream.core.store import Page, Parked, ParkState
from millstream.stores.memory import MemoryStore
from millstream.testing import ManualClock

GROUP = "desk.accept"
HERE = Partition("order.placed", 0)


@event("order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    """A customer has committed to buy."""

    order_id: str


def desk() -> App:
    """A service with one handler of its own, and one that follows facts."""
    app = App("desk")

    @app.subscriber(OrderPlaced)
    async def accept(order: OrderPlaced, tx: Transaction) -> None:
        """Take it."""

    @app.subscriber(FactMessage)
    async def follow(fact: FactMessage) -> None:
        """Read what is told."""

    return app


class Away(MemoryBroker):
    """A broker that can be away."""

    away = False
    hold: asyncio.Event | None = None
    nobody: Sequence[Dropped] = ()

    def dropped(self) -> Sequence[Dropped]:
        return self.nobody

    async def publish(self, envelopes: Sequence[Envelope], **options: Any) -> Sequence[MillstreamError | None]:
        if self.away:
            raise BrokerUnavailableError("it is away")
        if self.hold is not None:
            await self.hold.wait()
        return await super().publish(envelopes, **options)


class Desk:
    """A reporter at work, its broker, and a clock that stands still."""

    def __init__(self, reporter: Reporter, broker: Away, store: MemoryStore, clock: ManualClock) -> None:
        self.reporter = reporter
        self.broker = broker
        self.store = store
        self.clock = clock
        self.handler = desk().handlers()[0]
        self._read = 0

    def settled(self, kind: Kind, ids: Sequence[str], *, group: str = GROUP, topic: str = "order.placed", **more: Any) -> list[Work]:
        """Have the worker commit deliveries of these ids."""
        owned = Owned(Partition(topic, 0), 1)
        works: list[Work] = []
        for number, id_ in enumerate(ids):
            envelope = Envelope(id=id_, source="/orders", type="order.placed", time=self.clock.micros(), data=b"{}", topic=topic)
            works.append(Work(Delivery(owned.partition, number, envelope), envelope, owned, self.handler, "k", kind=kind, **more))
        sample(works)
        self.reporter.settled(WorkOutcomes(group, works, 0.0))
        return works

    async def told(self, kind: Any, seconds: float = 0.2) -> list[Any]:
        """The facts of a kind since the last call, once so much time has passed."""
        await self.clock.advance(seconds)
        read = await self.broker.read(Partition(FACTS_TOPIC, 0), self._read, 100_000)
        self._read += len(read)
        facts = [msgspec.json.decode(each.envelope.data, type=FactMessage).fact for each in read if each.envelope is not None]
        return [fact for fact in facts if isinstance(fact, kind)]

    async def deliveries(self) -> list[DeliveryFact]:
        """What was told one by one."""
        return [delivery for fact in await self.told(Deliveries) for delivery in fact.deliveries]


@asynccontextmanager
async def at_work() -> AsyncGenerator[Desk]:
    """A reporter of the service, running."""
    clock = ManualClock()
    broker = Away(micros=clock.micros, monotonic=clock.monotonic)
    async with broker, MemoryStore(append=None, micros=clock.micros, monotonic=clock.monotonic) as store:
        reporter = Reporter("desk", desk().handlers(), broker, store, clock)
        stop = asyncio.Event()
        running = asyncio.ensure_future(reporter.run(stop))
        working = Desk(reporter, broker, store, clock)
        await clock.advance(0.2)
        yield working
        stop.set()
        broker.away = False
        while not running.done():
            await clock.advance(1)
        await running


def ids(count: int) -> list[str]:
    """So many ids as Millstream makes them."""
    import os

    return [new_id(n, os.urandom(10)) for n in range(count)]


async def test_a_quiet_service_tells_of_every_delivery() -> None:
    """With what became of it and when."""
    async with at_work() as working:
        working.settled("handled", ["a", "b"])
        (fact,) = await working.told(Deliveries)

        assert (fact.app, fact.group, fact.one_in, fact.counts) == ("desk", GROUP, 1, (("accept", "handled", 2),))
        assert [(each.id, each.source, each.kind, each.handler) for each in fact.deliveries] == [
            ("a", "/orders", "handled", "accept"),
            ("b", "/orders", "handled", "accept"),
        ]


async def test_above_the_budget_correlations_are_told_whole_and_counts_stay_exact() -> None:
    """The same ones that everybody else chooses."""
    async with at_work() as working:
        many = ids(40 * BUDGET)
        await working.clock.advance(1.0)
        for start in range(0, len(many), 1000):
            working.settled("handled", many[start : start + 1000])
        facts = await working.told(Deliveries)

        one_in = facts[-1].one_in
        told = [delivery.id for fact in facts for delivery in fact.deliveries]
        assert one_in > 1
        assert sum(count for fact in facts for _, _, count in fact.counts) == len(many)
        assert {id_ for id_ in many if is_chosen(id_, one_in)} <= set(told)
        assert len(told) < 4 * BUDGET


@pytest.mark.parametrize("kind", ["retry", "parked", "discarded", "queued"])
async def test_failures_are_told_however_much_there_is(kind: Kind) -> None:
    """Not one of them is left to a sample."""
    async with at_work() as working:
        await working.clock.advance(1.0)
        working.settled("handled", ids(40 * BUDGET))
        await working.told(Deliveries)
        failed = working.settled(kind, ids(500))

        assert [delivery.id for delivery in await working.deliveries()] == [work.delivery.envelope.id for work in failed]  # type: ignore[union-attr]


async def test_what_had_waited_is_told_when_it_is_handled() -> None:
    """Otherwise it would be shown as waiting for ever."""
    async with at_work() as working:
        await working.clock.advance(1.0)
        working.settled("handled", ids(40 * BUDGET))
        await working.told(Deliveries)
        mixed = ids(1000)
        parked = [letter(n) for n in range(3)]
        works = [*working.settled("handled", []), *(_waited(working, each) for each in parked)]
        others = [_work(working, id_) for id_ in mixed]
        sample([*others, *works])
        working.reporter.settled(WorkOutcomes(GROUP, [*others, *works], 0.0))

        told = [delivery.id for delivery in await working.deliveries()]
        assert {"dead-0", "dead-1", "dead-2"} <= set(told)
        assert len(told) < 500


def letter(number: int, *, state: ParkState = "dead", data: bytes = b"{}", message: Message | None = None, **more: Any) -> Parked:
    """A delivery that waits."""
    envelope = None
    if message is None:
        envelope = Envelope(id=f"dead-{number}", source="/orders", type="order.placed", time=1, data=data, topic="order.placed")
    rest = {"position": number, "sequence": f"s-{number}", "envelope": envelope, "message": message}
    return Parked(group=GROUP, partition=HERE, state=state, **rest, **more)


def _work(working: Desk, id_: str, **more: Any) -> Work:
    envelope = Envelope(id=id_, source="/orders", type="order.placed", time=1, topic="order.placed")
    return Work(Delivery(HERE, 0, envelope), envelope, Owned(HERE, 1), working.handler, "k", kind="handled", **more)


def _waited(working: Desk, parked: Parked) -> Work:
    assert parked.envelope is not None
    return _work(working, parked.envelope.id, parked=parked)


async def test_facts_are_never_told_of_facts() -> None:
    """Each would make another."""
    async with at_work() as working:
        working.settled("handled", ["a"], group="desk.follow", topic=FACTS_TOPIC)
        working.settled("parked", ["b"], topic=FACTS_TOPIC)
        working.reporter.published([Envelope(id="c", source="/desk", type="millstream.fact", time=1, topic=FACTS_TOPIC)])

        facts = await working.told(Deliveries)
        assert [delivery for fact in facts for delivery in fact.deliveries] == []
        assert [fact.group for fact in facts] == [GROUP]
        assert await working.told(Publications) == []


async def test_what_is_published_outside_of_handlers_is_told() -> None:
    """How many there were exactly, and a sample of them."""
    async with at_work() as working:
        await working.clock.advance(1.0)
        many = [Envelope(id=id_, source="/desk", type="t", time=1, topic="t") for id_ in ids(20 * BUDGET)]
        for start in range(0, len(many), 1000):
            working.reporter.published(many[start : start + 1000])
        facts = await working.told(Publications)

        assert sum(fact.count for fact in facts) == len(many)
        assert 0 < sum(len(fact.events) for fact in facts) < len(many) / 2


async def test_facts_wait_for_a_broker_that_is_away_but_not_without_bound() -> None:
    """The newest are kept; what was parked is told anew when it is back."""
    async with at_work() as working:
        await working.store.commit(Page(group=GROUP, park=[letter(n) for n in range(3)]))
        working.broker.away = True
        for _ in range(3 * MOST_PENDING):
            working.settled("parked", ids(2))
            await working.clock.advance(0.2)
        assert len(working.reporter._pending) <= MOST_PENDING + 2
        for _ in range(3):
            working.settled("parked", ids(MOST_BUFFERED))
        assert len(working.reporter._groups[GROUP].deliveries) <= MOST_BUFFERED
        await working.told(Deliveries)

        working.broker.away = False
        waiting = await working.told(Waiting, seconds=20)

        assert {parked.id for fact in waiting if fact.group == GROUP for parked in fact.parked} == {"dead-0", "dead-1", "dead-2"}
        assert waiting[-1].last


async def test_what_happens_while_facts_are_on_their_way_is_told_afterwards() -> None:
    """A broker that takes its time loses nothing, and no fact is told twice."""
    async with at_work() as working:
        working.broker.hold = asyncio.Event()
        working.settled("handled", ["a"])
        await working.clock.advance(0.2)
        operation = Operation(id="o", kind="pause", group=GROUP, by="me", reason="", at=0)
        working.reporter.tell(operation, "done")
        working.broker.hold.set()
        facts = await working.told(Fact, seconds=0.5)

        assert [fact.operation.id for fact in facts if isinstance(fact, OperationFact)] == ["o"]
        assert [each.id for fact in facts if isinstance(fact, Deliveries) for each in fact.deliveries] == ["a"]


async def test_no_message_of_facts_is_too_large_for_a_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large dead letters are told in parts, each with its own count, and by their beginning."""
    async with at_work() as working:
        works = [_work(working, f"dead-{n}") for n in range(30)]
        for n, work in enumerate(works):
            work.kind, work.park = "parked", letter(n, data=b"x" * (10 * DATA_LIMIT))
        working.reporter.settled(WorkOutcomes(GROUP, works, 0.0))
        facts = await working.told(Deliveries)

        assert len(facts) > 1
        assert all(len(msgspec.json.encode(fact)) < LARGEST + 2 * DATA_LIMIT for fact in facts)
        assert sum(count for fact in facts for _, _, count in fact.counts) == 30
        assert all(sum(count for *_, count in fact.counts) == len(fact.deliveries) == len(fact.parked) for fact in facts)
        assert {(parked.size, len(parked.data)) for fact in facts for parked in fact.parked} == {(10 * DATA_LIMIT, DATA_LIMIT)}


async def test_what_nobody_understood_has_a_name_of_its_own() -> None:
    """The broker's, or else its place; and it keeps it when it is understood at last."""
    async with at_work() as working:
        named = letter(1, message=Message(topic="order.placed", body=b"?", source="/legacy", id="m-1"))
        nameless = letter(2, message=Message(topic="order.placed", body=b"?"))
        works = [_work(working, "later"), _work(working, "later")]
        works[0].kind, works[0].park, works[0].envelope = "parked", named, None
        works[1].parked = nameless
        working.reporter.settled(WorkOutcomes(GROUP, works, 0.0))

        assert [(each.source, each.id) for each in await working.deliveries()] == [("/legacy", "m-1"), ("", "order.placed/0/2")]


async def test_errors_are_told_without_passwords() -> None:
    """Facts are read by more people than a log."""
    async with at_work() as working:
        parked = letter(1, error="OSError: postgres://shop:hunter2@db", reason="amqp://u:hunter2@q", stack="redis://:hunter2@r")
        work = _work(working, "a")
        work.kind, work.park, work.error = "parked", parked, parked.error
        working.reporter.settled(WorkOutcomes(GROUP, [work], 0.0))
        (fact,) = await working.told(Deliveries)

        assert b"hunter2" not in msgspec.json.encode(fact)
        assert fact.parked[0].error == "OSError: postgres://shop:***@db"


async def test_a_process_says_what_it_is_and_that_it_is_alive() -> None:
    """And at the end that it goes."""
    async with at_work() as working:
        working.broker.away = False
        await working.store.pause(GROUP, paused=True)
        facts = await working.told(Manifest, seconds=31)
        beats = await working.told(Heartbeat, seconds=3.1)

        handlers = {handler.group: handler.types for handler in facts[-1].handlers}
        assert handlers[GROUP] == ("order.placed",)
        assert facts[-1].contracts[0].name == "order.placed"
        assert [beat.paused for beat in beats] == [(GROUP,)] * len(beats)
        assert len(beats) == 2
        broker = working.broker
    assert broker is not None


async def test_events_that_nobody_gets_are_told_with_the_heartbeat() -> None:
    """A topic without a group is a number; a group that loses events is a trouble."""
    async with at_work() as working:
        working.broker.nobody = [Dropped("order.audited", 7), Dropped("order.placed", 2, "group 'billing' has lost 2 events")]
        *_, beat = await working.told(Heartbeat, seconds=1.6)

        assert beat.unread == (("order.audited", 7),)
        assert beat.troubles == ("group 'billing' has lost 2 events",)


def test_of_a_handler_with_a_filter_it_is_told_what_it_wants() -> None:
    """An operator would else look for what never came to it."""
    app = App("desk")

    def large(order: OrderPlaced) -> bool:
        return len(order.order_id) > 3

    async def accept(order: OrderPlaced, tx: Transaction) -> None: ...

    wanted: dict[str, Any] = {
        "all": None, "named": large, "unnamed": lambda order: large(order), "said": {"order_id": ["o-1", "o-2"]},  # noqa: PLW0108
    }  # fmt: skip
    for group, where in wanted.items():
        app.subscriber(OrderPlaced, group=group, where=where)(accept)

    assert {fact.group: fact.wants for fact in map(handler_fact, app.handlers())} == {
        "all": "", "named": "those that large lets through", "unnamed": "those that a function lets through",
        "said": 'order_id is "o-1" or "o-2"',
    }  # fmt: skip


async def test_what_is_parked_is_told_anew_now_and_then_by_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Facts are kept for a day; dead letters for longer."""
    monkeypatch.setattr(module, "RETELL", (60.0, 10.0))
    async with at_work() as working:
        await working.store.commit(Page(group=GROUP, park=[letter(n) for n in range(module.PAGE + 3)]))
        other = Reporter("desk", desk().handlers(), working.broker, working.store, working.clock)
        stop = asyncio.Event()
        running = asyncio.ensure_future(other.run(stop))
        facts = await working.told(Waiting, seconds=module.RETELL[0] + 2)
        stop.set()
        await working.clock.advance(2)
        await running

        told = [parked.id for fact in facts if fact.group == GROUP for parked in fact.parked]
        assert sorted(told) == sorted(f"dead-{n}" for n in range(module.PAGE + 3))
        assert [fact.last for fact in facts if fact.group == GROUP][-1]
