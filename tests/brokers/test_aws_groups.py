"""What is particular to SNS and SQS: names, limits, partial failures, members that are killed, and programs that are not ours."""

import asyncio
import json
import re
import secrets
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.brokers.aws_server import MINISTACK, MOTO, aws_url
from tests.brokers.aws_worker import Moved, worker
from tests.brokers.servers import missing
from tests.brokers.words import until
from tools.services.aws import Ministack
from tools.services.service import HOME

from millstream import App, Context, event
from millstream.brokers.aws import AwsBroker
from millstream.brokers.aws_client import AwsService
from millstream.brokers.aws_wire import LARGEST, MOST_BYTES, entry_of, entry_of_raw, group_of
from millstream.contracts.codec import from_structured
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import BrokerError, BrokerUnavailableError, ConfigurationError, TooLargeError
from millstream.core.broker import Delivery, Group, Message, Topic
from millstream.testing.broker_ground import Member

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
PATIENCE = 30.0


def unique(word: str) -> str:
    return f"{word}.{secrets.token_hex(4)}"


def event_of(topic: str, number: int = 0, **attributes: Any) -> Envelope:
    given: dict[str, Any] = {
        "id": f"{topic}-{number}", "source": "/test", "type": "made", "key": f"k{number % 4}", "topic": topic,
        "time": 1_767_225_600_000_000 + number, "data": b'{"number":%d}' % number,
    }  # fmt: skip
    return Envelope(**(given | attributes))


@pytest.fixture(params=[MINISTACK, MOTO])
async def broker(request: pytest.FixtureRequest) -> AsyncGenerator[AwsBroker]:
    async with AwsBroker(aws_url(request.param)) as broker:
        yield broker


async def declared(broker: AwsBroker) -> tuple[str, str]:
    topic, group = unique("made"), unique("group")
    await broker.declare([Topic(name=topic)], [Group(name=group, topics=(topic,))])
    return topic, group


async def taken(member: Member, count: int, *, settle: bool = True) -> list[Delivery]:
    items: list[Delivery] = []
    async with asyncio.timeout(PATIENCE):
        while len(items) < count:
            items += (came := await member.step(count - len(items)))
            if settle:
                await member.settle(came)
    return items


def clients(broker: AwsBroker) -> Any:
    """The clients of SNS and SQS that a broker has."""
    return broker._clients  # pyright: ignore[reportPrivateUsage]


# Attributes and limits, which need no server


def test_an_event_has_few_attributes_whatever_it_carries() -> None:
    full = event_of(
        "t", correlation="c", causation="e", attempt="g/1", version=3, schema="http://s/1", tracestate="v=1",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", extensions={f"x{n}": str(n) for n in range(20)},
    )  # fmt: skip
    raw = [Message(topic="t", body=b"{}", headers=tuple((f"x{n}", b"1") for n in range(count))) for count in range(20)]

    assert len(entry_of(full).attributes) <= 5
    assert max(len(entry_of_raw(message, fifo=True).attributes) for message in raw) <= 5


def test_what_is_too_large_is_said_to_be() -> None:
    with pytest.raises(TooLargeError, match=str(LARGEST)):
        entry_of(event_of("t", data=b"x" * (LARGEST + 1)))
    with pytest.raises(TooLargeError, match=str(MOST_BYTES)):
        entry_of(event_of("t", extensions={"long": "x" * MOST_BYTES}))


def test_letters_that_aws_refuses_arrive_all_the_same() -> None:
    entry = entry_of(event_of("t", data='{"a":"\ufffe\uffff"}'.encode()))

    assert "\ufffe" not in entry.body


def test_every_key_has_a_message_group_that_aws_allows() -> None:
    groups = {key: group_of(key.encode()) for key in ("k", "a/b c:d", "ключ", "=", "#", "k" * 128, "k" * 129, "")}

    assert groups["k"] == "k"
    assert groups["k" * 128] == "k" * 128
    assert all(0 < len(group) <= 128 and group.isascii() and " " not in group for group in groups.values())
    assert len(set(groups.values())) == len(groups)


# Names


