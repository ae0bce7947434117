"""The services that are killed: small enough to be checked to the last event, and run as children of a nursery.

A folder holds everything of one run: the files of broker and store, the journals of
the processes, and the flag that says that what was broken is repaired.
"""

import asyncio
import contextlib
import logging
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from tests.crash.disk import RecordingDisk
from tests.crash.points import Point, watch

from millstream import App, Context, Retry, Transaction, event
from millstream.brokers.sqlite import SqliteBroker
from millstream.brokers.sqlite_subscription import SqliteSubscription
from millstream.contracts.errors import NotStartedError, PublishError, StoreBusyError
from millstream.core.store import Parked
from millstream.stores.sqlite import SqliteStore
from millstream.stores.sqlite_file import SqliteFile
from millstream.testing.history import Journal, Stored

SCHEMA = "create table if not exists effect(key text not null, value text not null)"
KEYS = ("a", "b", "c")
RETRY = Retry(attempts=3, first=0.002, longest=0.004)


@event("item.made", key="key")
@dataclass(frozen=True)
class Made:
    """Somebody has made something."""

    key: str
    value: str
    trouble: str = ""


@event("item.booked", key="key")
@dataclass(frozen=True)
class Booked:
    """It is in the books."""

    key: str
    value: str


@dataclass(frozen=True)
class End:
    """What the log and the store hold when nothing is left to do."""

    made: list[Stored]
    booked: list[Stored]
    effects: list[tuple[str, str]]
    parked: dict[str, frozenset[str]]
    reasons: list[str]


class BrokenError(Exception):
    """What a handler meets for an event with trouble."""


def layout(folder: Path, files: str, name: str) -> dict[str, str]:
    """Say where broker and store are: in one file, or in two."""
    store = "broker.db" if files == "one" else f"{name}.db"
    return {"broker": f"sqlite:///{folder}/broker.db", "store": f"sqlite:///{folder}/{store}"}


async def nothing(_made: Made) -> None:
    """What comes before the work of a handler, when a test wants nothing special."""


def books(folder: Path, files: str, process: str = "books", before: Callable[[Made], Awaitable[None]] = nothing) -> App:
    """A service with all that a worker can do: effects and events once, retries, dead letters, and a group without an inbox."""
    app = App("books", **layout(folder, files, "books"), schema=SCHEMA)
    journal = Journal(folder, process)

    @app.subscriber(Made, group="once", retry=RETRY, start="earliest")
    async def book(made: Made, tx: Transaction, context: Context) -> Booked:
        await before(made)
        if made.trouble == "passes" and context.attempt < 3:
            raise BrokenError
        if made.trouble == "stays" and not (folder / "repaired").exists():
            raise BrokenError
        tx.execute("insert into effect values(?, ?)", (made.key, made.value))
        return Booked(made.key, made.value)

    @app.subscriber(Made, group="again", retry=RETRY, start="earliest")
    async def note(made: Made) -> None:
        if made.trouble == "stays" and not (folder / "repaired").exists():
            raise BrokenError
        journal.handled(made.key, made.value)

    return app


def scribes(folder: Path, files: str) -> App:
    """A service that only reads and publishes, exactly once; its store is for dead letters."""
    app = App("books", **layout(folder, files, "books"), schema=SCHEMA)

    @app.subscriber(Made, group="once", retry=RETRY, start="earliest", exactly_once=True)
    async def book(made: Made, context: Context) -> Booked:
        if (made.trouble == "passes" and context.attempt < 3) or made.trouble == "stays":
            raise BrokenError
        return Booked(made.key, made.value)

    return app


def orders(folder: Path, files: str) -> App:
    """A service that only publishes."""
    return App("orders", **layout(folder, files, "orders"), schema=SCHEMA)


async def is_idle(app: App) -> bool:
    """Whether nothing is left to do: all positions at the head, no retry or request pending, nothing in the outbox."""
    for group in app.groups():
        for state in await app.broker.positions(group.name):
            if state.committed.value != state.head.value:
                return False
        if await app.store.requests(group.name) or any(map(_works, heads(await app.store.parked(group.name)))):
            return False
    return not await app.store.outbox_size()


