"""What a `rabbitmq://` or `amqp://` URL says."""

import difflib
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from millstream.contracts.errors import ConfigurationError

SCHEMES = {"rabbitmq": 5672, "amqp": 5672, "rabbitmqs": 5671, "amqps": 5671}
OPTIONS = ("timeout", "heartbeat", "prefetch", "streams", "ca", "cert", "key")
USER = "MILLSTREAM_RABBITMQ_USER"
PASSWORD = "MILLSTREAM_RABBITMQ_PASSWORD"  # noqa: S105 - the name of a variable


@dataclass(frozen=True, slots=True, kw_only=True)
class RabbitSettings:
    """Where the servers are, how to be let in, and what is asked of them."""

    name: str
    """The URL without secrets and options."""
    servers: tuple[tuple[str, int], ...]
    vhost: str
    user: str
    password: str = field(repr=False)
    timeout: float = 30.0
    """Seconds after which an event that was not confirmed has failed."""
    heartbeat: int = 10
    """Seconds between heartbeats; after two without a sign of life a connection is given up."""
    prefetch: int = 1000
    """Messages of one queue that may be on their way to, or in hand of, a member."""
    streams: bool = False
    """Whether topics are streams, which keep history, rather than queues."""
    tls: ssl.SSLContext | None = field(default=None, repr=False)


def settings_of(url: str, environment: Mapping[str, str] = os.environ) -> RabbitSettings:
    """Read a URL like `rabbitmq://user:password@host:5672,host2:5672/vhost?option=value`; raises `ConfigurationError`."""
    parts = urlsplit(url)
    users, _, hosts = parts.netloc.rpartition("@")
    vhost = unquote(parts.path.removeprefix("/")) or "/"
    name = f"{parts.scheme}://{hosts}" + ("" if vhost == "/" else f"/{quote(vhost, safe='')}")
    servers = [_server(name, host.strip(), SCHEMES.get(parts.scheme, 0)) for host in hosts.split(",")]
    if parts.scheme not in SCHEMES or not all(host for host, _ in servers):
        raise ConfigurationError(f"{name!r} names no server. Write rabbitmq://HOST:5672, or several servers with commas between.")
    options: dict[str, str] = {}
    for option, value in parse_qsl(parts.query, keep_blank_values=True):
        if option not in OPTIONS:
            near = difflib.get_close_matches(option, OPTIONS, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(OPTIONS)}."
            raise ConfigurationError(f"{name}: there is no option {option!r}. {hint}")
        options[option] = value
    user, _, password = users.partition(":")
    return RabbitSettings(
        name=name,
        servers=tuple(servers),
        vhost=vhost,
        user=unquote(user) or environment.get(USER, "guest"),
        password=unquote(password) or environment.get(PASSWORD, "guest"),
        timeout=_number(name, options, "timeout", 0.1, 30.0),
        heartbeat=int(_number(name, options, "heartbeat", 1, 10)),
        prefetch=int(_number(name, options, "prefetch", 1, 1000)),
        streams=_flag(name, options, "streams"),
        tls=_tls(name, options) if parts.scheme in ("rabbitmqs", "amqps") else _no_tls(name, options),
    )


def _server(name: str, text: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    try:
        return parts.hostname or "", parts.port or port
    except ValueError as error:
        raise ConfigurationError(f"{name}: {text!r} is no server. Write HOST:PORT.") from error


def _number(name: str, options: Mapping[str, str], option: str, least: float, otherwise: float) -> float:
    if option not in options:
        return otherwise
    try:
        value = float(options[option])
    except ValueError:
        value = float("nan")
    if not least <= value < 65_536:
        raise ConfigurationError(f"{name}: {option}={options[option]!r} is no number from {least:g} to 65535. Correct it, or leave it out.")
    return value


def _flag(name: str, options: Mapping[str, str], option: str) -> bool:
    value = options.get(option, "0")
    if value not in ("0", "1"):
        raise ConfigurationError(f"{name}: {option}={value!r} is neither 0 nor 1. Correct it, or leave it out.")
    return value == "1"


def _tls(name: str, options: Mapping[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.get("ca"))
        if "cert" in options:
            context.load_cert_chain(options["cert"], options.get("key"))
    except OSError as error:
        raise ConfigurationError(f"{name}: the certificates cannot be read: {error}. Check ca=, cert= and key=.") from error
    return context


def _no_tls(name: str, options: Mapping[str, str]) -> None:
    given = [option for option in ("ca", "cert", "key") if option in options]
    if given:
        raise ConfigurationError(f"{name}: {given[0]}= is for TLS, and this URL asks for none. Write rabbitmqs:// or amqps://.")
