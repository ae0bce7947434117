"""Wake-ups between the processes that share a file: a datagram to each one's socket."""

import asyncio
import contextlib
import hashlib
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

SOCKET_PATH_LIMIT = 100
#: Said by a process that has just come.
HELLO = b"h"
#: How long a list of the others is good for, in seconds, when nobody has said hello.
LIST_EVERY = 1.0


#: What a write may be of interest for: events in the log, rows of a store, a broadcast, or who owns what.
EVENTS, ROWS, BROADCAST, MEMBERS, NOTHING = b"e", b"r", b"b", b"m", b""
#: So many partitions are named; of more it is only said that there are events.
MOST_NAMED = 32


class News(msgspec.Struct, frozen=True, gc=False):
    """What some process has written."""

    kinds: bytes
    tps: frozenset[int] | None = frozenset()
    """The partitions that have new events; None stands for all of them."""

    def of(self, tps: frozenset[int]) -> bool:
        """Whether one of these partitions may have new events."""
        return self.tps is None or not self.tps.isdisjoint(tps)

    def encode(self) -> bytes:
        """As a datagram."""
        if self.tps is None or len(self.tps) > MOST_NAMED:
            return self.kinds + b" *"
        return b" ".join([self.kinds, *(b"%d" % tp for tp in self.tps)])


def decode(datagrams: list[bytes]) -> News:
    """All that these say."""
    words = [datagram.split(b" ") for datagram in datagrams]
    named = [word for _, *rest in words for word in rest]
    return News(b"".join(kinds for kinds, *_ in words), None if b"*" in named else frozenset(map(int, named)))


class WakeUp:
    """One process's socket in the folder beside a file; what is sent reaches every other one there."""

    def __init__(self, path: str, loop: asyncio.AbstractEventLoop, heard: Callable[[News], None]) -> None:
        folder = Path(f"{path}-wake")
        if len(os.fsencode(folder)) > SOCKET_PATH_LIMIT - 16:
            digest = hashlib.blake2b(os.fsencode(os.path.realpath(path)), digest_size=8).hexdigest()
            folder = Path(tempfile.gettempdir()) / f"millstream-{os.getuid()}-{digest}"
        self._folder = folder
        self._own = folder / secrets.token_hex(4)
        self._loop = loop
        self._heard = heard
        self._peers: list[str] = []
        self._list_at = 0.0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)  # noqa: FBT003
        self._bind()
        loop.add_reader(self._socket, self._receive)
        self._list()
        self.send(News(HELLO))

    def _bind(self) -> None:
        for last in (*[False] * 10, True):
            try:
                self._folder.mkdir(mode=0o700, exist_ok=True)
                self._socket.bind(str(self._own))
            except (FileExistsError, FileNotFoundError):
                # The last one that left has just taken the folder away: before there was a socket in it, or before it was looked at.
                if last:
                    raise
            else:
                return

    def send(self, news: News) -> None:
        """Wake every other process; a dead one's socket is cleared away."""
        if time.monotonic() >= self._list_at:
            self._list()
        if not self._peers:
            return
        datagram = news.encode()
        for peer in self._peers:
            try:
                self._socket.sendto(datagram, peer)
            except BlockingIOError:
                pass  # it has wake-ups waiting already
            except (ConnectionRefusedError, FileNotFoundError):
                self._list_at = 0.0
                with contextlib.suppress(OSError):
                    os.unlink(peer)
            except OSError:
                pass

    def _list(self) -> None:
        """See who is there: when somebody says hello, and now and then, should that have been lost."""
        self._list_at = time.monotonic() + LIST_EVERY
        with contextlib.suppress(OSError):
            self._peers = [entry.path for entry in os.scandir(self._folder) if entry.name != self._own.name]

    def _receive(self) -> None:
        datagrams: list[bytes] = []
        with contextlib.suppress(OSError):
            while datagram := self._socket.recv(1024):
                datagrams.append(datagram)
        news = decode(datagrams)
        if HELLO in news.kinds:
            self._list_at = 0.0
        self._heard(news)

    def close(self) -> None:
        """Leave the folder, and take it away when nobody else is there."""
        if not self._loop.is_closed():
            self._loop.remove_reader(self._socket)
        self._socket.close()
        with contextlib.suppress(OSError):
            self._own.unlink()
        with contextlib.suppress(OSError):
            self._folder.rmdir()
