"""What an `aws://` URL says."""

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from millstream.contracts.errors import ConfigurationError

OPTIONS = ("endpoint", "prefix", "fifo", "visibility", "poll", "broadcast", "timeout", "claims")
#: SQS says so.
MOST_VISIBILITY, MOST_POLL = 12 * 3600, 20
#: What is left of 80 characters has to tell groups and topics apart.
LONGEST_PREFIX = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsSettings:
    """Where SNS and SQS are, how to be let in, and what is asked of them."""

    region: str
    name: str
    """The URL without secrets and options."""
    endpoint: str | None = None
    """Another address than Amazon's own."""
    access_key: str | None = None
    """None: what the environment, a profile or the machine's role says."""
    secret_key: str | None = field(default=None, repr=False)
    prefix: str = "millstream-"
    """All names of topics and queues begin with it."""
    fifo: bool = True
    """Keep the order of a key, with FIFO topics and queues."""
    visibility: int = 30
    """Seconds after which what a dead member had in hand comes again."""
    poll: int = 10
    """Seconds that a question for messages waits for one."""
    broadcast: bool = True
    """Whether processes may make a queue each, to be told something at once."""
    timeout: float = 30.0
    """Seconds after which a request that was not answered has failed."""
    claims: str | None = None
    """The bucket of S3 for events that SNS cannot carry."""


def settings_of(url: str, environment: Mapping[str, str] = os.environ) -> AwsSettings:
    """Read a URL like `aws://eu-central-1?option=value`; raises `ConfigurationError`."""
    parts = urlsplit(url)
    user, _, region = parts.netloc.rpartition("@")
    region = region or environment.get("AWS_REGION", "") or environment.get("AWS_DEFAULT_REGION", "")
    name = f"aws://{region}"
    if parts.scheme != "aws" or not re.fullmatch(r"[a-z0-9-]+", region):
        raise ConfigurationError(f"{name!r} names no region. Write aws://eu-central-1, or aws:// with AWS_REGION set.")
    if parts.path.strip("/"):
        raise ConfigurationError(f"{name}: there is no {parts.path!r} to choose in a region; leave it out. All names begin with prefix=.")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for option in options:
        if option not in OPTIONS:
            near = difflib.get_close_matches(option, OPTIONS, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(OPTIONS)}."
            raise ConfigurationError(f"{name}: there is no option {option!r}. {hint}")
    access_key, _, secret_key = user.partition(":")
    if bool(access_key) != bool(secret_key):
        raise ConfigurationError(f"{name}: a key needs its secret. Write aws://KEY:SECRET@REGION, or leave both to the environment.")
    prefix = options.get("prefix", "millstream-")
    if not re.fullmatch(r"[A-Za-z0-9_-]*", prefix) or len(prefix) > LONGEST_PREFIX:
        raise ConfigurationError(
            f"{name}: prefix={prefix!r} cannot begin the name of a queue. Use letters, digits, dashes and underscores, at most "
            f"{LONGEST_PREFIX}."
        )
    claims = options.get("claims")
    if claims is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", claims):
        raise ConfigurationError(f"{name}: claims={claims!r} is no name of a bucket: 3 to 63 small letters, digits, dots and dashes.")
    endpoint = options.get("endpoint")
    if endpoint is not None and not re.match(r"https?://[^/]", endpoint):
        raise ConfigurationError(f"{name}: endpoint={endpoint!r} is no address. Write endpoint=http://HOST:PORT, or leave it out.")
    return AwsSettings(
        region=region,
        name=name if endpoint is None else f"{name}?endpoint={endpoint}",
        endpoint=endpoint,
        access_key=unquote(access_key) or None,
        secret_key=unquote(secret_key) or None,
        prefix=prefix,
        fifo=_flag(name, options, "fifo"),
        visibility=_whole(name, options, "visibility", 30, 1, MOST_VISIBILITY),
        poll=_whole(name, options, "poll", 10, 1, MOST_POLL),
        broadcast=_flag(name, options, "broadcast"),
        timeout=_number(name, options, "timeout", 30, 1, 3600),
        claims=claims,
    )


def _flag(name: str, options: Mapping[str, str], option: str) -> bool:
    value = options.get(option, "1").lower()
    if value not in ("0", "1", "false", "true"):
        raise ConfigurationError(f"{name}: {option}={value!r} is neither yes nor no. Write {option}=0, or leave it out.")
    return value in ("1", "true")


def _whole(name: str, options: Mapping[str, str], option: str, usual: int, least: int, most: int) -> int:
    value = _number(name, options, option, usual, least, most)
    if not value.is_integer():
        raise ConfigurationError(f"{name}: {option}={options[option]!r}: SQS counts whole seconds. Write {round(value)}.")
    return int(value)


def _number(name: str, options: Mapping[str, str], option: str, usual: float, least: float, most: float) -> float:
    try:
        value = float(options.get(option, usual))
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise ConfigurationError(
            f"{name}: {option}={options[option]!r} is no number from {least:g} to {most:g}. Correct it, or leave it out."
        )
    return value
