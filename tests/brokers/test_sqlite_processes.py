"""Several processes on one file: they publish together, share a group, wake each other and take over from one another."""

import asyncio
import contextlib
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from millstream.brokers import sqlite_broadcast, sqlite_subscription
from millstream.brokers.sqlite import SqliteBroker
from millstream.brokers.sqlite_subscription import SqliteSubscription
from millstream.contracts.envelope import Envelope
from millstream.core.broker import Assigned, Deliveries, Delivery, Group, Partition, Topic
from millstream.stores.sqlite_file import SqliteFile

SETUP = """
import asyncio, sys
from millstream.brokers.sqlite import SqliteBroker
from millstream.contracts.envelope import Envelope
from millstream.core.broker import Assigned, Lost, Revoked
from millstream.stores.sqlite_file import SqliteFile

def say(word): print(word, flush=True)
async def told(): return (await asyncio.to_thread(sys.stdin.readline)).strip()
def envelope(id): return Envelope(id=id, source="/child", type="made", key=id, time=1, data=b"", topic="made")

async def main():
    async with SqliteBroker(SqliteFile(sys.argv[1]), lease=float(sys.argv[2])) as broker:
{body}

asyncio.run(main())
"""


class Child:
    """Another process with the same file open."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def says(self, word: str) -> None:
        """Wait until it says so."""
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            line = (await self.process.stdout.readline()).decode().strip()
        assert line == word

    def tell(self, word: str = "go") -> None:
        """Have it go on."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n".encode())


