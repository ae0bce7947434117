"""PostgreSQL, as Debian packages it: one server on loopback, with a cluster, a port and a password of its own."""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tools.services.service import HOME, Child, OneServer, ServiceError, end_orphans, kept_port, require_debian

#: Debian keeps the programs of each version apart, and off the path.
DEBIAN = Path("/usr/lib/postgresql")
#: What Debian's package reads before it makes a cluster of its own, and starts it on the port that everybody expects.
NO_CLUSTER = Path("/etc/postgresql-common/createcluster.d/millstream.conf")
#: Who runs it when root starts it, which it refuses to be; the package brings this user along.
OWNER = "postgres"
USER, DATABASE = "millstream", "postgres"


class PostgresServer:
    """One PostgreSQL server with its data in one folder; it can be killed and started again."""

    def __init__(self, folder: Path, *, preferred_port: int = 0) -> None:
        self.folder = folder
        self._preferred_port = preferred_port
        # Asked with SIGTERM it would wait for its clients to leave.
        self._child = Child(folder, "server", ask=signal.SIGINT)

    @property
    def port(self) -> int:
        """Where it listens, since its first start."""
        return kept_port(self.folder, self._preferred_port)

    @property
    def url(self) -> str:
        """Where it is, with the password that it asks for."""
        return f"postgresql://{USER}:{self._password()}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def pid(self) -> int | None:
        """The process id of the server, while it runs."""
        return self._child.pid

    def start(self) -> None:
        """Start it, and return when it takes queries."""
        if self.pid is not None:
            return
        # It makes no socket beside its port: the path of one may not be as long as that of a folder.
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": ""}
        data = self._cluster()
        command = [program("postgres"), "-D", str(data), *(f"--{name}={value}" for name, value in settings.items())]
        self._child.start([*_as_owner(), *command], cwd=self.folder)
        self._child.wait_until(self.answers, "PostgreSQL")

    def stop(self, *, kill: bool = False) -> None:
        """End it, whoever is connected; with `kill` without a chance to write anything."""
        children = self._child.children()
        self._child.stop(kill=kill)
        # One that is busy does not notice that the server is gone, and would go on writing beside the next.
        end_orphans(children)
        # In it is a number that may be a zombie's yet, which the next server would take for a running one.
        (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)

    def answers(self) -> bool:
        """Whether it takes queries, which it does once it has read its data."""
        asked = [program("pg_isready"), "--quiet", "--host=127.0.0.1", f"--port={self.port}"]
        return subprocess.run(asked, check=False).returncode == 0

    def query(self, sql: str, *, url: str = "") -> str:
        """What it answers, one line for a row; `ServiceError` when it refuses."""
        return _run(program("psql"), "--no-psqlrc", "--tuples-only", "--no-align", "--command", sql, url or self.url).strip()

    def _password(self) -> str:
        file = self.folder / "password"
        if not file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            file.touch(0o600)
            file.write_text(secrets.token_hex(16))
        return file.read_text()

    def _cluster(self) -> Path:
        """The folder of its data, made at the first start."""
        data = self.folder / "data"
        if data.exists():
            return data
        self._password()
        if os.geteuid() == 0:
            for path in (self.folder, self.folder / "password"):
                shutil.chown(path, OWNER)
        if subprocess.run([*_as_owner(), "test", "-x", str(self.folder)], check=False).returncode != 0:
            raise ServiceError(f"PostgreSQL is run as {OWNER}, who may not enter {self.folder}: start it as another user than root")
        # Beside its place and then moved, so that an interrupted start leaves nothing that looks complete.
        partial = self.folder / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        options = [f"--username={USER}", f"--pwfile={self.folder / 'password'}", "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale"]
        _run(*_as_owner(), program("initdb"), "--no-instructions", *options, "-D", str(partial))
        return partial.rename(data)


class Postgres(OneServer[PostgresServer]):
    """The server that tests share."""

    name = "postgres"

    def __init__(self) -> None:
        super().__init__(PostgresServer(HOME / "postgres", preferred_port=15432))

    def install(self) -> None:
        """Have the package."""
        install()

    def env(self) -> Mapping[str, str]:
        return {"MILLSTREAM_TEST_POSTGRES": self.server.url}


def install() -> None:
    """Have the package, and no server of Debian's."""
    if _programs() is None:
        with _no_cluster():
            require_debian({"initdb": "postgresql"})


def program(name: str) -> str:
    """Where one of its programs is: of the newest version that this machine has."""
    folder = _programs()
    if folder is None:
        raise ServiceError("PostgreSQL's initdb is missing. On Debian or Ubuntu: sudo apt-get install postgresql")
    return str(folder / name)


def _programs() -> Path | None:
    found = max(DEBIAN.glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]), default=None) or shutil.which("initdb")
    return None if found is None else Path(found).resolve().parent


@contextlib.contextmanager
def _no_cluster() -> Iterator[None]:
    """Have a package that is installed meanwhile bring programs alone."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        yield
        return
    NO_CLUSTER.parent.mkdir(parents=True, exist_ok=True)
    NO_CLUSTER.write_text("create_main_cluster = false\n")
    try:
        yield
    finally:
        NO_CLUSTER.unlink()


def _as_owner() -> Sequence[str]:
    """What a command begins with that root may not run as itself; the process stays the one that was started."""
    return ["setpriv", f"--reuid={OWNER}", f"--regid={OWNER}", "--init-groups"] if os.geteuid() == 0 else []


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ServiceError(f"{command[0]} failed with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout
