"""What services tell of themselves, as commands look at it: the same answers as the console's screens."""

import importlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

from cyclopts import Parameter

from millstream.app.connect import connect_broker
from millstream.app.settings import resolve
from millstream.app.system_clock import SystemClock
from millstream.cli.place import WHERE, there
from millstream.cli.progress import Progress


class Answers(Protocol):
    """What screens ask, as far as commands do."""

    async def overview(self) -> dict[str, Any]: ...

    async def groups(self) -> list[dict[str, Any]]: ...

    async def map(self, window: float = 60.0, correlation: str | None = None) -> dict[str, Any]: ...

    async def event(self, id_: str, source: str | None = None) -> dict[str, Any]: ...


class Glance(Protocol):
    """A look at a system that can be repeated."""

    answers: Answers

    async def look(self) -> None: ...


@Parameter(name="*")
@dataclass(frozen=True)
class Sight:
    """The system that a command looks at."""

    broker: Annotated[str | None, Parameter(group=WHERE, help="URL of the broker, such as sqlite:///shop.db.")] = None
    data: Annotated[Path | None, Parameter(group=WHERE, help="The console's read model, where it is not beside the broker.")] = None


HERE = Sight()


@asynccontextmanager
async def looking(sight: Sight) -> AsyncGenerator[Glance]:
    """Look through the console's read model, or through one that is made for the moment."""
    settings = resolve(flag={"broker": sight.broker})
    there(settings.broker, "broker", settings)
    # Found by name, because the console stands beside the CLI: neither knows the other.
    module = importlib.import_module("millstream.console.glance")
    with Progress("read", unit="messages of facts") as progress:
        async with (
            connect_broker(settings.broker, SystemClock()) as broker,
            module.glance(broker, settings.broker, sight.data, progress.at) as glance,
        ):
            yield glance
