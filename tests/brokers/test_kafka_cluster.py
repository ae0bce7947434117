"""A server that has only just come, or come back: a stand-in for it, since the real one is like that for moments only."""

import asyncio
import contextlib
import struct
import subprocess
import sys

import pytest

from millstream.contracts.errors import BrokerUnavailableError

pytestmark = pytest.mark.slow

METADATA, API_VERSIONS = 3, 18
#: In a process of its own: where librdkafka finds a fault, it ends the process.
CONNECT = """
import asyncio, sys
from millstream.brokers import kafka_cluster
from millstream.brokers.kafka_cluster import KafkaCluster
from millstream.brokers.kafka_settings import settings_of
from millstream.contracts.errors import MillstreamError

kafka_cluster.PATIENCE = float(sys.argv[2])
cluster = KafkaCluster(settings_of(sys.argv[1]))
try:
    asyncio.run(cluster.connect())
    print("found", cluster.id, cluster.servers)
except MillstreamError as error:
    print(type(error).__name__, error)
"""


def _text(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


class Standin:
    """A server that tells, when it is asked for the servers of its cluster, of itself or of none."""

    def __init__(self, empty: range) -> None:
        self._empty = empty
        """Which of its answers name no server."""
        self.asked = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                (size,) = struct.unpack(">i", await reader.readexactly(4))
                kind, version, number = struct.unpack(">hhi", (await reader.readexactly(size))[:8])
                answer = struct.pack(">i", number) + (self._metadata() if kind == METADATA else self._versions(version))
                writer.write(struct.pack(">i", len(answer)) + answer)
        writer.close()

    def _versions(self, asked: int) -> bytes:
        refused = 35 if asked > 0 else 0
        return struct.pack(">hi", refused, 2) + struct.pack(">hhh", METADATA, 0, 4) + struct.pack(">hhh", API_VERSIONS, 0, 0)

    def _metadata(self) -> bytes:
        self.asked += 1
        there = self.asked - 1 not in self._empty
        servers = [struct.pack(">i", 1) + _text("127.0.0.1") + struct.pack(">ih", self.port, -1)] if there else []
        return struct.pack(">ii", 0, len(servers)) + b"".join(servers) + _text("a-cluster") + struct.pack(">ii", 1, 0)


async def _connected(standin: Standin, patience: float = 10.0) -> str:
    server = await asyncio.start_server(standin.serve, "127.0.0.1", 0)
    async with server:
        standin.port = server.sockets[0].getsockname()[1]
        url = f"kafka://127.0.0.1:{standin.port}?group_protocol=classic"
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", CONNECT, url, str(patience)], capture_output=True, text=True, timeout=60, check=False
        )
    return f"{done.stdout.strip() or done.stderr.strip()} ({done.returncode})"


async def test_a_server_that_knows_of_no_server_for_a_moment_is_asked_again() -> None:
    """Not even itself, as when it was just started or stood still for long: librdkafka would end the process at such an answer."""
    standin = Standin(range(1, 4))

    assert await _connected(standin) == "found a-cluster 1 (0)"

    assert standin.asked > 4


async def test_a_server_that_never_knows_of_a_server_is_an_error_that_may_pass() -> None:
    """After a while, in words."""
    said = await _connected(Standin(range(1, 1_000_000)), patience=1.0)

    assert said.startswith(BrokerUnavailableError.__name__)
    assert "finding the cluster" in said
