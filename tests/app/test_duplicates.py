"""Duplicates that come while the original is still in a handler's hands, or after it, and what only looks like one."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from millstream import App, Context, Retry, Topic, Transaction, event
from millstream.core.broker import Delivery, Message
from millstream.core.observe import Outcomes


@event("mail.wanted", key="order_id")
@dataclass(frozen=True)
class MailWanted:
    """A customer waits for a confirmation."""

    order_id: str


@event("mail.bounced")
@dataclass(frozen=True)
class MailBounced:
    """It could not be delivered; without a key, since order does not matter."""

    order_id: str


class Kinds:
    """An observer that knows what became of each delivery, and can be waited for."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._changed = asyncio.Condition()

    def started(self, group: str, deliveries: Sequence[Delivery]) -> None:
        """Nothing has become of them yet."""

    def settled(self, outcomes: Outcomes) -> None:
        self.seen += [outcome.kind for outcome in outcomes]
        asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until(self, count: int) -> None:
        """Wait until so many deliveries were settled."""
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: len(self.seen) >= count)


async def test_a_second_duplicate_of_what_is_still_in_flight_has_no_effect(tmp_path: Path) -> None:
    """The first duplicate is settled before its original: the second must not take that for the original's end."""
    kinds, begun, answered, stop = Kinds(), asyncio.Event(), asyncio.Event(), asyncio.Event()
    schema = "create table if not exists sent(order_id text)"
    app = App("mailer", broker=f"sqlite:///{tmp_path}/b.db", store=f"sqlite:///{tmp_path}/s.db", schema=schema, observers=[kinds])

    @app.subscriber(MailWanted)
    async def confirm(wanted: MailWanted, tx: Transaction) -> None:
        begun.set()
        await answered.wait()  # as for a slow mail server
        tx.execute("insert into sent values(?)", (wanted.order_id,))

    async with app, asyncio.TaskGroup() as tasks:
        tasks.create_task(app.run(stop))
        original = await app.publish(MailWanted("o-1"))
        await begun.wait()
        for settled in (1, 2):
            await app.broker.publish([original])
            if settled == 1:
                await kinds.until(1)
        answered.set()
        await kinds.until(3)
        stop.set()

        assert sorted(kinds.seen) == ["duplicate", "duplicate", "handled"]
        assert await app.read("select count(*) from sent") == [(1,)]


async def test_a_duplicate_in_another_partition_has_no_effect_either(tmp_path: Path) -> None:
    """Without a key an event that is sent twice may lie in two partitions, and both are in flight."""
    kinds, begun, answered, stop = Kinds(), list[str](), asyncio.Event(), asyncio.Event()
    app = App("mailer", broker=f"sqlite:///{tmp_path}/b.db", observers=[kinds])

    @app.subscriber(MailBounced)
    async def note(bounced: MailBounced, _context: Context) -> None:
        begun.append(bounced.order_id)
        await answered.wait()

    async with app, asyncio.TaskGroup() as tasks:
        tasks.create_task(app.run(stop))
        original = await app.publish(MailBounced("o-1"))
        await app.broker.publish([original])
        await kinds.until(1)
        answered.set()
        await kinds.until(2)
        stop.set()

    assert kinds.seen == ["duplicate", "handled"]
    assert begun == ["o-1"]


