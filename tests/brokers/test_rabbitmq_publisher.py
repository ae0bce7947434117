"""Publishing in order, beside a stand-in of the server that can be made to do what the real one does only at a bad moment."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import pytest

from millstream.brokers import rabbitmq_publisher
from millstream.brokers.rabbitmq_connection import Channel, Connection, RefusedError
from millstream.brokers.rabbitmq_publisher import Outgoing, RabbitPublisher
from millstream.brokers.rabbitmq_settings import settings_of
from millstream.brokers.rabbitmq_unread import RabbitUnread
from millstream.contracts.errors import BrokerError, BrokerUnavailableError, ConfigurationError, MillstreamError
from millstream.core.broker import Dropped


class Told(Outgoing):
    """A message that says what it is, instead of how it is framed."""

    __slots__ = ("name",)

    def __init__(self, route: str, name: str, exchange: str = "t") -> None:
        super().__init__(exchange, route, (b"", b"", b""))
        self.name = name

    def frames(self, channel: int, frame_max: int) -> bytes:
        return f"{self.route}={self.name};".encode()


class Server:
    """Routes to streams that are there, gives back the others, and confirms in order, once for each piece that it gets.

    It opens a channel at a time, on one connection; what comes on an older one is not heard.
    """

    def __init__(
        self, unroutable: Counter[str] | None = None, *, nacks: Counter[str] | None = None, full: Mapping[str, int] | None = None
    ) -> None:
        self.unroutable = unroutable or Counter()
        """Of each route, how many messages come before its stream, or a queue, is there."""
        self.nacks = nacks or Counter()
        """Of each route, how many messages it refuses,"""
        self.full = Counter(full or {})
        """and how many pieces come before its queue has room: until then it refuses what comes."""
        self.stubborn = Counter[str]()
        """Messages that it refuses so often, whatever becomes of others."""
        self.refused: list[tuple[str, str]] = []
        self.forbidden: dict[str, MillstreamError] = {}
        """Messages for which the channel is closed, and how."""
        self.ends: MillstreamError | None = None
        """Every channel ends as soon as it is there."""
        self.silent = 0
        """So many messages are stored, and not confirmed."""
        self.log: list[tuple[str, str]] = []
        self.channels: list[Line] = []
        self.writable, self.frame_max, self.blocked, self.lost = True, 1 << 17, "", None
        self.on_writable: Any = None

    async def channel(self) -> Channel:
        self.channels.append(Line(self))
        return cast("Channel", self.channels[-1])

    def write(self, data: bytes) -> None:
        asyncio.get_running_loop().call_soon(self._take, self.channels[-1], data)

    def _take(self, channel: "Line", data: bytes) -> None:
        stored = True
        came = Counter[str]()
        channel.largest = max(channel.largest, data.count(b";"))
        for message in data.decode().split(";")[:-1]:
            if channel.closed is not None:
                return
            channel.tag += 1
            route, _, name = message.partition("=")
            came[route] = 1
            if (error := self.forbidden.get(name)) is not None:
                channel.end(error)
            elif self.unroutable[route] > 0:
                self.unroutable[route] -= 1
                channel.on_return("t", route)
            elif self.nacks[route] > 0 or self.full[route] > 0 or self.stubborn[name] > 0:
                self.nacks[route] -= 1
                self.stubborn[name] -= 1
                self.refused.append((route, name))
                channel.on_confirm(channel.tag, False, False)
                stored = False
            else:
                self.log.append((route, name))
                if not stored:
                    channel.on_confirm(channel.tag, False, True)
        self.full -= came
        if self.silent > 0:
            self.silent -= data.count(b";")
        elif data and stored and channel.closed is None:
            channel.on_confirm(channel.tag, True, True)

    def of(self, route: str) -> list[str]:
        """What a reader of a stream makes of it: the first of each."""
        return list(dict.fromkeys(name for where, name in self.log if where == route))


class Line:
    """A channel of it."""

    number = 1

    def __init__(self, server: Server) -> None:
        self.connection = server
        self.tag = 0
        self.largest = 0
        """So many messages came together."""
        self.opened = asyncio.get_running_loop().time()
        self.closed: MillstreamError | None = None
        self.on_confirm: Any = None
        self.on_return: Any = None
        self.on_closed: Any = None

    async def confirm(self) -> None:
        if self.connection.ends is not None:
            self.end(self.connection.ends)

    async def close(self) -> None: ...

    def end(self, error: MillstreamError) -> None:
        self.closed = error
        self.on_closed(error)


async def nobody(routes: Sequence[tuple[str, str]]) -> Sequence[Mapping[str, str]]:
    """No group reads any topic."""
    return [{} for _ in routes]


def publisher_on(
    *servers: Server, url: str = "rabbitmq://localhost?streams=1", unread: RabbitUnread | None = None
) -> RabbitPublisher:
    """One that finds these servers, one connection after the other, and then the last one for ever."""
    following = iter(servers)
    last = servers[-1]

    async def connect() -> Connection:
        return cast("Connection", next(following, last))

    settings = settings_of(url)
    return RabbitPublisher(settings, connect, lambda exchange: None, unread or RabbitUnread(settings.name, nobody))


async def sent(publisher: RabbitPublisher, messages: Sequence[Outgoing]) -> None:
    async with asyncio.timeout(10):
        assert list(await publisher.send(messages)) == [None] * len(messages)


@pytest.mark.parametrize("missed", range(4))
async def test_a_stream_that_comes_in_the_middle_gets_its_messages_in_order(missed: int) -> None:
    """A server that was killed has each of its streams a little later than its exchanges: what was sent too soon is not overtaken."""
    server = Server(Counter({"0": missed, "2": 1}))
    publisher = publisher_on(server)

    await asyncio.gather(*(sent(publisher, [Told(str(n % 3), f"{call}-{n}") for n in range(30)]) for call in range(3)))

    for route in "012":
        assert server.of(route) == [f"{call}-{n}" for call in range(3) for n in range(30) if str(n % 3) == route]
    await publisher.close()


async def test_what_a_lost_connection_leaves_in_doubt_waits_for_its_stream_too() -> None:
    """On the next connection all begins anew: what waited, what was under way, and what comes meanwhile keep their order."""
    before, after = Server(Counter({"0": 1})), Server(Counter({"0": 2, "1": 1}))
    publisher = publisher_on(before, after)
    messages = [Told(str(n % 2), str(n)) for n in range(20)]
    sending = asyncio.create_task(sent(publisher, messages[:10]))
    while not before.log:  # noqa: ASYNC110 - it is looked at between any two steps of the loop
        await asyncio.sleep(0)
    before.channels[0].end(BrokerUnavailableError("it was killed"))
    await sent(publisher, messages[10:])
    await sending

    for route in "01":
        seen = list(dict.fromkeys([*before.of(route), *after.of(route)]))
        assert seen == [str(n) for n in range(20) if str(n % 2) == route]
    await publisher.close()


@pytest.mark.parametrize("url", ["rabbitmq://localhost", "rabbitmq://localhost?streams=1"])
@pytest.mark.parametrize("times", [1, 2, 40])
async def test_what_a_queue_refuses_goes_again_in_its_order(times: int, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A nack: what came behind it and was stored keeps its place, and of the others none overtakes another."""
    monkeypatch.setattr(rabbitmq_publisher, "AGAIN", 0.001)
    server = Server(nacks=Counter({"0": times}))
    publisher = publisher_on(server, url=url)

    await asyncio.gather(*(sent(publisher, [Told(str(n % 2), f"{call}-{n}") for n in range(30)]) for call in range(2)))

    everything = [f"{call}-{n}" for call in range(2) for n in range(30)]
    assert server.of("1") == [name for name in everything if int(name[2:]) % 2]
    refused = everything[0::2][: times if "streams" not in url else 0]
    behind = [name for name in everything[0::2] if name not in refused]
    got = server.of("0")
    assert [name for name in got if name in refused] == refused
    assert [name for name in got if name in behind] == behind
    await publisher.close()