def heads(parked: Sequence[Parked]) -> list[Parked]:
    """The first of each parked sequence, on which the others wait."""
    first: dict[tuple[str, str, int, str], Parked] = {}
    for row in parked:
        first.setdefault((row.group, row.partition.topic, row.partition.number, row.sequence), row)
    return list(first.values())


def _works(head: Parked) -> bool:
    return head.state != "dead"


async def run_until(app: App, reached: Callable[[], Awaitable[bool]]) -> None:
    """Run an open app until something is so, and stop it."""
    stop = asyncio.Event()

    async def wait() -> None:
        # An app that closes by itself gives its process up, and is about to end it.
        with contextlib.suppress(NotStartedError):
            while not await reached():
                await app.clock.sleep(0.005)
        stop.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(app.run(stop))
        tasks.create_task(wait())


# What children run


def fault(kill: Sequence[object] | None, trace: str | None, blow: int = signal.SIGKILL) -> None:
    """Have this child be killed at a point (or be dealt another signal), or write down the points it passes."""
    point = None if kill is None else Point(str(kill[0]), int(str(kill[1])))
    if point is not None or trace is not None:
        watch(point, None if trace is None else Path(trace), blow)


def work(folder: str, files: str, kill: Sequence[object] | None = None, trace: str | None = None) -> None:
    """Run the service until it has nothing left to do."""
    fault(kill, trace)

    async def main() -> None:
        app = books(Path(folder), files)
        async with app:
            await run_until(app, lambda: is_idle(app))

    asyncio.run(main())


def transform(folder: str, files: str, kill: Sequence[object] | None = None, trace: str | None = None) -> None:
    """Run the service that only reads and publishes until it has nothing left to do."""
    fault(kill, trace)

    async def main() -> None:
        async with scribes(Path(folder), files) as app:
            await run_until(app, lambda: is_idle(app))

    asyncio.run(main())


def work_recorded(folder: str, files: str, synchronous: str) -> None:
    """Work until nothing is left to do, and write down the trace of all that was written and synced, and when what was handled."""
    set_default(SqliteFile, "synchronous", synchronous)
    disk, write = RecordingDisk(default=True), Journal.write

    def write_and_mark(journal: Journal, line: bytes) -> None:
        write(journal, line)
        disk.mark(line.decode())

    Journal.write = write_and_mark  # type: ignore[method-assign]
    work(folder, files)
    (Path(folder) / "trace").write_bytes(msgspec.msgpack.encode(disk.trace))


def publish(
    folder: str, _files: str, kill: Sequence[object] | None = None, trace: str | None = None, blow: int = signal.SIGKILL
) -> None:
    """Publish events one by one, many at once, and in batches."""
    fault(kill, trace, blow)

    async def main() -> None:
        journal = Journal(Path(folder), "producer")
        async with orders(Path(folder), "two") as app:

            async def send(*keys: str) -> None:
                events = [Made(key, journal.value()) for key in keys]
                for made in events:
                    journal.sending(made.key, made.value)
                await app.publish_many(events)
                for made in events:
                    journal.acknowledged(made.key, made.value)

            for key in KEYS:
                await send(key)
            await send(*KEYS, *KEYS)
            async with asyncio.TaskGroup() as tasks:
                for key in KEYS:
                    tasks.create_task(send(key))

    asyncio.run(main())


def units(folder: str, files: str, kill: Sequence[object] | None = None, trace: str | None = None) -> None:
    """Write and publish together, as a web request does, while the relay works."""
    fault(kill, trace)

    async def main() -> None:
        journal = Journal(Path(folder), "producer")
        app = orders(Path(folder), files)
        async with app:
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(app.run(stop))
                for key in KEYS * 2:
                    made = Made(key, journal.value())
                    journal.sending(made.key, made.value)
                    async with app.unit_of_work() as work:
                        work.execute("insert into effect values(?, ?)", (made.key, made.value))
                        work.publish(made)
                    journal.acknowledged(made.key, made.value)
                with contextlib.suppress(ZeroDivisionError):
                    made = Made("a", journal.value())
                    journal.sending(made.key, made.value)
                    async with app.unit_of_work() as work:
                        work.execute("insert into effect values(?, ?)", (made.key, made.value))
                        work.publish(made)
                        raise ZeroDivisionError
                journal.failed(made.key, made.value)
                stop.set()

    asyncio.run(main())


