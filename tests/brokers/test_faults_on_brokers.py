"""Faults under load on every broker: the history of what was sent and polled has no anomaly."""

import os
from pathlib import Path

import pytest
from tests.brokers.faults import SUBJECTS, Run, Subject
from tests.brokers.servers import server_url


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "subject",
    # What stands in for AWS is so slow that a run takes minutes.
    [pytest.param(subject, id=name, marks=[pytest.mark.nightly] if name == "aws" else []) for name, subject in SUBJECTS.items()],
)
def test_no_fault_leaves_an_anomaly_in_the_history(subject: Subject, tmp_path: Path) -> None:
    """Members are killed, added and stopped, the broker is killed, restarted and cut off: nothing is lost, turned round or made up."""
    if subject.service is None:
        url = f"sqlite:///{tmp_path}/broker.db"
    else:
        url = server_url(subject.name, subject.variable)
        if subject.service.env().get(subject.variable) != url:
            pytest.skip("this server was not started by `make services`, so it is not harmed")

    report = Run(subject, url + subject.options, tmp_path, seed=int(os.environ.get("MILLSTREAM_SEED", "1")))()

    assert report.violations == [], str(report)
    assert report.acknowledged > 0
