"""The console's read model: whether it keeps up, and how soon each screen is answered when much is stored.

`python -m benchmarks.console` asks every question of a read model with a hundred thousand
events; `--events 10000000` of one with ten million, which needs some minutes and gigabytes.
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import msgspec

from millstream.app.connect import connect_broker
from millstream.app.system_clock import SystemClock
from millstream.console.answers import Answers
from millstream.console.filter import parse
from millstream.console.projection import Rows
from millstream.console.read_model import ReadModel
from millstream.console.schema import KINDS, SCHEMA, STEPS
from millstream.console.watch import Watch
from millstream.contracts.ids import new_id
from millstream.core.broker import Broker, Group, Topic
from millstream.core.facts import (
    Deliveries,
    DeliveryFact,
    Fact,
    FactMessage,
    HandlerFact,
    Heartbeat,
    Manifest,
    Publications,
    PublishedFact,
    encode_fact,
)
from millstream.stores.sqlite import SqliteStore
from millstream.stores.sqlite_file import SqliteFile
from millstream.stores.sqlite_reader import SqliteReader

#: What a screen may take, in seconds, and how many deliveries a second facts tell of at most.
SCREEN = 0.1
RATE = 20_000
#: The system that is looked at: services, each with groups, and types that they take and publish.
SERVICES, GROUPS = 10, 60
DEAD = 5_000
ASKED = 7

GROUP = [f"service-{n % SERVICES}.handle_{n}" for n in range(GROUPS)]
TYPE = [f"subject-{n}.happened" for n in range(GROUPS)]


class Writer(Protocol):
    """What rows are written with."""

    def executemany(self, sql: str, rows: Any) -> Any: ...


# Keeping up


def deliveries(at: int, count: int, *, told: int, first: int) -> Iterator[Fact]:
    """What workers say of so many deliveries of a tenth of a second, of which so many are told one by one; each publishes an event."""
    each, one_in = told // GROUPS, count // told
    for group in range(GROUPS):
        made: list[DeliveryFact] = []
        for n in range(each):
            id_, effect = new_id(at // 1000, os.urandom(10)), new_id(at // 1000, os.urandom(10))
            key, type_ = f"order-{random.randrange(10**9)}", TYPE[group]
            next_ = TYPE[(group + 1) % GROUPS]
            published = PublishedFact(effect, f"/service-{group % SERVICES}", next_, next_, key, at, 1, id_, id_, f"{GROUP[group]}/1")
            event = (id_, "/service-0", type_, key, at - 2000, None, None, None, 1)
            made.append(DeliveryFact("handled", "handle", type_, n % 8, first + n, *event, 1, at, 0.002, 0.001, (published,)))
        counts = (("handle", "handled", each * one_in),)
        yield Deliveries(f"service-{group % SERVICES}", f"host-{group % SERVICES}-1", at, GROUP[group], counts, one_in, tuple(made))


async def keep_up(store: SqliteStore, count: int, told: int, *, most_events: int) -> tuple[float, float]:
    """Fold in the facts of ten seconds; gives deliveries a second, and the processor's microseconds for each."""
    now, wall, cpu = time.time_ns() // 1000, 0.0, 0.0
    decode = msgspec.json.Decoder(FactMessage).decode
    for tenth in range(0, 100, 5):
        bodies = [
            encode_fact(fact)
            for part in range(5)
            for fact in deliveries(now + (tenth + part) * 100_000, count // 10, told=told // 10, first=(tenth + part) * told)
        ]
        started, used = time.perf_counter(), time.process_time()
        rows = Rows(decode(body).fact for body in bodies)
        async with store.transaction() as tx:
            rows.write(tx, most_events=most_events)
        wall += time.perf_counter() - started
        cpu += time.process_time() - used
    return count * 10 / wall, cpu / (count * 10) * 1e6


# Much is stored


def fill(connection: Writer, count: int) -> None:
    """Events of the last hours with their attempts, straight into the tables; one in a thousand failed."""
    now = time.time_ns() // 1000
    apart = max(1, 20 * 3600 * 1_000_000 // count)
    names = ["", "handle", "host-1-1", "/service-0", *GROUP, *TYPE, *(f"{group}/1" for group in GROUP)]
    connection.executemany("insert or ignore into name(text) values(?)", [(name,) for name in names])
    number = {name: n for n, name in enumerate(names, 1)}
    random.seed(7)
    events: list[tuple[Any, ...]] = []
    attempts: list[tuple[Any, ...]] = []
    chain, correlation, before = 0, "", ""
    for n in range(1, count + 1):
        at = now - (count - n) * apart
        id_ = new_id(at // 1000, os.urandom(10))
        step = chain % 5
        if step == 0:
            correlation, before = id_, ""
        group, type_ = GROUP[chain % GROUPS], number[TYPE[chain % GROUPS]]
        key = f"order-{n // 5}" if n % 3 else f"device-{random.randrange(1000)}"
        by = number[f"{group}/1"] if step else None
        events.append((n, id_, 4, type_, type_, key, at, 1, correlation, before or None, by, at // 1_000_000, n % 4, n // 4))
        if n % 1000 == 0:
            attempts.append((n, 1, number[group], 2, 1, 1, at + 1000, 0.001, 0.002, "ValueError: no", 3))
        attempts.append((n, 2, number[group], 2, 0, 1, at + 2000, 0.002, 0.001, None, 3))
        chain, before = chain + 1, id_
        if len(events) == 100_000 or n == count:
            connection.executemany(f"insert into event values({','.join('?' * 14)})", events)
            connection.executemany(f"insert into attempt values({','.join('?' * 11)})", attempts)
            events.clear()
            attempts.clear()
            if sys.stderr.isatty():
                print(f"\r\x1b[K{n:,} events stored", end="", file=sys.stderr, flush=True)


def fill_flows(connection: Writer) -> None:
    """Every edge was used in every step that is kept: as much as there can be."""
    now = int(time.time())
    edges = [(f"event:{TYPE[n]}", f"group:{GROUP[n]}", kind) for n in range(GROUPS) for kind in ("handled", "retry", "duplicate")]
    edges += [(f"group:{GROUP[n]}", f"event:{TYPE[(n + 1) % GROUPS]}", "published") for n in range(GROUPS)]
    connection.executemany("insert into edge(origin, target, kind) values(?,?,?)", edges)
    for step, kept in STEPS.items():
        for at in range(now - kept, now, step):
            connection.executemany(
                "insert into flow values(?,?,?,?,?,?,?)", [(step, at - at % step, n, 10.0, 1, 0.1, 0.2) for n in range(1, len(edges) + 1)]
            )
            connection.executemany(
                "insert into total values(?,?,?,?,?,?)", [(step, at - at % step, kind, 10.0, 1.0, 2.0) for kind in (*KINDS, "published")]
            )


def fill_parked(connection: Writer) -> None:
    """Dead letters of a hundred kinds, with their bodies."""
    now = time.time_ns() // 1000
    rows = [
        (
            GROUP[n % GROUPS], "/service-0", f"dead-{n}", "handle", TYPE[n % GROUPS], f"order-{n}", now, TYPE[n % GROUPS], 0, n, 1, None,
            "dead", 5, 0, now, now + n, f"ValueError: order {n % 100}", "", 300, f"{n % 100:016x}", now,
        )
        for n in range(DEAD)
    ]  # fmt: skip
    connection.executemany(f"insert into parked values({','.join('?' * 22)})", rows)
    connection.executemany(
        "insert into letter values(?,?,?,?,?)", [(row[0], row[1], row[2], "Traceback\n" * 100, b"x" * 3000) for row in rows]
    )


async def declare(broker: Broker, store: SqliteStore) -> None:
    """Groups in the broker, and processes that say what they handle."""
    topics = [Topic(name=type_, partitions=4) for type_ in TYPE]
    await broker.declare(topics, [Group(name=group, topics=(type_,)) for group, type_ in zip(GROUP, TYPE, strict=True)])
    now = time.time_ns() // 1000
    facts: list[Fact] = []
    for n in range(SERVICES):
        handlers = [
            HandlerFact("handle", GROUP[g], "", "service.py:1", (TYPE[g],), (TYPE[g],), (TYPE[g - 1],), "effectively_once", True, 16, 30, 5)
            for g in range(n, GROUPS, SERVICES)
        ]
        app, process = f"service-{n}", f"host-{n}-1"
        facts.append(Manifest(app, process, now, now, "host", n, "1", "b", "s", tuple(handlers), ()))
        facts.append(Heartbeat(app, process, now + 3600_000_000))
        facts.append(Publications(app, process, now, 0, 1, ()))
    async with store.transaction() as tx:
        Rows(facts).write(tx, most_events=1 << 60)


Question = Callable[[], Awaitable[Any]]


async def questions(answers: Answers, model: ReadModel, count: int) -> dict[str, Question]:
    """What every screen asks, and the worst that a filter can."""
    page = model.events.page
    (some,) = (await page(parse(""), before=count // 2, limit=1))["events"]
    return {
        "overview": answers.overview,
        "groups": answers.groups,
        "one group": lambda: answers.group(GROUP[0]),
        "map, 1 min": lambda: answers.map(60),
        "map, 15 min": lambda: answers.map(900),
        "map, 6 h": lambda: answers.map(6 * 3600),
        "map, 24 h": lambda: answers.map(24 * 3600),
        "map, as it was": lambda: answers.map(900, until=time.time() - 7200),
        "topics": answers.topics,
        "events": lambda: page(parse("")),
        "events, deep": lambda: page(parse(""), before=count // 2),
        "events of a topic": lambda: page(parse(""), topic=TYPE[3]),
        "events: type": lambda: page(parse(f"type:{TYPE[7]}")),
        "events: key": lambda: page(parse("key:device-17")),
        "events: failed": lambda: page(parse("status:failed")),
        "events: failed of a group": lambda: page(parse(f"status:failed group:{GROUP[5]}")),
        "events: a type and a key": lambda: page(parse(f"type:{TYPE[0]} key:device-17")),
        "events: nothing fits": lambda: page(parse("key:nothing-like-it")),
        "events: all kinds of words": lambda: page(parse("-type:subject NOT status:dead nothing OR zzz since:20h")),
        "event": lambda: answers.event(some["id"]),
        "trace by id": lambda: answers.trace(some["id"]),
        "trace by key": lambda: answers.trace("device-17"),
        "search": lambda: model.events.search(some["id"]),
        "search, nothing": lambda: model.events.search("nothing-like-it"),
        "dead letters": model.letters.groups,
        "dead letters, one kind": lambda: model.letters.listed(state="dead", fingerprint=f"{7:016x}"),
        "dead letter": lambda: model.letters.letter(GROUP[7], "/service-0", "dead-7"),
        "operations": model.operations,
        "contracts": model.contracts,
        "processes": model.processes,
    }


async def measure(folder: Path, count: int) -> bool:
    """Everything, in one folder; tells whether all of it is as it should be."""
    clock = SystemClock()
    store = SqliteStore(SqliteFile(folder / "console.db"))
    good = True
    async with connect_broker(f"sqlite:///{folder}/broker.db", clock) as broker, store:
        await store.script(SCHEMA)
        await declare(broker, store)
        started = time.perf_counter()
        await store.file.write(lambda connection: fill(connection, count))
        await store.file.write(fill_flows)
        await store.file.write(fill_parked)
        ((pages,),) = await store.read("select page_count*page_size from pragma_page_count, pragma_page_size")
        print(f"\r\x1b[K{count:,} events, {pages / 1e6:,.0f} MB, stored in {time.perf_counter() - started:.0f} s\n")
        with SqliteReader(str(folder / "console.db")) as reader:
            model, watch = ReadModel(reader), Watch(broker, clock)
            for _ in range(3):
                await watch.sample()
            answers = Answers(model, watch, broker)
            for name, ask in (await questions(answers, model, count)).items():
                times = [await _timed(ask) for _ in range(ASKED)]
                good = good and median(times) <= SCREEN
                print(f"  {name:<32} {_millis(times)}  {'ok' if median(times) <= SCREEN else 'SLOW'}")
        print()
        for name, told, most in (
            ("one in ten told", RATE // 10, 1 << 60),
            ("every one told", RATE, 1 << 60),
            ("every one told, as many removed", RATE, count),
        ):
            rate, cpu = await keep_up(store, RATE, told // (10 * GROUPS) * 10 * GROUPS, most_events=most)
            # By the processor's time: on a machine that does something else, the rate says how much else.
            enough = cpu <= 1e6 / RATE
            good = good and enough
            print(f"  folded in, {name:<32} {rate:9,.0f} deliveries/s, {cpu:5.1f} us each  {'ok' if enough else 'SLOW'}")
    return good


async def _timed(ask: Question) -> float:
    # What is remembered for a moment is not what is measured.
    await asyncio.sleep(0.35)
    started = time.perf_counter()
    await ask()
    return time.perf_counter() - started


def _millis(times: list[float]) -> str:
    return f"{median(times) * 1000:8.1f} ms  (first {times[0] * 1000:.1f}, worst {max(times) * 1000:.1f})"


def main() -> None:
    """Measure, and say so if something is too slow."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.console", description=__doc__)
    parser.add_argument("--events", type=int, default=100_000, help="how many are stored (default %(default)s)")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="the disk to measure on (default %(default)s)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        good = asyncio.run(measure(Path(folder), given.events))
    if not good:
        print("\nSome of it is slower than it should be.", file=sys.stderr)


if __name__ == "__main__":
    main()
