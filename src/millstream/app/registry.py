"""The schema registry: where the ids in Confluent's frame come from, asked at start and never for an event."""

import asyncio
import base64
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from millstream.app.facts_of import schema_of
from millstream.app.settings import Settings, masked
from millstream.contracts.confluent import schema_uri
from millstream.contracts.errors import ConfigurationError, ContractError, RegistryError, RegistryUnavailableError
from millstream.contracts.message import Contract
from millstream.core.broker import Broker
from millstream.core.clock import Clock

#: Seconds that one question may take, and for which a registry that does not answer is asked again, with how long a pause.
QUESTION, PATIENCE, PAUSE = 5.0, 10.0, 0.5
#: What other registries and the proxies before them say when the same question may succeed later.
PASSING = frozenset((408, 429, 500, 502, 503, 504))
MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"
#: No answer of a registry is larger.
LARGEST = 1 << 24


class Schemas:
    """Which schema in the registry each event of an app has; none has one where the broker frames nothing."""

    def __init__(self, known: Mapping[type, str] | None = None) -> None:
        self._known = known

    def of(self, contract: Contract) -> str | None:
        """What the envelopes of this contract say of their schema; ContractError where nobody has asked for it."""
        if self._known is None or contract.wire != "confluent":
            return None
        schema = self._known.get(contract.type)
        if schema is None:
            raise ContractError(
                f"{contract.name} is published with wire='confluent', and the id of its schema is asked for at start: name "
                f"{contract.type.__qualname__} in the return annotation of the handler that publishes it, or in App(publishes=[...])"
            )
        return schema


async def schemas_of(contracts: Iterable[Contract], broker: Broker, settings: Settings, clock: Clock) -> Schemas:
    """The schemas of those contracts that need one, from the registry that the settings name.

    One that does not answer is asked again for some seconds, then it raises `RegistryUnavailableError`.
    """
    if not broker.features.framed:
        return Schemas()
    wanted = list(dict.fromkeys(contract for contract in contracts if contract.wire == "confluent"))
    if not wanted:
        return Schemas({})
    if settings.registry is None:
        raise ConfigurationError(
            f"{wanted[0].name} is published with wire='confluent', which needs the id of its schema, and no schema registry is named. "
            "Set MILLSTREAM_REGISTRY or App(registry=...) to its URL, such as http://localhost:8081"
        )
    registry = Registry(settings.registry, settings.origin("registry"), clock)
    return Schemas({contract.type: schema_uri(await registry.id_of(contract)) for contract in wanted})


class _Registered(msgspec.Struct):
    id: int


class _Refused(msgspec.Struct):
    message: str = ""


class _PassingError(Exception):
    """The same question may succeed later."""


