"""Run one subject once, in this process, and print its figures as JSON: what the harness starts afresh each time."""

import argparse
import asyncio
import importlib
import json
import tempfile
from pathlib import Path

from benchmarks.subject import Run, Subject


def main() -> None:
    """`python -m benchmarks.run_one publish:batches --folder DIR --scale 1`"""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run_one")
    parser.add_argument("subject", help="module:function, such as publish:batches or brokers.kafka:consume")
    parser.add_argument("--folder", default=".", help="where the files are made, and removed again")
    parser.add_argument("--scale", type=float, default=1.0)
    given = parser.parse_args()
    module, _, function = given.subject.partition(":")
    subject: Subject = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="bench-") as folder:
        print(json.dumps(asyncio.run(subject(Run(Path(folder), given.scale)))))


if __name__ == "__main__":
    main()
