"""Processes that share a file wake each other, and only for what concerns them."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from millstream.stores.sqlite_wake import EVENTS, MEMBERS, MOST_NAMED, News, WakeUp, decode


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Name the file that they share; it need not exist."""
    return str(tmp_path / "b.db")


def listening(path: str) -> tuple[WakeUp, "asyncio.Queue[News]"]:
    """Make one that hears, and what it has heard."""
    heard: asyncio.Queue[News] = asyncio.Queue()
    return WakeUp(path, asyncio.get_running_loop(), heard.put_nowait), heard


def there(path: str) -> bool:
    """Tell whether something has this name."""
    return Path(path).exists()


async def until(heard: "asyncio.Queue[News]", said: Callable[[News], bool]) -> News:
    """Wait for news like this."""
    async with asyncio.timeout(5):
        while not said(news := await heard.get()):
            pass
    return news


async def test_news_reach_everybody_else_and_name_the_partitions(path: str) -> None:
    """Two that came one after the other hear each other; nobody hears himself."""
    first, first_heard = listening(path)
    second, second_heard = listening(path)
    await until(first_heard, lambda news: b"h" in news.kinds)

    first.send(News(EVENTS, frozenset({3, 5})))
    second.send(News(MEMBERS))

    assert await until(second_heard, lambda news: EVENTS in news.kinds) == News(EVENTS, frozenset({3, 5}))
    assert await until(first_heard, lambda news: MEMBERS in news.kinds) == News(MEMBERS)
    assert first_heard.empty()
    first.close()
    second.close()


async def test_whoever_has_died_is_cleared_away(path: str) -> None:
    """A socket that nobody listens on is removed with the next message, and the folder with the last one."""
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    living, _ = listening(path)
    dead.bind(f"{path}-wake/dead")
    dead.close()
    newcomer, _ = listening(path)

    newcomer.send(News(MEMBERS))

    assert not there(f"{path}-wake/dead")
    newcomer.close()
    assert there(f"{path}-wake")
    living.close()
    assert not there(f"{path}-wake")


async def test_a_path_too_long_for_a_socket_is_no_hindrance(tmp_path: Path) -> None:
    """The folder is elsewhere then, and the same for everybody."""
    path = str(tmp_path / ("x" * 100) / "b.db")
    first, heard = listening(path)
    second, _ = listening(path)

    second.send(News(MEMBERS))

    assert await until(heard, lambda news: MEMBERS in news.kinds)
    first.close()
    second.close()


@pytest.mark.parametrize("count", [0, 1, MOST_NAMED, MOST_NAMED + 1])
def test_few_partitions_are_named_and_many_stand_for_all(count: int) -> None:
    """What is said of a partition concerns whoever has it; of too many, everybody."""
    news = News(EVENTS, frozenset(range(count)))

    heard = decode([news.encode(), News(MEMBERS).encode()])

    assert heard.kinds == EVENTS + MEMBERS
    assert heard.of(frozenset({0})) == (count > 0)
    assert heard.of(frozenset({1_000})) == (count > MOST_NAMED)
