"""Stands in for the world's mail: an SMTP server that keeps every mail, and an inbox page to read them."""

import asyncio
import socket
import time
from functools import lru_cache

from aiosmtpd.smtp import SMTP, Envelope, Session
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from millstream.demos.shop.options import Settings
from millstream.demos.shop.process import run_together
from millstream.demos.shop.ready import announce
from millstream.demos.shop.spool import Received, Spool
from millstream.demos.shop.web import Pages, Server, joined, site, wants_json

LARGEST_MAIL = 1_000_000
LISTED = 100
#: A mail may be shown inside the inbox page only, may load nothing and run nothing.
MAIL_POLICY = (
    "sandbox allow-popups allow-popups-to-escape-sandbox; "
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
)

_ROW = """<tr>
<td data-label="To">$to</td><td data-label="Subject"><a href="/mails/$name">$subject</a></td>
<td data-label="Date"><time>$date</time></td><td data-label="Delivery">$note</td>
</tr>
"""


class Keeper:
    """Takes mails from aiosmtpd."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Keep the mail; 250 only when it is on disk."""
        content = envelope.content
        if not isinstance(content, bytes):
            return "554 The mail has no content"
        await asyncio.to_thread(self._spool.keep, content, time.time_ns() // 1_000_000)
        return "250 Kept"


class Inbox:
    """What the pages show of the spool."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self._headers = lru_cache(2 * LISTED)(self._read_headers)

    def rows(self) -> tuple[list[dict[str, object]], int, int]:
        """The newest messages for the list; how many messages there are, and how many deliveries repeated one."""
        messages = self.spool.messages()
        rows = [{**self._headers(each.name), "note": note(each.times)} for each in messages[:LISTED]]
        return rows, len(messages), sum(each.times for each in messages) - len(messages)

    def _read_headers(self, name: str) -> dict[str, object]:
        mail = self.spool.mail(name)
        return {
            "name": name,
            "to": mail.get("To", ""),
            "subject": mail.get("Subject", "") or "(no subject)",
            "date": mail.get("Date", ""),
        }


def note(times: int) -> str:
    """How often it came, in words: SMTP may deliver a message twice, and readers show it once."""
    if times == 1:
        return "delivered once"
    return "delivered twice, one message" if times == 2 else f"delivered {times} times, one message"


def inbox_site(spool: Spool, pages: Pages) -> Starlette:
    """The inbox page."""
    inbox = Inbox(spool)

    async def listing(request: Request) -> Response:
        rows, messages, repeats = await asyncio.to_thread(inbox.rows)
        if wants_json(request):
            return JSONResponse({"messages": messages, "repeats": repeats, "newest": rows})
        summary = f"{messages} message{'' if messages == 1 else 's'}"
        if repeats:
            summary += f"; {repeats} deliver{'y' if repeats == 1 else 'ies'} repeated one of them"
        if messages > LISTED:
            summary += f"; the newest {LISTED} are listed"
        return pages.page("inbox.html", title="Mill shop: inbox", summary=summary, rows=joined(_ROW, rows))

    async def find(request: Request) -> Received | None:
        return await asyncio.to_thread(spool.find, request.path_params["name"])

    async def show(request: Request) -> Response:
        received = await find(request)
        if received is None:
            return pages.problem("Not found", ["There is no such mail."], 404)
        mail = spool.mail(received.name)
        text = mail.get_body(("plain",))
        return pages.page(
            "mail.html",
            title=str(mail.get("Subject", "(no subject)")),
            name=received.name,
            sender=mail.get("From", ""),
            to=mail.get("To", ""),
            date=mail.get("Date", ""),
            message_id=mail.get("Message-ID", ""),
            note=note(received.times),
            text=text.get_content() if text else "(This mail has no text part.)",
        )

    async def as_html(request: Request) -> Response:
        received = await find(request)
        if received is None:
            return pages.problem("Not found", ["There is no such mail."], 404)
        rich = spool.mail(received.name).get_body(("html",))
        content = rich.get_content() if rich else "<p>This mail has no HTML part.</p>"
        return HTMLResponse(content, headers={"content-security-policy": MAIL_POLICY})

    return site(pages, [Route("/", listing), Route("/mails/{name}", show), Route("/mails/{name}/html", as_html)])


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
        web = inbox_site(spool, Pages(settings, "Inbox"))
        await run_together(Server(web, settings.listening["mail"]), stop)
