"""BrokerGround: a broker under test, its members, and the words in which scenarios are written."""

import asyncio
import itertools
import secrets
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from millstream.contracts.envelope import Envelope
from millstream.core.broker import (
    Assigned,
    Broker,
    Deliveries,
    Delivery,
    Features,
    Group,
    Lost,
    Partition,
    PartitionState,
    Revoked,
    Subscription,
    Topic,
)

#: Any moment will do; to the microsecond, so that a broker that rounds is found out.
MOMENT = 1_767_225_600_000_001


class Member:
    """One member of a group: starts what it is assigned, gives up what is revoked, and hands over the rest."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.partitions: set[Partition] = set()
        self.in_hand: list[Delivery] = []
        """What came and is neither settled nor released, in the order in which it came."""

    async def step(self, most: int = 100, wait: float = 0.05) -> list[Delivery]:
        """Receive once; deliveries that came are in hand too."""
        match await self.subscription.receive(most, wait):
            case Assigned(partitions):
                for partition in partitions:
                    self.subscription.start(partition, None)
                self.partitions.update(partitions)
            case Revoked(partitions, _):
                self._without(partitions)
                await self.subscription.release(partitions)
            case Lost(partitions):
                self._without(partitions)
            case Deliveries(items):
                self.in_hand += items
                return list(items)
        return []

    async def settle(self, done: Sequence[Delivery] | None = None) -> None:
        """Settle these, or all that is in hand."""
        done = list(self.in_hand if done is None else done)
        self.in_hand = [delivery for delivery in self.in_hand if not any(delivery is settled for settled in done)]
        await self.subscription.settle(done)

    async def give_back(self) -> None:
        """Have all that is in hand delivered again."""
        released, self.in_hand = self.in_hand, []
        await self.subscription.settle((), released)

    async def close(self) -> None:
        """Leave the group."""
        self.partitions.clear()
        self.in_hand.clear()
        await self.subscription.close()

    def _without(self, partitions: Sequence[Partition]) -> None:
        self.partitions.difference_update(partitions)
        self.in_hand = [delivery for delivery in self.in_hand if delivery.partition not in partitions]


class BrokerGround:
    """A broker under test, and the words in which its scenarios are written; see `BrokerSuite`."""

    features: Features
    """What the broker under test has to keep; `features` of the broker itself must say the same."""
    patience: float = 10.0
    """Seconds to wait for what has to come."""
    silence: float = 0.1
    """Seconds without anything after which nothing more is expected."""
    limit: float = 60.0
    """Seconds that one test may take."""
    broker: Broker
    """The broker under test, open while a test runs."""

    def connect(self) -> Broker:
        """Make the broker, not yet open; within a test each call has to reach the same events."""
        raise NotImplementedError("a BrokerSuite needs connect(): return your broker, not yet open")

    async def restart(self) -> None:
        """Stop the broker as hard as you can and start it again; `self.broker` is open afterwards.

        This one closes the connection and opens another one, which is all there is to
        a broker without a server.
        """
        await self.reconnect()

    async def reconnect(self) -> None:
        """Close the connection at once, and open another."""
        await self.broker.__aexit__(None, None, None)
        self.broker = await self.connect().__aenter__()

    async def play(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run one scenario on an open broker."""
        self._token = secrets.token_hex(4)
        self._numbers = itertools.count()
        self.broker = await self.connect().__aenter__()
        try:
            async with asyncio.timeout(self.limit):
                await scenario()
        finally:
            await self.broker.__aexit__(None, None, None)

    # What the scenarios are written in

    def unique(self, word: str) -> str:
        """A name that no other test uses."""
        return f"{word}.{self._token}"

    def events(self, topic: str, count: int, *, keys: int = 8, prefix: str = "k") -> list[Envelope]:
        """So many different events of one topic, over so many keys; without keys when there are none."""
        return [
            Envelope(
                id=f"e-{self._token}-{(number := next(self._numbers))}", source="/suite", type="suite.made",
                key=f"{prefix}{n % keys}" if keys else None, time=MOMENT + number, data=b'{"number":%d}' % number, topic=topic,
            )
            for n in range(count)
        ]  # fmt: skip

    async def declare(self, *groups: str, topic: str | None = None, partitions: int | None = None) -> str:
        """Declare a topic and groups that read it; gives the topic's name."""
        topic = topic or self.unique("made")
        await self.broker.declare(
            [Topic(name=topic, partitions=partitions)], [Group(name=self.unique(group), topics=(topic,)) for group in groups]
        )
        return topic

    async def publish(self, envelopes: Iterable[Envelope]) -> None:
        """Publish; all of it has to be accepted."""
        envelopes = list(envelopes)
        results = await self.broker.publish(envelopes)
        assert list(results) == [None] * len(envelopes), f"publish refused something: {[r for r in results if r is not None][:3]}"

    async def join(self, group: str, member: str = "") -> Member:
        """Open a group, under a member's name that no other test uses."""
        return Member(await self.broker.open(self.unique(group), self.unique(f"member{member}")))

    async def take(self, member: Member, count: int, *, settle: bool = True) -> list[Delivery]:
        """Receive until so many have come, each of them settled at once unless told not to."""
        taken: list[Delivery] = []
        async with self.in_time(lambda: f"only {len(taken)} of {count} deliveries came"):
            while len(taken) < count:
                items = await member.step(most=count - len(taken))
                taken += items
                if settle:
                    await member.settle(items)
        return taken

    async def take_all(self, member: Member, ids: Iterable[str]) -> list[Delivery]:
        """Receive and settle until each of these ids has come at least once."""
        missing, taken = set(ids), list[Delivery]()
        async with self.in_time(lambda: f"{len(missing)} events never came, such as {min(missing)}"):
            while missing:
                items = await member.step()
                taken += items
                missing -= {envelope_of(delivery).id for delivery in items}
                await member.settle(items)
        return taken

    async def take_nothing(self, *members: Member) -> None:
        """Nothing may come for a while."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self.silence
        while loop.time() < until:
            for member in members:
                items = await member.step(wait=self.silence / 5)
                assert not items, f"{len(items)} deliveries came that should not have, such as {items[0]}"

    async def until_assigned(self, member: Member) -> None:
        """Receive until some partition is assigned."""
        async with self.in_time("no partition was assigned"):
            while not member.partitions:
                await member.step()

    async def until_shared(self, one: Member, two: Member) -> None:
        """Receive with both until each of them has partitions."""
        async with self.in_time("two members do not share the partitions"):
            while not (one.partitions and two.partitions):
                await one.step(wait=0.01)
                await two.step(wait=0.01)

    async def share(self, group: str, members: int, ids: Iterable[str]) -> list[Delivery]:
        """Have several members receive and settle side by side until each id has come; gives all that came, in order."""
        missing, taken = set(ids), list[Delivery]()

        async def work(number: int) -> None:
            member = await self.join(group, str(number))
            while missing:
                items = await member.step()
                taken.extend(items)
                await member.settle(items)
                missing.difference_update(envelope_of(delivery).id for delivery in items)
            await member.close()

        async with self.in_time(lambda: f"{len(missing)} events never came, such as {min(missing)}"), asyncio.TaskGroup() as tasks:
            for number in range(members):
                tasks.create_task(work(number))
        return taken

    async def states(
        self, group: str, reached: Callable[[Sequence[PartitionState]], bool], what: str
    ) -> Sequence[PartitionState]:
        """The positions of a group, once they are so."""
        states: Sequence[PartitionState] = ()
        async with self.in_time(lambda: f"{what}, but the positions stayed {states}"):
            while True:
                states = await self.broker.positions(self.unique(group))
                if reached(states):
                    break
                await asyncio.sleep(self.silence / 10)
        return states

    @asynccontextmanager
    async def in_time(self, otherwise: str | Callable[[], str]) -> AsyncGenerator[None]:
        """What is inside has to end while there is patience; `otherwise` says what the matter was."""
        try:
            async with asyncio.timeout(self.patience):
                yield
        except TimeoutError as error:
            what = otherwise if isinstance(otherwise, str) else otherwise()
            raise AssertionError(f"{what} within {self.patience:g} s") from error


def envelope_of(delivery: Delivery) -> Envelope:
    """The envelope of a delivery that has to have one."""
    assert delivery.envelope is not None, f"an event came without its envelope: {delivery}"
    return delivery.envelope


def by_id(deliveries: Iterable[Delivery]) -> dict[str, Envelope]:
    """What came, however often, under its id."""
    return {envelope_of(delivery).id: envelope_of(delivery) for delivery in deliveries}


def replaced(envelope: Envelope, **attributes: Any) -> Envelope:
    """The same event with other attributes."""
    return Envelope(**{name: attributes.get(name, getattr(envelope, name)) for name in envelope.__struct_fields__})
