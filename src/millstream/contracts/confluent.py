"""Confluent's frame: a body of JSON with the id of its schema in a registry, in front of it or in a header.

In an envelope the body is bare, and `schema` says which one it is: `confluent:<id>`.
"""

from collections.abc import Sequence
from functools import lru_cache
from uuid import UUID

import msgspec

from millstream.contracts.codec import is_json_type
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import EnvelopeError

#: The headers that carry what otherwise stands in front of a value or a key; newer serializers can write them.
HEADER, KEY_HEADER = "__value_schema_id", "__key_schema_id"

_SCHEME = "confluent:"
_ID, _GUID = b"\x00", b"\x01"
#: The magic byte, and four for the id or sixteen for the GUID.
_SIZE, _GUID_SIZE = 5, 17
_MOST = (1 << 32) - 1

_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode


def schema_uri(id: int) -> str:
    """What an envelope says of a body whose schema has this id in the registry."""
    return f"{_SCHEME}{id}"


# A service publishes few types.
@lru_cache(maxsize=1024)
def frame_of(schema: str) -> bytes | None:
    """What stands in front of a body with this schema; None where nothing does."""
    digits = schema.removeprefix(_SCHEME)
    # Canonical: what is read back has to be the same text.
    if digits == schema or not digits.isascii() or not digits.isdigit() or str(int(digits[:11])) != digits or int(digits) > _MOST:
        return None
    return _ID + int(digits).to_bytes(4, "big")


def unframed(e: Envelope) -> Envelope:
    """The same event with its body out of the frame, and what the frame says as its `schema`.

    No JSON begins with a zero byte: what says that it is JSON, and is it behind the frame, is framed. Other bytes stay as they
    came: whoever repairs a dead letter needs all of them.
    """
    if e.data[:1] != _ID or len(e.data) < _SIZE or e.schema is not None or not is_json_type(e.content_type):
        return e
    if not is_json(e.data[_SIZE:]):
        return e
    schema = schema_uri(int.from_bytes(e.data[1:_SIZE], "big"))
    return msgspec.structs.replace(e, schema=schema, data=e.data[_SIZE:])


def from_framed(headers: Sequence[tuple[str, bytes]], body: bytes) -> tuple[str, bytes]:
    """The schema and the bare body of a message that is no CloudEvent; EnvelopeError where there is no frame, or no JSON in it."""
    told = next((value for name, value in headers if name == HEADER), None)
    found = _schema_at_the_start_of(body if told is None else told)
    if found is None:
        where = "the body" if told is None else f"the header {HEADER}"
        raise EnvelopeError(
            f"{where} does not begin as a Confluent serializer writes it: with a zero byte and the four of a schema's id, or in the header "
            "with a one and the sixteen of its GUID; for JSON that is bare subscribe with wire='json'"
        )
    schema, size = found
    data = body[size:] if told is None else body
    trouble = _trouble(schema, data)
    if trouble is not None:
        raise EnvelopeError(trouble)
    return schema, data


def bare_key(headers: Sequence[tuple[str, bytes]], key: bytes) -> bytes:
    """The key of such a message: the text of a JSON string, other JSON as it is, and what is not framed untouched."""
    if any(name == KEY_HEADER for name, _ in headers):
        text = key
    elif key[:1] == _ID and len(key) >= _SIZE:
        text = key[_SIZE:]
    else:
        return key
    try:
        return msgspec.json.decode(text, type=str).encode()
    except (msgspec.MsgspecError, UnicodeError):
        return text


def frame_trouble(e: Envelope) -> str | None:
    """What is wrong with a body that came in a frame, or begins like one, if it is no JSON at all."""
    if e.schema is not None:
        return _trouble(e.schema, e.data) if e.schema.startswith(_SCHEME) else None
    if e.data[:1] != _ID or len(e.data) < _SIZE:
        return None
    return _trouble(schema_uri(int.from_bytes(e.data[1:_SIZE], "big")), e.data[_SIZE:])


def is_json(data: bytes) -> bool:
    """Whether a body may stand in a frame."""
    return _trouble("", data) is None


def _trouble(schema: str, data: bytes) -> str | None:
    try:
        _decode_raw(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return (
            f"the body in Confluent's frame is no JSON ({error}): the schema {schema.removeprefix(_SCHEME)} may be one of Avro or "
            "Protobuf, which are not read here; publish it with a serializer for JSON Schema"
        )
    return None


def _schema_at_the_start_of(told: bytes) -> tuple[str, int] | None:
    """The id or GUID that a body or a header begins with, and how many bytes say it."""
    if told[:1] == _ID and len(told) >= _SIZE:
        return schema_uri(int.from_bytes(told[1:_SIZE], "big")), _SIZE
    if told[:1] == _GUID and len(told) >= _GUID_SIZE:
        return f"{_SCHEME}{UUID(bytes=told[1:_GUID_SIZE])}", _GUID_SIZE
    return None
