"""Sampling by correlation: everybody chooses the same ones, so that what is told of one is told whole."""

from functools import lru_cache
from zlib import crc32

#: One character chooses one in so many: hexadecimal digits, in which ids end, are spread evenly over them.
_EACH = 16


@lru_cache(64)
def last_characters(one_in: int) -> frozenset[str]:
    """In what a correlation has to end to be one in so many: a look that costs next to nothing."""
    rest = min(one_in, _EACH) - 1
    return frozenset(chr(code) for code in range(128) if not code & rest)


def is_chosen(correlation: str, one_in: int) -> bool:
    """Whether a correlation is one in so many, a power of two; whoever is one in many is also one in fewer.

    The last character decides, then the one before it, and of the few that are left a checksum.
    """
    if one_in == 1:
        return True
    if correlation[-1:] not in last_characters(one_in):
        return False
    if one_in <= _EACH:
        return True
    if correlation[-2:-1] not in last_characters(one_in // _EACH):
        return False
    return one_in <= _EACH**2 or not crc32(correlation.encode("utf-8", "surrogatepass")) & (one_in // _EACH**2 - 1)
