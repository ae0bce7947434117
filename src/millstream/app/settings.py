"""Settings: where a service finds its broker and store, and how it runs; each value with its origin."""

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, cast

import msgspec

from millstream.app.connect import default_store
from millstream.contracts.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_BROKER = "sqlite:///millstream.db"
PREFIX = "MILLSTREAM_"
#: What an address starts with that is a Unix socket's path.
UNIX = "unix:"

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
Switch = Literal["on", "off"]

_SECRET_NAME = re.compile(r"pass|pwd|secret|token|key|credential|sig", re.IGNORECASE)
_URL = re.compile(r"""[A-Za-z][A-Za-z0-9+.-]*://[^\s'"<>`]+""")
_RELATIVE_FILE = re.compile(r"sqlite:///(?!/)(.+)")


class Address(NamedTuple):
    """Where something listens."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a process was told, by whom; made by `resolve`.

    `origins` says for each field where its value came from, in words for people.
    The text form hides secrets.
    """

    broker: str = DEFAULT_BROKER
    store: str = DEFAULT_BROKER
    registry: str | None = None
    app: str | None = None
    http: str | None = None
    workers: int = 1
    grace: float = 30.0
    """Seconds that what is in flight gets when a process stops."""
    log_format: LogFormat = "text"
    log_level: LogLevel = "info"
    facts: Switch = "off"
    control_key: str | None = None
    origins: Mapping[str, str] = msgspec.field(default_factory=dict[str, str])

    def origin(self, name: str) -> str:
        """Where the value of a field came from."""
        return self.origins.get(name, "default")

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r} ({self.origin(name)})" for name, value in self.shown().items())
        return f"Settings({values})"

    def shown(self) -> dict[str, str]:
        """Each field's value as text, without secrets."""
        values = {name: getattr(self, name) for name in FIELDS}
        return {name: "" if value is None else "***" if name in SECRETS else masked(str(value)) for name, value in values.items()}


class Field(NamedTuple):
    """What a setting may be."""

    type: Any
    means: str
    """What it is for."""
    wants: str
    """What a right value looks like; the end of the error for a wrong one."""


_Url = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z][A-Za-z0-9+.-]*://")]

#: Fields that are never shown.
SECRETS = frozenset(("control_key",))

FIELDS: dict[str, Field] = {
    "broker": Field(_Url, "where events are published and come from", "Write a URL, such as sqlite:///shop.db"),
    "store": Field(
        _Url,
        "where a service keeps its data, inbox, outbox and dead letters; the broker's own file when that is an SQLite one",
        "Write a URL, such as sqlite:///inventory.db",
    ),
    "registry": Field(
        Annotated[str, msgspec.Meta(pattern=r"^[Hh][Tt][Tt][Pp][Ss]?://")],
        'where the schemas of events that are published with `wire="confluent"` are registered',
        "Write the URL of a schema registry, such as http://localhost:8081",
    ),
    "app": Field(
        Annotated[str, msgspec.Meta(pattern=r"^[\w.]+(:[\w.]+)?$")],
        "the App that commands act on when none is named",
        "Write MODULE:APP, such as inventory:app",
    ),
    "http": Field(
        str, "where `millstream run` serves health and metrics; nowhere by default", "Write HOST:PORT, such as 127.0.0.1:9464"
    ),
    "workers": Field(
        Annotated[int, msgspec.Meta(ge=1, le=1024)], "how many processes `millstream run` works with", "Write a whole number from 1 to 1024"
    ),
    "grace": Field(
        Annotated[float, msgspec.Meta(ge=0)],
        "seconds that what is in flight gets when a process stops",
        "Write a number of seconds, such as 30",
    ),
    "log_format": Field(LogFormat, "logs for people (`text`) or for machines (`json`)", "Write text or json"),
    "log_level": Field(LogLevel, "the least important log lines that are written", "Write debug, info, warning or error"),
    "facts": Field(
        Switch,
        "whether a service tells what it does on the topic millstream.facts, for consoles; `millstream run` does unless it is off",
        "Write on or off",
    ),
    "control_key": Field(
        str, "what operators' requests from a console must be signed with; a secret", "Write the same long random text everywhere"
    ),
}  # fmt: skip