def prepare(folder: str, troubles: Sequence[str], process: str = "producer") -> None:
    """Publish what the workers shall handle: for each key a few events; trouble comes to the first key, or to all of them."""

    async def main() -> None:
        journal = Journal(Path(folder), process)
        async with orders(Path(folder), "two") as app:
            for trouble in troubles:
                kind, _, all_keys = trouble.partition(" ")
                events = [Made(key, journal.value(), kind if key == "a" or all_keys else "") for key in KEYS]
                for made in events:
                    journal.sending(made.key, made.value)
                await app.publish_many(events)
                for made in events:
                    journal.acknowledged(made.key, made.value)

    asyncio.run(main())


def ask_for_redrive(folder: str, files: str) -> None:
    """Repair what was broken, and leave requests to redrive every dead letter."""

    async def main() -> None:
        (Path(folder) / "repaired").touch()
        async with books(Path(folder), files, "operator") as app:
            dead = await app.store.parked(dead=True)
            assert await app.store.request("redrive", [row.id for row in dead], "repaired") == len(dead)

    asyncio.run(main())


def work_without_good_bye(folder: str, files: str) -> None:
    """Work until nothing is left to do, and leave the partitions as one does who is killed: the next owner has suspects."""

    async def unassign(*_: object) -> None: ...

    SqliteStore.unassign = unassign  # type: ignore[method-assign]
    work(folder, files)


def recover(folder: str, files: str) -> None:
    """Run the service again, without faults, until nothing is left to do, and write down how everything ended."""

    async def main() -> None:
        async with books(Path(folder), files) as app:
            await run_until(app, lambda: is_idle(app))
            await describe(app, Path(folder))

    asyncio.run(main())


def recover_transform(folder: str, files: str) -> None:
    """Run the service that only reads and publishes again, and write down how everything ended."""

    async def main() -> None:
        async with scribes(Path(folder), files) as app:
            await run_until(app, lambda: is_idle(app))
            await describe(app, Path(folder))

    asyncio.run(main())


def recover_units(folder: str, files: str) -> None:
    """Run the service that publishes again, until its outbox is empty, and write down how everything ended."""

    async def main() -> None:
        async with orders(Path(folder), files) as app:
            await run_until(app, lambda: is_idle(app))
            await describe(app, Path(folder))

    asyncio.run(main())


async def describe(app: App, folder: Path) -> None:
    """Write down what log and store hold."""
    logs: dict[str, list[Stored]] = {"item.made": [], "item.booked": []}
    for topic, log in logs.items():
        for partition, first, head in await app.broker.bounds(topic):
            for delivery in await app.broker.read(partition, first, head - first):
                assert delivery.envelope is not None
                body = msgspec.json.decode(delivery.envelope.data)
                log.append(Stored(f"{topic}/{partition.number}", delivery.position, body["key"], body["value"]))
    parked = [(row.group, msgspec.json.decode(row.envelope.data)["value"]) for row in await app.store.parked() if row.envelope]
    end = End(
        made=logs["item.made"],
        booked=logs["item.booked"],
        effects=await app.read("select key, value from effect order by rowid"),
        parked={group: frozenset(value for g, value in parked if g == group) for group in ("once", "again")},
        reasons=[row.reason for row in await app.store.parked(dead=True)],
    )
    (folder / "end.json").write_bytes(msgspec.json.encode(end))


def work_slowly(folder: str, files: str, hears: bool, lease: float) -> None:
    """Work with a short lease; the first event is handled only once there is a file named `gate`.

    Unless it `hears`, the worker is not told that it has lost its partitions: only the store's fence can stop it.
    """
    shorten_lease(lease)
    gate, inside = Path(folder) / "gate", Path(folder) / "inside"
    if not hears:
        deafen(inside.exists)

    async def wait(_made: Made) -> None:
        inside.touch()
        while not gate.exists():  # noqa: ASYNC110 - another process opens the gate
            await asyncio.sleep(0.005)

    async def main() -> None:
        app = books(Path(folder), files, "first", wait)
        async with app:
            await run_until(app, lambda: is_idle(app))

    logging.basicConfig(level=logging.WARNING)
    asyncio.run(main())


