"""Control: carries out what operators ask for from afar, as the owner of the groups they name."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal

import msgspec

from millstream.app.reporter import Reporter
from millstream.contracts.errors import BrokerError, DecodeError, MillstreamError
from millstream.core.broker import Broker, Listener, Partition
from millstream.core.clock import Clock
from millstream.core.facts import Operation, decode_operation, encode_operation
from millstream.core.store import Page, Parked, Store

log = logging.getLogger("millstream.control")

#: One process of a service carries an operation out; for so long no other does, in seconds.
REMEMBERED = 3600.0
MOST_ANSWERS = 1000
#: Whoever moves a group has done so after so many seconds; then the others look whether it is still theirs.
MOVED = 1.0
#: A group that the broker itself has to move is left alone by all its workers for so many seconds,
ASIDE = 5.0
#: and whoever moves it tries so often, in seconds.
TRY = 0.1
#: Older operations are not carried out, nor those of a clock that is as far ahead, in seconds.
FRESH = 1800.0
#: Parked deliveries looked through for those that an operation names.
PAGE = 1000


class Signed(msgspec.Struct, frozen=True):
    """An operation on its way: its bytes, and who vouches for them where a key is configured."""

    operation: bytes
    signature: str | None = None


def sign(operation: Operation, key: str | None) -> bytes:
    """An operation as it is broadcast."""
    body = encode_operation(operation)
    return msgspec.json.encode(Signed(body, _signature(body, key) if key else None))


def verified(body: bytes, key: str | None) -> Operation:
    """The operation in a broadcast; `DecodeError` for one that is none, or is not signed with the key."""
    try:
        signed = msgspec.json.decode(body, type=Signed)
    except msgspec.MsgspecError as error:
        raise DecodeError(f"this broadcast is no operation: {error}") from error
    if key and not _is_signed(signed, key):
        raise DecodeError("this operation is not signed with the control key (MILLSTREAM_CONTROL_KEY), and is refused")
    return decode_operation(signed.operation)


def _is_signed(signed: Signed, key: str) -> bool:
    import hmac

    return hmac.compare_digest(signed.signature or "", _signature(signed.operation, key))


def _signature(body: bytes, key: str) -> str:
    # Only here: these bring OpenSSL along, and few have a key.
    import hmac

    return hmac.new(key.encode(), body, "sha256").hexdigest()


class Control:
    """Listens for operations on this service's groups, and answers each with a fact."""

    def __init__(
        self,
        groups: Collection[str],
        broker: Broker,
        store: Store,
        clock: Clock,
        reporter: Reporter,
        key: str | None,
        *,
        moved: Callable[[str], Awaitable[None]],
        exactly_once: Collection[str] = (),
        aside: Callable[[str], AbstractAsyncContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self._groups = frozenset(groups)
        self._broker = broker
        self._store = store
        self._clock = clock
        self._reporter = reporter
        self._key = key
        self._answers: dict[str, tuple[Literal["done", "failed"], str]] = {}
        """What this process has answered: whoever asks again gets the same, and nothing is done."""
        self._moved = moved
        """Has this process's workers of a group look whether it was moved."""
        self._exactly_once = frozenset(exactly_once)
        """Groups whose position of record is the broker's, which moves none that somebody runs."""
        self._aside = aside
        """Has this process's workers of a group leave it meanwhile."""

    async def run(self) -> None:
        """Listen until cancelled."""
        listener: Listener | None = None
        try:
            while True:
                try:
                    listener = listener or await self._broker.listen()
                    for body in await listener.receive(1.0):
                        await self._heard(body)
                except MillstreamError as error:
                    log.warning("control waits: %s", error)
                    await self._clock.sleep(1.0)
        finally:
            if listener is not None:
                with contextlib.suppress(MillstreamError):
                    await asyncio.shield(listener.close())

    async def _heard(self, body: bytes) -> None:
        try:
            operation = verified(body, self._key)
        except DecodeError as error:
            log.warning("%s", error)
            return
        if abs(self._clock.micros() - operation.at) > FRESH * 1e6:
            log.warning("an operation of another time is not carried out: %s of %s, %s", operation.kind, operation.group, operation.id)
            return
        everybody = operation.kind == "tell" and not operation.group
        if operation.group not in self._groups and not everybody:
            return
        if (known := self._answers.get(operation.id)) is not None:
            self._reporter.tell(operation, *known)
            return
        try:
            if not await self._store.lead(f"operation {operation.id}", self._reporter.process, REMEMBERED):
                if operation.kind == "reset" and operation.group in self._exactly_once:
                    async with self._aside(operation.group):
                        await self._clock.sleep(ASIDE)
                elif operation.kind == "reset":
                    await self._clock.sleep(MOVED)
                    await self._moved(operation.group)
                return
            if everybody:
                await self._reporter.retell()
                return
            detail = await self.carry_out(operation)
        except MillstreamError as error:
            self._answer(operation, "failed", str(error))
            return
        self._answer(operation, "done", detail)
        if operation.kind in ("pause", "resume"):
            await self._reporter.beat()

    def _answer(self, operation: Operation, status: Literal["done", "failed"], detail: str) -> None:
        while len(self._answers) >= MOST_ANSWERS:
            del self._answers[next(iter(self._answers))]
        self._answers[operation.id] = status, detail
        self._reporter.tell(operation, status, detail)

    async def carry_out(self, operation: Operation) -> str:
        """Do it, or leave it to the owner of the partition; says what was done."""
        match operation.kind:
            case "pause":
                await self._store.pause(operation.group, paused=True)
                return "paused"
            case "resume":
                await self._store.pause(operation.group, paused=False)
                return "resumed"
            case "reset":
                positions = [(Partition(topic, number), position) for topic, number, position in operation.positions]
                if operation.group in self._exactly_once:
                    async with self._aside(operation.group):
                        await self._seek(operation.group, positions)
                        await self._store.rewind(operation.group, positions, effects=operation.effects)
                else:
                    await self._store.rewind(operation.group, positions, effects=operation.effects)
                    await self._moved(operation.group)
                return f"moved {len(positions)} partitions"
            case "redrive" | "discard":
                ids = [parked.id for parked in await self._named(operation)]
                count = await self._store.request(operation.kind, ids, f"{operation.reason} ({operation.by})")
                return f"{count} of {len(operation.events)}"
            case "restore":
                return await self._restore(operation)
            case "tell":
                await self._reporter.retell()
                return "told"
            case "repair":
                ids = [parked.id for parked in await self._named(operation)]
                count = await self._store.request("repair", ids, f"{operation.reason} ({operation.by})", data=operation.data)
                return f"{count} of {len(operation.events)}"

    async def _seek(self, group: str, positions: Sequence[tuple[Partition, int]]) -> None:
        """Move it as soon as everybody has left it.

        The broker before the store: the store's place is passed over only once it is the broker's too, so that doing it all
        again after a crash comes to the same.
        """
        deadline = self._clock.monotonic() + ASIDE - MOVED
        while True:
            try:
                await self._broker.seek(group, positions)
                return
            except BrokerError:
                if self._clock.monotonic() >= deadline:
                    raise
            await self._clock.sleep(TRY)

    async def _named(self, operation: Operation) -> list[Parked]:
        """The parked deliveries that it names, by source and id of their events."""
        wanted, found, after = set(operation.events), list[Parked](), 0
        while page := await self._store.parked(operation.group, after=after, most=PAGE):
            found += [parked for parked in page if parked.identity in wanted]
            after = page[-1].id
        return found

    async def _restore(self, operation: Operation) -> str:
        """Park discarded deliveries again, dead as they were, with the events as the broker's history has them."""
        if not self._broker.features.replayable:
            raise BrokerError(f"{self._broker.name} keeps no history, so the events of discarded dead letters are gone: publish them anew")
        pages: list[Parked] = []
        for identity, (topic, number, position) in zip(operation.events, operation.positions, strict=False):
            read = await self._broker.read(Partition(topic, number), position, 1)
            envelope = read[0].envelope if read and read[0].position == position else None
            if envelope is None or (envelope.source, envelope.id) != identity:
                continue
            sequence = envelope.key if envelope.key is not None else f"\x00{position}"
            pages.append(
                Parked(
                    group=operation.group,
                    partition=Partition(topic, number),
                    position=position,
                    sequence=sequence,
                    envelope=envelope,
                    state="dead",
                    first_failure=operation.at,
                    last_failure=operation.at,
                    reason=f"restored: {operation.reason} ({operation.by})",
                )
            )
        page = Page(group=operation.group, restore=pages)
        await self._store.commit(page)
        if pages:
            await self._reporter.retell()
        return f"{len(pages) - len(page.already)} of {len(operation.events)}"
