"""Searching the bodies of events in the broker's history: from the newest back, a bounded step at a time."""

import base64
import json
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from millstream.contracts.errors import ConfigurationError
from millstream.core.broker import Broker, Delivery

#: One step reads for so many seconds, so many events at a time, and stops at so many found.
PATIENCE = 0.06
CHUNK = 100
MOST_FOUND = 100
#: Events of more bytes in all are read fewer at a time.
HEAVY = 4 << 20
#: What is shown around what was found, in characters.
AROUND = 60

_cursor = msgspec.json.Decoder(dict[str, int]).decode


async def search_bodies(broker: Broker, topic: str, text: str, *, cursor: str = "", limit: int = 50) -> dict[str, Any]:
    """Events of a topic whose body has a text in it, in any case, the newest of each partition first.

    It says how much it has looked at, and `next` is the cursor to go on from; with the
    same cursor and the same history the same is found.
    """
    if not broker.features.replayable:
        raise ConfigurationError(f"{broker.name} keeps no history that could be searched")
    if not text:
        raise ValueError("text: write what to look for")
    needles = _needles(text)
    bounds = {partition: (first, head) for partition, first, head in await broker.bounds(topic)}
    upto = _read_cursor(cursor) if cursor else {partition.number: head for partition, (_, head) in bounds.items()}
    left = {p: min(upto.get(p.number, head), head) for p, (first, head) in bounds.items() if upto.get(p.number, head) > first}
    found: list[dict[str, Any]] = []
    scanned, chunk = 0, CHUNK
    oldest: int | None = None
    until = time.monotonic() + PATIENCE
    while left and len(found) < min(limit, MOST_FOUND) and (not scanned or time.monotonic() < until):
        # The partitions in turn, that with the most to go first: so they are all searched back about as far.
        partition = max(left, key=lambda p: (left[p] - bounds[p][0], -p.number))
        start = max(bounds[partition][0], left[partition] - chunk)
        count = left[partition] - start
        read = [delivery for delivery in await broker.read(partition, start, count) if delivery.position < start + count]
        scanned += count
        found += [_found(delivery, needles) for delivery in reversed(read) if _fits(delivery, needles)]
        for delivery in read:
            if delivery.envelope is not None:
                oldest = delivery.envelope.time if oldest is None else min(oldest, delivery.envelope.time)
        weight = sum(len(_body(delivery)) for delivery in read)
        chunk = max(1, chunk // 2) if weight > HEAVY else min(CHUNK, chunk * 2)
        left[partition] = start
        if start <= bounds[partition][0]:
            del left[partition]
    rest = {p.number: left.get(p, first) for p, (first, _) in bounds.items()}
    return {
        "events": sorted(found, key=lambda event: -(event["time"] or 0)),
        "scanned": scanned,
        "total": str(sum(head - first for first, head in bounds.values())),
        "left": str(sum(position - bounds[p][0] for p, position in left.items())),
        "more": bool(left),
        "next": _write_cursor(rest) if left else None,
        "back_to": None if oldest is None else oldest / 1e6,
    }


def _body(delivery: Delivery) -> bytes:
    if delivery.envelope is not None:
        return delivery.envelope.data
    return delivery.message.body if delivery.message is not None else b""


def _needles(text: str) -> tuple[bytes, ...]:
    """The text as it may stand in a body: as it is, and as JSON escapes it."""
    lower = text.lower()
    escaped = (json.dumps(lower, ensure_ascii=ascii_)[1:-1] for ascii_ in (False, True))
    return tuple(dict.fromkeys(each.encode("utf-8", "surrogatepass") for each in (lower, *escaped)))


def _fits(delivery: Delivery, needles: Sequence[bytes]) -> bool:
    body = _body(delivery)
    # Letters beyond ASCII have to be written as they are: bytes know no other cases.
    lower = body.lower()
    return any(needle in lower for needle in needles)


def _found(delivery: Delivery, needles: Sequence[bytes]) -> dict[str, Any]:
    body, envelope = _body(delivery), delivery.envelope
    at = min(place for needle in needles if (place := body.lower().find(needle)) >= 0)
    around = body[max(0, at - AROUND) : at + max(map(len, needles)) + AROUND]
    return {
        "id": envelope.id if envelope else None,
        "source": envelope.source if envelope else None,
        "type": envelope.type if envelope else None,
        "key": envelope.key if envelope else None,
        "time": envelope.time / 1e6 if envelope else None,
        "topic": delivery.partition.topic,
        "partition": delivery.partition.number,
        "position": str(delivery.position),
        "excerpt": around.decode("utf-8", "replace"),
        "size": len(body),
    }


def _write_cursor(upto: dict[int, int]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode({str(number): position for number, position in upto.items()})).decode()


def _read_cursor(text: str) -> dict[int, int]:
    try:
        return {int(number): position for number, position in _cursor(base64.urlsafe_b64decode(text)).items()}
    except ValueError as error:
        raise ValueError("cursor: this is none that was given before") from error

