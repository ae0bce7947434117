"""The log of the embedded broker: topics in partitions, their events in pages of one table.

A page holds what one transaction appended to one partition: reading and writing cost
a statement per page, not one per event. Its key is made of partition and offset, so
that a partition's history lies together and finding a position is one look-up. The
events of a larger page are kept in a table that only grows at its end: a large row in
the middle of a table makes SQLite move its neighbours with every commit.
"""

import itertools
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from zlib import crc32

import msgspec

from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import BrokerError, StoreDamagedError
from millstream.contracts.partition import murmur2, partitions_of
from millstream.core.broker import Delivery, Message, Partition, Topic
from millstream.stores.sqlite_connection import Connection
from millstream.stores.sqlite_file import SqliteFile

SCHEMA = """
create table if not exists broker_meta(key text primary key, value text not null) without rowid;
create table if not exists broker_topic(
  id integer primary key, name text not null unique, partitions integer not null, retain_seconds real, retain_bytes integer);
create table if not exists broker_place(
  tp integer primary key, topic integer not null references broker_topic, number integer not null,
  first integer not null default 0, removed integer not null default 0, unique(topic, number));
create table if not exists broker_page(
  at integer primary key, count integer not null, raw integer not null, stored integer not null, before integer not null,
  size integer not null, crc integer not null, body integer, events blob);
create table if not exists broker_body(id integer primary key, events blob not null);
create view if not exists broker_partition(tp, topic, number, first, next) as select tp, topic, number, first, coalesce(
  (select at + count - (tp << 44) from broker_page where at between tp << 44 and ((tp + 1) << 44) - 1 order by at desc limit 1), first)
  from broker_place;
"""

DEFAULT_PARTITIONS = 8
MOST_PARTITIONS = 10_000
#: The key of a page is its partition's number in the file, shifted, and the offset of its first event.
SHIFT = 44
#: A page ends at so many events or bytes, so that reading one of them costs little.
PAGE_EVENTS, PAGE_BYTES = 500, 256 << 10
#: One more than the largest offset.
OFFSETS = 1 << SHIFT
#: One read stops after so many bytes, however many events were asked for.
READ_BYTES = 16 << 20
#: Events of so many bytes are kept in the row of their page.
INLINE = 1000
#: Rows written by one statement.
ROWS_AT_ONCE = 16

INSERT = [f"insert into broker_page values {','.join(['(?,?,?,?,?,?,?,?,?)'] * rows)}" for rows in range(ROWS_AT_ONCE + 1)]  # noqa: S608
INSERT_BODY = [f"insert into broker_body(events) values {','.join(['(?)'] * rows)}" for rows in range(ROWS_AT_ONCE + 1)]  # noqa: S608

