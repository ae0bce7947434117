"""The power goes at every moment of a trace of writes and syncs: what was acknowledged is there."""

import random
from collections.abc import Iterable
from pathlib import Path

import pytest
from tests.crash.disk import RecordingDisk
from tests.crash.nursery import Nursery
from tests.crash.power import cut_a_publisher, cut_a_worker, publish

from millstream.brokers.sqlite import SqliteBroker
from millstream.stores.sqlite_file import SqliteFile


@pytest.fixture
def disk() -> Iterable[RecordingDisk]:
    """A disk that records; unregistered at the end."""
    disk = RecordingDisk()
    yield disk
    disk.unregister()


@pytest.mark.slow
def test_a_power_cut_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """With synchronous=FULL every cut leaves a sound file with all acknowledged events, and no half of a batch."""
    verdict = cut_a_publisher(tmp_path, random.Random(1), "FULL")

    assert verdict.broken == []
    assert verdict.lost == []
    assert verdict.cuts > 300


@pytest.mark.slow
def test_without_full_sync_the_same_power_cuts_lose_events(tmp_path: Path) -> None:
    """With synchronous=NORMAL acknowledged events are missing: the test above is able to fail. The file stays sound."""
    verdict = cut_a_publisher(tmp_path, random.Random(1), "NORMAL")

    assert verdict.lost != []
    assert verdict.broken == []


@pytest.mark.slow
@pytest.mark.parametrize("files", ["one", "two"])
def test_a_power_cut_doubles_no_effect_and_loses_none(files: str, tmp_path: Path) -> None:
    """A worker goes on after the cut from what the disk had got: each event has its effect and its successor once, in order."""
    with Nursery() as nursery:
        verdict = cut_a_worker(tmp_path, nursery, files, 20, random.Random(1))

    assert verdict.broken == []
    assert verdict.cuts == 20


@pytest.mark.slow
def test_without_full_sync_a_power_cut_loses_effects(tmp_path: Path) -> None:
    """With synchronous=NORMAL the relay's outbox forgets what the broker has not got yet: the test above is able to fail."""
    with Nursery() as nursery:
        verdict = cut_a_worker(tmp_path, nursery, "two", 40, random.Random(1), synchronous="NORMAL")

    assert any("unseen" in text for text in verdict.broken)


async def test_full_sync_is_what_a_file_gets_when_nobody_says_otherwise(tmp_path: Path, disk: RecordingDisk) -> None:
    """The default is durable: one sync of the WAL comes before each acknowledgement."""
    async with SqliteBroker(SqliteFile(tmp_path / "b.db", vfs=disk.name)) as broker:
        await publish(broker, disk, ["first"])
        disk.trace.clear()

        await publish(broker, disk, ["second"])

        kinds = [op.kind for op in disk.trace]
    assert kinds.index("sync") < kinds.index("mark")
    assert kinds[: kinds.index("sync")] == ["write"] * kinds.index("sync")
