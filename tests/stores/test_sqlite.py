"""The SQLite store keeps its promises on a real file."""

import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import (
    FencedError,
    NotStartedError,
    StatementError,
    StoreBusyError,
    StoreError,
    StoreFullError,
    StoreMismatchError,
)
from millstream.core.broker import Message, Partition
from millstream.core.store import Mark, Page, Parked
from millstream.stores import sqlite_inbox
from millstream.stores.sqlite import SqliteStore
from millstream.stores.sqlite_file import SqliteFile

P = Partition("made", 0)


def envelope(number: int) -> Envelope:
    """Make the event number so-and-so."""
    return Envelope(id=f"e-{number}", source="/test", type="made", key="k", time=number, data=b"%d" % number, topic="made")


def parked(position: int, sequence: str, state: str = "queued", due: int = 0) -> Parked:
    """Make a delivery that waits."""
    return Parked(group="g", partition=P, position=position, sequence=sequence, envelope=envelope(position), state=state, due=due)  # type: ignore[arg-type]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """Open a store of its own."""
    async with SqliteStore(SqliteFile(tmp_path / "s.db")) as opened:
        yield opened


async def test_a_page_is_committed_whole_or_not_at_all(store: SqliteStore) -> None:
    """A stale epoch keeps nothing of its page; the newest keeps all."""
    (old,) = await store.assign("g", [P])
    (new,) = await store.assign("g", [P])
    page = Page(group="g", fences={P: old.epoch}, positions={P: 7}, marks=[Mark("/test", "e-1")], events=[envelope(1)])

    with pytest.raises(FencedError, match="no longer owns all of made/0"):
        await store.commit(page)
    refused = (await store.handled("g", 0, page.marks), await store.outbox_size(), await store.has_marks("g", 0))
    page.fences[P] = new.epoch
    await store.commit(page)

    assert refused == (set(), 0, False)
    assert await store.handled("g", 0, [*page.marks, Mark("/test", "e-2"), Mark("/other", "e-1")]) == set(page.marks)
    assert await store.handled("g", 1, page.marks) == set()
    assert await store.outbox(0, 10) == [(1, envelope(1))]
    assert (await store.assign("g", [P]))[0].position == 7


async def test_a_refused_page_does_not_spoil_those_of_the_same_moment(store: SqliteStore) -> None:
    """Of two pages that share a transaction the fenced one fails and the other is kept."""
    (assigned,) = await store.assign("g", [P])
    stale = Page(group="g", fences={P: assigned.epoch - 1}, events=[envelope(1)])
    good = Page(group="g", fences={P: assigned.epoch}, events=[envelope(2)])

    held = store.transaction()
    await held.__aenter__()
    first = store.file.submit(lambda connection: store.apply(connection, stale))
    second = store.file.submit(lambda connection: store.apply(connection, good))
    await held.__aexit__(None, None, None)
    with pytest.raises(FencedError):
        await first
    await second

    assert [e for _, e in await store.outbox(0, 10)] == [envelope(2)]


async def test_the_outbox_is_read_on_and_removed_by_number(store: SqliteStore) -> None:
    """Numbers run on through pages, restarts of the count never happen, and what is partly sent stays whole."""
    for start in (0, 3, 6):
        await store.commit(Page(group="g", events=[envelope(n) for n in range(start, start + 3)]))

    first = await store.outbox(0, 4)
    await store.sent(4)
    left = await store.outbox_size()
    rest = await store.outbox(4, 100)
    await store.sent(9)
    await store.commit(Page(group="g", events=[envelope(9)]))

    assert [number for number, _ in first + list(rest)] == list(range(1, 10))
    assert [e for _, e in first + list(rest)] == [envelope(n) for n in range(9)]
    assert left == 5
    assert await store.outbox(9, 10) == [(10, envelope(9))]


async def test_a_store_older_than_what_was_relayed_from_it_is_noticed(store: SqliteStore) -> None:
    """A mark beyond the last number means that the store is an old copy: it says so, and loses nothing silently."""
    await store.commit(Page(group="g", events=[envelope(1)]))

    with pytest.raises(StoreMismatchError, match="older copy"):
        await store.outbox(2, 10)


async def test_only_the_first_of_each_sequence_is_due(store: SqliteStore) -> None:
    """Heads come in the order in which they are due; a dead one blocks its sequence; what goes makes way."""
    waiting = [parked(1, "a", "retry", 50), parked(2, "a"), parked(3, "b", "dead"), parked(4, "b"), parked(5, "c", "retry", 20)]
    await store.commit(Page(group="g", park=waiting))

    early = await store.heads("g", [P], 20, 10)
    heads = await store.heads("g", [P], 60, 10)
    due = await store.next_due("g")
    await store.commit(Page(group="g", unpark=[heads[1].id]))

    assert [p.position for p in early] == [5]
    assert [p.position for p in heads] == [5, 1]
    assert due == 20
    assert [p.position for p in await store.heads("g", [P], 20, 10)] == [2, 5]
    assert await store.sequences("g", P) == {"a": 1, "b": 2, "c": 1}
    assert await store.heads("g", [Partition("made", 1)], 60, 10) == []


