"""The folder of received mails: one file each, on disk before the sender is told 250."""

import hashlib
import os
import uuid
from collections import Counter
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.parser import BytesHeaderParser
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Received:
    """A message, and how often it was delivered."""

    name: str
    """The file of its first delivery."""
    times: int


class Spool:
    """Mails on disk. One that arrives again under its Message-ID is another file, but not another message.

    A file's name holds when it came and which message it is, so that counting reads no file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def keep(self, content: bytes, millis: int) -> str:
        """Write the mail durably; return its name."""
        name = f"{millis:013d}-{_digest(content)}-{uuid.uuid4().hex[:8]}.eml"
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

    def messages(self) -> list[Received]:
        """Every message, the newest first."""
        first: dict[str, str] = {}
        times: Counter[str] = Counter()
        for name in self._names():
            digest = name.split("-")[1]
            first.setdefault(digest, name)
            times[digest] += 1
        return [Received(name, times[digest]) for digest, name in reversed(first.items())]

    def deliveries(self) -> Counter[str]:
        """How often each Message-ID arrived, read from the mails themselves."""
        return Counter(_message_id((self._folder / name).read_bytes()) for name in self._names())

    def find(self, name: str) -> Received | None:
        """The message whose first delivery has this name."""
        return next((each for each in self.messages() if each.name == name), None)

    def mail(self, name: str) -> EmailMessage:
        """One mail by the name of its file."""
        return message_from_bytes((self._folder / name).read_bytes(), policy=policy.default)  # type: ignore[return-value]

    def _names(self) -> list[str]:
        with os.scandir(self._folder) as entries:
            return sorted(entry.name for entry in entries if entry.name.endswith(".eml"))


def _message_id(content: bytes) -> str:
    return str(BytesHeaderParser(policy=policy.default).parsebytes(content).get("Message-ID", "")).strip()


def _digest(content: bytes) -> str:
    """Short for the Message-ID; a mail without one is always a message of its own."""
    return hashlib.sha256((_message_id(content) or uuid.uuid4().hex).encode()).hexdigest()[:16]
