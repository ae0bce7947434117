"""What a `redis://` URL says."""

import difflib
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from millstream.contracts.errors import ConfigurationError

SCHEMES = {"redis": 6379, "rediss": 6379}
OPTIONS = ("timeout", "allow_loss", "ca", "cert", "key")
USER = "MILLSTREAM_REDIS_USER"
PASSWORD = "MILLSTREAM_REDIS_PASSWORD"  # noqa: S105 - the name of a variable
#: The server remembers for ten minutes which batch of a publisher it has stored.
LONGEST_TIMEOUT = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisSettings:
    """Where the server is, how to be let in, and what is asked of it."""

    name: str
    """The URL without secrets and options."""
    host: str
    port: int
    database: int = 0
    user: str = ""
    password: str = field(default="", repr=False)
    timeout: float = 30.0
    """Seconds after which an event that was not acknowledged has failed."""
    allow_loss: bool = False
    """Whether a server will do that answers before what it has stored is on the disk."""
    tls: ssl.SSLContext | None = field(default=None, repr=False)


def settings_of(url: str, environment: Mapping[str, str] = os.environ) -> RedisSettings:
    """Read a URL like `redis://user:password@host:6379/0?option=value`; raises `ConfigurationError`."""
    parts = urlsplit(url)
    users, _, host = parts.netloc.rpartition("@")
    database = parts.path.removeprefix("/")
    name = f"{parts.scheme}://{host}" + (f"/{database}" if database else "")
    server, port = _server(name, host)
    if parts.scheme not in SCHEMES or not server:
        raise ConfigurationError(f"{name!r} names no server. Write redis://HOST:6379, or rediss://HOST:6379 for TLS.")
    if database and not database.isdecimal():
        raise ConfigurationError(f"{name}: {database!r} is no database of Redis, which have numbers. Write /0, or leave it out.")
    options: dict[str, str] = {}
    for option, value in parse_qsl(parts.query, keep_blank_values=True):
        if option not in OPTIONS:
            near = difflib.get_close_matches(option, OPTIONS, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(OPTIONS)}."
            raise ConfigurationError(f"{name}: there is no option {option!r}. {hint}")
        options[option] = value
    if options.get("allow_loss", "1") not in ("0", "1"):
        raise ConfigurationError(f"{name}: allow_loss={options['allow_loss']!r} is neither 0 nor 1. Correct it, or leave it out.")
    user, _, password = users.partition(":")
    return RedisSettings(
        name=name,
        host=server,
        port=port,
        database=int(database or 0),
        user=unquote(user) or environment.get(USER, ""),
        password=unquote(password) or environment.get(PASSWORD, ""),
        timeout=_timeout(name, options),
        allow_loss=options.get("allow_loss") == "1",
        tls=_tls(name, options) if parts.scheme == "rediss" else _no_tls(name, options),
    )


def _server(name: str, text: str) -> tuple[str, int]:
    if "," in text:
        raise ConfigurationError(f"{name}: this broker is one server of Redis, and several are named. Name the one that is written to.")
    parts = urlsplit(f"//{text}")
    try:
        return parts.hostname or "", parts.port or SCHEMES["redis"]
    except ValueError as error:
        raise ConfigurationError(f"{name}: {text!r} is no server. Write HOST:PORT.") from error


def _timeout(name: str, options: Mapping[str, str]) -> float:
    try:
        value = float(options.get("timeout", "30"))
    except ValueError:
        value = float("nan")
    if not 0.1 <= value <= LONGEST_TIMEOUT:
        raise ConfigurationError(
            f"{name}: timeout={options['timeout']!r} is no number from 0.1 to {LONGEST_TIMEOUT}. Correct it, or leave it out."
        )
    return value


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
        raise ConfigurationError(f"{name}: {given[0]}= is for TLS, and this URL asks for none. Write rediss://.")
