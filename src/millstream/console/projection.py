"""The projection: folds facts into the console's own tables.

An ordinary batch handler: its writes and its position commit together, so the read model
can be deleted and rebuilt from the facts at any time.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Any, Literal

import msgspec

from millstream.app.app import App
from millstream.console.schema import KEEP, KEEP_DISCARDED, KINDS, MOST_EVENTS, STEPS
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
    Waiting,
)
from millstream.core.store import Transaction

#: Messages of one transaction; each can tell of hundreds of deliveries, and screens wait for none of it.
BATCH = 64
#: A batch removes so many old events at least, and twice as many as it adds: the file stops growing, and no batch pays for much.
SWEEP = 500
#: How much of the file is kept in memory while it is written, in kibibytes.
CACHED = 64 << 10
#: What is kept of a parked delivery, in the order of its table.
PARKED = (
    "group source id handler type key time topic partition position version correlation state attempts due first_failure"
    " last_failure error reason size"
).split()

_VARIABLE = re.compile(r"0x[0-9a-f]+|[0-9a-f]{8}-[0-9a-f-]{27}|'[^']*'|\"[^\"]*\"|\d+")
_KIND = {kind: number for number, kind in enumerate(KINDS)}

_json = msgspec.json.Encoder().encode


def fingerprint_of(parked: ParkedFact) -> str:
    """The same for failures that look alike: group, type, error without its numbers and names, and where it was raised."""
    frame = next((line.strip() for line in reversed(parked.stack.splitlines()) if line.startswith("  File ")), "")
    text = "\n".join((parked.group, parked.type, _VARIABLE.sub("…", parked.error), frame))
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def add_projection(
    app: App,
    group: str,
    told: Callable[[Sequence[Fact]], None] = lambda _: None,
    *,
    most_events: int = MOST_EVENTS,
    start: Literal["earliest", "latest"] = "earliest",
) -> None:
    """Have an App fold all facts there are, from the oldest on, in order; `told` hears of each batch, on a thread.

    A broker that keeps no history needs `start="latest"`.
    """

    @app.subscriber(FactMessage, group=group, start=start, concurrency=1, ordered=False, batch=BATCH, timeout=300)
    def project(messages: list[FactMessage], tx: Transaction) -> None:
        """Fold a batch of facts into the read model; on a thread, so that screens are answered meanwhile."""
        facts = [message.fact for message in messages]
        Rows(facts).write(tx, most_events=most_events)
        told(facts)


class Rows:
    """What a batch of facts changes, gathered so that each table is written once."""

    def __init__(self, facts: Iterable[Fact]) -> None:
        self.names: set[str] = set()
        self.processes: list[tuple[Any, ...]] = []
        self.beats: dict[str, tuple[Any, ...]] = {}
        self.handlers: list[tuple[Any, ...]] = []
        self.contracts: list[tuple[Any, ...]] = []
        self.events: dict[tuple[str, str], list[Any]] = {}
        self.attempts: list[tuple[Any, ...]] = []
        self.parked: dict[tuple[str, str, str], tuple[ParkedFact, int]] = {}
        """What waits, and since when it has been like that."""
        self.settled: dict[tuple[str, str, str], tuple[str, int, str]] = {}
        """What waits no longer: how it ended, when, and why."""
        self.taken: dict[str, int] = {}
        """Groups of which all that waits was told anew, as of when."""
        self.handled: defaultdict[tuple[int, str, str, str], list[float]] = defaultdict(lambda: [0.0, 0, 0.0, 0.0])
        """By second, type, group and kind: how many, how many of them were told one by one, seconds worked and waited."""
        self.published: defaultdict[tuple[int, str, str], list[float]] = defaultdict(lambda: [0.0, 0, 0.0, 0.0])
        """By second, origin and type."""
        self.operations: list[tuple[Any, ...]] = []
        self.newest = 0
        for fact in facts:
            self._add(fact)

    def _add(self, fact: Fact) -> None:
        self.newest = max(self.newest, fact.at)
        match fact:
            case Deliveries():
                self._deliveries(fact)
            case Publications():
                self._publications(fact)
            case Waiting():
                for parked in fact.parked:
                    self._waits(parked, fact.taken)
                if fact.last:
                    self.taken[fact.group] = fact.taken
            case Heartbeat():
                troubles, paused, unread = (_json(each).decode() for each in (fact.troubles, fact.paused, fact.unread))
                self.beats[fact.process] = (fact.process, fact.app, fact.at, fact.stopping, troubles, paused, fact.outbox, unread)
            case Manifest():
                self._manifest(fact)
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

    # What was published, and what became of it

    def _publications(self, fact: Publications) -> None:
        second, origin = fact.at // 1_000_000, f"app:{fact.app}"
        # What was not told one by one is taken to be like what was.
        weight = fact.count / len(fact.events) if fact.events else 1.0
        for event in fact.events:
            self._event(event, second)
            flow = self.published[second, origin, event.type]
            flow[0] += weight
            flow[1] += 1

    def _event(self, e: PublishedFact, second: int) -> None:
        self.events.setdefault(
            (e.id, e.source),
            [e.type, e.topic, e.key, e.time, e.version, e.correlation or e.id, e.causation, e.attempt, second, None, None],
        )

    def _deliveries(self, fact: Deliveries) -> None:
        group, process = fact.group, fact.process
        told = Counter([(delivery.handler, delivery.kind) for delivery in fact.deliveries])
        weights = {(handler, kind): count / told[handler, kind] for handler, kind, count in fact.counts if told[handler, kind]}
        for delivery in fact.deliveries:
            if delivery.kind != "skipped":
                self._delivery(group, process, delivery, weights.get((delivery.handler, delivery.kind), 1.0))
        for handler, kind, count in fact.counts:
            if not told[handler, kind] and kind != "skipped":
                # Nothing says of which type they were.
                self.handled[fact.at // 1_000_000, "", group, kind][0] += count
        if fact.parked:
            since = {(delivery.source, delivery.id): delivery.at for delivery in fact.deliveries}
            for parked in fact.parked:
                self._waits(parked, since.get((parked.source, parked.id), fact.at))

    def _waits(self, parked: ParkedFact, since: int) -> None:
        known = self.parked.get((parked.group, parked.source, parked.id))
        if known is None or known[1] <= since:
            self.parked[parked.group, parked.source, parked.id] = parked, since

    def _delivery(self, group: str, process: str, d: DeliveryFact, weight: float) -> None:
        kind, second = d.kind, d.at // 1_000_000
        if d.id:
            event = self.events.get((d.id, d.source))
            if event is None:
                self.events[d.id, d.source] = [
                    d.type, d.topic, d.key, d.time, d.version, d.correlation or d.id, d.causation, d.by, second,
                    d.partition, d.position,
                ]  # fmt: skip
            elif event[9] is None:
                event[9], event[10] = d.partition, d.position
            self.attempts.append((group, d.handler, kind, d.attempt, d.at, d.waited, d.worked, d.error, process, d.id, d.source))
        flow = self.handled[second, d.type, group, kind]
        flow[0] += weight
        flow[1] += 1
        flow[2] += d.worked * weight
        flow[3] += d.waited * weight
        if kind == "handled" or kind == "discarded":
            self.settled[group, d.source, d.id] = (kind, d.at, d.error)
            self.parked.pop((group, d.source, d.id), None)
        for event in d.published:
            self._event(event, second)
            flow = self.published[second, f"group:{group}", event.type]
            flow[0] += weight
            flow[1] += 1

    # Writing

    def write(self, tx: Transaction, *, most_events: int = MOST_EVENTS) -> None:
        """Write all of it."""
        tx.execute(f"pragma cache_size=-{CACHED}")
        self._write_processes(tx)
        self._write_events(tx)
        self._write_parked(tx)
        self._write_flows(tx)
        tx.executemany(
            "insert into operation values(?,?,?,?,?,?,?,?,?,?) on conflict(id) do update set status=excluded.status,"
            " detail=excluded.detail, answered=excluded.answered",
            self.operations,
        )
        self._sweep(tx, most_events)

    def _write_processes(self, tx: Transaction) -> None:
        tx.executemany(
            "insert into process(process, app, host, pid, version, broker, store, started, seen) values(?,?,?,?,?,?,?,?,?)"
            " on conflict(process) do update set host=excluded.host, pid=excluded.pid, version=excluded.version, broker=excluded.broker,"
            " store=excluded.store, started=excluded.started, seen=max(seen, excluded.seen)",
            self.processes,
        )
        tx.executemany(
            "insert into process(process, app, seen, stopping, troubles, paused, outbox, unread) values(?,?,?,?,?,?,?,?)"
            " on conflict(process) do update set seen=max(seen, excluded.seen), stopping=excluded.stopping, troubles=excluded.troubles,"
            " paused=excluded.paused, outbox=excluded.outbox, unread=excluded.unread",
            list(self.beats.values()),
        )
        tx.executemany("insert or replace into handler values(?,?,?,?,?)", self.handlers)
        tx.executemany(
            "insert into contract values(?,?,?,?) on conflict(name) do update set version=excluded.version, app=excluded.app,"
            " body=excluded.body where excluded.version>=version",
            self.contracts,
        )

    def _write_events(self, tx: Transaction) -> None:
        names = {source for _, source in self.events}
        for type_, topic, *_, by, _heard, _partition, _position in self.events.values():
            names.add(type_)
            names.add(topic)
            names.add(by or "")
        for group, handler, *_, process, _id, _source in self.attempts:
            names.add(group)
            names.add(handler)
            names.add(process)
        number = _numbers(tx, names)
        tx.executemany(
            "insert into event(id, source, type, topic, key, time, version, correlation, causation, by, heard, partition, position)"
            " values(?,?,?,?,?,?,?,?,?,?,?,?,?) on conflict(id, source) do update set partition=excluded.partition,"
            " position=excluded.position where partition is null and excluded.partition is not null",
            [
                (id_, number[source], number[type_], number[topic], *what, number[by] if by else None, heard, partition, position)
                for (id_, source), (type_, topic, *what, by, heard, partition, position) in self.events.items()
            ],
        )
        tx.executemany(
            "insert into attempt select n, (select coalesce(max(seq), 0) + 1 from attempt where event=n),?,?,?,?,?,?,?,?,?"
            " from event where id=? and source=?",
            [
                (
                    number[group], number[handler], _KIND[kind], attempt, at, waited, worked, error or None, number[process],
                    id_, number[source],
                )
                for group, handler, kind, attempt, at, waited, worked, error, process, id_, source in self.attempts
            ],
        )  # fmt: skip

    def _write_parked(self, tx: Transaction) -> None:
        if self.settled and tx.execute("select 1 from parked where state<>'discarded' limit 1"):
            where = "where grp=? and source=? and id=?"
            handled = [parked for parked, (kind, _, _) in self.settled.items() if kind == "handled"]
            tx.executemany(f"delete from parked {where}", handled)  # noqa: S608
            tx.executemany(f"delete from letter {where}", handled)  # noqa: S608
            tx.executemany(
                f"update parked set state='discarded', at=?, reason=? {where}",  # noqa: S608
                [(at, why, *parked) for parked, (kind, at, why) in self.settled.items() if kind == "discarded"],
            )
        rows: list[tuple[Any, ...]] = []
        letters: list[tuple[Any, ...]] = []
        for parked, since in self.parked.values():
            if not _is_over(tx, parked, since):
                rows.append((*[getattr(parked, name) for name in PARKED], fingerprint_of(parked), since))
                letters.append((parked.group, parked.source, parked.id, parked.stack, parked.data))
        tx.executemany(_PARK, rows)
        tx.executemany("insert or replace into letter(grp, source, id, stack, data) values(?,?,?,?,?)", letters)
        for group, taken in self.taken.items():
            gone = tx.execute("select grp, source, id from parked where grp=? and state<>'discarded' and at<?", (group, taken))
            tx.executemany("delete from parked where grp=? and source=? and id=?", gone)
            tx.executemany("delete from letter where grp=? and source=? and id=?", gone)

    def _write_flows(self, tx: Transaction) -> None:
        flows: defaultdict[tuple[int, int, str, str, str], list[float]] = defaultdict(lambda: [0.0, 0, 0.0, 0.0])
        for (second, type_, group, kind), amounts in self.handled.items():
            _add_up(flows, second, f"event:{type_}" if type_ else "", f"group:{group}", kind, amounts)
        for (second, origin, type_), amounts in self.published.items():
            _add_up(flows, second, origin, f"event:{type_}", "published", amounts)
        totals: defaultdict[tuple[int, int, str], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
        for (step, at, _, _, kind), (count, _, worked, waited) in flows.items():
            total = totals[step, at, kind]
            total[0] += count
            total[1] += worked
            total[2] += waited
        edges = {(origin, target, kind) for _, _, origin, target, kind in flows}
        tx.executemany("insert or ignore into edge(origin, target, kind) values(?,?,?)", list(edges))
        number = {edge: tx.execute("select n from edge where origin=? and target=? and kind=?", edge)[0][0] for edge in edges}
        tx.executemany(
            "insert into flow values(?,?,?,?,?,?,?) on conflict do update set count=count+excluded.count, told=told+excluded.told,"
            " worked=worked+excluded.worked, waited=waited+excluded.waited",
            [(step, at, number[origin, target, kind], *amounts) for (step, at, origin, target, kind), amounts in flows.items()],
        )
        tx.executemany(
            "insert into total values(?,?,?,?,?,?) on conflict do update set count=count+excluded.count,"
            " worked=worked+excluded.worked, waited=waited+excluded.waited",
            [(*place, *amounts) for place, amounts in totals.items()],
        )

    def _sweep(self, tx: Transaction, most_events: int) -> None:
        """Remove a little of what is too old or too much."""
        now = self.newest // 1_000_000
        old = now - int(KEEP)
        ((first, last),) = tx.execute("select (select n from event order by n limit 1), (select n from event order by n desc limit 1)")
        if first is not None:
            some = first + SWEEP + 2 * len(self.events)
            # By number, which is the order of arrival: the first that is young enough ends it.
            ((young,),) = tx.execute(
                "select coalesce((select n from event where n>=? and n<? and heard>=? order by n limit 1), ?)", (first, some, old, some)
            )
            cut = max(young, min(some, last - most_events + 1))
            if cut > first:
                tx.execute("delete from attempt where event<?", (cut,))
                tx.execute("delete from event where n<?", (cut,))
        for step, kept in STEPS.items():
            tx.execute("delete from flow where step=? and at<?", (step, now - kept))
            tx.execute("delete from total where step=? and at<?", (step, now - kept))
        tx.execute("delete from process where seen<?", (old * 1_000_000,))
        discarded = (now - int(KEEP_DISCARDED)) * 1_000_000
        for row in tx.execute("select grp, source, id from parked where state='discarded' and at<? limit ?", (discarded, SWEEP)):
            tx.execute("delete from letter where grp=? and source=? and id=?", row)
            tx.execute("delete from parked where grp=? and source=? and id=?", row)


def _add_up(
    flows: defaultdict[tuple[int, int, str, str, str], list[float]], second: int, origin: str, target: str, kind: str, more: list[float]
) -> None:
    """Add to every step that the second belongs to."""
    for step in STEPS:
        amounts = flows[step, second - second % step, origin, target, kind]
        for place, amount in enumerate(more):
            amounts[place] += amount


def _numbers(tx: Transaction, names: Iterable[str]) -> dict[str, int]:
    """The number of each name; new ones get one."""
    rows = [(name,) for name in sorted(names)]
    tx.executemany("insert or ignore into name(text) values(?)", rows)
    return {name: tx.execute("select n from name where text=?", (name,))[0][0] for (name,) in rows}


#: Facts of several processes can overtake each other: what is older changes nothing.
_PARK = (
    f"insert into parked values({','.join('?' * (len(PARKED) + 2))}) on conflict do update set "  # noqa: S608
    + ", ".join(f"{name}=excluded.{name}" for name in ("grp", *PARKED[1:], "fingerprint", "at"))
    + " where excluded.at>=at"
)


def _is_over(tx: Transaction, parked: ParkedFact, since: int) -> bool:
    """Whether it is known to have been handled or discarded after that."""
    sql = (
        "select 1 from event e join attempt a on a.event=e.n where e.id=? and e.source=(select n from name where text=?)"
        " and a.grp=(select n from name where text=?) and a.kind in (?,?) and a.at>? limit 1"
    )
    return bool(tx.execute(sql, (parked.id, parked.source, parked.group, _KIND["handled"], _KIND["discarded"], since)))


def tables() -> Sequence[str]:
    """The names of the read model's tables."""
    from millstream.console.schema import SCHEMA

    return re.findall(r"create table if not exists (\w+)", SCHEMA)
