"""Checks the shop's promises, independently: reads databases, mails and the log, and asks no service anything.

Nothing here uses the framework: only SQL on the files, read-only, and the mails on disk.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from millstream.demos.shop.journal import answers, injections
from millstream.demos.shop.spool import Spool
from millstream.demos.shop.tables import STORES, Logged, dead_letters, log, rows

SHOWN = 5
#: Who handles what the poison pretends to be.
POISONED_SERVICES = ("inventory", "analytics")
SPAN_SECONDS = 5


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
class Sold:
    """What an order brought in, according to the log."""

    placed_at: float
    lines: tuple[tuple[str, int, int], ...]

    @property
    def total(self) -> int:
        return sum(quantity * price for _, quantity, price in self.lines)


@dataclass(slots=True)
class Evidence:
    """Everything the auditor looks at, read once."""

    answered: dict[str, set[str]]
    orders: dict[str, Order]
    published: dict[str, dict[str, set[tuple[str, str]]]]
    placed: dict[str, Sold]
    sold: dict[str, Sold]
    outcomes: Counter[tuple[str, str]]
    stock: dict[str, tuple[int, int]]
    reserved: dict[str, Counter[str]]
    effects: dict[str, Counter[tuple[str, str]]]
    totals: dict[str, int]
    products: dict[str, tuple[int, int]]
    spans: dict[int, tuple[int, int]]
    poison: list[bytes]
    dead: dict[str, list[bytes]]
    mails: Counter[str] | None
    log_size: int

    @property
    def reserved_orders(self) -> set[str]:
        return {order for order, effect in self.effects["inventory"] if effect == "reserved"}

    @property
    def rejected_orders(self) -> set[str]:
        return {order for order, effect in self.effects["inventory"] if effect == "rejected"}


def gather(folder: Path, *, own_mail_server: bool) -> Evidence:
    """Read the ground truth of the shop in this folder."""
    answered: dict[str, set[str]] = defaultdict(set)
    for answer in answers(folder).entries():
        answered[answer["key"]].add(answer["order_id"])
    poison = [bytes.fromhex(entry["data"]) for entry in injections(folder).entries() if entry["kind"] == "poison"]
    entries = log(folder)
    is_poison = set(poison)
    events = [each for each in entries if each.data not in is_poison]
    published: dict[str, dict[str, set[tuple[str, str]]]] = defaultdict(lambda: defaultdict(set))
    for event in events:
        published[event.type][str(event.key)].add((event.source, event.id))
    reserved: dict[str, Counter[str]] = defaultdict(Counter)
    for order_id, sku, quantity in rows(folder / "inventory.db", "select order_id, sku, quantity from reservations"):
        reserved[order_id][sku] += quantity
    return Evidence(
        answered=answered,
        orders=_orders(folder / "storefront.db"),
        published=published,
        placed=_sold(events, "order.placed"),
        sold=_sold(events, "stock.reserved"),
        outcomes=_counted(folder / "storefront.db", "select order_id, outcome from outcomes"),
        stock={sku: (initial, left) for sku, initial, left in rows(folder / "inventory.db", "select * from stock")},
        reserved=reserved,
        effects={
            name: _counted(folder / f"{name}.db", "select order_id, effect from effects")
            for name in ("inventory", "mailer", "analytics")
        },
        totals={name: value for name, value in rows(folder / "analytics.db", "select name, value from totals")},
        products={sku: (n, cents) for sku, n, cents in rows(folder / "analytics.db", "select * from products")},
        spans={span: (n, cents) for span, n, cents in rows(folder / "analytics.db", "select * from spans")},
        poison=poison,
        dead={name: dead_letters(folder, name) for name in STORES},
        mails=Spool(folder / "spool").deliveries() if own_mail_server else None,
        log_size=len(entries),
    )


def _orders(path: Path) -> dict[str, Order]:
    return {
        order_id: Order(total, tuple((line["sku"], line["quantity"], line["unit_price"]) for line in json.loads(lines)))
        for order_id, total, lines in rows(path, "select order_id, total, lines from orders")
    }


def _sold(events: Iterable[Logged], type_name: str) -> dict[str, Sold]:
    """Each order once, however often the log has it."""
    found: dict[str, Sold] = {}
    for event in events:
        if event.type == type_name:
            body = json.loads(event.data)
            lines = tuple((line["sku"], line["quantity"], line["unit_price"]) for line in body["lines"])
            found[body["order_id"]] = Sold(datetime.fromisoformat(body["placed_at"]).timestamp(), lines)
    return found


def _counted(path: Path, sql: str) -> Counter[tuple[str, str]]:
    return Counter((first, second) for first, second in rows(path, sql))


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
        _check("stock: initial - reserved = on hand, never below zero", sorted(evidence.stock), lambda sku: _stock(evidence, sku)),
        _check("one effect per order per service", _expected_effects(evidence), _one_effect),
        _mails(evidence),
        _check("dashboard totals = recomputed from the log", _totals(evidence), _equal),
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
    return {order for orders in evidence.answered.values() for order in orders}


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
    """For each figure of the dashboard: its name, what it shows, and what the log says."""
    published = evidence.published
    truth = {
        "placed": len(published["order.placed"]),
        "reserved": len(published["stock.reserved"]),
        "rejected": len(published["order.rejected"]),
        "mailed": len(published["confirmation.sent"]),
        "revenue": sum(order.total for order in evidence.sold.values()),
    }
    for name, value in truth.items():
        yield name, evidence.totals.get(name, 0), value
    quantities: Counter[str] = Counter()
    earned: Counter[str] = Counter()
    for order in evidence.sold.values():
        for sku, quantity, price in order.lines:
            quantities[sku] += quantity
            earned[sku] += quantity * price
    for sku in sorted(quantities.keys() | evidence.products.keys()):
        quantity, revenue = evidence.products.get(sku, (0, 0))
        yield f"{sku} sold", quantity, quantities[sku]
        yield f"{sku} revenue", revenue, earned[sku]
    orders = Counter(int(order.placed_at) // SPAN_SECONDS for order in evidence.placed.values())
    revenues: Counter[int] = Counter()
    for order in evidence.sold.values():
        revenues[int(order.placed_at) // SPAN_SECONDS] += order.total
    for span in sorted(orders.keys() | revenues.keys() | evidence.spans.keys()):
        shown = evidence.spans.get(span, (0, 0))
        yield f"orders at {span * SPAN_SECONDS}", shown[0], orders[span]
        yield f"revenue at {span * SPAN_SECONDS}", shown[1], revenues[span]


def _equal(figure: tuple[str, int, int]) -> str | None:
    name, shown, truth = figure
    return None if shown == truth else f"{name}: the dashboard says {shown}, the log says {truth}"


def _poisoned(evidence: Evidence) -> Iterable[tuple[str, bytes, int]]:
    """For each service and poison event: how many dead letters with its bytes there are."""
    for service in POISONED_SERVICES:
        for body in evidence.poison:
            yield service, body, evidence.dead[service].count(body)


def _kept(case: tuple[str, bytes, int]) -> str | None:
    service, body, times = case
    return None if times == 1 else f"{service}: {body!r} is there {times} times as a dead letter"


def _dead(evidence: Evidence) -> Iterable[tuple[str, bytes]]:
    for service, letters in evidence.dead.items():
        for body in letters:
            yield service, body


def _only_poison(evidence: Evidence, service: str, body: bytes) -> str | None:
    return None if body in evidence.poison else f"{service}: {body[:80]!r} is a dead letter"
