"""A small system with a console on it, and a browser as far as the API is concerned."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from millstream import App, Retry, event
from millstream.console.server import Console


@event("order.created", key="order_id")
@dataclass(frozen=True)
class OrderCreated:
    """A customer has committed to buy."""

    order_id: str
    quantity: int = 1


@event("stock.reserved", key="order_id")
@dataclass(frozen=True)
class StockReserved:
    """Goods are set aside."""

    order_id: str


def inventory(folder: Path) -> App:
    """A service that refuses negative quantities, and one that follows it."""
    app = App("inventory", broker=f"sqlite:///{folder}/broker.db", store=f"sqlite:///{folder}/inventory.db")
    app.configure(broker=f"sqlite:///{folder}/broker.db", store=f"sqlite:///{folder}/inventory.db", facts="on")

    @app.subscriber(OrderCreated, retry=Retry(attempts=2, first=0.01))
    async def reserve(order: OrderCreated) -> StockReserved:
        """Set goods aside."""
        if order.quantity < 1 and not mended(app):
            raise ValueError(f"order {order.order_id}: quantity {order.quantity}")
        return StockReserved(order.order_id)

    @app.subscriber(StockReserved)
    async def note(_stock: StockReserved) -> None:
        """Follow."""

    return app


def mended(app: App) -> bool:
    """Whether it takes what it used to refuse: `app.state.mended = True` deploys the repair."""
    return getattr(app.state, "mended", False)


class Screen:
    """A signed-in browser, as far as the API is concerned."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def get(self, path: str, status: int = 200) -> Any:
        """The JSON of a path."""
        response = await self.client.get(path)
        assert response.status_code == status, response.text
        return response.json()

    async def until(self, path: str, reached: Callable[[Any], object]) -> Any:
        """Ask until the answer is as wanted."""
        async with asyncio.timeout(20):
            while not reached(answer := await self.get(path)):  # noqa: ASYNC110
                # Who is asked works on the same loop, and needs some of its time.
                await asyncio.sleep(0.02)
        return answer

    async def ask(self, kind: str, group: str = "inventory.reserve", status: int = 202, **details: Any) -> Any:
        """Ask for an operation."""
        response = await self.client.post("/api/operations", json={"kind": kind, "group": group, "reason": "a test", **details})
        assert response.status_code == status, response.text
        return response.json()


@asynccontextmanager
async def system(folder: Path, **options: Any) -> AsyncGenerator[tuple[App, Screen, Console]]:
    """The service at work, and a console on it."""
    app = inventory(folder)
    console = Console(broker=f"sqlite:///{folder}/broker.db", store=f"sqlite:///{folder}/console.db", port=0, **options)
    stop = asyncio.Event()
    async with app, asyncio.TaskGroup() as tasks:
        tasks.create_task(app.run(stop))
        tasks.create_task(console.serve(stop))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{console.port}", follow_redirects=True) as client:
            if not options.get("tokens"):
                await client.get(console.url)
            try:
                yield app, Screen(client), console
            finally:
                stop.set()


@asynccontextmanager
async def console_alone(folder: Path, **options: Any) -> AsyncGenerator[tuple[Screen, Console]]:
    """A console on a system whose services do not run here."""
    console = Console(broker=f"sqlite:///{folder}/broker.db", store=f"sqlite:///{folder}/console.db", port=0, **options)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(console.serve(stop))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{console.port}", follow_redirects=True) as client:
            await client.get(console.url)
            try:
                yield Screen(client), console
            finally:
                stop.set()
