"""The page of brokers says how every scenario ended on every broker, and is stale when there is another scenario."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from tools.broker_features import PAGE
from tools.suite_results import PLAYED, missing, outdated, read, scenarios, tables

from millstream.testing import BrokerSuite, WorkerSuite

CLASSES = [each for classes in PLAYED.values() for each in classes]
FEATURE, SERVER = "the broker's features do not promise ordered", "MILLSTREAM_TEST_REDIS is not set: make services ONLY=redis"


class Report:
    """What pytest would write: everything passed, except what is said to have ended otherwise."""

    def __init__(self, path: Path, day: str, classes: list[str] = CLASSES) -> None:
        self.path = path
        self._suite = ElementTree.Element("testsuite", timestamp=f"{day}T12:00:00+00:00")
        self._cases = {
            (each, name): ElementTree.SubElement(self._suite, "testcase", classname=f"tests.{each}", name=name)
            for each in classes
            for name in scenarios(WorkerSuite if "Worker" in each or each.startswith("stores.") else BrokerSuite)
        }
        self._write()

    def failed(self, played: str, name: str) -> None:
        """This scenario of this class failed."""
        ElementTree.SubElement(self._cases[played, name], "failure", message="AssertionError")
        self._write()

    def skipped(self, reason: str, *names: str, played: str) -> None:
        """These scenarios of this class were skipped; all of them when none is named."""
        for each, name in self._cases:
            if each == played and (not names or name in names):
                ElementTree.SubElement(self._cases[each, name], "skipped", message=reason)
        self._write()

    def _write(self) -> None:
        self.path.write_bytes(ElementTree.tostring(self._suite))


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """Of one day on which all went well."""
    return Report(tmp_path / "all.xml", "2026-11-25")


def cells(made: str, claim: str) -> list[str]:
    """A row of the page, without its claim."""
    (row,) = (line for line in made.splitlines() if line.startswith(f"| {claim} |"))
    return [each.strip() for each in row.split("|")[2:-1]]


def test_the_page_has_every_scenario_on_every_broker_and_none_that_failed() -> None:
    """`make brokers` and then `make broker-results` bring it up to date."""
    assert outdated(PAGE.read_text(encoding="utf-8")) == []


def test_a_new_scenario_makes_the_page_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody needs a server to know that it was not run for the page."""
    monkeypatch.setattr(WorkerSuite, "test_nothing_is_forgotten_at_all", None, raising=False)

    assert outdated(PAGE.read_text(encoding="utf-8")) == ["is a scenario, and not on the page: Nothing is forgotten at all"]


def test_what_is_gone_and_what_failed_make_the_page_stale(report: Report) -> None:
    """A claim that no test makes any more is taken off; one that does not hold is repaired."""
    report.failed("brokers.test_redis.TestRedisBroker", "test_each_key_keeps_its_order")
    made = f"<!-- made by tools/suite_results.py -->\n{tables(read([report.path]))}<!-- end -->"

    told = outdated(made.replace("| Names are kept or refused |", "| Names are kept |"))

    assert told == [
        "is a scenario, and not on the page: Names are kept or refused",
        "is on the page, and no scenario: Names are kept",
        "failed: Each key keeps its order",
    ]


def test_a_cell_says_whether_it_passed_and_why_it_was_left_out(report: Report) -> None:
    """What a broker does not promise is a dash; what one of several servers cannot do has its reason below."""
    report.skipped(FEATURE, "test_each_key_keeps_its_order", played="brokers.test_aws.TestStandardQueues")
    report.skipped("it is slow", "test_each_key_keeps_its_order", played="brokers.test_aws.TestMotoBroker")
    report.skipped("too large", "test_each_key_keeps_its_order", played="brokers.test_kafka.TestKafkaBroker")

    made = tables(read([report.path]))

    assert cells(made, "Each key keeps its order") == ["✓", "✓", "¹", "✓", "✓", "✓ ²", "–", "✓", "✓"]
    assert made.endswith("\n1. too large\n2. on moto: it is slow\n")
    assert "last on 2026-11-25:" in made


def test_the_newest_result_counts_and_a_server_that_was_not_there_is_none(report: Report, tmp_path: Path) -> None:
    """Brokers may be run one after another: each run skips what belongs to the servers of the others."""
    report.failed("brokers.test_redis.TestRedisBroker", "test_each_key_keeps_its_order")
    newer = Report(tmp_path / "a-newer.xml", "2026-11-26", ["brokers.test_redis.TestRedisBroker", "brokers.test_nats.TestNatsBroker"])
    newer.skipped(SERVER, played="brokers.test_nats.TestNatsBroker")

    reports = read([newer.path, report.path])

    assert cells(tables(reports), "Each key keeps its order") == ["✓"] * 9
    assert reports.days == ["2026-11-25", "2026-11-26"]
    assert (missing(reports), missing(read([newer.path]))[:1]) == ([], ["embedded: brokers.test_sqlite_suite.TestSqliteBroker"])
