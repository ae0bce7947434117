"""Operations from afar: carried out once by a service, only on its own groups, and only for who holds the key."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from millstream.app.control import FRESH, Control, sign, verified
from millstream.brokers.memory import MemoryBroker
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import DecodeError, StoreBusyError, StoreError
from millstream.core.broker import Partition, Topic
from millstream.core.facts import Operation
from millstream.core.store import Page, Parked
from millstream.stores.memory import MemoryStore
from millstream.testing import ManualClock

GROUP = "desk.accept"
KEY = "a-key-that-services-share"
HERE = Partition("order.placed", 0)


class Told:
    """What was told of operations, and who was asked to look again."""

    def __init__(self, process: str) -> None:
        self.process = process
        self.answers: list[tuple[str, str, str]] = []
        self.retold = 0
        self.beats = 0
        self.moved: list[str] = []

    def tell(self, operation: Operation, status: str, detail: str = "") -> None:
        self.answers.append((operation.id, status, detail))

    async def retell(self) -> None:
        self.retold += 1

    async def beat(self) -> None:
        self.beats += 1

    async def look(self, group: str) -> None:
        self.moved.append(group)


class Service:
    """Two processes of one service, on one broker and one store."""

    def __init__(self, broker: MemoryBroker, store: MemoryStore, clock: ManualClock, processes: list[Told]) -> None:
        self.broker = broker
        self.store = store
        self.clock = clock
        self.processes = processes

    async def asked(self, kind: Any, *, key: str | None = KEY, body: bytes | None = None, **more: Any) -> Operation:
        """Broadcast an operation, and let everybody hear it."""
        rest = {"id": f"op-{kind}", "group": GROUP, "by": "ana", "reason": "a test", "at": self.clock.micros(), **more}
        operation = Operation(kind=kind, **rest)
        await self.broker.broadcast(sign(operation, key) if body is None else body)
        await self.clock.advance(3)
        return operation

    @property
    def answers(self) -> list[tuple[str, str, str]]:
        """What both have answered."""
        return [answer for process in self.processes for answer in process.answers]


@asynccontextmanager
async def a_service(key: str | None = KEY) -> AsyncGenerator[Service]:
    """Both listening."""
    clock = ManualClock()
    broker = MemoryBroker(micros=clock.micros, monotonic=clock.monotonic)
    async with broker, MemoryStore(append=None, micros=clock.micros, monotonic=clock.monotonic) as store:
        processes = [Told("first"), Told("second")]
        controls = [Control([GROUP], broker, store, clock, _as_reporter(each), key, moved=each.look) for each in processes]
        running = [asyncio.ensure_future(control.run()) for control in controls]
        await clock.advance(0.1)
        yield Service(broker, store, clock, processes)
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _as_reporter(told: Told) -> Any:
    return told


def letter(number: int = 0) -> Parked:
    """A dead letter."""
    envelope = Envelope(id=f"dead-{number}", source="/orders", type="order.placed", time=1, key="k", data=b"{}", topic="order.placed")
    return Parked(group=GROUP, partition=HERE, position=number, sequence="k", envelope=envelope, state="dead")


async def test_an_operation_is_carried_out_once_however_many_processes_there_are() -> None:
    """And once only, when it is sent again because nobody seemed to answer: then it is answered again."""
    async with a_service() as service:
        operation = await service.asked("pause")
        await service.asked("pause")

        assert await service.store.paused() == {GROUP}
        assert service.answers == [(operation.id, "done", "paused")] * 2
        assert sum(process.beats for process in service.processes) == 1


async def test_a_pause_is_ended_by_a_resume() -> None:
    """Both are kept in the store."""
    async with a_service() as service:
        await service.asked("pause")
        await service.asked("resume")

        assert await service.store.paused() == frozenset()


@pytest.mark.parametrize("key", [None, "another-key"])
async def test_without_the_key_nothing_is_carried_out(key: str | None) -> None:
    """Nor answered: whoever cannot sign learns nothing."""
    async with a_service() as service:
        await service.asked("pause", key=key)

        assert await service.store.paused() == frozenset()
        assert service.answers == []


async def test_a_signed_operation_cannot_be_changed() -> None:
    """The signature is of its bytes."""
    async with a_service() as service:
        signed = sign(Operation(id="o", kind="pause", group="other.group", by="ana", reason="", at=service.clock.micros()), KEY)
        document = msgspec.json.decode(signed)
        document["operation"] = msgspec.json.encode(
            Operation(id="o", kind="pause", group=GROUP, by="ana", reason="", at=service.clock.micros())
        )
        await service.asked("pause", body=msgspec.json.encode(document))

        assert await service.store.paused() == frozenset()


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff", b"[" * 10_000, b'{"operation": "x", "signature": 5}', b'{"operation": "e30="}'])
async def test_noise_is_not_an_operation(body: bytes) -> None:
    """It is passed over, and the next one is heard."""
    with pytest.raises(DecodeError):
        verified(body, None)
    async with a_service() as service:
        await service.asked("pause", body=body)
        await service.asked("pause")

        assert await service.store.paused() == {GROUP}


@pytest.mark.parametrize("seconds", [-FRESH - 60, FRESH + 60])
async def test_an_operation_of_another_time_is_not_carried_out(seconds: float) -> None:
    """Whoever has recorded one cannot use it later."""
    async with a_service() as service:
        await service.asked("pause", at=service.clock.micros() + int(seconds * 1e6))

        assert service.answers == []


async def test_other_services_groups_are_not_touched() -> None:
    """Each knows its own."""
    async with a_service() as service:
        await service.asked("pause", group="mailer.send")

        assert await service.store.paused() == frozenset()
        assert service.answers == []


@pytest.mark.parametrize("kind", ["redrive", "discard", "repair"])
async def test_dead_letters_are_left_to_the_owner_of_their_partition(kind: str) -> None:
    """As requests in the store; the answer says how many of those named are there."""
    async with a_service() as service:
        await service.store.commit(Page(group=GROUP, park=[letter(0), letter(1)]))
        events = (("/orders", "dead-1"), ("/orders", "never"))
        operation = await service.asked(kind, events=events, data=b"{}")
        requests = await service.store.requests(GROUP)

        assert service.answers == [(operation.id, "done", "1 of 2")]
        assert [(request.kind, request.parked, request.reason) for request in requests] == [(kind, 2, "a test (ana)")]


async def test_a_group_is_moved_and_every_process_looks() -> None:
    """Also those that did not carry it out, a moment later."""
    async with a_service() as service:
        await service.asked("reset", positions=((HERE.topic, HERE.number, 3),))
        (assignment,) = await service.store.assign(GROUP, [HERE])

        assert assignment.position == 3
        assert [process.moved for process in service.processes] == [[GROUP], [GROUP]]
        assert len(service.answers) == 1


async def test_a_discarded_letter_is_parked_again_as_history_has_it() -> None:
    """Only the very event that is named, and what is there already stays as it is."""
    async with a_service() as service:
        await service.broker.declare([Topic(name=HERE.topic, partitions=1)], [])
        sent = [Envelope(id=f"e-{n}", source="/orders", type="t", time=1, key="k", data=b"{}", topic=HERE.topic) for n in range(3)]
        await service.broker.publish(sent)
        places = tuple((HERE.topic, HERE.number, position) for position in (1, 1, 9))
        events = (("/orders", "e-1"), ("/orders", "e-2"), ("/orders", "e-9"))
        operation = await service.asked("restore", events=events, positions=places)
        (parked,) = await service.store.parked(GROUP)

        assert service.answers == [(operation.id, "done", "1 of 3")]
        assert (parked.envelope, parked.state, parked.position, parked.sequence) == (sent[1], "dead", 1, "k")
        assert sum(process.retold for process in service.processes) == 1


async def test_everybody_can_be_asked_to_tell_what_is_parked() -> None:
    """One process of each service does, and answers with nothing else."""
    async with a_service() as service:
        await service.asked("tell", group="")

        assert sum(process.retold for process in service.processes) == 1
        assert service.answers == []


async def test_what_fails_is_answered_with_the_reason() -> None:
    """And the next operation is carried out."""
    async with a_service() as service:
        pause: Callable[..., Awaitable[None]] = service.store.pause

        async def broken(*_: Any, **__: Any) -> None:
            service.store.pause = pause  # type: ignore[method-assign]
            raise DecodeError("it is broken")

        service.store.pause = broken  # type: ignore[method-assign]
        failed = await service.asked("pause", id="first")
        done = await service.asked("pause", id="second")

        assert sorted(service.answers) == [(failed.id, "failed", "it is broken"), (done.id, "done", "paused")]


async def test_a_broker_whose_file_cannot_be_read_for_a_while_does_not_end_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded broker's errors are a store's; what is asked afterwards is carried out."""
    failures = [StoreBusyError("locked"), StoreError("the disk reported an error")]
    listen = MemoryBroker.listen

    async def listen_if_it_can(broker: MemoryBroker) -> Any:
        if failures:
            raise failures.pop()
        return await listen(broker)

    monkeypatch.setattr(MemoryBroker, "listen", listen_if_it_can)
    async with a_service() as service:
        await service.clock.advance(3)
        await service.asked("pause")

        assert await service.store.paused() == {GROUP}
    assert not failures
