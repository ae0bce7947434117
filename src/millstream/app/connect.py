"""URLs to brokers and stores: the one place that chooses implementations."""

from importlib.util import find_spec

from millstream.contracts.errors import ConfigurationError
from millstream.core.broker import Broker
from millstream.core.clock import Clock
from millstream.core.store import Store

EMBEDDED = "sqlite:///"
MEMORY = "memory://"
KAFKA = "kafka://"
AWS = "aws://"
NATS = "nats://"
REDIS = ("redis://", "rediss://")
RABBITMQ = ("rabbitmq://", "rabbitmqs://", "amqp://", "amqps://")


def connect_broker(url: str, clock: Clock) -> Broker:
    """The broker that a URL names, not yet open."""
    if url == MEMORY:
        from millstream.brokers.memory import MemoryBroker

        return MemoryBroker(micros=clock.micros, monotonic=clock.monotonic)
    if url.startswith(KAFKA):
        _require("confluent_kafka", "kafka", url)
        from millstream.brokers.kafka import KafkaBroker

        return KafkaBroker(url, monotonic=clock.monotonic)
    if url.startswith(AWS):
        _require("aiobotocore", "aws", url)
        from millstream.brokers.aws import AwsBroker

        return AwsBroker(url, monotonic=clock.monotonic)
    if url.startswith(NATS):
        from millstream.brokers.nats import NatsBroker

        return NatsBroker(url, monotonic=clock.monotonic)
    if url.startswith(REDIS):
        _require("hiredis", "redis", url)
        from millstream.brokers.redis import RedisBroker

        return RedisBroker(url, micros=clock.micros, monotonic=clock.monotonic)
    if url.startswith(RABBITMQ):
        from millstream.brokers.rabbitmq import RabbitBroker

        return RabbitBroker(url, micros=clock.micros, monotonic=clock.monotonic)
    path = path_of(url, "broker")
    from millstream.brokers.sqlite import SqliteBroker
    from millstream.stores.sqlite_file import SqliteFile

    return SqliteBroker(SqliteFile(path), micros=clock.micros, monotonic=clock.monotonic)


def connect_store(url: str, broker: Broker | None, clock: Clock) -> Store:
    """The store that a URL names, not yet open.

    Where it is the broker's own file, its commits publish by themselves.
    """
    if url == MEMORY:
        from millstream.brokers.memory import MemoryBroker
        from millstream.stores.memory import MemoryStore

        append = broker.append if isinstance(broker, MemoryBroker) else None
        return MemoryStore(append=append, micros=clock.micros, monotonic=clock.monotonic)
    path = path_of(url, "store")
    from millstream.brokers.sqlite import SqliteBroker
    from millstream.stores.sqlite import SqliteStore
    from millstream.stores.sqlite_file import SqliteFile

    if isinstance(broker, SqliteBroker) and broker.file.path == SqliteFile(path).path:
        return SqliteStore(broker.file, append=broker.append, micros=clock.micros, monotonic=clock.monotonic)
    return SqliteStore(SqliteFile(path), micros=clock.micros, monotonic=clock.monotonic)


def default_store(broker_url: str) -> str:
    """Where a service keeps its store when nobody said: with the embedded broker, or else in a file of its own."""
    return broker_url if broker_url.startswith(EMBEDDED) or broker_url == MEMORY else f"{EMBEDDED}millstream.db"


def path_of(url: str, what: str = "store") -> str:
    """The file that a `sqlite:` URL names: three slashes for a relative path, four for an absolute one."""
    path = url.removeprefix(EMBEDDED)
    if path == url or not path:
        scheme = url.partition(":")[0] or url
        others = "kafka://host, rabbitmq://host, aws://region, nats://host, redis://host, " if what == "broker" else ""
        raise ConfigurationError(
            f"{scheme!r} is no {what} that this installation knows: use sqlite:///name.db (relative), sqlite:////folder/name.db "
            f"(absolute), {others}or memory:// for tests"
        )
    return path


def _require(package: str, extra: str, url: str) -> None:
    """A broker's client is installed on demand."""
    if find_spec(package) is None:
        raise ConfigurationError(
            f"{url.partition(':')[0]}:// needs a client that is not installed here ({package}): pip install 'millstream[{extra}]'"
        )
