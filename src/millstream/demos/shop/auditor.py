"""Checks the shop's promises, independently: reads databases, mails and the log, and asks no service anything.

Nothing here uses the framework: only SQL on the files, read-only, and the mails on disk.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from millstream.demos.shop.journal import answers, injections
from millstream.demos.shop.spool import Spool

SHOWN = 5
#: The only knowledge of the framework's tables: what a store parks, and what its outbox holds.
DEAD_LETTERS = "select source, event_id, data from store_parked where state = 'dead'"
WAITING = "select (select count(*) from store_parked where state != 'dead') + (select count(*) from store_outbox)"
POISONED_SERVICES = ("inventory", "analytics")


@dataclass(frozen=True, slots=True)
class Invariant:
    """One promise, how often it was checked, and where it does not hold."""

    name: str
    checked: int
    violations: int
    evidence: list[str]

    @property
    def ok(self) -> bool:
        return self.violations == 0

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "ok": self.ok,
            "checked": self.checked,
            "violations": self.violations,
            "evidence": self.evidence,
        }


@dataclass(frozen=True, slots=True)
class Order:
    """An order as the storefront's database has it."""

    total: int
    lines: tuple[tuple[str, int, int], ...]


@dataclass(slots=True)
class Evidence:
    """Everything the auditor looks at, read once."""

    answered: dict[str, set[str]]
    orders: dict[str, Order]
    published: dict[str, dict[str, set[tuple[str, str]]]]
    outcomes: Counter[tuple[str, str]]
    stock: dict[str, tuple[int, int]]
    reserved: dict[str, Counter[str]]
    effects: dict[str, Counter[tuple[str, str]]]
    totals: dict[str, int]
    products: dict[str, tuple[int, int]]
    poison: dict[tuple[str, str], bytes]
    dead: dict[str, list[tuple[str, str, bytes]]]
    mails: Counter[str] | None
    log_size: int

    @property
    def reserved_orders(self) -> set[str]:
        return {order for order, effect in self.effects["inventory"] if effect == "reserved"}

    @property
    def rejected_orders(self) -> set[str]:
        return {order for order, effect in self.effects["inventory"] if effect == "rejected"}


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """A query on a database file that cannot change it."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        connection.set_busy_timeout(5000)
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def gather(data: Path, *, own_mail_server: bool) -> Evidence:
    """Read the ground truth of the shop in this folder."""
    answered: dict[str, set[str]] = defaultdict(set)
    for answer in answers(data).entries():
        answered[answer["key"]].add(answer["order_id"])
    poison = {
        (entry["source"], entry["id"]): bytes.fromhex(entry["data"])
        for entry in injections(data).entries()
        if entry["kind"] == "poison"
    }
    published: dict[str, dict[str, set[tuple[str, str]]]] = defaultdict(lambda: defaultdict(set))
    log = rows(data / "broker.db", "select type, key, source, id from broker_event")
    for type_name, key, source, event_id in log:
        if (source, event_id) not in poison:
            published[type_name][key].add((source, event_id))
    reserved: dict[str, Counter[str]] = defaultdict(Counter)
    for order_id, sku, quantity in rows(data / "inventory.db", "select order_id, sku, quantity from reservations"):
        reserved[order_id][sku] += quantity
    return Evidence(
        answered=answered,
        orders={order_id: _order(total, lines) for order_id, total, lines in _orders(data)},
        published=published,
        outcomes=Counter(rows(data / "storefront.db", "select order_id, outcome from outcomes")),  # type: ignore[arg-type]
        stock={sku: (initial, left) for sku, initial, left in rows(data / "inventory.db", "select * from stock")},
        reserved=reserved,
        effects={name: _effects(data / f"{name}.db") for name in ("inventory", "mailer", "analytics")},
        totals=dict(rows(data / "analytics.db", "select name, value from totals")),  # type: ignore[arg-type]
        products={sku: (n, cents) for sku, n, cents in rows(data / "analytics.db", "select * from products")},
        poison=poison,
        dead={name: dead_letters(data / f"{name}.db") for name in ("storefront", "inventory", "mailer", "analytics")},
        mails=Spool(data / "spool").deliveries() if own_mail_server else None,
        log_size=len(log),
    )


def _orders(data: Path) -> list[tuple[Any, ...]]:
    return rows(data / "storefront.db", "select order_id, total, lines from orders")


def _order(total: int, lines: str) -> Order:
    return Order(total, tuple((line["sku"], line["quantity"], line["unit_price"]) for line in json.loads(lines)))


def _effects(path: Path) -> Counter[tuple[str, str]]:
    return Counter(rows(path, "select order_id, effect from effects"))  # type: ignore[arg-type]


def dead_letters(path: Path) -> list[tuple[str, str, bytes]]:
    """Source, id and bytes of each dead letter in a service's store."""
    return rows(path, DEAD_LETTERS)  # type: ignore[return-value]


