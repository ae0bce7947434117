"""What streams do not say: which topics there are, and which groups; each is a record in a hash."""

import secrets
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal

import msgspec

from millstream.brokers.redis_control import RedisControl
from millstream.brokers.redis_names import GROUPS, REMOVED, STREAMS, TOPICS, claims_of, members_of, stream_of
from millstream.brokers.redis_scripts import ENSURE, FORGET, PLACE, REPLACE
from millstream.contracts.errors import BrokerUnavailableError, ConfigurationError, StoreMismatchError
from millstream.core.broker import Group, Partition, Topic

DEFAULT_PARTITIONS = 8
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

    def all(self) -> tuple[Partition, ...]:
        """Its partitions."""
        return _partitions(self.name, self.partitions)


class GroupRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A group that was declared."""

    name: str
    topics: tuple[str, ...]
    start: Literal["latest", "earliest"] = "latest"
    store: str | None = None

    def group(self) -> Group:
        """It, as the port says it."""
        return Group(name=self.name, topics=self.topics, start=self.start, store=self.store)


@lru_cache(maxsize=1024)
def _partitions(topic: str, count: int) -> tuple[Partition, ...]:
    return tuple(Partition(topic, number) for number in range(count))


class RedisRegister:
    """Topics and groups, as they were declared."""

    def __init__(self, control: RedisControl) -> None:
        self._control = control
        self._name = control.settings.name

    async def topics(self) -> list[TopicRecord]:
        """All topics, sorted."""
        records = [msgspec.json.decode(text, type=TopicRecord) for text in await self._control.call("HVALS", TOPICS)]
        return sorted(records, key=lambda record: record.name)

    async def topics_of(self, names: Iterable[str]) -> dict[str, TopicRecord]:
        """Those of these that were made."""
        wanted = list(names)
        if not wanted:
            return {}
        texts = await self._control.call("HMGET", TOPICS, *wanted)
        return {name: msgspec.json.decode(text, type=TopicRecord) for name, text in zip(wanted, texts, strict=True) if text is not None}

    def verify_topic(self, topic: Topic, known: TopicRecord | None) -> None:
        """Refuse a topic that is there with another number of partitions."""
        if known is not None and topic.partitions not in (None, known.partitions):
            raise ConfigurationError(
                f"topic {topic.name!r} on {self._name} has {known.partitions} partitions, not {topic.partitions}: another number would "
                "give keys another place. Declare the number it has, or use a new topic."
            )

    async def add_topic(self, topic: Topic) -> TopicRecord:
        """Have a topic and its streams, with the retention that is asked for."""
        for _ in range(TRIES):
            text = await self._control.call("HGET", TOPICS, topic.name)
            known = None if text is None else msgspec.json.decode(text, type=TopicRecord)
            self.verify_topic(topic, known)
            record = known or TopicRecord(topic.name, topic.partitions or DEFAULT_PARTITIONS)
            record = msgspec.structs.replace(
                record,
                retain_seconds=record.retain_seconds if topic.retain_seconds is None else topic.retain_seconds,
                retain_bytes=record.retain_bytes if topic.retain_bytes is None else topic.retain_bytes,
            )
            taken = await self._control.run(ENSURE, (STREAMS, REMOVED, *map(stream_of, record.all())), (secrets.token_hex(6),))
            if taken is not None:
                raise ConfigurationError(
                    f"topic {topic.name!r} cannot be had on {self._name}, because the key {taken.decode()!r} is there and is no stream: it "
                    "is another's. Choose another name, another database, or remove the key."
                )
            if record == known or await self._replace(TOPICS, topic.name, text, record):
                return record
        raise self._busy(f"topic {topic.name!r}")

    async def groups(self) -> list[GroupRecord]:
        """All groups, sorted."""
        records = [msgspec.json.decode(text, type=GroupRecord) for text in await self._control.call("HVALS", GROUPS)]
        return sorted(records, key=lambda record: record.name)

    async def group(self, name: str) -> GroupRecord | None:
        """A group that was declared."""
        text = await self._control.call("HGET", GROUPS, name)
        return None if text is None else msgspec.json.decode(text, type=GroupRecord)

    async def add_group(self, group: Group, partitions: Sequence[Partition]) -> None:
        """Have a group stand in these: at its creation, unless it asked for all or stands there already."""
        for _ in range(TRIES):
            text = await self._control.call("HGET", GROUPS, group.name)
            known = None if text is None else msgspec.json.decode(text, type=GroupRecord)
            if known is not None and known.store and group.store and known.store != group.store:
                raise StoreMismatchError(
                    f"group {group.name!r} keeps its progress in the store {known.store}, and this one is {group.store}: two stores would "
                    f"each take the group for theirs. Open the store it had, or remove the group (`millstream groups forget {group.name}`) "
                    "and let it begin anew."
                )
            if partitions:
                await self._control.run(PLACE, (REMOVED, *map(stream_of, partitions)), (group.name, int(group.start == "earliest")))
            topics = tuple(dict.fromkeys((*(known.topics if known else ()), *group.topics)))
            record = GroupRecord(group.name, topics, group.start, group.store or (known.store if known else None))
            if record == known or await self._replace(GROUPS, group.name, text, record):
                return
        raise self._busy(f"group {group.name!r}")

    async def forget(self, group: str, partitions: Sequence[Partition]) -> None:
        """Remove a group: one that is declared later under its name begins anew."""
        await self._control.run(FORGET, (GROUPS, members_of(group), claims_of(group), *map(stream_of, partitions)), (group,))

    async def _replace(self, hash: str, field: str, before: bytes | None, record: msgspec.Struct) -> bool:
        return bool(await self._control.run(REPLACE, (hash,), (field, before or b"", msgspec.json.encode(record))))

    def _busy(self, what: str) -> BrokerUnavailableError:
        return BrokerUnavailableError(f"{what} is being declared by others on {self._name}. Try again later.")
