"""The console's process: an ordinary App that projects facts, and a web server on its read model."""

import asyncio
import contextlib
import mimetypes
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from millstream.app.app import App
from millstream.app.connect import connect_broker, connect_store
from millstream.app.control import sign
from millstream.console.access import Access, Guard, Role
from millstream.console.answers import Answers
from millstream.console.api import Api
from millstream.console.changes import Changes
from millstream.console.lab import LabClient
from millstream.console.live import Live
from millstream.console.model_file import GROUPS, discard_other_versions, group_of, path_of_model
from millstream.console.projection import add_projection
from millstream.console.protocol import LARGEST_HEAD, MOST_CONNECTIONS, Impatient
from millstream.console.read_model import ReadModel
from millstream.console.respond import refuse
from millstream.console.runner import Runner
from millstream.console.schema import SCHEMA
from millstream.console.standings import note_standings
from millstream.console.watch import EVERY, Watch
from millstream.contracts.errors import ConfigurationError, MillstreamError
from millstream.contracts.ids import new_id
from millstream.core.broker import Broker
from millstream.core.facts import TOPIC, Fact, Operation
from millstream.core.store import Store
from millstream.stores.sqlite_reader import SqliteReader

STATIC = Path(__file__).parent / "static"
DEFAULT_PORT = 7788
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Console:
    """A console of one system; `async with` opens it, `serve` serves it.

    On a loopback address a token is made and is good once, in `url`. Anywhere else the
    tokens have to be given, with a role each, and can be used again; `hosts` are the names
    by which browsers reach it there, with the port where it is none of HTTP's own.
    """

    def __init__(
        self,
        *,
        broker: str,
        store: str,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        any_port: bool = False,
        tokens: Mapping[str, Role] | None = None,
        hosts: Sequence[str] = (),
        read_only: bool = False,
        name: str = "",
        control_key: str | None = None,
        lab: Path | None = None,
    ) -> None:
        if host not in LOOPBACK and not tokens:
            raise ConfigurationError(
                f"the console would listen on {host}, where others can reach it, without any token: set MILLSTREAM_CONSOLE_TOKENS "
                "(token=role, comma-separated), or listen on 127.0.0.1"
            )
        self._socket = _listen(host, port, any_port=any_port)
        self.port = int(self._socket.getsockname()[1])
        self._host = host
        self._once = None if tokens else secrets.token_urlsafe(24)
        known = frozenset([*(f"{each}:{self.port}" for each in (*LOOPBACK, "[::1]", host)), *hosts])
        # Cookies know no ports: each console has one of its own.
        self._access = Access(
            tokens or {self._once or "": "admin"}, hosts=known, cookie=f"millstream-{self.port}", read_only=read_only, reusable=bool(tokens)
        )
        self._name = name
        self._key = control_key
        self._lab = None if lab is None else LabClient(lab)
        self._live: Live | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._app = App("millstream-console", broker=broker, store=store, schema=SCHEMA, topics=[TOPIC])
        self._app.configure(broker=broker, store=store, facts="off")
        self._urls = (broker, store)
        self._group = group_of(store)

    @property
    def url(self) -> str:
        """Where it is; with the token, the first time."""
        return f"http://{self._host}:{self.port}/" + (f"?t={self._once}" if self._once else "")

    def _told(self, facts: Sequence[Fact]) -> None:
        """A batch was folded in, on a thread."""
        live, loop = self._live, self._loop
        if live is not None and loop is not None:
            loop.call_soon_threadsafe(live.facts, facts)

    async def _clear_away(self, broker: Broker, store: Store) -> None:
        """Forget the groups of consoles that are gone, or whose read model was deleted: they would hold up retention for ever."""
        for group in await broker.groups():
            if not group.name.startswith(GROUPS):
                continue
            alive = any(state.owner is not None for state in await broker.positions(group.name))
            if not alive and (group.name != self._group or group.store != store.id):
                await broker.forget(group.name)

    async def serve(self, stop: asyncio.Event) -> None:
        """Project and serve until `stop` is set; after that the console is closed."""
        try:
            self._loop = asyncio.get_running_loop()
            await discard_other_versions(self._urls[1], self._app.clock)
            fresh = not path_of_model(self._urls[1]).exists()
            clock = self._app.clock
            async with connect_broker(self._urls[0], clock) as broker, connect_store(self._urls[1], None, clock) as store:
                await self._clear_away(broker, store)
                # From a broker that keeps no history nobody learns what was before.
                start = "earliest" if broker.features.replayable else "latest"
            add_projection(self._app, self._group, self._told, start=start)
            await self._serve(stop, fresh=fresh)
        finally:
            self._socket.close()

    async def _serve(self, stop: asyncio.Event, *, fresh: bool) -> None:
        async with AsyncExitStack() as stack:
            app = await stack.enter_async_context(self._app)
            if fresh and app.broker.features.broadcast:
                # Facts are kept for a day: what was parked before is told anew.
                await app.broker.broadcast(sign(_tell(app.clock.micros()), self._key))
            reader = stack.enter_context(SqliteReader(str(path_of_model(self._urls[1]))))
            watch = Watch(app.broker, app.clock)
            live = self._live = Live()
            model = ReadModel(reader)
            answers = Answers(model, watch, app.broker)
            runner = Runner(app.store, reader, app.broker, self._key, live.operation)
            changes = Changes(answers, model, app.broker, self._access, live, runner)
            api = Api(answers, model, app.broker, self._access, live, changes, name=self._name, lab=self._lab)
            server = _Server(_bounded(self._site(api)))
            try:
                async with asyncio.TaskGroup() as tasks:
                    background = [
                        tasks.create_task(watch.run()),
                        tasks.create_task(_tell_verdicts(live, answers)),
                        tasks.create_task(note_standings(app.store, answers)),
                        tasks.create_task(runner.run()),
                    ]
                    working = tasks.create_task(app.run(stop))
                    serving = tasks.create_task(server.serve(sockets=[self._socket]))
                    await stop.wait()
                    server.should_exit = True
                    server.force_exit = True
                    await asyncio.wait([working, serving])
                    for task in background:
                        task.cancel()
            finally:
                self._live = None

    def _site(self, api: Api) -> Starlette:
        routes = [*api.routes(), Route("/api/{path:path}", _no_such), Route("/{path:path}", _page)]
        return Starlette(routes=routes, middleware=[Middleware(Guard, access=self._access)])


