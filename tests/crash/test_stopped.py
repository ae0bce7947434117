"""A process that is stopped and woken: its lease is gone and it changes nothing; the lock it held keeps nobody waiting for ever."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

import apsw
import pytest
from tests.crash.campaign import check_work, end_of
from tests.crash.nursery import Nursery
from tests.crash.points import choose
from tests.crash.services import Made, books, is_idle, orders, run_until

from millstream.contracts.errors import StoreBusyError
from millstream.stores import sqlite_file
from millstream.testing.history import Journal

SERVICES = "tests.crash.services"
LEASE = 0.5


@pytest.fixture
def nurseries() -> Iterable[tuple[Nursery, Nursery]]:
    """Two processes that fork children."""
    with Nursery() as one, Nursery() as two:
        yield one, two


def wait_until(reached: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    deadline = time.monotonic() + 20
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def stop_outside_transactions(pid: int, folder: Path) -> None:
    """Stop a process while it holds no lock: we have them all."""
    with ExitStack() as locks:
        for path in folder.glob("*.db"):
            connection = apsw.Connection(str(path))
            locks.callback(connection.close)
            connection.set_busy_timeout(5000)
            connection.execute("begin immediate")
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: is_stopped(pid))


@pytest.mark.slow
@pytest.mark.parametrize("hears", [True, False], ids=["hears of its loss", "meets the fence"])
@pytest.mark.parametrize("files", ["one", "two"])
def test_a_worker_that_slept_through_its_lease_changes_nothing(
    files: str, hears: bool, nurseries: tuple[Nursery, Nursery], tmp_path: Path
) -> None:
    """Stopped inside a handler and woken after another has done the work, it commits nothing, and goes on as a member."""
    first, second = nurseries
    first.run(f"{SERVICES}:prepare", tmp_path, ["", ""], log=tmp_path / "output")
    sleeper = first.start(f"{SERVICES}:work_slowly", tmp_path, files, hears, LEASE, log=tmp_path / "first")
    wait_until((tmp_path / "inside").exists)
    stop_outside_transactions(sleeper, tmp_path)

    took_over = second.run(f"{SERVICES}:take_over", tmp_path, files, LEASE, log=tmp_path / "second")
    assert took_over == 0, (tmp_path / "second").read_text()
    done = end_of(tmp_path)
    (tmp_path / "gate").touch()
    os.kill(sleeper, signal.SIGCONT)
    woken = first.wait()

    assert woken == 0, (tmp_path / "first").read_text()
    assert hears or "no longer owns" in (tmp_path / "first").read_text()
    assert len(done.effects) == 6
    assert second.run(f"{SERVICES}:recover", tmp_path, files, log=tmp_path / "output") == 0
    assert (end_of(tmp_path).effects, end_of(tmp_path).booked) == (done.effects, done.booked)
    assert check_work(tmp_path) == []


@pytest.mark.slow
async def test_a_process_stopped_inside_a_commit_keeps_nobody_waiting_for_ever(
    nurseries: tuple[Nursery, Nursery], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds SQLite's lock: publishers elsewhere get StoreBusyError in bounded time, and all go on when it is woken."""
    first, _ = nurseries
    monkeypatch.setattr(sqlite_file, "BUSY", 0.2)
    inside_a_commit = where_a_publisher_commits(first, tmp_path)
    journal = Journal(tmp_path, "elsewhere")
    before, during, after = (Made("a", journal.value()) for _ in range(3))
    async with orders(tmp_path, "two") as app, books(tmp_path, "two") as service:
        for made in (before, during, after):
            journal.sending(made.key, made.value)
        await app.publish(before)
        journal.acknowledged(before.key, before.value)
        holder = first.start(f"{SERVICES}:publish", tmp_path, "two", inside_a_commit, None, signal.SIGSTOP, log=tmp_path / "output")
        wait_until(lambda: is_stopped(holder))

        started = time.monotonic()
        with pytest.raises(StoreBusyError, match="stopped inside a commit"):
            await app.publish(during)
        journal.failed(during.key, during.value)
        waited = time.monotonic() - started
        working = asyncio.create_task(run_until(service, lambda: is_idle(service)))
        with pytest.raises(StoreBusyError):
            await app.publish(during)
        os.kill(holder, signal.SIGCONT)
        woken = await asyncio.to_thread(first.wait)
        await app.publish(after)
        journal.acknowledged(after.key, after.value)
        await working

    assert waited < 5
    assert woken == 0, (tmp_path / "output").read_text()
    assert first.run(f"{SERVICES}:recover", tmp_path, "two", log=tmp_path / "output") == 0
    assert check_work(tmp_path) == []


def where_a_publisher_commits(nursery: Nursery, tmp_path: Path) -> tuple[str, int]:
    """Find the point at which a publisher's events are in the WAL, and about to be synced."""
    rehearsal = tmp_path / "rehearsal"
    rehearsal.mkdir()
    code = nursery.run(f"{SERVICES}:publish", rehearsal, "two", None, rehearsal / "points", log=rehearsal / "output")
    assert code == 0, (rehearsal / "output").read_text()
    points = choose(rehearsal / "points", None)
    return next(point for point in points if point.name.startswith("sync broker.db-wal broker_page") and "topic" not in point.name)
