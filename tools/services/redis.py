"""Redis, as Debian packages it: one server on loopback that writes to the disk before it answers, with a port and a folder of its own."""

import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tools.services.service import HOME, PATIENCE, Child, OneServer, ServiceError, free_port, kept_port, require_debian

PROGRAM = "redis-server"


class RedisServer:
    """One Redis server with its data in one folder; it can be killed and started again."""

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
        port = self.port
        self._wait_for(port)
        config = self.folder / "redis.conf"
        config.write_text(
            f"bind 127.0.0.1\nport {port}\ndir {self.folder}\nappendonly yes\nappendfsync always\nsave \"\"\nloglevel warning\n{extra}"
        )
        self._child.start([PROGRAM, str(config)], cwd=self.folder)
        self._child.wait_until(self.answers, "Redis")

    def stop(self, *, kill: bool = False) -> None:
        """End it; with `kill` without a chance to write anything."""
        self._child.stop(kill=kill)

    @staticmethod
    def _wait_for(port: int) -> None:
        """Return when the port is free: of a server that was killed a thread may live on for a moment, and have it."""
        deadline = time.monotonic() + PATIENCE
        while free_port(port) != port:
            if time.monotonic() > deadline:
                raise ServiceError(f"somebody else listens on 127.0.0.1:{port}, which is this Redis server's; stop it")
            time.sleep(0.02)

    def answers(self) -> bool:
        """Whether it takes commands, which it does once it has read its data; one that asks for a password does."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.settimeout(2)
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


class Redis(OneServer[RedisServer]):
    """The server that tests share."""

    name = "redis"

    def __init__(self) -> None:
        super().__init__(RedisServer(HOME / "redis", preferred_port=16379))

    def install(self) -> None:
        """Have the package."""
        require_debian({PROGRAM: "redis-server"})

    def env(self) -> Mapping[str, str]:
        return {"MILLSTREAM_TEST_REDIS": f"redis://127.0.0.1:{self.server.port}"}
