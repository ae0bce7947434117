"""A file that is full, locked, damaged, moved, not ours or from another time gives a clear error, and nothing is lost."""

import asyncio
import os
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest

from millstream.brokers.sqlite import SqliteBroker
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import (
    MillstreamError,
    StatementError,
    StoreBusyError,
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreMismatchError,
    StoreReadOnlyError,
    StoreTooNewError,
)
from millstream.core.broker import Partition, Topic
from millstream.stores import sqlite_file, sqlite_wal
from millstream.stores.sqlite import SqliteStore
from millstream.stores.sqlite_file import SqliteFile


def envelope(number: int, body: bytes = b"body") -> Envelope:
    """Make the event number so-and-so."""
    return Envelope(id=f"e-{number}", source="/test", type="made", key="k", time=1 + number, data=body, topic="made")


async def stored(broker: SqliteBroker) -> list[str]:
    """The ids of all that is in the one partition."""
    return [d.envelope.id for d in await broker.read(Partition("made", 0), 0, 10_000) if d.envelope]


async def ready(path: Path, **options: Any) -> SqliteBroker:
    """Make a broker with one topic of one partition."""
    broker = SqliteBroker(SqliteFile(path, **options))
    await broker.__aenter__()
    await broker.declare([Topic(name="made", partitions=1)], [])
    return broker


async def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    """A newer format is refused by name, and not written to."""
    broker = await ready(tmp_path / "b.db")
    await broker.file.write(lambda c: c.execute("pragma user_version=99") and None)
    await broker.__aexit__(None, None, None)
    before = (tmp_path / "b.db").read_bytes()

    with pytest.raises(StoreTooNewError, match="newer Millstream"):
        await ready(tmp_path / "b.db")

    assert (tmp_path / "b.db").read_bytes() == before


async def test_somebody_elses_database_is_left_alone(tmp_path: Path) -> None:
    """A file with tables that are not ours is refused, and not written to."""
    other = apsw.Connection(str(tmp_path / "b.db"))
    other.execute("create table theirs(x)")
    other.close()
    before = (tmp_path / "b.db").read_bytes()

    with pytest.raises(StoreMismatchError, match="not one of Millstream's"):
        await ready(tmp_path / "b.db")

    assert (tmp_path / "b.db").read_bytes() == before


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """The error says which path, and asks for its folder."""
    with pytest.raises(StoreError, match="does the folder exist"):
        await ready(tmp_path / "nowhere" / "b.db")


async def test_a_file_that_is_no_database_is_called_damaged(tmp_path: Path) -> None:
    """What was overwritten from its first byte on is not opened."""
    (tmp_path / "b.db").write_bytes(b"not a database at all" * 1000)

    with pytest.raises(StoreDamagedError, match="restore a backup"):
        await ready(tmp_path / "b.db")


async def test_a_changed_byte_is_noticed_and_never_delivered(tmp_path: Path) -> None:
    """Events whose bytes the disk has changed raise an error that names them; those of other pages are read."""
    broker = await ready(tmp_path / "b.db")
    await broker.publish([envelope(1, b"first body")])
    await broker.publish([envelope(2, b"second body")])
    await broker.__aexit__(None, None, None)
    content = (tmp_path / "b.db").read_bytes()
    (tmp_path / "b.db").write_bytes(content.replace(b"second body", b"second BODY"))

    broker = await ready(tmp_path / "b.db")
    first = await broker.read(Partition("made", 0), 0, 1)

    assert first[0].envelope == envelope(1, b"first body")
    with pytest.raises(StoreDamagedError, match="made/0 from 1 on"):
        await broker.read(Partition("made", 0), 1, 1)
    await broker.__aexit__(None, None, None)


