"""Reading beside a writer: the newest committed state, without holding anybody up, and not for ever."""

import asyncio
import threading
from pathlib import Path

import pytest

from millstream.contracts.errors import StatementError, StoreBusyError, StoreError
from millstream.stores.sqlite import SqliteStore
from millstream.stores.sqlite_file import SqliteFile
from millstream.stores.sqlite_reader import SqliteReader

ENDLESS = "with recursive n(n) as (select 1 union all select n + 1 from n) select count(*) from n"


async def test_what_is_committed_is_read_and_nothing_else(tmp_path: Path) -> None:
    """While a transaction is open, it is as before; on other threads than the loop's."""
    async with SqliteStore(SqliteFile(tmp_path / "a.db")) as store:
        await store.script("create table if not exists t(n integer)")
        with SqliteReader(store.file.path) as reader:
            async with store.transaction() as tx:
                tx.execute("insert into t values(1)")
                during = await reader.read("select n from t")
            after = await reader.read("select n from t where n=?", (1,))

            assert (during, after) == ([], [(1,)])
            assert threading.active_count() > 1


async def test_nothing_can_be_written(tmp_path: Path) -> None:
    """It only reads."""
    async with SqliteStore(SqliteFile(tmp_path / "a.db")) as store:
        await store.script("create table if not exists t(n integer)")
        with SqliteReader(store.file.path) as reader, pytest.raises(StoreError):
            await reader.read("insert into t values(1)")


async def test_a_question_without_end_is_given_up_and_the_next_is_answered(tmp_path: Path) -> None:
    """And the loop goes on meanwhile."""
    async with SqliteStore(SqliteFile(tmp_path / "a.db")) as store:
        with SqliteReader(store.file.path, threads=1, longest=0.2) as reader:
            asked = asyncio.ensure_future(reader.read(ENDLESS))
            turns = 0
            while not asked.done():
                await asyncio.sleep(0)
                turns += 1
            with pytest.raises(StoreBusyError, match="was given up"):
                await asked

            assert turns > 10
            assert await reader.read("select 1") == [(1,)]


async def test_several_questions_are_answered_at_once(tmp_path: Path) -> None:
    """A long one does not hold up a short one."""
    async with SqliteStore(SqliteFile(tmp_path / "a.db")) as store:
        with SqliteReader(store.file.path, longest=1.0) as reader:
            long = asyncio.ensure_future(reader.read(ENDLESS))
            await reader.read("select 1")

            assert not long.done()
            with pytest.raises(StoreBusyError):
                await long


async def test_a_mistake_is_named(tmp_path: Path) -> None:
    """In our words."""
    async with SqliteStore(SqliteFile(tmp_path / "a.db")) as store:
        with SqliteReader(store.file.path) as reader, pytest.raises(StatementError, match="no such table"):
            await reader.read("select * from missing")
