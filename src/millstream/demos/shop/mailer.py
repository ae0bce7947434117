"""Sends each customer one confirmation over SMTP.

SMTP knows no transactions: a crash between the server's `250 OK` and the commit sends the mail again. The second copy
carries the same Message-ID, by which mail servers and readers recognise one message.
"""

import asyncio
import smtplib
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from html import escape

from millstream import App, Transaction
from millstream.demos.shop import crash
from millstream.demos.shop.catalogue import money, name_of
from millstream.demos.shop.contracts import ConfirmationSent, StockReserved, order_total
from millstream.demos.shop.crash import crash_points
from millstream.demos.shop.inventory import PATIENT
from millstream.demos.shop.options import Settings
from millstream.demos.shop.ready import announce
from millstream.demos.shop.unprotected import Sql, handle_unprotected

SMTP_TIMEOUT = 10.0
_BODY = "font:15px/22px sans-serif;color:#12171F;margin:24px"
_CELL = "padding:8px 0;border-bottom:1px solid #D5DBE3"

SCHEMA = """
create table if not exists effects (order_id text not null, effect text not null);
create index if not exists effects_by_order on effects (order_id);
"""


def message_id(order_id: str) -> str:
    """The same for every sending of one confirmation."""
    return f"<{order_id}.confirmation@shop>"


def confirmation(order: StockReserved, shop_url: str) -> EmailMessage:
    """The mail: plain text, and the same as HTML."""
    link = f"{shop_url}/orders/{order.order_id}"
    mail = EmailMessage()
    mail["From"] = "Mill shop <orders@shop.example>"
    mail["To"] = order.email
    mail["Subject"] = f"We have your order {order.order_id}"
    mail["Date"] = format_datetime(datetime.now(UTC))
    mail["Message-ID"] = message_id(order.order_id)
    total = money(order_total(order.lines))
    text = "\n".join(f"{line.quantity} x {name_of(line.sku)}: {money(line.total)}" for line in order.lines)
    mail.set_content(f"Thank you! We have set this aside for you:\n\n{text}\n\nTotal: {total}\n\nYour order: {link}\n")
    rows = "".join(
        f'<tr><td style="{_CELL}">{line.quantity} × {escape(name_of(line.sku))}</td>'
        f'<td style="{_CELL};text-align:right;white-space:nowrap">{money(line.total)}</td></tr>'
        for line in order.lines
    )
    mail.add_alternative(
        f'<!doctype html><html lang="en"><head><meta name="color-scheme" content="light"></head><body style="{_BODY}">'
        "<p>Thank you! We have set this aside for you:</p>"
        f'<table style="border-collapse:collapse;width:100%;max-width:480px">{rows}'
        f'<tr><th style="{_CELL};text-align:left">Total</th><th style="{_CELL};text-align:right">{total}</th></tr></table>'
        f'<p><a href="{escape(link)}" target="_blank">See how your order is getting on</a></p>'
        f'<p style="color:#5E6A7A">Mill shop · order {escape(order.order_id)}</p></body></html>',
        subtype="html",
    )
    return mail


def send(mail: EmailMessage, server: str) -> None:
    """Hand the mail to the SMTP server; returns when the server has taken responsibility for it."""
    host, _, port = server.rpartition(":")
    with smtplib.SMTP(host, int(port), timeout=SMTP_TIMEOUT) as connection:
        connection.send_message(mail)


def record(db: Sql, order: StockReserved) -> ConfirmationSent:
    """Note that the mail is on its way."""
    db.execute("insert into effects values (?, 'mailed')", (order.order_id,))
    return ConfirmationSent(order_id=order.order_id, message_id=message_id(order.order_id))


def build(settings: Settings) -> App:
    """The mailer service."""
    points = crash_points(settings, "mailer")
    store = settings.store_url("mailer")
    app = App("mailer", broker=settings.broker_url, store=store, schema=SCHEMA, observers=[points])
    shop_url = f"http://127.0.0.1:{settings.shop_port}"

    async def deliver(order: StockReserved) -> None:
        await asyncio.to_thread(send, confirmation(order, shop_url), settings.smtp)
        points.reach(crash.AFTER_SMTP_BEFORE_RECORD)

    if not settings.protections.all_on:
        handle_unprotected(
            app,
            StockReserved,
            business=record,
            protections=settings.protections,
            points=points,
            group=settings.group("mailer.confirm"),
            start=settings.start,
            before=deliver,
        )
        return app

    @app.subscriber(StockReserved, retry=PATIENT, group=settings.group("mailer.confirm"), start=settings.start)
    async def confirm(order: StockReserved, tx: Transaction) -> ConfirmationSent:
        # Before the first use of the transaction: the database is not locked while the mail server is waited for.
        await deliver(order)
        return record(tx, order)

    return app


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Run until stopped."""
    app = build(settings)
    async with app:
        announce(settings, "mailer")
        await app.run(stop)
