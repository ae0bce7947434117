"""`run` and `dev` in processes of their own: start, health, death, replacement and a clean end."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import SERVICE, Result

pytestmark = pytest.mark.timeout(90)

#: Says which orders were handled, and by which process.
TELLS = SERVICE.replace(
    "    return OrderAccepted", '    print("handled", order.order_id, __import__("os").getpid(), flush=True)\n    return OrderAccepted'
)


@dataclass
class Running:
    """A `millstream` process, and what it has written so far."""

    process: asyncio.subprocess.Process
    out: list[str] = field(default_factory=list[str])
    err: list[str] = field(default_factory=list[str])
    told: asyncio.Condition = field(default_factory=asyncio.Condition)
    tasks: list["asyncio.Task[None]"] = field(default_factory=list["asyncio.Task[None]"])

    async def read(self, stream: asyncio.StreamReader, lines: list[str]) -> None:
        async for line in stream:
            async with self.told:
                lines.append(line.decode().rstrip())
                self.told.notify_all()

    async def until(self, reached: Callable[[], Any]) -> Any:
        """Wait for something that the process writes."""
        async with self.told:
            return await asyncio.wait_for(self.told.wait_for(reached), 40)

    async def start_line(self) -> dict[str, Any]:
        """What it said when it was ready."""
        await self.until(lambda: self.out)
        return json.loads(self.out[0])

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """End it, and give its exit code."""
        self.process.send_signal(number)
        return await self.ended()

    async def ended(self) -> int:
        code = await asyncio.wait_for(self.process.wait(), 40)
        await asyncio.gather(*self.tasks)
        return code

    @property
    def handled(self) -> list[list[str]]:
        """Which orders were handled, and by which process."""
        return [line.split()[1:] for line in self.out if line.startswith("handled ")]

    def logs(self, text: str) -> list[dict[str, Any]]:
        """The JSON log lines with this in their message."""
        return [line for line in map(json.loads, self.err) if text in line["message"]]


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Any]]:
    """Start `millstream` with these arguments; whatever still runs at the end is killed."""
    running: list[Running] = []

    async def start(*tokens: str) -> Running:
        # Under `nohup`, say, this process ignores hang-ups, and those that it starts would too.
        hang_up = signal.signal(signal.SIGHUP, signal.SIG_DFL)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "millstream", *tokens, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
        finally:
            signal.signal(signal.SIGHUP, hang_up)
        one = Running(process)
        assert process.stdout is not None
        assert process.stderr is not None
        one.tasks = [asyncio.create_task(one.read(process.stdout, one.out)), asyncio.create_task(one.read(process.stderr, one.err))]
        running.append(one)
        return one

    yield start
    for one in running:
        if one.process.returncode is None:
            one.process.kill()
        await one.ended()


async def until_gone(pids: list[int]) -> None:
    """Wait until none of these processes is there."""
    loop = asyncio.get_running_loop()
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        gone = asyncio.Event()
        loop.add_reader(descriptor, gone.set)
        await asyncio.wait_for(gone.wait(), 40)
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def get(url: str) -> httpx.Response:
    """Ask."""
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.get(url)


async def until_ready(url: str) -> None:
    """Wait until /readyz says so."""
    async with asyncio.timeout(40):
        while (await get(f"{url}/readyz")).status_code != 200:  # noqa: ASYNC110 - it is asked, as Kubernetes does
            await asyncio.sleep(0.05)


def place(millstream: Callable[..., Result], *ids: str) -> None:
    """Publish orders from outside."""
    for id_ in ids:
        body = json.dumps({"order_id": id_})
        assert millstream("publish", "order.placed", "--key", id_, "-d", body, "--broker", "sqlite:///desk.db").code == 0


async def test_one_process_handles_tells_its_health_and_stops_cleanly(
    start: Callable[..., Any], folder: Path, millstream: Callable[..., Result]
) -> None:
    """From the announcement to the exit code, with metrics in between."""
    (folder / "desk.py").write_text(TELLS)
    running = await start("run", "desk:app", "--http", "0", "--output", "json", "--log-format", "json")

    said = await running.start_line()
    await until_ready(said["http"])
    await asyncio.to_thread(place, millstream, "a", "bad-1")
    await running.until(lambda: running.handled)
    await running.until(lambda: running.logs("parked"))
    metrics = (await get(f"{said['http']}/metrics")).text
    code = await running.stop()

    assert said["schema"] == "millstream.v1.run"
    assert said["broker"] == {"url": "sqlite:///desk.db", "origin": "App(broker=...)"}
    assert [(h["name"], h["group"], h["topics"], h["delivery"]) for h in said["handlers"]] == [
        ("accept", "desk.accept", ["order.placed"], "effectively_once"),
        ("announce", "desk.announce", ["order.accepted"], "at_least_once"),
    ]
    assert said["processes"] == [running.process.pid]
    assert said["http"].startswith("http://127.0.0.1:")
    assert 'millstream_deliveries_total{group="desk.accept",handler="accept",outcome="handled"} 1.0' in metrics
    assert 'millstream_deliveries_total{group="desk.accept",handler="accept",outcome="parked"} 1.0' in metrics
    assert code == 0
    (parked,) = running.logs("parked")
    assert (parked["level"], "ValueError: no such thing as bad-1" in parked["message"]) == ("error", True)
    assert parked["correlation"] == parked["event"]


async def test_a_terminal_that_closes_stops_it_cleanly(start: Callable[..., Any], folder: Path) -> None:
    """Whoever logs out leaves no half-finished work behind."""
    (folder / "desk.py").write_text(TELLS)
    running = await start("run", "desk:app", "-o", "json")
    await running.start_line()

    assert await running.stop(signal.SIGHUP) == 0


async def test_people_are_told_what_runs_where_and_with_which_promise(start: Callable[..., Any], folder: Path) -> None:
    """Each handler with its topics, group and delivery mode."""
    (folder / "desk.py").write_text(TELLS)

    running = await start("run", "desk:app", "--store", "sqlite:///store.db")
    await running.until(lambda: len(running.out) >= 6)
    code = await running.stop(signal.SIGINT)

    assert running.out == [
        "desk  1 worker, this machine only",
        "broker  sqlite:///desk.db  (App(broker=...))",
        "store   sqlite:///store.db  (--store)",
        "HANDLER   GROUP          TOPICS          DELIVERY",
        "accept    desk.accept    order.placed    effectively once",
        "announce  desk.announce  order.accepted  at least once",
    ]
    assert code == 0


async def test_a_dead_worker_is_replaced_and_none_is_left_behind(
    start: Callable[..., Any], folder: Path, millstream: Callable[..., Result]
) -> None:
    """kill -9 of one of two: the rest goes on, and so does its successor."""
    (folder / "desk.py").write_text(TELLS)
    running = await start("run", "desk:app", "--workers", "2", "--http", "0", "-o", "json", "--log-format", "json")
    said = await running.start_line()
    await until_ready(said["http"])
    first, second = [int(line["message"].split()[-1]) for line in running.logs("is process")]

    os.kill(first, signal.SIGKILL)
    await running.until(lambda: running.logs("worker 1 ended by signal SIGKILL"))
    ready = await get(f"{said['http']}/readyz")
    await running.until(lambda: len(running.logs("is process")) == 3)
    await until_ready(said["http"])
    await asyncio.to_thread(place, millstream, *"abcdef")
    await running.until(lambda: len(running.handled) == 6)
    metrics = (await get(f"{said['http']}/metrics")).text
    code = await running.stop()

    assert (ready.status_code, "worker 1: does not answer" in ready.text) == (503, True)
    successor = int(running.logs("is process")[-1]["message"].split()[-1])
    assert {int(process) for _, process in running.handled} <= {second, successor}
    assert 'millstream_ready{worker="1"} 1.0' in metrics
    assert metrics.count('\nmillstream_lag_events{group="desk.accept",topic="order.placed"} ') == 1
    assert code == 0
    await until_gone([first, second, successor])


async def test_workers_do_not_outlive_whoever_started_them(start: Callable[..., Any], folder: Path) -> None:
    """Even kill -9 of the supervisor leaves no process behind."""
    (folder / "desk.py").write_text(TELLS)
    running = await start("run", "desk:app", "--workers", "2", "--http", "0", "-o", "json", "--log-format", "json")
    said = await running.start_line()
    await until_ready(said["http"])
    pids = [int(line["message"].split()[-1]) for line in running.logs("is process")]

    running.process.kill()
    await running.ended()

    await until_gone(pids)


async def test_what_dev_started_does_not_outlive_it(start: Callable[..., Any], folder: Path) -> None:
    """kill -9 of it too."""
    (folder / "desk.py").write_text(TELLS)
    running = await start("dev", "desk:app", "-o", "json")
    (pid,) = (await running.start_line())["processes"]

    running.process.kill()
    await running.ended()

    await until_gone([pid])


async def test_what_can_never_start_is_not_tried_again_and_again(start: Callable[..., Any], folder: Path) -> None:
    """A wrong setting ends it at once, with the worker's own message and code."""
    (folder / "desk.py").write_text(TELLS)

    running = await start("run", "desk:app", "--workers", "2", "--broker", "gopher://nowhere:9092")

    assert await running.ended() == 2
    assert any("gopher" in line for line in running.err)
    assert not any("replaced" in line for line in running.err)


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (["run"], "no App was named"),
        (["run", "nowhere:app"], "there is no module 'nowhere'"),
        (["run", "desk.py:app"], "Name the module instead: desk:app"),
        (["run", "desk:ap"], "It has the App desk:app"),
        (["run", "desk:OrderPlaced"], "is a type, not a millstream App"),
        (["run", "broken:app"], "needs 'no_such_library', which is not installed here"),
        (["run", "wrong:app"], "SyntaxError"),
        (["run", "desk:app", "--workers", "0"], "--workers"),
        (["run", "desk:app", "--http", "nonsense"], "that is no address"),
        (["dev"], "no App was named"),
        (["dev", "desk:app", "--watch", "no/where"], "there is no such folder"),
    ],
)
def test_what_cannot_run_says_why(
    millstream: Callable[..., Result], folder: Path, monkeypatch: pytest.MonkeyPatch, tokens: list[str], says: str
) -> None:
    """Before anything is opened."""
    (folder / "desk.py").write_text(SERVICE.replace("OrderPlaced:", "OrderPlaced :"))
    (folder / "broken.py").write_text("import no_such_library\n")
    (folder / "wrong.py").write_text("app = = 1\n")
    for name in ("desk", "broken", "wrong"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    result = millstream(*tokens)
    sys.modules.pop("desk", None)

    assert result.code == 2
    assert says in result.err
    assert "Traceback" not in result.err


async def test_a_port_that_is_taken_is_told_with_its_origin(start: Callable[..., Any], folder: Path) -> None:
    """Two services cannot share one."""
    (folder / "desk.py").write_text(TELLS)
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    running = await start("run", "desk:app", "--http", f"127.0.0.1:{port}")
    code = await running.ended()
    server.close()

    assert code == 2
    assert f"http is 127.0.0.1:{port}, from --http: cannot listen there" in "\n".join(running.err)


async def test_dev_has_a_console_on_the_broker_of_the_service(start: Callable[..., Any], folder: Path) -> None:
    """It is the same one however often the code changes, and goes with it."""
    (folder / "desk.py").write_text(TELLS)
    running = await start("dev", "desk:app")
    await running.until(lambda: any("effectively once" in line for line in running.out))
    await running.until(lambda: any("console http://127.0.0.1:" in line for line in running.err))
    (address,) = [re.search(r"http://\S+", line)[0] for line in running.err if "console http" in line]  # type: ignore[index]

    (folder / "desk.py").write_text(TELLS.replace("handled", "anew"))
    await running.until(lambda: sum("effectively once" in line for line in running.out) == 2)
    async with httpx.AsyncClient(follow_redirects=True) as client:
        entered = await client.get(address)
        await running.stop()
        with pytest.raises(httpx.ConnectError):
            await client.get(address)

    assert entered.status_code == 200
    assert sum("console http" in line for line in running.err) == 1


async def test_dev_starts_the_service_anew_when_its_code_changes(
    start: Callable[..., Any], folder: Path, millstream: Callable[..., Result]
) -> None:
    """The next event is handled by the new code, and a mistake does not end it."""
    (folder / "desk.py").write_text(TELLS)
    running = await start("dev", "desk:app")
    await running.until(lambda: any("effectively once" in line for line in running.out))

    (folder / "desk.py").write_text("app = = 1\n")
    await running.until(lambda: any("SyntaxError" in line for line in running.err))
    (folder / "desk.py").write_text(TELLS.replace("handled", "anew"))
    await running.until(lambda: sum("effectively once" in line for line in running.out) == 2)
    await asyncio.to_thread(place, millstream, "a")
    await running.until(lambda: any(line.startswith("anew a") for line in running.out))
    code = await running.stop()

    assert code == 0
    assert running.handled == []
    assert any("desk.py changed: starting anew" in line for line in running.err)
