"""`python -m tools.services start|stop|restart|env [NAME...]`: real servers on loopback.

`python -m tools.services run [NAME...] -- COMMAND` starts them, runs a command that finds
their URLs in its environment, and stops those that did not run before; without a name the
brokers, since they are what tests and benchmarks ask for. With `--if-possible` those that
cannot be installed here are left out, and named; in CI (`CI` is set) that fails.
"""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence

from tools.services.aws import Aws
from tools.services.kafka import Kafka
from tools.services.nats import Nats
from tools.services.postgres import Postgres
from tools.services.rabbitmq import RabbitMQ
from tools.services.redis import Redis
from tools.services.service import HOME, Service, ServiceError

BROKERS: tuple[type[Service], ...] = (Kafka, RabbitMQ, Aws, Nats, Redis)
SERVICES: tuple[type[Service], ...] = (*BROKERS, Postgres)
ENV = HOME / "env"
#: Tells tests which servers have to be there.
ASKED = "MILLSTREAM_TEST_SERVICES"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    ours, command = (arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]) if "--" in arguments else (arguments, [])
    parser = argparse.ArgumentParser(prog="python -m tools.services", description="Real servers on this machine's loopback.")
    parser.add_argument("command", choices=["start", "stop", "restart", "env", "run"])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(_names())}; else all, and for `run` all brokers")
    parser.add_argument("--if-possible", action="store_true", help="run: leave out what cannot be installed here")
    options = parser.parse_args(ours)
    unknown = set(options.names) - set(_names())
    if unknown:
        parser.error(f"there is no service {', '.join(sorted(unknown))}; there are {', '.join(_names())}")
    chosen = chosen_of(options.command, options.names)
    try:
        if options.command == "run":
            return _run(chosen, command, if_possible=options.if_possible and not os.environ.get("CI"))
        for service in chosen:
            _act(options.command, service)
    except ServiceError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def chosen_of(command: str, names: Sequence[str]) -> list[Service]:
    """The services that a command is about."""
    unnamed = BROKERS if command == "run" else SERVICES
    return [service() for service in (SERVICES if names else unnamed) if not names or service.name in names]


def _act(command: str, service: Service) -> None:
    if command == "stop":
        _stop(service)
        return
    if command == "restart":
        service.stop(kill=True)
    if command in ("start", "restart"):
        _start(service)
    if service.is_running():
        for name, value in service.env().items():
            print(f"export {name}={shlex.quote(value)}")


def _run(services: Sequence[Service], command: Sequence[str], *, if_possible: bool) -> int:
    """Run a command beside these servers; tests in it fail rather than skip when one of these servers is missing."""
    running: list[Service] = []
    started: list[Service] = []
    try:
        for service in services:
            if not service.is_running():
                try:
                    service.install()
                except ServiceError as error:
                    if not if_possible:
                        raise
                    print(f"{service.name} is left out: {error}", file=sys.stderr)
                    continue
                started.append(service)
                _start(service)
            running.append(service)
        urls = {name: value for service in running for name, value in service.env().items()}
        return subprocess.run(command, env={**os.environ, **urls, ASKED: " ".join(s.name for s in running)}, check=False).returncode
    finally:
        for service in started:
            _stop(service)


def _start(service: Service) -> None:
    service.install()
    service.start()
    _remember(service, service.env())


def _stop(service: Service) -> None:
    service.stop()
    service.clear()
    _remember(service, {})


def _remember(service: Service, env: Mapping[str, str]) -> None:
    """Keep the URLs of what runs in one file that a shell can read."""
    HOME.mkdir(exist_ok=True)
    lines = ENV.read_text().splitlines() if ENV.exists() else []
    mark = f"  # {service.name}"
    kept = [line for line in lines if not line.endswith(mark)]
    ENV.write_text("".join(f"{line}\n" for line in (*kept, *(f"export {n}={shlex.quote(v)}{mark}" for n, v in env.items()))))


def _names() -> list[str]:
    return [service.name for service in SERVICES]


if __name__ == "__main__":
    sys.exit(main())
