"""The soak itself works: a short round of it, whose long form is `make soak-embedded`."""

import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.crash.nursery import Nursery
from tests.crash.soak import KINDS, Soak


@pytest.mark.slow
def test_a_short_round_of_many_processes_breaks_no_promise(tmp_path: Path) -> None:
    """Producers and workers are killed, stopped and started at moments of chance; the history of all of them is clean."""
    with ExitStack() as stack:
        nurseries = [stack.enter_context(Nursery()) for _ in KINDS]
        assert [nursery.run("time:sleep", 0, log=tmp_path / "ready") for nursery in nurseries] == [0] * len(KINDS)
        soak = Soak(1, tmp_path, nurseries)

        soak.many_processes(time.monotonic() + 5)

    assert soak.violations == []
    assert soak.counts["messages"] > 0
    assert soak.counts["effects"] > 0
    assert soak.counts["kills"] + soak.counts["stops"] + soak.counts["polite stops"] > 0
