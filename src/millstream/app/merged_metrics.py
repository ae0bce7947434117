"""The metrics of several worker processes as one page."""

from collections.abc import Mapping

from millstream.app.metrics import METRICS

#: What is true of the group or the store, and the same whichever worker tells it.
SHARED = frozenset(name for name, (kind, _, _) in METRICS.items() if kind == "gauge" and name != "millstream_ready")


def merged(pages: Mapping[str, str]) -> str:
    """Prometheus texts by worker, as one in which every series of a worker has its label `worker`.

    What all workers say of the same thing, such as a group's lag, stands there once:
    their sum would be wrong.
    """
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for worker, page in pages.items():
        told = {family for family, lines in samples.items() if lines}
        family = ""
        for line in page.splitlines():
            if line.startswith(("# HELP ", "# TYPE ")):
                family = line.split(" ", 3)[2].removesuffix("_total")
                head = heads.setdefault(family, [])
                samples.setdefault(family, [])
                if line not in head:
                    head.append(line)
            elif line and not line.startswith("#") and not (family in SHARED and family in told):
                samples[family].append(line if family in SHARED else _labelled(line, worker))
    return "".join(f"{line}\n" for family, head in heads.items() for line in (*head, *samples[family]))


def _labelled(sample: str, worker: str) -> str:
    name, brace, rest = sample.partition("{")
    if brace and " " not in name:
        return f'{name}{{worker="{worker}",{rest}'
    name, _, value = sample.partition(" ")
    return f'{name}{{worker="{worker}"}} {value}'