#: The events of a page `p`.
EVENTS = "coalesce(p.events, (select b.events from broker_body b where b.id=p.body))"
FETCH = (
    f"select at, count, raw, crc, {EVENTS} from broker_page p"  # noqa: S608
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
    """An event or a message (`raw`), or several events of one partition, ready to be appended."""

    topic: str
    key: bytes | None
    raw: int
    body: bytes
    count: int = 1
    number: int = -1
    """The partition; -1 where it follows from the key when it is appended."""
    partitions: int = 0
    """How many the topic had when `number` was found."""


def pack(envelope: Envelope) -> Packed:
    """Make an event ready to be appended."""
    key = envelope.key
    return Packed(envelope.topic, None if key is None else key.encode(), 0, _encode(envelope))


def pack_message(message: Message, now: int) -> Packed:
    """Make a message ready to be appended."""
    raw = _Raw(message.key, message.body, message.headers, message.time or now)
    return Packed(message.topic, message.key, 1, _encode(raw))


#: The columns of a page's row, but for where its events are; and these.
_Page = tuple[int, int, int, int, int, int, int, bytes]


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
        file.on_rollback.add(self._forget_topics)
        file.on_foreign.add(self._forget_ends)
        self.file = file
        self._micros = micros
        self._topics: dict[str, KnownTopic] = {}
        self._ends: dict[int, tuple[int, int]] = {}
        """The next offset of a partition, and the bytes before it; kept while nobody else writes, and nothing is rolled back."""
        self._turn = itertools.count(1)
        self.id = ""

    def identify(self, connection: Connection) -> str:
        """The name of this log, the same for ever."""
        connection.execute("insert or ignore into broker_meta values('id', ?)", (secrets.token_hex(8),))
        row = connection.execute("select value from broker_meta where key='id'").fetchone()
        assert row is not None
        return str(row[0])

    def _forget_topics(self) -> None:
        # Topics are never removed, but one that was just made may have been rolled back.
        self._topics = {}

    def _forget_ends(self) -> None:
        self._ends = {}

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
            tps = [tp for (tp,) in connection.execute("select tp from broker_place where topic=? order by number", row)]
            known = self._topics[name] = KnownTopic(row[0], name, tps)
        return known

    def topic(self, connection: Connection, name: str, partitions: int | None = None) -> KnownTopic:
        """A topic, made if it is missing."""
        known = self.find_topic(connection, name)
        if known is None:
            count = partitions or DEFAULT_PARTITIONS
            connection.execute("insert into broker_topic(name, partitions) values(?,?)", (name, count))
            topic = connection.last_insert_rowid()
            connection.executemany("insert into broker_place(topic, number) values(?,?)", [(topic, n) for n in range(count)])
            known = self.find_topic(connection, name)
        assert known is not None
        if known.tps[-1] >= 1 << (63 - SHIFT):
            raise BrokerError(f"{self.file.path} has too many partitions for another topic ({name!r}); use another file.")
        return known

    # Appending

    def append(self, connection: Connection, envelopes: Sequence[Envelope]) -> None:
        """Append events, each after what its partition holds."""
        self.append_packed(connection, self.pack_many(envelopes) or [pack(envelope) for envelope in envelopes])

    def pack_many(self, envelopes: Sequence[Envelope]) -> list[Packed]:
        """The same as `pack` for each, at a third of the cost; nothing where one of them needs a closer look."""
        topics: dict[str, list[Envelope]] = {}
        for envelope in envelopes:
            topics.setdefault(envelope.topic, []).append(envelope)
        packed: list[Packed] = []
        for name, some in topics.items():
            topic = self._topics.get(name)
            if topic is None:
                return []
            partitions = len(topic.tps)
            try:
                for number, those in self._sorted(some, partitions).items():
                    for start in range(0, len(those), PAGE_EVENTS):
                        part = those[start : start + PAGE_EVENTS]
                        body = _encode(part)
                        if len(body) > PAGE_BYTES:
                            return []
                        packed.append(Packed(name, None, 0, body[1 if len(part) < 16 else 3 :], len(part), number, partitions))
            except (UnicodeEncodeError, OverflowError):
                return []
        return packed

    def _sorted(self, envelopes: Sequence[Envelope], partitions: int) -> dict[int, list[Envelope]]:
        """Events of one topic by their partition."""
        numbers = iter(partitions_of([envelope.key.encode() for envelope in envelopes if envelope.key is not None], partitions))
        turn = next(self._turn) % partitions
        places: dict[int, list[Envelope]] = {}
        for envelope in envelopes:
            number = turn if envelope.key is None else next(numbers)
            those = places.get(number)
            if those is None:
                places[number] = [envelope]
            else:
                those.append(envelope)
        return places

    def append_packed(self, connection: Connection, packed: Sequence[Packed]) -> None:
        """Append what was packed; events without a key go together to whichever partition has its turn."""
        if len(packed) == 1 and self._append_one(connection, packed[0]):
            return
        turn = next(self._turn)
        topics: dict[str, list[Packed]] = {}
        for item in packed:
            topics.setdefault(item.topic, []).append(item)
        places: dict[int, list[Packed]] = {}
        for topic, items in topics.items():
            tps = self.topic(connection, topic).tps
            numbers = iter(partitions_of([item.key for item in items if item.key is not None], len(tps)))
            for item in items:
                if item.number < 0:
                    number = turn % len(tps) if item.key is None else next(numbers)
                elif item.partitions == len(tps):
                    number = item.number
                else:
                    raise BrokerError(f"topic {topic!r} was just made anew, with other partitions. Nothing was published; try again.")
                # Events and bare messages of a partition do not share a page.
                place = tps[number] << 1 | item.raw
                those = places.get(place)
                if those is None:
                    places[place] = [item]
                else:
                    those.append(item)
        self.file.appended([place >> 1 for place in places])
        pages = [page for place in sorted(places) for page in self._pages(connection, place >> 1, place & 1, places[place])]
        # Each statement gives up and takes back Python's lock: many rows at once.
        for start in range(0, len(pages), ROWS_AT_ONCE):
            some = pages[start : start + ROWS_AT_ONCE]
            large = [events for *_, events in some if len(events) > INLINE]
            body = 0
            if large:
                connection.execute(INSERT_BODY[len(large)], large)
                body = connection.last_insert_rowid() - len(large)
            values: list[object] = []
            for *page, events in some:
                if len(events) > INLINE:
                    body += 1
                    values += (*page, body, None)
                else:
                    values += (*page, None, events)
            connection.execute(INSERT[len(some)], values)

    def _append_one(self, connection: Connection, item: Packed) -> bool:
        """The shortest way for one event whose partition's end is known: somebody waits for just this one."""
        topic, key = self._topics.get(item.topic), item.key
        if topic is None or key is None:
            return False
        tp = topic.tps[(murmur2(key) & 0x7FFFFFFF) % len(topic.tps)]
        end = self._ends.get(tp)
        if end is None:
            return False
        offset, before = end
        events = b"\x91" + item.body
        page = (tp << SHIFT | offset, 1, item.raw, self._micros(), before, len(events), crc32(events))
        if len(events) > INLINE:
            connection.execute(INSERT_BODY[1], (events,))
            connection.execute(INSERT[1], (*page, connection.last_insert_rowid(), None))
        else:
            connection.execute(INSERT[1], (*page, None, events))
        self._ends[tp] = offset + 1, before + len(events)
        self.file.appended((tp,))
        return True

    def _pages(self, connection: Connection, tp: int, raw: int, items: list[Packed]) -> list[_Page]:
        """The rows that hold these, from the partition's end on."""
        stored = self._micros()
        offset, before = self._ends.get(tp) or self._end(connection, tp)
        pages: list[_Page] = []
        for some in _paged(items):
            count, events = _array(some)
            size = len(events)
            pages.append((tp << SHIFT | offset, count, raw, stored, before, size, crc32(events), events))
            offset += count
            before += size
        self._ends[tp] = offset, before
        return pages

    def _end(self, connection: Connection, tp: int) -> tuple[int, int]:
        base = tp << SHIFT
        last = connection.execute(
            "select at + count, before + size from broker_page where at between ? and ? order by at desc limit 1",
            (base, base + OFFSETS - 1),
        ).fetchone()
        if last is not None:
            return last[0] - base, last[1]
        row = connection.execute("select first, removed from broker_place where tp=?", (tp,)).fetchone()
        assert row is not None
        return row[0], row[1]

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

    def fetch(self, tp: int, partition: Partition, position: int, most: int) -> tuple[list[Delivery], int]:
        """Events from a position on, whole pages of them: perhaps more than `most`; and how many bytes they take."""
        base = tp << SHIFT
        deliveries: list[Delivery] = []
        size = 0
        # One after another: all that `most` may ask for can be more than fits into memory.
        for at, count, raw, crc, events in self.file.rows(FETCH, (base, base + position, base + position + most)):
            if crc32(events) != crc:
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
        return deliveries, size

    def _messages(self, partition: Partition, offsets: range, events: bytes) -> list[Delivery]:
        # Without the partition: one whose body names it is the same wherever it lies.
        source = f"millstream:{self.id}/{partition.topic}"
        return [
            Delivery(
                partition,
                offset,
                None,
                Message(
                    topic=partition.topic,
                    body=raw.body,
                    key=raw.key,
                    headers=raw.headers,
                    time=raw.time,
                    source=source,
                    id=f"{partition.number}-{offset}",
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
            upto = max(upto, self._first(tp, "before", self._end(self.file.reader, tp)[1] - size))
        return upto

    def remove(self, connection: Connection, tp: int, upto: int, most: int) -> tuple[int, bool]:
        """Remove whole pages before a position, some at a time; says how many events went, and whether there are more."""
        base = tp << SHIFT
        pages = connection.execute(
            "select at, count, before + size from broker_page where at>=?1 and at<?2 and at+count<=?2 order by at limit ?3",
            (base, base + upto, most),
        ).fetchall()
        if not pages:
            return 0, False
        end, removed = pages[-1][0] + pages[-1][1], pages[-1][2]
        connection.execute("delete from broker_body where id in (select body from broker_page where at>=? and at<?)", (base, end))
        connection.execute("delete from broker_page where at>=? and at<?", (base, end))
        connection.execute("update broker_place set first=?, removed=? where tp=?", (end - base, removed, tp))
        return sum(count for _, count, _ in pages), len(pages) == most


def _paged(items: list[Packed]) -> list[list[Packed]]:
    """Cut into pages."""
    if len(items) == 1:
        return [items]
    pages: list[list[Packed]] = [[]]
    count = size = 0
    for item in items:
        count += item.count
        size += len(item.body)
        if pages[-1] and (count > PAGE_EVENTS or size > PAGE_BYTES):
            pages.append([])
            count, size = item.count, len(item.body)
        pages[-1].append(item)
    return pages


def _array(items: list[Packed]) -> tuple[int, bytes]:
    """How many events these are, and the msgpack array of them."""
    if len(items) == 1:
        count, events = items[0].count, items[0].body
    else:
        count, events = sum([item.count for item in items]), b"".join([item.body for item in items])
    return count, (bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2, "big")) + events
