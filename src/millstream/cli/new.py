"""`millstream new`: a service in a new folder."""

import keyword
import re
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from millstream.cli.main import installed_version
from millstream.cli.screen import PLAIN, Look, Screen
from millstream.contracts.errors import ConfigurationError, RefusedError

SERVICE = '''"""NAME: what it hears, what it does, what it says."""

from dataclasses import dataclass

from millstream import App, Transaction, event


@event("order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    """A customer has committed to buy."""

    order_id: str
    quantity: int = 1


@event("order.accepted", key="order_id")
@dataclass(frozen=True)
class OrderAccepted:
    """The order is noted, once, however often it was heard of."""

    order_id: str


app = App("NAME", schema="create table if not exists orders(id text primary key, quantity integer not null)")


@app.subscriber(OrderPlaced)
async def accept(order: OrderPlaced, tx: Transaction) -> OrderAccepted:
    """The row and the event commit together, or neither does."""
    tx.execute("insert into orders values (?, ?)", (order.order_id, order.quantity))
    return OrderAccepted(order.order_id)


@app.subscriber(OrderAccepted)
async def announce(order: OrderAccepted) -> None:
    """What leaves the service, such as a mail, may repeat after a crash."""
    print(f"order {order.order_id} is accepted")
'''

TEST = '''"""The service in memory, with time that stands still: no broker, no file, no waiting."""

from millstream.testing import TestApp

from MODULE import OrderAccepted, OrderPlaced, app


async def test_an_order_is_accepted_once_however_often_it_is_published() -> None:
    """A producer that repeats itself does no harm."""
    async with TestApp(app) as test:
        await test.publish(OrderPlaced("o-1", 2), id="the-same")
        await test.publish(OrderPlaced("o-1", 2), id="the-same")

        assert test.published(OrderAccepted) == [OrderAccepted("o-1")]
        assert test.rows("select * from orders") == [("o-1", 2)]
'''

PROJECT = '''[project]
name = "NAME"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["millstream>=VERSION"]

[dependency-groups]
dev = ["millstream[dev,testing]", "pytest-asyncio"]

[tool.millstream]
app = "MODULE:app"
broker = "sqlite:///MODULE.db"

[tool.pytest.ini_options]
asyncio_mode = "auto"
asyncio_default_fixture_loop_scope = "function"
pythonpath = ["."]
'''

IGNORED = "*.db\n*.db-*\n__pycache__/\n.venv/\n"


def new(
    name: Annotated[str, Parameter(help="The service's name, and the folder's; it may be a path.")],
    /,
    *,
    look: Look = PLAIN,
) -> None:
    """Start a service in a new folder: two contracts, two handlers, a test, and
    settings.

    For example:
      millstream new inventory
      millstream new services/mailer
    """
    screen = Screen(look)
    folder = Path(name)
    service = folder.name
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", service) or keyword.iskeyword(service):
        raise ConfigurationError(f"{service!r} cannot name a service: use lower-case letters, digits, - and _, such as order-desk.")
    if folder.exists():
        raise RefusedError(f"{folder} exists already, and nothing is written over. Choose another name.")
    module = service.replace("-", "_")
    values = {"NAME": service, "MODULE": module, "VERSION": installed_version() if installed_version()[0].isdigit() else "0.1"}
    files = {"pyproject.toml": PROJECT, f"{module}.py": SERVICE, f"test_{module}.py": TEST, ".gitignore": IGNORED}
    try:
        folder.mkdir(parents=True)
        for path, template in files.items():
            text = template
            for word, value in values.items():
                text = text.replace(word, value)
            (folder / path).write_text(text, "utf-8")
    except OSError as error:
        raise PermissionError(f"{folder} cannot be written: {error.strerror}. Choose a folder of your own.") from error
    if look.json:
        screen.document("new", folder=str(folder), files=sorted(files), app=f"{module}:app")
        return
    screen.say(f"{folder} has {', '.join(sorted(files))}")
    screen.hint("Next:")
    for command in (f"cd {folder}", "millstream run", "millstream publish order.placed --data '{\"order_id\": \"o-1\"}'"):
        screen.hint(f"  {command}")
