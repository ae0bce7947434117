"""The memory store keeps what every store has to keep, with the memory broker and apart from it."""

import asyncio

import apsw
import pytest

from millstream.brokers.memory import LARGEST, MemoryBroker
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import ConfigurationError, NotStartedError, StoreBusyError, StoreError, TooLargeError
from millstream.core.broker import Broker
from millstream.core.store import Mark, Page, Store
from millstream.stores.memory import MemoryStore
from millstream.testing import ManualClock, WorkerSuite

EVENT = Envelope(id="0", source="/s", type="t", time=1, topic="t")


class TestMemory(WorkerSuite):
    """Broker and store in one place: a commit publishes by itself."""

    features = MemoryBroker.features
    silence = 0.1

    def broker(self) -> Broker:
        self.memory = getattr(self, "memory", None) or MemoryBroker()
        return self.memory

    def store(self, broker: Broker) -> Store:
        self.kept = getattr(self, "kept", None) or MemoryStore(append=self.memory.append)
        return self.kept


class TestMemoryWithRelay(TestMemory):
    """Broker and store apart: an outbox, and a relay."""

    def store(self, broker: Broker) -> Store:
        self.kept = getattr(self, "kept", None) or MemoryStore()
        return self.kept


def test_it_is_a_store() -> None:
    """The type checker agrees that this is all of the port."""
    store: Store = MemoryStore()

    assert store.local
    assert store.relays


async def test_the_inbox_forgets_what_is_older_than_its_window() -> None:
    """It remembers a duplicate for as long as it says, and stays bounded."""
    clock = ManualClock()
    async with MemoryStore(window=60, micros=clock.micros) as store:
        await store.commit(Page(group="g", marks=[Mark("/s", "old")]))
        await clock.advance(59)
        await store.commit(Page(group="g", marks=[Mark("/s", "young")]))
        within = await store.handled("g", 0, [Mark("/s", "old"), Mark("/s", "young")])

        await clock.advance(2)
        await store.commit(Page(group="g", marks=[Mark("/s", "new")]))

        assert within == {Mark("/s", "old"), Mark("/s", "young")}
        assert await store.handled("g", 0, [Mark("/s", "old"), Mark("/s", "young")]) == {Mark("/s", "young")}


async def test_waiting_on_the_loop_for_the_loop_is_refused() -> None:
    """Blocking here for a transaction of another task would never end, so it is an error that says what to do."""
    async with MemoryStore() as store, store.transaction():
        with pytest.raises(StoreBusyError, match="another task"):
            store.begin_now()


async def test_whoever_stops_waiting_for_a_transaction_lets_the_next_one_in() -> None:
    """A cancelled task does not keep its place in the line."""
    async with MemoryStore() as store:
        first = await store.begin()
        second, third = asyncio.ensure_future(store.begin()), asyncio.ensure_future(store.begin())
        await asyncio.sleep(0)

        second.cancel()
        await asyncio.sleep(0)
        first.end(commit=False)

        async with asyncio.timeout(5):
            (await third).end(commit=False)
        assert second.cancelled()


async def test_what_the_broker_cannot_take_is_not_committed_either() -> None:
    """One event too large: neither the rows nor the marks nor the other events of the transaction are there."""
    async with MemoryBroker() as broker, MemoryStore(append=broker.append) as store:
        await store.script("create table t(a)")
        large = Envelope(id="1", source="/s", type="t", time=1, topic="t", data=b"x" * (LARGEST + 1))

        with pytest.raises(TooLargeError):
            async with store.transaction() as transaction:
                transaction.execute("insert into t values(1)")
                transaction.apply(Page(group="g", events=[EVENT]))
                transaction.apply(Page(group="g", marks=[Mark("/s", "1")], events=[large]))

        assert (await store.read("select * from t"), broker.history()) == ([], [])
        assert await store.handled("g", 0, [Mark("/s", "1")]) == set()


async def test_a_commit_that_the_database_refuses_publishes_nothing() -> None:
    """A constraint that is checked at the end takes the whole transaction back."""
    async with MemoryBroker() as broker, MemoryStore(append=broker.append) as store:
        await store.script("create table a(id integer primary key); create table b(a references a deferrable initially deferred)")
        # There is no other way to have SQLite refuse a commit; by default it does not look at foreign keys.
        writer, _ = store._open
        writer.execute("pragma foreign_keys=on")

        with pytest.raises(StoreError, match="nothing of it was kept"):
            async with store.transaction() as transaction:
                transaction.execute("insert into b values(1)")
                transaction.apply(Page(group="g", marks=[Mark("/s", "1")], events=[EVENT]))

        assert (await store.read("select * from b"), broker.history()) == ([], [])
        assert await store.handled("g", 0, [Mark("/s", "1")]) == set()


async def test_a_commit_from_a_thread_wakes_those_who_wait_on_the_loop() -> None:
    """Listeners are called where they live, and a waiting member gets the event."""
    async with MemoryBroker() as broker, MemoryStore(append=broker.append) as store:
        told, loop = asyncio.Event(), asyncio.get_running_loop()
        where: list[asyncio.AbstractEventLoop] = []
        store.on_change(lambda: (where.append(asyncio.get_running_loop()), told.set()))

        def write() -> None:
            transaction = store.begin_now()
            transaction.apply(Page(group="g", events=[EVENT]))
            transaction.end(commit=True).wait()

        await asyncio.to_thread(write)

        async with asyncio.timeout(5):
            await told.wait()
        assert where == [loop]
        assert [delivery.envelope.id for delivery in broker.history() if delivery.envelope] == ["0"]


async def test_a_reader_cannot_write() -> None:
    """Queries are for reading; what they would write is refused by the database."""
    async with MemoryStore() as store:
        await store.script("create table t(a)")

        with pytest.raises(apsw.ReadOnlyError):
            await store.read("insert into t values(1)")


async def test_a_copy_is_refused() -> None:
    """Nothing could be made of it, and who needs one is told what to use."""
    async with MemoryStore() as store:
        with pytest.raises(ConfigurationError, match="sqlite:///"):
            await store.backup("copy.db")


async def test_it_has_to_be_open() -> None:
    """Before and after, whoever uses it is told how."""
    store = MemoryStore()
    with pytest.raises(NotStartedError):
        await store.read("select 1")
    async with store, store:
        pass
    with pytest.raises(NotStartedError):
        await store.begin()