async def test_two_topics_that_become_the_same_name_are_refused(broker: AwsBroker) -> None:
    name = secrets.token_hex(4)
    await broker.declare([Topic(name=f"a.{name}")], [])

    with pytest.raises(ConfigurationError, match=f"a.{name}"):
        await broker.declare([Topic(name=f"a-{name}")], [])

    (error,) = await broker.publish([event_of(f"a-{name}")])
    assert isinstance(error, ConfigurationError)


async def test_two_groups_that_become_the_same_name_are_refused(broker: AwsBroker) -> None:
    topic, name = unique("made"), secrets.token_hex(4)
    await broker.declare([], [Group(name=f"a.{name}", topics=(topic,))])

    with pytest.raises(ConfigurationError, match=f"a.{name}"):
        await broker.declare([], [Group(name=f"a-{name}", topics=(topic,))])


async def test_long_names_are_told_apart(ministack: AwsBroker) -> None:
    name = secrets.token_hex(4)
    topics = [f"{'very.' * 12}{name}.{end}" for end in ("one", "two")]
    groups = [f"{'long.' * 12}{name}.{end}" for end in ("one", "two")]
    await ministack.declare([], [Group(name=group, topics=tuple(topics)) for group in groups])

    await ministack.publish([event_of(topic) for topic in topics])

    for group in groups:
        member = Member(await ministack.open(group, "m"))
        assert {delivery.partition.topic for delivery in await taken(member, 2)} == set(topics)
        await member.close()


async def test_a_queue_lets_its_topic_write_and_nobody_else(broker: AwsBroker) -> None:
    topic, group = await declared(broker)
    (queue,) = (await broker._topology.group(group)).values()  # pyright: ignore[reportPrivateUsage]

    answer = await clients(broker).sqs.call("get_queue_attributes", QueueUrl=queue.url, AttributeNames=["Policy"])

    (statement,) = json.loads(answer["Attributes"]["Policy"])["Statement"]
    assert (statement["Principal"], statement["Action"]) == ({"Service": "sns.amazonaws.com"}, "sqs:SendMessage")
    assert statement["Condition"]["ArnEquals"]["aws:SourceArn"].endswith(f":millstream-{topic.replace('.', '-')}.fifo")


# Queues that somebody has changed


async def changed(broker: AwsBroker, group: str, **attributes: str) -> None:
    """As whoever has the right to may do it."""
    (queue,) = (await broker._topology.group(group)).values()  # pyright: ignore[reportPrivateUsage]
    await clients(broker).sqs.call("set_queue_attributes", QueueUrl=queue.url, Attributes=attributes)


async def test_a_redrive_policy_is_refused_until_it_is_removed(broker: AwsBroker) -> None:
    """It would take events away from the group in silence; what the error says to do helps."""
    topic, group = await declared(broker)
    sqs = clients(broker).sqs
    dead = (await sqs.call("create_queue", QueueName=f"{secrets.token_hex(8)}.fifo", Attributes={"FifoQueue": "true"}))["QueueUrl"]
    arn = (await sqs.call("get_queue_attributes", QueueUrl=dead, AttributeNames=["QueueArn"]))["Attributes"]["QueueArn"]
    await changed(broker, group, RedrivePolicy=json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "3"}))

    with pytest.raises(ConfigurationError, match=rf"{group}.*redrive policy.*store.*Remove the policy") as refused:
        await broker.declare([], [Group(name=group, topics=(topic,))])

    (removal,) = re.findall("--attributes '(.*)'$", str(refused.value))
    await changed(broker, group, **json.loads(removal))
    await broker.declare([], [Group(name=group, topics=(topic,))])


@pytest.mark.parametrize(
    ("attribute", "value", "told"),
    [
        ("MaximumMessageSize", "65536", "65536 bytes at most.*MaximumMessageSize=262144"),
        ("KmsMasterKeyId", "alias/aws/sqs", "SNS cannot use.*SqsManagedSseEnabled"),
    ],
)
async def test_a_queue_that_what_is_published_does_not_reach_is_refused(broker: AwsBroker, attribute: str, value: str, told: str) -> None:
    """SNS would throw it away, and nobody would hear of it."""
    topic, group = await declared(broker)
    await changed(broker, group, **{attribute: value})

    with pytest.raises(ConfigurationError, match=told):
        await broker.declare([], [Group(name=group, topics=(topic,))])


