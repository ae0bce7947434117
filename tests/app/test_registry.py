"""The schema registry, asked by apps that publish in Confluent's frame.

A server of these tests' own stands in for it here, to say what a real one seldom does; a real one is in
tests/brokers/test_kafka_confluent.py.
"""

import asyncio
import base64
import json
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pydantic
import pytest

from millstream import App, Context, event
from millstream.app import registry
from millstream.app.registry import Registry
from millstream.app.settings import resolve
from millstream.app.system_clock import SystemClock
from millstream.brokers.memory import MemoryBroker
from millstream.contracts.errors import ConfigurationError, ContractError, RegistryError, RegistryUnavailableError
from millstream.contracts.message import contract_of
from millstream.core.broker import Delivery
from millstream.core.observe import Outcomes
from millstream.stores.memory import MemoryStore
from millstream.testing import ManualClock


@event("registry.paid", key="order_id", topic="paid/all", wire="confluent")
@dataclass(frozen=True)
class Paid:
    """An event in Confluent's frame."""

    order_id: str
    cents: int = 0


@event("registry.ordered", key="order_id")
@dataclass(frozen=True)
class Ordered:
    """An event without one."""

    order_id: str


@dataclass(frozen=True)
class Branch:
    """A type that holds its own."""

    name: str
    above: "Branch | None" = None


@event("registry.grown", wire="confluent")
@dataclass(frozen=True)
class Grown:
    """An event with types inside."""

    branch: Branch


@event("registry.tree", wire="confluent")
class Tree(msgspec.Struct):
    """An event that holds events of its own type."""

    name: str
    below: "list[Tree]" = []


@event("registry.invited", wire="confluent")
class Invited(pydantic.BaseModel):
    """A model of pydantic."""

    email: str


class Opaque:
    """What no schema describes."""


@event("registry.odd", wire="confluent")
class Odd(pydantic.BaseModel):
    """An event that holds it."""

    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    what: Opaque


class StandIn:
    """Answers as it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes]] = []
        """One after another; when they are used up every schema gets the next id."""
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        self.elsewhere = ""
        """Where it sends whoever asks."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.asked.append((self.path, dict(self.headers), body))
                status, answer = outer.answers.pop(0) if outer.answers else (200, b'{"id":%d}' % (40 + len(outer.asked)))
                self.send_response(status)
                self.send_header("content-length", str(len(answer)))
                if outer.elsewhere:
                    self.send_header("location", outer.elsewhere)
                self.end_headers()
                self.wfile.write(answer)

            def do_GET(self) -> None:
                outer.asked.append((self.path, dict(self.headers), None))
                self.send_error(500)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def schemas(self) -> list[Any]:
        """What was registered, or looked up."""
        return [json.loads(body["schema"]) for _, _, body in self.asked]


@pytest.fixture
def stand_in() -> Generator[StandIn]:
    """A registry."""
    server = StandIn()
    yield server
    server.close()


class FramingBroker(MemoryBroker):
    """A broker in memory of which apps think that it puts bodies into frames."""

    features = msgspec.structs.replace(MemoryBroker.features, framed=True)


class UntilSettled:
    """An observer that ends a run with the first delivery of which it is known what became of it."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop

    def started(self, group: str, deliveries: Sequence[Delivery]) -> None:
        pass

    def settled(self, outcomes: Outcomes) -> None:
        self._stop.set()


def in_memory(app: App) -> App:
    app.configure(broker=FramingBroker(), store=MemoryStore())
    return app


@asynccontextmanager
async def moving(clock: ManualClock) -> AsyncGenerator[None]:
    """Time moves whenever somebody waits for it."""

    async def move() -> None:
        while True:
            await asyncio.sleep(0.001)
            if (wake := clock.next_wake) is not None:
                await clock.advance(wake)

    moves = asyncio.create_task(move())
    yield
    moves.cancel()


async def test_what_an_app_publishes_has_the_ids_of_its_schemas(stand_in: StandIn) -> None:
    """At start each is registered under its topic's subject, once; of other events nothing is said."""
    app = in_memory(App("shop", registry=f"{stand_in.url}/apis/", publishes=[Paid, Ordered, Paid]))
    async with app:
        paid, again = await app.publish_many([Paid("o-1"), Paid("o-2")])
        ordered = await app.publish(Ordered("o-1"))
        async with app.unit_of_work() as work:
            written = work.publish(Paid("o-3"))

    ((path, headers, body),) = stand_in.asked
    assert path == "/apis/subjects/paid%2Fall-value/versions"
    assert headers["Content-Type"] == "application/vnd.schemaregistry.v1+json"
    assert body["schemaType"] == "JSON"
    assert json.loads(body["schema"]) == {
        "title": "Paid", "type": "object",
        "description": "An event in Confluent's frame.", "required": ["order_id"],
        "properties": {"order_id": {"type": "string"}, "cents": {"type": "integer", "default": 0}},
    }  # fmt: skip
    assert [e.schema for e in (paid, again, written, ordered)] == ["confluent:41"] * 3 + [None]
    assert paid.data == b'{"order_id":"o-1","cents":0}'