def _tell(micros: int) -> Operation:
    """Ask every service to tell what is parked."""
    return Operation(id=new_id(micros // 1000, os.urandom(10)), kind="tell", group="", by="console", reason="a new read model", at=micros)


def _bounded(site: Starlette) -> uvicorn.Config:
    """How it is served: nothing that comes from outside is waited for, or kept, without a bound."""
    return uvicorn.Config(
        site,
        http=Impatient,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        h11_max_incomplete_event_size=LARGEST_HEAD,
    )


class _Server(uvicorn.Server):
    """Leaves signals to the program that it is part of."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]  # noqa: ANN201
        yield


async def _tell_verdicts(live: Live, answers: Answers) -> None:
    while True:
        await asyncio.sleep(EVERY)
        if live.is_heard:
            # What cannot be asked now is asked again in a moment; screens say themselves that it cannot.
            with contextlib.suppress(MillstreamError):
                live.verdicts(await answers.groups())


async def _no_such(request: Request) -> Response:
    return refuse(404, f"There is no {request.url.path}.")


async def _page(request: Request) -> Response:
    """A file of the front end; every other path is one of its screens, and has any name in it."""
    wanted = request.path_params["path"]
    file = _files().get(wanted)
    if file is None:
        if wanted.startswith("assets/"):
            return refuse(404, f"There is no {request.url.path}.")
        file = STATIC / "index.html"
    if not file.is_file():
        return Response("The console's pages were not built: run `make console`, or install the wheel.\n", 503, media_type="text/plain")
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    # Assets carry a hash of their content in their name.
    headers = {"cache-control": "public, max-age=31536000, immutable"} if file.parent.name == "assets" else {}
    return Response(file.read_bytes(), media_type=kind, headers=headers)


def _files() -> dict[str, Path]:
    """The files that there are, by their paths: what somebody asks for is looked up, and never becomes a path itself."""
    return {file.relative_to(STATIC).as_posix(): file for file in STATIC.rglob("*") if file.is_file()}


def _listen(host: str, port: int, *, any_port: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        # Who comes before the server has started waits, instead of being turned away.
        listening.listen(128)
    except OSError as error:
        listening.close()
        if any_port and port:
            return _listen(host, 0, any_port=False)
        raise ConfigurationError(f"{host}:{port} cannot be listened on ({os.strerror(error.errno or 0)}): choose another --port") from error
    return listening
