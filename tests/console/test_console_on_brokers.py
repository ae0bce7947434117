"""The console on real brokers: a service's facts reach it, and it tells what it can where there is no history."""

import asyncio
import http.cookiejar
import json
import secrets
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.brokers.servers import server_url

from millstream import App, event


@dataclass(frozen=True)
class Site:
    """A console's API, with its cookie."""

    base: str
    opener: urllib.request.OpenerDirector

    def get(self, path: str) -> Any:
        with self.opener.open(self.base + path, timeout=10) as answer:
            return json.load(answer)


@pytest.fixture
def console(tmp_path: Path) -> Any:
    """Start consoles that end with the test."""
    running: list[subprocess.Popen[str]] = []

    def start(url: str) -> Site:
        command = (sys.executable, "-m", "millstream", "console", "--broker", url, "--port", "0", "--output", "json", "--while-fed")
        with (tmp_path / "console.log").open("w") as log:
            process = subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        running.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (tmp_path / "console.log").read_text()
        address = json.loads(line)["console"]
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
        opener.open(address, timeout=10).close()
        return Site(address.partition("/?")[0], opener)

    yield start
    for process in running:
        process.communicate(timeout=20)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("service", "variable"),
    [
        pytest.param("kafka", "MILLSTREAM_TEST_KAFKA", marks=pytest.mark.nightly),
        ("rabbitmq", "MILLSTREAM_TEST_RABBITMQ"),
        pytest.param("nats", "MILLSTREAM_TEST_NATS", marks=pytest.mark.nightly),
        ("redis", "MILLSTREAM_TEST_REDIS"),
        pytest.param("aws", "MILLSTREAM_TEST_AWS", marks=pytest.mark.nightly),
    ],
)
async def test_facts_reach_the_console_on_every_broker(
    service: str, variable: str, console: Callable[[str], Site], tmp_path: Path
) -> None:
    """What a service publishes and handles is in the console within seconds, and its group has a verdict."""
    url, mark = server_url(service, variable), secrets.token_hex(4)

    @event(f"seen.m{mark}", key="key")
    @dataclass(frozen=True)
    class Seen:
        key: str

    app = App(f"watcher-{mark}", broker=url, store=f"sqlite:///{tmp_path}/store.db")
    app.configure(facts="on")

    @app.subscriber(Seen, group=f"watching-{mark}")
    async def watch(seen: Seen) -> None:
        pass

    site = await asyncio.to_thread(console, url)
    stop = asyncio.Event()
    deadline = app.clock.monotonic() + 90
    async with app, asyncio.TaskGroup() as tasks:
        tasks.create_task(app.run(stop))
        sent = await app.publish(Seen("k"))
        while True:
            await app.publish(Seen("k"))
            found = await asyncio.to_thread(site.get, f"/api/search?q={sent.id}")
            groups = {group["name"]: group for group in await asyncio.to_thread(site.get, "/api/groups")}
            group = groups.get(f"watching-{mark}", {"verdict": {"state": "unknown"}, "handled_per_second": 0})
            if found["events"] and group["verdict"]["state"] != "unknown" and group["handled_per_second"]:
                break
            assert app.clock.monotonic() < deadline, (found, groups)
            await app.clock.sleep(0.2)
        topics = {topic["name"]: topic for topic in await asyncio.to_thread(site.get, "/api/topics")}
        counts = app.broker.features.replayable
        stop.set()

    assert (topics[f"seen.m{mark}"]["events"] is not None) == counts
