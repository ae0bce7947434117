"""The shop's parts, each without the others."""

import asyncio
import smtplib
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from aiosmtpd.smtp import SMTP

from millstream.demos.shop.auditor import Evidence, Order, audit
from millstream.demos.shop.catcher import Keeper
from millstream.demos.shop.contracts import Line, StockReserved
from millstream.demos.shop.mailer import confirmation, send
from millstream.demos.shop.options import Protections
from millstream.demos.shop.spool import Spool
from millstream.demos.shop.storefront import InvalidOrder, order_from_form, order_from_json, validate
from millstream.demos.shop.web import Markup, fill


def test_an_order_names_every_problem_at_once() -> None:
    """A customer is not sent round once per mistake."""
    with pytest.raises(InvalidOrder) as caught:
        validate("nobody", {"oats": 100, "gold": 1})
    assert caught.value.problems.keys() == {"email", "oats", "gold"}


@pytest.mark.parametrize("quantity", [True, 1.0, -1, "2", None])
def test_a_quantity_is_a_whole_number(quantity: object) -> None:
    """JSON's other kinds of value are refused, not converted."""
    with pytest.raises(InvalidOrder):
        validate("ada@example.com", {"oats": quantity})


def test_a_form_and_json_give_the_same_order() -> None:
    """The price is the catalogue's either way."""
    form = order_from_form({"email": ["ada@example.com"], "quantity.oats": ["2"], "quantity.millstone": ["0"]})
    text = order_from_json(b'{"email": "ada@example.com", "lines": [{"sku": "oats", "quantity": 2}]}')
    assert form == text
    assert form.lines == [Line(sku="oats", quantity=2, unit_price=259)]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"email": "a@b.c", "lines": 3}', b"\xff", b"[" * 60_000])
def test_unreadable_json_is_a_clear_error(body: bytes) -> None:
    """Nothing that a client sends is a server error."""
    with pytest.raises(InvalidOrder):
        order_from_json(body)


def test_an_address_cannot_smuggle_headers() -> None:
    """A line break in an address would start another header of the mail."""
    with pytest.raises(InvalidOrder):
        validate("ada@example.com\nBcc: all@example.com", {"oats": 1})


def test_pages_escape_what_is_not_markup() -> None:
    """Text stays text."""
    assert fill("<b>$x</b>$y", x="<script>", y=Markup("<i>")) == "<b>&lt;script&gt;</b><i>"


async def test_a_mail_sent_twice_is_one_message(tmp_path: Path) -> None:
    """The second delivery has the same Message-ID and is another file."""
    spool = Spool(tmp_path)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Keeper(spool), loop=loop), "127.0.0.1", 0)
    order = StockReserved("ord_1", "ada@example.com", [Line("oats", 2, 259)])
    async with server:
        port = server.sockets[0].getsockname()[1]
        for _ in range(2):
            await asyncio.to_thread(send, confirmation(order, "http://127.0.0.1:1"), f"127.0.0.1:{port}")
    assert spool.deliveries() == {"<ord_1.confirmation@shop>": 2}
    mail = spool.mail(spool.summaries()[0].name)
    assert mail.get_content_type() == "multipart/alternative"


async def test_a_mail_the_server_refuses_is_an_error() -> None:
    """So that the handler's retry policy sees it."""
    order = StockReserved("ord_1", "ada@example.com", [Line("oats", 2, 259)])
    with pytest.raises((OSError, smtplib.SMTPException)):
        await asyncio.to_thread(send, confirmation(order, "http://127.0.0.1:1"), "127.0.0.1:1")


def test_an_unknown_mutation_is_refused() -> None:
    """A proof of a misspelt mutation would prove nothing."""
    with pytest.raises(ValueError, match="no_outbox"):
        Protections.chosen(naive=False, mutation="no_outbux")


def good_evidence() -> Evidence:
    """One reserved order, handled as it should be."""
    published = defaultdict[str, dict[str, set[tuple[str, str]]]](lambda: defaultdict(set))
    for number, name in enumerate(("order.placed", "stock.reserved", "confirmation.sent")):
        published[name]["ord_1"].add(("/shop", str(number)))
    return Evidence(
        answered={"key": {"ord_1"}},
        orders={"ord_1": Order(518, (("oats", 2, 259),))},
        published=published,
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
        poison={("/poisoner", "p"): b"bad"},
        dead={"inventory": [("/poisoner", "p", b"bad")], "analytics": [("/poisoner", "p", b"bad")]},
        mails=Counter({"<ord_1.confirmation@shop>": 1}),
        log_size=4,
    )


def broken(evidence: Evidence) -> set[str]:
    return {invariant.name.split(":")[0].split(",")[0] for invariant in audit(evidence) if not invariant.ok}


def test_the_auditor_accepts_a_shop_that_kept_its_promises() -> None:
    assert broken(good_evidence()) == set()


def test_the_auditor_finds_a_lost_event() -> None:
    evidence = good_evidence()
    evidence.published["order.placed"].clear()
    assert "every accepted order is in the log exactly once" in broken(evidence)


def test_the_auditor_finds_an_order_that_was_promised_and_forgotten() -> None:
    evidence = good_evidence()
    evidence.answered["other"] = {"ord_2"}
    assert broken(evidence) == {"every accepted order is in the log exactly once"}


def test_the_auditor_finds_a_double_effect() -> None:
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
    evidence = good_evidence()
    assert evidence.mails is not None
    evidence.mails.clear()
    assert broken(evidence) == {"one confirmation mail per reserved order"}


def test_the_auditor_finds_poison_whose_bytes_changed() -> None:
    evidence = good_evidence()
    evidence.dead["inventory"] = [("/poisoner", "p", b"mended")]
    assert broken(evidence) == {"each poison event is a dead letter"}


def test_the_auditor_finds_a_healthy_event_among_the_dead_letters() -> None:
    evidence = good_evidence()
    evidence.dead["mailer"] = [("/shop", "1", b"{}")]
    assert broken(evidence) == {"nothing but poison is a dead letter"}
