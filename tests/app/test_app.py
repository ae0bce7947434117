"""What an App refuses before anything runs, and what it offers outside of handlers."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest

from millstream import App, Context, Depends, Router, Topic, Transaction, errors, event
from millstream.contracts.message import contract_of
from millstream.core.filter import Wants
from millstream.stores.memory import MemoryStore
from millstream.testing import TestApp


@event("seen", key="name")
@dataclass(frozen=True)
class Seen:
    """Somebody was seen."""

    name: str


@event("noted", key="name")
@dataclass(frozen=True)
class Noted:
    """It was written down."""

    name: str


@event("seen", key="name")
@dataclass(frozen=True)
class OtherSeen:
    """Another type of the same name."""

    name: str


def test_two_handlers_of_one_type_in_one_group_are_refused() -> None:
    """Each event would reach only one of them."""
    app = App("watch")

    @app.subscriber(group="both")
    async def first(_seen: Seen) -> None: ...

    @app.subscriber(group="both")
    async def second(_seen: Seen) -> None: ...

    with pytest.raises(errors.ConfigurationError, match="two handlers take 'seen' in the group 'both'"):
        app.handlers()


def test_two_types_of_one_name_are_refused() -> None:
    """Bytes that arrive have only the name to be known by."""
    app = App("watch")

    @app.subscriber()
    async def first(_seen: Seen) -> None: ...

    @app.subscriber()
    async def second(_seen: OtherSeen) -> None: ...

    with pytest.raises(errors.ConfigurationError, match="Seen and OtherSeen are both named 'seen'"):
        app.handlers()


@pytest.mark.parametrize("name", ["", "my shop", "a/b", "<x>"])
def test_a_name_that_cannot_be_a_source_is_refused(name: str) -> None:
    """It becomes the source of every event."""
    with pytest.raises(errors.ConfigurationError, match="source of its events"):
        App(name)


def test_a_batch_handler_cannot_have_a_context() -> None:
    """What it published through that would belong to none of its events, and be lost."""
    app = App("watch")

    @app.subscriber()
    async def note(_seen: list[Seen], context: Context) -> None:
        context.publish(Noted("ann"))

    with pytest.raises(errors.ConfigurationError, match="a Context belongs to one delivery"):
        app.handlers()


def test_a_filter_names_fields_that_the_body_has() -> None:
    """A misspelt field would want nothing for ever: it is refused when the app looks at its handlers, with the handler's name."""
    app = App("shop")

    @app.subscriber(Seen, where={"nam": "a"})
    async def look_at(seen: Seen) -> None: ...

    with pytest.raises(errors.ConfigurationError, match=r"look_at: where= names the field 'nam'.*did you mean 'name'"):
        app.handlers()


