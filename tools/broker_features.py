"""Writes the table of features in docs/reference/brokers.md, from what the brokers declare.

`--check` changes nothing, and ends with 1 if the table is not up to date.
"""

import re
import sys
from pathlib import Path

from millstream.app.connect import connect_broker
from millstream.app.system_clock import SystemClock
from millstream.core.broker import Features

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "brokers.md"
TABLE = re.compile(r"(<!-- made by tools/broker_features\.py -->\n).*?(<!-- end -->)", re.DOTALL)

BROKERS = {
    "embedded": "sqlite:///x.db",
    "memory": "memory://",
    "Kafka": "kafka://localhost",
    "RabbitMQ": "rabbitmq://localhost",
    "RabbitMQ, `streams=1`": "rabbitmq://localhost?streams=1",
    "SNS+SQS": "aws://us-east-1",
    "SNS+SQS, `fifo=0`": "aws://us-east-1?fifo=0",
    "NATS JetStream": "nats://localhost",
    "Redis Streams": "redis://localhost",
}
#: A row of the table for each feature, with what it means to who uses it.
ROWS = {
    "ordered": "events of a key arrive in order",
    "replayable": "history can be read, a group moved, `start=\"earliest\"`",
    "durable": "survives the death of every process",
    "shared": "several processes work in a group",
    "positional": "positions that rise; a redelivery is known by them",
    "transactional": "publishes and settles in one transaction: `exactly_once=True`",
    "marks": "the relay copies the outbox exactly once",
    "broadcast": "operators' actions reach every process",
    "shares_partitions": "members share a partition; the inbox is the only fence",
    "retains_regardless": "retention does not wait for groups",
    "deduplicates": "an event published twice within minutes is stored once",
    "framed": "events of contracts with `wire=\"confluent\"` are published in Confluent's frame",
}


def table() -> str:
    """The table as Markdown."""
    features: dict[str, Features] = {name: connect_broker(url, SystemClock()).features for name, url in BROKERS.items()}
    if missing := set(Features.__struct_fields__) - ROWS.keys() - {"largest"}:
        raise SystemExit(f"tools/broker_features.py has no row for {', '.join(sorted(missing))}")
    lines = [f"| | {' | '.join(features)} |", f"| --- |{' --- |' * len(features)}"]
    for field, meaning in ROWS.items():
        lines.append(f"| `{field}`: {meaning} | {' | '.join('yes' if getattr(each, field) else '–' for each in features.values())} |")
    lines.append(f"| largest body | {' | '.join(_size(each.largest) for each in features.values())} |")
    return "\n".join(lines) + "\n"


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"


def main() -> int:
    """Update the page, or check it."""
    page = PAGE.read_text(encoding="utf-8")
    made = table()
    new = TABLE.sub(lambda found: found[1] + made + found[2], page)
    if "--check" in sys.argv:
        return int(new != page)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
