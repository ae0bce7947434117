"""The brokers that a fault run can have: their servers, the ways to them, and what they bear."""

import os
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.brokers.fault_network import Route
from tools.services.aws import Aws, Double, Ministack
from tools.services.kafka import LINES, Kafka, KafkaCluster
from tools.services.nats import Nats
from tools.services.rabbitmq import RabbitMQ
from tools.services.redis import Redis
from tools.services.service import HOME, Service


class Server(Protocol):
    """One server, which can be harmed."""

    @property
    def pid(self) -> int | None: ...

    def start(self) -> None: ...

    def stop(self, *, kill: bool = False) -> None: ...


def pause(server: Server) -> None:
    """Have it stand still, and answer nobody."""
    if isinstance(server, Double):
        server.pause()
    else:
        _signal(server, signal.SIGSTOP)


def resume(server: Server) -> None:
    """Have it go on where it stood."""
    if isinstance(server, Double):
        server.resume()
    else:
        _signal(server, signal.SIGCONT)


def _signal(server: Server, number: signal.Signals) -> None:
    pid = server.pid
    assert pid is not None
    os.kill(pid, number)


@dataclass(frozen=True, slots=True)
class KafkaServer:
    """One of a cluster."""

    cluster: KafkaCluster
    number: int

    @property
    def pid(self) -> int | None:
        return self.cluster.pid(self.number)

    def start(self) -> None:
        self.cluster.start()

    def stop(self, *, kill: bool = False) -> None:
        self.cluster.stop(self.number, kill=kill)


@dataclass(frozen=True, slots=True)
class Subject:
    """A broker under faults."""

    name: str
    service: Service | None = None
    """Whose server it is, or whose programs it needs; None for the embedded broker, which has no server."""
    variable: str = ""
    servers: Sequence[Server] = ()
    cluster: KafkaCluster | None = None
    """Kafka's, whose servers say to clients where to come to."""
    own: bool = False
    """Whether its servers are started for the run."""
    keeps: bool = True
    """Whether a server has, when it is started again, what it had; one that keeps all in memory is not killed."""
    options: str = ""
    """What is added to the URL."""
    silence: float = 10.0
    """Seconds without a sign of life after which somebody is given up."""

    @property
    def of(self) -> str:
        """The service that it belongs to, by its name."""
        return self.name if self.service is None else self.service.name

    def url(self, folder: Path) -> str:
        """Where it is, for whoever stands beside it."""
        if self.service is None:
            return f"sqlite:///{folder}/broker.db"
        if self.own and self.cluster is not None:
            return f"kafka://{self.cluster.bootstrap}{self.options}"
        return os.environ[self.variable] + self.options

    def lines(self, url: str) -> list[list[Route]]:
        """The ways to all servers, for so many clients as a run has at a time."""
        if self.cluster is not None:
            ways = self.cluster
            return [[Route(ways.port(number), *ways.line(line, number)) for number in ways.servers] for line in ways.lines]
        ports = [int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", url)]
        return [[Route(port, port) for port in ports] for _ in range(LINES)]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Have its servers, and remove those that were started for this."""
        if not self.own or self.cluster is None or self.service is None:
            yield
            return
        self.service.install()
        self.cluster.clear()
        try:
            self.cluster.start()
            yield
        finally:
            self.cluster.stop(kill=True)
            self.cluster.clear()


_three = KafkaCluster(HOME / "kafka-three", servers=3, lines=LINES)

SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("sqlite"),
        Subject("kafka", Kafka(), "MILLSTREAM_TEST_KAFKA", [KafkaServer(Kafka().cluster, 1)], cluster=Kafka().cluster, silence=6),
        Subject(
            "kafka-three", Kafka(), "MILLSTREAM_TEST_KAFKA", [KafkaServer(_three, n) for n in _three.servers], cluster=_three, own=True,
            silence=6,
        ),
        Subject("rabbitmq", RabbitMQ(), "MILLSTREAM_TEST_RABBITMQ", [RabbitMQ().server], options="?heartbeat=1", silence=2),
        Subject(
            "rabbitmq-streams", RabbitMQ(), "MILLSTREAM_TEST_RABBITMQ", [RabbitMQ().server], options="?heartbeat=1&streams=1", silence=2
        ),
        Subject("redis", Redis(), "MILLSTREAM_TEST_REDIS", [Redis().server]),
        Subject("nats", Nats(), "MILLSTREAM_TEST_NATS", [Nats().server], silence=15),
        Subject("aws", Aws(), "MILLSTREAM_TEST_AWS", [Ministack()], keeps=False, options="&visibility=5&timeout=2", silence=5),
    )
}  # fmt: skip
