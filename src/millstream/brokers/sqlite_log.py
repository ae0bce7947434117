"""The log of the embedded broker: topics in partitions, their events in pages of one table.

A page holds what one transaction appended to one partition: reading and writing cost
a statement per page, not one per event. Its key is made of partition and offset, so
that a partition's history lies together and finding a position is one look-up.
"""

import itertools
import secrets
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import msgspec

from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import BrokerError, StoreDamagedError
from millstream.contracts.partition import murmur2, partition_of
from millstream.core.broker import Delivery, Message, Partition, Topic
from millstream.stores.sqlite_connection import Connection
from millstream.stores.sqlite_file import SqliteFile

SCHEMA = """
create table if not exists broker_meta(key text primary key, value text not null) without rowid;
create table if not exists broker_topic(
  id integer primary key, name text not null unique, partitions integer not null, retain_seconds real, retain_bytes integer);
create table if not exists broker_partition(
  tp integer primary key, topic integer not null references broker_topic, number integer not null,
  next integer not null default 0, first integer not null default 0, bytes integer not null default 0, unique(topic, number));
create table if not exists broker_page(
  at integer primary key, count integer not null, raw integer not null, stored integer not null, before integer not null,
  crc integer not null, events blob not null);
"""

DEFAULT_PARTITIONS = 8
MOST_PARTITIONS = 10_000
#: The key of a page is its partition's number in the file, shifted, and the offset of its first event.
SHIFT = 44
#: A page ends at so many events or bytes, so that reading one of them costs little.
PAGE_EVENTS, PAGE_BYTES = 500, 256 << 10
#: One read stops after so many bytes, however many events were asked for.
READ_BYTES = 16 << 20
#: Rows written by one statement.
ROWS_AT_ONCE = 16

FETCH = (
    "select at, count, raw, crc, events from broker_page"
    " where at>=coalesce((select max(at) from broker_page where at between ?1 and ?2), ?2) and at<?3 order by at"
)


class _Raw(msgspec.Struct, array_like=True, gc=False):
    """A message as it is kept: without what its place says of it."""

    key: bytes | None
    body: bytes
    headers: tuple[tuple[str, bytes], ...]
    time: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Envelope]).decode
_decode_raw = msgspec.msgpack.Decoder(list[_Raw]).decode


class Packed(msgspec.Struct, frozen=True, gc=False):
    """An event or a message, ready to be appended."""

    topic: str
    key: str | bytes | None
    raw: bool
    body: bytes


def pack(envelope: Envelope) -> Packed:
    """Make an event ready to be appended."""
    return Packed(envelope.topic, envelope.key, False, _encode(envelope))  # noqa: FBT003


def pack_message(message: Message, now: int) -> Packed:
    """Make a message ready to be appended."""
    raw = _Raw(message.key, message.body, message.headers, message.time or now)
    return Packed(message.topic, message.key, True, _encode(raw))  # noqa: FBT003


@dataclass(slots=True)
class KnownTopic:
    """A topic's rows: `tps[n]` is partition n in this file."""

    id: int
    name: str
    tps: list[int]


