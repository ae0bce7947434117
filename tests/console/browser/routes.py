"""Every screen of the console, by the address that it has on a shop with a history."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.console.browser.shop import Shop
from tests.console.browser.visit import Visit

APP = Path(__file__).parents[3] / "console" / "src" / "app.tsx"

#: Names in braces are filled in with what there is in the shop.
ROUTES = {
    "overview": "/",
    "map": "/map",
    "map of services, top to bottom": "/map?level=services&dir=TB",
    "map as a table": "/map?view=table&window=300",
    "map with a handler": "/map?node=group%3Amailer.confirm",
    "map with an event": "/map?node=event%3Aorder.placed",
    "map around a handler": "/map?focus=group%3Amailer.confirm",
    "map with a path": "/map?corr={order}",
    "topics": "/topics",
    "topic": "/topics/order.placed",
    "events": "/events",
    "events that fit": "/events?q=type%3Aorder.placed+key%3A{order}",
    "event": "/events/{event}",
    "traces": "/trace",
    "trace": "/trace/{order}",
    "trace as a tree": "/trace/{order}?view=tree",
    "groups": "/groups",
    "group": "/groups/mailer.confirm",
    "group's parked events": "/groups/inventory.reserve_stock?tab=waiting",
    "group's code": "/groups/mailer.confirm?tab=code",
    "group's operations": "/groups/mailer.confirm?tab=history",
    "reset of a group": "/groups/mailer.confirm?do=reset",
    "pause of a group": "/groups/mailer.confirm?do=pause",
    "dead letters": "/dead",
    "dead letters that fit": "/dead?q=analytics",
    "dead letters alike": "/dead/{fingerprint}",
    "dead letter": "/dead/letter?group=inventory.reserve_stock&source=%2Fstranger&id={letter}",
    "repair of a dead letter": "/dead/letter?group=inventory.reserve_stock&source=%2Fstranger&id={letter}&do=repair",
    "contracts": "/contracts",
    "contract": "/contracts/order.placed",
    "services": "/services",
    "publish": "/publish",
    "publish a copy": "/publish?type=order.placed&copy={event}&source=%2Fstorefront",
    "operations": "/operations",
    "lab": "/lab",
    "nowhere": "/no/such/page",
    "nothing known": "/trace/nothing-by-this-name",
}


@dataclass(frozen=True)
class LivedIn:
    """A shop with a history: orders that went well, one that was refused, dead letters, and what operators did."""

    shop: Shop
    cookies: list[Any]
    paths: dict[str, str]
    """Of every screen, by its name in `ROUTES`."""


def first_parts() -> set[str]:
    """What a path of the front end can begin with."""
    return set(re.findall(r'case "([^"]*)":', APP.read_text()))


async def fill(visit: Visit) -> dict[str, str]:
    """Every screen's path on this shop."""
    events = (await visit.get("/api/events?limit=200&filter=type:confirmation.sent"))["events"]
    order = events[-1]["key"]
    trace = await visit.get(f"/api/trace/{order}")
    groups = await visit.get("/api/dead")
    fingerprint = next(group["fingerprint"] for group in groups if group["group"] == "inventory.reserve_stock")
    letters = await visit.get(f"/api/dead/{fingerprint}")
    names = {"order": order, "event": trace["events"][0]["id"], "fingerprint": fingerprint, "letter": letters[0]["id"]}
    return {name: path.format(**{key: quote(value, safe="") for key, value in names.items()}) for name, path in ROUTES.items()}
