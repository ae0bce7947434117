"""The relay: copies a store's outbox to the broker, in order."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import MillstreamError, TooLargeError
from millstream.core.broker import Broker, Origin, Partition
from millstream.core.clock import Clock
from millstream.core.store import Page, Parked, Store

log = logging.getLogger("millstream.relay")

PAGE = 1000
#: One process at a time relays a store; another takes over when it has not been heard of for so long, in seconds.
LEASE = 5.0
#: Without a wake-up the outbox is looked at again after so many seconds.
LOOK = 1.0
BACK_OFF = (0.1, 5.0)


class Relay:
    """Publishes what waits in the outbox; a row goes only once the broker has its event.

    Where the broker keeps marks, how far the relay came is committed together with the
    events, and a crash repeats nothing. Elsewhere it may repeat what was in flight, and
    the inbox of whoever reads it absorbs that.
    """

    def __init__(self, store: Store, broker: Broker, clock: Clock, *, member: str, group: str, changed: asyncio.Event) -> None:
        self._store, self._broker, self._clock = store, broker, clock
        self._member = member
        self._group = group
        """Under which an event that the broker refuses for ever is parked."""
        self._changed = changed
        self._sent: int | None = None
        self._lead_until = float("-inf")
        self._back_off = BACK_OFF[0]
        self.trouble_now = ""

    async def run(self, stop: asyncio.Event) -> None:
        """Relay until `stop` is set, and then what is left."""
        while not stop.is_set():
            self._changed.clear()
            if not await self._try():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK):
                        await self._changed.wait()
        while await self._try():
            pass
        if self._lead_until > float("-inf"):
            # Whoever comes next need not wait for the lease to end.
            with contextlib.suppress(MillstreamError):
                await self._store.lead("relay", self._member, 0.0)

    async def _try(self) -> bool:
        try:
            busy = await self.step()
        except MillstreamError as error:
            self._sent = None
            if not self.trouble_now:
                log.warning("the relay waits: %s", error)
            self.trouble_now = f"{type(error).__name__}: {error}"
            await self._clock.sleep(self._back_off)
            self._back_off = min(self._back_off * 2, BACK_OFF[1])
            return False
        self.trouble_now, self._back_off = "", BACK_OFF[0]
        return busy

    async def step(self) -> bool:
        """Copy one page; tell whether there was anything to copy."""
        if not await self._leads():
            return False
        if self._sent is None:
            self._sent = await self._broker.relayed(self._store.id) if self._broker.features.marks else 0
            if self._sent:
                await self._store.sent(self._sent)
        rows = await self._store.outbox(self._sent, PAGE)
        if not rows:
            return False
        await self._publish(rows)
        self._sent = rows[-1][0]
        await self._store.sent(self._sent)
        return True

    async def _leads(self) -> bool:
        now = self._clock.monotonic()
        if now < self._lead_until - LEASE / 2:
            return True
        led = now < self._lead_until
        if not await self._store.lead("relay", self._member, LEASE):
            self._lead_until, self._sent = float("-inf"), None
            return False
        if not led:
            self._sent = None
        self._lead_until = now + LEASE
        return True

    async def _publish(self, rows: Sequence[tuple[int, Envelope]]) -> None:
        envelopes = [envelope for _, envelope in rows]
        origin = None
        if self._broker.features.marks:
            # Parked before the mark passes over them: after a crash in between they are tried, and parked, again.
            largest = self._broker.features.largest
            for envelope in [envelope for envelope in envelopes if len(envelope.data) > largest]:
                error = TooLargeError(f"its body has {len(envelope.data)} bytes, and {self._broker.name} takes {largest}")
                await self._park(envelope, error)
                envelopes.remove(envelope)
            origin = Origin(self._store.id, rows[-1][0], self._sent)
        results = await self._broker.publish(envelopes, origin=origin)
        refused = [(envelope, error) for envelope, error in zip(envelopes, results, strict=True) if error is not None]
        for envelope, error in refused:
            if not isinstance(error, TooLargeError):
                # The whole page again, in order: what the broker has already is a duplicate it or the inbox absorbs.
                raise error
            await self._park(envelope, error)

    async def _park(self, envelope: Envelope, error: MillstreamError) -> None:
        """It will never be taken: keep it where an operator finds it, and let the others pass."""
        now = self._clock.micros()
        parked = Parked(
            group=self._group,
            partition=Partition(envelope.topic, 0),
            position=0,
            sequence=f"\x00{envelope.id}",
            envelope=envelope,
            state="dead",
            first_failure=now,
            last_failure=now,
            error=f"{type(error).__name__}: {error}",
            reason="the broker refuses it",
        )
        log.error("event %s (%s) cannot be published: %s", envelope.id, envelope.type, error)
        await self._store.commit(Page(group=self._group, park=[parked]))
