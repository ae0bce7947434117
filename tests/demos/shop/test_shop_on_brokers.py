"""The shop on real brokers: the same services, the same proof, also while the broker itself goes away and comes back."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.brokers.servers import server_url
from tools.services.aws import Aws, Ministack
from tools.services.kafka import Kafka
from tools.services.nats import Nats
from tools.services.rabbitmq import RabbitMQ
from tools.services.redis import Redis
from tools.services.service import Service

COMMAND = (sys.executable, "-m", "millstream", "demo", "shop", "--prove", "--seed", "1", "--output", "json")
#: Few orders, and in seconds what minutes of chance would bring.
BRIEFLY = ("--seconds", "4", "--rate", "10", "--kill", "inventory", "--duplicates", "5", "--poison", "2")


def assert_holds(code: int, out: str, err: str, url: str) -> None:
    """No promise is broken, on this broker, and there was something that could have broken them."""
    assert code in (0, 1), err
    proof: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert [each for each in proof["invariants"] if not each["ok"]] == []
    assert (code, proof["broker"]) == (0, url.partition(":")[0])
    assert all(proof["counts"][name] for name in ("orders", "published", "kills", "duplicates", "poison"))


def stop_and_kill(service: Service, at: Callable[[int], None]) -> None:
    """The server is stopped as one should, and later killed; each time it comes back with what it had."""
    at(40)
    service.stop()
    service.start()
    at(120)
    service.stop(kill=True)
    service.start()


def cut_off(service: Service, at: Callable[[int], None]) -> None:
    """What keeps its messages in memory stands still instead, as if the network were cut: for less, and for longer, than anybody waits."""
    assert service.is_running()
    double = Ministack()
    for answers, seconds in ((20, 0.5), (40, 5.0)):
        at(answers)
        double.pause()
        try:
            # Services that are killed meanwhile answer nobody until they have started again, for which they need the broker.
            time.sleep(seconds)
        finally:
            double.resume()


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("service", "variable", "options", "fault"),
    [
        pytest.param(Kafka(), "MILLSTREAM_TEST_KAFKA", "", stop_and_kill, marks=pytest.mark.nightly),
        pytest.param(RabbitMQ(), "MILLSTREAM_TEST_RABBITMQ", "", stop_and_kill, marks=pytest.mark.nightly),
        pytest.param(Nats(), "MILLSTREAM_TEST_NATS", "", stop_and_kill, marks=pytest.mark.nightly),
        (Redis(), "MILLSTREAM_TEST_REDIS", "", stop_and_kill),
        # Each of three tries of a request, which is half a minute for Amazon itself.
        pytest.param(Aws(), "MILLSTREAM_TEST_AWS", "&timeout=1", cut_off, marks=pytest.mark.nightly),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_the_proof_holds_while_the_broker_goes_away_and_comes_back(
    service: Service, variable: str, options: str, fault: Callable[[Service, Callable[[int], None]], None], tmp_path: Path
) -> None:
    """Services are killed, events come twice and poisoned, and the broker has its own troubles: no promise is broken."""
    url = server_url(service.name, variable)
    if service.env().get(variable) != url:
        pytest.skip("this server was not started by `make services`, so it is not stopped")
    run = subprocess.Popen(
        [*COMMAND, "--seconds", "20", "--broker", url + options, "--data", str(tmp_path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    answers = tmp_path / "answers.jsonl"

    def answered(count: int) -> None:
        """Wait until customers have so many answers; those of a shop that is closed already will do."""
        while not (answers.exists() and answers.read_bytes().count(b"\n") >= count):
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.wait(0.05)
                return

    fault(service, answered)
    out, err = run.communicate(timeout=120)

    assert_holds(run.returncode, out, err, url)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("service", "variable", "options"),
    [
        ("kafka", "MILLSTREAM_TEST_KAFKA", ""),
        ("rabbitmq", "MILLSTREAM_TEST_RABBITMQ", ""),
        ("nats", "MILLSTREAM_TEST_NATS", ""),
        # What a killed service had in hand comes again soon.
        ("aws", "MILLSTREAM_TEST_AWS", "&poll=1&visibility=4"),
    ],
)
def test_the_proof_holds_on_a_broker_that_stays(service: str, variable: str, options: str, tmp_path: Path) -> None:
    """The same in short, on those that have their own troubles only at night: services are killed, events come twice and poisoned."""
    url = server_url(service, variable) + options
    command = [*COMMAND, *BRIEFLY, "--broker", url, "--data", str(tmp_path)]

    run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100)

    assert_holds(run.returncode, run.stdout, run.stderr, url)
