"""Random bytes for ids."""

import os

#: Ids drawn from the system at a time.
_MANY = 1024
_pool: list[bytes] = []


def ten_bytes() -> bytes:
    """Ten random bytes, from any thread, never the same ones twice.

    They are drawn many at a time: each call to the system gives up Python's lock, and the
    writer's thread would use it to commit every event by itself.
    """
    while True:
        try:
            return _pool.pop()
        except IndexError:
            drawn = os.urandom(10 * _MANY)
            _pool.extend([drawn[at : at + 10] for at in range(0, len(drawn), 10)])


# A child must not draw what its parent draws.
os.register_at_fork(after_in_child=_pool.clear)
