"""Which partition a key belongs to: the same answer as Kafka's Java client, on every broker."""

from collections.abc import Sequence
from functools import lru_cache
from struct import Struct, unpack

_MASK = 0xFFFFFFFF
_M = 0x5BD1E995
_SEED = 0x9747B28C
_words = Struct("<I").iter_unpack
#: Fewer keys than this are hashed one by one.
_MANY = 8


def murmur2(key: bytes) -> int:
    """Kafka's 32 bit murmur2, signed as Java returns it."""
    length = len(key)
    h = _SEED ^ length
    whole = length & ~3
    for (word,) in _words(key[:whole]):
        k = word * _M & _MASK
        h = (h * _M ^ (k ^ k >> 24) * _M) & _MASK
    if whole != length:
        h = (h ^ int.from_bytes(key[whole:], "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    h ^= h >> 15
    return h - 0x1_0000_0000 if h & 0x8000_0000 else h


# Keys repeat: the cache spares a hot key the pure Python loop, and its size bounds the memory.
@lru_cache(maxsize=65_536)
def partition_of(key: str, partitions: int) -> int:
    """The partition, from 0, of a key among `partitions`; stable across processes, versions and brokers."""
    if partitions < 1:
        raise ValueError(f"a topic has at least one partition, not {partitions}; check how the topic was declared")
    return (murmur2(key.encode()) & 0x7FFFFFFF) % partitions


def partitions_of(keys: Sequence[bytes], partitions: int) -> list[int]:
    """The partition of each key; many keys of one length cost a seventh of what they would one by one."""
    by_length: dict[int, list[int]] = {}
    for index, length in enumerate(map(len, keys)):
        by_length.setdefault(length, []).append(index)
    found = [0] * len(keys)
    for length, indexes in by_length.items():
        some = [keys[index] for index in indexes]
        for index, hash in zip(indexes, _hashes(some, length) if len(some) >= _MANY else map(murmur2, some), strict=True):
            found[index] = (hash & 0x7FFFFFFF) % partitions
    return found


def _hashes(keys: Sequence[bytes], length: int) -> Sequence[int]:
    """The murmur2 of keys of one length, unsigned, all of them at once.

    One int holds a number of 32 bits for each key, in lanes of 64 bits: the product with
    a constant stays within its lane, and so one multiplication does what would take as
    many as there are keys.
    """
    joined, count = b"".join(keys), len(keys)
    ones = _ones(count)
    mask = ones * _MASK
    h = ones * (_SEED ^ length)
    for at in range(0, length, 4):
        lanes = bytearray(8 * count)
        for place in range(min(4, length - at)):
            lanes[place::8] = joined[at + place :: length]
        k = int.from_bytes(lanes, "little")
        if at + 4 > length:
            h = (h ^ k) * _M & mask
        else:
            k = k * _M & mask
            h = (h * _M & mask) ^ ((k ^ k >> 24 & ones * 0xFF) * _M & mask)
    # What a shift brings in from the next lane is masked away.
    h = (h ^ h >> 13 & ones * 0x7FFFF) * _M & mask
    h ^= h >> 15 & ones * 0x1FFFF
    return unpack(f"<{count}Q", h.to_bytes(8 * count, "little"))


@lru_cache(maxsize=64)
def _ones(count: int) -> int:
    """A 1 in each of so many lanes."""
    return ((1 << 64 * count) - 1) // ((1 << 64) - 1)
