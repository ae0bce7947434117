"""The only knowledge that the proof has of the framework's files: which tables it keeps, and what is in them.

Nothing here or in the auditor calls the framework: SQL that cannot write, and the bytes as they are.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import msgspec

STORES = ("storefront", "inventory", "mailer", "analytics")
BUSY_MS = 5000
WITNESS = "witness.db"

#: Topics of the framework's own are none of the shop's.
OURS = "join broker_topic t on t.id = p.topic where t.name not like 'millstream.%'"
PAGES = (
    "select e.raw, coalesce(e.events, b.events) from broker_page e left join broker_body b on b.id = e.body"
    f" join broker_place p on p.tp = e.at >> 44 {OURS} order by e.at"
)
HEADS = f"select count(*), coalesce(sum(p.next), 0) from broker_partition p {OURS}"
LAG = f"select coalesce(sum(p.next - g.committed), 0) from broker_position g join broker_partition p on p.tp = g.tp {OURS}"
DEAD_LETTERS = "select data from store_parked where state = 'dead'"
COUNT_DEAD = "select count(*) from store_parked where state = 'dead'"
WAITING = (
    "select (select count(*) from store_parked where state != 'dead')"
    " + (select coalesce(sum(count), 0) from store_outbox where last > (select upto from store_sent))"
)


#: What the witness writes down where the broker is no file of the shop's.
WITNESSED = """
create table if not exists log(
  number integer primary key, source text not null, id text not null, type text not null, key text, data blob not null, envelope blob,
  unique(source, id, data));
create table if not exists standing(one integer primary key check (one = 1), waiting integer not null);
insert or ignore into standing values(1, 1);
"""


@dataclass(frozen=True, slots=True)
class Logged:
    """One entry of the log; what never was an event of ours has only its bytes."""

    data: bytes
    type: str = ""
    key: str | None = None
    source: str = ""
    id: str = ""


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """A query on a database file that cannot change it."""
    connection: Any = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        connection.set_busy_timeout(BUSY_MS)
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def log(folder: Path) -> list[Logged]:
    """Everything that was ever published."""
    if _is_witnessed(folder):
        said = rows(folder / WITNESS, "select data, type, key, source, id from log order by number")
        return [Logged(*row) for row in said]
    found: list[Logged] = []
    for raw, events in rows(folder / "broker.db", PAGES):
        for entry in msgspec.msgpack.decode(events):
            if raw:
                found.append(Logged(data=entry[1]))
            else:
                found.append(Logged(entry.get("data", b""), entry["type"], entry.get("key"), entry["source"], entry["id"]))
    return found


def dead_letters(folder: Path, service: str) -> list[bytes]:
    """The bytes of each dead letter in a service's store."""
    return [data for (data,) in rows(folder / f"{service}.db", DEAD_LETTERS)]


def left_to_do(folder: Path) -> tuple[int, object]:
    """How many deliveries and events wait anywhere, and something that changes with all progress."""
    waiting = sum(rows(folder / f"{name}.db", WAITING)[0][0] for name in STORES)
    if _is_witnessed(folder):
        ((behind, count),) = rows(folder / WITNESS, "select waiting, (select count(*) from log) from standing")
        return behind + waiting, count
    return rows(folder / "broker.db", LAG)[0][0] + waiting, rows(folder / "broker.db", HEADS)[0]


def _published(folder: Path) -> int:
    if _is_witnessed(folder):
        return rows(folder / WITNESS, "select count(*) from log")[0][0]
    return rows(folder / "broker.db", HEADS)[0][1]


def _is_witnessed(folder: Path) -> bool:
    return (folder / WITNESS).exists()


@dataclass(frozen=True, slots=True)
class Figures:
    """How the shop is getting on."""

    orders: int
    published: int
    waiting: int
    dead_letters: int


def figures(folder: Path) -> Figures:
    """A few numbers for whoever watches."""
    return Figures(
        orders=rows(folder / "storefront.db", "select count(*) from orders")[0][0],
        published=_published(folder),
        waiting=left_to_do(folder)[0],
        dead_letters=sum(rows(folder / f"{name}.db", COUNT_DEAD)[0][0] for name in STORES),
    )