def deafen(began: Callable[[], bool]) -> None:
    """Have the subscriptions that are open when something begins look after their leases no more."""
    extend, open_before = SqliteSubscription.extend, set[SqliteSubscription]()

    async def extend_if_it_hears(subscription: SqliteSubscription) -> None:
        if not began():
            open_before.add(subscription)
        if not began() or subscription not in open_before:
            await extend(subscription)

    SqliteSubscription.extend = extend_if_it_hears  # type: ignore[method-assign]


def take_over(folder: str, files: str, lease: float) -> None:
    """Work with a short lease until nothing is left to do, and write down how everything ended."""
    shorten_lease(lease)

    async def main() -> None:
        async with books(Path(folder), files, "second") as app:
            await run_until(app, lambda: is_idle(app))
            await describe(app, Path(folder))

    asyncio.run(main())


def shorten_lease(seconds: float) -> None:
    """Have brokers of this process hold their partitions for so long after each sign of life."""
    set_default(SqliteBroker, "lease", seconds)


def set_default(kind: type, option: str, value: object) -> None:
    """Have a class make its objects with another option, in this process, where nobody says otherwise."""
    defaults = kind.__init__.__kwdefaults__
    assert option in defaults
    defaults[option] = value


def work_on_poison(folder: str, files: str, way: str) -> None:
    """Work until nothing is left to do, with a handler whom an event with trouble kills, or hangs up for ever."""

    async def poison(made: Made) -> None:
        if made.trouble and way == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if made.trouble and way == "exits":
            os._exit(3)

    async def main() -> None:
        app = hanging(Path(folder), files) if way == "hangs" else books(Path(folder), files, before=poison)
        async with app:
            await run_until(app, lambda: is_idle(app))
            await describe(app, Path(folder))

    asyncio.run(main())


def hanging(folder: Path, files: str) -> App:
    """A service with a `def` handler that never comes back from an event with trouble."""
    app = App("books", **layout(folder, files, "books"), schema=SCHEMA)

    @app.subscriber(Made, group="once", retry=RETRY, start="earliest", timeout=0.2)
    def book(made: Made, tx: Transaction) -> Booked:
        if made.trouble:
            time.sleep(3600)
        tx.execute("insert into effect values(?, ?)", (made.key, made.value))
        return Booked(made.key, made.value)

    return app


# What runs for as long as it is let live


def work_on(folder: str, files: str, process: str, lease: float) -> None:
    """Work with a short lease until SIGTERM."""
    shorten_lease(lease)

    async def main() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        async with books(Path(folder), files, process) as app:
            await app.run(stop)

    asyncio.run(main())


def produce(folder: str, process: str, seed: int) -> None:
    """Publish until SIGTERM: batches of all sizes, now and then an event whose handler fails at first, or the same event again."""

    async def main() -> None:
        stop, chance, journal = asyncio.Event(), random.Random(seed), Journal(Path(folder), process)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        async with orders(Path(folder), "two") as app:
            while not stop.is_set():
                events = [
                    Made(f"k{chance.randrange(32)}", journal.value(), "passes" if chance.random() < 0.01 else "")
                    for _ in range(chance.choice((1, 1, 2, 5, 20)))
                ]
                await send(app, journal, events, again=chance.random() < 0.05)
                await app.clock.sleep(chance.random() * 0.02)

    asyncio.run(main())


async def send(app: App, journal: Journal, events: list[Made], *, again: bool) -> None:
    """Publish some events, perhaps twice, and write down how it ended."""
    for made in events:
        journal.sending(made.key, made.value)
    try:
        envelopes = await app.publish_many(events)
    except PublishError as error:
        for made, result in zip(events, error.results, strict=True):
            # Whoever waited for the lock has written nothing; after any other error nobody knows.
            if isinstance(result, StoreBusyError):
                journal.failed(made.key, made.value)
        return
    for made in events:
        journal.acknowledged(made.key, made.value)
    if again:
        for made in events:
            journal.repeating(made.key, made.value)
        await app.broker.publish(envelopes)
