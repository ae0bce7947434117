"""`millstream run`: runs a service, in one process or several."""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from millstream.app.app import App
from millstream.app.connect import EMBEDDED
from millstream.app.http import Health, endpoints, listen, serving, url_of
from millstream.app.logs import Failures, set_up
from millstream.app.metrics import Metrics
from millstream.app.settings import UNIX, Settings, http_address, masked, resolve
from millstream.cli.fleet import WORKER, Fleet
from millstream.cli.place import WHERE
from millstream.cli.screen import PLAIN, Cell, Column, Look, Screen
from millstream.cli.stopping import stopping
from millstream.cli.target import load
from millstream.contracts.errors import ConfigurationError

log = logging.getLogger("millstream.run")

RUNNING = Group("How it runs", sort_key=70)

Level = Literal["debug", "info", "warning", "error"]


def run(
    target: Annotated[str | None, Parameter(name="MODULE:APP", help="The App; the setting `app` when it is left out.")] = None,
    /,
    *,
    workers: Annotated[int | None, Parameter(group=RUNNING, help="How many processes; a dead one is replaced.")] = None,
    http: Annotated[str | None, Parameter(group=RUNNING, help="Serve /livez, /readyz and /metrics at HOST:PORT.")] = None,
    grace: Annotated[float | None, Parameter(group=RUNNING, help="Seconds for what is in flight when it stops.")] = None,
    log_format: Annotated[Literal["text", "json"] | None, Parameter(group=RUNNING, help="Logs for people or for machines.")] = None,
    log_level: Annotated[Level | None, Parameter(group=RUNNING, help="The least important lines that are written.")] = None,
    broker: Annotated[str | None, Parameter(group=WHERE, help="URL of the broker, such as sqlite:///shop.db.")] = None,
    store: Annotated[str | None, Parameter(group=WHERE, help="URL of the service's store.")] = None,
    look: Look = PLAIN,
) -> int:
    """Run a service until SIGTERM or Ctrl-C, and finish what is in flight then.

    For example:
      millstream run inventory:app
      millstream run inventory:app --workers 4 --http 127.0.0.1:9464
      millstream run inventory:app --broker sqlite:///shop.db --log-format json
    """
    flag: dict[str, object] = {
        "app": target, "broker": broker, "store": store, "workers": workers, "http": http, "grace": grace,
        "log_format": log_format, "log_level": log_level,
    }  # fmt: skip
    settings = resolve(flag=flag)
    if settings.app is None:
        raise ConfigurationError("no App was named. Say which: millstream run MODULE:APP, or set `app` in pyproject.toml.")
    number = os.environ.get(WORKER)
    set_up(settings, always={"worker": int(number)} if number else {})
    app = load(settings.app)
    # A service that runs tells what it does, unless somebody said that it should not.
    app.configure(broker=broker, store=store, facts="on" if settings.origin("facts") == "default" else None)
    handlers = app.handlers()
    if not handlers:
        log.warning("%s has no handlers: only its outbox is relayed", settings.app)
    screen = Screen(look)
    if number:
        return asyncio.run(_work(app, settings, None))
    if settings.workers == 1:
        return asyncio.run(_work(app, settings, screen))
    return asyncio.run(_supervise(app, settings, flag, screen))


async def _work(app: App, settings: Settings, screen: Screen | None) -> int:
    """Be the one process that works."""
    stop = asyncio.Event()
    metrics = Metrics(app)
    opened = False

    async def troubles() -> list[str]:
        return app.troubles() if opened else ["the service is starting or stopping"]

    async def render() -> bytes:
        if opened:
            await metrics.sample()
        return await asyncio.to_thread(metrics.render)

    app.observers.append(Failures())
    if settings.http is not None:
        app.observers.append(metrics)
    with stopping(stop):
        async with _serving(settings, Health(troubles, render)) as url, app:
            opened = True
            if screen is not None:
                _announce(screen, app, settings, url, [os.getpid()])
            await app.run(stop, grace=settings.grace)
            opened = False
    return 0


async def _supervise(app: App, settings: Settings, flag: dict[str, object], screen: Screen) -> int:
    """Have other processes work."""
    if not app.settings().broker.startswith(EMBEDDED) and app.settings().broker.startswith("memory:"):
        raise ConfigurationError("--workers: memory:// belongs to one process. Use --workers 1, or sqlite:///name.db.")
    stop = asyncio.Event()
    command = [sys.executable, "-m", "millstream", "run", str(settings.app), "--workers", "1"]
    for name in ("broker", "store", "grace", "log_format", "log_level"):
        if flag[name] is not None:
            command += [f"--{name.replace('_', '-')}", str(flag[name])]
    fleet = Fleet(command=command, size=settings.workers, grace=settings.grace, stop=stop)
    with stopping(stop):
        async with _serving(settings, fleet.health()) as url:
            _announce(screen, app, settings, url, [])
            return await fleet.run()


@asynccontextmanager
async def _serving(settings: Settings, health: Health) -> AsyncGenerator[str | None]:
    """Serve health and metrics where the settings say; gives the URL."""
    if settings.http is None:
        yield None
        return
    origin = settings.origin("http")
    if not settings.http.startswith(UNIX) and not http_address(settings.http, origin).is_loopback:
        log.warning("http %s: health and metrics can be read by everybody who reaches this address; nothing else is served", settings.http)
    listening: socket.socket = listen(settings.http, origin)
    url = url_of(listening)
    async with serving(endpoints(health), listening):
        yield url


COLUMNS = [Column("HANDLER", id=True), Column("GROUP", id=True, least=24), Column("TOPICS", least=12), Column("DELIVERY", drop=1)]


def _announce(screen: Screen, app: App, settings: Settings, url: str | None, pids: list[int]) -> None:
    """Say what runs, where, and with which promise."""
    where = app.settings()
    handlers = app.handlers()
    if screen.json:
        screen.document(
            "run",
            app=app.name,
            broker={"url": masked(where.broker), "origin": where.origin("broker")},
            store={"url": masked(where.store), "origin": where.origin("store")},
            http=url,
            workers=settings.workers,
            processes=pids or [os.getpid()],
            handlers=[
                {"name": h.name, "location": h.location, "group": h.options.group, "topics": h.topics, "delivery": h.delivery}
                for h in handlers
            ],
        )
        return
    local = ", this machine only" if where.broker.startswith(EMBEDDED) or where.store.startswith(EMBEDDED) else ""
    screen.row([Cell(app.name, "bold"), Cell(f"  {settings.workers} worker{'s' if settings.workers > 1 else ''}{local}")])
    for name, value in (("broker", where.broker), ("store", where.store)):
        screen.row([Cell(f"{name:<8}", "dim"), Cell(masked(value)), Cell(f"  ({where.origin(name)})", "dim")])
    if url is not None:
        screen.row([Cell(f"{'http':<8}", "dim"), Cell(f"{url}/readyz  /livez  /metrics")])
    screen.table(COLUMNS, [[h.name, h.options.group, ", ".join(h.topics), h.delivery.replace("_", " ")] for h in handlers])