def waiting_in_store(path: Path) -> int:
    """Deliveries that wait for a retry, and events on their way to the broker."""
    return rows(path, WAITING)[0][0]


def audit(evidence: Evidence) -> list[Invariant]:
    """Check every invariant."""
    return [
        _check("one order per idempotency key", evidence.answered.items(), lambda item: _one_order(*item)),
        _check(
            "every accepted order is in the log exactly once",
            sorted(evidence.orders.keys() | evidence.published["order.placed"].keys() | _promised(evidence)),
            lambda order: _in_log_once(evidence, order),
        ),
        _check(
            "every order has exactly one terminal state",
            sorted(evidence.orders),
            lambda order: _one_end(evidence, order),
        ),
        _check("stock: initial - reserved = on hand", sorted(evidence.stock), lambda sku: _stock(evidence, sku)),
        _check("one effect per order per service", _expected_effects(evidence), _one_effect),
        _mails(evidence),
        _check("dashboard totals = totals of the services' databases", _totals(evidence), _equal),
        _check("each poison event is a dead letter, bytes intact", _poisoned(evidence), _kept),
        _check("nothing but poison is a dead letter", _dead(evidence), lambda dead: _only_poison(evidence, *dead)),
    ]


def _check(name: str, subjects: Iterable[Any], complaint: Callable[[Any], str | None]) -> Invariant:
    checked = 0
    complaints: list[str] = []
    for subject in subjects:
        checked += 1
        if (text := complaint(subject)) is not None:
            complaints.append(text)
    return Invariant(name, checked, len(complaints), complaints[:SHOWN])


def _promised(evidence: Evidence) -> set[str]:
    return set().union(*evidence.answered.values()) if evidence.answered else set()


def _one_order(key: str, orders: set[str]) -> str | None:
    return None if len(orders) == 1 else f"key {key}: orders {', '.join(sorted(orders))}"


def _in_log_once(evidence: Evidence, order: str) -> str | None:
    if order not in evidence.orders:
        return f"{order}: promised or published, but not in the storefront's database"
    events = len(evidence.published["order.placed"].get(order, ()))
    return None if events == 1 else f"{order}: {events} OrderPlaced events in the log"


def _one_end(evidence: Evidence, order: str) -> str | None:
    seen = evidence.outcomes[order, "reserved"], evidence.outcomes[order, "rejected"]
    published = sum(len(evidence.published[name].get(order, ())) for name in ("stock.reserved", "order.rejected"))
    if sum(seen) == 1 and published == 1:
        return None
    return f"{order}: reserved {seen[0]} times, rejected {seen[1]} times; {published} such events in the log"


def _stock(evidence: Evidence, sku: str) -> str | None:
    initial, on_hand = evidence.stock[sku]
    noted = sum(reservation[sku] for reservation in evidence.reserved.values())
    ordered = sum(
        quantity
        for order in evidence.reserved_orders & evidence.orders.keys()
        for line_sku, quantity, _ in evidence.orders[order].lines
        if line_sku == sku
    )
    if initial - noted == on_hand >= 0 and noted == ordered:
        return None
    return f"{sku}: initial {initial}, reserved {noted}, on hand {on_hand}; the reserved orders ask for {ordered}"