@pytest.mark.parametrize("url", ["rabbitmq://localhost", "rabbitmq://localhost?streams=1"])
async def test_what_is_published_after_a_refusal_waits_for_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is refused, and although what was sent right behind it is stored."""
    monkeypatch.setattr(rabbitmq_publisher, "AGAIN", 0.01)
    monkeypatch.setattr(rabbitmq_publisher, "WINDOW", 5)
    server = Server()
    publisher = publisher_on(server, url=url)
    await sent(publisher, [Told("0", "first")])
    server.stubborn["a0"] = 4
    await sent(publisher, [Told("0", f"{call}{n}") for call in "ab" for n in range(5)])

    assert server.of("0") == ["first", "a1", "a2", "a3", "a4", "a0", "b0", "b1", "b2", "b3", "b4"]
    await publisher.close()


async def test_a_stream_that_stays_away_delays_no_other() -> None:
    """Its own messages wait and then fail; those of the others go on as if nothing were."""
    server = Server(Counter({"away": 1_000_000}))
    publisher = publisher_on(server, url="rabbitmq://localhost?streams=1&timeout=1.5")
    asked = publisher.send([Told("away", str(n)) for n in range(50)])
    missing = asyncio.create_task(asked)
    while not server.channels or not server.channels[0].tag:  # noqa: ASYNC110 - it is looked at between any two steps of the loop
        await asyncio.sleep(0)

    calls = 0
    while not missing.done():
        await sent(publisher, [Told(str(calls % 7), str(calls))])
        calls += 1

    assert calls > 1000
    assert all("no stream takes it" in str(error) for error in missing.result())
    await publisher.close()


async def test_what_a_channel_confirms_after_it_was_given_up_counts_for_nothing() -> None:
    """The next one counts anew: its messages would be taken for stored."""
    server = Server()
    publisher = publisher_on(server, url="rabbitmq://localhost?timeout=2")
    await sent(publisher, [Told("0", f"a{n}") for n in range(5)])
    server.silent = 1_000
    sending = asyncio.create_task(publisher.send([Told("0", f"b{n}") for n in range(10)]))
    while len(server.channels) < 2 or server.channels[1].tag < 10:  # noqa: ASYNC110 - on the wall's clock, as the publisher is
        await asyncio.sleep(0.01)

    server.channels[0].on_confirm(15, True, True)
    server.channels[0].on_return("t", "0")
    server.channels[1].on_confirm(3, True, True)

    results = list(await sending)
    assert [error is None for error in results] == [True] * 3 + [False] * 7
    await publisher.close()


async def test_a_server_that_is_only_slow_is_given_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each new channel stores everything once more and makes it slower still: the next one waits twice as long."""
    monkeypatch.setattr(rabbitmq_publisher, "STALL", 0.1)
    monkeypatch.setattr(rabbitmq_publisher, "LOOK", 0.01)
    server = Server()
    server.silent = 1_000_000
    publisher = publisher_on(server, url="rabbitmq://localhost?timeout=60")
    sending = asyncio.create_task(sent(publisher, [Told("0", "a")]))
    while len(server.channels) < 4 or not server.channels[3].tag:  # noqa: ASYNC110 - on the wall's clock, as the publisher is
        await asyncio.sleep(0.01)
    opened = [channel.opened for channel in server.channels]
    server.channels[3].on_confirm(1, True, True)
    await sending

    assert [later - earlier > 0.1 * 2**n for n, (earlier, later) in enumerate(pairwise(opened))] == [True] * 3
    await publisher.close()


