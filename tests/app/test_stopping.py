"""How a worker's process ends: asked to, out of time, and with a handler that never comes back."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from millstream import App, Transaction, event
from millstream.brokers.sqlite import SqliteBroker
from millstream.contracts.errors import StoreFullError
from millstream.core.store import Parked
from millstream.stores.sqlite import SqliteStore
from millstream.stores.sqlite_file import SqliteFile


@event("job", key="name")
@dataclass(frozen=True)
class Job:
    """Something to do."""

    name: str


SERVICE = '''
import asyncio, os, threading
from dataclasses import dataclass
from millstream import App, Retry, event

@event("job", key="name")
@dataclass(frozen=True)
class Job:
    name: str
    seconds: float = 0

app = App("jobs", broker="sqlite:///{folder}/jobs.db")

@app.subscriber(Job, timeout={timeout}, retry=Retry(attempts=2, first=60, longest=60))
{kind} work(job: Job) -> None:
    os.write(1, f"begin {{job.name}}\\n".encode())
    {wait}
    os.write(1, f"end {{job.name}}\\n".encode())

async def main():
    async with app:
        await app.publish_many([Job(*each) for each in {jobs}])
        await app.run(grace={grace})
    print("left", flush=True)

asyncio.run(main())
'''


def start(
    folder: Path, jobs: Sequence[tuple[str, float]], *, is_async: bool = True, timeout: float = 30, grace: float = 10
) -> "subprocess.Popen[str]":
    """Start a service whose handler waits as long as its event says."""
    code = SERVICE.format(
        folder=folder,
        jobs=list(jobs),
        timeout=timeout,
        grace=grace,
        kind="async def" if is_async else "def",
        wait="await asyncio.sleep(job.seconds)" if is_async else "threading.Event().wait(job.seconds)",
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def line(process: "subprocess.Popen[str]") -> str:
    """The next line that it prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


async def left_behind(folder: Path) -> tuple[int, list[Parked]]:
    """How much was not handled, and what was parked."""
    file = SqliteFile(folder / "jobs.db")
    async with SqliteBroker(file) as broker, SqliteStore(file, append=broker.append) as store:
        positions = await store.assign("jobs.work", [partition for partition, _, _ in await broker.bounds("job")])
        heads = {partition: head for partition, _, head in await broker.bounds("job")}
        lag = sum(heads[each.partition] - (each.position or 0) for each in positions)
        return lag, list(await store.parked())


async def something_parked(folder: Path) -> None:
    """Wait until another process has parked a delivery."""
    changed = asyncio.Event()
    async with SqliteStore(SqliteFile(folder / "jobs.db")) as store:
        store.on_change(changed.set)
        async with asyncio.timeout(10):
            while not await store.parked():
                changed.clear()
                await changed.wait()


async def test_sigterm_lets_a_handler_end_in_its_grace(tmp_path: Path) -> None:
    """What was in flight is finished and settled, and the process ends with code 0."""
    with start(tmp_path, [("slow", 0.5)], grace=10) as process:
        assert line(process) == "begin slow"

        process.send_signal(signal.SIGTERM)

        assert line(process) == "end slow"
        assert line(process) == "left"
        assert process.wait(10) == 0
    assert await left_behind(tmp_path) == (0, [])


@pytest.mark.parametrize("is_async", [True, False])
async def test_what_does_not_end_in_the_grace_is_delivered_again(tmp_path: Path, is_async: bool) -> None:  # noqa: FBT001
    """It is interrupted, or its thread left behind; nothing of it is settled, it is no failed attempt, and the process ends."""
    with start(tmp_path, [("endless", 1000)], is_async=is_async, grace=0.2) as process:
        assert line(process) == "begin endless"

        process.send_signal(signal.SIGTERM)

        assert line(process) == "left"
        assert process.wait(10) == 0
    assert await left_behind(tmp_path) == (1, [])


async def test_a_thread_that_never_comes_back_costs_the_process_and_blocks_its_own_key_only(tmp_path: Path) -> None:
    """The attempt is counted, its key waits, other keys are handled, and the exit code asks for a new process."""
    jobs = [("hangs", 1000.0), ("hangs", 0.0), *((f"quick-{n}", 0.0) for n in range(5))]
    with start(tmp_path, jobs, is_async=False, timeout=0.5) as process:
        code = process.wait(20)

        printed = process.stdout.read() if process.stdout else ""
    lag, parked = await left_behind(tmp_path)
    assert code == 70
    assert printed.count("end quick-") == 5
    assert printed.count("begin hangs") == 1
    assert lag == 0
    assert [(each.state, each.attempts, each.sequence) for each in parked] == [("retry", 1, "hangs"), ("queued", 0, "hangs")]
    assert "took longer than 0.5 s" in parked[0].error


async def test_an_async_handler_that_takes_too_long_is_interrupted(tmp_path: Path) -> None:
    """It is a failed attempt like any other; the process goes on."""
    with start(tmp_path, [("endless", 1000), ("quick", 0)], timeout=0.3) as process:
        assert {line(process), line(process), line(process)} == {"begin endless", "begin quick", "end quick"}
        await something_parked(tmp_path)

        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    _, parked = await left_behind(tmp_path)
    assert [(each.state, each.attempts, each.sequence) for each in parked] == [("retry", 1, "endless")]
    assert "HandlerTimeoutError" in parked[0].error


@pytest.mark.parametrize("takes", ["nothing", "a transaction"])
async def test_a_worker_that_cannot_commit_stops_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, takes: str) -> None:
    """The disk is full and stays so: after its grace the worker ends, and what it had in hand is delivered again."""
    app, stop = App("jobs", broker=f"sqlite:///{tmp_path}/b.db", store=f"sqlite:///{tmp_path}/s.db"), asyncio.Event()

    if takes == "nothing":

        @app.subscriber(Job, group="jobs.work")
        async def work(_job: Job) -> None: ...
    else:

        @app.subscriber(Job, group="jobs.work")
        async def work_with(_job: Job, tx: Transaction) -> None:
            tx.execute("select 1")

    async with app, asyncio.timeout(10):

        async def refuse(*_: object, **__: object) -> None:
            raise StoreFullError("the disk is full")

        for write in ("commit", "begin", "unassign"):
            monkeypatch.setattr(app.store, write, refuse)
        running = asyncio.create_task(app.run(stop, grace=0.1))
        await app.publish(Job("a"))
        while not app.troubles():
            await app.clock.sleep(0.01)
        stop.set()
        await running
