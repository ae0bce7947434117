"""Ids: UUIDv7 as text, sortable by time, made from arguments only.

Time and chance come in from outside, so that the same inputs always give the same id.
"""

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import blake2b

_MILLIS_LIMIT = 1 << 48
#: The last millisecond that an id can hold.
LAST_MILLIS = _MILLIS_LIMIT - 1
#: The first digit after the version's group says which kind of UUID it is; two of its bits are free.
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
_UUID7 = re.compile(
    r"([0-9a-f]{8})-([0-9a-f]{4})-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE
)


def new_id(millis: int, random: bytes) -> str:
    """A UUIDv7 for this millisecond since the epoch.

    `random` is 10 bytes, of which 74 bits are used: ids of one millisecond do not
    collide in practice, and sort after the ids of every earlier millisecond.
    """
    if len(random) != 10:
        raise ValueError(f"new_id needs exactly 10 random bytes, got {len(random)}; pass os.urandom(10)")
    return _uuid7(millis, random)


def new_ids(millis: int, random: bytes) -> list[str]:
    """The same for many, from 10 random bytes for each."""
    if len(random) % 10:
        raise ValueError(f"new_ids needs 10 random bytes for each id, got {len(random)}")
    start, bits = f"{_time(millis)}-7", random.hex()
    return [
        f"{start}{bits[at : at + 3]}-{_VARIANT[bits[at + 3]]}{bits[at + 4 : at + 7]}-{bits[at + 7 : at + 19]}"
        for at in range(0, len(bits), 20)
    ]


def derived_id(source: str, input_id: str, group: str, ordinal: int, millis: int) -> str:
    """The id of the `ordinal`-th event that `group` publishes while it handles one input event.

    The same handling always gives the same id, so a repeat after a crash publishes what
    consumers recognise as already handled. `millis` should come from the input, not
    from a clock, for the same reason.
    """
    hash = _publisher(source, group).copy()
    hash.update(f"{ordinal}:{input_id}".encode("utf-8", "surrogatepass"))
    return _uuid7(millis, hash.digest())


# A worker derives thousands of ids from the same two names: each goes on from a copy.
@lru_cache(maxsize=1024)
def _publisher(source: str, group: str) -> "blake2b":
    # Only here: hashlib brings OpenSSL along, which not everybody who imports an event needs.
    from hashlib import blake2b

    # The length in front keeps ("ab", "c") and ("a", "bc") apart.
    names = f"{len(source)}:{source}{group}".encode("utf-8", "surrogatepass")
    return blake2b(digest_size=10, key=blake2b(names, digest_size=32, person=b"millstream-id").digest())


def id_millis(id: str) -> int | None:
    """The millisecond since the epoch inside a UUIDv7, or None for any other id."""
    match = _UUID7.fullmatch(id)
    return int(match[1] + match[2], 16) if match else None


def _uuid7(millis: int, random: bytes) -> str:
    bits = random.hex()
    return f"{_time(millis)}-7{bits[1:4]}-{'89ab'[random[2] & 3]}{bits[5:8]}-{bits[8:]}"


# The events of a batch share their milliseconds.
@lru_cache(maxsize=256)
def _time(millis: int) -> str:
    if not 0 <= millis < _MILLIS_LIMIT:
        raise ValueError(
            f"{millis} is no millisecond a UUIDv7 can hold; pass milliseconds since 1970, not microseconds"
        )
    time = f"{millis:012x}"
    return f"{time[:8]}-{time[8:]}"
