"""The tree of causes and effects."""

from collections.abc import AsyncIterator

import pytest

from millstream.app.trace import Trace, Tracer
from millstream.brokers.memory import MemoryBroker
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import NotFoundError
from millstream.contracts.ids import derived_id, new_id
from millstream.core.broker import Group, Partition, Topic
from millstream.core.store import Mark, Page, Parked
from millstream.stores.memory import MemoryStore
from millstream.testing import ManualClock

CLOCK = ManualClock()
MILLIS = CLOCK.micros() // 1000
ORDER = new_id(MILLIS, b"0123456789")
STOCK = derived_id("/shop", ORDER, "inventory", 0, MILLIS)
MAIL = derived_id("/inventory", STOCK, "mailer", 0, MILLIS)


def event(id: str, type: str, cause: str | None = None, attempt: str | None = None, *, key: str = "o-1") -> Envelope:
    """An event that belongs to the order."""
    return Envelope(
        id=id, source="/s", type=type, key=key, time=CLOCK.micros(), data=b"{}", topic=type,
        correlation=ORDER if cause else None, causation=cause, attempt=attempt,
    )  # fmt: skip


@pytest.fixture
async def broker() -> AsyncIterator[MemoryBroker]:
    """An open broker with three topics of one partition, and a group on each of two."""
    broker = MemoryBroker(micros=CLOCK.micros, monotonic=CLOCK.monotonic)
    async with broker:
        await broker.declare([Topic(name=name, partitions=1) for name in ("order", "stock", "mail")], [])
        yield broker


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    """An open store."""
    async with MemoryStore(micros=CLOCK.micros, monotonic=CLOCK.monotonic) as store:
        yield store


async def traced(broker: MemoryBroker, store: MemoryStore | None, wanted: str) -> Trace:
    """The trace of something."""
    tracer = Tracer(broker, store, wanted)
    await tracer.advance()
    return await tracer.trace()


def outline(trace: Trace) -> list[object]:
    """The tree as nested lists."""

    def of(node: object) -> list[object]:
        return [node.envelope.type, [[h.group, h.state, [of(e) for e in h.effects]] for h in node.handlings]]  # type: ignore[attr-defined]

    return [of(root) for root in trace.roots]


@pytest.mark.parametrize("wanted", [ORDER, STOCK, MAIL, "o-1", f"{MAIL[:8]}…{MAIL[-8:]}"])
async def test_the_whole_tree_is_found_from_any_id_a_correlation_or_a_key(broker: MemoryBroker, store: MemoryStore, wanted: str) -> None:
    """Whatever somebody has in hand leads to the first cause and to every effect."""
    await broker.publish([event(MAIL, "mail", STOCK, "mailer/2"), event(STOCK, "stock", ORDER, "inventory/1"), event(ORDER, "order")])
    await broker.publish([event("other", "order", key="o-2")])

    trace = await traced(broker, store, wanted)

    assert outline(trace) == [["order", [["inventory", "handled", [["stock", [["mailer", "handled", [["mail", []]]]]]]]]]]
    assert trace.nodes()[1].handlings[0].attempts == 2


async def test_each_group_that_reads_the_topic_says_how_far_it_is(broker: MemoryBroker, store: MemoryStore) -> None:
    """Handled, waiting, parked and dead look different, and what is pending is counted."""
    partition = Partition("order", 0)
    groups = ("marked", "waiting", "retry", "dead", "elsewhere")
    await broker.declare([], [Group(name=n, topics=("order",), store="x" if n == "elsewhere" else store.id) for n in groups])
    order = event(ORDER, "order")
    await broker.publish([order])
    for name in ("marked", "retry", "dead", "elsewhere"):
        await broker.seek(name, [(partition, 1)])
        await store.assign(name, [partition])
    await store.commit(Page(group="marked", fences={partition: 1}, marks=[Mark("/s", ORDER)]))
    for state in ("retry", "dead"):
        parked = Parked(group=state, partition=partition, position=0, sequence="o-1", envelope=order, state=state, attempts=3, error="boom")
        await store.commit(Page(group=state, fences={partition: 1}, park=[parked]))

    trace = await traced(broker, store, ORDER)

    (root,) = trace.roots
    assert {h.group: h.state for h in root.handlings} == {
        "marked": "handled", "waiting": "waiting", "retry": "retry", "dead": "dead", "elsewhere": "unknown",
    }  # fmt: skip
    assert trace.pending == 2
    assert next(h for h in root.handlings if h.group == "dead").attempts == 3


async def test_a_group_that_keeps_no_record_has_passed(broker: MemoryBroker, store: MemoryStore) -> None:
    """At least once leaves no mark, so nobody claims that it was handled."""
    await broker.declare([], [Group(name="g", topics=("order",), store=store.id)])
    await broker.publish([event(ORDER, "order")])
    await broker.seek("g", [(Partition("order", 0), 1)])

    trace = await traced(broker, store, ORDER)

    assert outline(trace) == [["order", [["g", "passed", []]]]]


async def test_a_repeated_event_is_one_node_that_says_how_often_it_was_published(broker: MemoryBroker, store: MemoryStore) -> None:
    """Duplicates of producers are seen, once."""
    await broker.publish([event(ORDER, "order")] * 3)

    trace = await traced(broker, store, ORDER)

    assert [len(node.places) for node in trace.nodes()] == [3]


async def test_an_effect_whose_cause_has_left_the_log_is_a_root_of_its_own(broker: MemoryBroker, store: MemoryStore) -> None:
    """Retention may take the cause before the effect."""
    await broker.publish([event(STOCK, "stock", ORDER, "inventory/1"), event(MAIL, "mail", STOCK, "mailer/1")])

    trace = await traced(broker, None, MAIL)

    assert [root.envelope.id for root in trace.roots] == [STOCK]
    assert trace.roots[0].envelope.causation == ORDER


async def test_what_is_in_no_log_is_not_found(broker: MemoryBroker, store: MemoryStore) -> None:
    """An empty answer would look like an event without effects."""
    with pytest.raises(NotFoundError, match="retention has taken it"):
        await traced(broker, store, "nowhere")


async def test_a_trace_keeps_up_with_what_is_new(
    broker: MemoryBroker, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Effects that come later are added to the tree, and nothing is read twice."""
    await broker.publish([event(ORDER, "order")])
    tracer = Tracer(broker, store, ORDER)
    await tracer.advance()
    await broker.publish([event(STOCK, "stock", ORDER, "inventory/1")])

    read: list[Partition] = []

    async def reading(partition: Partition, position: int, most: int) -> object:
        read.append(partition)
        return broker.deliveries(partition, position, most)

    monkeypatch.setattr(broker, "read", reading)
    grown = await tracer.advance()
    again = await tracer.advance()

    assert (grown, again) == (True, False)
    assert read == [Partition("stock", 0)]
    assert outline(await tracer.trace()) == [["order", [["inventory", "handled", [["stock", []]]]]]]