def resolve(
    *,
    flag: Mapping[str, object] | None = None,
    code: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
    folder: "Path | None" = None,
) -> Settings:
    """Settle every setting: a flag, else the environment, else the code, else `pyproject.toml`, else the default.

    `flag` is what the command line said, `code` what was passed to `App(...)`; None in
    either means that nothing was said. The nearest `pyproject.toml` upwards from
    `folder` counts; a relative SQLite path in it starts at the folder it is in.
    A wrong value raises `ConfigurationError` with the field, where it stands and the fix.
    """
    # Only here: it brings a parser of URLs along, and a tenth of what importing millstream costs.
    from pathlib import Path

    told = _from_project(folder or Path.cwd())
    told |= {name: (value, f"App({name}=...)") for name, value in (code or {}).items() if value is not None}
    told |= _from_environment(os.environ if environment is None else environment)
    told |= {name: (value, f"--{name.replace('_', '-')}") for name, value in (flag or {}).items() if value is not None}
    values = {name: _converted(name, value, origin) for name, (value, origin) in told.items()}
    origins = {name: origin for name, (_, origin) in told.items()}
    if "store" not in values:
        broker = values.get("broker", DEFAULT_BROKER)
        values["store"] = default_store(broker)
        if values["store"] == broker and "broker" in origins:
            origins["store"] = f"the broker's, from {origins['broker']}"
    return Settings(**values, origins=origins)


def http_address(text: str, origin: str = "--http") -> Address:
    """Where to listen; a port alone means this machine only.

    Raises `ConfigurationError` for what is no address.
    """
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535 or (":" in host and not re.fullmatch(r"\[.*\]", host)):
        raise ConfigurationError(
            f"http is {text!r}, from {origin}: that is no address. Write HOST:PORT, such as 127.0.0.1:9464, or [::1]:9464."
        )
    return Address(host.strip("[]") or "127.0.0.1", int(port))


def masked(url: str) -> str:
    """A URL without its secrets: passwords, and what the query calls a secret, become `***`.

    What is no URL comes back as it is; `masked_text` finds URLs inside other text.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return url
    address, question, query = rest.partition("?")
    if scheme.lower() not in ("sqlite", "file"):
        address = _masked_users(address)
    if question:
        query = "&".join(_masked_parameter(parameter) for parameter in query.split("&"))
    return f"{scheme}://{address}{question}{query}"


def masked_text(text: str) -> str:
    """Text in which every URL has lost its secrets."""
    return _URL.sub(lambda found: masked(found.group()), text)


def _masked_users(address: str) -> str:
    # Up to the last @, because a careless password may hold anything, even a slash or another @.
    users, at, host = address.rpartition("@")
    if not at:
        return address
    name, colon, _ = users.partition(":")
    # A user without a password is a token for some brokers.
    return f"{name}:***@{host}" if colon else f"***@{host}"


def _masked_parameter(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    # A URL may carry another one, such as an endpoint.
    return f"{name}=***" if equals and _SECRET_NAME.search(name) else f"{name}{equals}{masked(value)}"


def _from_environment(environment: Mapping[str, str]) -> dict[str, tuple[object, str]]:
    named = {name: f"{PREFIX}{name.upper()}" for name in FIELDS}
    return {name: (environment[variable], f"the environment's {variable}") for name, variable in named.items() if environment.get(variable)}


def _from_project(folder: "Path") -> dict[str, tuple[object, str]]:
    path = next((p for parent in (folder, *folder.parents) if (p := parent / "pyproject.toml").is_file()), None)
    if path is None:
        return {}
    # Imported late: most processes are started where no project file is.
    import tomllib

    try:
        table = tomllib.loads(path.read_text("utf-8")).get("tool", {}).get("millstream", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}. Repair the file.") from error
    if not isinstance(table, dict):
        raise ConfigurationError(f"{path}: [tool.millstream] is not a table. Write its settings below a line [tool.millstream].")
    told: dict[str, tuple[object, str]] = {}
    for key, value in cast("dict[str, object]", table).items():
        name = key.replace("-", "_")
        if name not in FIELDS:
            import difflib

            near = difflib.get_close_matches(name, FIELDS, n=1)
            hint = f"Did you mean {near[0].replace('_', '-')}?" if near else f"There are: {', '.join(n.replace('_', '-') for n in FIELDS)}."
            raise ConfigurationError(f"{path}: [tool.millstream] has no setting {key!r}. {hint}")
        told[name] = (_rooted(value, path.parent), f"{path} [tool.millstream]")
    return told


def _rooted(value: object, folder: "Path") -> object:
    """A relative file named in a project is the project's, wherever a command is called from."""
    if isinstance(value, str) and (relative := _RELATIVE_FILE.fullmatch(value)):
        return f"sqlite:///{folder / relative.group(1)}"
    return value


def _converted(name: str, value: object, origin: str) -> Any:
    wanted = FIELDS.get(name)
    if wanted is None:
        raise ConfigurationError(f"there is no setting {name!r}, from {origin}. There are: {', '.join(FIELDS)}.")
    try:
        converted = msgspec.convert(value, wanted.type, strict=not isinstance(value, str))
    except msgspec.ValidationError as error:
        shown = masked(value) if isinstance(value, str) else value
        raise ConfigurationError(f"{name} is {shown!r}, from {origin}: that cannot be used. {wanted.wants}.") from error
    if name == "http" and not converted.startswith(UNIX):
        http_address(converted, origin)
    return converted