@pytest.mark.parametrize("error", [RefusedError(406, "message size 9 is larger", "r"), RefusedError(541, "internal error", "r")])
async def test_a_message_for_which_the_server_closes_the_channel_fails_alone(error: MillstreamError) -> None:
    """It does not say which one that was: they go one by one until it is found."""
    server = Server()
    server.forbidden = {"7": error, "20": error}
    publisher = publisher_on(server, url="rabbitmq://localhost")
    messages = [Told(str(n % 2), str(n)) for n in range(30)]

    results = [await publisher.send(messages[:10]), *(await asyncio.gather(*(publisher.send([m]) for m in messages[10:])))]

    assert [n for n, found in enumerate([*results[0], *(one for (one,) in results[1:])]) if found is not None] == [7, 20]
    assert [name for name in server.of("0")] == [str(n) for n in range(0, 30, 2) if n != 20]
    await sent(publisher, [Told("0", str(n)) for n in range(100, 200)])
    assert server.channels[-1].largest > 1
    await publisher.close()


async def test_a_channel_that_is_closed_for_an_exchange_fails_what_goes_there() -> None:
    """The text names it: nothing else fails, not even where the virtual host has its name."""
    server = Server()
    server.forbidden["2"] = ConfigurationError("access to exchange 'closed' in vhost 't' refused")
    publisher = publisher_on(server, url="rabbitmq://localhost")

    results = await publisher.send([Told("0", str(n), "closed" if n in (2, 5) else "t") for n in range(8)])

    assert [n for n, error in enumerate(results) if isinstance(error, ConfigurationError)] == [2, 5]
    assert server.of("0")[-6:] == ["0", "1", "3", "4", "6", "7"]
    await publisher.close()


