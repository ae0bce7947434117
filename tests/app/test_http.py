"""Health and metrics over HTTP, on a real socket."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from millstream.app.http import Health, endpoints, listen, serving, url_of
from millstream.contracts.errors import ConfigurationError


class Service:
    """What a service would say."""

    def __init__(self) -> None:
        self.now: list[str] = []

    async def troubles(self) -> list[str]:
        return self.now

    async def metrics(self) -> bytes:
        return b"some_metric 1\n"

    @property
    def health(self) -> Health:
        return Health(self.troubles, self.metrics)


@pytest.fixture
def service() -> Service:
    """A healthy one."""
    return Service()


@pytest.fixture
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server on a free port of this machine."""
    listening = listen("0")
    async with serving(endpoints(service.health), listening), httpx.AsyncClient(base_url=url_of(listening), trust_env=False) as client:
        yield client


async def test_it_is_ready_until_something_keeps_it_from_settling(client: httpx.AsyncClient, service: Service) -> None:
    """Each reason is a line; alive it is all the time."""
    ready = await client.get("/readyz")
    service.now = ["group a waits: the disk is full", "the relay waits: the broker is away"]
    troubled = await client.get("/readyz")
    alive = await client.get("/livez")

    assert (ready.status_code, ready.text) == (200, "ready\n")
    assert (troubled.status_code, troubled.text.splitlines()) == (503, service.now)
    assert (alive.status_code, alive.text) == (200, "alive\n")


async def test_metrics_are_served_as_prometheus_wants_them(client: httpx.AsyncClient) -> None:
    """The content type is the one scrapers ask for."""
    answer = await client.get("/metrics")

    assert answer.text == "some_metric 1\n"
    assert answer.headers["content-type"].startswith("text/plain; version=")


async def test_nothing_else_is_served_and_nothing_is_changed(client: httpx.AsyncClient) -> None:
    """Other paths and methods are refused with what there is."""
    nowhere, posted, head = await client.get("/"), await client.post("/readyz"), await client.head("/readyz")

    assert (nowhere.status_code, "/livez, /readyz and /metrics" in nowhere.text) == (404, True)
    assert (posted.status_code, posted.headers["allow"]) == (405, "GET, HEAD")
    assert (head.status_code, head.text) == (200, "")


async def test_a_web_application_can_mount_the_endpoints(service: Service) -> None:
    """A service with a web side needs no second port."""
    web = Starlette(routes=[Mount("/health", app=endpoints(service.health))])

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=web), base_url="http://web") as client:
        answer = await client.get("/health/readyz")

    assert answer.text == "ready\n"


async def test_a_unix_socket_is_served_too_and_a_dead_ones_path_is_taken_over(service: Service, tmp_path: Path) -> None:
    """After a crash the path is still there."""
    path = f"unix:{tmp_path}/http.sock"
    listen(path).close()
    listening = listen(path)

    way = httpx.AsyncHTTPTransport(uds=f"{tmp_path}/http.sock")
    async with serving(endpoints(service.health), listening), httpx.AsyncClient(transport=way, base_url="http://worker") as client:
        answer = await client.get("/livez")

    assert answer.text == "alive\n"


def test_where_nobody_can_listen_the_address_and_its_origin_are_told(tmp_path: Path) -> None:
    """A taken port, an unknown host, a folder that is not there."""
    with listen("127.0.0.1:0") as taken:
        for text in (f"127.0.0.1:{taken.getsockname()[1]}", "no.such.host.invalid:80", f"unix:{tmp_path}/no/folder.sock"):
            with pytest.raises(ConfigurationError, match="from MILLSTREAM_HTTP: cannot listen there"):
                listen(text, "MILLSTREAM_HTTP")
