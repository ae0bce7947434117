"""`python -m tools.services start|stop|restart|env [NAME...]`: real servers on loopback."""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence

from tools.services.kafka import Kafka
from tools.services.service import HOME, Service, ServiceError

SERVICES: tuple[type[Service], ...] = (Kafka,)
ENV = HOME / "env"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.services", description="Real servers on this machine's loopback.")
    parser.add_argument("command", choices=["start", "stop", "restart", "env"])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which; all of them when none is named: {', '.join(_names())}")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(_names())
    if unknown:
        parser.error(f"there is no service {', '.join(sorted(unknown))}; there are {', '.join(_names())}")
    chosen = [service() for service in SERVICES if not options.names or service.name in options.names]
    try:
        for service in chosen:
            _act(options.command, service)
    except ServiceError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _act(command: str, service: Service) -> None:
    if command in ("stop", "restart"):
        service.stop(kill=command == "restart")
        _remember(service, {})
    if command in ("start", "restart"):
        service.install()
        service.start()
        _remember(service, service.env())
    if command != "stop":
        for name, value in service.env().items():
            print(f"export {name}={shlex.quote(value)}")


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
