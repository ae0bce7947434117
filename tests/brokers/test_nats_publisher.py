"""Publishing in order, beside a stand-in of the server that can be made to do what the real one does only at a bad moment."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import pytest

from millstream.brokers import nats_publisher
from millstream.brokers.nats_publisher import NatsPublisher, Outgoing
from millstream.brokers.nats_settings import settings_of
from millstream.contracts.errors import BrokerUnavailableError, MillstreamError

UNAVAILABLE = b'{"error":{"code":503,"err_code":10008,"description":"no leader"}}'


class Server:
    """Answers in order, once for each piece that it gets; one connection."""

    def __init__(self, refused: Counter[str] | None = None) -> None:
        self.refused = refused or Counter()
        """Of each subject, how many messages come while its stream has no leader."""
        self.silent = False
        self.log: list[tuple[str, str]] = []
        self.got = 0
        self.opened = asyncio.get_running_loop().time()
        self.inbox, self.writable, self.lost = "_INBOX.x", True, None
        self.on_lost: Any = None
        self.on_writable: Any = None
        self._answer: Any = None

    def subscribe(self, subject: str, hear: Any) -> None:
        self._answer = hear

    def write(self, data: bytes) -> None:
        asyncio.get_running_loop().call_soon(self._take, data)

    def _take(self, data: bytes) -> None:
        lines = data.decode().split("\r\n")
        for head, body in zip(lines[0:-1:2], lines[1::2], strict=True):
            _, subject, reply, _ = head.split(" ")
            self.got += 1
            answer = b'{"stream":"s","seq":1}'
            if self.refused[subject] > 0:
                self.refused[subject] -= 1
                answer = UNAVAILABLE
            else:
                self.log.append((subject, body))
            if not self.silent:
                self._answer(reply.encode(), b"", b"", answer)

    def abort(self) -> None: ...

    async def close(self) -> None: ...

    def of(self, key: str) -> list[str]:
        """What a reader gets of a key."""
        return list(dict.fromkeys(body for _, body in self.log if body.startswith(key)))


def message(subject: str, key: str, number: int) -> Outgoing:
    return Outgoing("t", subject.encode(), key.encode(), b"", f"{key}{number}".encode())


def publisher_on(monkeypatch: pytest.MonkeyPatch, *servers: Server, in_turn: bool = False, timeout: float = 30) -> NatsPublisher:
    """One that finds these servers, one connection after the other, and then the last one for ever."""
    following, last = iter(servers), servers[-1]

    class Connections:
        @staticmethod
        async def connect(*_: object, **__: object) -> object:
            return next(following, last)

    async def look_for(topic: str) -> MillstreamError | None:
        return None

    monkeypatch.setattr(nats_publisher, "Connection", cast("Any", Connections))
    publisher = NatsPublisher(settings_of(f"nats://localhost?timeout={timeout}"), look_for)
    publisher.in_turn = in_turn
    return publisher


async def sent(publisher: NatsPublisher, messages: Sequence[Outgoing]) -> None:
    async with asyncio.timeout(20):
        assert list(await publisher.send(messages)) == [None] * len(messages)


@pytest.mark.parametrize("refused", [1, 2, 3, 7, 20])
async def test_in_a_cluster_no_event_overtakes_the_one_before_it_of_its_key(monkeypatch: pytest.MonkeyPatch, refused: int) -> None:
    """A stream is without a leader for a moment: what comes then is refused, and what comes after it is not."""
    server = Server(Counter({"0": refused}))
    publisher = publisher_on(monkeypatch, server, in_turn=True)

    messages = [message(str(n % 2), "abcdef"[n % 6], n) for n in range(60)]
    await asyncio.gather(sent(publisher, messages[:30]), sent(publisher, messages[30:]))

    for place, key in enumerate("abcdef"):
        assert server.of(key) == [f"{key}{n}" for n in range(60) if n % 6 == place]
    await publisher.close()


async def test_a_stream_that_stays_away_delays_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own messages wait and then fail; those of the others go on as if nothing were."""
    server = Server(Counter({"away": 1_000_000}))
    publisher = publisher_on(monkeypatch, server, timeout=1.5)
    missing = asyncio.create_task(publisher.send([message("away", "a", n) for n in range(50)]))
    while not server.got:  # noqa: ASYNC110 - it is looked at between any two steps of the loop
        await asyncio.sleep(0)

    calls = 0
    while not missing.done():
        await sent(publisher, [message("here", "b", calls)])
        calls += 1

    assert calls > 1000
    assert all("no leader" in str(error) for error in await missing)
    await publisher.close()


@pytest.mark.parametrize("in_turn", [False, True])
async def test_what_a_lost_connection_leaves_in_doubt_goes_first_on_the_next(monkeypatch: pytest.MonkeyPatch, in_turn: bool) -> None:
    """What waited, what was under way, and what comes meanwhile keep their order."""
    before, after = Server(Counter({"0": 3})), Server(Counter({"1": 2 * in_turn}))
    publisher = publisher_on(monkeypatch, before, after, in_turn=in_turn)
    messages = [message(str(n % 2), "ab"[n % 2], n) for n in range(40)]
    sending = asyncio.create_task(sent(publisher, messages[:20]))
    while not before.got:  # noqa: ASYNC110 - it is looked at between any two steps of the loop
        await asyncio.sleep(0)
    before.on_lost(BrokerUnavailableError("it was killed"))
    await sent(publisher, messages[20:])
    await sending

    for place, key in enumerate("ab"):
        everything = [f"{key}{n}" for n in range(40) if n % 2 == place]
        assert sorted({*before.of(key), *after.of(key)}) == sorted(everything)
        assert after.of(key) == [name for name in everything if name in after.of(key)]
    await publisher.close()


async def test_a_server_that_is_only_slow_is_given_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each new connection has it work once more: the next one waits twice as long."""
    monkeypatch.setattr(nats_publisher, "STALL", 0.1)
    monkeypatch.setattr(nats_publisher, "LOOK", 0.01)
    servers = [Server() for _ in range(4)]
    for server in servers[:3]:
        server.silent = True
    publisher = publisher_on(monkeypatch, *servers, timeout=60)
    times: list[float] = []
    for server in servers:
        server.subscribe = lambda subject, hear, server=server: (  # type: ignore[method-assign]
            times.append(asyncio.get_running_loop().time()), setattr(server, "_answer", hear)
        )  # fmt: skip

    await sent(publisher, [message("0", "a", 1)])

    assert [later - earlier > 0.1 * 2**n for n, (earlier, later) in enumerate(pairwise(times))] == [True] * 3
    await publisher.close()


async def test_who_publishes_while_it_closes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether before or after, and although whoever closes is cancelled meanwhile."""
    server = Server()
    server.silent = True
    publisher = publisher_on(monkeypatch, server)
    sending = asyncio.create_task(publisher.send([message("0", "a", 1)]))
    while not server.got:  # noqa: ASYNC110 - it is looked at between any two steps of the loop
        await asyncio.sleep(0)
    closing = asyncio.create_task(publisher.close())
    await asyncio.sleep(0)
    closing.cancel()

    async with asyncio.timeout(5):
        (before,) = await sending
        (after,) = await publisher.send([message("0", "a", 2)])
    assert ("closed before" in str(before), "is closed here" in str(after)) == (True, True)
    with pytest.raises(asyncio.CancelledError):
        await closing