async def test_a_file_that_was_cut_off_is_noticed_and_delivers_nothing_wrong(tmp_path: Path) -> None:
    """However many pages are missing at its end: what can be read is what was written, and the rest is an error."""
    sent = [envelope(n, b"%d" % n * 2_000) for n in range(60)]
    broker = await ready(tmp_path / "whole.db")
    for event in sent:
        await broker.publish([event])
    await broker.__aexit__(None, None, None)
    content = (tmp_path / "whole.db").read_bytes()
    noticed = 0

    for missing in range(1, len(content) // 4096, 7):
        path = tmp_path / f"cut-{missing}.db"
        path.write_bytes(content[: len(content) - 4096 * missing])
        try:
            async with SqliteBroker(SqliteFile(path)) as cut:
                read = [delivery.envelope for n in range(60) for delivery in await cut.read(Partition("made", 0), n, 1)]
        except StoreDamagedError:
            noticed += 1
        else:
            assert read == sent, missing

    assert noticed > 5


async def test_a_full_disk_refuses_whole_batches_and_recovers(tmp_path: Path) -> None:
    """A publish without room fails by name and keeps nothing; with room again the same process goes on."""
    broker = await ready(tmp_path / "b.db")
    await broker.publish([envelope(0)])
    await broker.file.write(lambda c: c.execute("pragma max_page_count=60").fetchall() and None)

    results = await broker.publish([envelope(1), envelope(2, b"x" * 1_000_000)])
    seen = await stored(broker)
    await broker.file.write(lambda c: c.execute("pragma max_page_count=100000").fetchall() and None)
    again = await broker.publish([envelope(1), envelope(2, b"x" * 1_000_000)])

    assert [type(result) for result in results] == [StoreFullError, StoreFullError]
    assert seen == ["e-0"]
    assert list(again) == [None, None]
    assert await stored(broker) == ["e-0", "e-1", "e-2"]
    await broker.__aexit__(None, None, None)


class _ReadOnlyDisk(apsw.VFS):
    """Opens everything for reading only, as a file without write permission is."""

    def __init__(self) -> None:
        super().__init__("read-only", "unix")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        if flags[0] & apsw.SQLITE_OPEN_MAIN_DB:
            flags[0] = flags[0] & ~(apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE) | apsw.SQLITE_OPEN_READONLY
            flags[1] = apsw.SQLITE_OPEN_READONLY
        return apsw.VFSFile("unix", name, flags)


async def test_a_read_only_file_says_so(tmp_path: Path) -> None:
    """Opening for work what cannot be written names the permission as the reason."""
    broker = await ready(tmp_path / "b.db")
    await broker.__aexit__(None, None, None)
    disk = _ReadOnlyDisk()

    with pytest.raises(StoreReadOnlyError, match="check the permissions"):
        await ready(tmp_path / "b.db", vfs="read-only")

    disk.unregister()


HOLDER = """
    import sys, apsw
    connection = apsw.Connection(sys.argv[1])
    connection.execute("begin immediate")
    print("held", flush=True)
    sys.stdin.readline()
    connection.execute("rollback")
    connection.close()
    print("released", flush=True)
"""


async def test_a_process_stopped_inside_its_commit_blocks_nobody_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishers get a clear error in bounded time, and go on once the lock is free."""
    monkeypatch.setattr(sqlite_file, "BUSY", 0.2)
    broker = await ready(tmp_path / "b.db")
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path / "b.db"), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"held\n"

    started = asyncio.get_running_loop().time()
    results = await broker.publish([envelope(1)])
    waited = asyncio.get_running_loop().time() - started
    holder.stdin.write(b"\n")
    assert await holder.stdout.readline() == b"released\n"
    again = await broker.publish([envelope(1)])

    assert isinstance(results[0], StoreBusyError)
    assert "stopped inside a commit" in str(results[0])
    assert waited < 5
    assert list(again) == [None]
    assert await stored(broker) == ["e-1"]
    await holder.communicate()
    await broker.__aexit__(None, None, None)


@pytest.mark.parametrize("move", [lambda path: path.rename(path.with_name("x.db")), lambda path: path.unlink()], ids=["moved", "removed"])
async def test_a_file_that_is_gone_from_its_place_is_not_written_to(tmp_path: Path, move: Callable[[Path], Any]) -> None:
    """What nobody would ever find again is not acknowledged."""
    broker = await ready(tmp_path / "b.db")

    move(tmp_path / "b.db")
    results = await broker.publish([envelope(1)])

    assert isinstance(results[0], StoreError)
    assert "moved, removed or replaced" in str(results[0])
    await broker.__aexit__(None, None, None)


async def test_a_forked_child_is_refused(tmp_path: Path) -> None:
    """A connection carried over a fork would corrupt the file: reading and writing raise in the child."""
    broker = await ready(tmp_path / "b.db")

    child = os.fork()
    if child == 0:
        refused = 0
        for attempt in (lambda: broker.file.query("select 1"), lambda: broker.file.submit(lambda _: None)):
            try:
                attempt()
            except MillstreamError as error:
                refused += "before a fork" in str(error)
        os._exit(refused)
    _, status = await asyncio.to_thread(os.waitpid, child, 0)

    assert os.waitstatus_to_exitcode(status) == 2
    await broker.publish([envelope(1)])
    assert await stored(broker) == ["e-1"]
    await broker.__aexit__(None, None, None)


async def test_the_wal_is_short_again_after_a_long_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An open read transaction lets the WAL grow and blocks no publisher; once it has ended the WAL is cut back."""
    monkeypatch.setattr(sqlite_wal, "COPY_AT", 20)
    monkeypatch.setattr(sqlite_file, "SETTINGS", ("journal_size_limit=200000",))
    broker = await ready(tmp_path / "b.db")
    wal = tmp_path / "b.db-wal"
    reader = apsw.Connection(str(tmp_path / "b.db"))
    reader.execute("begin")
    reader.execute("select * from broker_topic").fetchall()

    for number in range(100):
        assert list(await broker.publish([envelope(number, b"x" * 20_000)])) == [None]
    grown = wal.stat().st_size
    reader.execute("rollback")
    reader.close()
    for number in range(100, 200):
        await broker.publish([envelope(number, b"x" * 20_000)])

    assert grown > 2_000_000
    assert wal.stat().st_size < 1_000_000
    assert len(await stored(broker)) == 200
    await broker.__aexit__(None, None, None)


async def test_the_writer_finishes_what_the_thread_has_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """While others write a copy never reaches the log's end: after each one the writer's own connection copies the rest."""
    copies: list[object] = []

    def copied(connection: object) -> tuple[int, int]:
        copies.append(connection)
        return 50, 50

    monkeypatch.setattr(sqlite_wal, "_copy", copied)
    keeper: Any = SqliteFile(":memory:")  # stands for a connection; nothing here opens it
    wal, writer = sqlite_wal.WalKeeper("b.db", keeper), SqliteFile("elsewhere")

    for pages in (10, sqlite_wal.COPY_AT, sqlite_wal.COPY_AT + 1, 10, 20):
        wal.committed(pages)
        wal.between(writer)  # type: ignore[arg-type]
        if wal._thread is not None:
            wal._thread.join()

    assert copies == [keeper, writer]


async def test_a_backup_of_a_live_file_is_whole(tmp_path: Path) -> None:
    """Writes between its steps do not start it again: the copy is of one moment, opens, and replaces no other file."""
    broker = await ready(tmp_path / "b.db")
    await broker.publish([envelope(n, b"x" * 5_000) for n in range(2_500)])
    loop, steps = asyncio.get_running_loop(), list[tuple[int, int]]()

    def progress(done: int, pages: int) -> None:
        steps.append((done, pages))
        assert len(steps) < 100, "each write starts the copy again"
        publishing = broker.publish([envelope(2_500 + len(steps))])
        asyncio.run_coroutine_threadsafe(publishing, loop).result(10)

    await asyncio.to_thread(broker.file.copy, str(tmp_path / "copy.db"), progress, lambda _: None)
    with pytest.raises(StoreError, match="overwrites nothing"):
        broker.file.copy(str(tmp_path / "copy.db"), progress, lambda _: None)
    await broker.__aexit__(None, None, None)

    copy = await ready(tmp_path / "copy.db")
    assert copy.file.query("pragma integrity_check") == [("ok",)]
    assert await stored(copy) == [f"e-{n}" for n in range(2_500)]
    assert len(steps) > 2
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1]
    await copy.__aexit__(None, None, None)