def _expected_effects(evidence: Evidence) -> Iterable[tuple[str, str, int]]:
    """For each service and order, what it did and how often."""
    reserved, rejected, inventory = evidence.reserved_orders, evidence.rejected_orders, evidence.effects["inventory"]
    for order in sorted(evidence.orders):
        yield "inventory", order, inventory[order, "reserved"] + inventory[order, "rejected"]
        yield "analytics (placed)", order, evidence.effects["analytics"][order, "placed"]
    for order in sorted(reserved):
        yield "mailer", order, evidence.effects["mailer"][order, "mailed"]
        yield "storefront (mailed)", order, evidence.outcomes[order, "mailed"]
        for step in ("reserved", "mailed"):
            yield f"analytics ({step})", order, evidence.effects["analytics"][order, step]
    for order in sorted(rejected):
        yield "analytics (rejected)", order, evidence.effects["analytics"][order, "rejected"]


def _one_effect(effect: tuple[str, str, int]) -> str | None:
    service, order, times = effect
    return None if times == 1 else f"{service}: {order} had its effect {times} times"


def _mails(evidence: Evidence) -> Invariant:
    name = "one confirmation mail per reserved order, by Message-ID"
    if evidence.mails is None:
        return Invariant(name, 0, 0, ["not checked: the mails went to another server"])
    wanted = {f"<{order}.confirmation@shop>" for order in evidence.reserved_orders}
    found = _check(
        name, sorted(wanted ^ evidence.mails.keys()), lambda each: f"{each}: {'no mail' if each in wanted else 'unasked'}"
    )
    repeats = evidence.mails.total() - len(evidence.mails)
    note = [f"{repeats} deliveries were repeats of a Message-ID: SMTP cannot promise more"] if repeats else []
    return Invariant(name, len(wanted | evidence.mails.keys()), found.violations, [*found.evidence, *note])


def _totals(evidence: Evidence) -> Iterable[tuple[str, int, int]]:
    """For each figure of the dashboard: its name, what it shows, what the ledgers say."""
    reserved = [evidence.orders[order] for order in evidence.reserved_orders & evidence.orders.keys()]
    truth = {
        "placed": len(evidence.orders),
        "reserved": len(evidence.reserved_orders),
        "rejected": len(evidence.rejected_orders),
        "mailed": len(evidence.reserved_orders),
        "revenue": sum(order.total for order in reserved),
    }
    for name, value in truth.items():
        yield name, evidence.totals.get(name, 0), value
    sold: Counter[str] = Counter()
    earned: Counter[str] = Counter()
    for order in reserved:
        for sku, quantity, price in order.lines:
            sold[sku] += quantity
            earned[sku] += quantity * price
    for sku in sorted(sold.keys() | evidence.products.keys()):
        quantity, revenue = evidence.products.get(sku, (0, 0))
        yield f"{sku} sold", quantity, sold[sku]
        yield f"{sku} revenue", revenue, earned[sku]


def _equal(figure: tuple[str, int, int]) -> str | None:
    name, shown, truth = figure
    return None if shown == truth else f"{name}: the dashboard says {shown}, the databases say {truth}"


def _poisoned(evidence: Evidence) -> Iterable[tuple[str, str, int]]:
    """For each service and poison event: how many dead letters with its bytes there are."""
    for service in POISONED_SERVICES:
        for (source, event_id), body in evidence.poison.items():
            yield service, event_id, evidence.dead[service].count((source, event_id, body))


def _kept(case: tuple[str, str, int]) -> str | None:
    service, event_id, times = case
    return None if times == 1 else f"{service}: poison {event_id} is there {times} times as a dead letter"


def _dead(evidence: Evidence) -> Iterable[tuple[str, str, str]]:
    for service, letters in evidence.dead.items():
        for source, event_id, _ in letters:
            yield service, source, event_id


def _only_poison(evidence: Evidence, service: str, source: str, event_id: str) -> str | None:
    return None if (source, event_id) in evidence.poison else f"{service}: {source} {event_id} is a dead letter"
