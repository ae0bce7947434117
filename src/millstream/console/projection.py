"""The projection: folds facts into the console's own tables.

An ordinary batch handler: its writes and its position commit together, so the read model
can be deleted and rebuilt from the facts at any time.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from millstream.app.app import App
from millstream.core.facts import (
    Deliveries,
    DeliveryFact,
    Fact,
    FactMessage,
    Heartbeat,
    Manifest,
    OperationFact,
    ParkedFact,
    Publications,
    PublishedFact,
)
from millstream.core.store import Transaction

SCHEMA = """
create table if not exists process(
  process text primary key, app text not null, host text not null default '', pid integer not null default 0,
  version text not null default '', broker text not null default '', store text not null default '',
  started integer not null default 0, seen integer not null, stopping integer not null default 0,
  troubles text not null default '[]', paused text not null default '[]', outbox integer not null default 0) without rowid;
create table if not exists handler(
  app text not null, name text not null, grp text not null, body text not null, at integer not null, primary key(app, name))
  without rowid;
create table if not exists contract(name text primary key, version integer not null, app text not null, body text not null) without rowid;
create table if not exists event(
  n integer primary key, id text not null, source text not null, type text not null, topic text not null, key text,
  time integer not null, version integer not null, correlation text not null, causation text, by text, partition integer, position integer);
create unique index if not exists event_id on event(id, source);
create index if not exists event_key on event(key) where key is not null;
create index if not exists event_correlation on event(correlation, time);
create index if not exists event_causation on event(causation) where causation is not null;
create index if not exists event_topic on event(topic, n);
create table if not exists attempt(
  n integer primary key, grp text not null, handler text not null, id text not null, source text not null, kind text not null,
  attempt integer not null, at integer not null, waited real not null, worked real not null, error text not null, process text not null);
create index if not exists attempt_event on attempt(id, source);
create table if not exists parked(
  grp text not null, source text not null, id text not null, handler text not null, type text not null, key text,
  time integer not null, topic text not null, partition integer not null, position integer not null, version integer not null,
  correlation text, state text not null,
  attempts integer not null, due integer not null, first_failure integer, last_failure integer, error text not null, reason text not null,
  stack text not null, data blob not null, size integer not null, fingerprint text not null, primary key(grp, source, id)) without rowid;
create index if not exists parked_fingerprint on parked(fingerprint) where state='dead';
create index if not exists parked_event on parked(id, source);
create table if not exists flow(
  second integer not null, origin text not null, target text not null, kind text not null, count integer not null,
  worked real not null, waited real not null, primary key(second, origin, target, kind)) without rowid;
create table if not exists operation(
  id text primary key, kind text not null, grp text not null, by text not null, reason text not null, at integer not null,
  status text not null, detail text not null, answered integer, body text not null) without rowid;