class Registry:
    """A schema registry with Confluent's API.

    Its URL may hold a user and a password, and `?register=0`: then schemas are only
    looked up, and one that is not there is an error.
    """

    def __init__(self, url: str, origin: str, clock: Clock) -> None:
        # Only here: who publishes no framed events needs none of it.
        from urllib.parse import parse_qsl, unquote, urlsplit

        self._clock = clock
        self._name = f"the schema registry {masked(url)} ({origin})"
        wrong = ConfigurationError(
            f"{self._name}: that is no URL of a registry. Write http://host:8081, with the user and password that it asks for, and with "
            "?register=0 if schemas are only to be looked up"
        )
        try:
            parts = urlsplit(url)
            options = dict(parse_qsl(parts.query, keep_blank_values=True))
            known = parts.hostname is not None and parts.port != 0 and not parts.fragment
        except ValueError as error:
            raise wrong from error
        self._registers = options.pop("register", "1")
        if not known or options or self._registers not in ("0", "1"):
            raise wrong
        self._base = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        self._headers = {"Content-Type": MEDIA_TYPE, "Accept": f"{MEDIA_TYPE}, application/json"}
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"

    async def id_of(self, contract: Contract) -> int:
        """The id of a contract's schema under the subject of its topic; it is registered where it is new."""
        schema = _registered_as(contract)
        subject = f"{contract.topic}-value"
        body = msgspec.json.encode({"schemaType": "JSON", "schema": schema.decode()})
        deadline = self._clock.monotonic() + PATIENCE
        while True:
            try:
                status, answer = await asyncio.to_thread(self._ask, subject, body)
            except _PassingError as error:
                if self._clock.monotonic() > deadline:
                    raise RegistryUnavailableError(
                        f"{self._name} cannot be asked: {error}. The schema of {contract.name} is needed to publish it: start the "
                        "registry, or correct the URL"
                    ) from error
                await self._clock.sleep(PAUSE)
                continue
            return self._id_in(status, answer, contract, subject)

    def _ask(self, subject: str, body: bytes) -> tuple[int, bytes]:
        """In a thread: register, or look up; gives the status and the answer."""
        from http.client import HTTPException
        from urllib.error import HTTPError
        from urllib.parse import quote
        from urllib.request import HTTPRedirectHandler, Request, build_opener

        class Here(HTTPRedirectHandler):
            """Goes nowhere else: the password is for this registry alone."""

            def redirect_request(self, *_: object, **__: object) -> None:
                return None

        versions = "/versions" if self._registers == "1" else ""
        # The settings take no other URLs than those of HTTP.
        request = Request(f"{self._base}/subjects/{quote(subject, safe='')}{versions}", body, self._headers)  # noqa: S310
        try:
            with build_opener(Here).open(request, timeout=QUESTION) as response:
                return response.status, response.read(LARGEST)
        except HTTPError as error:
            with error:
                answer = error.read(LARGEST)
                if error.code in PASSING:
                    raise _PassingError(f"it says {error.code} {_said_in(answer)}") from error
                return error.code, answer
        # A connection that breaks, or speaks another protocol, says so in one of these.
        except (OSError, HTTPException) as error:
            raise _PassingError(str(getattr(error, "reason", error)) or type(error).__name__) from error

    def _id_in(self, status: int, answer: bytes, contract: Contract, subject: str) -> int:
        if status == 200:
            try:
                return msgspec.json.decode(answer, type=_Registered).id
            except msgspec.MsgspecError as error:
                raise RegistryError(f"{self._name} answered what no registry does: {answer[:200]!r}. Correct the URL") from error
        said = _said_in(answer)
        what = f"{self._name} did not take the schema of {contract.name} for the subject {subject!r}"
        if status in (401, 403):
            raise RegistryError(f"{what}: {status} {said}. Put a user that may, and the password, into the URL: http://user:password@host")
        if status == 404 and self._registers == "0":
            raise RegistryError(f"{what}: it is not there ({said}), and register=0 forbids to add it. Register it, or leave register=0 out")
        if status == 409:
            raise RegistryError(
                f"{what}: it breaks the subject's compatibility ({said}). Change {contract.type.__qualname__} in a compatible way, give it "
                "another topic, or have the subject checked less strictly"
            )
        raise RegistryError(f"{what}: {status} {said}. Look at the registry, or correct the URL")


def _said_in(answer: bytes) -> str:
    """What a refusal says, whoever it comes from."""
    try:
        return msgspec.json.decode(answer, type=_Refused).message
    except msgspec.MsgspecError:
        return answer[:200].decode("utf-8", "replace")


def _registered_as(contract: Contract) -> bytes:
    """A contract's schema as one that stands for itself: tools look for the name and the fields of a record at its root."""
    schema: dict[str, Any] = msgspec.json.decode(schema_of(contract))
    if not schema:
        raise ContractError(
            f"{contract.name} is published with wire='confluent', and no JSON Schema can be made of {contract.type.__qualname__}; use "
            "types that JSON Schema can describe"
        )
    definitions: dict[str, Any] = schema.pop("$defs", {})
    reference = schema.get("$ref", "")
    if reference:
        name = reference.removeprefix("#/$defs/")
        schema = definitions[name]
        # A type that holds values of its own type is still spoken of.
        if reference.encode() not in re.findall(rb'"\$ref":"([^"]*)"', msgspec.json.encode(definitions)):
            definitions = {other: definition for other, definition in definitions.items() if other != name}
    more = {"$defs": definitions} if definitions else {}
    # Without the dialect's name: there are registries that refuse newer ones, and the words that are used here mean the same in all.
    return msgspec.json.encode({"title": contract.type.__name__, **schema, **more})
