"""The command line, driven in this process, in a folder of its own."""

import asyncio
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from millstream import App
from millstream.cli.main import main

NUMBERS = itertools.count()

SERVICE = '''
from dataclasses import dataclass

from millstream import App, Retry, event


@event("order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    """A customer has committed to buy."""

    order_id: str
    quantity: int = 1


@event("order.accepted", key="order_id")
@dataclass(frozen=True)
class OrderAccepted:
    """It is noted."""

    order_id: str


app = App("desk", broker="sqlite:///desk.db")


@app.subscriber(OrderPlaced, retry=Retry(attempts=1))
async def accept(order: OrderPlaced) -> OrderAccepted:
    if order.order_id.startswith("bad"):
        raise ValueError(f"no such thing as {order.order_id}")
    return OrderAccepted(order.order_id)


@app.subscriber(OrderAccepted)
async def announce(order: OrderAccepted) -> None:
    pass
'''


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """The documents on stdout, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, without settings from outside, and a terminal of 80 columns."""
    monkeypatch.chdir(tmp_path)
    for name in ("BROKER", "STORE", "APP", "HTTP", "WORKERS", "GRACE", "LOG_FORMAT", "LOG_LEVEL"):
        monkeypatch.delenv(f"MILLSTREAM_{name}", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.fixture
def millstream(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run a command."""

    def run(*tokens: object) -> Result:
        capfd.readouterr()
        code = main([str(token) for token in tokens])
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return run


@pytest.fixture
def service(folder: Path) -> Iterator[str]:
    """The name of a module with the App `app` of a small service, importable from the current folder."""
    name = f"desk_{next(NUMBERS)}"
    (folder / f"{name}.py").write_text(SERVICE)
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def work(service: str) -> Callable[..., App]:
    """Publish orders with these ids, and have the service handle them, and so many deliveries `more`."""

    def work(*ids: str, more: int = 0) -> App:
        import importlib

        sys.path.insert(0, "")
        module = importlib.import_module(service)
        asyncio.run(_work(module, ids, more))
        return module.app

    return work


async def _work(module: Any, ids: tuple[str, ...], more: int) -> None:
    app: App = module.app
    stop = asyncio.Event()

    class Watch:
        """Stops the service when each order has come to its end."""

        left = more + sum(1 if id_.startswith("bad") else 2 for id_ in ids)

        def started(self, group: str, deliveries: object) -> None:
            pass

        def settled(self, outcomes: Any) -> None:
            self.left -= sum(outcome.kind in ("handled", "parked") for outcome in outcomes)
            if self.left <= 0:
                stop.set()

    watch = Watch()
    app.observers.append(watch)
    async with asyncio.timeout(20), app:
        await app.publish_many([module.OrderPlaced(id_) for id_ in ids])
        await app.run(stop)
    app.observers.remove(watch)
