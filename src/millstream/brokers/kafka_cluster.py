"""A Kafka cluster as its administrators see it: servers, topics, offsets and groups."""

# confluent_kafka.admin documents these names, and exports them without saying so.
# pyright: reportPrivateImportUsage=false

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, cast

from confluent_kafka import ConsumerGroupState, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec, ResourceType

from millstream.brokers.kafka_errors import error_of, failure, is_forbidden, is_passing, unusable
from millstream.brokers.kafka_settings import CLIENT_LOG, KafkaSettings, Protocol
from millstream.contracts.errors import BrokerError, BrokerUnavailableError, ConfigurationError
from millstream.core.broker import Partition

log = logging.getLogger("millstream.kafka")

#: Seconds that a request of ours may take, with its repetitions.
PATIENCE = 10.0
#: One question, which is asked again for as long: a server that is gone leaves it without an answer.
QUESTION = 3.0
PAUSE = 0.05
#: How long a group's coordinator has for an answer, in seconds.
COORDINATOR = 3.0
#: Its futures carry no types.
Admin = Any


@dataclass(frozen=True, slots=True)
class Described:
    """A topic as it is."""

    id: str
    partitions: int
    replication: int
    """The copies of its least copied partition."""
    config: Mapping[str, str]

    largest: int
    """Bytes that a record may have, with all that is around its value."""

    def number(self, name: str) -> int:
        """A setting that is a number."""
        return int(self.config.get(name) or -1)


