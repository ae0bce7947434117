"""BrokerSuite: what every broker has to keep, as tests that run on anybody's broker."""

import asyncio
import math
import time
from collections.abc import Callable

from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import (
    BrokerError,
    ConfigurationError,
    FencedError,
    MillstreamError,
    PositionLostError,
    StoreMismatchError,
    TooLargeError,
)
from millstream.core.broker import Assigned, Features, Group, Message, Origin, Topic
from millstream.core.facts import TOPIC as FACTS
from millstream.testing.broker_ground import MOMENT, BrokerGround, Member, by_id, envelope_of, replaced
from millstream.testing.scenario import expect, promised, refused, skip

MEBIBYTE = 1 << 20
#: Beyond this a message at the broker's limit would cost more memory than the test is worth.
LARGEST_TRIED = 64 << 20
#: Seconds by which the clock of a broker's servers may differ from the one here.
CLOCKS = 0.25
ODD_KEYS = ("k", "ключ", "a/b c:d", "0", "k" * 200)
ODD_NAMES = ("größe", "a.b.c", "a/b", "with space", "UPPER", "日本", "__consumer_offsets", "a:b", "..")


class BrokerSuite(BrokerGround):
    """Subclass it, say which broker and what it promises, and pytest does the rest.

        class TestMyBroker(BrokerSuite):
            features = Features(ordered=True, durable=True)

            def connect(self) -> Broker:
                return MyBroker("my://127.0.0.1")

    A test of a feature that is not promised is skipped, with that reason. Names of
    topics and groups are new for every test, so a broker need not be emptied. The
    tests are plain functions: they need pytest, but none of its plugins.
    """

    # What is declared

    @promised()
    async def test_the_broker_declares_what_it_is_held_to(self) -> None:
        """The features that users see are those that this suite checks."""
        declared = self.broker.features

        differing = [name for name in Features.__struct_fields__ if getattr(declared, name) != getattr(self.features, name)]
        assert not differing, f"the broker declares otherwise: {', '.join(differing)}"
        assert self.broker.name, "the broker has no name to call it by"

    @promised()
    async def test_what_was_declared_can_be_listed(self) -> None:
        """Topics and groups are found again under their names; declaring them twice changes nothing."""
        topic = await self.declare("g")
        await self.declare("g", topic=topic)

        topics, groups = await self.broker.topics(), await self.broker.groups()

        assert [t.name for t in topics].count(topic) == 1
        assert [g.topics for g in groups if g.name == self.unique("g")] == [(topic,)]

    @promised("positional")
    async def test_the_number_of_partitions_is_fixed_at_creation(self) -> None:
        """Declaring another number is refused; declaring none takes what is there."""
        topic = await self.declare(partitions=2)
        await self.declare(topic=topic, partitions=None)

        await expect(ConfigurationError, self.declare(topic=topic, partitions=3))

        assert len([t for t in await self.broker.topics() if t.name == topic and t.partitions == 2]) == 1

    @promised()
    async def test_a_group_belongs_to_one_store(self) -> None:
        """Another store that claims the group is refused, since each would think it owned the group's progress."""
        topic = await self.declare()
        mine, theirs = (Group(name=self.unique("g"), topics=(topic,), store=store) for store in ("store-1", "store-2"))
        await self.broker.declare([], [mine])

        await expect((StoreMismatchError, ConfigurationError), self.broker.declare([], [theirs]))
        await self.broker.declare([], [mine])

    @promised()
    async def test_a_group_that_was_not_declared_cannot_be_opened(self) -> None:
        """A typing mistake is told, and makes no group that nobody wanted."""
        await expect(MillstreamError, self.broker.open(self.unique("nobody"), "m"))

        assert self.unique("nobody") not in [group.name for group in await self.broker.groups()]

    @promised()
    async def test_names_are_kept_or_refused(self) -> None:
        """Whatever a topic is called: it carries events under exactly that name, or it is refused."""
        reasons: list[str] = []
        for number, name in enumerate((*ODD_NAMES, "x" * 255, "x" * 300)):
            topic = f"{name[: len(name) - 9]}.{self._token}" if len(name) > 200 else f"{name}.{self._token}"
            group = Group(name=self.unique(f"g{number}"), topics=(topic,))
            try:
                await self.broker.declare([Topic(name=topic)], [group])
            except ConfigurationError as error:
                reasons.append(str(error))
                continue
            (sent,) = self.events(topic, 1)
            await self.publish([sent])
            member = Member(await self.broker.open(group.name, self.unique("m")))
            (delivery,) = await self.take(member, 1)
            await member.close()
            assert (delivery.partition.topic, envelope_of(delivery)) == (topic, sent)
        assert all(reasons), "a name was refused without a reason"

    # Publishing and receiving

    @promised()
    async def test_what_was_published_arrives_whole(self) -> None:
        """A hundred events reach the group, every attribute equal to what was published."""
        topic = await self.declare("g")
        sent = [
            replaced(e, correlation="c-1", causation="e-0", attempt="other/1", version=3, schema="http://schemas/1",
                     traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", tracestate="v=1",
                     extensions={"tenant": "größe, 日本"})
            for e in self.events(topic, 100)
        ]  # fmt: skip
        await self.publish(sent)

        member = await self.join("g")
        taken = await self.take(member, 100)
        await member.close()

        assert by_id(taken) == {e.id: e for e in sent}

    @promised()
    async def test_odd_and_large_bodies_arrive_byte_for_byte(self) -> None:
        """Nothing, one byte, every byte, a mebibyte, a long attribute and odd keys come back as they were."""
        topic = await self.declare("g")
        bodies = [b"", b"\x00", bytes(range(256)), b"\xff\xfe" * 1000, b"x" * min(MEBIBYTE, self.features.largest)]
        events = self.events(topic, len(bodies) + len(ODD_KEYS) + 2)
        sent = [replaced(e, data=body, content_type="application/octet-stream") for e, body in zip(events, bodies, strict=False)]
        sent += [replaced(e, key=key) for e, key in zip(events[len(sent) :], ODD_KEYS, strict=False)]
        sent.append(replaced(events[-2], key=None))
        long = replaced(events[-1], extensions={"long": "x" * 65536})
        await self.publish(sent)
        (long_refused,) = await self.broker.publish([long])

        member = await self.join("g")
        taken = await self.take(member, len(sent) + (long_refused is None))
        await member.close()

        assert by_id(taken) == {e.id: e for e in (*sent, *([long] if long_refused is None else []))}

    @promised()
    async def test_an_event_at_the_limit_arrives_and_one_beyond_is_refused(self) -> None:
        """The limit is what the features say; what exceeds it takes down what follows of its key, and no other."""
        if self.features.largest > LARGEST_TRIED:
            skip(f"a message of {self.features.largest} bytes is more than a test should hold")
        topic = await self.declare("g")
        before, fits, beyond, behind, after = (replaced(e, key=key) for e, key in zip(self.events(topic, 5), "abccd", strict=True))
        fits, beyond = replaced(fits, data=b"x" * self.features.largest), replaced(beyond, data=b"x" * (self.features.largest + 1))

        results = await self.broker.publish([before, fits, beyond, behind, after])

        arrive = [before, fits, *([] if self.features.ordered else [behind]), after]
        assert [result is None for result in results] == [True, True, False, not self.features.ordered, True]
        assert type(results[2]) is TooLargeError
        member = await self.join("g")
        assert by_id(await self.take(member, len(arrive))) == {e.id: e for e in arrive}
        await self.take_nothing(member)
        await member.close()

    @promised()
    async def test_bytes_of_others_arrive_as_they_are(self) -> None:
        """Body, key and headers of a message that is no envelope come back whole, under a name of the broker's own."""
        topic = await self.declare("g")
        sent = [
            Message(topic=topic, body=b'{"plain": 1}', key=b"k"),
            Message(topic=topic, body=bytes(range(256)), key=b"\xff\xfe", headers=(("x-one", b"1"), ("x-raw", b"\x00\xff"))),
            Message(topic=topic, body=b"", headers=(("x-big", b"h" * 60_000),)),
        ]
        assert list(await self.broker.publish_raw(sent)) == [None] * 3

        member = await self.join("g")
        taken = await self.take(member, 3, settle=False)
        await member.give_back()
        again = await self.take(member, 3)
        await member.close()

        came = [delivery.message for delivery in taken if delivery.envelope is None and delivery.message is not None]
        content = [(message.body, message.key, message.headers) for message in came]
        assert sorted(content, key=repr) == sorted(((m.body, m.key, m.headers) for m in sent), key=repr)
        names = [(message.source, message.id) for message in came if message.id]
        assert len(set(names)) == len(names), "two messages have the same name"
        assert {(d.message.source, d.message.id) for d in again if d.message and d.message.id} == set(names), (
            "a message has another name when it is delivered again"
        )

    @promised()
    async def test_topics_are_separate(self) -> None:
        """Twenty topics at the same time: each group gets all of its own and nothing of the others."""
        topics = [f"{self.unique('made')}.t{n}" for n in range(20)]
        await self.broker.declare([Topic(name=t) for t in topics], [Group(name=f"{t}.g", topics=(t,)) for t in topics])
        sent = {topic: self.events(topic, 20) for topic in topics}
        async with asyncio.TaskGroup() as tasks:
            for events in sent.values():
                tasks.create_task(self.publish(events))

        for topic in topics:
            member = Member(await self.broker.open(f"{topic}.g", self.unique("m")))
            taken = await self.take(member, 20)
            await member.close()

            assert by_id(taken) == {e.id: e for e in sent[topic]}
            assert {delivery.partition.topic for delivery in taken} == {topic}

    @promised()
    async def test_what_services_tell_of_themselves_is_a_topic_like_any_other(self) -> None:
        """The topic of facts has a name of Millstream's own, and no broker may take that for a mistake."""
        group = self.unique("group")
        await self.broker.declare([FACTS], [Group(name=group, topics=(FACTS.name,))])
        sent = self.events(FACTS.name, 3)
        await self.publish(sent)
        member = Member(await self.broker.open(group, self.unique("m")))

        taken = await self.take(member, 3)
        await member.settle()
        await member.close()
        await self.broker.forget(group)

        assert {e.id for e in sent} <= set(by_id(taken))

    @promised()
    async def test_every_group_gets_everything(self) -> None:
        """Two groups of one topic each get all fifty events."""
        topic = await self.declare("one", "two")
        sent = self.events(topic, 50)
        await self.publish(sent)

        for group in ("one", "two"):
            member = await self.join(group)
            assert by_id(await self.take(member, 50)) == {e.id: e for e in sent}
            await member.close()

    @promised()
    async def test_a_group_starts_at_its_creation(self) -> None:
        """What was published before is not for it; what comes after the declaration is, opened or not."""
        topic = await self.declare()
        await self.publish(self.events(topic, 10))
        await self.declare("g", topic=topic)
        after = self.events(topic, 10)
        await self.publish(after)

        member = await self.join("g")
        taken = await self.take(member, 10)
        await self.take_nothing(member)
        await member.close()

        assert by_id(taken) == {e.id: e for e in after}

    @promised()
    async def test_members_share_what_many_publishers_send(self) -> None:
        """Twenty publishers, ten members: every event reaches the group."""
        topic = await self.declare("g")
        sent = [self.events(topic, 25, prefix=f"p{n}-") for n in range(20)]
        async with asyncio.TaskGroup() as tasks:
            for events in sent:
                tasks.create_task(self.publish(events))

        taken = await self.share("g", 10, [e.id for events in sent for e in events])

        assert by_id(taken) == {e.id: e for events in sent for e in events}

    # Order

    @promised("ordered")
    async def test_each_key_keeps_its_order(self) -> None:
        """A thousand events over sixteen keys, several members: each key arrives as it was published, and never goes back."""
        topic = await self.declare("g")
        sent = [self.events(topic, 250, keys=4, prefix=f"p{n}-") for n in range(4)]

        async def produce(events: list[Envelope]) -> None:
            for start in range(0, len(events), 10):
                await self.publish(events[start : start + 10])

        async with asyncio.TaskGroup() as tasks:
            for events in sent:
                tasks.create_task(produce(events))
            sharing = tasks.create_task(self.share("g", 5, [e.id for events in sent for e in events]))

        first_seen = list(dict.fromkeys(envelope_of(delivery).id for delivery in sharing.result()))
        key_of = {e.id: e.key for events in sent for e in events}
        for key in dict.fromkeys(key_of.values()):
            published = [e.id for events in sent for e in events if e.key == key]
            assert [id_ for id_ in first_seen if key_of[id_] == key] == published, f"the events of {key!r} came out of order"

    @promised("ordered")
    async def test_one_member_at_a_time_has_a_key(self) -> None:
        """While an event of a key is in hand no other member gets one of that key; once it is settled the next comes."""
        topic = await self.declare("g", partitions=4)
        one, two = await self.join("g", "1"), await self.join("g", "2")
        await self.until_shared(one, two)
        first, second = self.events(topic, 16, keys=16), self.events(topic, 16, keys=16)

        async def both(until: Callable[[], bool], seconds: float) -> None:
            loop = asyncio.get_running_loop()
            end = loop.time() + seconds
            while not until() and loop.time() < end:
                for member, other in ((one, two), (two, one)):
                    keys = {envelope_of(delivery).key for delivery in await member.step(wait=0.01)}
                    shared = keys & {envelope_of(delivery).key for delivery in other.in_hand}
                    assert not shared, f"the key {min(map(str, shared))} is in hand with two members"

        await self.publish(first)
        await both(lambda: len(one.in_hand) + len(two.in_hand) >= 16, self.patience)
        await self.publish(second)
        await both(lambda: False, self.silence)
        seen = {envelope_of(delivery).id for delivery in (*one.in_hand, *two.in_hand)}
        for member in (one, two):
            await member.settle()
        await both(lambda: seen.issuperset(e.id for e in second), 0)
        rest = {e.id for e in second} - seen
        await both(lambda: rest <= {envelope_of(d).id for d in (*one.in_hand, *two.in_hand)}, self.patience)

        assert {e.id for e in first} <= seen
        assert rest <= {envelope_of(delivery).id for delivery in (*one.in_hand, *two.in_hand)}, "the next of a key did not come"
        await one.close()
        await two.close()

    # Settling, releasing, leaving

    @promised()
    async def test_what_is_released_comes_again(self) -> None:
        """The first two of a hundred are released; all hundred are delivered, those two once more."""
        topic = await self.declare("g")
        sent = self.events(topic, 100)
        await self.publish(sent)
        member = await self.join("g")
        released = await self.take(member, 2, settle=False)

        await member.give_back()
        taken = await self.take_all(member, [e.id for e in sent])
        await member.close()

        assert {envelope_of(d).id for d in released} <= {envelope_of(d).id for d in taken}
        assert by_id(taken) == {e.id: e for e in sent}

    @promised()
    async def test_members_that_release_everything_lose_nothing(self) -> None:
        """Three members give back all they get, many times; then a good one gets every event."""
        topic = await self.declare("g")
        sent = self.events(topic, 50)
        await self.publish(sent)
        for number in range(3):
            bad = await self.join("g", f"bad{number}")
            for _ in range(10):
                await self.take(bad, 1, settle=False)
                await bad.give_back()
            await bad.close()

        good = await self.join("g", "good")
        taken = await self.take_all(good, [e.id for e in sent])
        await good.close()

        assert by_id(taken) == {e.id: e for e in sent}

    @promised()
    async def test_a_group_goes_on_where_it_stopped(self) -> None:
        """After a member left, the next gets exactly what was not settled."""
        topic = await self.declare("g")
        sent = self.events(topic, 20)
        await self.publish(sent)
        first = await self.join("g", "1")
        settled = await self.take(first, 8)
        await self.take(first, 5, settle=False)
        await first.close()

        second = await self.join("g", "2")
        taken = await self.take(second, 12)
        await self.take_nothing(second)
        await second.close()

        assert {envelope_of(d).id for d in (*settled, *taken)} == {e.id for e in sent}
        assert not {envelope_of(d).id for d in settled} & {envelope_of(d).id for d in taken}

    @promised()
    async def test_nothing_is_lost_while_members_come_and_go(self) -> None:
        """A thousand events, a new member for every hundred of them."""
        topic = await self.declare("g")
        sent = self.events(topic, 1000)
        await self.publish(sent)
        seen: set[str] = set()

        while len(seen) < len(sent):
            member = await self.join("g", str(len(seen)))
            taken = await self.take(member, min(100, len(sent) - len(seen)))
            await member.close()
            assert not seen.issuperset(envelope_of(d).id for d in taken), "members only get what others had settled"
            seen.update(envelope_of(d).id for d in taken)

        assert seen == {e.id for e in sent}

    @promised()
    async def test_members_that_leave_at_once_do_no_harm(self) -> None:
        """Ten members open and close at the same time; the one that comes then gets all."""
        topic = await self.declare("g")

        async def come_and_go(number: int) -> None:
            member = await self.join("g", str(number))
            await member.step(wait=0)
            await member.close()

        async with self.in_time("ten members do not all get away"), asyncio.TaskGroup() as tasks:
            for number in range(10):
                tasks.create_task(come_and_go(number))
        sent = self.events(topic, 50)
        await self.publish(sent)
        member = await self.join("g", "last")
        taken = await self.take(member, 50)
        await member.close()

        assert by_id(taken) == {e.id: e for e in sent}

    @promised()
    async def test_a_cancelled_receive_loses_nothing(self) -> None:
        """Whoever stops waiting stops at once, and what may have been on its way comes to the next member."""
        topic = await self.declare("g")
        member = await self.join("g", "1")
        await self.until_assigned(member)
        sent, settled = self.events(topic, 20), set[str]()

        for event in sent:
            waiting = asyncio.ensure_future(member.step(wait=self.patience))
            await asyncio.sleep(0)
            await self.publish([event])
            waiting.cancel()
            async with self.in_time("a cancelled receive does not end"):
                (outcome,) = await asyncio.gather(waiting, return_exceptions=True)
            if isinstance(outcome, list):
                await member.settle(outcome)
                settled.update(envelope_of(delivery).id for delivery in outcome)
        await member.close()
        after = await self.join("g", "2")
        taken = await self.take_all(after, {e.id for e in sent} - settled)
        await after.close()

        assert settled | {envelope_of(delivery).id for delivery in taken} == {e.id for e in sent}

    @promised()
    async def test_another_member_takes_over_what_one_gives_up(self) -> None:
        """When a second member comes the first gives up its share, and when that one leaves it gets it back."""
        topic = await self.declare("g", partitions=4)
        one = await self.join("g", "1")
        await self.until_assigned(one)
        two = await self.join("g", "2")
        await self.until_shared(one, two)
        if not self.features.shares_partitions:
            assert not one.partitions & two.partitions, "two members have the same partition"

        await two.close()
        sent = self.events(topic, 40, keys=16)
        await self.publish(sent)
        taken = await self.take_all(one, [e.id for e in sent])
        await one.close()

        assert by_id(taken) == {e.id: e for e in sent}

    @promised()
    async def test_a_paused_partition_delivers_nothing(self) -> None:
        """Pausing holds back new deliveries, the partitions stay; resuming lets them through."""
        topic = await self.declare("g")
        member = await self.join("g")
        await self.until_assigned(member)
        await self.take_nothing(member)
        member.subscription.pause(list(member.partitions))
        sent = self.events(topic, 20)
        await self.publish(sent)

        await self.take_nothing(member)
        member.subscription.resume(list(member.partitions))
        taken = await self.take(member, 20)
        await member.close()

        assert by_id(taken) == {e.id: e for e in sent}

    @promised()
    async def test_what_is_in_hand_can_be_kept(self) -> None:
        """After extending, deliveries can still be settled, and do not come again."""
        topic = await self.declare("g")
        await self.publish(self.events(topic, 10))
        member = await self.join("g", "1")
        await self.take(member, 10, settle=False)

        await member.subscription.extend()
        await member.settle()
        await member.close()

        after = await self.join("g", "2")
        await self.until_assigned(after)
        await self.take_nothing(after)
        await after.close()

    # What survives

    @promised()
    async def test_closing_loses_nothing_that_was_acknowledged(self) -> None:
        """Twenty publishers, and the connection closed at once: everything is there for the next one."""
        topic = await self.declare("g")
        sent = [self.events(topic, 50, prefix=f"p{n}-") for n in range(20)]
        async with asyncio.TaskGroup() as tasks:
            for events in sent:
                tasks.create_task(self.publish(events))

        await self.reconnect()
        member = await self.join("g")
        taken = await self.take(member, 1000)
        await member.close()

        assert by_id(taken) == {e.id: e for events in sent for e in events}

    @promised("durable")
    async def test_restarts_under_load_lose_nothing(self) -> None:
        """Publishers that try until they are accepted, the broker restarted twice: every event is there."""
        topic = await self.declare("g")
        sent = self.events(topic, 1000, keys=100)
        accepted, running, third, half = 0, asyncio.Event(), asyncio.Event(), asyncio.Event()
        running.set()

        async def publish_until_accepted(event: Envelope) -> None:
            while True:
                await running.wait()
                try:
                    async with asyncio.timeout(self.patience):
                        (error,) = await self.broker.publish([event])
                except MillstreamError as unavailable:
                    error = unavailable
                if error is None:
                    return
                await asyncio.sleep(self.silence / 10)

        async def produce(events: list[Envelope]) -> None:
            nonlocal accepted
            for event in events:
                await publish_until_accepted(event)
                accepted += 1
                if accepted == len(sent) // 3:
                    third.set()
                if accepted == len(sent) // 2:
                    half.set()

        async def restart_twice() -> None:
            for moment in (third, half):
                await moment.wait()
                running.clear()
                await self.restart()
                running.set()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(restart_twice())
            for start in range(0, len(sent), 50):
                tasks.create_task(produce(sent[start : start + 50]))
        member = await self.join("g")
        taken = await self.take_all(member, [e.id for e in sent])
        await member.close()

        assert by_id(taken) == {e.id: e for e in sent}

    # Positions and history

    @promised()
    async def test_the_lag_is_told(self) -> None:
        """Head, position and the age of the next event are right where they are called exact."""
        topic = await self.declare("g", partitions=1)
        sent = self.events(topic, 10, keys=1)
        began = time.time()
        await self.publish(sent)
        ended = time.time()
        member = await self.join("g")
        await self.take(member, 4)

        (state,) = await self.states(
            "g",
            lambda s: bool(s) and (s[0].committed.quality != "exact" or s[0].committed.value == (s[0].head.value or 0) - 6),
            "4 of 10 are settled",
        )
        await self.take(member, 6)
        (drained,) = await self.states(
            "g", lambda s: s[0].committed.quality != "exact" or s[0].committed.value == s[0].head.value, "all are settled"
        )
        await member.close()

        if state.oldest.quality == "exact":
            late = (state.oldest.value or 0) / 1e6 - began
            assert -CLOCKS <= late <= ended - began + CLOCKS, f"the broker has the next event published {late:g} s after it was"
        assert drained.oldest.value is None or drained.oldest.quality == "estimated"
        for figure in (state.committed, state.head, state.oldest):
            assert (figure.value is None) == (figure.quality == "unknown"), "a number is unknown or it is not"

    @promised("replayable")
    async def test_a_group_that_asks_for_it_gets_what_was_there_before(self) -> None:
        """A group declared as earliest begins with the first event."""
        topic = await self.declare()
        sent = self.events(topic, 20)
        await self.publish(sent)
        await self.broker.declare([], [Group(name=self.unique("g"), topics=(topic,), start="earliest")])

        member = await self.join("g")
        taken = await self.take(member, 20)
        await member.close()

        assert by_id(taken) == {e.id: e for e in sent}

    @refused("replayable")
    async def test_without_history_nobody_is_promised_any(self) -> None:
        """A group declared as earliest is refused by a broker that keeps nothing."""
        topic = await self.declare()

        await expect(
            ConfigurationError, self.broker.declare([], [Group(name=self.unique("g"), topics=(topic,), start="earliest")])
        )

    @promised("replayable")
    async def test_history_can_be_read_without_a_group(self) -> None:
        """From any position on, as often as one likes, and within the bounds that are told."""
        topic = await self.declare(partitions=1)
        sent = self.events(topic, 20)
        await self.publish(sent)
        ((partition, first, head),) = await self.broker.bounds(topic)

        whole = await self.broker.read(partition, first, 100)
        part = await self.broker.read(partition, whole[5].position, 10)
        beyond = await self.broker.read(partition, head, 10)

        assert [d.envelope for d in whole] == sent
        assert [d.envelope for d in part] == sent[5:15]
        assert (whole[0].position, list(beyond)) == (first, [])
        assert await self.broker.position_at(partition, 0) == first
        assert await self.broker.position_at(partition, MOMENT * 100) == head

    @promised("replayable")
    async def test_a_moment_lies_between_what_was_stored_before_and_after(self) -> None:
        """It is found to the second, and by when events were stored, whatever they say of themselves."""
        topic = await self.declare(partitions=1)
        await self.publish(self.events(topic, 5))
        moment = math.ceil(time.time() + CLOCKS)
        # The clock is the server's own, and nothing but waiting moves it on.
        await asyncio.sleep(moment + CLOCKS - time.time())
        await self.publish(self.events(topic, 5))
        ((partition, first, _),) = await self.broker.bounds(topic)
        sixth = (await self.broker.read(partition, first, 10))[5].position

        assert await self.broker.position_at(partition, moment * 1_000_000) == sixth
        assert await self.broker.position_at(partition, (moment - 60) * 1_000_000) == first

    @promised("replayable")
    async def test_a_group_that_nobody_runs_can_be_moved(self) -> None:
        """Seeking back delivers history again; while a member is there it is refused."""
        topic = await self.declare("g", partitions=1)
        sent = self.events(topic, 10)
        await self.publish(sent)
        member = await self.join("g", "1")
        await self.take(member, 10)
        ((partition, first, _),) = await self.broker.bounds(topic)
        target = (await self.broker.read(partition, first, 5))[4].position

        await expect(BrokerError, self.broker.seek(self.unique("g"), [(partition, target)]))
        await member.close()
        await self.broker.seek(self.unique("g"), [(partition, target)])
        after = await self.join("g", "2")
        taken = await self.take(after, 6)
        await self.take_nothing(after)
        await after.close()

        assert [d.envelope for d in taken] == sent[4:]

    @promised("replayable", "positional")
    async def test_a_member_may_say_where_to_go_on(self) -> None:
        """Its own record counts for more than the group's; a record beyond the log is an error, never a guess."""
        topic = await self.declare("g", partitions=1)
        sent = self.events(topic, 10)
        await self.publish(sent)
        ((partition, first, head),) = await self.broker.bounds(topic)
        subscription = await self.broker.open(self.unique("g"), self.unique("m"))
        async with self.in_time("no partition was assigned"):
            while not isinstance(await subscription.receive(10, 0.05), Assigned):
                pass

        try:
            subscription.start(partition, head + 5)
            raise AssertionError("a position that the log does not reach was accepted")
        except PositionLostError:
            subscription.start(partition, first + 3)
        taken = await self.take(Member(subscription), 7)
        await subscription.close()

        assert [d.position for d in taken] == list(range(first + 3, head))
        assert [d.envelope for d in taken] == sent[3:]

    @promised("replayable")
    async def test_retention_waits_for_every_group(self) -> None:
        """What a group has not passed stays; removed by force, the group stops and is told why."""
        topic = self.unique("made")
        await self.broker.declare(
            [Topic(name=topic, partitions=1, retain_bytes=0)],
            [Group(name=self.unique(name), topics=(topic,)) for name in ("fast", "slow")],
        )
        await self.publish(self.events(topic, 10))
        fast = await self.join("fast")
        await self.take(fast, 10)
        await fast.close()

        held_back = await self.broker.retain(topic)
        assert held_back == 0, f"{held_back} events went that a group had not passed"
        removed = await self.broker.retain(topic, force=True)
        if not removed:
            skip("this broker removes what is old by itself")

        assert removed == 10
        ((_, first, head),) = await self.broker.bounds(topic)
        assert first == head
        slow = await self.join("slow")
        await expect(PositionLostError, self.take(slow, 1))
        await slow.close()

    @promised()
    async def test_a_forgotten_group_is_gone(self) -> None:
        """It is listed no more, and declared again it starts anew."""
        topic = await self.declare("g")
        await self.publish(self.events(topic, 5))

        await self.broker.forget(self.unique("g"))

        assert self.unique("g") not in [group.name for group in await self.broker.groups()]
        await self.declare("g", topic=topic)
        member = await self.join("g")
        await self.until_assigned(member)
        await self.take_nothing(member)
        await member.close()

    # Features

    @promised("broadcast")
    async def test_everybody_hears_a_broadcast(self) -> None:
        """Each listener gets each message once, in order, from the moment it listens."""
        await self.broker.broadcast(b"before")
        listeners = [await self.broker.listen() for _ in range(3)]
        for body in (b"one", b"two", bytes(range(256))):
            await self.broker.broadcast(body)

        for listener in listeners:
            heard: list[bytes] = []
            async with self.in_time(lambda heard=heard: f"of three broadcasts a listener heard {heard}"):
                while len(heard) < 3:
                    heard += await listener.receive(self.patience)
            await listener.close()
            assert heard == [b"one", b"two", bytes(range(256))]

    @refused("broadcast")
    async def test_without_broadcast_nobody_waits_for_one(self) -> None:
        """Listening is refused."""
        await expect(ConfigurationError, self.broker.listen())

    @promised("marks")
    async def test_a_relay_finds_its_mark(self) -> None:
        """How far a store's outbox was copied is known with the events, to the next connection too, each store its own."""
        topic = await self.declare("g")
        one, two = self.unique("store1"), self.unique("store2")
        sent = self.events(topic, 4)

        assert await self.broker.relayed(one) == 0
        for upto, events in ((7, sent[:2]), (9, sent[2:])):
            assert list(await self.broker.publish(events, origin=Origin(one, upto))) == [None, None]
        await self.reconnect()

        assert (await self.broker.relayed(one), await self.broker.relayed(two)) == (9, 0)
        member = await self.join("g")
        assert by_id(await self.take(member, 4)) == {e.id: e for e in sent}
        await member.close()

    @promised("marks")
    async def test_a_relay_that_was_overtaken_publishes_nothing(self) -> None:
        """A page that another relay has brought is not stored twice, and one that does not follow the mark not at all."""
        topic, store = await self.declare("g"), self.unique("store")
        first, second, stale = self.events(topic, 3)
        await self.broker.publish([first], origin=Origin(store, 1, 0))
        await self.broker.publish([second], origin=Origin(store, 2, 1))

        repeated = await self.broker.publish([first, second], origin=Origin(store, 2))
        overtaken = await self.broker.publish([stale], origin=Origin(store, 3, 1))

        assert list(repeated) == [None, None]
        assert [type(result) for result in overtaken] == [FencedError]
        assert await self.broker.relayed(store) == 2
        member = await self.join("g")
        assert by_id(await self.take(member, 2)) == {first.id: first, second.id: second}
        await self.take_nothing(member)
        await member.close()

    @promised("marks")
    async def test_a_mark_does_not_pass_over_what_was_refused(self) -> None:
        """With one event of a page that is too large none is stored, and the mark stays; an empty page moves it."""
        if self.features.largest > LARGEST_TRIED:
            skip(f"a message of {self.features.largest} bytes is more than a test should hold")
        topic, store = await self.declare("g"), self.unique("store")
        fits, beyond = self.events(topic, 2)
        beyond = replaced(beyond, data=b"x" * (self.features.largest + 1))

        results = await self.broker.publish([fits, beyond], origin=Origin(store, 2, 0))
        after_refusal = await self.broker.relayed(store)
        await self.broker.publish([], origin=Origin(store, 2, 0))

        assert all(results), "an event was stored whose page was refused"
        assert isinstance(results[1], TooLargeError)
        assert (after_refusal, await self.broker.relayed(store)) == (0, 2)
        member = await self.join("g")
        await self.until_assigned(member)
        await self.take_nothing(member)
        await member.close()

    @refused("marks")
    async def test_without_marks_none_is_taken(self) -> None:
        """A relay that leaves a mark is refused, rather than told that it was kept."""
        topic = await self.declare()

        await expect(ConfigurationError, self.broker.publish(self.events(topic, 1), origin=Origin("store", 1)))

    @promised("transactional")
    async def test_publishing_and_settling_happen_together(self) -> None:
        """Both are done; with an event that is refused neither is."""
        topic = await self.declare("g", partitions=1)
        output = await self.declare("out", topic=self.unique("output"))
        sent, made = self.events(topic, 2, keys=1), self.events(output, 2)
        await self.publish(sent)
        member = await self.join("g", "1")
        first, second = await self.take(member, 2, settle=False)

        await member.subscription.publish_and_settle([made[0]], [first])
        too_large = replaced(made[1], data=b"x" * (self.features.largest + 1))
        if self.features.largest <= LARGEST_TRIED:
            await expect(MillstreamError, member.subscription.publish_and_settle([too_large], [second]))
        await member.close()

        after, reader = await self.join("g", "2"), await self.join("out")
        assert [d.envelope for d in await self.take(after, 1)] == [sent[1]]
        assert [d.envelope for d in await self.take(reader, 1)] == [made[0]]
        await self.take_nothing(after, reader)
        await after.close()
        await reader.close()

    @refused("transactional")
    async def test_without_transactions_none_is_faked(self) -> None:
        """Publishing and settling together is refused."""
        topic = await self.declare("g")
        member = await self.join("g")

        await expect(ConfigurationError, member.subscription.publish_and_settle(self.events(topic, 1), ()))
        await member.close()
