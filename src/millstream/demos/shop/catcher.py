"""Stands in for the world's mail: an SMTP server that keeps every mail, and an inbox page to read them."""

import asyncio
import socket
import time

from aiosmtpd.smtp import SMTP, Envelope, Session
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from millstream.demos.shop.options import Settings
from millstream.demos.shop.process import run_together
from millstream.demos.shop.ready import announce
from millstream.demos.shop.spool import Spool
from millstream.demos.shop.web import Markup, Server, fill, middleware, page, static_routes

LARGEST_MAIL = 1_000_000
LISTED = 200


class Keeper:
    """Takes mails from aiosmtpd."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.content
        if not isinstance(content, bytes):
            return "554 The mail has no content"
        await asyncio.to_thread(self._spool.keep, content, time.time_ns() // 1_000_000)
        return "250 Kept"


def site(spool: Spool) -> Starlette:
    """The inbox page."""

    async def inbox(request: Request) -> Response:
        mails = await asyncio.to_thread(spool.summaries)
        times = await asyncio.to_thread(spool.deliveries)
        if "application/json" in request.headers.get("accept", ""):
            return JSONResponse({"mails": len(mails), "messages": len(times)})
        rows = [
            fill(
                '<tr><td data-label="To">$to</td><td data-label="Subject"><a href="/mails/$name">$subject</a></td>'
                '<td data-label="Date">$date</td><td data-label="Delivery">$note</td></tr>\n',
                to=mail.to,
                name=mail.name,
                subject=mail.subject or "(no subject)",
                date=mail.date,
                note=_note(times[mail.message_id]),
            )
            for mail in mails[:LISTED]
        ]
        twice = len(mails) - len(times)
        summary = f"{len(times)} messages" + (f", {twice} of {len(mails)} deliveries were repeats" if twice else "")
        nothing = Markup('<tr><td colspan="4">No mail yet. Place an order in the shop.</td></tr>')
        return page("inbox.html", title="Inbox", summary=summary, rows=Markup("".join(rows)) or nothing)

    async def mail(request: Request) -> Response:
        name = request.path_params["name"]
        if not await asyncio.to_thread(spool.has, name):
            items = Markup("<li>There is no such mail.</li>")
            return page("problem.html", title="No such mail", status=404, items=items)
        message = spool.mail(name)
        times = (await asyncio.to_thread(spool.deliveries))[str(message.get("Message-ID", "")).strip()]
        text = message.get_body(("plain",))
        rich = message.get_body(("html",))
        return page(
            "mail.html",
            title=str(message.get("Subject", "(no subject)")),
            sender=message.get("From", ""),
            to=message.get("To", ""),
            date=message.get("Date", ""),
            message_id=message.get("Message-ID", ""),
            note=_note(times),
            text=text.get_content() if text else "",
            rich=rich.get_content() if rich else "",
        )

    routes = [Route("/", inbox), Route("/mails/{name}", mail)]
    return Starlette(routes=[*routes, *static_routes()], middleware=middleware())


def _note(times: int) -> str:
    if times == 1:
        return "delivered once"
    return "delivered twice, one message" if times == 2 else f"delivered {times} times, one message"


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Take mails and show them until stopped."""
    spool = Spool(settings.folder / "spool")
    loop = asyncio.get_running_loop()
    keeper = Keeper(spool)
    smtp = await loop.create_server(
        lambda: SMTP(keeper, data_size_limit=LARGEST_MAIL, enable_SMTPUTF8=True, loop=loop),
        sock=socket.socket(fileno=settings.listening["smtp"]),
    )
    async with smtp:
        announce(settings, "catcher")
        await run_together(Server(site(spool), settings.listening["mail"]), stop)