class KafkaCluster:
    """Asks the servers of a cluster, and repeats what can be repeated; errors are Millstream's own."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.name = settings.name
        self.id = ""
        self.servers = 0
        self.protocol: Protocol = settings.protocol or "classic"
        self._settings = settings
        self._admin: Admin = None
        self._last_error: KafkaError | None = None
        self._listing: asyncio.Task[Any] | None = None

    async def connect(self) -> None:
        """Find the cluster; raises `BrokerUnavailableError` when nobody answers."""
        self._admin = self._new_admin()
        try:
            found = await self._metadata("finding the cluster", self._admin)
        except BrokerUnavailableError as error:
            if self._last_error is None:
                raise
            raise BrokerUnavailableError(f"{error} The last thing that happened was: {self._last_error.str()}.") from error
        self.id, self.servers = str(found.cluster_id), len(found.brokers)
        if self._settings.protocol is None:
            self.protocol = await self._best_protocol(str(next(iter(found.brokers))))

    def _new_admin(self) -> Admin:
        settings: dict[str, Any] = {**self._settings.client, "client.id": "millstream", "error_cb": self._note_error}
        try:
            return AdminClient(settings, logger=CLIENT_LOG)
        except KafkaException as error:
            raise unusable(error, self.name) from error

    def close(self) -> None:
        """Forget the connection."""
        self._admin = None

    def _note_error(self, error: KafkaError) -> None:
        # That all servers are down says less than what happened to the last one.
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._last_error = error
        log.debug("%s: %s", self.name, error)

    async def _best_protocol(self, server: str) -> Protocol:
        """Groups that the server shares out (KIP-848), where it says that it can."""
        try:
            config = await self._configs(ResourceType.BROKER, [server])
        except (BrokerError, ConfigurationError) as error:
            log.info("%s does not tell its settings (%s): groups share partitions in the classic way", self.name, error)
            return "classic"
        return "consumer" if "consumer" in config[server].get("group.coordinator.rebalance.protocols", "") else "classic"

    # Topics

    async def topic_names(self) -> list[str]:
        """All topics but Kafka's own."""
        metadata = await self._metadata("listing topics", self._client())
        internal = ("__consumer_offsets", "__transaction_state", "__share_group_state", "__cluster_metadata")
        return sorted(name for name in cast("dict[str, Any]", metadata.topics) if name not in internal)

    async def describe(self, names: Sequence[str]) -> dict[str, Described]:
        """These topics as they are; those that do not exist are left out."""
        if not names:
            return {}
        answers = await self._ask(
            "describing topics",
            lambda admin: admin.describe_topics(TopicCollection(list(names)), request_timeout=QUESTION),
            leave=(KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_EXCEPTION),
        )
        found = {name: topic for name, topic in answers.items() if not isinstance(topic, KafkaException)}
        configs = await self._configs(ResourceType.TOPIC, list(found)) if found else {}
        return {
            name: Described(
                id=str(topic.topic_id),
                partitions=len(topic.partitions),
                replication=min((len(p.replicas) for p in topic.partitions), default=0),
                config=configs[name],
                largest=int(configs[name].get("max.message.bytes") or 1 << 20),
            )
            for name, topic in found.items()
        }

    async def make_topic(self, name: str, partitions: int, replication: int, config: Mapping[str, str]) -> bool:
        """Create a topic; False if it is there already. Raises `ConfigurationError` where Kafka refuses its name or settings."""
        new = NewTopic(name, partitions, replication, config=dict(config))
        refusals = (
            KafkaError.TOPIC_ALREADY_EXISTS, KafkaError.TOPIC_EXCEPTION, KafkaError.INVALID_PARTITIONS, KafkaError.INVALID_CONFIG,
            KafkaError.INVALID_REPLICATION_FACTOR, KafkaError.POLICY_VIOLATION,
        )  # fmt: skip
        try:
            answers = await self._ask(
                f"creating topic {name!r}", lambda admin: admin.create_topics([new], request_timeout=PATIENCE), leave=refusals
            )
        except ValueError as error:
            raise ConfigurationError(f"topic {name!r} cannot be created on {self.name}: {error}. Choose another name.") from error
        refused = answers[name]
        if not isinstance(refused, KafkaException):
            return True
        if error_of(refused).code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        advice = {
            KafkaError.TOPIC_EXCEPTION: "Choose another name.",
            KafkaError.INVALID_PARTITIONS: f"Declare another number of partitions than {partitions}.",
            KafkaError.INVALID_REPLICATION_FACTOR: (
                f"The cluster has {self.servers} server(s), and the topic was to have {replication} copies: start more, or write "
                f"replication={self.servers} into the URL."
            ),
            KafkaError.INVALID_CONFIG: "Correct what is declared, or the cluster's own settings.",
        }.get(error_of(refused).code(), "Ask who runs the cluster for what it allows, or have the topic made there.")
        raise ConfigurationError(f"topic {name!r} cannot be created on {self.name}: {error_of(refused).str()}. {advice}")

    async def _configs(self, kind: ResourceType, names: Sequence[str]) -> dict[str, dict[str, str]]:
        resources = [ConfigResource(kind, name) for name in names]
        answers = await self._ask(
            "reading settings",
            lambda admin: admin.describe_configs(resources, request_timeout=QUESTION),
            # Of a topic that was just made not every server of a cluster has heard.
            wait_for=(KafkaError.UNKNOWN_TOPIC_OR_PART,),
        )
        return {
            resource.name: {name: str(entry.value) for name, entry in entries.items() if entry.value is not None}
            for resource, entries in answers.items()
        }

    # Offsets

    async def partitions(self, topics: Sequence[str]) -> list[Partition]:
        """All partitions of these topics; those of a topic that does not exist are none."""
        found = await self._ask(
            "describing topics",
            lambda admin: admin.describe_topics(TopicCollection(list(topics)), request_timeout=QUESTION),
            leave=(KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_EXCEPTION),
        )
        known = [(name, topic) for name, topic in found.items() if not isinstance(topic, KafkaException)]
        return sorted(Partition(name, info.id) for name, topic in known for info in topic.partitions)

    async def firsts(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The first position that is still there."""
        return await self._offsets(partitions, cast("OffsetSpec", OffsetSpec.earliest()))

    async def heads(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The position that the next event will get."""
        return await self._offsets(partitions, cast("OffsetSpec", OffsetSpec.latest()))

    async def offset_at(self, partition: Partition, millis: int) -> int | None:
        """The first position stored at that time or later; None when nothing is."""
        found = await self._offsets([partition], OffsetSpec.for_timestamp(millis))
        return None if found[partition] < 0 else found[partition]

    async def _offsets(self, partitions: Iterable[Partition], spec: OffsetSpec) -> dict[Partition, int]:
        wanted = {TopicPartition(p.topic, p.number): spec for p in partitions}
        if not wanted:
            return {}
        answers = await self._ask("asking for offsets", lambda admin: admin.list_offsets(wanted, request_timeout=QUESTION))
        return {Partition(where.topic, where.partition): answer.offset for where, answer in answers.items()}

    # Groups

    async def is_running(self, group: str) -> bool:
        """Whether a group has members now."""
        deadline = time.monotonic() + PATIENCE
        while True:
            found = await self._list_groups()
            states = [each.state for each in found.valid if each.group_id == group]
            if states or not found.errors:
                return any(state not in (ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD) for state in states)
            # Each server tells of the groups that it coordinates, and one that has not answered may have this one.
            if not is_passing(found.errors[0]) or time.monotonic() > deadline:
                raise failure(found.errors[0], f"{self.name}: listing groups")
            await asyncio.sleep(PAUSE)

    async def _list_groups(self) -> Any:
        """All groups, with their states; all who ask at the same time get one answer."""
        # Rather all than one: this is no question to a coordinator, of which librdkafka may die.
        if self._listing is None or self._listing.done():
            self._listing = asyncio.create_task(
                self._one("listing groups", lambda admin: admin.list_consumer_groups(request_timeout=COORDINATOR))
            )
            # Nobody may wait for it any more.
            self._listing.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._listing)

    async def forget(self, group: str) -> None:
        """Remove a group's offsets; raises `BrokerError` while somebody works in it."""
        # The one question to a coordinator that is left to an `AdminClient`, because no other client can ask it: where it meets
        # a connection that is just going, librdkafka aborts the process (its issues 4605 and 3663). It is rare, and asked
        # of a client of its own, which knows no connection but those of this moment, once that has reached the cluster.
        box: list[Admin] = [self._new_admin()]
        try:
            await self._metadata("finding the cluster", box[0])
            answers = await self._ask(
                f"removing group {group!r}",
                lambda _: box[0].delete_consumer_groups([group], request_timeout=COORDINATOR),
                leave=(KafkaError.GROUP_ID_NOT_FOUND, KafkaError.NON_EMPTY_GROUP),
            )
        finally:
            # Its last reference is dropped in a thread: that waits for its own threads.
            await asyncio.to_thread(box.clear)
        refused = answers[group]
        if isinstance(refused, KafkaException) and error_of(refused).code() == KafkaError.NON_EMPTY_GROUP:
            raise BrokerError(f"group {group!r} is running on {self.name}: stop its workers, then forget it.")

    # Asking

    async def _metadata(self, what: str, admin: Admin) -> Any:
        """The servers and the topics, as one of the servers knows them."""
        # Not by `describe_cluster`: of an answer without any server, as the only one gives that is just coming (back), librdkafka
        # aborts the process.
        deadline = time.monotonic() + PATIENCE
        self._last_error = None
        while True:
            try:
                return await asyncio.to_thread(admin.list_topics, timeout=QUESTION)
            except KafkaException as error:
                # What it was told meanwhile waits in there until somebody asks for it.
                admin.poll(0)
                if self._last_error is not None and is_forbidden(self._last_error):
                    raise failure(self._last_error, f"{self.name}: {what}") from error
                if not is_passing(error_of(error)) or time.monotonic() > deadline:
                    raise failure(error, f"{self.name}: {what}") from error
            await asyncio.sleep(PAUSE)

    def _client(self) -> Admin:
        if self._admin is None:
            raise BrokerError(f"{self.name} is not open: use it inside `async with`.")
        return self._admin

    async def _one(self, what: str, start: Callable[[Admin], Any]) -> Any:
        return (await self._ask(what, lambda admin: {0: start(admin)}))[0]

    async def _ask(
        self,
        what: str,
        start: Callable[[Admin], Mapping[Any, Future[Any]]],
        leave: Sequence[int] = (),
        wait_for: Sequence[int] = (),
    ) -> dict[Any, Any]:
        """The answer to each part of a request.

        Errors that `leave` names are answers; those that `wait_for` names, or that may pass, are asked again.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            admin = self._client()
            futures = start(admin)
            answers = await asyncio.gather(*map(asyncio.wrap_future, futures.values()), return_exceptions=True)
            # Its log lines wait in there until somebody asks for them.
            admin.poll(0)
            refused = [answer for answer in answers if isinstance(answer, BaseException) and not _is_left(answer, leave)]
            if not refused:
                return dict(zip(futures, answers, strict=True))
            error = refused[0]
            if not isinstance(error, KafkaException):
                raise error
            passes = is_passing(error_of(error)) or error_of(error).code() in wait_for
            if not passes or time.monotonic() > deadline:
                raise failure(error, f"{self.name}: {what}") from error
            await asyncio.sleep(PAUSE)


def _is_left(answer: BaseException, leave: Sequence[int]) -> bool:
    return isinstance(answer, KafkaException) and error_of(answer).code() in leave
