"""How a service without a web page says that it is ready: a file with its process id."""

import os
from pathlib import Path

from millstream.demos.shop.options import Settings


def announce(settings: Settings, service: str) -> None:
    """Say that this process is ready."""
    path = ready_file(settings, service)
    path.with_suffix(".new").write_text(str(os.getpid()), "utf-8")
    path.with_suffix(".new").replace(path)


def ready_file(settings: Settings, service: str) -> Path:
    return settings.folder / "run" / f"{service}.ready"


def ready_pid(settings: Settings, service: str) -> int | None:
    """The process that last said it is ready."""
    try:
        return int(ready_file(settings, service).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None
