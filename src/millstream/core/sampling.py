"""Sampling by correlation: everybody chooses the same ones, so that what is told of one is told whole."""

from functools import lru_cache
from zlib import crc32

#: From one in so many on, it takes more than the last character to choose; hexadecimal digits, in which ids end, are spread evenly over them.
MANY = 16


@lru_cache(64)
def last_characters(one_in: int) -> frozenset[str]:
    """In what a correlation has to end to be one in so many: a look that costs next to nothing."""
    rest = min(one_in, MANY) - 1
    return frozenset(chr(code) for code in range(128) if not code & rest)


def is_chosen(correlation: str, one_in: int) -> bool:
    """Whether a correlation is one in so many, a power of two; whoever is one in many is also one in fewer."""
    if one_in > MANY and crc32(correlation.encode("utf-8", "surrogatepass")) & (one_in // MANY - 1):
        return False
    return one_in == 1 or correlation[-1:] in last_characters(one_in)
