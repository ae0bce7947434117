"""The folder of received mails: one file each, on disk before the sender is told 250."""

import os
import uuid
from collections import Counter
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path


@dataclass(frozen=True, slots=True)
class MailSummary:
    """What the list of the inbox shows of one mail."""

    name: str
    message_id: str
    to: str
    subject: str
    date: str


class Spool:
    """Mails on disk. A mail that arrives again under its Message-ID is another file, but not another message."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, MailSummary] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def keep(self, content: bytes, millis: int) -> str:
        """Write the mail durably; return its name."""
        name = f"{millis:013d}-{uuid.uuid4().hex[:12]}.eml"
        unfinished = self._folder / f"{name}.new"
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self._folder / name)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return name

    def summaries(self) -> list[MailSummary]:
        """Every mail, newest first."""
        with os.scandir(self._folder) as entries:
            names = [entry.name for entry in entries if entry.name.endswith(".eml")]
        for name in names:
            if name not in self._known:
                self._known[name] = _summary(name, self.mail(name))
        return [self._known[name] for name in sorted(names, reverse=True)]

    def deliveries(self) -> Counter[str]:
        """How often each Message-ID arrived."""
        return Counter(summary.message_id for summary in self.summaries())

    def mail(self, name: str) -> EmailMessage:
        """One mail by the name of its file."""
        return message_from_bytes((self._folder / name).read_bytes(), policy=policy.default)  # type: ignore[return-value]

    def has(self, name: str) -> bool:
        return any(summary.name == name for summary in self.summaries())


def _summary(name: str, mail: EmailMessage) -> MailSummary:
    def header(field: str) -> str:
        return str(mail.get(field, "")).strip()

    return MailSummary(
        name=name,
        message_id=header("Message-ID"),
        to=header("To"),
        subject=header("Subject"),
        date=header("Date"),
    )
