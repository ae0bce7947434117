"""`kill -9` at every await, statement, write and sync of a process that publishes, handles, retries, parks, redrives and relays."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from tests.crash.campaign import Campaign, Report, Scenario, scenarios
from tests.crash.nursery import Nursery

#: What processes must have been killed at, or the others prove little: words of the places' names.
ESSENTIAL = {
    "one": [
        "commit broker_page effect store_inbox",
        "synced broker_page effect store_inbox",
        "commit store_parked store_progress",
        "commit store_parked store_request",
        "insert effect",
        "insert store_inbox",
        "delete store_parked",
        "delete store_request",
        "commit broker_position",
        "await exactly_once.py publish_and_settle",
        "commit store_suspect",
        "synced store_suspect",
        "await commit_loop",
        "await transactions.py _begin",
        "await transactions.py _settle",
        "await _take_alone note_attempt",
        "await _assigned assign",
        "await leave unassign",
        "await execute",
    ],
    "two": [
        "await publish_many sqlite.py",
        "commit effect store_inbox store_outbox",
        "synced effect store_inbox store_outbox",
        "commit broker_mark broker_page",
        "synced broker_mark broker_page",
        "commit store_outbox",
        "commit broker_page broker_position",
        "synced store_parked store_progress",
        "delete store_request",
        "await relay.py _publish",
        "await relay.py sent",
    ],
}


@pytest.fixture(scope="module")
def nurseries() -> Iterable[Sequence[Nursery]]:
    """Two processes that fork children, for two processors."""
    with Nursery() as one, Nursery() as two:
        yield one, two


@pytest.fixture(scope="module")
def reports() -> dict[str, list[Report]]:
    """What came of the scenarios so far, by layout."""
    return {"one": [], "two": []}


@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.parametrize("scenario", scenarios(), ids=lambda scenario: scenario.name)
def test_a_kill_loses_nothing_and_doubles_nothing(
    scenario: Scenario, nurseries: Sequence[Nursery], reports: dict[str, list[Report]], tmp_path: Path
) -> None:
    """After each kill a fresh process goes on: all that was acknowledged is there, in order, with its effects once.

    A place at which an earlier scenario was killed already is left out here; `make soak-embedded` kills at each passage of each.
    """
    report = Campaign(scenario, tmp_path / "runs", nurseries).run(1, skip=places(reports[scenario.files]))

    reports[scenario.files].append(report)
    assert report.violations == []


@pytest.mark.slow
@pytest.mark.parametrize("files", ["one", "two"])
def test_the_steps_that_matter_were_among_the_kills(files: str, reports: dict[str, list[Report]]) -> None:
    """Publishing, handling, committing, settling, parking, unblocking and relaying were each interrupted.

    What is committed together differs from run to run, so that some of the places that a rehearsal went through are never come by.
    """
    if not reports[files]:
        pytest.skip("the kills were not run")

    killed = places(reports[files])
    left_out = [words for words in ESSENTIAL[files] if not any(all(w in place for w in words.split()) for place in killed)]
    missed = [f"{report.scenario}: {point.name}" for report in reports[files] for point in report.missed]

    assert left_out == []
    assert sum(len(report.killed) for report in reports[files]) > 2 * len(missed), missed


def places(reports: Sequence[Report]) -> frozenset[str]:
    """Where processes were killed."""
    return frozenset[str]().union(*(report.places() for report in reports))
