"""What stands in for SNS and SQS: ministack and moto, each in an environment of its own, and for SQS alone ElasticMQ from Maven Central."""

import contextlib
import os
import shutil
import signal
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.services.environment import python_environment, run
from tools.services.service import HOME, Child, ServiceError, kept_port, require_debian

#: They want clients with packages of their own versions: never in the environment that tests run in.
MINISTACK, MOTO = "ministack==1.5.33", "moto[server]==5.2.5"
LIBS = HOME / "elasticmq-libs"
POM = Path(__file__).with_name("elasticmq.pom.xml")
REGION, ACCOUNT = "us-east-1", "000000000000"


class Double:
    """One of them, at a port that it keeps until it is cleared."""

    name: str
    variable: str
    port = 0

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or HOME / "aws" / self.name
        self._child = Child(self.folder, self.name)

    @property
    def pid(self) -> int | None:
        """Its process id, while it runs."""
        return self._child.pid

    @property
    def endpoint(self) -> str:
        """Its address, as clients of AWS take it."""
        return f"http://127.0.0.1:{kept_port(self.folder, self.port)}"

    @property
    def url(self) -> str:
        """The same as the URL of a broker, with a key that nobody checks."""
        return f"aws://test:test@{REGION}?endpoint={self.endpoint}"

    def install(self) -> None:
        """Have its program."""
        raise NotImplementedError

    def command(self, port: str) -> tuple[Sequence[str], Mapping[str, str]]:
        """What is started, and what it finds in its environment."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it, and return when it answers; nothing happens if it runs."""
        if self.pid is None:
            command, environment = self.command(self.endpoint.rpartition(":")[2])
            self._child.start(command, env=environment, cwd=self.folder)
            self._child.wait_until(self._answers, self.name)

    def stop(self, *, kill: bool = False) -> None:
        """End it; it forgets everything."""
        children = self.children()
        self._child.stop(kill=kill)
        # Those of one that was killed do not notice that it is gone.
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    def pause(self) -> None:
        """Have it stand still: it keeps what it has, and answers nobody, as behind a network that is cut."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Have it go on where it stood."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        pid = self.pid
        if pid is None:
            raise ServiceError(f"{self.name} does not run, so it cannot be stopped or told to go on: `make services ONLY=aws` starts it")
        # Whoever answers may be one that it has started.
        for one in (pid, *self.children()):
            os.kill(one, number)

    def children(self) -> Sequence[int]:
        """The processes that it has started, where they can be known."""
        file = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(pid) for pid in file.read_text().split()] if self.pid is not None and file.exists() else []

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint}/?Action=ListQueues&Version=2012-11-05", timeout=2):  # noqa: S310
                return True
        except urllib.error.HTTPError:
            return True  # It did not like the question, but it is there.
        except OSError:
            return False


class Ministack(Double):
    """The fast one."""

    name, variable, port = "ministack", "MILLSTREAM_TEST_AWS", 25001

    def install(self) -> None:
        python_environment(self.name, MINISTACK)

    def command(self, port: str) -> tuple[Sequence[str], Mapping[str, str]]:
        command = [str(HOME / "ministack-env/bin/python"), "-m", "hypercorn", "ministack.app:app", "--bind", f"127.0.0.1:{port}"]
        return command, {"GATEWAY_PORT": port, "MINISTACK_HOST": "127.0.0.1", "STATE_DIR": str(self.folder), "LOG_LEVEL": "WARNING"}


class Moto(Double):
    """The one that most people know; its work grows with what it holds."""

    name, variable, port = "moto", "MILLSTREAM_TEST_AWS_MOTO", 25002

    def install(self) -> None:
        python_environment(self.name, MOTO)

    def command(self, port: str) -> tuple[Sequence[str], Mapping[str, str]]:
        return [str(HOME / "moto-env/bin/moto_server"), "-H", "127.0.0.1", "-p", port], {}


class ElasticMq(Double):
    """SQS alone, and strict about its limits."""

    name, variable, port = "elasticmq", "MILLSTREAM_TEST_AWS_ELASTICMQ", 25003

    def install(self) -> None:
        require_debian({"java": "openjdk-17-jre-headless", "mvn": "maven"})
        if not any(LIBS.glob("elasticmq-server*.jar")):
            # Beside its place and then moved, so that an interrupted download leaves nothing that looks complete.
            partial = LIBS.with_name("elasticmq-libs.partial")
            shutil.rmtree(partial, ignore_errors=True)
            run("mvn", "-B", "-q", "-f", str(POM), "dependency:copy-dependencies", f"-DoutputDirectory={partial}")
            shutil.rmtree(LIBS, ignore_errors=True)
            partial.rename(LIBS)

    def command(self, port: str) -> tuple[Sequence[str], Mapping[str, str]]:
        settings = self.folder / "elasticmq.conf"
        settings.write_text(
            f'node-address {{ protocol = http, host = "127.0.0.1", port = {port}, context-path = "" }}\n'
            f'rest-sqs {{ enabled = true, bind-hostname = "127.0.0.1", bind-port = {port}, sqs-limits = strict }}\n'
            "rest-stats { enabled = false }\n"
            f'aws {{ region = "{REGION}", accountId = "{ACCOUNT}" }}\n'
        )
        jvm = ["-Xmx256m", "-XX:TieredStopAtLevel=1", f"-Dconfig.file={settings}"]
        return [shutil.which("java") or "java", *jvm, "-cp", f"{LIBS}/*", "org.elasticmq.server.Main"], {}


class Aws:
    """All three of them: independent implementations, of which each has to do."""

    name = "aws"

    def __init__(self) -> None:
        self.doubles: Sequence[Double] = (Ministack(), Moto(), ElasticMq())

    def install(self) -> None:
        for double in self.doubles:
            double.install()

    def start(self) -> None:
        for double in self.doubles:
            double.start()

    def stop(self, *, kill: bool = False) -> None:
        for double in self.doubles:
            double.stop(kill=kill)

    def is_running(self) -> bool:
        return all(double.pid is not None for double in self.doubles)

    def clear(self) -> None:
        shutil.rmtree(HOME / "aws", ignore_errors=True)

    def env(self) -> Mapping[str, str]:
        return {double.variable: double.url for double in self.doubles}
