"""What the demo's own client and fault injector did, line by line: the auditor compares the shop with it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Journal:
    """A file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, **entry: object) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def entries(self) -> Iterator[dict[str, Any]]:
        if self._path.exists():
            for line in self._path.read_text("utf-8").splitlines():
                yield json.loads(line)


def answers(data: Path) -> Journal:
    """Orders that the shop has confirmed to its customers."""
    return Journal(data / "answers.jsonl")


def injections(data: Path) -> Journal:
    """Poison and duplicates put into the log."""
    return Journal(data / "injections.jsonl")
