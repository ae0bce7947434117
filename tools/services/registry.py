"""A schema registry with Confluent's API: Apicurio Registry from Maven Central, with its schemas in memory.

Tests of Confluent's serializers start one for themselves; `make services` does not.
"""

import shutil
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from tools.services.environment import run
from tools.services.service import HOME, Child, ServiceError, kept_port, require_debian

#: Newer ones want a newer Java than Debian 12 has.
VERSION = "3.0.9"
ARCHIVE = f"https://repo.maven.apache.org/maven2/io/apicurio/apicurio-registry-app/{VERSION}/apicurio-registry-app-{VERSION}-all.tar.gz"
PROGRAM = HOME / f"apicurio-{VERSION}"
JVM = ("-Xmx256m", "-XX:TieredStopAtLevel=1")


class Registry:
    """One registry, at a port that it keeps until it is cleared; it forgets everything when it stops."""

    name = "registry"

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or HOME / "registry"
        self._child = Child(self.folder, "registry")

    @property
    def url(self) -> str:
        """Where it speaks as Confluent's does."""
        return f"http://127.0.0.1:{kept_port(self.folder)}/apis/ccompat/v7"

    def install(self) -> None:
        require_debian({"java": "openjdk-17-jre-headless"})
        if PROGRAM.exists():
            return
        # Beside its place and then moved, so that an interrupted download leaves nothing that looks complete.
        partial = PROGRAM.with_name(f"{PROGRAM.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        archive = partial / "archive.tar.gz"
        try:
            with urllib.request.urlopen(ARCHIVE, timeout=60) as coming, archive.open("wb") as file:  # noqa: S310
                shutil.copyfileobj(coming, file)
        except OSError as error:
            raise ServiceError(f"Apicurio Registry cannot be had from {ARCHIVE}: {error}") from error
        run("tar", "-xzf", str(archive), "-C", str(partial))
        archive.unlink()
        partial.rename(PROGRAM)

    def start(self) -> None:
        port = self.url.rpartition(":")[2].partition("/")[0]
        if self._child.pid is None:
            program = str(PROGRAM / f"apicurio-registry-app-{VERSION}-runner.jar")
            where = {"QUARKUS_HTTP_HOST": "127.0.0.1", "QUARKUS_HTTP_PORT": port}
            self._child.start([shutil.which("java") or "java", *JVM, "-jar", program], env=where, cwd=self.folder)
            self._child.wait_until(self._answers, "Apicurio Registry")

    def stop(self, *, kill: bool = False) -> None:
        self._child.stop(kill=kill)

    def is_running(self) -> bool:
        return self._child.pid is not None

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def env(self) -> Mapping[str, str]:
        return {"MILLSTREAM_TEST_REGISTRY": self.url}

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/subjects", timeout=2):  # noqa: S310
                return True
        except OSError:
            return False
