"""Uses of the public API, type-checked and never run: what a user's own checker will say.

`assert_type` fails the check when a type is wider or narrower than promised here.
"""

from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Annotated, Any, assert_type

from millstream import App, Context, Depends, Envelope, MillstreamError, Retry, Router, Transaction, UnitOfWork, command, event


@event("order.created", version=1, key="order_id")
@dataclass(frozen=True)
class OrderCreated:
    order_id: str
    quantity: int


@command("stock.reserve", key="order_id")
@dataclass(frozen=True)
class ReserveStock:
    order_id: str


class Prices:
    def of(self, sku: str) -> int:
        return len(sku)


app = App("shop", broker="sqlite:///shop.db", schema="create table if not exists orders(id text primary key)")
framed = App("framed", broker="kafka://localhost", registry="http://localhost:8081", publishes=[OrderCreated])
router = Router()


# A decorated class stays the class that it was: its fields and its constructor are checked.
assert_type(OrderCreated("o-1", 2), OrderCreated)
assert_type(OrderCreated("o-1", 2).quantity, int)


@app.subscriber(OrderCreated, retry=Retry(attempts=3, give_up_on=(ValueError,)), concurrency=8, timeout=5.0)
async def reserve(order: OrderCreated, context: Context, work: Transaction) -> ReserveStock | None:
    assert_type(context.attempt, int)
    assert_type(context.envelope, Envelope)
    assert_type(work.execute("select 1 where ?", (order.order_id,)), list[tuple[Any, ...]])
    context.publish(ReserveStock(order.order_id))
    return None


@router.subscriber(ReserveStock, where=lambda command: command.order_id != "", ordered=False)
def count(orders: list[ReserveStock], prices: Annotated[Prices, Depends(Prices)]) -> None:
    assert_type(orders[0].order_id, str)
    assert_type(prices.of("mug"), int)


@router.subscriber(OrderCreated, group="large", where={"order_id": ["o-1", "o-2"], "quantity": 5})
async def watch(order: OrderCreated) -> None:
    assert_type(order.order_id, str)


app.include_router(router)

# A decorated function stays the function that it was, so that a test can call it.
reserve_: Callable[[OrderCreated, Context, Transaction], Coroutine[Any, Any, ReserveStock | None]] = reserve


async def publish() -> None:
    async with app as opened:
        assert_type(opened, App)
        assert_type(await app.publish(OrderCreated("o-1", 2)), Envelope)
        assert_type(await app.publish_many([OrderCreated("o-2", 1), ReserveStock("o-2")]), list[Envelope])
        assert_type(await app.read("select id from orders"), list[tuple[Any, ...]])
        async with app.unit_of_work() as work:
            assert_type(work, UnitOfWork)
            assert_type(work.execute("select 1"), list[tuple[Any, ...]])
            assert_type(work.publish(OrderCreated("o-3", 1)), Envelope)


async def run() -> None:
    try:
        await app.run()
    except MillstreamError as error:
        assert_type(error, MillstreamError)


# What FastAPI and Starlette want of a lifespan.
lifespan: Callable[[object], AbstractAsyncContextManager[Any]] = app.lifespan
