"""JetStream as it is asked: streams, their messages, and a record of what belongs together (a key-value bucket)."""

import asyncio
import contextlib
from base64 import b64decode
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec

from millstream.brokers.nats_connection import Connection, NoAnswerError, NoResponderError
from millstream.contracts.errors import BrokerError, BrokerUnavailableError, ConfigurationError

API = "$JS.API"
#: Seconds for an answer, and how often a question is asked that may be asked twice.
SECONDS = 3.0
ATTEMPTS = 5
#: What the server's error codes mean here.
STREAM_NOT_FOUND, OTHER_CONFIG, OVERLAPS, CHANGED, NO_MESSAGE = 10059, 10058, 10065, 10071, 10037
NOT_ENABLED = (10039, 10076)
#: Too few servers could keep the copies: those of a cluster that has just started may not have found each other yet.
NO_PEERS = 10005
#: So long they are asked again, and after so long each time, in seconds.
GATHERING, AGAIN = 10.0, 0.25
#: The server cannot at the moment: its cluster looks for a leader, or it has no room.
UNAVAILABLE = 503

T = TypeVar("T")


class ApiError(BrokerError):
    """JetStream refused something."""

    def __init__(self, name: str, what: str, problem: "Problem") -> None:
        super().__init__(f"{name}: {what}: {problem.description} ({problem.err_code or problem.code}).")
        self.code = problem.code
        self.reason = problem.err_code


