"""What a server has to be set up for, so that what it acknowledged is not lost."""

from millstream.brokers.redis_control import RedisControl
from millstream.contracts.errors import BrokerError, ConfigurationError

#: The first version whose scripts are refused before they begin, and that counts entries.
OLDEST = (7, 0)
WANTED = ("appendonly", "appendfsync", "maxmemory-policy")


async def verify_server(control: RedisControl) -> bool:
    """Whether what it acknowledges is on its disk; raises `ConfigurationError` where it could lose that, and nobody allowed it."""
    name, allowed = control.settings.name, control.settings.allow_loss
    text = (await control.call("INFO")).decode("utf-8", "replace")
    info = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    version = info.get("redis_version", "0")
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST:
        raise ConfigurationError(f"{name} is Redis {version}, and 7.0 is the oldest that keeps what is promised. Upgrade it.")
    if info.get("redis_mode") == "cluster":
        raise ConfigurationError(
            f"{name} belongs to a cluster, whose parts commit nothing together. Use one server, with replicas if need be."
        )
    if info.get("role") == "slave":
        raise ConfigurationError(f"{name} is a replica, which takes no events. Name the server that is written to.")
    try:
        answers = await control.call("CONFIG", "GET", *WANTED)
    except (BrokerError, ConfigurationError) as error:
        if allowed:
            return False
        raise ConfigurationError(
            f"{name} does not tell whether what it acknowledges is on its disk ({error}). Allow this user `CONFIG GET`, or accept by name "
            "that events can be lost: add ?allow_loss=1 to the URL."
        ) from error
    config = {key.decode(): value.decode() for key, value in zip(answers[::2], answers[1::2], strict=True)}
    if config.get("maxmemory-policy", "noeviction") != "noeviction":
        raise ConfigurationError(
            f"{name} removes keys when its memory is full (maxmemory-policy {config['maxmemory-policy']}), events among them. Set "
            "`maxmemory-policy noeviction`, which refuses new ones instead."
        )
    durable = config.get("appendonly") == "yes" and config.get("appendfsync") == "always"
    if not durable and not allowed:
        raise ConfigurationError(
            f"{name} acknowledges events before they are on its disk (appendonly {config.get('appendonly')}, appendfsync "
            f"{config.get('appendfsync')}). Set `appendonly yes` and `appendfsync always`, or accept by name that it can lose the last "
            "ones: add ?allow_loss=1 to the URL."
        )
    return durable
