"""Names of topics and queues: readable, within Amazon's letters and lengths, with the true name in a tag that is read back."""

import hashlib
import re
from urllib.parse import quote, unquote

from millstream.contracts.errors import ConfigurationError

FIFO = ".fifo"
#: Names have room for so much.
QUEUE, TOPIC = 80, 256
#: Tags say what a name stands for.
TOPIC_TAG, GROUP_TAG, STORE_TAG, ALIVE_TAG = "millstream:topic", "millstream:group", "millstream:store", "millstream:alive"
#: Whether SNS may have been told what a queue's group wants.
FILTER_TAG = "millstream:filter"
LONGEST_TAG = 256
BROADCAST = "broadcast"


class AwsNames:
    """What topics and queues are called on AWS.

    A dot becomes a dash, what AWS does not allow an underscore, and what is too long ends
    with a hash. Two names that become the same one are told apart by their tags.
    """

    def __init__(self, prefix: str, *, fifo: bool) -> None:
        self.prefix = prefix
        self.suffix = FIFO if fifo else ""

    def topic(self, topic: str) -> str:
        """The SNS topic of a topic."""
        return self.prefix + _fit(topic, TOPIC - len(self.prefix) - len(FIFO)) + self.suffix

    def queue(self, group: str, topic: str) -> str:
        """The SQS queue of a group's share of a topic."""
        beginning = self.queues_of(group)
        return beginning + _fit(topic, QUEUE - len(beginning) - len(FIFO)) + self.suffix

    def queues_of(self, group: str) -> str:
        """What the names of a group's queues begin with."""
        room = QUEUE - len(self.prefix) - len(FIFO) - 2
        return f"{self.prefix}{_fit(group, room // 2)}__"

    def ears(self) -> str:
        """What the names of queues begin with that carry what every process is told."""
        return f"{self.prefix}{BROADCAST}-"

    def ours(self, name: str) -> bool:
        """Whether a topic or queue may be one of these."""
        return name.startswith(self.prefix) and name.endswith(self.suffix) and (bool(self.suffix) or not name.endswith(FIFO))


def _fit(name: str, room: int) -> str:
    short = re.sub("[^A-Za-z0-9_-]", "_", name.replace(".", "-"))
    if len(short) <= room:
        return short
    return f"{short[: room - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def to_tag(what: str, name: str) -> str:
    """A true name as the value of a tag, which has few letters."""
    if not name:
        raise ConfigurationError(f"a {what} has no name, and an event could not be published to it; give it one.")
    tag = quote(name, safe="._-:/@+").replace("%", "=")
    if len(tag) > LONGEST_TAG:
        raise ConfigurationError(
            f"{what} {name[:40]!r}... has a name of {len(tag)} letters as AWS writes it, which allows {LONGEST_TAG}. Shorten it."
        )
    return tag


def from_tag(tag: str) -> str:
    """The true name in a tag."""
    return unquote(tag.replace("=", "%"))
