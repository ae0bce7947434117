"""RabbitMQ, as Debian packages it: one server on loopback, with a node name, ports, a cookie and data of its own."""

import os
import secrets
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

from tools.services import debian
from tools.services.service import HOME, Child, OneServer, ServiceError, lasting_port, require_debian

PROGRAM = Path("usr/lib/rabbitmq/bin/rabbitmq-server")
#: The Debian release whose RabbitMQ is taken: this machine's, or for instance `trixie` for 4.0, or `sid` for the newest.
RELEASE = os.environ.get("MILLSTREAM_TEST_RABBITMQ_RELEASE", "")
#: Where the programs of that release are.
UNPACKED = HOME / f"rabbitmq-{RELEASE}"
ROOT = UNPACKED / "root" if RELEASE else Path("/")
#: A frame that every server of AMQP 0.9.1 answers.
HELLO = b"AMQP\x00\x00\x09\x01"


class RabbitServer:
    """One RabbitMQ server with its data in one folder; it can be killed and started again."""

    def __init__(self, folder: Path, *, preferred_port: int = 0) -> None:
        self.folder = folder
        self._preferred_port = preferred_port
        self._child = Child(folder, "server")
        self._epmd = Child(folder, "epmd")

    @property
    def port(self) -> int:
        """Where it speaks AMQP."""
        return self._ports()["amqp"]

    @property
    def pid(self) -> int | None:
        """The process id of the server, while it runs."""
        return self._child.pid

    def start(self, extra: str = "") -> None:
        """Start it, with these lines added to its configuration, and return when it answers."""
        if self.pid is not None:
            return
        ports = self._ports()
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(secrets.token_hex(16))
            cookie.chmod(0o400)
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{ports['amqp']}\nloopback_users.guest = true\nlog.console = true\nlog.console.level = warning\n"
            # A laptop's disk or memory is seldom what a server's is.
            f"disk_free_limit.absolute = 50MB\nvm_memory_high_watermark.relative = 0.8\n{extra}"
        )
        (self.folder / "enabled_plugins").write_text("[].\n")
        env = self._environment()
        if self._epmd.pid is None:
            self._epmd.start(["epmd", "-port", str(ports["epmd"]), "-address", "127.0.0.1"], env=env)
        # Debian's own wrapper in /usr/sbin changes to another user.
        self._child.start([str(ROOT / PROGRAM)], env=env, cwd=self.folder)
        self._child.wait_until(self.answers, "RabbitMQ")

    def stop(self, *, kill: bool = False) -> None:
        """End it."""
        self._child.stop(kill=kill)
        self._epmd.stop(kill=True)

    def kill(self) -> None:
        """End it without a chance to write anything."""
        self._child.stop(kill=True)

    def answers(self) -> bool:
        """Whether it takes connections."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(HELLO)
                connection.settimeout(2)
                start = connection.recv(11)
        except OSError:
            return False
        return len(start) == 11 and struct.unpack(">BHIHH", start)[3:] == (10, 10)

    def _environment(self) -> dict[str, str]:
        ports = self._ports()
        return {
            "HOME": str(self.folder),
            **({"PATH": f"{UNPACKED / 'bin'}:{os.environ['PATH']}"} if RELEASE else {}),
            "ERL_EPMD_PORT": str(ports["epmd"]),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"millstream-{ports['amqp']}@localhost",
            "RABBITMQ_DIST_PORT": str(ports["dist"]),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2",
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_PID_FILE": str(self.folder / "rabbitmq.pid"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            # The server takes the place of the script that starts it, so that the process we know is the server's.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_START_ARGS": "-noinput",
        }

    def _ports(self) -> dict[str, int]:
        """The ports that this folder's server has kept since its first start."""
        file = self.folder / "ports"
        if not file.exists():
            taken: dict[str, int] = {}
            for name in ("amqp", "dist", "epmd"):
                port = lasting_port(self._preferred_port if name == "amqp" else 0)
                while port in taken.values():
                    port = lasting_port()
                taken[name] = port
            self.folder.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(f"{name} {port}\n" for name, port in taken.items()))
        return {name: int(port) for name, port in (line.split() for line in file.read_text().splitlines())}


class RabbitMQ(OneServer[RabbitServer]):
    """The server that tests share."""

    name = "rabbitmq"

    def __init__(self) -> None:
        super().__init__(RabbitServer(HOME / "rabbitmq", preferred_port=15673))

    def install(self) -> None:
        """Have the package, which brings Erlang along."""
        if RELEASE:
            _unpack()
            return
        # Its programs are for root alone, so that others would not find them on their path.
        program = ROOT / PROGRAM
        if not program.exists():
            require_debian({"rabbitmq-server": "rabbitmq-server"})
        if not program.exists():
            raise ServiceError(f"{program} is missing, though rabbitmq-server is installed. On Debian: apt-get install rabbitmq-server")

    def env(self) -> Mapping[str, str]:
        return {"MILLSTREAM_TEST_RABBITMQ": f"amqp://127.0.0.1:{self.server.port}"}


def _unpack() -> None:
    """Have RabbitMQ and the Erlang that it needs from another release of Debian, in a folder of their own."""
    start = UNPACKED / "bin" / "erl"
    if start.exists():
        return
    erlang = debian.unpack(RELEASE, "rabbitmq-server", UNPACKED) / "usr" / "lib" / "erlang"
    (runtime,) = erlang.glob("erts-*/bin")
    debian.relink(erlang.glob("**/bin/*"), ROOT)
    start.parent.mkdir(exist_ok=True)
    # It may have been interrupted here before.
    (start.parent / "epmd").unlink(missing_ok=True)
    (start.parent / "epmd").symlink_to(runtime / "epmd")
    # Erlang's own script knows only the place that it would be installed at.
    script = f"#!/bin/sh\nROOTDIR='{erlang}' BINDIR='{runtime}' EMU=beam PROGNAME=erl exec '{runtime}/erlexec' \"$@\"\n"
    start.with_suffix(".new").write_text(script)
    start.with_suffix(".new").chmod(0o755)
    start.with_suffix(".new").rename(start)
