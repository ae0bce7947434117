"""Faults under load on every broker: the history of what was sent, polled and done has no anomaly."""

import os
import secrets
from pathlib import Path

import pytest
from tests.brokers.fault_network import Network
from tests.brokers.fault_subjects import SUBJECTS, Subject
from tests.brokers.faults import Run, main
from tests.brokers.servers import server_url
from tests.brokers.words import made, until

from millstream.app.connect import connect_broker
from millstream.app.system_clock import SystemClock
from millstream.contracts.errors import BrokerUnavailableError, MillstreamError
from millstream.core.broker import Topic


@pytest.mark.slow
@pytest.mark.parametrize("subject", [pytest.param(s, id=name) for name, s in SUBJECTS.items() if s.servers and not s.own])
async def test_a_client_has_no_way_to_a_server_but_its_line(subject: Subject, tmp_path: Path) -> None:
    """Whatever servers tell clients of their addresses: who is cut off publishes nothing until the line is mended."""
    _is_ours(subject)
    direct = subject.url(tmp_path)
    url = f"{direct}{'&' if '?' in direct else '?'}timeout=1"
    topic = f"line.{secrets.token_hex(4)}"
    with Network(subject.lines(url)) as network:
        async with connect_broker(network.through(7, url), SystemClock()) as broker:
            await broker.declare([Topic(name=topic, partitions=1, keyed=True)], [])
            results: list[MillstreamError | None] = []

            async def publish() -> None:
                results.extend(await broker.publish(made(topic, 1, prefix=f"{len(results)}")))

            await until(lambda: None in results, publish, lambda: f"nothing was published: {results}")
            network.cut(7, "refused")
            await publish()
            cut = results[-1]
            results.clear()
            network.mend(7)
            await until(lambda: None in results, publish, lambda: f"nothing was published any more: {results}")

    assert isinstance(cut, BrokerUnavailableError)


def test_a_seed_repeats_its_faults(tmp_path: Path) -> None:
    """The same seed gives the same faults in the same order, and another seed another order."""

    def faults(seed: int) -> list[str]:
        return [fault.__name__ for fault in Run(SUBJECTS["sqlite"], tmp_path, seed)._faults()]

    assert faults(3) == faults(3)
    assert sorted(faults(3)) == sorted(faults(4))
    assert faults(3) != faults(4)


def test_a_run_says_how_it_is_repeated(tmp_path: Path) -> None:
    """With its name and seed, and whether it was the short form."""
    assert "tests.brokers.faults --subject sqlite --seconds 1 --seed 3 --short" in Run(SUBJECTS["sqlite"], tmp_path, 3, short=True).name


@pytest.mark.parametrize(("arguments", "said"), [(["nothing"], "there is no service nothing"), ([], "is not set: make services")])
def test_whoever_asks_for_what_is_not_there_is_told_at_once(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is started."""
    for subject in SUBJECTS.values():
        monkeypatch.delenv(subject.variable or "NONE", raising=False)

    with pytest.raises(SystemExit):
        main(arguments)

    assert said in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "subject",
    # On AWS's stand-in a run takes minutes, and three servers of Kafka are more than CI has room for.
    [pytest.param(s, id=name, marks=[pytest.mark.nightly] if s.of == "aws" or s.own else []) for name, s in SUBJECTS.items()],
)
def test_no_fault_leaves_an_anomaly_in_the_history(subject: Subject, tmp_path: Path) -> None:
    """Clients are killed, stopped and lose their network, servers are killed and stopped: nothing is lost, turned round or made up."""
    _is_ours(subject)

    with subject.running():
        report = Run(subject, tmp_path, seed=int(os.environ.get("MILLSTREAM_SEED", "1")), short=True)()

    assert report.violations == [], str(report)
    assert report.acknowledged > 0
    assert report.effects > 0


def _is_ours(subject: Subject) -> None:
    """Skip what nobody has started, or not we."""
    if subject.service is not None:
        url = server_url(subject.service.name, subject.variable)
        if not subject.own and subject.service.env().get(subject.variable) != url:
            pytest.skip("this server was not started by `make services`, so it is not harmed")
