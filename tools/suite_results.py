"""Writes into docs/reference/brokers.md how the scenarios of the suites ended on each broker: `python -m tools.suite_results REPORT...`.

The reports are those that `make brokers` has pytest write; of several that have a scenario the
newest counts. `--check` changes nothing and needs no report: it ends with 1 if the page has not
exactly the scenarios that there are, on every broker, or one that failed.
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tools.broker_features import BROKERS, PAGE

from millstream.testing import BrokerSuite, WorkerSuite

TABLES = re.compile(r"(<!-- made by tools/suite_results\.py -->\n).*?(<!-- end -->)", re.DOTALL)
SUITES = {"A broker by itself": BrokerSuite, "Workers and their stores on it": WorkerSuite}
#: The tests that play the suites on each broker, and what they have of its own: another server, or another place for the store.
PLAYED: dict[str, dict[str, str]] = {
    "embedded": {
        "brokers.test_sqlite_suite.TestSqliteBroker": "",
        "stores.test_sqlite_suite.TestOneFile": "in one file",
        "stores.test_sqlite_suite.TestTwoFiles": "in two files",
    },
    "memory": {
        "brokers.test_memory.TestMemoryBroker": "",
        "stores.test_memory.TestMemory": "with the store in the same place",
        "stores.test_memory.TestMemoryWithRelay": "with a relay",
    },
    "Kafka": {"brokers.test_kafka.TestKafkaBroker": "", "brokers.test_kafka.TestKafkaWorker": ""},
    "RabbitMQ": {"brokers.test_rabbitmq.TestRabbitBroker": "", "brokers.test_rabbitmq.TestRabbitWorker": ""},
    "RabbitMQ, `streams=1`": {
        "brokers.test_rabbitmq_stream.TestRabbitStreamBroker": "",
        "brokers.test_rabbitmq_stream.TestRabbitStreamWorker": "",
    },
    "SNS+SQS": {
        "brokers.test_aws.TestMinistackBroker": "on ministack",
        "brokers.test_aws.TestElasticMqBroker": "on ElasticMQ",
        "brokers.test_aws.TestMotoBroker": "on moto",
        "brokers.test_aws.TestMinistackWorker": "on ministack",
        "brokers.test_aws.TestElasticMqWorker": "on ElasticMQ",
        "brokers.test_aws.TestMotoWorker": "on moto",
    },
    "SNS+SQS, `fifo=0`": {"brokers.test_aws.TestStandardQueues": "", "brokers.test_aws.TestStandardWorker": ""},
    "NATS JetStream": {"brokers.test_nats.TestNatsBroker": "", "brokers.test_nats.TestNatsWorker": ""},
    "Redis Streams": {"brokers.test_redis.TestRedisBroker": "", "brokers.test_redis.TestRedisWorker": ""},
}
PASSED, NOT_PROMISED, FAILED = "✓", "–", "failed"
#: What a scenario says that is for brokers with other features, and a test whose server was not there.
UNPROMISED, ABSENT = re.compile("the broker's features (do not )?promise "), re.compile(r"MILLSTREAM_TEST_\w+ is not set")
RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")

#: How a scenario of a class ended: one of the three above, or why it was left out.
Results = Mapping[tuple[str, str], str]


@dataclass(frozen=True, slots=True)
class Reports:
    """What was read: how each scenario ended, and on which days."""

    results: Results
    days: Sequence[str]


def scenarios(suite: type[object]) -> list[str]:
    """The names of a suite's tests, in the order in which they are written."""
    return list(dict.fromkeys(name for each in reversed(suite.__mro__) for name in vars(each) if name.startswith("test_")))


def sentence(scenario: str) -> str:
    """What a scenario claims."""
    words = scenario.removeprefix("test_").replace("_", " ")
    return words[0].upper() + words[1:]


def read(paths: Sequence[Path]) -> Reports:
    """The results of all reports; the newest of each scenario."""
    suites = [suite for path in paths for suite in ElementTree.parse(path).iter("testsuite")]  # noqa: S314 - pytest wrote it
    results: dict[tuple[str, str], tuple[str, str]] = {}
    for suite in sorted(suites, key=lambda each: each.attrib["timestamp"]):
        for case in suite.iter("testcase"):
            ended = _ended(case)
            if not ABSENT.match(ended):
                results[case.attrib["classname"].removeprefix("tests."), case.attrib["name"]] = ended, suite.attrib["timestamp"][:10]
    counted = {key: value for key, value in results.items() if any(key[0] in classes for classes in PLAYED.values())}
    return Reports({key: ended for key, (ended, _) in counted.items()}, sorted({day for _, day in counted.values()}))


