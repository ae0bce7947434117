"""What a `kafka://` URL says, as settings for librdkafka."""

import difflib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from millstream.contracts.errors import ConfigurationError

#: What librdkafka says where it cannot go on; what it complains of otherwise comes as an error, and is logged by us.
CLIENT_LOG = logging.getLogger("millstream.kafka.client")
# We know our settings, and what was given up was ours to give up.
CLIENT_LOG.addFilter(lambda record: not any(known in record.getMessage() for known in ("CONFWARN", "Purged in")))

Protocol = Literal["consumer", "classic"]
Value = str | int | float | bool

OPTIONS = (
    "allow_single_replica", "allow_compacted", "replication", "timeout", "group_protocol", "security", "mechanism", "ca", "cert", "key",
)  # fmt: skip
SECURITY = ("plaintext", "ssl", "sasl_plaintext", "sasl_ssl")
USER = "MILLSTREAM_KAFKA_USER"
PASSWORD = "MILLSTREAM_KAFKA_PASSWORD"  # noqa: S105 - the name of a variable
KEY_PASSWORD = "MILLSTREAM_KAFKA_KEY_PASSWORD"  # noqa: S105

_PROMISES = "its promises depend on it; leave it out"
_AT_ONCE = "a lone event goes at once, and many wait a millisecond for each other; leave it out, and use publish_many for throughput"
_QUEUE = "who publishes more than there is room for waits; leave it out"
_LARGEST = "an event has at most 1 MiB, and at most what its topic takes; set the topic's max.message.bytes instead"
#: Settings of librdkafka that a URL cannot change, and why, or what changes them.
OURS = {
    **dict.fromkeys(
        "group.id group.remote.assignor partition.assignment.strategy enable.auto.commit auto.commit.enable enable.auto.offset.store "
        "auto.offset.reset enable.partition.eof isolation.level check.crcs enable.idempotence enable.gapless.guarantee acks "
        "request.required.acks partitioner transactional.id transaction.timeout.ms retries message.send.max.retries "
        "delivery.report.only.error max.in.flight.requests.per.connection max.in.flight".split(),
        _PROMISES,
    ),
    **dict.fromkeys(("bootstrap.servers", "metadata.broker.list"), "write the servers before the question mark instead"),
    **dict.fromkeys(("message.timeout.ms", "delivery.timeout.ms", "topic.metadata.propagation.max.ms"), "write timeout=SECONDS instead"),
    **dict.fromkeys(("sasl.username", "sasl.password"), f"write USER:PASSWORD@ before the servers, or set {USER} and {PASSWORD} instead"),
    **dict.fromkeys(("linger.ms", "queue.buffering.max.ms", "batch.size"), _AT_ONCE),
    **dict.fromkeys(("queue.buffering.max.messages", "queue.buffering.max.kbytes"), _QUEUE),
    "message.max.bytes": _LARGEST,
    "max.poll.interval.ms": "handlers may take their time without it: a thread polls for them; leave it out",
    "group.protocol": "write group_protocol=consumer or group_protocol=classic instead",
    "security.protocol": "write security=PROTOCOL instead",
    "client.id": "it is the name of the member, or of what the client is for; leave it out",
    "group.instance.id": "every process would have the same one, and Kafka lets only one of them work; leave it out",
}


