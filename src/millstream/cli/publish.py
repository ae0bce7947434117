"""`millstream publish`: events from the command line."""

import difflib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from millstream.app.registry import schemas_of
from millstream.cli.exits import Exit
from millstream.cli.place import HERE, Opened, Place, opened
from millstream.cli.progress import Progress
from millstream.cli.screen import PLAIN, Look, Screen
from millstream.cli.target import contracts
from millstream.cli.wording import number
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import ConfigurationError, UnknownContractError
from millstream.contracts.ids import new_id
from millstream.contracts.message import codec_for, key_of, key_text

#: Events in one call when no rate is asked for.
BATCH = 100

@Parameter(name="*")
@dataclass(frozen=True)
class Header:
    """What an envelope says beside the type and the body."""

    key: Annotated[str | None, Parameter(help="The key; an App's contract takes it from the body.")] = None
    topic: Annotated[str | None, Parameter(help="The topic; by default the contract's, or the type's own name.")] = None
    version: Annotated[int | None, Parameter(help="The contract's version; 1 where no App knows it.")] = None
    source: Annotated[str | None, Parameter(help="Who publishes; the App's name, or /millstream.")] = None
    correlation: Annotated[str | None, Parameter(help="The correlation that this belongs to.")] = None


PLAIN_HEADER = Header()


async def publish(
    type: str,
    /,
    *,
    data: Annotated[
        str, Parameter(name=["--data", "-d"], allow_leading_hyphen=True, help="The body: JSON, @FILE, or - to read it from stdin.")
    ] = "{}",
    header: Header = PLAIN_HEADER,
    count: Annotated[int, Parameter(name=["--count", "-n"], help="How many events to publish.")] = 1,
    rate: Annotated[float | None, Parameter(help="At most so many events a second.")] = None,
    duplicate: Annotated[int, Parameter(help="Publish each event so many times more, with the same id, to see it absorbed.")] = 0,
    place: Place = HERE,
    look: Look = PLAIN,
) -> int:
    """Publish one event, or several with the same body; it returns when they are
    durable.

    With --app, or an app in the settings, the body is checked against the contract
    of that name.

    For example:
      millstream publish order.created --data '{"order_id": "o-1"}' --key o-1
      millstream publish order.created --data @order.json -n 100 --rate 10
      millstream publish order.created --app shop:app --data - --duplicate 2
    """
    screen = Screen(look)
    if count < 1 or duplicate < 0 or (rate is not None and rate <= 0):
        raise ConfigurationError("--count and --rate have to be more than 0, and --duplicate not less than 0.")
    body = _body(data)
    async with opened(place, create=True) as where:
        template = await _template(where, type, body, header)
        ids, errors = await _publish(where, template, count, rate, duplicate)
    published = count * (duplicate + 1) - len(errors)
    if look.json:
        screen.document("published", type=type, published=published, ids=ids, errors=errors)
    elif published:
        screen.say(f"published {type} {ids[0]}" if count == 1 and not duplicate else f"published {number(published)} events of {type}")
    if errors:
        screen.fail(f"{len(errors)} events were not published: {errors[0]}")
        return Exit.PARTIAL if published else Exit.FAILED
    if count == 1 and not look.json:
        screen.hint(f"Next: millstream trace {ids[0]}")
    return Exit.OK


async def _template(where: Opened, type: str, body: bytes, header: Header) -> Envelope:
    """What all events of this call have in common."""
    key, version, topic, source = header.key, header.version or 1, header.topic or type, header.source or "/millstream"
    schema = None
    if where.app is not None:
        known = contracts(where.app)
        if type not in known:
            near = difflib.get_close_matches(type, known, n=1)
            raise UnknownContractError(
                f"the App {where.app.name!r} knows no contract {type!r}. "
                + (f"Did you mean {near[0]}?" if near else f"It knows: {', '.join(sorted(known)) or 'none'}.")
            )
        contract = known[type]
        message = codec_for(contract).decode(body)
        schema = (await schemas_of([contract], where.broker, where.settings, where.clock)).of(contract)
        key = key_of(message) if key is None else key
        version, topic, source = header.version or contract.version, header.topic or contract.topic, header.source or f"/{where.app.name}"
    return Envelope(
        id="", source=source, type=type, key=None if key is None else key_text(key), time=0, data=body, schema=schema,
        version=version, correlation=header.correlation, topic=topic,
    )  # fmt: skip


async def _publish(where: Opened, template: Envelope, count: int, rate: float | None, duplicate: int) -> tuple[list[str], list[str]]:
    ids: list[str] = []
    errors: list[str] = []
    started = where.clock.monotonic()
    with Progress("published", count) as progress:
        while len(ids) < count:
            size = min(BATCH if rate is None else 1, count - len(ids))
            envelopes = [_fresh(template, where.clock.micros()) for _ in range(size)]
            ids += [envelope.id for envelope in envelopes]
            repeated = [envelope for envelope in envelopes for _ in range(duplicate + 1)]
            errors += [str(error) for error in await where.broker.publish(repeated) if error is not None]
            progress.at(len(ids))
            if rate is not None and len(ids) < count:
                await where.clock.sleep(max(0.0, started + len(ids) / rate - where.clock.monotonic()))
    return ids, errors


def _fresh(template: Envelope, micros: int) -> Envelope:
    return msgspec.structs.replace(template, id=new_id(micros // 1000, os.urandom(10)), time=micros)


def _body(data: str) -> bytes:
    """The bytes that were meant; they have to be JSON, and are published as they are."""
    where = "--data"
    if data == "-":
        body, where = sys.stdin.buffer.read().strip(), "stdin"
    elif data.startswith("@"):
        where = data[1:]
        try:
            body = Path(where).read_bytes().strip()
        except OSError as error:
            raise ConfigurationError(f"--data {data}: {where} cannot be read: {error.strerror}.") from error
    else:
        body = data.encode("utf-8", "surrogateescape")
    try:
        msgspec.json.decode(body)
        body.decode()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{where} is no JSON document: {error}. Write one, such as '{{\"order_id\": \"o-1\"}}'.") from error
    return body
