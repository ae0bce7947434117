"""The clients of SNS, SQS and S3, and what their errors mean here."""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# aiobotocore has no types: an operation takes keywords and gives a dictionary, which is all that anybody here sees of it.

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from typing import Any, NamedTuple, Self, cast

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    LoginError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)

from millstream.brokers.aws_settings import AwsSettings
from millstream.contracts.errors import BrokerError, BrokerUnavailableError, MillstreamError, TooLargeError

Answer = dict[str, Any]

CONNECTIONS = 64
#: How often a request is tried that failed for a reason that passes.
ATTEMPTS = 3
AWS_FAILED = "AWS itself has failed: the same may succeed later."
class MissingError(BrokerError):
    """What was asked for is not there."""


class _Kind(NamedTuple):
    """Codes of Amazon's that mean the same here, and what to do then."""

    codes: frozenset[str]
    error: type[BrokerError]
    advice: str


KINDS = tuple(
    _Kind(frozenset(codes.lower().split()), error, advice)
    for codes, error, advice in (
        (
            "ExpiredToken ExpiredTokenException RequestExpired TokenRefreshRequired", BrokerError,
            "These keys have expired: log in again (aws sso login), or renew AWS_SESSION_TOKEN; and look whether the clock here is right.",
        ),
        (
            "InvalidClientTokenId UnrecognizedClientException InvalidAccessKeyId MissingAuthenticationToken AuthFailure "
            "SignatureDoesNotMatch InvalidSignatureException IncompleteSignature", BrokerError,
            "AWS does not know these keys, or the secret is another's: correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the profile "
            "or the URL; and look whether the clock here is right.",
        ),
        (
            "KmsAccessDenied KmsAccessDeniedException KmsDisabled KmsDisabledException KmsNotFound KmsNotFoundException KmsInvalidState "
            "KmsInvalidStateException KmsInvalidKeyUsage KmsOptInRequired", BrokerError,
            "The queue or the topic is encrypted with a key that may not be used: enable it, and allow kms:GenerateDataKey and kms:Decrypt "
            "to who runs this and to sns.amazonaws.com.",
        ),
        (
            "AccessDenied AccessDeniedException AuthorizationError AuthorizationErrorException UnauthorizedOperation 403", BrokerError,
            "Allow {action} on it in the policy of who runs this.",
        ),
        (
            "AWS.SimpleQueueService.NonExistentQueue QueueDoesNotExist NotFound NotFoundException ResourceNotFoundException NoSuchBucket "
            "NoSuchKey 404", MissingError,
            "Somebody has deleted it: start the service again, which makes the topics and queues that are missing.",
        ),
        (
            "Throttling ThrottlingException Throttled ThrottledException RequestThrottled RequestThrottledException "
            "TooManyRequestsException RequestLimitExceeded SlowDown KmsThrottled KmsThrottling KmsThrottlingException",
            BrokerUnavailableError,
            "AWS limits how much is asked of it: the same may succeed later; where it lasts, have the account's quota raised.",
        ),
        (
            "OverLimit AWS.SimpleQueueService.OverLimit", BrokerUnavailableError,
            "The group has more messages in hand than SQS allows of a queue: run fewer processes, or lower concurrency= and batch=.",
        ),
        (
            "QueueDeletedRecently AWS.SimpleQueueService.QueueDeletedRecently", BrokerUnavailableError,
            "It can be made again a minute after it was deleted.",
        ),
        ("InternalError InternalFailure InternalServerError ServiceUnavailable", BrokerUnavailableError, AWS_FAILED),
    )
)  # fmt: skip
#: By what a resource is named in a request.
RESOURCES = ("QueueUrl", "QueueName", "TopicArn", "ResourceArn", "SubscriptionArn", "Name", "Bucket")


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
            raise failure(error, f"{self._where}: {operation}{_of(arguments)}", self._action(operation)) from error

    def _action(self, operation: str) -> str:
        """What a policy has to allow for it."""
        if operation == "head_bucket":
            return "s3:ListBucket"
        meta = self._client.meta
        return f"{meta.service_model.service_name}:{meta.method_to_api_mapping[operation].removesuffix('Batch')}"

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


def _of(arguments: Mapping[str, Any]) -> str:
    resource = next((str(arguments[name]) for name in RESOURCES if name in arguments), "")
    return f" of {re.split('[/:]', resource)[-1]}" if resource else ""


def failure(error: Exception, doing: str, action: str = "") -> MillstreamError:
    """What an error of the client means."""
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return BrokerError(
            f"{doing}: there are no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role, or write "
            "aws://KEY:SECRET@REGION."
        )
    if isinstance(error, (CredentialRetrievalError, TokenRetrievalError, SSOError, LoginError, ProfileNotFound)):
        return BrokerError(
            f"{doing}: no credentials could be had ({error}). Log in again (aws sso login), or correct AWS_PROFILE or the role."
        )
    if isinstance(error, ParamValidationError):
        return BrokerError(f"{doing}: {error}")
    if not isinstance(error, ClientError):
        return BrokerUnavailableError(
            f"{doing}: no answer ({error}). Look whether the region and endpoint= of the URL are right, and whether this machine may "
            "connect there; the same may succeed later."
        )
    response = cast("Answer", error.response)
    said: Answer = response.get("Error", {})
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400))
    passing = status >= 500 or status == 429
    return said_failure(str(said.get("Code", "")), str(said.get("Message", "")), doing, passing=passing, action=action)


def said_failure(code: str, message: str, doing: str, *, passing: bool = False, action: str = "this") -> MillstreamError:
    """What a code of Amazon's means, of a request or of one entry of a batch, and what to do about it."""
    what = f"{doing}: {code}: {message}".rstrip(": .")
    kind = next((kind for kind in KINDS if code.replace("KMS.", "KMS").lower() in kind.codes), None)
    if passing and (kind is None or kind.error is not BrokerUnavailableError):
        return BrokerUnavailableError(f"{what}. {AWS_FAILED}")
    if kind is not None:
        return kind.error(f"{what}. {kind.advice.format(action=action)}")
    if "too long" in message or "longer than" in message or code.endswith(("BatchRequestTooLong", "MessageTooLong")):
        return TooLargeError(f"{what}. Name a bucket for what is larger (claims=BUCKET in the URL), or publish where it is.")
    return BrokerError(what)
