"""Random bytes for ids."""

import os
from concurrent.futures import ThreadPoolExecutor

from millstream.app.chance import ten_bytes


def test_no_bytes_are_drawn_twice_whoever_draws() -> None:
    """Threads that draw at once share nothing."""

    def draw(_: int) -> list[bytes]:
        return [ten_bytes() for _ in range(5_000)]

    with ThreadPoolExecutor(4) as threads:
        drawn = [each for some in threads.map(draw, range(4)) for each in some]

    assert len(set(drawn)) == len(drawn) == 20_000
    assert {len(each) for each in drawn} == {10}


def test_a_child_process_draws_other_bytes_than_its_parent() -> None:
    """What the parent has drawn from the system beforehand is not drawn again after a fork."""
    ten_bytes()
    read, write = os.pipe()

    child = os.fork()
    if child == 0:
        os.write(write, b"".join(ten_bytes() for _ in range(100)))
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(read, 1000)
    ours = {ten_bytes() for _ in range(1_000)}
    os.close(read)
    os.close(write)

    assert len(theirs) == 1000
    assert not ours & {theirs[at : at + 10] for at in range(0, 1000, 10)}
