"""`python -m benchmarks`: measure everything, print a table, perhaps write JSON. Never a test: it always exits 0."""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from benchmarks import consume, facts, footprint, growth, latency, publish
from benchmarks.brokers import aws, kafka, nats, rabbitmq, redis
from benchmarks.harness import Result, load, run_family
from benchmarks.table import as_json, text

FAMILIES = {
    "publish": publish.FAMILY,
    "consume": consume.FAMILY,
    "facts": facts.FAMILY,
    "latency": latency.FAMILY,
    "start": footprint.START,
    "memory": footprint.FAMILY,
    "growth": growth.FAMILY,
    "growth-large": growth.LARGE,
    "kafka": kafka.FAMILY,
    "rabbitmq": rabbitmq.FAMILY,
    "nats": nats.FAMILY,
    "redis": redis.FAMILY,
    "aws": aws.FAMILY,
}
#: Only when they are asked for: all the others together take less than five minutes.
LONG = ("facts", "growth-large", "kafka", "rabbitmq", "nats", "redis", "aws")
#: A busier machine than this, per processor, makes rates that say little.
BUSY = 0.3


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(prog="make bench", description="Measure Millstream beside the limits of this machine.")
    choices = f"some of {', '.join(FAMILIES)}; all but {', '.join(LONG)} unless said"
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=choices)
    parser.add_argument("--quick", action="store_true", help="one round with a fifth of the events: a look, not a measurement")
    parser.add_argument("--rounds", type=int, help="how often each subject is run; the family's own unless said")
    parser.add_argument("--json", metavar="FILE", help="also write the results there, as JSON")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="the disk to measure on (default %(default)s)")
    given = parser.parse_args()
    if unknown := [name for name in given.families if name not in FAMILIES]:
        parser.error(f"there is no {', '.join(unknown)}; choose of {', '.join(FAMILIES)}")

    busy, processors = load()
    if busy > BUSY * processors:
        print(f"This machine is busy (load {busy:.1f}): rates will be low; read the CPU column.", file=sys.stderr)
    results: list[Result] = []
    for name in given.families or [name for name in FAMILIES if name not in LONG]:
        family = FAMILIES[name]
        if family.needs and not os.environ.get(family.needs):
            print(f"{name} is left out: {family.needs} is not set. `make bench-brokers ONLY={name}` starts a server.", file=sys.stderr)
            continue
        rounds = given.rounds or (1 if given.quick else family.rounds)
        results += run_family(family, Path(given.folder), rounds=rounds, scale=0.2 if given.quick else 1.0, told=_tell)
    _tell("")
    print(text(results))
    if given.json:
        Path(given.json).write_text(json.dumps(as_json(results), indent=2) + "\n")


def _tell(what: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