async def test_a_channel_that_ends_before_it_is_used_is_not() -> None:
    """The server's answer and its end came in one piece."""
    dead, alive = Server(), Server()
    dead.ends = BrokerUnavailableError("it was killed")
    publisher = publisher_on(dead, alive)

    await sent(publisher, [Told("0", "a")])

    assert (dead.log, alive.log) == ([], [("0", "a")])
    await publisher.close()


async def test_who_publishes_while_it_closes_is_told() -> None:
    """Whether before or after, and although whoever closes is cancelled meanwhile."""
    server = Server()
    server.silent = 1_000
    publisher = publisher_on(server)
    sending = asyncio.create_task(publisher.send([Told("0", "a")]))
    while not server.log:  # noqa: ASYNC110 - it is looked at between any two steps of the loop
        await asyncio.sleep(0)
    closing = asyncio.create_task(publisher.close())
    await asyncio.sleep(0)
    closing.cancel()

    async with asyncio.timeout(5):
        (before,) = await sending
        (after,) = await publisher.send([Told("0", "b")])
    assert ("closed before" in str(before), "is closed here" in str(after)) == (True, True)
    with pytest.raises(asyncio.CancelledError):
        await closing


@pytest.mark.parametrize("url", ["rabbitmq://localhost", "rabbitmq://localhost?streams=1"])
@pytest.mark.parametrize("refusals", [1, 2, 3])
async def test_what_is_refused_goes_again_in_order_and_then_succeeds(
    refusals: int, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue that is full for a while answers with nacks: the other routes go on, and nobody who publishes is told."""
    monkeypatch.setattr("millstream.brokers.rabbitmq_publisher.AGAIN", 0.001)
    server = Server(full={"0": refusals, "1": 1})
    publisher = publisher_on(server, url=url)

    first = asyncio.create_task(sent(publisher, [Told(str(n % 3), f"0-{n}") for n in range(30)]))
    while not server.refused:  # noqa: ASYNC110 - it is looked at between any two steps of the loop
        await asyncio.sleep(0)
    await asyncio.gather(first, *(sent(publisher, [Told(str(n % 3), f"{call}-{n}") for n in range(30)]) for call in (1, 2)))

    for route in "012":
        expected = [f"{call}-{n}" for call in range(3) for n in range(30) if str(n % 3) == route]
        assert [name for where, name in server.log if where == route] == expected
    await publisher.close()


async def test_what_is_refused_when_the_connection_goes_is_published_in_order_on_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before what waited behind it, and before what comes meanwhile."""
    monkeypatch.setattr("millstream.brokers.rabbitmq_publisher.AGAIN", 60.0)
    before, after = Server(full={"0": 1}), Server()
    publisher = publisher_on(before, after, url="rabbitmq://localhost")
    sending = asyncio.create_task(sent(publisher, [Told(str(n % 2), str(n)) for n in range(10)]))
    while not before.log:  # noqa: ASYNC110 - it is looked at between any two steps of the loop
        await asyncio.sleep(0)
    before.channels[0].end(BrokerUnavailableError("it was killed"))
    await sent(publisher, [Told(str(n % 2), str(n)) for n in range(10, 20)])
    await sending

    assert after.of("0") == [str(n) for n in range(0, 20, 2)]
    await publisher.close()


async def test_what_no_queue_takes_is_counted_until_something_is_taken() -> None:
    """Without a group it is no trouble: it is told how many events of a topic went nowhere; internal topics do not count."""
    server = Server(Counter({"0": 5, "1": 1}))
    unread = RabbitUnread("rabbitmq://localhost", nobody)
    publisher = publisher_on(server, url="rabbitmq://localhost", unread=unread)

    await sent(publisher, [Told(str(n % 2), str(n)) for n in range(4)])
    some = unread.dropped()
    await sent(publisher, [Told("0", str(n)) for n in range(3)])
    more = unread.dropped()
    await sent(publisher, [Told("0", "taken")])

    assert (some, more, unread.dropped()) == ([Dropped("t", 2)], [Dropped("t", 5)], [])
    unread.came_back("millstream.facts", "partition.0")
    unread.came_back("", "millstream.register")
    assert not unread.routes
    await publisher.close()
    await unread.close()


async def test_what_comes_back_twice_is_counted_once() -> None:
    """What was not confirmed when the connection went is published again, and comes back again."""
    before, after = Server(Counter({"0": 3})), Server(Counter({"0": 3}))
    unread = RabbitUnread("rabbitmq://localhost", nobody)
    publisher = publisher_on(before, after, url="rabbitmq://localhost", unread=unread)
    before.silent = 1_000
    sending = asyncio.create_task(sent(publisher, [Told("0", str(n)) for n in range(3)]))
    while not unread.routes:  # noqa: ASYNC110 - it is looked at between any two steps of the loop
        await asyncio.sleep(0)
    before.channels[0].end(BrokerUnavailableError("it was killed"))
    await sending

    assert unread.dropped() == [Dropped("t", 3)]
    await sent(publisher, [Told("0", "taken")])
    assert not unread.dropped()
    await publisher.close()
    await unread.close()


async def test_a_group_without_its_queue_is_a_warning_and_a_trouble(caplog: pytest.LogCaptureFixture) -> None:
    """It is looked up once for all that came back meanwhile, again after it could not be, and what to do is said."""
    asked: list[list[tuple[str, str]]] = []

    async def readers(routes: Sequence[tuple[str, str]]) -> Sequence[Mapping[str, str]]:
        asked.append(list(routes))
        if len(asked) == 1:
            raise BrokerError("the register cannot be read")
        return [{"billing": f"billing:t:{route}", "other": ""} for _, route in routes]

    server = Server(Counter({"0": 9, "1": 9}))
    unread = RabbitUnread("rabbitmq://localhost", readers)
    publisher = publisher_on(server, url="rabbitmq://localhost", unread=unread)
    for _ in range(3):
        await sent(publisher, [Told("0", "a"), Told("1", "b")])
    (dropped,) = unread.dropped()

    assert asked == [[("t", "0"), ("t", "1")]] * 2
    assert [record.levelname for record in caplog.records if "next start declares it anew" in record.message] == ["WARNING"] * 2
    assert dropped.count == 6
    assert dropped.trouble.startswith("group 'billing' has lost 6 events that were published to the topic t here: its queue")
    assert "'billing:t:0' (and 1 more) is not on" in dropped.trouble
    await publisher.close()
    await unread.close()
