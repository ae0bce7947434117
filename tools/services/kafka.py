"""Apache Kafka, as its own jars from Maven Central: one server, or several for tests of what fails."""

import contextlib
import os
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tools.services.service import HOME, Child, ServiceError, lasting_port, require_debian

JAVA = 17
LIBS = HOME / "kafka-libs"
POM = Path(__file__).with_name("kafka.pom.xml")
#: Little memory, and a compiler that starts fast: these servers live for seconds. One that is measured lives longer, and is told so.
_MACHINE = os.environ.get("MILLSTREAM_TEST_KAFKA_JVM", "-Xmx512m -XX:TieredStopAtLevel=1")
JVM = (*_MACHINE.split(), "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
USER, PASSWORD = "alice", "alice-secret"  # noqa: S105 - of a server on loopback, for tests
#: A cluster's id may be anything of this form; one that stays makes the data start again.
CLUSTER_ID = "bWlsbHN0cmVhbS10ZXN0cw"

#: How many clients a fault run has at a time.
LINES = 8


class KafkaCluster:
    """One or several Kafka servers with data in one folder; each can be killed and started again.

    Clients go where a server tells them to. With `lines` each has so many further
    listeners, and tells whoever comes to one of them to come to another port, where
    nobody listens: a test has a proxy there.
    """

    def __init__(
        self, folder: Path, servers: int = 1, *, secure: bool = False, preferred_port: int = 0, settings: Mapping[str, object] = {},
        lines: int = 0,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.servers = range(1, servers + 1)
        self.lines = range(1, lines + 1)
        self._secure = secure
        self._preferred_port = preferred_port
        self._settings = settings
        self._children = {number: Child(folder, f"server-{number}") for number in self.servers}

    @property
    def bootstrap(self) -> str:
        """The addresses of all servers."""
        return ",".join(f"127.0.0.1:{self._ports()[f'plain-{number}']}" for number in self.servers)

    @property
    def secure_bootstrap(self) -> str:
        """The address that takes only clients with TLS and a password."""
        return f"localhost:{self._ports()['secure-1']}"

    @property
    def mutual_bootstrap(self) -> str:
        """The address that takes only clients that have our client's certificate."""
        return f"localhost:{self._ports()['mutual-1']}"

    @property
    def certificate(self) -> Path:
        """The client's certificate."""
        return self.folder / "client.pem"

    @property
    def key(self) -> Path:
        """The client's key, which `PASSWORD` protects."""
        return self.folder / "client.key"

    @property
    def ca(self) -> Path:
        """The certificate that signs the secure address's own."""
        return self.folder / "ca.pem"

    def port(self, number: int = 1) -> int:
        """Where a server takes all clients."""
        return self._ports()[f"plain-{number}"]

    def line(self, line: int, number: int = 1) -> tuple[int, int]:
        """Where a server takes the clients of a line, and where it tells them to come to."""
        ports = self._ports()
        return ports[f"line-{line}-{number}"], ports[f"proxy-{line}-{number}"]

    def pid(self, number: int = 1) -> int | None:
        """The process id of a server, while it runs."""
        return self._children[number].pid

    def start(self) -> None:
        """Start those that do not run, and return when all of them answer."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._secure and not self.ca.exists():
            self._make_certificate()
        if self._secure and not self.certificate.exists():
            self._make_client_certificate()
        starting = [number for number in self.servers if self._children[number].pid is None]
        for number in starting:
            self._configure(number)
        for number in starting:
            self._launch(number)
        for number in starting:
            self._children[number].wait_until(lambda: self.answers(len(self.servers)), "Kafka")

    def start_one(self, number: int) -> None:
        """Start one again; it answers a moment later."""
        self._launch(number)

    def stop(self, *numbers: int, kill: bool = False) -> None:
        """End these, or all of them."""
        for number in numbers or self.servers:
            self._children[number].stop(kill=kill)

    def kill(self, number: int = 1) -> None:
        """End one without a chance to write anything."""
        self._children[number].stop(kill=True)

    def clear(self) -> None:
        """Forget what they held, once they are stopped."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def answers(self, servers: int = 1) -> bool:
        """Whether so many servers are in the cluster, and all that should listen here do."""
        return all(_members(self._ports()[f"plain-{n}"]) >= servers for n in self.servers if self._children[n].pid is not None)

    def tool(self, main: str, *arguments: str) -> str:
        """Run one of Kafka's own console tools; gives what it printed."""
        return _java(main, *arguments)

    def _launch(self, number: int) -> None:
        command = [_program(), *JVM, "-cp", f"{LIBS}/*", "kafka.Kafka", str(self._file(number))]
        self._children[number].start(command, cwd=self.folder)

    def _file(self, number: int) -> Path:
        return self.folder / f"server-{number}.properties"

    def _ports(self) -> dict[str, int]:
        """The ports that this folder's servers have kept since their first start."""
        file = self.folder / "ports"
        known = file.read_text().splitlines() if file.exists() else []
        taken = {name: int(port) for name, port in map(str.split, known)}
        names = [f"{kind}-{number}" for number in self.servers for kind in ("plain", "controller")]
        names += ["secure-1", "mutual-1"] if self._secure else []
        names += [f"{kind}-{line}-{number}" for kind in ("line", "proxy") for line in self.lines for number in self.servers]
        missing = [name for name in names if name not in taken]
        for name in missing:
            port = lasting_port(self._preferred_port if name == "plain-1" else 0)
            while port in taken.values():
                port = lasting_port()
            taken[name] = port
        if missing:
            self.folder.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(f"{name} {port}\n" for name, port in taken.items()))
        return taken

    def _configure(self, number: int) -> None:
        ports, copies = self._ports(), min(3, len(self.servers))
        listening = [f"PLAIN://127.0.0.1:{ports[f'plain-{number}']}", f"CONTROLLER://127.0.0.1:{ports[f'controller-{number}']}"]
        advertised = listening[:1]
        for line in self.lines:
            listening.append(f"LINE{line}://127.0.0.1:{ports[f'line-{line}-{number}']}")
            advertised.append(f"LINE{line}://127.0.0.1:{ports[f'proxy-{line}-{number}']}")
        secure: dict[str, object] = {}
        if self._secure and number == 1:
            for name in ("secure", "mutual"):
                listening.append(f"{name.upper()}://127.0.0.1:{ports[f'{name}-1']}")
                advertised.append(f"{name.upper()}://localhost:{ports[f'{name}-1']}")
            secure = self._secure_settings()
        settings = {
            "process.roles": "broker,controller",
            "node.id": number,
            "controller.quorum.voters": ",".join(f"{n}@127.0.0.1:{ports[f'controller-{n}']}" for n in self.servers),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAIN",
            "listeners": ",".join(listening),
            "advertised.listeners": ",".join(advertised),
            "listener.security.protocol.map": ",".join(
                [
                    "PLAIN:PLAINTEXT", "CONTROLLER:PLAINTEXT", "SECURE:SASL_SSL", "MUTUAL:SSL",
                    *(f"LINE{line}:PLAINTEXT" for line in self.lines),
                ]
            ),
            # One client comes to each.
            **{f"listener.name.line{line}.num.network.threads": 1 for line in self.lines},
            # Tests make hundreds of partitions.
            "log.index.size.max.bytes": 262_144,
            "log.dirs": self.folder / f"data-{number}",
            "auto.create.topics.enable": "false",
            "min.insync.replicas": 2 if copies > 2 else 1,
            "offsets.topic.num.partitions": 5,
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.num.partitions": 5,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": 2 if copies > 2 else 1,
            "group.initial.rebalance.delay.ms": 0,
            # Members of tests come, die and are missed within seconds.
            "group.min.session.timeout.ms": 1000,
            "group.consumer.min.heartbeat.interval.ms": 100,
            "group.consumer.heartbeat.interval.ms": 200,
            "group.consumer.min.session.timeout.ms": 1000,
            "group.consumer.session.timeout.ms": 6000,
            # A server that was killed is known again soon after it is back.
            "broker.heartbeat.interval.ms": 500,
            "broker.session.timeout.ms": 6000,
            **secure,
            **self._settings,
        }
        self._file(number).write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        if not (self.folder / f"data-{number}" / "meta.properties").exists():
            _java("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(self._file(number)))

    def _secure_settings(self) -> dict[str, object]:
        modules = "org.apache.kafka.common.security"
        return {
            "ssl.keystore.location": self.folder / "server.p12",
            "ssl.keystore.password": PASSWORD,
            "ssl.keystore.type": "PKCS12",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            "listener.name.secure.plain.sasl.jaas.config": f'{modules}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";',
            # Their users are the cluster's own, which an administrator makes.
            "listener.name.secure.scram-sha-256.sasl.jaas.config": f"{modules}.scram.ScramLoginModule required;",
            "listener.name.secure.scram-sha-512.sasl.jaas.config": f"{modules}.scram.ScramLoginModule required;",
            "listener.name.mutual.ssl.client.auth": "required",
            "listener.name.mutual.ssl.truststore.location": self.certificate,
            "listener.name.mutual.ssl.truststore.type": "PEM",
        }

    def _make_certificate(self) -> None:
        store = ["-keystore", str(self.folder / "server.p12"), "-storepass", PASSWORD, "-alias", "server"]
        name = ["-dname", "CN=localhost", "-ext", "SAN=dns:localhost,ip:127.0.0.1", "-ext", "bc:c"]
        _run("keytool", "-genkeypair", *store, "-storetype", "PKCS12", "-keyalg", "RSA", "-keysize", "2048", "-validity", "3650", *name)
        _run("keytool", "-exportcert", "-rfc", *store, "-file", str(self.ca))

    def _make_client_certificate(self) -> None:
        files = ["-keyout", str(self.key), "-passout", f"pass:{PASSWORD}", "-out", str(self.certificate)]
        _run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-days", "3650", "-subj", "/CN=client", *files)


class Kafka:
    """One server, which also takes clients with TLS and a password."""

    name = "kafka"

    def __init__(self) -> None:
        self.cluster = KafkaCluster(HOME / "kafka", secure=True, preferred_port=19092, lines=LINES)

    def install(self) -> None:
        install()

    def start(self) -> None:
        self.cluster.start()

    def stop(self, *, kill: bool = False) -> None:
        self.cluster.stop(kill=kill)

    def is_running(self) -> bool:
        return self.cluster.pid() is not None

    def clear(self) -> None:
        self.cluster.clear()

    def env(self) -> Mapping[str, str]:
        secure = f"kafka://{USER}:{PASSWORD}@{self.cluster.secure_bootstrap}?ca={self.cluster.ca}"
        mutual = f"kafka://{self.cluster.mutual_bootstrap}?ca={self.cluster.ca}&cert={self.cluster.certificate}&key={self.cluster.key}"
        return {
            "MILLSTREAM_TEST_KAFKA": f"kafka://{self.cluster.bootstrap}?allow_single_replica=1",
            "MILLSTREAM_TEST_KAFKA_SECURE": f"{secure}&allow_single_replica=1",
            "MILLSTREAM_TEST_KAFKA_MUTUAL": f"{mutual}&allow_single_replica=1",
        }


def install() -> None:
    """Have Java and the jars."""
    require_debian({"java": f"openjdk-{JAVA}-jre-headless", "mvn": "maven", "openssl": "openssl"})
    found = re.search(r'version "(\d+)', _run(_program(), "-version"))
    if found is None or int(found[1]) < JAVA:
        raise ServiceError(f"Kafka needs Java {JAVA} or newer, and {_program()} is older: apt-get install openjdk-17-jre-headless")
    if not any(LIBS.glob("kafka_*.jar")):
        LIBS.parent.mkdir(parents=True, exist_ok=True)
        # Beside its place and then moved, so that an interrupted download leaves nothing that looks complete.
        partial = LIBS.with_name("kafka-libs.partial")
        shutil.rmtree(partial, ignore_errors=True)
        _run("mvn", "-B", "-q", "-f", str(POM), "dependency:copy-dependencies", f"-DoutputDirectory={partial}")
        shutil.rmtree(LIBS, ignore_errors=True)
        partial.rename(LIBS)


def _members(port: int) -> int:
    """How many servers the one at this port knows, itself included; 0 while it does not answer."""
    # A Metadata request, version 1, for no topics: enough of the protocol to know that the cluster stands.
    request = struct.pack(">hhih5si", 3, 1, 1, 5, b"ready", 0)
    with contextlib.suppress(OSError, struct.error), socket.create_connection(("127.0.0.1", port), 1) as connection:
        connection.settimeout(2)
        connection.sendall(struct.pack(">i", len(request)) + request)
        # Its length, the number of our request, and then the array of servers.
        answer = b""
        while len(answer) < 12:
            part = connection.recv(4096)
            if not part:
                return 0
            answer += part
        return struct.unpack(">iii", answer[:12])[2]
    return 0


def _program() -> str:
    return shutil.which("java") or "java"


def _java(main: str, *arguments: str) -> str:
    return _run(_program(), "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", f"{LIBS}/*", main, *arguments)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ServiceError(f"{' '.join(command[:3])} ... failed with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout + done.stderr