async def test_what_handlers_return_is_registered_by_their_annotations(stand_in: StandIn) -> None:
    """What is only handled is not: its schema is its publisher's affair."""
    app = in_memory(App("shop", registry=stand_in.url))
    clock = app.clock = ManualClock()
    stop = asyncio.Event()

    @app.subscriber(Ordered)
    async def pay(ordered: Ordered) -> Paid:
        return Paid(ordered.order_id)

    @app.subscriber(Grown)
    async def look(grown: Grown, context: Context) -> None: ...

    @app.subscriber(Paid, wire="cloudevents")
    async def end(paid: Paid, context: Context) -> None:
        assert context.envelope.schema == "confluent:41"
        stop.set()

    async with app, moving(clock):
        await app.publish(Ordered("o-1"))
        async with asyncio.timeout(10):
            await app.run(stop)

    assert [path for path, _, _ in stand_in.asked] == ["/subjects/paid%2Fall-value/versions"]


async def test_what_nobody_announced_is_not_published(stand_in: StandIn) -> None:
    """The registry is never asked while events are published; the error says what to add, and a handler's event is not tried again."""
    stop = asyncio.Event()
    app = in_memory(App("shop", registry=stand_in.url, observers=[UntilSettled(stop)]))
    clock = app.clock = ManualClock()

    @app.subscriber(Ordered)
    async def pay(ordered: Ordered, context: Context) -> None:
        context.publish(Paid(ordered.order_id))

    async with app, moving(clock):
        with pytest.raises(ContractError, match=r"registry.paid is published with wire='confluent'.*App\(publishes=\[...\]\)"):
            await app.publish(Paid("o-1"))
        await app.publish(Ordered("o-1"))
        async with asyncio.timeout(10):
            await app.run(stop)
        (letter,) = await app.store.parked(dead=True)

    assert letter.attempts == 1
    assert "name Paid in the return annotation" in letter.error
    assert stand_in.asked == []


async def test_a_broker_without_frames_needs_no_registry(tmp_path: Path) -> None:
    """The same service runs on a laptop's file; its events are CloudEvents there."""
    async with App("shop", broker=f"sqlite:///{tmp_path}/b.db", publishes=[Paid]) as app:
        assert (await app.publish(Paid("o-1"))).schema is None


async def test_an_app_that_only_reads_frames_needs_no_registry() -> None:
    """JSON says all that a handler needs."""
    app = in_memory(App("shop"))

    @app.subscriber(Paid)
    async def end(paid: Paid) -> None: ...

    async with app:
        assert [group.name for group in await app.broker.groups()] == ["shop.end"]


async def test_without_a_registry_an_app_does_not_start() -> None:
    """It says what to set, and nothing stays open."""
    app = in_memory(App("shop", publishes=[Paid]))

    with pytest.raises(ConfigurationError, match=r"no schema registry is named\. Set MILLSTREAM_REGISTRY"):
        await app.__aenter__()


def test_what_is_no_contract_is_not_announced() -> None:
    """When the App is made, not when it starts."""
    with pytest.raises(ContractError, match="int is not a contract"):
        App("shop", publishes=[int])


async def test_schemas_stand_for_themselves(stand_in: StandIn) -> None:
    """The root is the record itself; types inside are beside it, and one that holds itself is there as well."""
    asked = Registry(stand_in.url, "here", SystemClock())
    for type_ in (Grown, Tree, Invited):
        await asked.id_of(contract_of(type_))

    grown, tree, invited = stand_in.schemas()
    assert (grown["title"], grown["type"], grown["properties"]) == ("Grown", "object", {"branch": {"$ref": "#/$defs/Branch"}})
    assert list(grown["$defs"]) == ["Branch"]
    assert (tree["title"], tree["properties"]["below"]["items"], list(tree["$defs"])) == ("Tree", {"$ref": "#/$defs/Tree"}, ["Tree"])
    assert (invited["title"], invited["properties"]["email"]["type"]) == ("Invited", "string")
    with pytest.raises(ContractError, match="no JSON Schema can be made of Odd"):
        await asked.id_of(contract_of(Odd))


async def test_user_password_and_looking_up_are_said_in_the_url(stand_in: StandIn) -> None:
    """Nothing is registered then; and the password is in no error."""
    there, missing = b'{"subject":"x","id":7,"version":1,"schema":"{}"}', b'{"error_code":40403,"message":"Schema not found"}'
    stand_in.answers = [(200, there), (404, missing)]
    asked = Registry(f"http://me%40here:pa%3Ass@{stand_in.host}?register=0", "the environment's MILLSTREAM_REGISTRY", SystemClock())

    assert await asked.id_of(contract_of(Paid)) == 7
    with pytest.raises(RegistryError) as error:
        await asked.id_of(contract_of(Paid))

    path, headers, _ = stand_in.asked[0]
    assert path == "/subjects/paid%2Fall-value"
    assert base64.b64decode(headers["Authorization"].removeprefix("Basic ")) == b"me@here:pa:ss"
    assert "it is not there (Schema not found), and register=0 forbids to add it" in str(error.value)
    assert "http://me%40here:***@" in str(error.value)
    assert "pa%3Ass" not in str(error.value)


@pytest.mark.parametrize(
    ("status", "answer", "says"),
    [
        (409, b'{"error_code":409,"message":"PROPERTY_REMOVED"}', r"breaks the subject's compatibility \(PROPERTY_REMOVED\)"),
        (401, b"Unauthorized", "401 Unauthorized. Put a user"),
        (404, b"<html>", "404 <html>. Look at the registry"),
        (422, b'{"message":"Invalid schema"}', "422 Invalid schema"),
        (200, b"<html>", "answered what no registry does"),
        (200, b'{"id":"7"}', "answered what no registry does"),
    ],
)
async def test_a_refusal_says_what_to_do(stand_in: StandIn, status: int, answer: bytes, says: str) -> None:
    """It is not asked again: the answer would be the same."""
    stand_in.answers = [(status, answer)]

    with pytest.raises(RegistryError, match=says):
        await Registry(stand_in.url, "here", SystemClock()).id_of(contract_of(Paid))
    assert len(stand_in.asked) == 1


async def test_a_registry_that_sends_elsewhere_is_not_followed(stand_in: StandIn) -> None:
    """Whoever answers there would be told the password."""
    other = StandIn()
    stand_in.answers, stand_in.elsewhere = [(302, b"")], f"{other.url}/subjects"

    with pytest.raises(RegistryError, match=r"302.*correct the URL"):
        await Registry(f"http://ann:secret@{stand_in.host}", "here", SystemClock()).id_of(contract_of(Paid))
    other.close()

    assert other.asked == []


async def test_a_registry_that_is_busy_is_asked_again(stand_in: StandIn) -> None:
    """Like a broker that is just being started."""
    clock = ManualClock()
    stand_in.answers = [(503, b""), (429, b"")]

    async with moving(clock):
        assert await Registry(stand_in.url, "here", clock).id_of(contract_of(Paid)) == 43


@pytest.mark.parametrize("broken", [lambda s: s.close(), lambda s: s.answers.extend([(502, b"")] * 1000)], ids=["gone", "behind a proxy"])
async def test_a_registry_that_stays_away_is_an_error(stand_in: StandIn, broken: Callable[[StandIn], None]) -> None:
    """After as long as a broker is waited for; it can be told from a registry that refuses."""
    clock = ManualClock()
    began = clock.monotonic()
    broken(stand_in)

    async with moving(clock):
        says = r"the schema registry http://127.0.0.1:\d+ \(here\) cannot be asked: .*registry.paid"
        with pytest.raises(RegistryUnavailableError, match=says):
            await Registry(stand_in.url, "here", clock).id_of(contract_of(Paid))
    assert registry.PATIENCE <= clock.monotonic() - began <= registry.PATIENCE + 2 * registry.PAUSE


@pytest.mark.parametrize("url", ["http://", "http://host:port", "http://h?register=no", "http://h?regster=0", "http://h#f", "http://[h"])
def test_a_url_that_names_no_registry_is_refused(url: str) -> None:
    """Before anything is asked."""
    with pytest.raises(ConfigurationError, match="that is no URL of a registry"):
        Registry(url, "here", SystemClock())


def test_the_registry_is_a_setting() -> None:
    """Of HTTP, and its password is not shown."""
    environment = {"MILLSTREAM_REGISTRY": "https://me:secret@registry.example"}
    settings = resolve(environment=environment, code={"registry": "http://h"}, folder=Path("/"))

    assert settings.shown()["registry"] == "https://me:***@registry.example"
    assert settings.origin("registry") == "the environment's MILLSTREAM_REGISTRY"
    with pytest.raises(ConfigurationError, match=r"registry is 'kafka://h'.*Write the URL of a schema registry"):
        resolve(environment={"MILLSTREAM_REGISTRY": "kafka://h"}, folder=Path("/"))