#: What every producer is told. A server that knows nothing of a producer in a partition takes whatever it is sent first. If a request
#: was refused (by one that is just becoming the leader), and the one behind it was not, librdkafka takes both for stored, and what the
#: first one had is lost: so there is none behind it.
PRODUCER: Mapping[str, Value] = {"enable.idempotence": True, "acks": "all", "max.in.flight.requests.per.connection": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSettings:
    """Where a cluster is, how to be let in, and what is asked of it."""

    name: str
    """The URL without secrets and options."""
    client: Mapping[str, Value] = field(repr=False)
    """What every client of the cluster is told; holds secrets."""
    allow_single_replica: bool = False
    """Take topics of which one copy is enough."""
    allow_compacted: frozenset[str] = frozenset()
    """Topics that are taken although of each key only the last event stays."""
    replication: int | None = None
    """Copies of the topics that are made; None: three, or as many as there are servers."""
    timeout: float = 30.0
    """Seconds after which an event that was not acknowledged has failed."""
    protocol: Protocol | None = None
    """How groups share partitions; None: the newer way where the servers have it."""


def settings_of(url: str, environment: Mapping[str, str] = os.environ) -> KafkaSettings:
    """Read a URL like `kafka://user:password@host:9092,host2:9092?option=value`; raises `ConfigurationError`."""
    parts = urlsplit(url)
    users, _, servers = parts.netloc.rpartition("@")
    name = f"kafka://{servers}"
    if parts.scheme != "kafka" or not servers or parts.path.strip("/") or not all(s.strip() for s in servers.split(",")):
        raise ConfigurationError(f"{name!r} names no cluster. Write kafka://HOST:9092, or several servers with commas between.")
    options: dict[str, str] = {}
    librdkafka: dict[str, Value] = {}
    for option, value in parse_qsl(parts.query, keep_blank_values=True):
        if option in OURS:
            raise ConfigurationError(f"{name}: {option} is Millstream's to set: {OURS[option]}.")
        if "." in option:
            librdkafka[option] = value
        elif option in OPTIONS:
            options[option] = value
        else:
            near = difflib.get_close_matches(option, OPTIONS, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(OPTIONS)}, and librdkafka's own, which have dots."
            raise ConfigurationError(f"{name}: there is no option {option!r}. {hint}")
    user, _, password = users.partition(":")
    return KafkaSettings(
        name=name,
        client={"bootstrap.servers": servers, "log_level": 2}
        | _security(name, options, unquote(user) or environment.get(USER, ""), unquote(password) or environment.get(PASSWORD, ""))
        | _files(options, environment)
        | librdkafka,
        allow_single_replica=_flag(name, options, "allow_single_replica"),
        allow_compacted=frozenset(filter(None, options.get("allow_compacted", "").split(","))),
        replication=None if "replication" not in options else int(_number(name, options, "replication", 1)),
        timeout=_number(name, options, "timeout", 0.1) if "timeout" in options else 30.0,
        protocol=_protocol(name, options),
    )


def _security(name: str, options: Mapping[str, str], user: str, password: str) -> dict[str, Value]:
    # A password is never sent in the clear unless somebody asks for it by name.
    usual = "sasl_ssl" if user else "ssl" if options.keys() & {"ca", "cert", "key"} else "plaintext"
    security = options.get("security", usual)
    if security not in SECURITY:
        raise ConfigurationError(f"{name}: security={security!r} is unknown. There are {', '.join(SECURITY)}.")
    settings: dict[str, Value] = {"security.protocol": security}
    if security.startswith("sasl"):
        mechanism = options.get("mechanism", "PLAIN").upper()
        settings["sasl.mechanism"] = mechanism
        if mechanism in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
            if not user or not password:
                raise ConfigurationError(
                    f"{name}: {mechanism} needs a user and a password. Put them into the URL, or into {USER} and {PASSWORD}."
                )
            settings |= {"sasl.username": user, "sasl.password": password}
    elif user:
        raise ConfigurationError(f"{name}: there is a user, and security={security} sends none. Use sasl_ssl, or remove the user.")
    return settings


def _files(options: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, Value]:
    names = {"ca": "ssl.ca.location", "cert": "ssl.certificate.location", "key": "ssl.key.location"}
    settings: dict[str, Value] = {names[option]: options[option] for option in names if option in options}
    if environment.get(KEY_PASSWORD):
        settings["ssl.key.password"] = environment[KEY_PASSWORD]
    return settings


def _flag(name: str, options: Mapping[str, str], option: str) -> bool:
    value = options.get(option, "0").lower()
    if value not in ("0", "1", "false", "true"):
        raise ConfigurationError(f"{name}: {option}={value!r} is neither yes nor no. Write {option}=1, or leave it out.")
    return value in ("1", "true")


def _number(name: str, options: Mapping[str, str], option: str, least: float) -> float:
    try:
        value = float(options[option])
    except ValueError:
        value = float("nan")
    if not least <= value < 1e6:
        raise ConfigurationError(f"{name}: {option}={options[option]!r} is no number from {least:g} on. Correct it, or leave it out.")
    return value


def _protocol(name: str, options: Mapping[str, str]) -> Protocol | None:
    value = options.get("group_protocol")
    if value not in (None, "consumer", "classic"):
        raise ConfigurationError(f"{name}: group_protocol={value!r} is unknown. There are consumer and classic.")
    return value
