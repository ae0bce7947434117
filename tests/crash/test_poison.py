"""An event that kills the process each time, or hangs it up, is counted and parked; the others get done."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from tests.crash.campaign import end_of
from tests.crash.nursery import Nursery

SERVICES = "tests.crash.services"
#: How the process ends each time, and what the dead letter says of it.
ENDS = {
    "is killed": (-9, "crashed the worker 3 times"),
    "exits": (3, "crashed the worker 3 times"),
    "hangs": (70, "gave up after 3 attempts"),
}


@pytest.fixture
def nursery() -> Iterable[Nursery]:
    """A process that forks children."""
    with Nursery() as nursery:
        yield nursery


@pytest.mark.slow
@pytest.mark.parametrize("way", list(ENDS))
@pytest.mark.parametrize("files", ["one", "two"])
def test_a_poison_event_is_parked_after_three_crashes_and_blocks_no_other_key(
    files: str, way: str, nursery: Nursery, tmp_path: Path
) -> None:
    """Started again after each crash, the worker gives up on the event; all of the other keys is handled, once."""
    nursery.run(f"{SERVICES}:prepare", tmp_path, ["", "poison", ""], log=tmp_path / "output")

    ends: list[int] = []
    while not ends or (ends[-1] != 0 and len(ends) < 6):
        ends.append(nursery.run(f"{SERVICES}:work_on_poison", tmp_path, files, way, log=tmp_path / "output"))

    end = end_of(tmp_path)
    code, reason = ENDS[way]
    assert ends in ([code] * 3 + [0], [code] * 4 + [0]), (tmp_path / "output").read_text()
    assert sorted(end.effects) == sorted((stored.key, stored.value) for stored in end.made if stored.value not in end.parked["once"])
    assert [stored.value for stored in end.made if stored.value in end.parked["once"]] == ["producer-4", "producer-7"]
    assert end.reasons == [reason]
