"""Duplicates that come while the original is still in a handler's hands, or after it, and what only looks like one."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from millstream import App, Context, Retry, Transaction, event
from millstream.core.broker import Delivery, Message
from millstream.core.observe import Outcomes


@event("mail.wanted", key="order_id")
@dataclass(frozen=True)
class MailWanted:
    """A customer waits for a confirmation."""

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
