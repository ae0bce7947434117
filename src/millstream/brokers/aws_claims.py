"""Claim checks: an event that SNS cannot carry lies in S3, and what travels says where.

Only the bucket that the URL names is ever written or read, whatever a message says.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from millstream.brokers.aws_client import AwsService, MissingError
from millstream.brokers.aws_wire import CONTENT_TYPE, Entry, entry_around
from millstream.contracts.codec import STRUCTURED_CONTENT_TYPE, to_structured
from millstream.contracts.envelope import Envelope
from millstream.contracts.errors import ConfigurationError

#: What the body of an event may have then.
LARGEST_CLAIMED = 16 << 20
CLAIM = "application/vnd.millstream.claim+json"
_encode = msgspec.json.Encoder().encode


class _Claim(msgspec.Struct):
    """Where an event lies, and what it has to be."""

    key: str
    bytes: int
    sha256: str


_decode = msgspec.json.Decoder(_Claim).decode


class AwsClaims:
    """Keeps large events in one bucket."""

    def __init__(self, s3: AwsService, bucket: str, prefix: str) -> None:
        self._s3, self._bucket, self._prefix = s3, bucket, prefix

    async def verify(self, where: str) -> None:
        """Raise `ConfigurationError` where there is no such bucket."""
        try:
            await self._s3.call("head_bucket", Bucket=self._bucket)
        except MissingError as error:
            raise ConfigurationError(
                f"{where}: there is no bucket {self._bucket!r} for large events. Make it, with a lifecycle rule that removes what is older "
                "than 15 days: SQS keeps nothing longer than 14."
            ) from error

    async def entry_of(self, e: Envelope) -> Entry:
        """Put an event into the bucket, and make the message that says where; it is there before anybody can hear of it."""
        document = to_structured(e)
        digest = hashlib.sha256(document).hexdigest()
        claim = _Claim(f"{self._prefix}{digest}", len(document), digest)
        await self._s3.call("put_object", Bucket=self._bucket, Key=claim.key, Body=document, ContentType=STRUCTURED_CONTENT_TYPE)
        return entry_around(e, _encode(claim).decode(), {CONTENT_TYPE: CLAIM, "type": e.type})

    async def redeem(self, received: Sequence[dict[str, Any]]) -> None:
        """Put what lies in the bucket in the place of the messages that say so; the others, and what is gone, stay as they are."""
        claims = [message for message in received if _content_type(message) == CLAIM]
        if claims:
            await asyncio.gather(*(self._redeem(message) for message in claims))

    async def _redeem(self, message: dict[str, Any]) -> None:
        try:
            claim = _decode(message.get("Body", ""))
            if not claim.key.startswith(self._prefix):
                return
            answer = await self._s3.call("get_object", Bucket=self._bucket, Key=claim.key)
        except (msgspec.MsgspecError, MissingError):
            # It is parked as it is: the claim says what is missing.
            return
        async with answer["Body"] as body:
            document: bytes = await body.read()
        if hashlib.sha256(document).hexdigest() == claim.sha256:
            message["Body"] = document.decode()
            message["MessageAttributes"] = {CONTENT_TYPE: {"DataType": "String", "StringValue": STRUCTURED_CONTENT_TYPE}}


def _content_type(message: dict[str, Any]) -> str:
    attributes: dict[str, dict[str, Any]] = message.get("MessageAttributes") or {}
    return str(attributes.get(CONTENT_TYPE, {}).get("StringValue", ""))
