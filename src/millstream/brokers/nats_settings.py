"""What a `nats://` URL says."""

import difflib
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from millstream.contracts.errors import ConfigurationError

SCHEME = "nats"
PORT = 4222
#: What is published again within two minutes is known to be the same.
LONGEST_TIMEOUT = 100
OPTIONS = ("timeout", "replicas", "tls", "ca", "cert", "key", "creds")
USER = "MILLSTREAM_NATS_USER"
PASSWORD = "MILLSTREAM_NATS_PASSWORD"  # noqa: S105 - the name of a variable
TOKEN = "MILLSTREAM_NATS_TOKEN"  # noqa: S105 - the name of a variable


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsSettings:
    """Where the servers are, how to be let in, and what is asked of them."""

    name: str
    """The URL without secrets and options."""
    servers: tuple[tuple[str, int], ...]
    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    creds: str = ""
    """A file with a user's JWT and seed."""
    timeout: float = 30.0
    """Seconds after which an event that was not acknowledged has failed."""
    replicas: int | None = None
    """Copies of what is made; None for three in a cluster, and one on a single server."""
    tls: ssl.SSLContext | None = field(default=None, repr=False)


def settings_of(url: str, environment: Mapping[str, str] = os.environ) -> NatsSettings:
    """Read a URL like `nats://user:password@host:4222,host2:4222?option=value`; raises `ConfigurationError`."""
    parts = urlsplit(url)
    users, _, hosts = parts.netloc.rpartition("@")
    name = f"{parts.scheme}://{hosts}"
    servers = tuple(_server(name, host.strip()) for host in hosts.split(","))
    if parts.scheme != SCHEME or not all(host for host, _ in servers):
        raise ConfigurationError(f"{name!r} names no server. Write nats://HOST:4222, or several servers with commas between.")
    if parts.path.strip("/"):
        raise ConfigurationError(f"{name}: a NATS server has no {parts.path!r} to choose; its accounts belong to users. Leave it out.")
    options: dict[str, str] = {}
    for option, value in parse_qsl(parts.query, keep_blank_values=True):
        if option not in OPTIONS:
            near = difflib.get_close_matches(option, OPTIONS, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(OPTIONS)}."
            raise ConfigurationError(f"{name}: there is no option {option!r}. {hint}")
        options[option] = value
    user, colon, password = users.partition(":")
    return NatsSettings(
        name=name,
        servers=servers,
        user=(unquote(user) if colon else "") or environment.get(USER, ""),
        password=unquote(password) or environment.get(PASSWORD, ""),
        # What stands alone before the @ is a token, as in every client of NATS.
        token=(unquote(user) if user and not colon else "") or environment.get(TOKEN, ""),
        creds=options.get("creds", ""),
        timeout=_number(name, options, "timeout", 0.1, LONGEST_TIMEOUT) or 30.0,
        replicas=int(_number(name, options, "replicas", 1, 5)) or None,
        tls=_tls(name, options),
    )


def _server(name: str, text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    try:
        return parts.hostname or "", parts.port or PORT
    except ValueError as error:
        raise ConfigurationError(f"{name}: {text!r} is no server. Write HOST:PORT.") from error


def _number(name: str, options: Mapping[str, str], option: str, least: float, most: float) -> float:
    """What an option says; 0 when it says nothing."""
    if option not in options:
        return 0
    try:
        value = float(options[option])
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise ConfigurationError(
            f"{name}: {option}={options[option]!r} is no number from {least:g} to {most:g}. Correct it, or leave it out."
        )
    return value


def _tls(name: str, options: Mapping[str, str]) -> ssl.SSLContext | None:
    if options.get("tls", "1") not in ("0", "1"):
        raise ConfigurationError(f"{name}: tls={options['tls']!r} is neither 0 nor 1. Correct it, or leave it out.")
    if not any(option in options for option in ("tls", "ca", "cert", "key")) or options.get("tls") == "0":
        return None
    try:
        context = ssl.create_default_context(cafile=options.get("ca"))
        if "cert" in options:
            context.load_cert_chain(options["cert"], options.get("key"))
    except OSError as error:
        raise ConfigurationError(f"{name}: the certificates cannot be read: {error}. Check ca=, cert= and key=.") from error
    return context
