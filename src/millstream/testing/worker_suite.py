"""WorkerSuite: the rules of delivery, as tests of a worker on anybody's broker and store."""

import asyncio
import itertools
from typing import Any

import msgspec

from millstream.app.app import App
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    StoreBusyError,
    StoreError,
    StoreMismatchError,
    TooLargeError,
)
from millstream.core.broker import Message
from millstream.core.handler import Context
from millstream.core.retry import Retry
from millstream.core.store import Page, Transaction
from millstream.stores.memory import MemoryStore
from millstream.testing.scenario import expect, promised, refused, skip
from millstream.testing.store_scenarios import StoreScenarios
from millstream.testing.worker_ground import Done, Made, Other, faults, times

SOON = Retry(attempts=5, first=0.05, longest=0.05, jitter=0)
ONCE = Retry(attempts=1)


class WorkerSuite(StoreScenarios):
    """Subclass it, say which broker and which store, and pytest does the rest.

        class TestMyStore(WorkerSuite):
            features = SqliteBroker.features

            def broker(self) -> Broker:
                return SqliteBroker(SqliteFile(self.folder / "broker.db"))

            def store(self, broker: Broker) -> Store:
                return MyStore("my://127.0.0.1")

    Both are called several times in a test, as if by several processes of one service,
    and have to reach the same events and the same data each time. The store is tested
    by itself first, and then under a worker. The tests are plain functions: they need
    pytest, but none of its plugins.
    """

    # One unit of work

    @promised()
    async def test_effects_events_and_marks_commit_together(self) -> None:
        """Each event has its row and its output once, and the output knows what caused it."""
        app = self.app()
        collected = self.collect(app)

        @app.subscriber(Made)
        async def handle(made: Made, tx: Transaction) -> Done:
            tx.execute(f"insert into {self.effects} values(?, ?)", (made.key, made.number))
            return Done(made.key, made.number)

        async with self.running(app):
            sent = await app.publish_many([Made(f"k{n}", n) for n in range(50)])
            await self.until_count(collected, 50, "events were published")
            await self.still(lambda: len(collected))

            assert await self.rows(app) == sorted((f"k{n}", n) for n in range(50))
            assert sorted(done.number for done, _ in collected) == list(range(50))
            causes = {envelope.id: envelope for envelope in sent}
            for done, envelope in collected:
                cause = causes[envelope.causation or ""]
                assert (envelope.source, envelope.correlation, envelope.key) == (cause.source, cause.id, cause.key)
                assert envelope.attempt == f"{self.group(app)}/1"
                assert done.key == cause.key

    @promised()
    async def test_an_attempt_that_fails_leaves_nothing(self) -> None:
        """Rows and events of the attempts that failed are gone; those of the one that did not are there once."""
        app = self.app()
        collected, attempts = self.collect(app), list[int]()

        @app.subscriber(Made, retry=SOON)
        async def handle(made: Made, tx: Transaction, context: Context) -> None:
            attempts.append(context.attempt)
            tx.execute(f"insert into {self.effects} values(?, ?)", (made.key, context.attempt))
            context.publish(Done(made.key, context.attempt))
            if context.attempt < 3:
                raise ValueError("not yet")

        async with self.running(app):
            await app.publish(Made("k"))
            await self.until_count(collected, 1, "events were published")
            await self.still(lambda: len(collected))

            assert attempts == [1, 2, 3]
            assert await self.rows(app) == [("k", 3)]
            assert [done for done, _ in collected] == [Done("k", 3)]

    @promised()
    async def test_a_duplicate_has_no_effect(self) -> None:
        """The same event three times, one after another and all at once: one effect, and the others are told as duplicates."""
        app = self.app()
        collected, seen = self.collect(app), self.see(app)

        @app.subscriber(Made)
        async def handle(made: Made, tx: Transaction) -> Done:
            tx.execute(f"insert into {self.effects} values(?, ?)", (made.key, made.number))
            return Done(made.key, made.number)

        async with self.running(app):
            first, second = self.envelope("a"), self.envelope("b")
            await app.broker.publish([first, second, first])
            await self.until_count(collected, 2, "events were published")
            await app.broker.publish([second, first, second])
            if not self.features.deduplicates:
                await self.until(lambda: seen.kinds().count("duplicate") >= 4, lambda: f"the outcomes were {seen.kinds()}")

            assert [key for key, _ in await self.rows(app)] == ["a", "b"]
            assert len(collected) == 2

    @promised()
    async def test_the_same_id_from_another_source_is_another_event(self) -> None:
        """An event is named by its source and its id together."""
        app = self.app()

        @app.subscriber(Made)
        async def handle(made: Made, tx: Transaction) -> None:
            tx.execute(f"insert into {self.effects} values(?, ?)", (made.key, made.number))

        async with self.running(app):
            one = self.envelope("k")
            await app.broker.publish([one, msgspec.structs.replace(one, source="/other")])

            assert len(await self.until_rows(app, 2)) == 2

    @promised()
    async def test_each_handler_has_its_own_outcome(self) -> None:
        """Of two groups one fails: only that one tries again."""
        app = self.app()
        calls: list[str] = []

        @app.subscriber(Made, retry=SOON)
        async def handle(_made: Made, context: Context) -> None:
            calls.append("failing")
            if context.attempt == 1:
                raise ValueError("not yet")

        @app.subscriber(Made)
        async def steady(_made: Made, _context: Context) -> None:  # pyright: ignore[reportUnusedFunction]
            calls.append("steady")

        async with self.running(app):
            await app.publish(Made("k"))
            await self.until_count(calls, 3, "calls")
            await self.still(lambda: len(calls))

        assert sorted(calls) == ["failing", "failing", "steady"]

    @promised()
    async def test_a_unit_of_work_publishes_with_its_commit(self) -> None:
        """What fails was never there; what commits is there with its events, also when they are all it has."""
        app = self.app()
        collected = self.collect(app)
        async with self.running(app):
            try:
                async with app.unit_of_work() as work:
                    work.execute(f"insert into {self.effects} values('failed', 0)")
                    work.publish(Done("failed"))
                    raise ZeroDivisionError
            except ZeroDivisionError:
                pass
            async with app.unit_of_work() as work:
                work.execute(f"insert into {self.effects} values('kept', 1)")
                work.publish(Done("kept", 1))
                work.publish(Done("kept", 2))
            async with app.unit_of_work() as work:
                work.publish(Done("alone"))
            await self.until_count(collected, 3, "events were published")
            await self.still(lambda: len(collected))

            assert await self.rows(app) == [("kept", 1)]
            assert sorted((done.key, done.number) for done, _ in collected) == [("alone", 0), ("kept", 1), ("kept", 2)]

    @promised()
    async def test_a_commit_that_fails_is_no_attempt(self) -> None:
        """While the store refuses, the input is not done; when it takes writes again all is there once, at the first attempt."""
        app = self.app(faulty_store=True)
        collected, seen = self.collect(app), self.see(app)

        @app.subscriber(Made)
        async def handle(made: Made) -> Done:
            return Done(made.key, made.number)

        async with self.running(app):
            await app.publish(Made("warm"))
            await self.until_count(collected, 1, "events were published")
            faults(app.store)["commit"] = times(3, lambda: StoreBusyError("somebody else writes; try again"))
            await app.publish_many([Made(f"k{n}", n) for n in range(5)])
            await self.until_count(collected, 6, "events were published")
            await self.still(lambda: len(collected))

        assert sorted(done.key for done, _ in collected) == [*(f"k{n}" for n in range(5)), "warm"]
        assert {outcome.kind for outcome in seen.outcomes} == {"handled"}
        assert {outcome.attempt for outcome in seen.outcomes} == {1}

    @promised()
    async def test_a_store_that_breaks_loses_nothing(self) -> None:
        """After an error that is not only a wait, everything in flight is taken anew, and happens once."""
        app = self.app(faulty_store=True)
        collected, seen = self.collect(app), self.see(app)

        @app.subscriber(Made)
        async def handle(made: Made) -> Done:
            return Done(made.key, made.number)

        async with self.running(app):
            await app.publish(Made("warm"))
            # Also by whoever collects: a commit of his that fails would have him collect it twice.
            await self.until_count(seen.outcomes, 2, "deliveries were settled")
            faults(app.store)["commit"] = times(2, lambda: StoreError("the disk reported an error"))
            await app.publish_many([Made(f"k{n}", n) for n in range(5)])
            await self.until_count(collected, 6, "events were published")
            await self.still(lambda: len(collected))

        assert sorted(done.key for done, _ in collected) == [*(f"k{n}" for n in range(5)), "warm"]

    @promised()
    async def test_what_waits_before_it_writes_holds_up_nobody(self) -> None:
        """The transaction begins at its first use: until then others write."""
        app = self.app()
        gate = asyncio.Event()

        @app.subscriber(Made)
        async def handle(made: Made, tx: Transaction) -> None:
            await gate.wait()
            tx.execute(f"insert into {self.effects} values(?, 1)", (made.key,))

        async with self.running(app):
            await app.publish(Made("k"))
            async with self.in_time("a handler that has not written holds up a unit of work"), app.unit_of_work() as work:
                work.execute(f"insert into {self.effects} values('web', 0)")
            before = await self.rows(app)
            gate.set()

            after = await self.until_rows(app, 2)

        assert (before, after) == ([("web", 0)], [("k", 1), ("web", 0)])

    @promised()
    async def test_what_waits_inside_its_transaction_happens_once(self) -> None:
        """It may be rolled back and run again to let others write, and leaves one effect."""
        app = self.app()

        @app.subscriber(Made)
        async def handle(made: Made, tx: Transaction) -> None:
            tx.execute(f"insert into {self.effects} values(?, 1)", (made.key,))
            await asyncio.sleep(0.12)
            tx.execute(f"insert into {self.effects} values(?, 2)", (made.key,))

        async with self.running(app):
            await app.publish_many([Made("a"), Made("b")])

            await self.until_rows(app, 4)
            await asyncio.sleep(self.silence)
            assert await self.rows(app) == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]

    # Exactly once, by the broker alone

    @promised("transactional", "positional")
    async def test_exactly_once_each_input_has_its_outputs_once(self) -> None:
        """Over failed attempts and workers that follow one another, in the order of each key, without an inbox or an outbox."""
        count = 40

        def a_worker() -> App:
            app = self.app()

            @app.subscriber(Made, exactly_once=True, retry=SOON)
            async def handle(made: Made, context: Context) -> list[Done]:
                if made.number % 7 == 3 and context.attempt == 1:
                    raise ValueError("not yet")
                return [Done(made.key, 2 * made.number), Done(made.key, 2 * made.number + 1)]

            return app

        first, second = a_worker(), a_worker()
        collected, collected_then = self.collect(first), self.collect(second)
        async with self.running(first):
            await first.publish_many([Made(f"k{n % 4}", n) for n in range(count // 2)])
            await self.until_count(collected, 5, "events were published")
        async with self.running(second):
            await second.publish_many([Made(f"k{n % 4}", n) for n in range(count // 2, count)])
            await self.until(
                lambda: len(collected) + len(collected_then) >= 2 * count,
                lambda: f"{len(collected) + len(collected_then)} of {2 * count} events were published",
            )
            await self.still(lambda: len(collected_then))

            found = [done for done, _ in (*collected, *collected_then)]
            assert sorted(done.number for done in found) == list(range(2 * count))
            for key in {done.key for done in found}:
                numbers = [done.number for done in found if done.key == key]
                assert numbers == sorted(numbers), f"{key} was turned round: {numbers}"
            assert await second.store.outbox(0, 1) == []
            assert not await second.store.has_marks(self.group(second), 0)

    @promised("transactional", "positional")
    async def test_exactly_once_a_dead_letter_waits_in_the_store(self) -> None:
        """What follows of its key waits behind it, others are published; redriven, it is published too, and then the others of its key."""
        app = self.app()
        collected, failing = self.collect(app), {"a"}

        @app.subscriber(Made, exactly_once=True, retry=ONCE)
        async def handle(made: Made) -> Done:
            if made.key in failing:
                raise ValueError("never")
            return Done(made.key, made.number)

        async with self.running(app):
            await app.publish_many([Made(key, number) for number, key in enumerate("abab")])
            await self.until_count(collected, 2, "events were published")
            dead, _ = await self.until_parked(app, "dead", "queued")
            failing.clear()
            await app.store.request("redrive", [dead.id], "mended")
            await self.until_count(collected, 4, "events were published")
            await self.still(lambda: len(collected))
            await self.until_parked(app)

        assert [done for done, _ in collected if done.key == "b"] == [Done("b", 1), Done("b", 3)]
        assert [done for done, _ in collected if done.key == "a"] == [Done("a", 0), Done("a", 2)]

    @promised("transactional", "positional")
    async def test_exactly_once_a_crash_between_store_and_broker_repeats_nothing(self) -> None:
        """What is parked, and not settled when its worker dies, is passed over by the next one."""
        app = self.app(faulty_store=True)
        collected, calls = self.collect(app), list[str]()

        @app.subscriber(Made, exactly_once=True, retry=ONCE)
        async def handle(made: Made) -> Done:
            calls.append(made.key)
            if made.key == "a":
                raise ValueError("never")
            return Done(made.key, made.number)

        died: list[bool] = []
        async with self.running(app):
            await app.publish(Made("warm"))
            await self.until_count(collected, 1, "events were published")
            commit = app.store.commit

            async def dies(page: Page) -> None:
                await commit(page)
                if page.park and not died:
                    died.append(True)
                    raise StoreError("it has committed, and then it died")

            setattr(app.store, "commit", dies)  # noqa: B010 - in place of a method
            await app.publish_many([Made("a", 1), Made("b", 2), Made("a", 3)])
            await self.until_count(collected, 2, "events were published")
            await self.until_parked(app, "dead", "queued")
            await self.still(lambda: len(collected))

        assert calls.count("a") == 1
        assert [done for done, _ in collected] == [Done("warm", 0), Done("b", 2)]

    @refused("transactional")
    async def test_exactly_once_is_refused_without_transactions(self) -> None:
        """A broker that cannot is not asked to try."""
        app = self.app()

        @app.subscriber(Made, exactly_once=True)
        async def handle(_made: Made) -> None: ...  # pyright: ignore[reportUnusedFunction]

        await expect(ConfigurationError, app.__aenter__())

    # Fences

    @promised()
    async def test_whoever_was_fenced_off_changes_nothing(self) -> None:
        """A worker that slept while another took over drops what it has in hand; the event has one effect, the new owner's."""
        app = self.app()
        running, gate, calls = asyncio.Event(), asyncio.Event(), list[str]()
        collected = self.collect(app)

        @app.subscriber(Made)
        async def handle(made: Made) -> Done:
            calls.append(made.key)
            running.set()
            await gate.wait()
            return Done(made.key, len(calls))

        async with self.running(app):
            await app.publish(Made("k"))
            await running.wait()
            await app.store.assign(self.group(app), await self.partitions(app))
            gate.set()
            await self.until_count(collected, 1, "events were published")
            await self.still(lambda: len(collected))

        assert calls == ["k", "k"], "the handling that was fenced off counted"
        assert [done.number for done, _ in collected] == [2]

    @promised()
    async def test_whoever_was_fenced_off_parks_nothing(self) -> None:
        """Its failure is not the delivery's: there is no retry row, and the new owner's attempt is the first."""
        app = self.app()
        running, gate, attempts = asyncio.Event(), asyncio.Event(), list[int]()

        @app.subscriber(Made, retry=SOON)
        async def handle(_made: Made, context: Context) -> None:
            attempts.append(context.attempt)
            running.set()
            await gate.wait()
            if len(attempts) == 1:
                raise ValueError("of an owner that is none")

        async with self.running(app):
            await app.publish(Made("k"))
            await running.wait()
            await app.store.assign(self.group(app), await self.partitions(app))
            gate.set()
            await self.until_count(attempts, 2, "attempts")
            await self.still(lambda: len(attempts))
            assert await app.store.parked(self.group(app)) == []

        assert attempts == [1, 1]

    @promised()
    async def test_a_service_with_another_store_is_refused(self) -> None:
        """A group's progress is in one store: whoever comes with another one would think that nothing was handled."""
        app, stranger = self.app(), self.app()
        broker = self.broker()
        stranger.configure(broker=broker, store=MemoryStore())
        for service in (app, stranger):

            @service.subscriber(Made)
            async def handle(_made: Made, _context: Context) -> None: ...  # pyright: ignore[reportUnusedFunction]

        async with app:
            pass

        await expect((StoreMismatchError, ConfigurationError), stranger.__aenter__())

    @promised("ordered")
    async def test_two_workers_share_a_group(self) -> None:
        """One joins and one leaves while events flow: each has one effect, and each key keeps its order."""
        apps, handled = [self.app(), self.app()], list[tuple[str, int]]()
        for app in apps:

            @app.subscriber(Made)
            async def handle(made: Made, tx: Transaction) -> None:  # pyright: ignore[reportUnusedFunction]
                tx.execute(f"insert into {self.effects} values(?, ?)", (made.key, made.number))
                handled.append((made.key, made.number))

        first, second = apps
        async with self.running(first):
            await first.publish_many([Made(f"k{n % 16}", n) for n in range(200)])
            async with self.running(second):
                await first.publish_many([Made(f"k{n % 16}", n) for n in range(200, 400)])
                await self.until_count(handled, 300, "deliveries were handled")
            await first.publish_many([Made(f"k{n % 16}", n) for n in range(400, 600)])

            rows = await self.until_rows(first, 600)

        assert sorted(number for _, number in rows) == list(range(600))
        for key in {key for key, _ in rows}:
            order = list(dict.fromkeys(number for k, number in handled if k == key))
            assert order == sorted(order), f"{key} was handled out of order"

    # Retries, order and dead letters

    @promised()
    async def test_a_retry_counts_its_attempts_and_waits_its_time(self) -> None:
        """The attempt number rises, the first failure is remembered, and no attempt is made before it is due."""
        app = self.app()
        attempts: list[tuple[int, bool, float]] = []

        @app.subscriber(Made, retry=Retry(attempts=3, first=0.2, factor=1, jitter=0))
        async def handle(_made: Made, context: Context) -> None:
            attempts.append((context.attempt, context.first_failure is not None, app.clock.monotonic()))
            if context.attempt < 3:
                raise ValueError("not yet")

        async with self.running(app):
            await app.publish(Made("k"))
            await self.until_count(attempts, 3, "attempts")

            assert [(number, known) for number, known, _ in attempts] == [(1, False), (2, True), (3, True)]
            moments = [moment for _, _, moment in attempts]
            assert min(later - sooner for sooner, later in itertools.pairwise(moments)) >= 0.2
            assert await self.until_parked(app) == []

    @promised("ordered")
    async def test_what_fails_waits_with_its_key_and_others_flow_on(self) -> None:
        """The followers of a key that fails wait in order; other keys do not wait; nothing overtakes."""
        app = self.app()
        handled: list[tuple[str, int]] = []

        @app.subscriber(Made, retry=Retry(attempts=1000, first=0.05, factor=1, jitter=0))
        async def handle(made: Made, context: Context) -> None:
            # More than once, when its followers wait as well, and until the others are through, however long that takes.
            if (made.key, made.number) == ("bad", 1) and (context.attempt < 3 or len(handled) < 6):
                raise ValueError("not before the others")
            handled.append((made.key, made.number))

        async with self.running(app):
            await app.publish_many([Made(key, number) for number in (1, 2, 3) for key in ("bad", "good", "fine")])
            await self.until_count(handled, 6, "deliveries were handled")
            early = list(handled)
            await app.publish_many([Made("bad", 4)])
            await self.until_count(handled, 10, "deliveries were handled")

        assert {key for key, _ in early} == {"good", "fine"}
        assert [number for key, number in handled if key == "bad"] == [1, 2, 3, 4]

    @refused("ordered")
    async def test_order_is_refused_where_the_broker_keeps_none(self) -> None:
        """Who handles events with a key has to say that it does without."""
        app = self.app()

        @app.subscriber(Made, ordered=True)
        async def handle(_made: Made) -> None: ...  # pyright: ignore[reportUnusedFunction]

        await expect(ConfigurationError, app.__aenter__())

    @promised()
    async def test_without_order_others_of_a_key_pass(self) -> None:
        """`ordered=False` says that nothing has to wait for what fails."""
        app = self.app()
        handled: list[int] = []

        @app.subscriber(Made, ordered=False, retry=ONCE)
        async def handle(made: Made, _context: Context) -> None:
            if made.number == 1:
                raise ValueError("never")
            handled.append(made.number)

        async with self.running(app):
            await app.publish_many([Made("k", number) for number in (1, 2, 3)])
            await self.until_count(handled, 2, "deliveries were handled")
            await self.until_parked(app, "dead")

        assert sorted(handled) == [2, 3]

    @promised("ordered")
    async def test_a_dead_letter_has_everything_and_its_key_waits(self) -> None:
        """After the last attempt: envelope, error, stack, attempts and times are kept, and what follows is queued behind it."""
        app = self.app()

        @app.subscriber(Made, retry=Retry(attempts=2, first=0.01))
        async def handle(made: Made, _context: Context) -> None:
            if made.key == "k":
                raise ValueError("größe ✗")

        async with self.running(app):
            sent = [self.envelope("k", data=b' {"key" : "k", "number": 1}'), self.envelope("k"), self.envelope("other")]
            await app.broker.publish(sent)
            dead, queued = await self.until_parked(app, "dead", "queued")

        assert (dead.envelope, queued.envelope) == (sent[0], sent[1])
        assert (dead.attempts, dead.error) == (2, "ValueError: größe ✗")
        assert "raise ValueError" in dead.stack
        assert "2 attempts" in dead.reason
        assert dead.first_failure is not None
        assert dead.last_failure is not None
        assert dead.first_failure < dead.last_failure

    @promised()
    async def test_some_errors_are_never_tried_again(self) -> None:
        """What the policy gives up on is parked after one attempt."""
        app = self.app()

        @app.subscriber(Made, retry=Retry(attempts=5, first=0.01, give_up_on=(KeyError,)))
        async def handle(_made: Made, _context: Context) -> None:
            raise KeyError("no such thing")

        async with self.running(app):
            await app.publish(Made("k"))
            (dead,) = await self.until_parked(app, "dead")

        assert dead.attempts == 1

    @promised("ordered")
    async def test_a_dead_letter_is_redriven_in_the_order_of_its_key(self) -> None:
        """After the repair it runs first, then what waited behind it, then what came since; another service start forgets nothing."""
        handled: list[int] = []

        def service(*, repaired: bool) -> App:
            app = self.app()

            @app.subscriber(Made, retry=ONCE)
            async def handle(made: Made, _context: Context) -> None:  # pyright: ignore[reportUnusedFunction]
                if not repaired:
                    raise ValueError("broken")
                handled.append(made.number)

            return app

        broken, repaired = service(repaired=False), service(repaired=True)
        async with self.running(broken):
            await broken.publish_many([Made("k", number) for number in (1, 2, 3)])
            await self.until_parked(broken, "dead", "queued", "queued")
        async with self.running(repaired):
            await repaired.publish(Made("k", 4))
            (dead, *_) = await self.until_parked(repaired, "dead", "queued", "queued", "queued")
            assert await repaired.store.request("redrive", [dead.id], "repaired") == 1
            await self.until_count(handled, 4, "deliveries were handled")
            await self.until_parked(repaired)

        assert handled == [1, 2, 3, 4]

    @promised()
    async def test_a_redriven_letter_that_fails_again_is_dead_again(self) -> None:
        """It does not run for ever, and its history goes on."""
        app = self.app()
        attempts: list[int] = []

        @app.subscriber(Made, retry=ONCE)
        async def handle(_made: Made, context: Context) -> None:
            attempts.append(context.attempt)
            raise ValueError("still broken")

        async with self.running(app):
            await app.publish(Made("k"))
            (first,) = await self.until_parked(app, "dead")
            await app.store.request("redrive", [first.id], "hopeful")
            await self.until_count(attempts, 2, "attempts")
            (second,) = await self.until_parked(app, "dead")
            await self.still(lambda: len(attempts))

        assert (second.id, second.first_failure) == (first.id, first.first_failure)
        assert (second.last_failure or 0) > (first.last_failure or 0)

    @promised("ordered")
    async def test_a_discarded_letter_lets_its_key_go_on(self) -> None:
        """It is gone, its followers are handled in order, and should it come again it is a duplicate."""
        app = self.app()
        handled, seen = list[int](), self.see(app)

        @app.subscriber(Made, retry=ONCE)
        async def handle(made: Made, _context: Context) -> None:
            if made.number == 1:
                raise ValueError("broken")
            handled.append(made.number)

        async with self.running(app):
            first, *_ = await app.publish_many([Made("k", number) for number in (1, 2, 3)])
            dead, *_ = await self.until_parked(app, "dead", "queued", "queued")
            await app.store.request("discard", [dead.id], "no use")
            await self.until_count(handled, 2, "deliveries were handled")
            await app.broker.publish([first])
            if not self.features.deduplicates:
                await self.until(lambda: "duplicate" in seen.kinds(), lambda: f"the outcomes were {seen.kinds()}")

        assert handled == [2, 3]
        assert "discarded" in seen.kinds()

    @promised()
    async def test_what_was_parked_and_done_is_a_duplicate_in_every_group(self) -> None:
        """Also where handlers run at least once: an event that waited, and was handled in the end, is not handled again."""
        app = self.app()
        calls, seen = list[int](), self.see(app)

        @app.subscriber(Made, retry=SOON, delivery="at_least_once")
        async def handle(_made: Made) -> None:
            calls.append(1)
            if len(calls) == 1:
                raise ValueError("not yet")

        async with self.running(app):
            sent = self.envelope("k")
            await app.broker.publish([sent])
            await self.until_count(calls, 2, "attempts")
            await self.until_parked(app)
            await app.broker.publish([sent])
            if not self.features.deduplicates:
                await self.until(lambda: "duplicate" in seen.kinds(), lambda: f"the outcomes were {seen.kinds()}")

        assert len(calls) == 2

    @promised()
    async def test_too_many_parked_deliveries_pause_the_group(self) -> None:
        """At the limit it takes no more and says so; when some are discarded it goes on."""
        app = self.app()
        seen = self.see(app)

        @app.subscriber(Made, retry=ONCE, most_parked=5)
        async def handle(made: Made, _context: Context) -> None:
            if made.key != "good":
                raise ValueError("broken")

        async with self.running(app):
            await app.publish_many([Made(f"k{n}") for n in range(5)])
            await self.until_parked(app, *["dead"] * 5)
            await self.until(lambda: any("most_parked" in trouble for trouble in app.troubles()), lambda: f"troubles: {app.troubles()}")
            await app.publish(Made("good"))
            await self.still(lambda: len(seen.taken))
            await app.store.request("discard", [parked.id for parked in await app.store.parked(self.group(app))], "no use")
            await self.until(lambda: "handled" in seen.kinds(), lambda: f"after the discard the outcomes were {seen.kinds()}")

    # What cannot be handled

    @promised()
    async def test_what_cannot_be_decoded_is_parked_with_its_bytes(self) -> None:
        """A body that breaks its contract, and a message that is no event at all: both are dead letters, byte for byte."""
        app = self.app()

        @app.subscriber(Made)
        async def handle(_made: Made, _context: Context) -> None: ...

        async with self.running(app):
            bad = self.envelope("k", data=b'{"key": \xff')
            raw = Message(topic="suite.made", body=bytes(range(256)), key=b"\xfe", headers=(("x-raw", b"\x00"),))
            await app.broker.publish([bad])
            await app.broker.publish_raw([raw])
            letters = await self.until_parked(app, "dead", "dead")

        envelopes = [letter.envelope for letter in letters if letter.envelope is not None]
        messages = [letter.message for letter in letters if letter.message is not None]
        assert envelopes == [bad]
        assert [(message.body, message.key, message.headers) for message in messages] == [(raw.body, raw.key, raw.headers)]

    @promised()
    async def test_a_body_can_be_repaired(self) -> None:
        """With the body that an operator gives it, a dead letter is handled under the id and the key that it had."""
        app = self.app()
        handled: list[tuple[Made, str]] = []

        @app.subscriber(Made)
        async def handle(made: Made, context: Context) -> None:
            handled.append((made, context.envelope.id))

        async with self.running(app):
            bad = self.envelope("k", data=b'{"key": "k", "number": "many"}')
            await app.broker.publish([bad])
            (letter,) = await self.until_parked(app, "dead")
            await app.store.request("repair", [letter.id], "a number", b'{"key": "k", "number": 7}')
            await self.until_count(handled, 1, "deliveries were handled")
            await self.until_parked(app)

        assert handled == [(Made("k", 7), bad.id)]

    @promised()
    async def test_a_poison_event_stops_nobody_else(self) -> None:
        """Others of its partition and of the topic are handled."""
        app = self.app()
        handled: list[str] = []

        @app.subscriber(Made)
        async def handle(made: Made, _context: Context) -> None:
            handled.append(made.key)

        async with self.running(app):
            await app.broker.publish([self.envelope("poison", data=b"nonsense"), *(self.envelope(f"k{n}") for n in range(50))])
            await self.until_count(handled, 50, "deliveries were handled")
            await self.until_parked(app, "dead")

    @promised()
    async def test_a_type_without_a_handler_is_skipped(self) -> None:
        """On a topic with several types each handler gets its own, and what nobody takes is counted and not kept."""
        app = self.app()
        handled, seen = list[str](), self.see(app)

        @app.subscriber(Made)
        async def handle(made: Made, _context: Context) -> None:
            handled.append(made.key)

        async with self.running(app):
            await app.publish(Other("k"))
            await app.publish(Made("k"))
            await self.until_count(handled, 1, "deliveries were handled")
            await self.until(lambda: sorted(seen.kinds()) == ["handled", "skipped"], lambda: f"the outcomes were {seen.kinds()}")
            assert await self.until_parked(app) == []

    @promised()
    async def test_a_newer_version_is_read_as_far_as_it_can_be(self) -> None:
        """Fields that are not known are passed over; what does not fit any more is parked."""
        app = self.app()
        handled: list[Made] = []

        @app.subscriber(Made)
        async def handle(made: Made, _context: Context) -> None:
            handled.append(made)

        async with self.running(app):
            fits = self.envelope("a", version=2, data=b'{"key":"a","number":7,"since":"2"}')
            breaks = self.envelope("b", version=2, data=b'{"key":"b","number":"seven"}')
            await app.broker.publish([fits, breaks])
            (letter,) = await self.until_parked(app, "dead")
            await self.until_count(handled, 1, "deliveries were handled")

        assert handled == [Made("a", 7)]
        assert letter.envelope == breaks

    @promised()
    async def test_a_filter_decides_what_is_handled(self) -> None:
        """What it refuses is skipped; what it fails on is parked, and not lost in silence."""
        app = self.app()
        handled, seen = list[int](), self.see(app)

        def even(made: Made) -> bool:
            return 10 // (9 - made.number) >= 0 and made.number % 2 == 0

        @app.subscriber(Made, where=even)
        async def handle(made: Made, _context: Context) -> None:
            handled.append(made.number)

        async with self.running(app):
            await app.publish_many([Made(f"k{n}", n) for n in range(10)])
            (letter,) = await self.until_parked(app, "dead")
            await self.until(lambda: len(seen.outcomes) == 10, lambda: f"the outcomes were {seen.kinds()}")

        assert sorted(handled) == [0, 2, 4, 6, 8]
        assert seen.kinds().count("skipped") == 4
        assert letter.envelope is not None
        assert b'"number":9' in letter.envelope.data

    @promised()
    async def test_a_filter_of_fields_decides_what_is_handled(self) -> None:
        """Said in fields and values a broker may apply it, too: what is wanted is handled, and a body that is none is parked."""
        app = self.app()
        handled = list[int]()

        @app.subscriber(Made, where={"number": [1, 3, 5]})
        async def handle(made: Made, _context: Context) -> None:
            handled.append(made.number)

        async with self.running(app):
            await app.broker.publish([self.envelope("none", data=b"no JSON")])
            await app.publish_many([Made(f"k{n}", n) for n in range(6)])
            (letter,) = await self.until_parked(app, "dead")
            await self.until_count(handled, 3, "deliveries were handled")

        assert sorted(handled) == [1, 3, 5]
        assert letter.envelope is not None
        assert letter.envelope.data == b"no JSON"

    @promised()
    async def test_a_handler_that_returns_nonsense_is_not_tried_again(self) -> None:
        """Neither a contract nor None: nothing is published, nothing is written, and the letter says what came."""
        app = self.app()
        calls: list[int] = []

        @app.subscriber(Made, retry=SOON)
        async def handle(made: Made, tx: Transaction) -> Any:
            calls.append(1)
            tx.execute(f"insert into {self.effects} values(?, 1)", (made.key,))
            return 42

        async with self.running(app):
            await app.publish(Made("k"))
            (letter,) = await self.until_parked(app, "dead")
            assert await self.rows(app) == []

        assert len(calls) == 1
        assert "int" in letter.error

    @promised()
    async def test_an_event_that_is_too_large_is_refused_where_it_is_made(self) -> None:
        """By publish with an error; in a handler as a failure of its input, which ends as a dead letter."""
        if self.features.largest > 64 << 20:
            skip("a message at this limit is more than a test should hold")
        app = self.app()
        large = "x" * (self.features.largest + 1)

        @app.subscriber(Made, retry=ONCE)
        async def handle(_made: Made) -> Done:
            return Done(large)

        async with self.running(app):
            await expect(TooLargeError, app.publish(Made(large)))
            await app.publish(Made("k"))
            (letter,) = await self.until_parked(app, "dead")

        assert "TooLargeError" in letter.error

    # What handlers do to a worker

    @promised()
    async def test_whatever_a_handler_raises_is_its_own_failure(self) -> None:
        """SystemExit, KeyboardInterrupt and CancelledError end neither the worker nor the delivery: it is tried again."""
        app = self.app()
        raised: dict[str, int] = {}
        errors = {"exit": SystemExit(3), "interrupt": KeyboardInterrupt(), "cancelled": asyncio.CancelledError(), "error": ValueError()}

        @app.subscriber(Made, retry=SOON)
        async def handle(made: Made) -> Done:
            raised[made.key] = raised.get(made.key, 0) + 1
            if raised[made.key] == 1:
                raise errors[made.key]
            return Done(made.key)

        collected = self.collect(app)
        async with self.running(app):
            await app.publish_many([Made(key) for key in errors])
            await self.until_count(collected, 4, "events were published")

        assert raised == dict.fromkeys(errors, 2)

    @promised()
    async def test_a_handler_that_takes_too_long_is_interrupted(self) -> None:
        """Its attempt fails, what it wrote is undone, it is tried again, and meanwhile others run."""
        app = self.app()
        interrupted, handled = list[str](), list[str]()

        @app.subscriber(Made, timeout=0.2, retry=SOON)
        async def handle(made: Made, context: Context) -> None:
            if made.key == "slow" and context.attempt == 1:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    interrupted.append(made.key)
                    raise
            handled.append(made.key)

        seen = self.see(app)
        async with self.running(app):
            await app.publish_many([Made("slow"), Made("fast")])
            await self.until_count(handled, 2, "deliveries were handled")

        assert (interrupted, handled) == (["slow"], ["fast", "slow"])
        (retry,) = [outcome for outcome in seen.outcomes if outcome.kind == "retry"]
        assert "HandlerTimeoutError" in retry.error

    @promised()
    async def test_functions_run_in_threads_keep_the_same_rules(self) -> None:
        """A `def` handler has its transaction, its retries and its events, and does not hold up the loop."""
        app = self.app()
        collected = self.collect(app)

        @app.subscriber(Made, retry=SOON)
        def handle(made: Made, tx: Transaction, context: Context) -> Done:
            tx.execute(f"insert into {self.effects} values(?, ?)", (made.key, context.attempt))
            if context.attempt == 1:
                raise ValueError("not yet")
            return Done(made.key, context.attempt)

        async with self.running(app):
            await app.publish_many([Made(f"k{n}") for n in range(10)])
            await self.until_count(collected, 10, "events were published")

            assert await self.rows(app) == sorted((f"k{n}", 2) for n in range(10))
            assert {done.number for done, _ in collected} == {2}

    @promised("ordered")
    async def test_a_batch_handler_has_a_verdict_for_each(self) -> None:
        """Those that failed are tried again, the others are done, and no two of a key are in one batch."""
        app = self.app()
        batches, failed = list[list[Made]](), set[str]()
        collected = self.collect(app)

        @app.subscriber(Made, retry=SOON, batch=10)
        async def handle(batch: list[Made]) -> list[Done | Exception | None]:
            batches.append(batch)
            verdicts: list[Done | Exception | None] = []
            for made in batch:
                if made.number == 1 and made.key not in failed:
                    failed.add(made.key)
                    verdicts.append(ValueError("not yet"))
                else:
                    verdicts.append(Done(made.key, made.number))
            return verdicts

        async with self.running(app):
            await app.publish_many([Made(f"k{n}", number) for number in (1, 2) for n in range(20)])
            await self.until_count(collected, 40, "events were published")
            await self.still(lambda: len(collected))

        assert len(collected) == len({(done.key, done.number) for done, _ in collected}) == 40
        assert all(len({made.key for made in batch}) == len(batch) <= 10 for batch in batches)
        for n in range(20):
            assert [done.number for done, _ in collected if done.key == f"k{n}"] == [1, 2]

    # Concurrency and flow

    @promised("ordered")
    async def test_keys_run_beside_each_other_and_never_beside_themselves(self) -> None:
        """Several keys at a time, up to the limit that was declared; each key one after another."""
        app = self.app()
        running: list[str] = []
        most = 0
        order: dict[str, list[int]] = {}

        @app.subscriber(Made, concurrency=4)
        async def handle(made: Made, _context: Context) -> None:
            nonlocal most
            assert made.key not in running, f"{made.key} runs beside itself"
            running.append(made.key)
            most = max(most, len(running))
            await asyncio.sleep(0.001)
            order.setdefault(made.key, []).append(made.number)
            running.remove(made.key)

        async with self.running(app):
            await app.publish_many([Made(f"k{n % 16}", n) for n in range(320)])
            await self.until(lambda: sum(map(len, order.values())) == 320, lambda: f"{order}")
            assert await self.until_parked(app) == []

        assert most == 4
        assert all(numbers == sorted(numbers) for numbers in order.values())

    @promised()
    async def test_a_slow_group_takes_no_more_than_it_can_hold(self) -> None:
        """While handlers are stuck, deliveries stay with the broker; when they go on, all of them are handled."""
        app = self.app()
        gate, handled, seen = asyncio.Event(), list[int](), self.see(app)

        @app.subscriber(Made, concurrency=4, timeout=60)
        async def handle(made: Made, _context: Context) -> None:
            await gate.wait()
            handled.append(made.number)

        total = 4000
        async with self.running(app):
            for start in range(0, total, 500):
                await app.publish_many([Made(f"k{n % 50}", n) for n in range(start, start + 500)])
            await self.until(lambda: len(seen.taken) > 0, "nothing was taken")
            await self.at_rest(lambda: len(seen.taken))
            held = len(seen.taken)
            gate.set()
            await self.until_count(handled, total, "deliveries were handled")

        assert held < total, f"a group that handles nothing has taken all {held} deliveries into memory"
        assert len(handled) == total

    @promised()
    async def test_a_stuck_group_holds_up_no_other(self) -> None:
        """One group's handler does not come back; another group of the same topic goes on."""
        app = self.app()
        gate, handled = asyncio.Event(), list[int]()

        @app.subscriber(Made, timeout=60)
        async def handle(_made: Made, _context: Context) -> None:
            await gate.wait()

        @app.subscriber(Made)
        async def steady(made: Made, _context: Context) -> None:  # pyright: ignore[reportUnusedFunction]
            handled.append(made.number)

        async with self.running(app):
            await app.publish_many([Made("k", n) for n in range(100)])
            await self.until_count(handled, 100, "deliveries were handled")
            gate.set()

        assert handled == sorted(handled) or not self.features.ordered

    # Stopping, starting, pausing

    @promised()
    async def test_what_is_published_while_nobody_runs_waits(self) -> None:
        """Nothing is handled while the service is stopped, and everything after it starts again, once."""
        first, second, handled = self.app(), self.app(), list[int]()
        for app in (first, second):

            @app.subscriber(Made)
            async def handle(made: Made, tx: Transaction) -> None:  # pyright: ignore[reportUnusedFunction]
                tx.execute(f"insert into {self.effects} values(?, ?)", (made.key, made.number))
                handled.append(made.number)

        async with self.running(first):
            await first.publish_many([Made(f"k{n}", n) for n in range(10)])
            await self.until_count(handled, 10, "deliveries were handled")
        async with second:
            await second.publish_many([Made(f"k{n}", n) for n in range(10, 20)])
            await self.still(lambda: len(handled))
        async with self.running(second):
            await self.until_rows(second, 20)
            await self.still(lambda: len(handled))
            assert sorted(number for _, number in await self.rows(second)) == list(range(20))

        assert sorted(handled) == list(range(20))

    @promised()
    async def test_stopping_finishes_what_is_in_hand(self) -> None:
        """A handler that ends in time is done, and is not run again by the next worker."""
        first, second, calls = self.app(), self.app(), list[int]()
        running = asyncio.Event()
        for app in (first, second):

            @app.subscriber(Made)
            async def handle(made: Made, tx: Transaction) -> None:  # pyright: ignore[reportUnusedFunction]
                calls.append(made.number)
                running.set()
                await asyncio.sleep(0.2)
                tx.execute(f"insert into {self.effects} values(?, ?)", (made.key, made.number))

        async with self.running(first, grace=self.patience):
            await first.publish(Made("k", 1))
            await running.wait()
        async with self.running(second):
            await self.still(lambda: len(calls))
            assert await self.rows(second) == [("k", 1)]

        assert calls == [1]

    @promised()
    async def test_what_does_not_finish_in_time_is_delivered_again(self) -> None:
        """A handler that outlasts the grace is cut off, leaves nothing, and the next worker does it."""
        first, second, calls = self.app(), self.app(), list[int]()
        running, released = asyncio.Event(), asyncio.Event()
        for app in (first, second):

            @app.subscriber(Made)
            async def handle(made: Made) -> Done:  # pyright: ignore[reportUnusedFunction]
                calls.append(made.number)
                running.set()
                await released.wait()
                return Done(made.key, len(calls))

        collected = self.collect(second)
        async with self.running(first, grace=0.05):
            await first.publish(Made("k", 1))
            await running.wait()
        released.set()
        async with self.running(second):
            await self.until_count(collected, 1, "events were published")
            await self.still(lambda: len(collected))

        assert calls == [1, 1]
        assert [done.number for done, _ in collected] == [2]

    @promised()
    async def test_a_pause_survives_a_restart(self) -> None:
        """A paused group takes nothing, also under the next worker, until it is resumed; other groups go on."""
        first, second, handled, others = self.app(), self.app(), list[int](), list[int]()
        for app in (first, second):

            @app.subscriber(Made)
            async def handle(made: Made, _context: Context) -> None:  # pyright: ignore[reportUnusedFunction]
                handled.append(made.number)

            @app.subscriber(Made)
            async def steady(made: Made, _context: Context) -> None:  # pyright: ignore[reportUnusedFunction]
                others.append(made.number)

        async with self.running(first):
            await first.publish(Made("k", 1))
            await self.until_count(handled, 1, "deliveries were handled")
            await first.store.pause(self.group(first), paused=True)
            await asyncio.sleep(self.notice)
            await first.publish(Made("k", 2))
            await self.until_count(others, 2, "deliveries of the other group were handled")
            await self.still(lambda: len(handled))
        async with self.running(second):
            await self.still(lambda: len(handled))
            assert handled == [1]
            await second.store.pause(self.group(second), paused=False)
            await self.until_count(handled, 2, "deliveries were handled")

        assert handled == [1, 2]

    @promised("positional", "replayable")
    async def test_a_replay_with_effects_handles_everything_anew(self) -> None:
        """Without effects the inbox absorbs what was handled; with effects it is as if it had never been."""
        apps, handled = [self.app() for _ in range(3)], list[int]()
        for app in apps:

            @app.subscriber(Made)
            async def handle(made: Made, tx: Transaction) -> None:  # pyright: ignore[reportUnusedFunction]
                tx.execute(f"insert into {self.effects} values(?, ?)", (made.key, made.number))
                handled.append(made.number)

        first, second, third = apps
        seen = self.see(second)
        async with first:
            start = {partition: head for partition, _, head in await first.broker.bounds("suite.made")}
        async with self.running(first):
            await first.publish_many([Made("k", n) for n in range(5)])
            await self.until_rows(first, 5)
        async with second:
            await second.store.rewind(self.group(second), list(start.items()), effects=False)
        async with self.running(second):
            await self.until(lambda: seen.kinds().count("duplicate") == 5, lambda: f"the outcomes were {seen.kinds()}")
        absorbed = list(handled)
        async with third:
            await third.store.rewind(self.group(third), list(start.items()), effects=True)
        async with self.running(third):
            assert len(await self.until_rows(third, 10)) == 10

        assert absorbed == [0, 1, 2, 3, 4]
        assert handled == [0, 1, 2, 3, 4] * 2

    # Crashes

    @promised("positional")
    async def test_after_a_death_each_delivery_in_flight_is_counted_before_it_runs(self) -> None:
        """The next owner runs the suspects alone, with a mark in the store that a second death would leave behind."""
        app = self.app()
        counts: list[int] = []
        running = most = 0

        @app.subscriber(Made)
        async def handle(_made: Made, _context: Context) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            noted = [await app.store.suspects(self.group(app), partition) for partition in await self.partitions(app)]
            counts.append(sum(sum(suspects.values()) for suspects in noted))
            running -= 1

        async with app:
            await app.publish_many([Made(f"k{n}", n) for n in range(10)])
            # As an owner leaves it that dies with these in hand: assigned, and no good-bye.
            await app.store.assign(self.group(app), await self.partitions(app))
        async with self.running(app):
            await self.until_count(counts, 10, "deliveries were handled")

            async def forgotten() -> bool:
                return not any([await app.store.suspects(self.group(app), partition) for partition in await self.partitions(app)])

            await self.until(forgotten, "suspects that were handled are not forgotten")

        assert (most, counts) == (1, [1] * 10)

    @promised("positional")
    async def test_what_has_killed_several_workers_is_parked(self) -> None:
        """Three deaths are enough: it becomes a dead letter without another attempt, and the others are handled."""
        app = self.app()
        handled: list[str] = []

        @app.subscriber(Made)
        async def handle(made: Made, _context: Context) -> None:
            handled.append(made.key)

        async with app:
            await app.publish_many([Made("deadly"), Made("harmless")])
            group = self.group(app)
            waiting = [state for state in await app.broker.positions(group) if state.oldest.value is not None]
            await app.store.assign(group, await self.partitions(app))
            await app.store.commit(Page(group=group, suspects={(waiting[0].partition, waiting[0].committed.value or 0): 3}))
        async with self.running(app):
            (letter,) = await self.until_parked(app, "dead")
            await self.until_count(handled, 1, "deliveries were handled")

        assert (letter.attempts, "crashed the worker" in letter.reason) == (3, True)
        assert letter.envelope is not None
        assert {letter.envelope.key, *handled} == {"deadly", "harmless"}

    # The relay

    @promised()
    async def test_outputs_wait_in_the_outbox_while_the_broker_is_away(self) -> None:
        """The input is done with its output safe in the store; when the broker is back it goes out, once and in order."""
        app = self.app(faulty_broker=True)
        self._need_relay()
        collected, seen, gate = self.collect(app), self.see(app), asyncio.Event()

        @app.subscriber(Made)
        async def handle(made: Made) -> Done:
            await gate.wait()
            return Done(made.key, made.number)

        async with self.running(app):
            await app.publish_many([Made("k", number) for number in range(20)])
            away = True
            faults(app.broker)["publish"] = lambda: BrokerUnavailableError("the broker cannot be reached") if away else None
            gate.set()
            await self.until(lambda: seen.kinds() == ["handled"] * 20, lambda: f"the outcomes were {seen.kinds()}")
            assert await app.store.outbox_size() == 20, "an input is done, and its output is not safe in the outbox"
            await self.until(lambda: any(app.troubles()), "nobody says that the relay cannot publish")
            assert collected == []
            away = False
            await self.until_count(collected, 20, "events were published")
            await self.until(lambda: self._waits_in_outbox(app, 0), "what was sent stays in the outbox")

        assert [done.number for done, _ in collected] == list(range(20)) or not self.features.ordered

    @promised()
    async def test_a_relay_that_dies_repeats_nothing_that_counts(self) -> None:
        """Published, and dead before it noted it: what it publishes again has the same id, and no second effect."""
        app = self.app(faulty_store=True)
        self._need_relay()
        collected = self.collect(app)
        async with self.running(app):
            faults(app.store)["sent"] = times(2, lambda: StoreBusyError("somebody else writes; try again"))
            async with app.unit_of_work() as work:
                for number in range(10):
                    work.publish(Done("k", number))
            await self.until_count(collected, 10, "events were published")
            await self.until(lambda: self._waits_in_outbox(app, 0), "what was sent stays in the outbox")
            await self.still(lambda: len(collected))

        assert [done.number for done, _ in collected] == list(range(10)) or not self.features.ordered

    def _need_relay(self) -> None:
        if not self.store(self.broker()).relays:
            skip("a commit of this store publishes by itself, so that there is no relay")

    async def _waits_in_outbox(self, app: App, count: int) -> bool:
        return await app.store.outbox_size() == count

    # Others

    @promised()
    async def test_bare_json_is_handled_by_its_contract(self) -> None:
        """A message without an envelope is taken where the subscription says so, with its own key, and once."""
        app = self.app()
        handled: list[tuple[Made, Envelope]] = []

        @app.subscriber(Made, wire="json", id="event")
        async def handle(made: Made, context: Context) -> None:
            handled.append((made, context.envelope))

        async with self.running(app):
            body = b'{"key": "a", "number": 9007199254740993, "event": "e-%d"}'
            await app.broker.publish_raw([Message(topic="suite.made", body=body % n, key=b"k") for n in (1, 2, 1)])
            await self.until_count(handled, 2, "messages were handled")
            await self.still(lambda: len(handled))

        assert [made.number for made, _ in handled] == [9007199254740993] * 2
        assert sorted(envelope.id for _, envelope in handled) == ["e-1", "e-2"]
        assert {envelope.key for _, envelope in handled} == {"k"}

    @promised("replayable")
    async def test_a_new_group_starts_at_its_creation_unless_it_asks_for_more(self) -> None:
        """What was there before is for groups that say `earliest`."""
        early = self.app()
        async with early:
            await early.publish(Made(before := f"before-{self.group(early)}"))
        app, handled = self.app(), dict[str, list[str]]()
        # What has another key may come before it, and history may have another run of this test.
        after, late, historic = f"after-{self.group(app)}", self.group(app), self.group(app, "historian")

        @app.subscriber(Made)
        async def handle(made: Made, context: Context) -> None:
            handled.setdefault(context.group, []).append(made.key)

        @app.subscriber(Made, start="earliest")
        async def historian(made: Made, context: Context) -> None:  # pyright: ignore[reportUnusedFunction]
            handled.setdefault(context.group, []).append(made.key)

        async with self.running(app):
            await app.publish(Made(after))
            await self.until(
                lambda: after in handled.get(late, ()) and {before, after} <= set(handled.get(historic, ())), lambda: f"{handled}"
            )

        assert handled[late] == [after]

    @promised("ordered")
    async def test_everything_that_happens_is_seen(self) -> None:
        """An observer is told of each delivery that is taken, and of every attempt, with what it published and why it failed."""
        app = self.app()
        seen = self.see(app)

        @app.subscriber(Made, retry=Retry(attempts=2, first=0.01))
        async def handle(made: Made, context: Context) -> Done | None:
            if made.key == "bad" and made.number == 1:
                raise ValueError(f"attempt {context.attempt}")
            return Done(made.key)

        async with self.running(app):
            await app.publish_many([Made("good", 1), Made("bad", 1), Made("bad", 2)])
            await self.until_parked(app, "dead", "queued")
            await self.until_count(seen.outcomes, 4, "outcomes")
            await self.still(lambda: len(seen.outcomes))

        by_kind = {outcome.kind: outcome for outcome in seen.outcomes}
        assert sorted(seen.kinds()) == ["handled", "parked", "queued", "retry"]
        assert len(seen.taken) == 3
        assert [envelope.type for envelope in by_kind["handled"].published] == ["suite.done"]
        assert by_kind["handled"].handler == "handle"
        assert ("attempt 1" in by_kind["retry"].error, "attempt 2" in by_kind["parked"].error) == (True, True)
        assert (by_kind["retry"].attempt, by_kind["parked"].attempt) == (1, 2)
        assert all(outcome.waited >= 0 and outcome.worked >= 0 for outcome in seen.outcomes)
