"""Where a command acts: the broker and the store that flags, an App or the settings name."""

import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from millstream.app.connect import EMBEDDED, connect_broker, connect_store, path_of
from millstream.app.settings import Settings, masked, resolve
from millstream.app.system_clock import SystemClock
from millstream.contracts.errors import ConfigurationError, NotFoundError
from millstream.core.broker import Broker
from millstream.core.clock import Clock
from millstream.core.store import Store

if TYPE_CHECKING:
    from millstream.app.app import App

WHERE = Group("Where", sort_key=80)


@Parameter(name="*")
@dataclass(frozen=True)
class Place:
    """The broker and the store a command acts on."""

    broker: Annotated[str | None, Parameter(group=WHERE, help="URL of the broker, such as sqlite:///shop.db.")] = None
    store: Annotated[str | None, Parameter(group=WHERE, help="URL of a service's store; the broker's file when that is one.")] = None
    app: Annotated[str | None, Parameter(group=WHERE, help="MODULE:APP whose broker and store are meant.")] = None

    def settings(self) -> "tuple[Settings, App | None]":
        """What to act on, and the App when one was named here or in the settings."""
        flag: dict[str, object] = {"broker": self.broker, "store": self.store, "app": self.app}
        settings = resolve(flag=flag)
        # An App that only the settings name is not worth importing when both URLs are given.
        if settings.app is None or (self.app is None and self.broker and self.store):
            return settings, None
        from millstream.cli.target import load

        app = load(settings.app)
        # A command is no process of the service, and tells nothing.
        app.configure(broker=self.broker, store=self.store, facts="off")
        return app.settings(), app


HERE = Place()


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A broker and a store, open, and how they were found."""

    settings: Settings
    broker: Broker
    store: Store
    clock: Clock
    app: "App | None"


@asynccontextmanager
async def opened(place: Place, *, create: bool = False) -> AsyncGenerator[Opened]:
    """Open what a command acts on.

    A file that is not there is an error, not made, unless `create` says that the command
    begins something.
    """
    settings, app = place.settings()
    clock = SystemClock()
    for url, what in ((settings.broker, "broker"), (settings.store, "store")):
        if not create:
            there(url, what, settings)
    broker = connect_broker(settings.broker, clock)
    store = connect_store(settings.store, broker, clock)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(broker)
        await stack.enter_async_context(store)
        yield Opened(settings=settings, broker=broker, store=store, clock=clock, app=app)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedStore:
    """A store, open, for a command that needs no broker."""

    store: Store
    clock: Clock


@asynccontextmanager
async def opened_store(place: Place) -> AsyncGenerator[OpenedStore]:
    """Open the store alone: its broker may be away, or not even known here."""
    settings, _ = place.settings()
    clock = SystemClock()
    there(settings.store, "store", settings)
    async with connect_store(settings.store, None, clock) as store:
        yield OpenedStore(store=store, clock=clock)


def there(url: str, what: str, settings: Settings) -> None:
    """Refuse what a command that only looks would have to make."""
    if not url.startswith(EMBEDDED):
        if url.startswith("memory:"):
            raise ConfigurationError(
                f"the {what} is {url} ({settings.origin(what)}), and memory belongs to the process that uses it: "
                "no other can look into it. Use sqlite:///name.db."
            )
        return
    path = Path(path_of(url, what)).expanduser()
    if not path.exists():
        raise NotFoundError(
            f"the {what} {masked(url)} ({settings.origin(what)}) does not exist: there is no file {path.absolute()}. "
            f"Run a service or `millstream publish` first, or name another one: --{what} sqlite:///name.db"
        )
    if not os.access(path, os.R_OK):
        raise PermissionError(f"the {what} {path.absolute()} may not be read by this user; check its permissions")
