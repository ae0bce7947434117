"""The auditor accepts a shop that kept its promises, and finds each way to break one."""

from collections import Counter, defaultdict

from millstream.demos.shop.auditor import Evidence, Order, Sold, audit


def good_evidence() -> Evidence:
    """One reserved order, handled as it should be."""
    published = defaultdict[str, dict[str, set[tuple[str, str]]]](lambda: defaultdict(set))
    for number, name in enumerate(("order.placed", "stock.reserved", "confirmation.sent")):
        published[name]["ord_1"].add(("/shop", str(number)))
    return Evidence(
        answered={"key": {"ord_1"}},
        orders={"ord_1": Order(518, (("oats", 2, 259),))},
        published=published,
        placed={"ord_1": Sold(1000.0, (("oats", 2, 259),))},
        sold={"ord_1": Sold(1000.0, (("oats", 2, 259),))},
        outcomes=Counter({("ord_1", "reserved"): 1, ("ord_1", "mailed"): 1}),
        stock={"oats": (10, 8)},
        reserved={"ord_1": Counter({"oats": 2})},
        effects={
            "inventory": Counter({("ord_1", "reserved"): 1}),
            "mailer": Counter({("ord_1", "mailed"): 1}),
            "analytics": Counter({("ord_1", step): 1 for step in ("placed", "reserved", "mailed")}),
        },
        totals={"placed": 1, "reserved": 1, "mailed": 1, "revenue": 518},
        products={"oats": (2, 518)},
        spans={200: (1, 518)},
        poison=[b"bad"],
        dead={"inventory": [b"bad"], "analytics": [b"bad"]},
        mails=Counter({"<ord_1.confirmation@shop>": 1}),
        log_size=4,
    )


def broken(evidence: Evidence) -> set[str]:
    """The names of the promises that do not hold, up to their first colon or comma."""
    return {invariant.name.split(":")[0].split(",")[0] for invariant in audit(evidence) if not invariant.ok}


def test_the_auditor_accepts_a_shop_that_kept_its_promises() -> None:
    """One order, reserved and mailed, and one poison event."""
    assert broken(good_evidence()) == set()


def test_the_auditor_finds_a_lost_event() -> None:
    """The order is in the database, but its event is not in the log."""
    evidence = good_evidence()

    evidence.published["order.placed"].clear()

    assert "every accepted order is in the log exactly once" in broken(evidence)


def test_the_auditor_finds_an_order_that_was_promised_and_forgotten() -> None:
    """A customer got an answer that no database remembers."""
    evidence = good_evidence()

    evidence.answered["other"] = {"ord_2"}

    assert broken(evidence) == {"every accepted order is in the log exactly once"}


def test_the_auditor_finds_a_double_effect() -> None:
    """The mailer did its work twice for one order."""
    evidence = good_evidence()

    evidence.effects["mailer"]["ord_1", "mailed"] = 2

    assert broken(evidence) == {"one effect per order per service"}


def test_the_auditor_finds_stock_reserved_twice() -> None:
    """Even though initial - reserved = on hand still adds up."""
    evidence = good_evidence()

    evidence.reserved["ord_1"]["oats"] = 4
    evidence.stock["oats"] = (10, 6)

    assert broken(evidence) == {"stock"}


def test_the_auditor_finds_a_missing_mail() -> None:
    """The order is reserved, and nothing arrived."""
    evidence = good_evidence()
    assert evidence.mails is not None

    evidence.mails.clear()

    assert broken(evidence) == {"one confirmation mail per reserved order"}


def test_the_auditor_finds_poison_whose_bytes_changed() -> None:
    """A dead letter is only as good as its bytes."""
    evidence = good_evidence()

    evidence.dead["inventory"] = [b"mended"]

    assert broken(evidence) == {"each poison event is a dead letter", "nothing but poison is a dead letter"}


def test_the_auditor_finds_a_healthy_event_among_the_dead_letters() -> None:
    """Nothing but poison may end there."""
    evidence = good_evidence()

    evidence.dead["mailer"] = [b"{}"]

    assert broken(evidence) == {"nothing but poison is a dead letter"}


def test_the_auditor_finds_a_dashboard_that_counts_wrongly() -> None:
    """One span of five seconds shows another revenue than the log gives."""
    evidence = good_evidence()

    evidence.spans[200] = (1, 519)

    assert broken(evidence) == {"dashboard totals = recomputed from the log"}


def test_the_auditor_finds_an_oversold_product() -> None:
    """Even if the books add up: nobody can hand over what is not there."""
    evidence = good_evidence()

    evidence.stock["oats"] = (1, -1)

    assert broken(evidence) == {"stock"}


def test_the_auditor_finds_one_click_that_became_two_orders() -> None:
    """Two answers to one idempotency key."""
    evidence = good_evidence()

    evidence.answered["key"].add("ord_2")

    assert "one order per idempotency key" in broken(evidence)
