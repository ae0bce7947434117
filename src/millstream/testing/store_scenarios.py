"""StoreScenarios: what a store promises by itself, before any worker uses it."""

import asyncio
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import FencedError, MillstreamError, NotStartedError, StoreError
from millstream.core.broker import Broker, Message, Partition
from millstream.core.store import Mark, Page, Parked, Store
from millstream.testing.scenario import expect, promised
from millstream.testing.worker_ground import WorkerGround

ONE, TWO = Partition("suite.made", 0), Partition("suite.made", 1)


class StoreScenarios(WorkerGround):
    """The store alone: transactions, fences, marks, parked deliveries, requests; a part of `WorkerSuite`."""

    def parked(self, sequence: str = "k", **attributes: Any) -> Parked:
        """A delivery that is to be tried again at once."""
        given: dict[str, Any] = {"group": "g", "partition": ONE, "position": 0, "sequence": sequence, "state": "retry"}
        given["envelope"] = self.envelope(sequence)
        return Parked(**(given | attributes))

    async def published(self, broker: Broker, store: Store) -> list[Envelope]:
        """What the store has published or has waiting in its outbox."""
        found = [envelope for _, envelope in await store.outbox(0, 1000)]
        if broker.features.replayable:
            for partition, first, _ in await broker.bounds("suite.made"):
                found += [delivery.envelope for delivery in await broker.read(partition, first, 1000) if delivery.envelope is not None]
        return [envelope for envelope in found if self.is_ours(envelope)]

    @promised()
    async def test_a_store_keeps_its_name(self) -> None:
        """Its id is the same whoever opens it."""
        async with self.opened() as (_, store):
            first = store.id
        async with self.opened() as (_, store):
            second = store.id

        assert first
        assert second == first

    @promised()
    async def test_only_the_newest_owner_can_write(self) -> None:
        """Each assignment fences off the one before; what a stale owner commits is refused, all of it."""
        async with self.opened() as (broker, store):
            (old,) = await store.assign("g", [ONE])
            (new,) = await store.assign("g", [ONE])
            stale = Page(group="g", fences={ONE: old.epoch}, positions={ONE: 7}, marks=[Mark("/s", "1")], events=[self.envelope()])
            stale.park, stale.suspects = [self.parked()], {(ONE, 7): 1}

            await expect(FencedError, store.commit(stale))

            assert await store.handled("g", 0, [Mark("/s", "1")]) == set()
            assert await self.published(broker, store) == []
            assert (await store.parked_count("g"), await store.suspects("g", ONE)) == (0, {})
            await store.commit(Page(group="g", fences={ONE: new.epoch}, positions={ONE: 3}))
            (third,) = await store.assign("g", [ONE])
            assert (old.position, third.position) == (None, 3)
            assert old.epoch < new.epoch < third.epoch

    @promised()
    async def test_owners_that_share_a_partition_work_beside_each_other(self) -> None:
        """Both commit, until somebody takes the partition for himself alone; an event that one has handled the other cannot handle."""
        async with self.opened() as (broker, store):
            ((one,), (two,)) = [await store.assign("g", [ONE], shared=True) for _ in range(2)]
            mark = Mark("/s", "1")
            await store.commit(Page(group="g", fences={ONE: one.epoch}, first=[mark]))

            again = Page(group="g", fences={ONE: two.epoch}, first=[Mark("/s", "2"), mark], events=[self.envelope()])
            await expect(FencedError, store.commit(again))
            assert await store.handled("g", 0, [Mark("/s", "2")]) == set()
            assert await self.published(broker, store) == []
            await store.commit(Page(group="g", fences={ONE: two.epoch}, first=[Mark("/s", "2")]))

            await store.assign("g", [ONE])
            for stale in (one, two):
                await expect(FencedError, store.commit(Page(group="g", fences={ONE: stale.epoch}, first=[Mark("/s", "3")])))

    @promised()
    async def test_what_waited_is_answered_once(self) -> None:
        """Of two owners that took up the same parked delivery the second keeps nothing of what it did."""
        async with self.opened() as (_, store):
            (owner,) = await store.assign("g", [ONE], shared=True)
            await store.commit(Page(group="g", fences={ONE: owner.epoch}, park=[self.parked()]))
            (waiting,) = await store.parked("g")
            mark = Mark("/s", "1")
            answer = Page(group="g", fences={ONE: owner.epoch}, present=[waiting.id], unpark=[waiting.id])

            await store.commit(answer)
            answer.marks = [mark]
            await expect(FencedError, store.commit(answer))
            await expect(FencedError, store.commit(Page(group="g", fences={ONE: owner.epoch}, present=[waiting.id], park=[waiting])))

            assert await store.handled("g", 0, [mark]) == set()
            assert await store.parked("g") == []

    @promised()
    async def test_a_partition_is_fenced_for_one_group_alone(self) -> None:
        """Other groups and other partitions keep their epochs and positions."""
        async with self.opened() as (_, store):
            (mine,) = await store.assign("g", [ONE])
            await store.assign("h", [ONE])
            await store.assign("g", [TWO])

            await store.commit(Page(group="g", fences={ONE: mine.epoch}, positions={ONE: 5}))

            (theirs,), (other,) = await store.assign("h", [ONE]), await store.assign("g", [TWO])
            assert (theirs.position, other.position) == (None, None)

    @promised()
    async def test_it_is_known_whether_the_last_owner_said_good_bye(self) -> None:
        """After a clean stop the partition is clean, after a death it is not; a stale good-bye says nothing."""
        async with self.opened() as (_, store):
            (first,) = await store.assign("g", [ONE])
            (second,) = await store.assign("g", [ONE])
            await store.unassign("g", {ONE: first.epoch})
            (third,) = await store.assign("g", [ONE])
            await store.unassign("g", {ONE: third.epoch})
            (fourth,) = await store.assign("g", [ONE])

            assert [a.clean for a in (first, second, third, fourth)] == [True, False, False, True]

    @promised()
    async def test_an_error_takes_back_all_of_a_transaction(self) -> None:
        """Rows, marks, events and parked deliveries: none of them was ever there."""
        app = self.app()
        async with app:
            try:
                async with app.store.transaction() as transaction:
                    transaction.execute(f"insert into {self.effects} values('k', 1)")
                    page = Page(group="g", marks=[Mark("/s", "1")], events=[self.envelope()], park=[self.parked()])
                    transaction.apply(page)
                    raise ZeroDivisionError
            except ZeroDivisionError:
                pass

            assert await self.rows(app) == []
            assert await app.store.handled("g", 0, [Mark("/s", "1")]) == set()
            assert await app.store.parked_count("g") == 0
            assert await self.published(app.broker, app.store) == []

    @promised()
    async def test_a_savepoint_can_be_undone_alone(self) -> None:
        """What was written before and after it stays."""
        app = self.app()
        async with app:
            async with app.store.transaction() as transaction:
                transaction.savepoint()
                transaction.execute(f"insert into {self.effects} values('kept', 1)")
                transaction.apply(Page(group="g", marks=[Mark("/s", "kept")]))
                transaction.release()
                transaction.savepoint()
                transaction.execute(f"insert into {self.effects} values('undone', 2)")
                transaction.apply(Page(group="g", marks=[Mark("/s", "undone")], events=[self.envelope()]))
                transaction.rollback()
                transaction.execute(f"insert into {self.effects} values('after', 3)")

            assert await self.rows(app) == [("after", 3), ("kept", 1)]
            assert await app.store.handled("g", 0, [Mark("/s", "kept"), Mark("/s", "undone")]) == {Mark("/s", "kept")}
            assert await self.published(app.broker, app.store) == []

    @promised()
    async def test_what_is_not_committed_is_not_read(self) -> None:
        """A reader sees the last commit, and the whole of the next one once it is made."""
        app = self.app()
        async with app:
            async with app.store.transaction() as transaction:
                transaction.execute(f"insert into {self.effects} values('k', 1)")
                during = await self.rows(app)

            assert (during, await self.rows(app)) == ([], [("k", 1)])

    @promised()
    async def test_transactions_follow_one_another(self) -> None:
        """Fifty tasks read, think and write: none overwrites another's."""
        app = self.app()
        async with app:
            async with app.store.transaction() as transaction:
                transaction.execute(f"insert into {self.effects} values('counter', 0)")

            async def count() -> None:
                async with app.store.transaction() as transaction:
                    ((number,),) = transaction.execute(f"select number from {self.effects}")  # noqa: S608
                    await asyncio.sleep(0)
                    transaction.execute(f"update {self.effects} set number=?", (number + 1,))  # noqa: S608

            async with asyncio.TaskGroup() as tasks:
                for _ in range(50):
                    tasks.create_task(count())

            assert await self.rows(app) == [("counter", 50)]

    @promised()
    async def test_a_thread_can_have_a_transaction_of_its_own(self) -> None:
        """It waits until the loop's is over, and its commit is seen by the loop."""
        app = self.app()
        async with app:
            order: list[str] = []

            def in_thread() -> None:
                transaction = app.store.begin_now()
                order.append("thread")
                transaction.execute(f"insert into {self.effects} values('thread', 2)")
                transaction.end(commit=True).wait()

            async with app.store.transaction() as transaction:
                thread = asyncio.ensure_future(asyncio.to_thread(in_thread))
                await asyncio.sleep(0.02)
                order.append("loop")
                transaction.execute(f"insert into {self.effects} values('loop', 1)")
            await thread

            assert order == ["loop", "thread"]
            assert await self.rows(app) == [("loop", 1), ("thread", 2)]

    @promised()
    async def test_a_transaction_that_has_ended_is_refused(self) -> None:
        """Whoever kept it for later is told, and writes nothing into somebody else's."""
        app = self.app()
        async with app:
            async with app.store.transaction() as transaction:
                pass

            try:
                transaction.execute(f"insert into {self.effects} values('late', 1)")
            except (NotStartedError, StoreError):
                pass
            else:
                raise AssertionError("a transaction that has ended still writes")
            assert await self.rows(app) == []

    @promised()
    async def test_a_mark_counts_for_its_group_and_generation(self) -> None:
        """Set twice it is one; another group, generation or source does not know it."""
        async with self.opened() as (_, store):
            mark, other = Mark("/s", "1"), Mark("/t", "1")
            for _ in range(2):
                await store.commit(Page(group="g", marks=[mark, mark]))

            assert await store.handled("g", 0, [mark, other, Mark("/s", "2")]) == {mark}
            assert await store.handled("g", 1, [mark]) == await store.handled("h", 0, [mark]) == set()
            assert (await store.has_marks("g", 0), await store.has_marks("h", 0)) == (True, False)

    @promised()
    async def test_what_is_handled_for_the_first_time_is_not_handled_twice(self) -> None:
        """Where another commit has handled or parked an event before, one that takes it for new keeps nothing."""
        async with self.opened() as (_, store):
            waits = self.parked("k")
            assert waits.envelope is not None
            parked, done, new = Mark(waits.envelope.source, waits.envelope.id), Mark("/s", "1"), Mark("/s", "2")
            await store.commit(Page(group="g", first=[done], park=[waits]))

            for known in (done, parked):
                try:
                    await store.commit(Page(group="g", first=[known, new], events=[self.envelope()]))
                except FencedError:
                    pass
                else:
                    raise AssertionError(f"{known} was handled a second time")

            assert await store.handled("g", 0, [done, new]) == {done}
            await store.commit(Page(group="g", generation=1, first=[done, new]))
            await store.commit(Page(group="h", first=[done, parked]))

    @promised()
    async def test_what_is_handled_or_parked_already_is_not_parked_again(self) -> None:
        """The commit says so of each that it was given, and does the rest."""
        async with self.opened() as (_, store):
            done, waits, new = self.parked("a"), self.parked("b"), self.parked("c")
            assert done.envelope is not None
            await store.commit(Page(group="g", marks=[Mark(done.envelope.source, done.envelope.id)], park=[waits]))

            page = Page(group="g", park=[done, replace(waits, position=9), new])
            await store.commit(page)

            assert page.already == page.park[:2]
            assert [row.sequence for row in await store.parked("g")] == ["b", "c"]
            # After a replay with effects what was handled before is not.
            page = Page(group="g", generation=1, park=[done])
            await store.commit(page)
            assert page.already == []

    @promised()
    async def test_any_text_is_an_id(self) -> None:
        """One with a NUL in it is another than what stands before the NUL, marked or parked."""
        async with self.opened() as (_, store):
            ids = ["a", "a\x00b", "a\x00c", "\x00", "‮\x1b[31m"]
            parked = self.parked(envelope=replace(self.envelope("k"), source="/p", id="a\x00b"))
            await store.commit(Page(group="g", marks=[Mark("/s", id_) for id_ in ids[1:]], park=[parked]))

            asked = [Mark(source, id_) for source in ("/s", "/p") for id_ in ids]
            assert await store.handled("g", 0, asked) == {*(Mark("/s", id_) for id_ in ids[1:]), Mark("/p", "a\x00b")}

    @promised()
    async def test_what_was_discarded_can_be_parked_again(self) -> None:
        """Though it is marked as handled, so that no duplicate of it is; and once only."""
        async with self.opened() as (_, store):
            discarded = self.parked("a", state="dead")
            assert discarded.envelope is not None
            await store.commit(Page(group="g", marks=[Mark(discarded.envelope.source, discarded.envelope.id)]))

            pages = [Page(group="g", restore=[discarded]) for _ in range(2)]
            for page in pages:
                await store.commit(page)

            assert [page.already for page in pages] == [[], [discarded]]
            assert [row.state for row in await store.parked("g")] == ["dead"]

    @promised()
    async def test_parked_deliveries_keep_everything(self) -> None:
        """Envelope or bytes, attempts, times, error, reason and stack come back as they were, each under an id that rises."""
        async with self.opened() as (_, store):
            headers = (("h", b"\x00"), ("h", b"1"))
            message = Message(topic="suite.made", body=bytes(range(256)), key=b"\xff", headers=headers, time=5, source="/x", id="m")
            first = self.parked("a", position=4, attempts=3, due=77, first_failure=10, last_failure=20)
            first.error, first.reason, first.stack = "ValueError: größe", "waits", "line 1\nline 2"
            second = self.parked("b", envelope=None, message=message, state="dead")
            await store.commit(Page(group="g", park=[first, second]))

            one, two = await store.parked("g")

            assert 0 < one.id < two.id
            first.id, second.id = one.id, two.id
            assert [one, two] == [first, second]

    @promised()
    async def test_a_delivery_is_parked_once(self) -> None:
        """Parked again as new it stays as it is; replaced under its id it changes; unparked it is gone."""
        async with self.opened() as (_, store):
            parked = self.parked("a")
            for _ in range(2):
                await store.commit(Page(group="g", park=[parked]))
            (row,) = await store.parked("g")
            row.attempts, row.state = 2, "dead"
            await store.commit(Page(group="g", park=[row]))
            (changed,) = await store.parked("g")
            envelope = row.envelope
            assert envelope is not None
            known = await store.handled("g", 0, [Mark(envelope.source, envelope.id)])
            await store.commit(Page(group="g", unpark=[row.id]))

            assert (changed.id, changed.attempts, changed.state) == (row.id, 2, "dead")
            assert len(known) == 1, "what is parked counts as handled: it must not be taken up a second time"
            assert await store.parked("g") == await store.parked() == []

    @promised()
    async def test_parked_deliveries_can_be_listed_and_counted(self) -> None:
        """By group, by id, dead ones alone, and page by page."""
        async with self.opened() as (_, store):
            rows = [self.parked(f"k{n}", position=n, state="dead" if n % 2 else "retry") for n in range(6)]
            await store.commit(Page(group="g", park=[*rows, self.parked("a", position=6), self.parked("a", position=7)]))
            await store.commit(Page(group="h", park=[self.parked("k", group="h")]))

            async def positions(listed: Sequence[Parked]) -> list[int]:
                return [parked.position for parked in listed]

            ids = [parked.id for parked in await store.parked("g")]
            assert await positions(await store.parked("g", dead=True)) == [1, 3, 5]
            assert await positions(await store.parked("g", after=ids[1], most=2)) == [2, 3]
            assert await positions(await store.parked("g", ids=[ids[4], ids[0], 0])) == [0, 4]
            assert (await store.parked_count("g"), await store.parked_count("h"), len(await store.parked())) == (8, 1, 9)
            assert await store.sequences("g", ONE) == {**{f"k{n}": 1 for n in range(6)}, "a": 2}
            assert await store.sequences("g", TWO) == {}

    @promised()
    async def test_only_the_first_of_a_sequence_is_ready(self) -> None:
        """The others wait behind it, behind a dead one too; what is not due is not ready."""
        async with self.opened() as (_, store):
            rows = [
                self.parked("a", position=0, due=100), self.parked("a", position=1, state="queued"),
                self.parked("dead", position=2, state="dead"), self.parked("dead", position=3, state="queued"),
                self.parked("later", position=4, due=1000), self.parked("b", position=5, due=50),
                self.parked("elsewhere", position=6, partition=TWO),
            ]  # fmt: skip
            await store.commit(Page(group="g", park=rows))

            ready = await store.heads("g", [ONE], due=100, most=10)
            first = await store.heads("g", [ONE], due=100, most=1)
            await store.commit(Page(group="g", unpark=[parked.id for parked in ready]))
            following = await store.heads("g", [ONE], due=100, most=10)

            assert sorted(parked.position for parked in ready) == [0, 5]
            assert len(first) == 1
            assert [parked.position for parked in following] == [1]
            assert await store.next_due("g") == 0
            await store.commit(Page(group="g", unpark=[parked.id for parked in following]))
            await store.commit(Page(group="g", unpark=[p.id for p in await store.heads("g", [TWO], due=0, most=10)]))
            assert (await store.next_due("g"), await store.next_due("h")) == (1000, None)

    @promised()
    async def test_events_of_a_page_go_out_in_order(self) -> None:
        """They wait in the outbox until they are sent, or are in the log with the commit."""
        async with self.opened() as (broker, store):
            sent = [self.envelope("k") for _ in range(10)]
            for start in range(0, 10, 2):
                await store.commit(Page(group="g", events=sent[start : start + 2]))

            if not store.relays:
                assert await self.published(broker, store) == sent
                return
            waiting = await store.outbox(0, 100)
            some = await store.outbox(waiting[3][0], 3)
            await store.sent(waiting[6][0])

            assert [envelope for _, envelope in waiting] == sent
            assert [number for number, _ in waiting] == sorted({number for number, _ in waiting})
            assert [envelope for _, envelope in some] == sent[4:7]
            assert [envelope for _, envelope in await store.outbox(0, 100)] == sent[7:]
            assert await store.outbox_size() == 3

    @promised()
    async def test_requests_wait_for_the_owner(self) -> None:
        """Those for what is parked are kept until executed; those for nothing are not counted."""
        async with self.opened() as (_, store):
            await store.commit(Page(group="g", park=[self.parked("a", state="dead"), self.parked("b", state="dead")]))
            one, two = (parked.id for parked in await store.parked("g"))

            counts = [
                await store.request("redrive", [one, 999_999], "fixed"),
                await store.request("discard", [two], "no use"),
                await store.request("repair", [two], "typo", b"\x00right"),
            ]
            requests = await store.requests("g")

            assert counts == [1, 1, 1]
            assert [(r.kind, r.parked, r.reason, r.data) for r in requests] == [
                ("redrive", one, "fixed", b""), ("discard", two, "no use", b""), ("repair", two, "typo", b"\x00right"),
            ]  # fmt: skip
            await store.commit(Page(group="g", requests=[requests[0].id]))
            assert [r.id for r in await store.requests("g")] == [r.id for r in requests[1:]]
            assert await store.requests("h") == []

    @promised()
    async def test_a_pause_is_remembered(self) -> None:
        """Whoever opens the store next finds it, until the group is resumed."""
        async with self.opened() as (_, store):
            await store.pause("g", paused=True)
            await store.pause("h", paused=True)
            await store.pause("h", paused=False)
        async with self.opened() as (_, store):
            remembered = await store.paused()
            await store.pause("g", paused=False)

            assert (remembered, await store.paused()) == (frozenset({"g"}), frozenset())

    @promised()
    async def test_one_member_at_a_time_has_a_role(self) -> None:
        """Its holder can renew it, others get it when its time is over, and roles are separate."""
        async with self.opened() as (_, store):
            held = [await store.lead("relay", "a", 60), await store.lead("relay", "b", 60), await store.lead("relay", "a", 0.05)]
            other = await store.lead("retention", "b", 60)

            assert (held, other) == ([True, False, True], True)
            await self.until(lambda: store.lead("relay", "b", 60), "a role whose holder is silent is not free")
            assert await store.lead("relay", "a", 60) is False

    @promised()
    async def test_a_group_can_be_moved_and_its_owner_is_fenced(self) -> None:
        """The position of record moves; with effects what was handled is handled anew."""
        async with self.opened() as (_, store):
            (owner,) = await store.assign("g", [ONE])
            await store.commit(Page(group="g", fences={ONE: owner.epoch}, positions={ONE: 9}, marks=[Mark("/s", "1")]))

            await store.rewind("g", [(ONE, 2)], effects=False)
            without = (await store.generation("g"), await store.handled("g", await store.generation("g"), [Mark("/s", "1")]))
            await expect(FencedError, store.commit(Page(group="g", fences={ONE: owner.epoch}, positions={ONE: 10})))
            (moved,) = await store.assign("g", [ONE])
            await store.rewind("g", [(ONE, 1)], effects=True)
            generation = await store.generation("g")

            assert without == (0, {Mark("/s", "1")})
            assert moved.position == 2
            assert (generation, await store.handled("g", generation, [Mark("/s", "1")])) == (1, set())

    @promised()
    async def test_a_forgotten_group_leaves_nothing(self) -> None:
        """Progress, marks, parked deliveries and suspects are gone, and those of another group are not."""
        async with self.opened() as (_, store):
            for group in ("g", "h"):
                (owner,) = await store.assign(group, [ONE])
                page = Page(group=group, fences={ONE: owner.epoch}, positions={ONE: 9}, marks=[Mark("/s", "1")])
                page.park, page.suspects = [self.parked("k", group=group)], {(ONE, 9): 2}
                await store.commit(page)

            await store.forget("g")

            for group, left in (("g", 0), ("h", 1)):
                assert await store.parked_count(group) == len(await store.suspects(group, ONE)) == left
                assert len(await store.handled(group, 0, [Mark("/s", "1")])) == left
            assert [a.position for group in ("g", "h") for a in await store.assign(group, [ONE])] == [None, 9]

    @promised()
    async def test_suspects_are_counted(self) -> None:
        """How often a delivery was begun is known to whoever comes next, until it is forgotten."""
        async with self.opened() as (_, store):
            await store.commit(Page(group="g", suspects={(ONE, 4): 1, (ONE, 5): 3, (TWO, 4): 7}))
            await store.commit(Page(group="g", suspects={(ONE, 4): 2, (ONE, 5): 0}))

            assert (await store.suspects("g", ONE), await store.suspects("g", TWO)) == ({4: 2}, {4: 7})

    @promised()
    async def test_whoever_listens_is_told_of_changes(self) -> None:
        """After a commit, and no more once it has stopped listening."""
        async with self.opened() as (_, store):
            told: list[int] = []
            stop = store.on_change(lambda: told.append(1))

            await store.commit(Page(group="g", marks=[Mark("/s", "1")]))
            await self.until_count(told, 1, "changes were told")
            stop()
            await self.still(lambda: len(told))
            before = len(told)
            await store.commit(Page(group="g", marks=[Mark("/s", "2")]))

            await self.still(lambda: len(told))
            assert len(told) == before

    @promised()
    async def test_the_service_has_tables_of_its_own(self) -> None:
        """Its schema may run again and again; one that is wrong is an error that says so."""
        async with self.opened() as (_, store):
            table = f"create table if not exists {self.effects}(key text)"
            for _ in range(2):
                await store.script(f"{table}; create index if not exists {self.effects}_key on {self.effects}(key)")
            async with store.transaction() as transaction:
                transaction.executemany(f"insert into {self.effects} values(?)", [("a",), ("b",)])

            assert await store.read(f"select key from {self.effects} where key=?", ("b",)) == [("b",)]  # noqa: S608
            await expect(MillstreamError, store.script("create tabel nonsense(a)"))
