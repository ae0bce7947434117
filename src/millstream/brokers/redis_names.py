"""Keys in Redis, and positions as ids of entries."""

from millstream.contracts.errors import BrokerError, ConfigurationError
from millstream.core.broker import Partition

#: Keys of ours begin so.
ROOT = "millstream:"
TOPICS, GROUPS, MARKS = f"{ROOT}topics", f"{ROOT}groups", f"{ROOT}marks"
STREAMS = f"{ROOT}streams"
"""What tells a stream from one that had its name before."""
REMOVED = f"{ROOT}removed"
"""Of a stream: the last position that retention has taken."""
LONGEST = 1000
#: Positions up to here are sequence numbers alone. Beyond, they are milliseconds and sequence number, of which
#: these are the bits.
PLAIN = 1 << 40
SEQUENCE = 20


def stream_of(partition: Partition) -> str:
    """The stream that holds a partition."""
    return f"{partition.topic}:{partition.number}"


def members_of(group: str) -> str:
    """Who is there, each with the moment at which it will have been silent for too long."""
    return f"{ROOT}members:{group}"


def claims_of(group: str) -> str:
    """Which member has which stream."""
    return f"{ROOT}claims:{group}"


def publisher_of(token: str) -> str:
    """Which batch of a publisher was stored last."""
    return f"{ROOT}publisher:{token}"


def position_of(id_: bytes) -> int:
    """An entry's id as one number that rises as ids do.

    What Millstream publishes has the ids 0-1, 0-2 and so on, which makes positions without gaps. Entries that others add
    with `*` have the milliseconds of the server's clock.
    """
    millis, _, sequence = id_.partition(b"-")
    number = int(sequence)
    if millis == b"0":
        return number
    if number >> SEQUENCE or int(millis) << SEQUENCE < PLAIN:
        raise BrokerError(
            f"an entry has the id {id_.decode()}, which is neither the server's clock nor follows ours: add entries with * or 0-* as id"
        )
    return int(millis) << SEQUENCE | number


def position_near(id_: bytes) -> int:
    """The same for whoever looks at a stream from outside: an id that has no position is told as the nearest that is one."""
    try:
        return position_of(id_)
    except BrokerError:
        millis, _, sequence = id_.partition(b"-")
        return max(PLAIN, int(millis) << SEQUENCE | min(int(sequence), (1 << SEQUENCE) - 1))


def id_of(position: int) -> str:
    """The id that an entry at this position has."""
    return f"0-{position}" if position < PLAIN else f"{position >> SEQUENCE}-{position & (1 << SEQUENCE) - 1}"


def id_before(position: int) -> str:
    """An id after which this position is the next."""
    return id_of(max(position - 1, 0))


def entries_before(position: int) -> int:
    """How many entries were added before a position, as the server counts them; -1 where the position does not tell."""
    return max(position - 1, 0) if position < PLAIN else -1


def check_topic(name: str) -> None:
    """Refuse a name that cannot be a topic's."""
    if not name:
        raise ConfigurationError("a topic has no name, and an event could not be published to it; give it one")
    if name.startswith(ROOT):
        raise ConfigurationError(f"topic {name!r} is for internal use on Redis. Choose another name.")
    if len(name.encode()) > LONGEST:
        raise ConfigurationError(f"topic {name[:80]!r} has a name of more than {LONGEST} bytes. Shorten it.")


def check_group(name: str) -> None:
    """Refuse a name that cannot be a group's."""
    if not name or len(name.encode()) > LONGEST:
        raise ConfigurationError(f"group {name[:80]!r} has no name, or one of more than {LONGEST} bytes. Choose another.")
