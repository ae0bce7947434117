"""What `make services` and `make services-stop` do, in a checkout of their own, so that nobody else's server is stopped."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tools.services.nats import Nats
from tools.services.service import ServiceError, lasting_port, require_debian

pytestmark = pytest.mark.slow

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """The tools alone; the server's port is one that no other server of ours prefers."""
    try:
        Nats().install()
    except ServiceError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    shutil.copytree(TOOLS, tmp_path / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    folder = tmp_path / ".services" / "nats"
    folder.mkdir(parents=True)
    (folder / "port").write_text(str(lasting_port()))
    yield tmp_path
    services(tmp_path, "stop", "nats")


def services(checkout: Path, *arguments: str) -> str:
    """What the command prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MILLSTREAM_")}
    command = [sys.executable, "-m", "tools.services", *arguments]
    return subprocess.run(command, cwd=checkout, env=environment, check=True, capture_output=True, text=True, timeout=90).stdout


def greeting(url: str) -> bytes:
    """What a NATS server says first."""
    host, _, port = url.removeprefix("nats://").partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        return connection.recv(4)


def test_a_started_server_is_at_the_printed_url_which_is_kept_for_shells(checkout: Path) -> None:
    """The lines can be evaluated, or the file be sourced; to start it again changes nothing."""
    printed = services(checkout, "start", "nats")
    sourced = subprocess.run(
        ["bash", "-c", ". .services/env && printenv MILLSTREAM_TEST_NATS"], cwd=checkout, check=True, capture_output=True, text=True
    )  # fmt: skip
    url = sourced.stdout.strip()
    pid = (checkout / ".services/nats/server.pid").read_text()

    assert printed == f"export MILLSTREAM_TEST_NATS={url}\n"
    assert greeting(url) == b"INFO"
    assert url.startswith("nats://127.0.0.1:")
    assert services(checkout, "start", "nats") == services(checkout, "env", "nats") == printed
    assert (checkout / ".services/nats/server.pid").read_text() == pid


def test_a_stopped_server_is_gone_with_its_url_and_what_it_held(checkout: Path) -> None:
    """It is ended by its process id, and nothing of it stays."""
    url = services(checkout, "start", "nats").strip().partition("=")[2]

    services(checkout, "stop", "nats")

    with pytest.raises(ConnectionRefusedError):
        greeting(url)
    assert (checkout / ".services/env").read_text() == ""
    assert not (checkout / ".services/nats").exists()
    assert services(checkout, "env", "nats") == ""


@pytest.mark.parametrize("gone", ["root", "apt-get"])
def test_who_may_not_install_a_program_is_told_how_to_get_it(gone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a password is asked for, nor another system's packages are tried."""
    has = {"redis-server", "apt-get"} - {gone}
    monkeypatch.setattr(shutil, "which", lambda program: program if program in has else None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000 if gone == "root" else 0)

    with pytest.raises(ServiceError) as missing:
        require_debian({"redis-server": "redis-server", "nats-server": "nats-server", "rabbitmqctl": "rabbitmq-server"})

    assert str(missing.value) == (
        "nats-server, rabbitmq-server is missing. On Debian or Ubuntu: "
        "sudo apt-get install --yes --no-install-recommends nats-server rabbitmq-server"
    )
