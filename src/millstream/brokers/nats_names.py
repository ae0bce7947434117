"""Names of topics and groups as NATS has them: in streams, subjects and keys, each of which allows other letters."""

import re

from millstream.contracts.errors import ConfigurationError
from millstream.core.broker import Partition

#: Subjects of ours begin so.
ROOT = "millstream"
#: What neither a stream's name nor a word of a subject may have becomes = and two digits; a dot, which every contract's name
#: has, becomes a dash.
_ODD = re.compile(rb"[^A-Za-z0-9_]")
#: A subject that others can publish to: words with dots between, no wildcards, no white space.
_SUBJECT = re.compile(r"[^\s.*>\x00-\x1f\x7f]+(\.[^\s.*>\x00-\x1f\x7f]+)*")
#: The longest name of a stream, and of anything that goes into a subject together with others.
LONGEST_STREAM = 255
LONGEST = 600


def escaped(name: str) -> str:
    """A name as one word that can be part of a subject, of a key and of a stream's name."""
    return _ODD.sub(lambda odd: b"-" if odd[0] == b"." else b"=%02X" % odd[0][0], name.encode()).decode()


def stream_of(partition: Partition) -> str:
    """The stream that holds a partition."""
    return f"{escaped(partition.topic)}_{partition.number}"


def subject_of(partition: Partition) -> str:
    """Where events of a partition are published."""
    return f"{ROOT}.topic.{escaped(partition.topic)}.{partition.number}"


def bare_subject_of(topic: str) -> str | None:
    """Where others publish who know the topic alone; None for a topic whose name is no subject."""
    return topic if _SUBJECT.fullmatch(topic) else None


def check_topic(name: str) -> None:
    """Refuse a name that NATS cannot have."""
    if not name:
        raise ConfigurationError("a topic has no name, and an event could not be published to it; give it one")
    if name.startswith(("$", "_INBOX.", f"{ROOT}.topic.", f"{ROOT}.broadcast", f"{ROOT}.share.")):
        raise ConfigurationError(f"topic {name!r} is for internal use on NATS. Choose another name.")
    if len(stream_of(Partition(name, 9999))) > LONGEST_STREAM:
        raise ConfigurationError(
            f"topic {name[:80]!r} has a name that is longer than a stream's may be ({LONGEST_STREAM} bytes, of which letters other than "
            "a-z, A-Z and 0-9 take three). Shorten it."
        )


def check_group(name: str) -> None:
    """Refuse a name that NATS cannot have."""
    if not name or len(escaped(name)) > LONGEST:
        raise ConfigurationError(f"group {name[:80]!r} has no name, or one longer than {LONGEST} bytes. Choose another.")
