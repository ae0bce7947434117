"""Events as commands show them: exact JSON for programs, one line for people."""

import base64
import re
from decimal import Decimal
from typing import Any

import msgspec

from millstream.cli.wording import UNKNOWN, clock_time, iso
from millstream.contracts.codec import to_structured
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import EnvelopeError
from millstream.core.broker import Delivery, Message
from millstream.core.store import Parked

_FIELD = re.compile(r"\{([a-z][\w.]*)\}")
# Numbers keep every digit: a float would lose some of a price.
_decode = msgspec.json.Decoder(float_hook=Decimal).decode
_encode = msgspec.json.Encoder(decimal_format="number").encode


def event_fields(delivery: Delivery) -> dict[str, Any]:
    """An event and where the log has it; `event` is a CloudEvents document, digit for digit."""
    return {
        "topic": delivery.partition.topic,
        "partition": delivery.partition.number,
        "position": delivery.position,
        **content_fields(delivery.envelope, delivery.message),
    }


def content_fields(envelope: Envelope | None, message: Message | None) -> dict[str, Any]:
    """`event` where there is an envelope, and otherwise `message`, the bytes as they came."""
    fields: dict[str, Any] = {"event": None, "message": None}
    if envelope is not None:
        try:
            fields["event"] = msgspec.Raw(to_structured(envelope))
        except EnvelopeError as error:
            fields["event"] = {"id": envelope.id, "source": envelope.source, "type": envelope.type, "error": str(error)}
    if message is not None:
        fields["message"] = {
            "id": message.id,
            "source": message.source,
            "time": iso(message.time),
            "key_base64": None if message.key is None else base64.b64encode(message.key).decode(),
            "headers": [[name, base64.b64encode(value).decode()] for name, value in message.headers],
            "body_base64": base64.b64encode(message.body).decode(),
        }
    return fields


def parked_fields(parked: Parked) -> dict[str, Any]:
    """A dead letter, or what waits behind one."""
    return {
        "id": parked.id,
        "group": parked.group,
        "state": parked.state,
        "topic": parked.partition.topic,
        "partition": parked.partition.number,
        "position": parked.position,
        "sequence": parked.sequence,
        "attempts": parked.attempts,
        "due": iso(parked.due),
        "first_failure": iso(parked.first_failure),
        "last_failure": iso(parked.last_failure),
        "error": parked.error,
        "reason": parked.reason,
        "stack": parked.stack,
        **content_fields(parked.envelope, parked.message),
    }


def body_text(envelope: Envelope | None, message: Message | None) -> str:
    """The body as text; bytes that are not UTF-8 are told by their number."""
    body = envelope.data if envelope is not None else message.body if message is not None else b""
    try:
        return body.decode()
    except UnicodeDecodeError:
        return f"<{len(body)} bytes>"


def key_of(delivery: Delivery) -> str | None:
    """The key as text."""
    if delivery.envelope is not None:
        return delivery.envelope.key
    key = delivery.message.key if delivery.message is not None else None
    return None if key is None else key.decode("utf-8", "backslashreplace")


def filled(template: str, delivery: Delivery) -> str:
    """A template such as `{time} {type} {data.total}` with the event's values; what is not there is `—`."""
    return _FIELD.sub(lambda found: _value(found.group(1), delivery), template)


def field_text(delivery: Delivery, path: str) -> str | None:
    """A field of a JSON body, such as `customer.name`, as text; None where there is none."""
    body = delivery.envelope.data if delivery.envelope is not None else delivery.message.body if delivery.message else b""
    try:
        value: Any = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    for part in path.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]  # pyright: ignore[reportUnknownVariableType]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):  # pyright: ignore[reportUnknownArgumentType]
            value = value[int(part)]  # pyright: ignore[reportUnknownVariableType]
        else:
            return None
    return value if isinstance(value, str) else _encode(value).decode()


def _value(name: str, delivery: Delivery) -> str:
    envelope = delivery.envelope
    if name.startswith("data."):
        return field_text(delivery, name.removeprefix("data.")) or UNKNOWN
    values: dict[str, object] = {
        "topic": delivery.partition.topic,
        "partition": delivery.partition.number,
        "position": delivery.position,
        "key": key_of(delivery),
        "data": body_text(envelope, delivery.message),
    }
    if envelope is not None:
        values |= {
            "id": envelope.id,
            "type": envelope.type,
            "source": envelope.source,
            "version": envelope.version,
            "correlation": envelope.correlation,
            "causation": envelope.causation,
            "time": clock_time(envelope.time),
        }
    value = values.get(name)
    return UNKNOWN if value is None else str(value)
