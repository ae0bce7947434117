"""Python packages that must not be where the tests run: each has an environment of its own."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tools.services.service import HOME, ServiceError


def python_environment(name: str, requirement: str) -> Path:
    """Have a Python environment with one package, and nothing of ours; gives its interpreter."""
    place = HOME / f"{name}-env"
    python = place / "bin/python"
    mark = place / "installed"
    if mark.exists() and mark.read_text() == requirement:
        return python
    ours = Path(__file__).parents[2] / ".venv-uv/bin/uv"
    uv = shutil.which("uv") or (str(ours) if ours.exists() else "")
    if not uv:
        raise ServiceError("uv is missing, which makes environments: `make .venv-uv/bin/uv`, or see https://docs.astral.sh/uv")
    shutil.rmtree(place, ignore_errors=True)
    run(uv, "venv", "--quiet", "--python", sys.executable, str(place))
    run(uv, "pip", "install", "--quiet", "--python", str(python), requirement)
    mark.write_text(requirement)
    return python


def run(*command: str) -> None:
    """Run a command outside of the environment that this runs in; `ServiceError` with what it said when it fails."""
    environment = {name: value for name, value in os.environ.items() if not re.fullmatch("VIRTUAL_ENV|PYTHONPATH", name)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise ServiceError(f"{' '.join(command[:3])} ... failed with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
