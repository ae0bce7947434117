"""The clients of SNS, SQS and S3, and what their errors mean here."""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# aiobotocore has no types: an operation takes keywords and gives a dictionary, which is all that anybody here sees of it.

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any, Self, cast

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from millstream.brokers.aws_settings import AwsSettings
from millstream.contracts.errors import BrokerError, BrokerUnavailableError, MillstreamError, TooLargeError

Answer = dict[str, Any]

CONNECTIONS = 64
#: How often a request is tried that failed for a reason that passes.
ATTEMPTS = 3
#: Codes that say so, beside the server's own failures (5xx).
PASSING = frozenset(
    "Throttling ThrottlingException Throttled ThrottledException RequestThrottled RequestThrottledException TooManyRequestsException "
    "RequestLimitExceeded InternalError InternalFailure InternalServerError ServiceUnavailable KmsThrottled KMSThrottling "
    "AWS.SimpleQueueService.QueueDeletedRecently QueueDeletedRecently OverLimit".split()
)
MISSING = frozenset(
    "AWS.SimpleQueueService.NonExistentQueue QueueDoesNotExist NotFound NotFoundException ResourceNotFoundException NoSuchBucket "
    "NoSuchKey 404".split()
)
DENIED = frozenset(
    "AccessDenied AccessDeniedException AuthorizationError AuthorizationErrorException InvalidClientTokenId UnrecognizedClientException "
    "SignatureDoesNotMatch ExpiredToken ExpiredTokenException InvalidAccessKeyId MissingAuthenticationToken".split()
)


class MissingError(BrokerError):
    """What was asked for is not there."""


class AwsService:
    """A client of one service."""

    def __init__(self, client: Any, where: str) -> None:
        self._client = client
        self._where = where

    async def call(self, operation: str, **arguments: Any) -> Answer:
        """Do an operation; every failure is one of Millstream's errors."""
        try:
            return cast("Answer", await getattr(self._client, operation)(**arguments))
        except (ClientError, BotoCoreError, OSError, RuntimeError) as error:  # RuntimeError: it is closed already
            raise failure(error, f"{self._where}: {operation}") from error

    async def pages(self, operation: str, result: str, **arguments: Any) -> AsyncGenerator[Any]:
        """All results of an operation that gives them in pages."""
        token: str | None = None
        while True:
            answer = await self.call(operation, **arguments, **({"NextToken": token} if token else {}))
            for item in answer.get(result) or ():
                yield item
            token = answer.get("NextToken")
            if not token:
                return


class AwsClients:
    """The clients, open between `open` and `close`."""

    sns: AwsService
    sqs: AwsService
    s3: AwsService | None = None
    """Only where the URL names a bucket."""

    def __init__(self, settings: AwsSettings) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()

    async def open(self) -> Self:
        settings = self._settings
        config = AioConfig(
            connect_timeout=min(5.0, settings.timeout),
            read_timeout=settings.timeout,
            retries={"mode": "standard", "max_attempts": ATTEMPTS},
            max_pool_connections=CONNECTIONS,
            # Who stands in for Amazon has no name for each bucket.
            s3={"addressing_style": "path" if settings.endpoint else "auto"},
        )
        # Whoever asks a queue waits for what comes.
        waiting = config.merge(AioConfig(read_timeout=max(settings.timeout, settings.poll + 5.0)))
        common: dict[str, Any] = {
            "region_name": settings.region,
            "endpoint_url": settings.endpoint,
            "aws_access_key_id": settings.access_key,
            "aws_secret_access_key": settings.secret_key,
            "config": config,
        }
        session = get_session()
        try:
            self.sns = AwsService(await self._stack.enter_async_context(session.create_client("sns", **common)), settings.name)
            patient = common | {"config": waiting}
            self.sqs = AwsService(await self._stack.enter_async_context(session.create_client("sqs", **patient)), settings.name)
            if settings.claims is not None:
                self.s3 = AwsService(await self._stack.enter_async_context(session.create_client("s3", **common)), settings.name)
        except (BotoCoreError, ValueError) as error:
            await self._stack.aclose()
            raise failure(error, settings.name) from error
        return self

    async def close(self) -> None:
        await self._stack.aclose()


def failure(error: Exception, doing: str) -> MillstreamError:
    """What an error of the client means."""
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return BrokerError(
            f"{doing}: there are no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role, or write "
            "aws://KEY:SECRET@REGION."
        )
    if not isinstance(error, ClientError):
        return BrokerUnavailableError(f"{doing}: no answer ({error}). Is the address right, and the network there?")
    response = cast("Answer", error.response)
    said: Answer = response.get("Error", {})
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400))
    return said_failure(str(said.get("Code", "")), str(said.get("Message", "")), doing, passing=status >= 500 or status == 429)


def said_failure(code: str, message: str, doing: str, *, passing: bool = False) -> MillstreamError:
    """What a code of Amazon's means, of a request or of one entry of a batch."""
    what = f"{doing}: {code}: {message}".rstrip(": ")
    if passing or code in PASSING:
        return BrokerUnavailableError(what)
    if code in MISSING:
        return MissingError(what)
    if code in DENIED:
        return BrokerError(f"{what}. Look at the policy of who runs this, and at its keys.")
    if "too long" in message or "longer than" in message or code.endswith(("BatchRequestTooLong", "MessageTooLong")):
        return TooLargeError(what)
    return BrokerError(what)