create index if not exists operation_at on operation(at);
"""

#: What is kept of a parked delivery, in the order of its table.
PARKED = (
    "group source id handler type key time topic partition position version correlation state attempts due first_failure"
    " last_failure error reason stack data size"
).split()
#: How long single events and flows are kept, in seconds, and how many rows are swept by one batch at most.
KEEP = 24 * 3600
SWEEP = 2000

_VARIABLE = re.compile(r"0x[0-9a-f]+|[0-9a-f]{8}-[0-9a-f-]{27}|'[^']*'|\"[^\"]*\"|\d+")

_json = msgspec.json.Encoder().encode


def fingerprint_of(parked: ParkedFact) -> str:
    """The same for failures that look alike: group, type, error without its numbers and names, and where it was raised."""
    frame = next((line.strip() for line in reversed(parked.stack.splitlines()) if line.startswith("  File ")), "")
    text = "\n".join((parked.group, parked.type, _VARIABLE.sub("…", parked.error), frame))
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def add_projection(app: App, group: str, told: Callable[[Sequence[Fact]], None] = lambda _: None) -> None:
    """Have an App fold all facts there are, from the oldest on, in order; `told` hears of each batch."""

    @app.subscriber(FactMessage, group=group, start="earliest", concurrency=1, batch=500)
    async def project(facts: list[FactMessage], tx: Transaction) -> None:
        """Fold a batch of facts into the read model."""
        Rows(message.fact for message in facts).write(tx)
        told([message.fact for message in facts])


class Rows:
    """What a batch of facts changes, gathered so that each table is written once."""

    def __init__(self, facts: Iterable[Fact]) -> None:
        self.processes: list[tuple[Any, ...]] = []
        self.beats: dict[str, tuple[Any, ...]] = {}
        self.handlers: list[tuple[Any, ...]] = []
        self.contracts: list[tuple[Any, ...]] = []
        self.events: list[tuple[Any, ...]] = []
        self.attempts: list[tuple[Any, ...]] = []
        self.parked: dict[tuple[str, str, str], tuple[Any, ...]] = {}
        self.settled: list[tuple[str, str, str]] = []
        self.flows: defaultdict[tuple[int, str, str, str], list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
        self.operations: list[tuple[Any, ...]] = []
        self.newest = 0
        for fact in facts:
            self._add(fact)

    def _add(self, fact: Fact) -> None:
        self.newest = max(self.newest, fact.at)
        match fact:
            case Manifest():
                self._manifest(fact)
            case Heartbeat():
                troubles, paused = _json(fact.troubles).decode(), _json(fact.paused).decode()
                self.beats[fact.process] = (fact.process, fact.app, fact.at, fact.stopping, troubles, paused, fact.outbox)
            case Deliveries():
                self._deliveries(fact)
            case Publications():
                for event in fact.events:
                    self._event(event)
                    self._flow(fact.at, f"app:{fact.app}", f"event:{event.type}", "published", fact.one_in)
            case OperationFact():
                asked = fact.operation
                answer = (fact.status, fact.detail, fact.at)
                self.operations.append(
                    (asked.id, asked.kind, asked.group, asked.by, asked.reason, asked.at, *answer, _json(asked).decode())
                )

    def _manifest(self, fact: Manifest) -> None:
        self.processes.append(
            (fact.process, fact.app, fact.host, fact.pid, fact.version, fact.broker, fact.store, fact.started, fact.at)
        )
        for handler in fact.handlers:
            self.handlers.append((fact.app, handler.name, handler.group, _json(handler).decode(), fact.at))
        for contract in fact.contracts:
            self.contracts.append((contract.name, contract.version, fact.app, _json(contract).decode()))

    def _event(self, event: PublishedFact) -> None:
        cause = (event.correlation or event.id, event.causation, event.attempt)
        self.events.append((event.id, event.source, event.type, event.topic, event.key, event.time, event.version, *cause, None, None))

    def _deliveries(self, fact: Deliveries) -> None:
        told: Counter[tuple[str, str]] = Counter()
        for delivery in fact.deliveries:
            self._delivery(fact, delivery)
            told[delivery.handler, delivery.kind] += 1
        # What was not told one by one is at least counted.
        for handler, kind, count in fact.counts:
            if count > told[handler, kind]:
                self._flow(fact.at, "", f"group:{fact.group}", kind, count - told[handler, kind])
        for parked in fact.parked:
            self.parked[parked.group, parked.source, parked.id] = (
                *(getattr(parked, name) for name in PARKED),
                fingerprint_of(parked),
            )

    def _delivery(self, fact: Deliveries, delivery: DeliveryFact) -> None:
        d = delivery
        if d.id:
            cause = (d.correlation or d.id, d.causation, d.by)
            self.events.append((d.id, d.source, d.type, d.topic, d.key, d.time, d.version, *cause, d.partition, d.position))
        if d.kind == "skipped":
            return
        self.attempts.append(
            (fact.group, d.handler, d.id, d.source, d.kind, d.attempt, d.at, d.waited, d.worked, d.error, fact.process)
        )
        self._flow(d.at, f"event:{d.type}", f"group:{fact.group}", d.kind, 1, d.worked, d.waited)
        if d.kind in ("handled", "discarded"):
            self.settled.append((fact.group, d.source, d.id))
            self.parked.pop((fact.group, d.source, d.id), None)
        for event in d.published:
            self._event(event)
            self._flow(d.at, f"group:{fact.group}", f"event:{event.type}", "published", 1)

    def _flow(self, at: int, origin: str, target: str, kind: str, count: float, worked: float = 0.0, waited: float = 0.0) -> None:
        flow = self.flows[at // 1_000_000, origin, target, kind]
        flow[0] += count
        flow[1] += worked
        flow[2] += waited

    def write(self, tx: Transaction) -> None:
        """Write all of it."""
        tx.executemany(
            "insert into process(process, app, host, pid, version, broker, store, started, seen) values(?,?,?,?,?,?,?,?,?)"
            " on conflict(process) do update set host=excluded.host, pid=excluded.pid, version=excluded.version, broker=excluded.broker,"
            " store=excluded.store, started=excluded.started, seen=max(seen, excluded.seen)",
            self.processes,
        )
        tx.executemany(
            "insert into process(process, app, seen, stopping, troubles, paused, outbox) values(?,?,?,?,?,?,?) on conflict(process)"
            " do update set seen=max(seen, excluded.seen), stopping=excluded.stopping, troubles=excluded.troubles, paused=excluded.paused,"
            " outbox=excluded.outbox",
            list(self.beats.values()),
        )
        tx.executemany("insert or replace into handler values(?,?,?,?,?)", self.handlers)
        tx.executemany(
            "insert into contract values(?,?,?,?) on conflict(name) do update set version=excluded.version, app=excluded.app,"
            " body=excluded.body where excluded.version>=version",
            self.contracts,
        )
        tx.executemany(
            "insert into event(id, source, type, topic, key, time, version, correlation, causation, by, partition, position)"
            " values(?,?,?,?,?,?,?,?,?,?,?,?) on conflict(id, source) do update set partition=excluded.partition,"
            " position=excluded.position where partition is null and excluded.partition is not null",
            self.events,
        )
        tx.executemany(
            "insert into attempt(grp, handler, id, source, kind, attempt, at, waited, worked, error, process)"
            " values(?,?,?,?,?,?,?,?,?,?,?)",
            self.attempts,
        )
        tx.executemany("delete from parked where grp=? and source=? and id=?", self.settled)
        tx.executemany(f"insert or replace into parked values({','.join('?' * 23)})", list(self.parked.values()))  # noqa: S608
        tx.executemany(
            "insert into flow values(?,?,?,?,?,?,?) on conflict do update set count=count+excluded.count,"
            " worked=worked+excluded.worked, waited=waited+excluded.waited",
            [(*place, *amounts) for place, amounts in self.flows.items()],
        )
        tx.executemany(
            "insert into operation values(?,?,?,?,?,?,?,?,?,?) on conflict(id) do update set status=excluded.status,"
            " detail=excluded.detail, answered=excluded.answered",
            self.operations,
        )
        self._sweep(tx)

    def _sweep(self, tx: Transaction) -> None:
        """Remove a little of what is too old, so that no batch pays for much."""
        old = self.newest - KEEP * 1_000_000
        tx.execute("delete from event where n in (select n from event order by n limit ?) and time<?", (SWEEP, old))
        tx.execute("delete from attempt where n in (select n from attempt order by n limit ?) and at<?", (SWEEP, old))
        tx.execute("delete from flow where second<?", (old // 1_000_000,))
        tx.execute("delete from process where seen<?", (old,))


def tables() -> Sequence[str]:
    """The names of the read model's tables."""
    return re.findall(r"create table if not exists (\w+)", SCHEMA)
