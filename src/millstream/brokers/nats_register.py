"""What JetStream does not remember: topics, groups, where a group stands in a partition and who has it, and who is there."""

from typing import Literal

import msgspec

from millstream.brokers.nats_jetstream import Bucket, JetStream
from millstream.brokers.nats_names import escaped
from millstream.contracts.errors import BrokerError, BrokerUnavailableError
from millstream.core.broker import Group, Partition, Topic

BUCKET = "millstream"
MEMBERS = "millstream_members"
#: Seconds after which a member that says nothing is not there any more.
LEASE = 10.0
#: How often to try again when others change a record at the same time.
TRIES = 20


class TopicRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A topic that was made."""

    name: str
    partitions: int
    retain_seconds: float | None = None
    retain_bytes: int | None = None

    def topic(self) -> Topic:
        """It, as the port says it."""
        return Topic(name=self.name, partitions=self.partitions, retain_seconds=self.retain_seconds, retain_bytes=self.retain_bytes)

    def all(self) -> list[Partition]:
        """Its partitions."""
        return [Partition(self.name, number) for number in range(self.partitions)]


class GroupRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A group that was declared."""

    name: str
    topics: tuple[str, ...]
    start: Literal["latest", "earliest"] = "latest"
    store: str | None = None

    def group(self) -> Group:
        """It, as the port says it."""
        return Group(name=self.name, topics=self.topics, start=self.start, store=self.store)


class Place(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a group stands in a partition, and which member has it; whoever writes has to know the revision before."""

    position: int
    owner: str = ""
    """Its token, which no other has; empty when nobody has it."""
    member: str = ""
    """What to call it."""
    stream: str = ""
    """When the stream was made that the position is of; empty where the next owner has to find that out."""


class NatsRegister:
    """Two buckets: one for what is to be kept, one whose records go away when they are not renewed."""

    def __init__(self, jetstream: JetStream, name: str) -> None:
        self._name = name
        self._jetstream = jetstream
        self._bucket = Bucket(jetstream, BUCKET)
        self._members = Bucket(jetstream, MEMBERS)

    async def make(self, replicas: int) -> None:
        """Have them."""
        await self._bucket.make(num_replicas=replicas)
        await self._members.make(num_replicas=replicas, max_age=int(LEASE * 1e9), duplicate_window=int(1e9))

    # Topics and groups

    async def topic(self, name: str) -> TopicRecord | None:
        """A topic that was made."""
        record = await self._bucket.get(f"topic.{escaped(name)}")
        return None if record is None else msgspec.json.decode(record.body, type=TopicRecord)

    async def add_topic(self, wanted: TopicRecord) -> TopicRecord:
        """Write a topic, unless somebody did; gives what is written."""
        if await self._bucket.put(f"topic.{escaped(wanted.name)}", msgspec.json.encode(wanted), expected=0) is not None:
            return wanted
        return await self.topic(wanted.name) or wanted

    async def change_topic(self, record: TopicRecord) -> None:
        """Write how long a topic keeps its events."""
        await self._bucket.put(f"topic.{escaped(record.name)}", msgspec.json.encode(record))

    async def topics(self) -> list[TopicRecord]:
        """All topics, sorted."""
        bodies = [await self._bucket.get(key) for key in await self._bucket.keys("topic.*")]
        return sorted((msgspec.json.decode(b.body, type=TopicRecord) for b in bodies if b is not None), key=lambda record: record.name)

    async def group(self, name: str) -> tuple[GroupRecord | None, int]:
        """A group that was declared, and the revision of its record."""
        record = await self._bucket.get(f"group.{escaped(name)}")
        return (None, 0) if record is None else (msgspec.json.decode(record.body, type=GroupRecord), record.seq)

    async def put_group(self, record: GroupRecord, revision: int) -> bool:
        """Write a group; False when another has written it since."""
        return await self._bucket.put(f"group.{escaped(record.name)}", msgspec.json.encode(record), expected=revision) is not None

    async def groups(self) -> list[GroupRecord]:
        """All groups, sorted."""
        bodies = [await self._bucket.get(key) for key in await self._bucket.keys("group.*")]
        return sorted((msgspec.json.decode(b.body, type=GroupRecord) for b in bodies if b is not None), key=lambda record: record.name)

    async def forget(self, group: str) -> None:
        """Remove a group, its places first: a group that is declared later begins anew."""
        await self._bucket.remove(f"at.{escaped(group)}.>")
        await self._bucket.remove(f"group.{escaped(group)}")

    # Places

    async def place(self, group: str, partition: Partition) -> tuple[Place, int] | None:
        """Where a group stands, and the revision of the record."""
        record = await self._bucket.get(_place_key(group, partition))
        return None if record is None else (msgspec.json.decode(record.body, type=Place), record.seq)

    async def put_place(self, group: str, partition: Partition, place: Place, revision: int) -> int | None:
        """Write it, and give the new revision; None when another has written it since."""
        return await self._bucket.put(_place_key(group, partition), msgspec.json.encode(place), expected=revision)

    async def move(self, group: str, partition: Partition, position: int) -> None:
        """Have a group that nobody runs stand elsewhere."""
        for _ in range(TRIES):
            known = await self.place(group, partition)
            if known is not None and known[0].owner and known[0].owner in await self.members(group):
                raise BrokerError(f"group {group!r} is running on {self._name}: stop its workers, then move it.")
            if await self.put_place(group, partition, Place(position), known[1] if known else 0) is not None:
                return
        raise BrokerUnavailableError(f"group {group!r} is being changed by others on {self._name}. Try again later.")

    # Members

    async def be_there(self, group: str, token: str, member: str) -> None:
        """Be counted for another lease."""
        await self._members.put(f"{escaped(group)}.{token}", member.encode())

    async def leave(self, group: str, token: str) -> None:
        """Be counted no longer."""
        await self._members.remove(f"{escaped(group)}.{token}")

    async def members(self, group: str) -> list[str]:
        """The tokens of those who are there."""
        return [key.rpartition(".")[2] for key in await self._members.keys(f"{escaped(group)}.*")]


def _place_key(group: str, partition: Partition) -> str:
    return f"at.{escaped(group)}.{escaped(partition.topic)}.{partition.number}"
