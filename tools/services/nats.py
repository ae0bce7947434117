"""NATS with JetStream, as Debian packages it: one server on loopback, with a port and a folder of its own."""

import re
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tools.services.service import HOME, Child, OneServer, kept_port, require_debian

PROGRAM = "nats-server"
#: The first version that can be told to put every event on the disk before it acknowledges it. An older one leaves that to
#: the operating system: what it acknowledged survives its own death, and not the machine's.
SYNCS = (2, 10)


class NatsServer:
    """One NATS server with its data in one folder; it can be killed and started again."""

    def __init__(self, folder: Path, *, preferred_port: int = 0) -> None:
        self.folder = folder
        self._preferred_port = preferred_port
        self._child = Child(folder, "server")

    @property
    def port(self) -> int:
        """Where it listens, since its first start."""
        return kept_port(self.folder, self._preferred_port)

    @property
    def pid(self) -> int | None:
        """The process id of the server, while it runs."""
        return self._child.pid

    def start(self, extra: str = "") -> None:
        """Start it, with these lines added to its configuration, and return when it answers."""
        if self.pid is not None:
            return
        sync = ", sync_interval: always" if _version() >= SYNCS else ""
        config = self.folder / "nats.conf"
        port = self.port
        jetstream = f"jetstream {{ store_dir: {str(self.folder / 'data')!r}{sync} }}"
        config.write_text(f"server_name: millstream-{port}\nlisten: 127.0.0.1:{port}\n{jetstream}\n{extra}")
        self._child.start([PROGRAM, "-c", str(config)], cwd=self.folder)
        self._child.wait_until(self.answers, "NATS")

    def stop(self, *, kill: bool = False) -> None:
        """End it; with `kill` without a chance to write anything."""
        self._child.stop(kill=kill)

    def answers(self) -> bool:
        """Whether it takes connections, which it does once JetStream has read its data."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.settimeout(2)
                return connection.recv(4) == b"INFO"
        except OSError:
            return False


def _version() -> tuple[int, int]:
    said = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"v(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


class Nats(OneServer[NatsServer]):
    """The server that tests share."""

    name = "nats"

    def __init__(self) -> None:
        super().__init__(NatsServer(HOME / "nats", preferred_port=14222))

    def install(self) -> None:
        """Have the package."""
        require_debian({PROGRAM: "nats-server"})

    def env(self) -> Mapping[str, str]:
        return {"MILLSTREAM_TEST_NATS": f"nats://127.0.0.1:{self.server.port}"}