def tables(reports: Reports) -> str:
    """What belongs on the page."""
    days = " to ".join(dict.fromkeys((reports.days[0], reports.days[-1])))
    said = (
        f"As `make brokers` ends, last on {days}: {PASSED} it passed; {NOT_PROMISED} the broker does not promise it, or promises more; "
        "a small number: somewhere it was left out, for the reason below."
    )
    reasons: dict[str, int] = {}
    parts = [said, *(part for title, suite in SUITES.items() for part in _table(title, suite, reports.results, reasons))]
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join([*parts, "", *notes, ""])


def _table(title: str, suite: type[object], results: Results, reasons: dict[str, int]) -> Iterator[str]:
    names = scenarios(suite)
    played = {broker: [each for each in classes if _has(results, each, suite)] for broker, classes in PLAYED.items()}
    columns = {broker: classes for broker, classes in played.items() if classes}
    yield f"\n<details>\n<summary>{title}: {len(names)} scenarios of <code>{suite.__name__}</code></summary>\n"
    yield f"| | {' | '.join(columns)} |\n| --- |{' --- |' * len(columns)}"
    for name in names:
        cells = [_cell({each: results[each, name] for each in classes}, PLAYED[broker], reasons) for broker, classes in columns.items()]
        yield f"| {sentence(name)} | {' | '.join(cells)} |"
    yield "\n</details>"


def _cell(ended: Mapping[str, str], places: Mapping[str, str], reasons: dict[str, int]) -> str:
    """How a scenario ended on a broker, wherever it was played; what was left out refers to the reason."""
    verdict = next((each for each in (FAILED, PASSED, NOT_PROMISED) if each in ended.values()), "")
    left_out = [f"{places[each]}: {why}".removeprefix(": ") for each, why in ended.items() if why not in (FAILED, PASSED, NOT_PROMISED)]
    numbers = [str(reasons.setdefault(why, len(reasons) + 1)).translate(RAISED) for why in left_out]
    return " ".join(filter(None, [verdict, *numbers]))


def _ended(case: ElementTree.Element) -> str:
    skipped = case.find("skipped")
    if skipped is not None:
        reason = skipped.attrib["message"]
        return NOT_PROMISED if UNPROMISED.match(reason) else reason
    return PASSED if case.find("failure") is None and case.find("error") is None else FAILED


def _has(results: Results, played: str, suite: type[object]) -> bool:
    """Whether these tests are of this suite, and all of them were run."""
    return all((played, name) in results for name in scenarios(suite))


def missing(reports: Reports) -> list[str]:
    """The tests of brokers that have not been run, or not all of them."""
    every = [f"{broker}: {each}" for broker, classes in PLAYED.items() for each in classes]
    return [each for each in every if not any(_has(reports.results, each.rpartition(" ")[2], suite) for suite in SUITES.values())]


def outdated(page: str) -> list[str]:
    """What a page says that is not so any more, as far as that can be known without a server."""
    found = TABLES.search(page)
    made = found[0] if found else ""
    rows = re.findall(r"^\| (\w[^|]*) \|", made, re.MULTILINE)
    expected = [sentence(name) for suite in SUITES.values() for name in scenarios(suite)]
    wrong = [f"is a scenario, and not on the page: {each}" for each in expected if each not in rows]
    wrong += [f"is on the page, and no scenario: {each}" for each in rows if each not in expected]
    wrong += [f"has no column: {broker}" for broker in BROKERS if f"| {broker} |" not in made]
    return wrong + [f"failed: {row}" for row in re.findall(rf"^\| (\w[^|]*) \|.* {FAILED} ", made, re.MULTILINE)]


def main(arguments: Sequence[str]) -> int:
    """Update the page, or check it."""
    page = PAGE.read_text(encoding="utf-8")
    if list(arguments) == ["--check"]:
        wrong = outdated(page)
        print("".join(f"{each}\n" for each in wrong), end="", file=sys.stderr)
        return int(bool(wrong))
    reports = read([Path(each) for each in arguments])
    if absent := missing(reports):
        print("there is no result of", *absent, "run `make brokers`", sep="\n", file=sys.stderr)
        return 1
    made = tables(reports)
    PAGE.write_text(TABLES.sub(lambda found: found[1] + made + found[2], page), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