class SqliteLog:
    """The log in a file; what writes runs inside a transaction that the caller ends."""

    def __init__(self, file: SqliteFile, micros: Callable[[], int]) -> None:
        file.require(SCHEMA)
        file.on_rollback.add(self._forget)
        self.file = file
        self._micros = micros
        self._topics: dict[str, KnownTopic] = {}
        self._turn = itertools.count(1)
        self.id = ""

    def identify(self, connection: Connection) -> str:
        """The name of this log, the same for ever."""
        connection.execute("insert or ignore into broker_meta values('id', ?)", (secrets.token_hex(8),))
        row = connection.execute("select value from broker_meta where key='id'").fetchone()
        assert row is not None
        return str(row[0])

    def _forget(self) -> None:
        # Topics are never removed, but one that was just made may have been rolled back.
        self._topics = {}

    def knows(self, topic: str) -> bool:
        """Whether the topic was seen; False says nothing."""
        return topic in self._topics

    def find_topic(self, connection: Connection, name: str) -> KnownTopic | None:
        """A topic that is there."""
        known = self._topics.get(name)
        if known is None:
            row = connection.execute("select id from broker_topic where name=?", (name,)).fetchone()
            if row is None:
                return None
            tps = [tp for (tp,) in connection.execute("select tp from broker_partition where topic=? order by number", row)]
            known = self._topics[name] = KnownTopic(row[0], name, tps)
        return known

    def topic(self, connection: Connection, name: str, partitions: int | None = None) -> KnownTopic:
        """A topic, made if it is missing."""
        known = self.find_topic(connection, name)
        if known is None:
            count = partitions or DEFAULT_PARTITIONS
            connection.execute("insert into broker_topic(name, partitions) values(?,?)", (name, count))
            topic = connection.last_insert_rowid()
            connection.executemany("insert into broker_partition(topic, number) values(?,?)", [(topic, n) for n in range(count)])
            known = self.find_topic(connection, name)
        assert known is not None
        if known.tps[-1] >= 1 << (63 - SHIFT):
            raise BrokerError(f"{self.file.path} has too many partitions for another topic ({name!r}); use another file.")
        return known

    # Appending

    def append(self, connection: Connection, envelopes: Sequence[Envelope]) -> None:
        """Append events, each after what its partition holds."""
        self.append_packed(connection, [pack(envelope) for envelope in envelopes])

    def append_packed(self, connection: Connection, packed: Iterable[Packed]) -> None:
        """Append what was packed; events without a key go together to whichever partition has its turn."""
        turn = next(self._turn)
        topics: dict[str, list[int]] = {}
        pages: dict[tuple[int, bool], list[bytes]] = {}
        for item in packed:
            tps = topics.get(item.topic)
            if tps is None:
                tps = topics[item.topic] = self.topic(connection, item.topic).tps
            key = item.key
            if key is None:
                number = turn % len(tps)
            elif isinstance(key, str):
                number = partition_of(key, len(tps))
            else:
                number = (murmur2(key) & 0x7FFFFFFF) % len(tps)
            place = tps[number], item.raw
            bodies = pages.get(place)
            if bodies is None:
                pages[place] = [item.body]
            else:
                bodies.append(item.body)
        if pages:
            self._write(connection, pages)

    def _write(self, connection: Connection, pages: dict[tuple[int, bool], list[bytes]]) -> None:
        tps = sorted({tp for tp, _ in pages})
        states: dict[int, tuple[int, int]] = {}
        for start in range(0, len(tps), 64):
            some = tps[start : start + 64]
            for tp, offset, size in connection.execute(
                f"select tp, next, bytes from broker_partition where tp in ({','.join('?' * len(some))})",  # noqa: S608
                some,
            ):
                states[tp] = offset, size
        stored = self._micros()
        rows: list[tuple[int, int, bool, int, int, int, bytes]] = []
        for (tp, raw), bodies in sorted(pages.items()):
            offset, before = states[tp]
            for some in _paged(bodies):
                events = _array(some)
                rows.append((tp << SHIFT | offset, len(some), raw, stored, before, zlib.crc32(events), events))
                offset += len(some)
                before += len(events) + 64 * len(some)
            states[tp] = offset, before
        _execute_many(connection, "insert into broker_page values {}", rows)
        _execute_many(
            connection,
            "with moved(tp, next, bytes) as (values {}) update broker_partition set next=moved.next, bytes=moved.bytes"
            " from moved where broker_partition.tp=moved.tp",
            [(tp, *states[tp]) for tp in tps],
        )

    # Reading

    def partitions(self, topic: str) -> list[tuple[int, int, int, int]]:
        """Each partition of a topic: its number in the file, its own number, first position and head."""
        return self.file.query(  # pyright: ignore[reportReturnType]
            "select p.tp, p.number, p.first, p.next from broker_partition p join broker_topic t on t.id=p.topic"
            " where t.name=? order by p.number",
            (topic,),
        )

    def tp(self, partition: Partition) -> int:
        """The number of a partition in the file."""
        for tp, number, _, _ in self.partitions(partition.topic):
            if number == partition.number:
                return tp
        raise BrokerError(f"there is no partition {partition.number} of topic {partition.topic!r} in {self.file.path}.")

    def topics(self) -> list[Topic]:
        """All topics, by name."""
        rows = self.file.query("select name, partitions, retain_seconds, retain_bytes from broker_topic order by name")
        return [
            Topic(name=name, partitions=partitions, retain_seconds=seconds, retain_bytes=size) for name, partitions, seconds, size in rows
        ]

    def heads(self, tps: Sequence[int]) -> dict[int, int]:
        """The position that the next event of each will get."""
        marks = ",".join(map(str, tps))
        return dict(self.file.query(f"select tp, next from broker_partition where tp in ({marks})"))  # noqa: S608

    def fetch(self, tp: int, partition: Partition, position: int, most: int) -> list[Delivery]:
        """Events from a position on, whole pages of them: perhaps more than `most`."""
        base = tp << SHIFT
        deliveries: list[Delivery] = []
        size = 0
        for at, count, raw, crc, events in self.file.query(FETCH, (base, base + position, base + position + most)):
            if zlib.crc32(events) != crc:
                raise StoreDamagedError(
                    f"{self.file.path}: the events of {partition.topic}/{partition.number} from {at - base} on are not what was "
                    "written: the disk has changed them. Stop all processes, keep a copy, and restore a backup."
                )
            offsets = range(at - base, at - base + count)
            if raw:
                deliveries += self._messages(partition, offsets, events)
            else:
                deliveries += map(Delivery, repeat(partition), offsets, _decode(events))
            size += len(events)
            if size >= READ_BYTES:
                break
        if deliveries and deliveries[0].position < position:
            del deliveries[: position - deliveries[0].position]
        return deliveries

    def _messages(self, partition: Partition, offsets: range, events: bytes) -> list[Delivery]:
        source = f"millstream:{self.id}/{partition.topic}/{partition.number}"
        return [
            Delivery(
                partition,
                offset,
                None,
                Message(
                    topic=partition.topic, body=raw.body, key=raw.key, headers=raw.headers, time=raw.time, source=source, id=str(offset)
                ),
            )
            for offset, raw in zip(offsets, _decode_raw(events), strict=True)
        ]

    def position_at(self, tp: int, micros: int) -> int:
        """The first position that was stored at that time or later."""
        return self._first(tp, "stored", micros)

    def _first(self, tp: int, column: str, least: int) -> int:
        """The first position from whose page on `column` is at least so much; found in few steps, since it only grows."""
        base = tp << SHIFT
        ((low, high),) = self.file.query("select first, next from broker_partition where tp=?", (tp,))
        sql = f"select at, count, {column} from broker_page where at between ? and ? order by at desc limit 1"  # noqa: S608
        while low < high:
            middle = (low + high) // 2
            page = self.file.query(sql, (base, base + middle))
            if page and page[0][2] < least:
                low = page[0][0] - base + page[0][1]
            elif page:
                high = page[0][0] - base
            else:
                low = middle + 1
        return low

    # Retention

    def expired(self, tp: int, seconds: float | None, size: int | None) -> int:
        """The position before which age and size let everything go."""
        upto = 0
        if seconds is not None:
            upto = self.position_at(tp, self._micros() - int(seconds * 1e6))
        if size is not None:
            ((total,),) = self.file.query("select bytes from broker_partition where tp=?", (tp,))
            upto = max(upto, self._first(tp, "before", total - size))
        return upto

    def remove(self, connection: Connection, tp: int, upto: int, most: int) -> tuple[int, bool]:
        """Remove whole pages before a position, some at a time; says how many events went, and whether there are more."""
        base = tp << SHIFT
        pages = connection.execute(
            "select at, count from broker_page where at>=?1 and at<?2 and at+count<=?2 order by at limit ?3", (base, base + upto, most)
        ).fetchall()
        if not pages:
            return 0, False
        end = pages[-1][0] + pages[-1][1]
        connection.execute("delete from broker_page where at>=? and at<?", (base, end))
        connection.execute("update broker_partition set first=? where tp=?", (end - base, tp))
        return sum(count for _, count in pages), len(pages) == most


def _paged(bodies: list[bytes]) -> Iterable[list[bytes]]:
    """Cut into pages."""
    if len(bodies) <= PAGE_EVENTS and sum(map(len, bodies)) <= PAGE_BYTES:
        yield bodies
        return
    page: list[bytes] = []
    size = 0
    for body in bodies:
        if page and (len(page) == PAGE_EVENTS or size + len(body) > PAGE_BYTES):
            yield page
            page, size = [], 0
        page.append(body)
        size += len(body)
    yield page


def _array(bodies: list[bytes]) -> bytes:
    """A msgpack array of values that are encoded already."""
    count = len(bodies)
    head = bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return head + b"".join(bodies)


def _execute_many(connection: Connection, sql: str, rows: Sequence[Sequence[Any]]) -> None:
    """Run a statement with many rows of values at once: each step of SQLite gives up and takes back Python's lock."""
    for start in range(0, len(rows), ROWS_AT_ONCE):
        some = rows[start : start + ROWS_AT_ONCE]
        values = ",".join([f"({','.join('?' * len(some[0]))})"] * len(some))
        connection.execute(sql.format(values), [value for row in some for value in row])
