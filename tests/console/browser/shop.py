"""The demo shop as its users start it, for tests that look at it through its console."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from msgspec.structs import replace

from millstream.app.connect import connect_broker
from millstream.app.system_clock import SystemClock
from millstream.contracts.envelope import Envelope

COMMAND = (sys.executable, "-m", "millstream")
#: Processes are started on a machine that may be busy, in seconds.
PATIENCE = 40.0
PATIENCE_AT_STOP = 15.0


@dataclass
class Shop:
    """A running shop without customers of its own."""

    process: asyncio.subprocess.Process
    ready: dict[str, Any]
    folder: Path
    client: httpx.AsyncClient

    @property
    def console(self) -> str:
        """The console's origin."""
        return origin(self.ready["console"])

    @property
    def broker_url(self) -> str:
        """Where its events are."""
        return f"sqlite:///{self.folder}/broker.db"

    async def order(self, key: str, sku: str = "oats", quantity: int = 2) -> tuple[str, bool]:
        """Order as a program would; the order's number, and whether this made it."""
        body = {"email": f"{key}@example.com", "lines": [{"sku": sku, "quantity": quantity}]}
        answer = await self.client.post(f"{self.ready['shop']}/orders", json=body, headers={"idempotency-key": key})
        assert answer.status_code in (200, 201), answer.text
        said = answer.json()
        return said["order_id"], said["created"]

    async def state(self, order: str) -> str:
        """How far an order is, as its customer is told."""
        answer = await self.client.get(f"{self.ready['shop']}/orders/{order}", headers={"accept": "application/json"})
        return str(answer.json()["state"])

    async def publish(self, *envelopes: Envelope) -> None:
        """Put events into the log beside the services, as a stranger would."""
        async with connect_broker(self.broker_url, SystemClock()) as broker:
            assert [error for error in await broker.publish(envelopes) if error is not None] == []

    async def repeat(self, key: str) -> int:
        """Publish every event of a key a second time, under the ids they have; how many there were."""
        async with connect_broker(self.broker_url, SystemClock()) as broker:
            again: list[Envelope] = []
            for topic in ("order.placed", "stock.reserved", "confirmation.sent"):
                for partition, first, head in await broker.bounds(topic):
                    for delivery in await broker.read(partition, first, head - first) if head > first else ():
                        if delivery.envelope is not None and delivery.envelope.key == key:
                            again.append(replace(delivery.envelope, topic=topic))
            await broker.publish(again)
        return len(again)

    @contextlib.contextmanager
    def nobody_restarts(self) -> Iterator[None]:
        """The shop's supervisor stands still: what is killed stays dead until this is over."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


def placed(key: str | None, data: bytes, **more: Any) -> Envelope:
    """What claims to be an order, with any body."""
    given: dict[str, Any] = {"id": str(uuid.uuid4()), "source": "/stranger", "type": "order.placed", "topic": "order.placed"}
    return Envelope(**{**given, "time": time.time_ns() // 1000, "key": key, "data": data, **more})


def origin(url: str) -> str:
    """Scheme, host and port of an address."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


@asynccontextmanager
async def open_shop(folder: Path) -> AsyncGenerator[Shop]:
    """A shop in a folder; nothing of it is left afterwards."""
    flags = ("--forever", "--rate", "0", "--output", "json", "--data", str(folder))
    async with started("demo", "shop", *flags) as (process, ready), httpx.AsyncClient(timeout=PATIENCE) as client:
        yield Shop(process, ready, folder, client)


@asynccontextmanager
async def started(*words: str, **environment: str) -> AsyncGenerator[tuple[asyncio.subprocess.Process, dict[str, Any]]]:
    """A command of Millstream, and the line of JSON that it prints when it is ready; ended afterwards."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *words,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, env={**os.environ, **environment},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE):
            ready = json.loads(await process.stdout.readline())
        yield process, ready
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        try:
            async with asyncio.timeout(PATIENCE_AT_STOP):
                # What it still prints on its way is read, so that it cannot wait for a reader.
                await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
