"""Faults under load on every broker: the history of what was sent, polled and done has no anomaly."""

import os
from pathlib import Path

import pytest
from tests.brokers.fault_subjects import SUBJECTS, Subject
from tests.brokers.faults import Run
from tests.brokers.servers import server_url


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "subject",
    # What stands in for AWS is so slow that a run takes minutes.
    [pytest.param(subject, id=name, marks=[pytest.mark.nightly] if name == "aws" else []) for name, subject in SUBJECTS.items()],
)
def test_no_fault_leaves_an_anomaly_in_the_history(subject: Subject, tmp_path: Path) -> None:
    """Clients are killed, stopped and lose their network, servers are killed and stopped: nothing is lost, turned round or made up."""
    if subject.service is not None:
        url = server_url(subject.service.name, subject.variable)
        if not subject.own and subject.service.env().get(subject.variable) != url:
            pytest.skip("this server was not started by `make services`, so it is not harmed")

    with subject.running():
        report = Run(subject, tmp_path, seed=int(os.environ.get("MILLSTREAM_SEED", "1")), short=True)()

    assert report.violations == [], str(report)
    assert report.acknowledged > 0