async def test_a_stores_backup_tells_how_far_it_is(tmp_path: Path) -> None:
    """Progress arrives on the loop, and ends with all of it."""
    async with SqliteStore(SqliteFile(tmp_path / "s.db")) as store:
        steps: list[tuple[int, int]] = []
        await store.script("create table t(x); insert into t values(7)")

        await store.backup(str(tmp_path / "copy.db"), lambda done, pages: steps.append((done, pages)))
        await asyncio.sleep(0)

        assert steps[-1][0] == steps[-1][1] > 0
    async with SqliteStore(SqliteFile(tmp_path / "copy.db")) as copy:
        assert copy.id == store.id
        assert await copy.read("select x from t") == [(7,)]


OPENER = """
    import asyncio, sys, time
    from millstream.brokers.sqlite import SqliteBroker
    from millstream.core.broker import Topic
    from millstream.stores.sqlite_file import SqliteFile

    async def main():
        print("ready", flush=True)
        start = float(sys.stdin.readline())
        for number in range(60):
            # All of them at the same moment, as far as processes can.
            while time.monotonic() < start + number * 0.04:
                pass
            async with SqliteBroker(SqliteFile(f"{sys.argv[1]}/{number}.db")) as broker:
                await broker.declare([Topic(name="made")], [])

    asyncio.run(main())
"""


async def test_processes_may_make_a_file_at_the_same_moment(tmp_path: Path) -> None:
    """Whoever comes first makes it; nobody is told that it is locked, damaged or not ours."""
    command = (sys.executable, "-c", textwrap.dedent(OPENER), str(tmp_path))
    pipe = asyncio.subprocess.PIPE
    openers = [await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe) for _ in range(6)]
    for opener in openers:
        assert opener.stdout is not None
        assert await opener.stdout.readline() == b"ready\n"

    start = f"{time.monotonic() + 0.1}\n".encode()
    results = await asyncio.gather(*(opener.communicate(start) for opener in openers))

    assert [error.decode() for _, error in results] == [""] * 6
    assert [opener.returncode for opener in openers] == [0] * 6


async def test_writes_that_share_a_transaction_share_no_failure(tmp_path: Path) -> None:
    """One that fails by itself leaves the others of its moment done."""
    async with SqliteFile(tmp_path / "b.db") as file:
        borrowed = await file.borrow()

        def fail(_: object) -> None:
            raise ZeroDivisionError

        futures: Sequence[asyncio.Future[Any]] = [
            file.submit(lambda c: c.execute("create table t(x)") and None),
            file.submit(fail),
            file.submit(lambda c: c.execute("nonsense") and None),
            file.submit(lambda c: c.execute("insert into t values(1)") and None),
        ]
        await borrowed.end(commit=True)
        results = await asyncio.gather(*futures, return_exceptions=True)

        assert [type(result) for result in results] == [type(None), ZeroDivisionError, StatementError, type(None)]
        assert file.query("select x from t") == [(1,)]