def test_a_filter_is_a_function_or_a_mapping() -> None:
    app = App("shop")

    @app.subscriber(Seen, where="name == a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async def look_at(seen: Seen) -> None: ...

    with pytest.raises(errors.ConfigurationError, match="look_at: where='name == a' is neither"):
        app.handlers()


def test_a_broker_is_told_what_a_group_wants_at_most() -> None:
    """Of a topic, all that any of its handlers wants; what nobody can say in fields is everything."""
    app = App("shop")

    @app.subscriber(Seen, group="few", where={"name": ["a", "b"]})
    async def few(seen: Seen) -> None: ...

    @app.subscriber(Seen, group="all", where=lambda seen: seen.name < "c")
    async def everything(seen: Seen) -> None: ...

    @app.subscriber(Seen, group="bare", where={"name": "a"}, wire="json")
    async def bare(seen: Seen) -> None: ...

    topic = contract_of(Seen).topic
    assert {group.name: group.wants for group in app.groups()} == {
        "few": ((topic, Wants(((("name",), ("a", "b")),))),), "all": ((topic, None),), "bare": ((topic, None),),
    }  # fmt: skip


async def test_an_app_that_could_not_be_opened_can_be_opened_later(tmp_path: Path) -> None:
    """Once what was in the way is gone, nothing is left of the first try."""
    app = App("watch", broker=f"sqlite:///{tmp_path}/b.db", store=f"sqlite:///{tmp_path}/later/s.db")
    with pytest.raises(errors.StoreError):
        await app.__aenter__()

    (tmp_path / "later").mkdir()

    async with app:
        await app.publish(Seen("ann"))


async def test_an_app_is_closed_until_it_is_opened(tmp_path: Path) -> None:
    """Using it before is an error that says how to open it, and opening it twice is one too."""
    app = App("watch", broker=f"sqlite:///{tmp_path}/w.db")

    with pytest.raises(errors.NotStartedError, match="async with app"):
        await app.publish(Seen("ann"))
    async with app:
        with pytest.raises(errors.NotStartedError, match="open already"):
            await app.__aenter__()


async def test_dependencies_are_made_for_each_delivery_and_closed_after_it() -> None:
    """Plain, async and yielding makers, in the signature or in Annotated."""
    app, told = App("watch"), list[str]()

    async def connection() -> AsyncGenerator[str]:
        told.append("open")
        yield "connection"
        told.append("close")

    async def name() -> str:
        return "async"

    @app.subscriber(Seen)
    async def note(seen: Seen, ctx: Context, who: Annotated[str, Depends(name)], how: str = Depends(connection)) -> None:
        told.append(f"{seen.name} {who} {how} {ctx.attempt}")

    async with TestApp(app) as test:
        await test.publish(Seen("ann"), Seen("bob"))

    assert sorted(told) == sorted(["open", "ann async connection 1", "close", "open", "bob async connection 1", "close"])
    assert told[0] == "open"
    assert told[-1] == "close"


async def test_a_plain_handler_cannot_have_an_async_dependency() -> None:
    """Nobody would await it."""
    app = App("watch")

    async def name() -> str:
        return "async"

    @app.subscriber(Seen)
    def note(seen: Seen, who: str = Depends(name)) -> None: ...

    with pytest.raises(errors.ConfigurationError, match="async def note"):
        app.handlers()


async def test_a_router_brings_its_handlers_and_a_lifespan_its_resources() -> None:
    """The lifespan is entered after the store is open, and left before it closes."""
    router, told = Router(), list[str]()

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncGenerator[None]:
        await app.read("select 1")
        app.state.greeting = "hello"
        yield
        await app.read("select 1")
        told.append("left")

    app = App("watch", lifespan=lifespan)

    @router.subscriber(Seen)
    async def note(seen: Seen) -> Noted:
        told.append(f"{app.state.greeting} {seen.name}")
        return Noted(seen.name)

    app.include_router(router)

    async with TestApp(app) as test:
        await test.publish(Seen("ann"))
        assert test.published(Noted) == [Noted("ann")]

    assert told == ["hello ann", "left"]


@pytest.mark.parametrize("store", ["w.db", "own.db"])
def test_threads_publish_read_and_commit_units_of_work_without_a_loop(tmp_path: Path, store: str) -> None:
    """`with app.sync()` offers the same to code without asyncio, in both layouts."""
    schema = "create table if not exists seen(name text)"
    app = App("watch", broker=f"sqlite:///{tmp_path}/w.db", store=f"sqlite:///{tmp_path}/{store}", schema=schema)

    with app.sync() as watch:
        watch.publish(Seen("ann"))
        with watch.unit_of_work() as work:
            work.execute("insert into seen values('bob')")
            work.publish(Seen("bob"))
        with pytest.raises(ZeroDivisionError), watch.unit_of_work() as work:
            work.execute("insert into seen values('eve')")
            work.publish(Seen("eve"))
            _ = 1 / 0
        rows = watch.read("select name from seen")

    assert rows == [("bob",)]
    assert sorted(asyncio.run(published(app))) == ["ann", "bob"]


async def published(app: App) -> list[str]:
    """The keys of everything in the log."""
    async with app:
        return [
            delivery.envelope.key or ""
            for partition, first, _ in await app.broker.bounds("seen")
            for delivery in await app.broker.read(partition, first, 100)
            if delivery.envelope is not None
        ]


async def test_an_app_declares_its_topics_with_their_partitions_and_retention(tmp_path: Path) -> None:
    """And refuses another number of partitions later."""
    url = f"sqlite:///{tmp_path}/w.db"
    async with App("watch", broker=url, topics=[Topic(name="seen", partitions=3, retain_seconds=60)]) as app:
        topics = {topic.name: topic for topic in await app.broker.topics()}

        assert topics["seen"].partitions == 3
        assert topics["seen"].retain_seconds == 60
    with pytest.raises(errors.ConfigurationError, match="3 partitions, not 4"):
        async with App("watch", broker=url, topics=[Topic(name="seen", partitions=4)]):
            pass


async def test_a_unit_of_work_that_fails_publishes_nothing(tmp_path: Path) -> None:
    """Not even what it had published before the error."""
    app = App("watch", broker=f"sqlite:///{tmp_path}/w.db", schema="create table if not exists seen(name text)")
    async with app:
        with pytest.raises(ZeroDivisionError):
            async with app.unit_of_work() as work:
                work.execute("insert into seen values('eve')")
                work.publish(Seen("eve"))
                _ = 1 / 0

        assert await app.read("select * from seen") == []
        assert await app.broker.topics() == []


async def test_a_handler_without_a_transaction_publishes_through_its_context() -> None:
    """What it published before it failed never was."""
    app = App("watch")

    @app.subscriber(Seen)
    async def note(seen: Seen, ctx: Context) -> None:
        ctx.publish(Noted(seen.name))
        if seen.name == "eve":
            raise errors.ContractError("not her")

    async with TestApp(app) as test:
        await test.publish(Seen("ann"), Seen("eve"))

        assert test.published(Noted) == [Noted("ann")]


async def test_a_transaction_refuses_at_least_once() -> None:
    """The two contradict each other."""
    app = App("watch")

    @app.subscriber(Seen, delivery="at_least_once")
    async def note(seen: Seen, tx: Transaction) -> None: ...

    with pytest.raises(errors.ConfigurationError, match="cannot be meant"):
        app.handlers()


class StoreElsewhere(MemoryStore):
    """As if it were a database that all machines reach."""

    local = False


@pytest.mark.parametrize("local", [True, False])
async def test_progress_that_is_kept_on_one_machine_is_said_to_be(local: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the broker: workers on another machine would not find it."""
    app = App("watch")
    app.configure(broker="memory://", store=f"sqlite:///{tmp_path}/s.db" if local else StoreElsewhere())

    @app.subscriber()
    async def take(_seen: Seen) -> None: ...

    with caplog.at_level("INFO", "millstream"):
        async with app:
            pass

    assert ("app watch keeps its progress on this machine: run all its workers here" in caplog.text) is local
