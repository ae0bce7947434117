"""Customers: they order at a steady rate, send again when the shop does not answer, and sometimes click twice."""

import asyncio
import json
import random
import time
import uuid

from millstream.demos.shop.catalogue import PRODUCTS
from millstream.demos.shop.faults import waited
from millstream.demos.shop.journal import Journal

PATIENCE = 60.0
AGAIN_AFTER = 0.2
ANSWER_LIMIT = 15.0
MOST_AT_ONCE = 64
DOUBLE_CLICKS = 0.05
#: While nobody comes, it is looked so often whether somebody should, in seconds.
IDLE = 0.2


class Customers:
    """Orders sent to one shop, each noted once the shop has confirmed it."""

    def __init__(self, port: int, journal: Journal, chance: random.Random, rate: float) -> None:
        self.rate = rate
        """Orders a second; may change while they come, and be 0."""
        self._port = port
        self._journal = journal
        self._random = chance
        self._under_way: set[asyncio.Task[str | None]] = set()
        self.resting = False
        """Whether nobody comes for the moment."""
        self.unanswered = 0

    async def come(self, until: asyncio.Event) -> None:
        """Place orders until told to stop; a rate of 0 is changed by whoever wants customers after all."""
        following = time.monotonic()
        ended = False
        while not ended:
            following = max(following + (1 / self.rate if self.rate else IDLE), time.monotonic() - 1)
            if self.rate and not self.resting and len(self._under_way) < MOST_AT_ONCE:
                self.order()
            ended = await waited(until, max(0.0, following - time.monotonic()))

    def order(self) -> asyncio.Task[str | None]:
        """Send one random order; gives its id, or None if nobody answers."""
        body = json.dumps(self._random_order()).encode()
        key = uuid.UUID(int=self._random.getrandbits(128), version=4).hex
        times = 2 if self._random.random() < DOUBLE_CLICKS else 1
        task = asyncio.create_task(self._send(body, key, times))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def last_answers(self) -> None:
        """Wait for the orders under way."""
        while self._under_way:
            await asyncio.wait(list(self._under_way))

    def _random_order(self) -> dict[str, object]:
        wanted = self._random.choices(PRODUCTS, [product.demand for product in PRODUCTS], k=self._random.randint(1, 3))
        lines = {product.sku: self._random.randint(1, 4) for product in wanted}
        return {
            "email": f"customer{self._random.randint(1, 500)}@example.com",
            "lines": [{"sku": sku, "quantity": quantity} for sku, quantity in lines.items()],
        }

    async def _send(self, body: bytes, key: str, times: int) -> str | None:
        order_id = None
        for _ in range(times):
            order_id = await self._until_answered(body, key)
        return order_id

    async def _until_answered(self, body: bytes, key: str) -> str | None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                async with asyncio.timeout(ANSWER_LIMIT):
                    status, answer = await post_json(self._port, "/orders", body, key)
                if status < 300:
                    order_id = json.loads(answer)["order_id"]
                    self._journal.note(key=key, order_id=order_id)
                    return order_id
            except (OSError, TimeoutError, EOFError, ValueError):
                pass
            await asyncio.sleep(AGAIN_AFTER)
        self.unanswered += 1
        return None


async def post_json(port: int, path: str, body: bytes, key: str) -> tuple[int, bytes]:
    """One HTTP request on a connection of its own; an answer cut short is an error."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            f"Idempotency-Key: {key}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()
        status = int((await reader.readline()).split()[1:2][0]) if not reader.at_eof() else 0
        length = 0
        while (line := await reader.readline()).strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return status, await reader.readexactly(length)
    except IndexError:
        raise EOFError("The shop closed the connection without an answer.") from None
    finally:
        writer.close()
