"""Mails really go over SMTP, and one that goes twice is still one message."""

import asyncio
import smtplib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiosmtpd.smtp import SMTP

from millstream.demos.shop.catcher import Inbox, Keeper
from millstream.demos.shop.contracts import Line, StockReserved
from millstream.demos.shop.mailer import confirmation, send
from millstream.demos.shop.spool import Spool

ORDER = StockReserved("ord_1", "ada@example.com", [Line("oats", 2, 259)], datetime(2026, 1, 2, tzinfo=UTC))
OTHER = StockReserved("ord_2", "bob@example.com", [Line("gold<b>", 1, 5)], datetime(2026, 1, 2, tzinfo=UTC))


@asynccontextmanager
async def catching(spool: Spool) -> AsyncIterator[str]:
    """The demo's mail server; gives its address."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Keeper(spool), loop=loop), "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_mail_sent_twice_is_one_message(tmp_path: Path) -> None:
    """The second delivery has the same Message-ID: another file, and the inbox says so."""
    spool = Spool(tmp_path)

    async with catching(spool) as server:
        for order in (ORDER, OTHER, ORDER):
            await asyncio.to_thread(send, confirmation(order, "http://127.0.0.1:1"), server)

    assert spool.deliveries() == {"<ord_1.confirmation@shop>": 2, "<ord_2.confirmation@shop>": 1}
    rows, messages, repeats = Inbox(spool).rows()
    assert (messages, repeats) == (2, 1)
    assert [(row["to"], row["note"]) for row in rows] == [
        ("bob@example.com", "delivered once"),
        ("ada@example.com", "delivered twice, one message"),
    ]


async def test_a_mail_has_a_text_and_the_same_as_html(tmp_path: Path) -> None:
    """Both name the products and the total; what came from outside is escaped in the HTML."""
    spool = Spool(tmp_path)

    async with catching(spool) as server:
        await asyncio.to_thread(send, confirmation(OTHER, "http://127.0.0.1:1"), server)

    mail = spool.mail(spool.messages()[0].name)
    text, rich = mail.get_body(("plain",)), mail.get_body(("html",))
    assert text is not None
    assert rich is not None
    assert "1 x gold<b>: 0.05" in text.get_content()
    assert "1 × gold&lt;b&gt;" in rich.get_content()
    assert "http://127.0.0.1:1/orders/ord_2" in text.get_content()


async def test_a_mail_the_server_refuses_is_an_error() -> None:
    """So that the handler's retry policy sees it."""
    with pytest.raises((OSError, smtplib.SMTPException)):
        await asyncio.to_thread(send, confirmation(ORDER, "http://127.0.0.1:1"), "127.0.0.1:1")


def test_mails_without_a_message_id_are_messages_of_their_own(tmp_path: Path) -> None:
    """Nothing says that they are the same."""
    spool = Spool(tmp_path)

    for _ in range(2):
        spool.keep(b"Subject: hello\r\n\r\nhello\r\n", 1)

    assert len(spool.messages()) == 2
