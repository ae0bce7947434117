"""The watch: what is thought of a group follows from where it stood, and from what operators did."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

from millstream.console.live import MOST_DOTS, Live
from millstream.console.watch import Watch
from millstream.contracts.errors import BrokerUnavailableError
from millstream.core.broker import Features, Figure, Group, Partition, PartitionState
from millstream.core.facts import Deliveries, DeliveryFact
from millstream.testing import ManualClock

HERE = Partition("orders", 0)


class Positions:
    """A broker that says where one group stands."""

    away = False
    withheld: str | None = None
    """A group that cannot be asked about."""
    features = Features(positional=True)

    def __init__(self) -> None:
        self.committed: int | None = 0
        self.head = 0
        self.owner: str | None = "worker"
        self.waiting: int | None = None
        self.names = ["g", "millstream.console.x"]

    async def groups(self) -> Sequence[Group]:
        if self.away:
            raise BrokerUnavailableError("it is away")
        return [Group(name=name, topics=("orders",)) for name in self.names]

    async def positions(self, group: str) -> Sequence[PartitionState]:
        if group == self.withheld:
            raise BrokerUnavailableError(f"{group} cannot be asked")
        oldest = Figure(5_000_000 if self.head else None, "exact" if self.head else "unknown")
        committed = Figure(self.committed, "unknown" if self.committed is None else "exact")
        head = Figure(self.head) if self.waiting is None else Figure(None, "unknown")
        waiting = Figure(self.waiting, "unknown" if self.waiting is None else "estimated")
        return [PartitionState(partition=HERE, committed=committed, head=head, oldest=oldest, owner=self.owner, waiting=waiting)]


def an_event(position: str | None, time: float = 0.0) -> dict[str, Any]:
    return {"position": position, "topic": "orders", "partition": 0, "time": time}


async def sampled(watch: Watch, clock: ManualClock, broker: Positions, *steps: tuple[int, int]) -> None:
    """Samples in which the group is so far, and the log ends there."""
    for committed, head in steps:
        broker.committed, broker.head = committed, head
        await watch.sample()
        await clock.advance(1)


def a_watch() -> tuple[Watch, ManualClock, Positions]:
    clock, broker = ManualClock(), Positions()
    return Watch(cast(Any, broker), clock), clock, broker


async def test_a_group_that_cannot_be_asked_hides_no_other() -> None:
    """The others have their samples, it keeps those that it had, and why is told until it can be asked again."""
    watch, clock, broker = a_watch()
    broker.names = ["g", "odd"]
    await sampled(watch, clock, broker, (1, 1))

    broker.withheld = "odd"
    broker.names = ["g", "new", "odd"]
    await sampled(watch, clock, broker, (2, 2), (3, 3))
    during = watch.trouble
    broker.withheld = None
    await sampled(watch, clock, broker, (4, 4))

    assert watch.names() == ["g", "new", "odd"]
    assert [len(watch._samples[name][HERE]) for name in ("g", "new", "odd")] == [4, 3, 2]  # pyright: ignore[reportPrivateUsage]
    assert (during, watch.trouble) == ("odd cannot be asked", "")


async def test_a_position_that_an_operator_moved_is_a_replay_until_it_is_where_it_was() -> None:
    """Without the operator it is a mishap; and long after the operator, too."""
    watch, clock, broker = a_watch()
    await sampled(watch, clock, broker, (100, 100), (100, 100), (100, 100))
    moved = clock.micros() / 1e6
    await sampled(watch, clock, broker, (0, 100), (10, 100), (40, 100))

    during = watch.verdict("g", paused=False, moved=moved)
    nobody = watch.verdict("g", paused=False)
    long_before = watch.verdict("g", paused=False, moved=moved - 3600)
    await sampled(watch, clock, broker, (100, 100), (100, 100))

    assert (during.state, during.sentence) == ("replaying", "Replaying: 60 to go")
    assert nobody.state == long_before.state == "rewound"
    assert watch.verdict("g", paused=False, moved=moved).state == "caught up"


async def test_groups_of_millstreams_own_are_not_watched() -> None:
    """And one that is forgotten is gone."""
    watch, clock, broker = a_watch()
    await sampled(watch, clock, broker, (1, 2))
    before = watch.names()
    broker.names = []
    await watch.sample()

    assert (before, watch.names()) == (["g"], [])


async def test_what_is_unknown_is_not_zero() -> None:
    """A broker that cannot say where a group stands."""
    watch, clock, broker = a_watch()
    await sampled(watch, clock, broker, (1, 2))
    broker.committed = None
    await watch.sample()

    assert watch.standing("g")["lag"] is None
    assert watch.partitions("g", {})[0]["position"] is None
    assert watch.untold("g", an_event("0")) == "waiting"


async def test_a_group_is_beyond_what_lies_before_its_position() -> None:
    """Of an event that no broker has told a position of, nobody knows."""
    watch, clock, broker = a_watch()
    await sampled(watch, clock, broker, (5, 9))

    untold = {position: watch.untold("g", an_event(position)) for position in ("4", "5", None)}
    assert untold == {"4": "passed", "5": "waiting", None: "waiting"}


async def test_of_an_empty_queue_without_positions_nobody_knows_what_became_of_an_event() -> None:
    """It was handled, or a broker kept it back: "waiting" would be wrong, and so would "handled". What is young may yet be told of."""
    watch, clock, broker = a_watch()
    broker.committed, broker.waiting = None, 0
    await watch.sample()
    young = watch.untold("g", an_event(None, time=clock.micros() / 1e6))
    await clock.advance(6)
    old = {position: watch.untold("g", an_event(position, time=0.0)) for position in (None, "7")}
    broker.waiting = 1
    await watch.sample()

    assert (young, old) == ("waiting", {None: "unknown", "7": "unknown"})
    assert watch.untold("g", an_event(None, time=0.0)) == "waiting"
    assert watch.untold("g", {**an_event(None, time=0.0), "topic": "payments"}) == "waiting"


async def test_a_broker_that_is_away_is_named_and_asked_again() -> None:
    """What was known stays known meanwhile."""
    import asyncio

    watch, clock, broker = a_watch()
    running = asyncio.ensure_future(watch.run())
    await clock.advance(3)
    broker.away = True
    await clock.advance(3)
    away = watch.trouble, watch.names()
    broker.away = False
    await clock.advance(3)
    running.cancel()

    assert away == ("it is away", ["g"])
    assert watch.trouble == ""


def told(count: int, at: int) -> Deliveries:
    """Facts of so many deliveries."""
    each = [
        DeliveryFact("handled", "h", "t", 0, n, f"e-{n}", "/s", "t", None, at, None, None, None, 1, 1, at, 0.0, 0.0) for n in range(count)
    ]
    return Deliveries("shop", "p", at, "g", (("h", "handled", count),), 1, tuple(each))


async def test_no_more_dots_are_sent_in_a_second_than_can_be_seen(monkeypatch: Any) -> None:
    """The others are counted; the next second has its own."""
    from millstream.console import live as module

    now = SimpleNamespace(value=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.value, time=lambda: now.value))
    live = Live()
    with live.listening() as queue:
        for _ in range(3):
            live.facts([told(MOST_DOTS // 2, 100_000_000)])
        first = [queue.get_nowait()[1] for _ in range(queue.qsize())]
        now.value = 101.0
        live.facts([told(10, 101_000_000)])
        _, second = queue.get_nowait()

        assert (sum(len(pulse["dots"]) for pulse in first), sum(pulse["missed"] for pulse in first)) == (MOST_DOTS, MOST_DOTS // 2)
        assert (len(second["dots"]), second["missed"]) == (10, 0)


async def test_what_happened_long_ago_is_no_dot(monkeypatch: Any) -> None:
    """A read model that is built anew does not play the past."""
    live = Live()
    with live.listening() as queue:
        live.facts([told(5, 1_000_000)])

        assert queue.empty()


async def test_a_slow_screen_misses_some_and_the_others_do_not() -> None:
    """Nothing waits for it, and nothing piles up."""
    live = Live()
    with live.listening() as slow, live.listening() as quick:
        heard = 0
        for number in range(1000):
            live.operation(str(number), "done", "")
            heard += quick.get_nowait()[0] == "operation"

        assert heard == 1000
        assert slow.qsize() <= 200
        assert [slow.get_nowait() for _ in range(slow.qsize())][-1][1]["id"] == "999"


async def test_a_queue_is_judged_by_its_length() -> None:
    """Without positions nobody can say that it stands still, or who works on it; but how it grows and shrinks."""
    watch, clock, broker = a_watch()
    broker.features = Features()
    broker.owner = broker.committed = None

    async def seen(*lengths: int) -> tuple[str, int | None]:
        for length in lengths:
            broker.waiting = length
            await watch.sample()
            await clock.advance(1)
        return watch.verdict("g", paused=False).state, watch.standing("g")["lag"]

    assert await seen(0, 0, 0) == ("caught up", 0)
    assert await seen(*range(10, 200, 10)) == ("behind", 190)
    assert await seen(*range(150, 50, -5)) == ("catching up", 55)
