"""The PostgreSQL that `make services` starts, as a server of the test's own."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tools.services.postgres import PostgresServer, install, program
from tools.services.service import ServiceError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One that may be killed, in a folder that its user may enter even when root runs the tests."""
    try:
        install()
    except ServiceError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    with tempfile.TemporaryDirectory(prefix="millstream-postgres-") as folder:
        Path(folder).chmod(0o755)
        server = PostgresServer(Path(folder) / "server")
        try:
            server.start()
            yield server
        finally:
            server.stop(kill=True)


def test_what_was_committed_is_at_the_same_url_after_the_server_was_killed(server: PostgresServer) -> None:
    """The URL answers queries; it starts again at once, also when one of its processes is so busy that it does not notice."""
    url = server.url
    server.query("create table words (word text); insert into words values ('größe')")
    busy = subprocess.Popen([program("psql"), "--no-psqlrc", "--command", "do 'begin loop end loop; end'", url], stderr=subprocess.DEVNULL)
    while server.query("select count(*) from pg_stat_activity where state = 'active' and query like 'do %'") != "1":
        assert busy.poll() is None

    server.stop(kill=True)
    busy.wait(30)
    server.start()

    assert (server.query("select word from words"), server.url) == ("größe", url)


def test_it_ends_while_a_client_is_connected(server: PostgresServer) -> None:
    """`make services-stop` does not wait for those who stay."""
    client = subprocess.Popen([program("psql"), "--no-psqlrc", server.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert client.stdin is not None
    assert client.stdout is not None
    try:
        client.stdin.write("select 'here';\n")
        client.stdin.flush()
        assert any("here" in line for line in client.stdout)

        server.stop()

        assert "database system is shut down" in (server.folder / "server.log").read_text()
    finally:
        client.communicate()
        server.start()


def test_it_takes_only_connections_over_loopback_with_the_password(server: PostgresServer) -> None:
    """No other address, no socket in a folder, and nobody who is trusted."""
    ways = server.query("show listen_addresses"), server.query("show unix_socket_directories")

    with pytest.raises(ServiceError, match="password authentication failed"):
        server.query("select 1", url=server.url.replace("millstream:", "millstream:not-"))
    assert ways == ("127.0.0.1", "")