async def test_what_is_parked_comes_back_equal(store: SqliteStore) -> None:
    """Envelopes and bare messages keep every byte, and are parked once however often that is tried."""
    message = Message(topic="made", body=b"\xff\x00", key=b"\xfe", headers=(("h", b"\xfd"),), time=5, source="here", id="17")
    bare = Parked(group="g", partition=P, position=17, sequence="s", envelope=None, message=message, state="dead", error="E", reason="r")
    for _ in range(2):
        await store.commit(Page(group="g", park=[bare, parked(1, "a", "retry", 9)]))

    first, second = await store.parked("g")
    dead = await store.parked(dead=True)

    assert (first.message, first.error, first.reason) == (message, "E", "r")
    assert second.envelope == envelope(1)
    assert [p.position for p in dead] == [17]
    assert await store.parked("g", after=first.id) == [second]
    assert await store.parked(ids=[second.id]) == [second]
    assert await store.parked_count("g") == 2
    assert await store.handled("g", 0, [Mark("here", "17"), Mark("/test", "e-1")]) == {Mark("here", "17"), Mark("/test", "e-1")}
    assert await store.has_marks("g", 5)


async def test_an_operators_request_goes_with_what_it_asks_for(store: SqliteStore) -> None:
    """A request names only what exists, and is gone once that is."""
    await store.commit(Page(group="g", park=[parked(1, "a", "dead")]))
    (dead,) = await store.parked()

    left = await store.request("redrive", [dead.id, 999], "repaired")
    requests = await store.requests("g")
    await store.commit(Page(group="g", unpark=[dead.id]))

    assert left == 1
    assert [(r.kind, r.parked, r.reason) for r in requests] == [("redrive", dead.id, "repaired")]
    assert await store.requests("g") == []


async def test_a_savepoint_taken_back_leaves_the_rest(store: SqliteStore) -> None:
    """What one handler wrote is undone; what was written before and after is kept."""
    await store.script("create table t(n integer)")

    async with store.transaction() as transaction:
        transaction.execute("insert into t values(1)")
        transaction.savepoint()
        transaction.execute("insert into t values(2)")
        transaction.rollback()
        transaction.savepoint()
        transaction.execute("insert into t values(3)")
        transaction.release()

    assert await store.read("select n from t") == [(1,), (3,)]
    with pytest.raises(NotStartedError, match="has ended"):
        transaction.execute("insert into t values(4)")


async def test_a_mistake_in_a_statement_is_the_callers_and_undoes_nothing_else(store: SqliteStore) -> None:
    """Wrong SQL and broken constraints raise by name, and what was written before and after them is kept."""
    await store.script("create table t(n integer primary key)")

    async with store.transaction() as transaction:
        transaction.execute("insert into t values(1)")
        for wrong in ("insert into t values(1)", "insert into nowhere values(1)", "not even SQL"):
            with pytest.raises(StatementError, match="refused a statement"):
                transaction.execute(wrong)
        with pytest.raises(StatementError):
            transaction.executemany("insert into t values(?)", [(1,), (2,)])
        transaction.execute("insert into t values(3)")

    assert await store.read("select n from t") == [(1,), (3,)]
    with pytest.raises(StatementError):
        await store.read("select nothing from nowhere")
    with pytest.raises(StatementError, match="schema of App"):
        await store.script("create tabel t(n)")


OR_ROLLBACK = [
    "insert or rollback into t values(1)",
    "select 1; -- x\n insert OR ROLLBACK into t values(1)",
    " UPDATE /* all */ OR\n ROLLBACK t set x=1",
]


@pytest.mark.parametrize(
    "sql", ["commit", " rollback", "insert into t values(1); -- x\n COMMIT", "/* x */ savepoint s", "attach 'x' as y", *OR_ROLLBACK]
)
async def test_a_handler_cannot_end_the_transaction_itself(store: SqliteStore, sql: str) -> None:
    """What would part its writes from their events is refused before it runs."""
    await store.script("create table t(n integer primary key)")

    with pytest.raises(StatementError, match="the transaction is Millstream's"):
        async with store.transaction() as transaction:
            transaction.execute("insert into t values(7)")
            transaction.execute(sql)

    assert await store.read("select n from t") == []


async def test_a_full_disk_inside_a_transaction_keeps_nothing_of_it(store: SqliteStore) -> None:
    """The statement raises the store's error, and a commit in spite of it is refused."""
    await store.script("create table t(body blob)")
    await store.file.write(lambda c: c.execute("pragma max_page_count=80").fetchall() and None)

    with pytest.raises(StoreError):
        async with store.transaction() as transaction:
            transaction.execute("insert into t values('kept?')")
            with pytest.raises(StoreFullError):
                transaction.execute("insert into t values(zeroblob(1000000))")

    assert await store.read("select * from t") == []


async def test_a_transaction_that_fails_leaves_nothing(store: SqliteStore) -> None:
    """An exception inside takes everything back, awaited or not."""
    await store.script("create table t(n integer)")

    with pytest.raises(ZeroDivisionError):
        async with store.transaction() as transaction:
            transaction.execute("insert into t values(1)")
            raise ZeroDivisionError
    undone = store.begin_now()
    undone.execute("insert into t values(1)")
    undone.end(commit=False).wait()
    kept = store.begin_now()
    kept.execute("insert into t values(2)")
    kept.end(commit=True).wait()

    assert await store.read("select n from t") == [(2,)]