class Problem(msgspec.Struct, frozen=True):
    """Why something was refused."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class _Answer(msgspec.Struct, frozen=True):
    error: Problem | None = None


class StreamConfig(msgspec.Struct, frozen=True):
    """What a stream was made as."""

    subjects: list[str] = []
    storage: str = "file"
    retention: str = "limits"
    num_replicas: int = 1


class StreamState(msgspec.Struct, frozen=True):
    """What a stream holds."""

    messages: int = 0
    bytes: int = 0
    first_seq: int = 0
    last_seq: int = 0
    subjects: dict[str, int] = {}


class StreamInfo(msgspec.Struct, frozen=True):
    """A stream."""

    created: str
    config: StreamConfig
    state: StreamState

    @property
    def first(self) -> int:
        """The first position that is there, or the head."""
        return max(1, self.state.first_seq)

    @property
    def head(self) -> int:
        """The position that the next message gets."""
        return self.state.last_seq + 1


class Stored(msgspec.Struct, frozen=True):
    """A message of a stream."""

    seq: int
    time: str
    data: str = ""

    @property
    def body(self) -> bytes:
        """What it holds."""
        return b64decode(self.data)


class _Got(msgspec.Struct, frozen=True):
    message: Stored


class _Purged(msgspec.Struct, frozen=True):
    purged: int = 0


class Acknowledged(msgspec.Struct, frozen=True):
    """What JetStream answers to a message that was published to a stream."""

    error: Problem | None = None
    seq: int = 0
    duplicate: bool = False


class JetStream:
    """JetStream, asked over whatever connection there is."""

    def __init__(self, name: str, connect: Callable[[], Awaitable[Connection]]) -> None:
        self._name = name
        self._connect = connect

    async def call(self, what: str, operation: str, body: object, answer: type[T]) -> T:
        """One request; raises `ApiError` with `what` was wanted."""
        try:
            said = await self._ask(f"{API}.{operation}", b"" if body is None else msgspec.json.encode(body))
        except NoResponderError as error:
            raise ConfigurationError(
                f"{self._name}: JetStream does not answer. Enable it (`jetstream {{}}` in the server's configuration, and for the account)."
            ) from error
        problem = msgspec.json.decode(said, type=_Answer).error
        if problem is not None:
            if problem.err_code in NOT_ENABLED:
                raise ConfigurationError(f"{self._name}: JetStream is not enabled ({problem.description}). Enable it for this account.")
            if problem.code == UNAVAILABLE:
                raise BrokerUnavailableError(f"{self._name}: {what}: {problem.description}. Try again later.")
            raise ApiError(self._name, what, problem)
        return msgspec.json.decode(said, type=answer)

    async def _ask(self, subject: str, body: bytes) -> bytes:
        """Ask, and ask again: in a cluster, what has no leader for a while does not answer, not even later."""
        for _ in range(ATTEMPTS - 1):
            with contextlib.suppress(NoAnswerError):
                return (await (await self._connect()).request(subject, body, seconds=SECONDS))[1]
        return (await (await self._connect()).request(subject, body, seconds=SECONDS))[1]

    async def info(self, stream: str, *, subjects: str | None = None) -> StreamInfo | None:
        """A stream, with its subjects that match; None when it is not there."""
        body = None if subjects is None else {"subjects_filter": subjects}
        try:
            return await self.call(f"looking at stream {stream}", f"STREAM.INFO.{stream}", body, StreamInfo)
        except ApiError as error:
            if error.reason == STREAM_NOT_FOUND:
                return None
            raise

    async def make(self, stream: str, subjects: Sequence[str], **config: Any) -> StreamInfo:
        """Make a stream, or find it made; one with the same name that is another's is refused by the caller."""
        wanted = {
            "name": stream, "subjects": list(subjects), "retention": "limits", "storage": "file", "discard": "old", "max_msgs": -1,
            "max_bytes": -1, "max_age": 0, "max_consumers": -1, "max_msg_size": -1, "allow_direct": True, **config,
        }  # fmt: skip
        try:
            return await self._create(stream, wanted)
        except ApiError as error:
            found = await self.info(stream) if error.reason == OTHER_CONFIG else None
            if found is not None:
                return found
            if error.reason == OVERLAPS:
                raise ConfigurationError(
                    f"{error} Another stream takes what is published to {' or '.join(subjects)}. Choose another topic, or change that "
                    "stream."
                ) from error
            raise ConfigurationError(
                f"{error} Look at the server's limits and the account's; ?replicas= says how many copies are made."
            ) from error

    async def _create(self, stream: str, wanted: dict[str, Any]) -> StreamInfo:
        """Make a stream, if need be once the servers of a cluster have found each other."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + GATHERING
        while True:
            try:
                return await self.call(f"making stream {stream}", f"STREAM.CREATE.{stream}", wanted, StreamInfo)
            except ApiError as error:
                if error.reason != NO_PEERS or loop.time() > deadline:
                    raise
            await asyncio.sleep(AGAIN)

    async def purge(self, stream: str, **what: Any) -> int:
        """Remove messages: before a sequence, or of a subject."""
        return (await self.call(f"purging stream {stream}", f"STREAM.PURGE.{stream}", what, _Purged)).purged

    async def message(self, stream: str, **which: Any) -> Stored | None:
        """One message: by its sequence, or the last of a subject."""
        try:
            return (await self.call(f"reading stream {stream}", f"STREAM.MSG.GET.{stream}", which, _Got)).message
        except ApiError as error:
            if error.reason == NO_MESSAGE:
                return None
            raise

    async def put(self, subject: str, body: bytes, *, expected: int | None = None) -> int | None:
        """Store one message and give its sequence; None when the last of its subject is not the `expected` one (0: none)."""
        head = b"" if expected is None else b"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: %d\r\n\r\n" % expected
        connection = await self._connect()
        try:
            _, said = await connection.request(subject, body, head=head, seconds=SECONDS)
        except NoResponderError as error:
            raise BrokerUnavailableError(f"{self._name}: no stream takes {subject}. Try again later.") from error
        answer = msgspec.json.decode(said, type=Acknowledged)
        if answer.error is None:
            return answer.seq
        if answer.error.err_code == CHANGED:
            return None
        if answer.error.code == UNAVAILABLE:
            raise BrokerUnavailableError(f"{self._name}: writing {subject}: {answer.error.description}. Try again later.")
        raise ApiError(self._name, f"writing {subject}", answer.error)


class Bucket:
    """Small records under keys, each changed only by who knows what it was; `nats kv` reads it, too."""

    def __init__(self, jetstream: JetStream, name: str) -> None:
        self._jetstream = jetstream
        self._stream = f"KV_{name}"
        self._prefix = f"$KV.{name}."

    async def make(self, **config: Any) -> None:
        """Have it."""
        await self._jetstream.make(
            self._stream, [f"{self._prefix}>"], max_msgs_per_subject=1, discard="new", allow_rollup_hdrs=True, deny_delete=True, **config
        )

    async def get(self, key: str) -> Stored | None:
        """A record and its revision."""
        return await self._jetstream.message(self._stream, last_by_subj=self._prefix + key)

    async def put(self, key: str, body: bytes, *, expected: int | None = None) -> int | None:
        """Write a record, and give its new revision; None when it is not what was expected (0: nothing) any more."""
        return await self._jetstream.put(self._prefix + key, body, expected=expected)

    async def remove(self, key: str) -> None:
        """Remove a record, or all that a pattern matches."""
        await self._jetstream.purge(self._stream, filter=self._prefix + key)

    async def keys(self, pattern: str) -> list[str]:
        """The keys that match."""
        info = await self._jetstream.info(self._stream, subjects=self._prefix + pattern)
        return [subject.removeprefix(self._prefix) for subject in (info.state.subjects if info else ())]
