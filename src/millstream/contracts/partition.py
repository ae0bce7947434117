"""Which partition a key belongs to: the same answer as Kafka's Java client, on every broker."""

from functools import lru_cache
from struct import Struct

_MASK = 0xFFFFFFFF
_M = 0x5BD1E995
_SEED = 0x9747B28C
_words = Struct("<I").iter_unpack


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