async def test_a_thread_that_cannot_await_never_waits_for_itself(store: SqliteStore) -> None:
    """The loop's thread is refused at once while it has a transaction; another thread gets one when it is free."""
    await store.script("create table t(n integer)")

    def insert() -> None:
        transaction = store.begin_now()
        transaction.execute("insert into t values(2)")
        transaction.end(commit=True).wait()

    async with store.transaction() as transaction:
        transaction.execute("insert into t values(1)")
        with pytest.raises(StoreBusyError, match="wait for itself"):
            store.begin_now()
        thread = threading.Thread(target=insert)
        thread.start()
    thread.join()

    assert await store.read("select n from t") == [(1,), (2,)]


async def test_a_pause_outlives_the_process(tmp_path: Path) -> None:
    """A paused group is still paused after a restart, and goes on when told."""
    async with SqliteStore(SqliteFile(tmp_path / "s.db")) as store:
        await store.pause("g", paused=True)

    async with SqliteStore(SqliteFile(tmp_path / "s.db")) as store:
        paused = await store.paused()
        await store.pause("g", paused=False)

        assert paused == {"g"}
        assert await store.paused() == frozenset()


async def test_one_member_leads_at_a_time(tmp_path: Path) -> None:
    """A role passes on when its time is over by the monotonic clock, and is renewed by its holder."""
    now = 100.0
    async with SqliteStore(SqliteFile(tmp_path / "s.db"), monotonic=lambda: now) as store:
        first, second = await store.lead("relay", "a", 10), await store.lead("relay", "b", 10)
        now = 105.0
        renewed = await store.lead("relay", "a", 10)
        now = 112.0
        early = await store.lead("relay", "b", 10)
        now = 116.0
        late = await store.lead("relay", "b", 10)

        assert (first, second, renewed, early, late) == (True, False, True, False, True)


async def test_forgetting_a_group_leaves_nothing_of_it(store: SqliteStore) -> None:
    """Its marks, what it has parked, its position and its pause are gone; another group's stay."""
    for group in ("g", "h"):
        (assigned,) = await store.assign(group, [P])
        waiting = parked(1, "a", "retry")
        waiting.group = group
        page = Page(group=group, fences={P: assigned.epoch}, positions={P: 3}, marks=[Mark("/test", "e-9")], park=[waiting])
        await store.commit(page)

    await store.forget("g")

    assert await store.handled("g", 0, [Mark("/test", "e-9")]) == set()
    assert await store.handled("h", 0, [Mark("/test", "e-9")]) == {Mark("/test", "e-9")}
    assert (await store.parked_count("g"), await store.parked_count("h")) == (0, 1)
    assert (await store.assign("g", [P]))[0].position is None


async def test_the_inbox_remembers_for_its_window_and_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks older than the window go a few at a time while new ones come; younger ones stay."""
    monkeypatch.setattr(sqlite_inbox, "SWEEP", 10)
    now = 0
    async with SqliteStore(SqliteFile(tmp_path / "s.db"), window=60.0, micros=lambda: now) as store:
        for minute in range(10):
            now = minute * 30_000_000
            for start in range(0, 100, 10):
                marks = [Mark(f"/{n % 3}", f"{minute}-{start + n}") for n in range(10)]
                await store.commit(Page(group="g", marks=marks))

        rows = await store.read("select at from store_inbox")

        young = [Mark(f"/{n % 10 % 3}", f"{minute}-{n}") for minute in (7, 8, 9) for n in range(100)]
        assert await store.handled("g", 0, young) == set(young)
        assert len(rows) <= 2 * 300
        assert min(at for (at,) in rows) > 0


async def test_a_group_of_a_forgotten_ones_name_starts_without_its_marks(store: SqliteStore) -> None:
    """What the old group had handled is new to the new one."""
    await store.commit(Page(group="g", marks=[Mark("/test", "e-1")]))
    await store.forget("g")

    await store.commit(Page(group="g", marks=[Mark("/test", "e-2")]))

    assert await store.handled("g", 0, [Mark("/test", "e-1"), Mark("/test", "e-2")]) == {Mark("/test", "e-2")}


async def test_a_replay_with_effects_handles_anew(store: SqliteStore) -> None:
    """The generation moves on, so that old marks no longer count; whoever worked is fenced."""
    (assigned,) = await store.assign("g", [P])
    await store.commit(Page(group="g", fences={P: assigned.epoch}, positions={P: 5}, marks=[Mark("/test", "e-1")]))

    await store.rewind("g", [(P, 2)], effects=True)

    assert await store.generation("g") == 1
    assert await store.handled("g", 1, [Mark("/test", "e-1")]) == set()
    with pytest.raises(FencedError):
        await store.commit(Page(group="g", fences={P: assigned.epoch}, positions={P: 6}))
    assert (await store.assign("g", [P]))[0].position == 2
