"""Every single write, sync and read fails once, and the disk fills up: nothing acknowledged is lost, and work goes on."""

import asyncio
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import pytest
from tests.crash.campaign import check_work
from tests.crash.disk import FailingDisk, full_disk
from tests.crash.services import KEYS, Made, books, describe, is_idle, orders, run_until

from millstream.brokers.sqlite import SqliteBroker
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import PublishError, StoreError, StoreFullError
from millstream.core.broker import Partition, Topic
from millstream.stores.sqlite_file import SqliteFile
from millstream.testing.history import Journal

#: A checkpoint comes after so many pages, so that its writes and syncs are among those that fail.
CHECKPOINT = 12


def envelope(value: str, size: int = 400) -> Envelope:
    """Make an event whose id is the value."""
    return Envelope(id=value, source="/test", type="made", key="k", time=0, data=b"x" * size, topic="made")


@dataclass
class Attempt:
    """What the publishers of one run were told."""

    acknowledged: list[str] = field(default_factory=list[str])
    refused: dict[str, Exception] = field(default_factory=dict[str, Exception])

    async def publish(self, broker: SqliteBroker, values: list[str], size: int = 400) -> None:
        """Publish, and note what came of it."""
        results = await broker.publish([envelope(value, size) for value in values])
        for value, result in zip(values, results, strict=True):
            if result is None:
                self.acknowledged.append(value)
            else:
                self.refused[value] = result


async def work(path: Path, disk: FailingDisk, attempt: Attempt) -> None:
    """Open a file, publish, read, close: `attempt` says what was acknowledged."""
    file = SqliteFile(path, vfs=disk.name)
    async with SqliteBroker(file) as broker:
        await file.write(lambda connection: connection.wal_autocheckpoint(CHECKPOINT))
        await broker.declare([Topic(name="made", partitions=1)], [])
        for n in range(5):
            await attempt.publish(broker, [f"single-{n}"])
        await attempt.publish(broker, [f"batch-{n}" for n in range(20)])
        deliveries = await broker.read(Partition("made", 0), 0, 1000)
        assert {d.envelope.id for d in deliveries if d.envelope} >= set(attempt.acknowledged)
        for n in range(5, 8):
            await attempt.publish(broker, [f"single-{n}"])


async def stored(path: Path) -> list[str]:
    """Give the events of a file, in order, after asking SQLite whether the file is sound."""
    connection = apsw.Connection(str(path))
    assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
    connection.close()
    async with SqliteBroker(SqliteFile(path)) as broker:
        await broker.declare([Topic(name="made", partitions=1)], [])
        deliveries = await broker.read(Partition("made", 0), 0, 10_000)
        assert [d.position for d in deliveries] == list(range(len(deliveries)))
        return [d.envelope.id for d in deliveries if d.envelope]


@pytest.fixture(params=["changes", "reads"])
def disk(request: pytest.FixtureRequest) -> Iterable[FailingDisk]:
    """A disk that fails what changes it, or what is read from it."""
    disk = FailingDisk(reads=request.param == "reads")
    yield disk
    disk.unregister()


@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # apsw tells what SQLite ignores when it closes
async def test_any_single_error_of_the_disk_is_reported_and_survived(tmp_path: Path, disk: FailingDisk) -> None:
    """Operation 1, 2, 3 ... fails, until none is left to fail: an error is typed, what was acknowledged is there."""
    struck: list[str] = []
    for fail_at in range(1, 10_000):
        path = tmp_path / str(fail_at) / "b.db"
        path.parent.mkdir()
        attempt = Attempt()
        disk.arm(fail_at)

        try:
            await work(path, disk, attempt)
        except StoreError:
            # While opening, declaring or reading: reported, and the same thing works when it is tried again.
            await work(path, disk, attempt)

        values = await stored(path)
        assert [v for v in attempt.acknowledged if v not in values] == [], f"{fail_at}: {disk.failed}"
        assert sum(v.startswith("batch") for v in values) % 20 == 0, f"{fail_at}: {disk.failed}"
        assert len(attempt.refused) in (0, 1, 20), f"{fail_at}: {disk.failed}: one error refuses one publish"
        shutil.rmtree(path.parent)
        if not disk.failed:
            break
        struck.append(disk.failed)

    kinds = {operation.partition(" ")[0] for operation in struck}
    assert kinds == ({"read"} if "read" in kinds else {"write", "sync", "truncate", "delete"})


async def test_a_full_disk_refuses_what_has_no_room_and_goes_on_once_there_is(tmp_path: Path) -> None:
    """Publishing fails with a typed error and writes no half; readers go on; with space again so does publishing."""
    attempt = Attempt()
    async with SqliteBroker(SqliteFile(tmp_path / "b.db")) as broker:
        await broker.declare([Topic(name="made", partitions=1)], [])
        await attempt.publish(broker, ["before"])

        with full_disk(300_000) as disk:
            for n in range(10):
                await attempt.publish(broker, [f"batch-{n}-{i}" for i in range(20)], size=2000)
            while_full = [d.envelope.id for d in await broker.read(Partition("made", 0), 0, 1000) if d.envelope]
            disk.room = 1 << 30
            await attempt.publish(broker, ["after"])

    assert disk.refused > 0
    assert len(attempt.refused) >= 20
    assert {type(error) for error in attempt.refused.values()} == {StoreFullError}
    assert while_full == attempt.acknowledged[:-1]
    assert await stored(tmp_path / "b.db") == attempt.acknowledged


@pytest.mark.parametrize("files", ["one", "two"])
async def test_workers_wait_while_the_disk_is_full_and_go_on_by_themselves(files: str, tmp_path: Path) -> None:
    """What was acknowledged before is handled once there is room again, once and in order; what was refused never is."""
    journal = Journal(tmp_path, "producer")
    async with orders(tmp_path, "two") as app, books(tmp_path, files) as service:

        async def publish(*keys: str, refused: bool = False) -> None:
            events = [Made(key, journal.value()) for key in keys]
            for made in events:
                journal.sending(made.key, made.value)
            if refused:
                with pytest.raises(PublishError, match="disk is full") as caught:
                    await app.publish_many(events)
                assert {type(result) for result in caught.value.results} == {StoreFullError}
            else:
                await app.publish_many(events)
            for made in events:
                (journal.failed if refused else journal.acknowledged)(made.key, made.value)

        await publish(*KEYS * 20)
        with full_disk(0) as disk:
            working = asyncio.create_task(run_until(service, lambda: is_idle(service)))
            while not service.troubles():
                await service.clock.sleep(0.01)
            await publish(*KEYS, refused=True)
            seen_while_full = await service.read("select count(*) from effect")
            disk.room = 1 << 30
            await publish(*KEYS)
            await working
        await describe(service, tmp_path)

    assert seen_while_full == [(0,)]
    assert check_work(tmp_path) == []