@pytest.mark.parametrize("fails", [False, True])
async def test_duplicates_in_the_hands_of_two_workers_have_one_effect(tmp_path: Path, fails: bool) -> None:  # noqa: FBT001
    """Neither knows of the other's; whoever comes second keeps nothing of what it did, and learns that it was a duplicate."""
    kinds, begun, both, stop = Kinds(), list[str](), asyncio.Event(), asyncio.Event()

    def service() -> App:
        app = App(
            "mailer",
            broker=f"sqlite:///{tmp_path}/b.db",
            store=f"sqlite:///{tmp_path}/s.db",
            schema="create table if not exists noted(order_id text)",
            topics=[Topic(name="mail.bounced", partitions=2)],
            observers=[kinds],
        )

        @app.subscriber(MailBounced, retry=Retry(first=0))
        async def note(bounced: MailBounced, tx: Transaction) -> None:
            begun.append(bounced.order_id)
            if len(begun) == 2:
                both.set()
            await both.wait()
            tx.execute("insert into noted values(?)", (bounced.order_id,))
            if fails and len(begun) == 2:
                begun.append("failed")
                raise ValueError("not yet")

        return app

    one, two = service(), service()
    async with one, two, asyncio.TaskGroup() as tasks, asyncio.timeout(20):
        workers = [*one.workers(), *two.workers()]
        for worker in workers:
            tasks.create_task(worker.run(stop, grace=1))
        while [len(worker.owned) for worker in workers] != [1, 1]:
            await one.clock.sleep(0.01)
        original = await one.publish(MailBounced("o-1"))
        await one.broker.publish([original])
        while {"handled", "duplicate"} - set(kinds.seen) or await one.store.parked():
            await one.clock.sleep(0.01)
        stop.set()

        assert await one.read("select order_id from noted") == [("o-1",)]


async def test_what_fails_twice_because_it_was_sent_twice_is_parked_once_and_counted_once(tmp_path: Path) -> None:
    """At least once means that duplicates are handled; what is parked of them must not stay counted when it is done."""
    kinds, begun, both, stop = Kinds(), list[str](), asyncio.Event(), asyncio.Event()
    app = App("mailer", broker=f"sqlite:///{tmp_path}/b.db", observers=[kinds])

    @app.subscriber(MailBounced, retry=Retry(first=0), most_parked=2)
    async def note(bounced: MailBounced) -> None:
        begun.append(bounced.order_id)
        if len(begun) == 2:
            both.set()
        await both.wait()
        if len(begun) <= 2:
            raise ValueError("not yet")

    async with app, asyncio.TaskGroup() as tasks:
        (worker,) = app.workers()
        tasks.create_task(worker.run(stop, grace=1))
        original = await app.publish(MailBounced("o-1"))
        await app.broker.publish([original])
        await kinds.until(3)
        await worker.quiet()
        blocked = [dict(owned.blocked) for owned in worker.owned.values() if owned.blocked]
        stop.set()

    assert sorted(kinds.seen) == ["duplicate", "handled", "retry"]
    assert blocked == []


async def test_a_bare_message_that_comes_again_is_known_by_the_id_in_its_body(tmp_path: Path) -> None:
    """Also when the first was committed long ago, after a restart, and in another partition, where one without a key may land."""
    kinds, calls = Kinds(), list[str]()
    app = App("mailer", broker=f"sqlite:///{tmp_path}/b.db", observers=[kinds])

    @app.subscriber(MailWanted, wire="json", id="order_id")
    async def confirm(wanted: MailWanted, _context: Context) -> None:
        calls.append(wanted.order_id)

    for run in (0, 1):
        stop = asyncio.Event()
        async with app, asyncio.TaskGroup() as tasks:
            tasks.create_task(app.run(stop))
            for settled in (1, 2):
                await app.broker.publish_raw([Message(topic="mail.wanted", body=b'{"order_id": "o-1"}')])
                await kinds.until(2 * run + settled)
            stop.set()

    assert kinds.seen == ["handled", "duplicate", "duplicate", "duplicate"]
    assert calls == ["o-1"]


async def test_bare_messages_without_an_id_are_never_taken_for_each_other(tmp_path: Path) -> None:
    """Each of them becomes a dead letter of its own, whether its handler failed or could not be called."""
    kinds, stop = Kinds(), asyncio.Event()
    app = App("mailer", broker=f"sqlite:///{tmp_path}/b.db", observers=[kinds])

    @app.subscriber(MailWanted, wire="json", id="mail_id", ordered=False, retry=Retry(attempts=1))
    async def confirm(_wanted: MailWanted) -> None:
        raise ValueError("broken")

    async with app, asyncio.TaskGroup() as tasks:
        tasks.create_task(app.run(stop))
        for id_ in (b'""', b'""', b"null", b"null"):
            body = b'{"order_id": "o-1", "mail_id": %s}' % id_
            await app.broker.publish_raw([Message(topic="mail.wanted", body=body, key=b"all in one partition")])
        await kinds.until(4)
        stop.set()

        assert len(await app.store.parked(dead=True)) == 4