@asynccontextmanager
async def child(path: Path, body: str, lease: float = 10.0) -> AsyncIterator[Child]:
    """Run this with a broker open on the file, until the block ends."""
    script = SETUP.format(body=textwrap.indent(textwrap.dedent(body), " " * 8))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(path), str(lease), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield Child(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def envelope(name: str) -> Envelope:
    """Make an event."""
    return Envelope(id=name, source="/parent", type="made", key=name, time=1, data=b"", topic="made")


@asynccontextmanager
async def opened(path: Path, *, lease: float = 10.0, partitions: int = 4) -> AsyncIterator[SqliteBroker]:
    """Open the broker with one topic and one group."""
    async with SqliteBroker(SqliteFile(path), lease=lease) as broker:
        await broker.declare([Topic(name="made", partitions=partitions)], [Group(name="g", topics=("made",))])
        yield broker


async def take(subscription: SqliteSubscription, count: int) -> list[Delivery]:
    """Take so many deliveries, starting whatever is assigned."""
    taken: list[Delivery] = []
    while len(taken) < count:
        match await subscription.receive(100, 5.0):
            case Assigned(partitions):
                for partition in partitions:
                    subscription.start(partition, None)
            case Deliveries(items):
                taken += items
            case _:
                pass
    return taken


async def assigned(subscription: SqliteSubscription) -> Sequence[Partition]:
    """Wait until partitions are assigned."""
    while True:
        received = await subscription.receive(1, 5.0)
        if isinstance(received, Assigned):
            return received.partitions


CLAIM = """
    subscription = await broker.open("g", "child")
    received = await subscription.receive(1, 5)
    assert isinstance(received, Assigned) and len(received.partitions) == 4, received
    for partition in received.partitions:
        subscription.start(partition, None)
    say("claimed")
"""


async def test_processes_publish_at_the_same_time(tmp_path: Path) -> None:
    """Everything that two processes publish one by one is there once, at positions without gaps."""
    body = """
        say("ready")
        await told()
        for number in range(200):
            assert list(await broker.publish([envelope(f"c-{number}")])) == [None]
        say("done")
    """
    async with opened(tmp_path / "b.db") as broker, child(tmp_path / "b.db", body) as other:
        await other.says("ready")

        other.tell()
        for number in range(200):
            assert list(await broker.publish([envelope(f"p-{number}")])) == [None]
        await other.says("done")

        ids: list[str] = []
        for partition, first, head in await broker.bounds("made"):
            history = await broker.read(partition, 0, 1000)
            assert [d.position for d in history] == list(range(first, head))
            ids += [d.envelope.id for d in history if d.envelope]
        assert sorted(ids) == sorted([f"{who}-{number}" for who in "cp" for number in range(200)])


async def test_an_event_wakes_another_process_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without looking now and then, a waiting subscription and a listener hear what another process writes."""
    monkeypatch.setattr(sqlite_subscription, "IDLE_LOOK", 1000.0)
    monkeypatch.setattr(sqlite_broadcast, "IDLE_LOOK", 1000.0)
    body = """
        say("ready")
        await told()
        await broker.publish([envelope("c")])
        await told()
        await broker.broadcast(b"hear")
        await told()
    """
    async with opened(tmp_path / "b.db", lease=1000.0) as broker, child(tmp_path / "b.db", body) as other:
        subscription, listener = await broker.open("g"), await broker.listen()
        for partition in await assigned(subscription):
            subscription.start(partition, None)
        await other.says("ready")

        waiting = asyncio.create_task(subscription.receive(10, 1000.0))
        listening = asyncio.create_task(listener.receive(1000.0))
        other.tell()
        async with asyncio.timeout(20):
            received = await waiting
        other.tell()
        async with asyncio.timeout(20):
            heard = await listening

        assert isinstance(received, Deliveries)
        assert [d.envelope.id for d in received.items if d.envelope] == ["c"]
        assert list(heard) == [b"hear"]
        await listener.close()
        await subscription.close()


async def test_a_killed_member_is_replaced_long_before_its_lease_ends(tmp_path: Path) -> None:
    """Another process takes over what the dead one had not settled, and nothing else."""
    body = f"""{CLAIM}
    taken = []
    while len(taken) < 6:
        taken += (await subscription.receive(10, 5)).items
    await subscription.settle(sorted(taken, key=lambda d: d.envelope.id)[:2])
    await broker.file.write(lambda _: None)
    await subscription._flush_done()
    say("settled")
    await told()
    """
    async with opened(tmp_path / "b.db", lease=1000.0, partitions=4) as broker:
        async with child(tmp_path / "b.db", body, lease=1000.0) as other:
            await other.says("claimed")
            await broker.publish([envelope(f"p-{number}") for number in range(6)])
            await other.says("settled")
            states = await broker.positions("g")
            other.process.send_signal(signal.SIGKILL)
            await other.process.wait()
        subscription = await broker.open("g")

        async with asyncio.timeout(10):
            taken = await take(subscription, 6 - sum(state.committed.value or 0 for state in states))

        assert {state.owner for state in states} == {"child"}
        assert 0 < sum(state.committed.value or 0 for state in states) <= 2
        assert {d.envelope.id for d in taken if d.envelope} >= {f"p-{number}" for number in range(2, 6)}
        await subscription.close()


async def test_a_stopped_member_loses_its_partitions_and_changes_nothing_when_it_wakes(tmp_path: Path) -> None:
    """After the lease another member goes on; the woken one is told, and what it settles then is ignored."""
    body = f"""{CLAIM}
    taken = []
    while len(taken) < 1:
        taken += (await subscription.receive(10, 5)).items
    say("taken")
    await told()
    await subscription.settle(taken)
    try:
        await subscription.publish_and_settle([envelope("late")], taken)
    except Exception as error:
        say(type(error).__name__)
    while not isinstance(await subscription.receive(1, 5), Lost):
        pass
    say("lost")
    await told()
    """
    async with opened(tmp_path / "b.db", lease=1.0) as broker, child(tmp_path / "b.db", body, lease=1.0) as other:
        await other.says("claimed")
        await broker.publish([envelope("p")])
        await other.says("taken")
        os.kill(other.process.pid, signal.SIGSTOP)
        subscription = await broker.open("g")

        async with asyncio.timeout(20):
            (taken,) = await take(subscription, 1)
        other.tell()
        os.kill(other.process.pid, signal.SIGCONT)
        await other.says("FencedError")
        keeping = asyncio.create_task(take(subscription, 1000))
        await other.says("lost")
        keeping.cancel()

        assert taken.envelope == envelope("p")
        assert sum(state.committed.value or 0 for state in await broker.positions("g")) == 0
        await subscription.close()


async def test_partitions_move_to_a_new_process_without_loss(tmp_path: Path) -> None:
    """While events flow a second process joins and gets its share; every event reaches one of the two, in order per key."""
    body = """
        subscription = await broker.open("g", "child")
        say("joined")
        taken = []
        while len(taken) < 40:
            received = await subscription.receive(10, 5)
            if isinstance(received, Assigned):
                for partition in received.partitions:
                    subscription.start(partition, None)
            elif not isinstance(received, (Lost, Revoked)):
                taken += received.items
                await subscription.settle(received.items)
                for delivery in received.items:
                    say(delivery.envelope.id)
        await told()
    """
    path = tmp_path / "b.db"
    async with opened(path) as broker, child(path, body) as other:
        subscription, seen = await broker.open("g", "parent"), list[str]()

        async def work() -> None:
            while True:
                match await subscription.receive(10, 5.0):
                    case Assigned(partitions):
                        for partition in partitions:
                            subscription.start(partition, None)
                    case Deliveries(items):
                        seen.extend(d.envelope.id for d in items if d.envelope)
                        await subscription.settle(items)
                    case moved:
                        await subscription.release(moved.partitions)

        async def hear() -> None:
            assert other.process.stdout is not None
            while line := (await other.process.stdout.readline()).decode().strip():
                theirs.append(line)

        theirs = list[str]()
        working = asyncio.create_task(work())
        await other.says("joined")
        hearing = asyncio.create_task(hear())
        number = 0
        async with asyncio.timeout(30):
            while len(theirs) < 40:
                await broker.publish([envelope(f"p-{number}")])
                number += 1
                await asyncio.sleep(0)
        working.cancel()
        hearing.cancel()

        assert len(set(seen) & set(theirs)) == 0
        assert seen
        await asyncio.wait([working, hearing])
        await subscription.close()