async def test_a_queue_that_is_late_or_forgets_early_is_told(broker: AwsBroker, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody may want it so; of one that is as it was made nothing is said, nor of what does not matter."""
    topic, group = await declared(broker)
    await changed(broker, group, VisibilityTimeout="1", ContentBasedDeduplication="true")
    await broker.declare([], [Group(name=group, topics=(topic,))])
    assert caplog.messages == []

    await changed(broker, group, MessageRetentionPeriod="345600", DelaySeconds="5")
    await broker.declare([], [Group(name=group, topics=(topic,))])

    kept, late = caplog.messages
    assert (group in kept, "345600 seconds" in kept, "MessageRetentionPeriod=1209600" in kept) == (True, True, True)
    assert (group in late, "back for 5 seconds" in late, "DelaySeconds=0" in late) == (True, True, True)


# Publishing


class Failing:
    """SNS that stores only some entries of a batch, and says so."""

    def __init__(self, service: AwsService, fails: Sequence[str]) -> None:
        self._service, self._fails = service, fails
        self.sizes: list[int] = []

    async def call(self, operation: str, **arguments: Any) -> Any:
        entries = arguments["PublishBatchRequestEntries"]
        self.sizes.append(len(entries))
        bad = [entry for entry in entries if json.loads(entry["Message"])["id"] in self._fails]
        good = [entry for entry in entries if entry not in bad]
        answer = await self._service.call(operation, **(arguments | {"PublishBatchRequestEntries": good})) if good else {}
        failed = [{"Id": entry["Id"], "Code": "InternalError", "Message": "not now", "SenderFault": False} for entry in bad]
        return {"Successful": answer.get("Successful", []), "Failed": failed}


async def test_an_entry_that_fails_holds_up_its_key_and_nobody_else(ministack: AwsBroker) -> None:
    topic, group = await declared(ministack)
    events = [event_of(topic, number) for number in range(12)]  # keys k0 to k3, three of each
    publisher: Any = ministack._publisher  # pyright: ignore[reportPrivateUsage]
    publisher._sns = Failing(clients(ministack).sns, [f"{topic}-5"])

    results = await ministack.publish(events)

    # 5 is the second of k1, and 9 the third.
    assert [number for number, result in enumerate(results) if result is not None] == [5, 9]
    assert isinstance(results[5], BrokerUnavailableError)
    assert isinstance(results[9], BrokerError)
    member = Member(await ministack.open(group, "m"))
    came = {delivery.envelope.id for delivery in await taken(member, 10) if delivery.envelope}
    await member.close()
    assert came == {e.id for number, e in enumerate(events) if number not in (5, 9)}


async def test_batches_are_full_under_load(ministack: AwsBroker) -> None:
    topic, _ = await declared(ministack)
    publisher: Any = ministack._publisher  # pyright: ignore[reportPrivateUsage]
    failing = publisher._sns = Failing(clients(ministack).sns, ())

    async def publish(number: int) -> None:
        assert list(await ministack.publish([event_of(topic, number, key=f"k{number}")])) == [None]

    async with asyncio.TaskGroup() as tasks:
        for number in range(200):
            tasks.create_task(publish(number))

    assert failing.sizes == [10] * 20


async def test_what_is_published_again_is_no_second_event(ministack: AwsBroker) -> None:
    topic, group = await declared(ministack)
    for _ in range(3):
        await ministack.publish([event_of(topic, 1)])
    await ministack.publish([event_of(topic, 2)])

    member = Member(await ministack.open(group, "m"))
    came = await taken(member, 2)
    await member.close()

    assert [delivery.envelope.id for delivery in came if delivery.envelope] == [f"{topic}-1", f"{topic}-2"]


# Receiving


class Unsettled:
    """SQS that does one operation for some events of a batch only, and says so; what it was asked for, it notes."""

    def __init__(self, service: AwsService, operation: str, fails: Callable[[str, int], bool], *, for_good: bool = False) -> None:
        self._service, self._operation, self._fails, self._for_good = service, operation, fails, for_good
        self._events: dict[str, str] = {}
        """By receipt."""
        self.came: list[str] = []
        self.asked: list[list[str]] = []

    async def call(self, operation: str, **arguments: Any) -> Any:
        if operation != self._operation:
            answer = await self._service.call(operation, **arguments)
            if operation == "receive_message":
                for message in answer.get("Messages") or ():
                    self.came.append(json.loads(message["Body"])["id"])
                    self._events[message["ReceiptHandle"]] = self.came[-1]
            return answer
        events = {entry["Id"]: self._events[entry["ReceiptHandle"]] for entry in arguments["Entries"]}
        before = [*self.asked]
        self.asked.append(list(events.values()))
        bad = {number for number, event in events.items() if self._fails(event, sum(event in request for request in before))}
        good = [entry for entry in arguments["Entries"] if entry["Id"] not in bad]
        answer = await self._service.call(operation, **(arguments | {"Entries": good})) if good else {}
        code = "ReceiptHandleIsInvalid" if self._for_good else "InternalError"
        return answer | {"Failed": [{"Id": number, "Code": code, "Message": "no", "SenderFault": self._for_good} for number in bad]}


async def test_what_could_not_be_deleted_is_tried_again_alone(ministack: AwsBroker) -> None:
    """Of ten that are settled two fail for a reason that passes; nothing comes again."""
    topic, group = await declared(ministack)
    bad, real = [f"{topic}-2", f"{topic}-7"], clients(ministack).sqs
    sqs = clients(ministack).sqs = Unsettled(real, "delete_message_batch", lambda event, before: event in bad and not before)
    await ministack.publish([event_of(topic, number, key=f"k{number}") for number in range(10)])
    member = Member(await ministack.open(group, "m"))
    await taken(member, 10, settle=False)

    await member.settle()
    await member.close()

    whole, again = sqs.asked
    assert (len(whole), sorted(again)) == (10, bad)
    (state,) = await ministack.positions(group)
    assert state.waiting.value == 0


async def test_what_cannot_be_deleted_comes_again_by_itself() -> None:
    """Its receipt is worth nothing any more, so it is not tried twice; the others are gone."""
    async with AwsBroker(aws_url(options="visibility=2")) as broker:
        topic, group = await declared(broker)
        bad, real = f"{topic}-2", clients(broker).sqs
        sqs = clients(broker).sqs = Unsettled(real, "delete_message_batch", lambda event, _: event == bad, for_good=True)
        await broker.publish([event_of(topic, number, key=f"k{number}") for number in range(5)])
        member = Member(await broker.open(group, "m"))
        await taken(member, 5)
        await member.close()
        clients(broker).sqs = real

        heir = Member(await broker.open(group, "n"))
        (again,) = await taken(heir, 1)
        await heir.close()

        assert sum(bad in request for request in sqs.asked) == 1
        assert again.envelope is not None
        assert again.envelope.id == bad
        assert again.redelivered
        (state,) = await broker.positions(group)
        assert state.waiting.value == 0


async def test_what_could_not_be_kept_is_tried_again_alone(ministack: AwsBroker) -> None:
    """While it is in hand; nobody else gets it meanwhile."""
    topic, group = await declared(ministack)
    bad, real = f"{topic}-2", clients(ministack).sqs
    sqs = clients(ministack).sqs = Unsettled(real, "change_message_visibility_batch", lambda event, before: event == bad and not before)
    await ministack.publish([event_of(topic, number, key=f"k{number}") for number in range(5)])
    member = Member(await ministack.open(group, "m"))
    await taken(member, 5, settle=False)
    clients(ministack).sqs = real
    other = Member(await ministack.open(group, "n"))

    await until(lambda: len(sqs.asked) >= 3, lambda: other.step(wait=0.1), lambda: f"only {sqs.asked} was asked")

    assert other.in_hand == []
    assert ([*map(len, sqs.asked[:3])], sqs.asked[1]) == ([5, 1, 5], [bad])
    await member.settle()
    await member.close()
    await other.close()
    (state,) = await ministack.positions(group)
    assert state.waiting.value == 0


async def test_what_cannot_be_kept_is_not_handed_over_twice() -> None:
    """It comes again to the member that still has it: only its newest receipt counts, with which it is deleted."""
    async with AwsBroker(aws_url(options="visibility=2")) as broker:
        topic, group = await declared(broker)
        bad, real = f"{topic}-2", clients(broker).sqs
        sqs = clients(broker).sqs = Unsettled(real, "change_message_visibility_batch", lambda event, _: event == bad, for_good=True)
        await broker.publish([event_of(topic, number, key=f"k{number}") for number in range(5)])
        member = Member(await broker.open(group, "m"))
        await taken(member, 5, settle=False)

        await until(lambda: sqs.came.count(bad) > 1, lambda: member.step(wait=0.1), lambda: f"only {sqs.came} came")

        assert len(member.in_hand) == 5
        await member.settle()
        await member.close()
        (state,) = await broker.positions(group)
        assert state.waiting.value == 0


async def test_what_is_in_hand_is_kept_while_more_comes(ministack: AwsBroker) -> None:
    """Each of several queues is seen to, although they change their places when something is taken from one."""
    topics, group = [unique("made"), unique("made")], unique("group")
    await ministack.declare([], [Group(name=group, topics=tuple(topics))])
    member = Member(await ministack.open(group, "m"))
    await member.step()
    subscription: Any = member.subscription
    renewed: list[object] = []

    def renew(partition: object, topic: str) -> Callable[[], Any]:
        async def wait() -> None:
            renewed.append(partition)
            await ministack.publish([event_of(topic, len(renewed))])
            await taken(member, 1)

        return wait

    for partition, share in subscription._shares.items():
        share.renew = renew(partition, topics[0])

    await subscription.extend()

    assert renewed == list(dict.fromkeys(renewed))
    assert len(renewed) == 2
    await member.close()


async def test_a_request_that_fails_keeps_no_others_from_being_kept(ministack: AwsBroker) -> None:
    """Of fifty messages in hand the first ten cannot be kept at first; the others are, before those are tried again."""
    topic, group = await declared(ministack)

    def is_away(_event: str, _before: int) -> bool:
        if len(sqs.asked) == 1:
            raise BrokerUnavailableError("no answer")
        return False

    sqs = clients(ministack).sqs = Unsettled(clients(ministack).sqs, "change_message_visibility_batch", is_away)
    await ministack.publish([event_of(topic, number, key=f"k{number}") for number in range(50)])
    member = Member(await ministack.open(group, "m"))
    await taken(member, 50, settle=False)

    def again() -> bool:
        return any(event in request for request in sqs.asked[1:] for event in sqs.asked[0])

    await until(again, lambda: member.step(wait=0.1), lambda: f"only {sqs.asked} was asked")
    await member.settle()
    await member.close()

    begun = next(number for number, request in enumerate(sqs.asked) if number and set(request) & {*sqs.asked[0]})
    assert len({event for request in sqs.asked[:begun] for event in request}) == 50


async def test_what_a_handler_keeps_for_long_does_not_come_again(ministack: AwsBroker) -> None:
    topic, group = await declared(ministack)
    await ministack.publish([event_of(topic, number, key=f"k{number}") for number in range(20)])
    member, other = Member(await ministack.open(group, "1")), Member(await ministack.open(group, "2"))
    in_hand = await taken(member, 20, settle=False)

    loop = asyncio.get_running_loop()
    until = loop.time() + 6  # the messages would be visible again after 4
    while loop.time() < until:
        assert await other.step(wait=0.5) == []
        assert await member.step(wait=0.1) == []
    await member.settle(in_hand)
    await member.close()
    await other.close()

    (state,) = await ministack.positions(group)
    assert (state.waiting.value, state.waiting.quality) == (0, "estimated")


async def test_what_waits_is_counted(broker: AwsBroker) -> None:
    topic, group = await declared(broker)
    await broker.publish([event_of(topic, number) for number in range(7)])

    (state,) = await broker.positions(group)

    assert (state.waiting.value, state.waiting.quality) == (7, "estimated")
    assert (state.committed.value, state.head.value) == (None, None)


async def test_a_worker_that_is_killed_is_taken_over_from(tmp_path: Path) -> None:
    name, url = f"taken-{secrets.token_hex(4)}", aws_url(options=f"prefix=t{secrets.token_hex(4)}-")
    survivor = worker(name, url, tmp_path)
    async with survivor:
        command = [sys.executable, "-m", "tests.brokers.aws_worker", name, url, str(tmp_path)]
        process = await asyncio.create_subprocess_exec(*command)
        try:
            await survivor.publish_many([Moved(f"k{number % 20}", number) for number in range(400)])
            await _until_rows(survivor, 30)
        finally:
            process.send_signal(signal.SIGKILL)
            await process.wait()
        stop = asyncio.Event()
        running = asyncio.create_task(survivor.run(stop))
        rows = await _until_rows(survivor, 400)
        stop.set()
        await running

    assert sorted(number for _, number in rows) == list(range(400)), "an event had no effect, or two"
    for key in {key for key, _ in rows}:
        numbers = [number for k, number in rows if k == key]
        assert numbers == sorted(numbers), f"{key} was handled out of order"


async def _until_rows(app: Any, count: int) -> list[tuple[str, int]]:
    async with asyncio.timeout(PATIENCE * 2):
        while len(rows := await app.read("select key, number from effect order by ordinal")) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return rows


@pytest.mark.parametrize(("option", "queues"), [("broadcast=1", 1), ("broadcast=0", 0)])
async def test_a_process_has_a_queue_of_its_own_unless_told_otherwise(option: str, queues: int, tmp_path: Path) -> None:
    """By which it is told something at once; without one it handles what comes all the same."""
    name, url = f"alone-{secrets.token_hex(4)}", aws_url(options=f"prefix=t{secrets.token_hex(4)}-&{option}")
    app = worker(name, url, tmp_path)
    app.configure(broker=url, store=f"sqlite:///{tmp_path}/store.db", facts="on")
    async with AwsBroker(url) as broker, app:
        prefix = broker._names.ears()  # pyright: ignore[reportPrivateUsage]
        found: list[str] = []

        async def look() -> None:
            found[:] = (await clients(broker).sqs.call("list_queues", QueueNamePrefix=prefix)).get("QueueUrls") or ()

        stop = asyncio.Event()
        running = asyncio.create_task(app.run(stop))
        await app.publish(Moved("k", 1))
        await _until_rows(app, 1)
        await look()
        await until(lambda: len(found) == queues, look, lambda: f"there are {found}")
        stop.set()
        await running


# A server that does not answer


def test_a_stand_in_that_is_paused_answers_nobody(tmp_path: Path) -> None:
    """Whichever of its processes would; afterwards it goes on."""
    aws_url()
    server = Ministack(tmp_path / "ministack")
    server.start()

    def asked(patience: float) -> int:
        with urllib.request.urlopen(f"{server.endpoint}/?Action=ListQueues&Version=2012-11-05", timeout=patience) as answer:  # noqa: S310
            return answer.status

    try:
        assert asked(PATIENCE) == 200
        server.pause()
        with pytest.raises(TimeoutError):
            asked(0.5)
        server.resume()
        assert asked(PATIENCE) == 200
    finally:
        server.stop(kill=True)


async def test_nothing_is_lost_while_the_server_does_not_answer(tmp_path: Path) -> None:
    aws_url()
    server = Ministack(tmp_path / "ministack")
    server.start()
    try:
        async with AwsBroker(f"{server.url}&visibility=4&poll=1&timeout=2") as broker:
            topic, group = await declared(broker)
            member = Member(await broker.open(group, "m"))
            await broker.publish([event_of(topic, 1)])
            await taken(member, 1)
            server.pause()
            (error,) = await broker.publish([event_of(topic, 2)])
            server.resume()
            assert isinstance(error, BrokerUnavailableError)

            assert list(await broker.publish([event_of(topic, 2), event_of(topic, 3)])) == [None, None]
            # It may have got them already, and would keep them for as long as it lives.
            await member.close()
            after = Member(await broker.open(group, "n"))
            expected, seen = {f"{topic}-2", f"{topic}-3"}, set[str]()
            async with asyncio.timeout(PATIENCE):
                while not seen.issuperset(expected):
                    came = await after.step()
                    seen |= {delivery.envelope.id for delivery in came if delivery.envelope}
                    await after.settle(came)
            await after.close()
    finally:
        server.stop(kill=True)


async def test_a_server_that_is_away_is_said_to_be() -> None:
    async with AwsBroker("aws://test:test@us-east-1?endpoint=http://127.0.0.1:9&timeout=1") as broker:
        (error,) = await broker.publish([event_of("t")])
        assert isinstance(error, BrokerUnavailableError)
        with pytest.raises(BrokerUnavailableError):
            await broker.declare([Topic(name="t")], [])


# Programs that are not ours


BOTO3 = """
import boto3, json, sys
region, endpoint, topic, queue = sys.argv[1:]
given = dict(region_name=region, endpoint_url=endpoint, aws_access_key_id="test", aws_secret_access_key="test")
sns, sqs = boto3.client("sns", **given), boto3.client("sqs", **given)
pages = sns.get_paginator("list_topics").paginate()
arn = next(t["TopicArn"] for page in pages for t in page["Topics"] if t["TopicArn"].endswith(":" + topic))
order = dict(MessageGroupId="k", MessageDeduplicationId="one") if topic.endswith(".fifo") else {}
sns.publish(TopicArn=arn, Message=json.dumps({"orderId": 1, "status": "pending"}), **order)
url = sqs.get_queue_url(QueueName=queue)["QueueUrl"]
read = []
while len(read) < 2:
    for message in sqs.receive_message(QueueUrl=url, WaitTimeSeconds=2, MessageAttributeNames=["All"]).get("Messages", []):
        read.append({"body": message["Body"], "attributes": {n: a["StringValue"] for n, a in message.get("MessageAttributes", {}).items()}})
        sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
print(json.dumps(read))
"""


@event("order.created", key="customer")
@dataclass(frozen=True)
class OrderCreated:
    """As other programs publish it."""

    orderId: int  # noqa: N815 - their name
    status: str
    customer: str = "nobody"


@pytest.mark.parametrize(("options", "key"), [("fifo=1", "k"), ("fifo=0", None)], ids=["fifo", "standard"])
async def test_a_plain_boto3_program_publishes_and_reads(options: str, key: str | None, tmp_path: Path) -> None:
    """Its bare JSON is a typed event, with the message group as its key where there is one; what it reads of ours is a CloudEvent."""
    python = HOME / "moto-env/bin/python"
    url = aws_url(options=f"prefix=t{secrets.token_hex(4)}-&{options}")
    if not python.exists():
        missing("aws", "there is no boto3 here: make services ONLY=aws")
    program = tmp_path / "program.py"
    program.write_text(BOTO3)
    app = App("ours", broker=url, store=f"sqlite:///{tmp_path}/store.db")
    seen: list[tuple[OrderCreated, str | None, str]] = []

    @app.subscriber(OrderCreated, wire="json", ordered=key is not None)
    async def handle(order: OrderCreated, context: Context) -> None:
        seen.append((order, context.envelope.key, context.envelope.id))

    async with AwsBroker(url) as broker, app:
        await broker.declare([], [Group(name="theirs", topics=("order.created",))])
        stop = asyncio.Event()
        running = asyncio.create_task(app.run(stop))
        await app.publish(OrderCreated(2, "paid", "customer-7"))
        names: Any = broker._names  # pyright: ignore[reportPrivateUsage]
        endpoint = url.partition("endpoint=")[2].partition("&")[0]
        arguments = ["us-east-1", endpoint, names.topic("order.created"), names.queue("theirs", "order.created")]
        done = await asyncio.to_thread(
            subprocess.run, [str(python), str(program), *arguments], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr[-2000:]
        await until(lambda: len(seen) == 2, lambda: asyncio.sleep(0.01), lambda: f"only {seen} came")
        stop.set()
        await running

    bare, whole = sorted(seen, key=lambda each: each[0].orderId)
    assert (bare[:2], whole[:2]) == ((OrderCreated(1, "pending"), key), (OrderCreated(2, "paid", "customer-7"), "customer-7"))
    assert bare[2]
    read = {message["attributes"].get("type", ""): message for message in json.loads(done.stdout)}
    assert json.loads(read[""]["body"]) == {"orderId": 1, "status": "pending"}
    ours = read["order.created"]
    assert ours["attributes"] == {"content-type": "application/cloudevents+json", "type": "order.created"}
    envelope = from_structured(ours["body"].encode(), "order.created")
    assert (envelope.type, envelope.key) == ("order.created", "customer-7")
    assert json.loads(envelope.data) == {"orderId": 2, "status": "paid", "customer": "customer-7"}
