"""What errors of Amazon's clients mean here, and what they say to do, without a server."""

from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
    ProfileNotFound,
    TokenRetrievalError,
)

from millstream.brokers.aws import AwsBroker
from millstream.brokers.aws_client import AwsService, MissingError, said_failure
from millstream.contracts.errors import BrokerError, BrokerUnavailableError, MillstreamError, TooLargeError

OPERATIONS = {
    "create_queue": "CreateQueue", "receive_message": "ReceiveMessage", "delete_message_batch": "DeleteMessageBatch",
    "head_bucket": "HeadBucket",
}  # fmt: skip


def said(code: str, message: str = "no", status: int = 400) -> ClientError:
    """As a client raises what a server answers."""
    return ClientError({"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}, "any")  # pyright: ignore[reportArgumentType]


async def failure_of(error: Exception, operation: str = "receive_message", service: str = "sqs", **arguments: Any) -> MillstreamError:
    """What whoever called is told."""

    async def fail(**_arguments: Any) -> None:
        raise error

    meta = SimpleNamespace(service_model=SimpleNamespace(service_name=service), method_to_api_mapping=OPERATIONS)
    with pytest.raises(MillstreamError) as failed:
        await AwsService(SimpleNamespace(meta=meta, **{operation: fail}), "aws://here").call(operation, **arguments)
    return failed.value


@pytest.mark.parametrize(
    ("operation", "arguments", "told"),
    [
        ("create_queue", {"QueueName": "millstream-a__b"}, "create_queue of millstream-a__b: .*Allow sqs:CreateQueue on it in the policy"),
        ("delete_message_batch", {"QueueUrl": "http://sqs/1/q.fifo"}, "delete_message_batch of q.fifo: .*Allow sqs:DeleteMessage on it"),
    ],
)
async def test_what_is_denied_says_which_action_of_which_resource(operation: str, arguments: dict[str, str], told: str) -> None:
    """As a policy has to name them: a batch needs what its single ones need."""
    error = await failure_of(said("AccessDenied", "Access to the resource is denied.", 403), operation, **arguments)

    assert type(error) is BrokerError
    with pytest.raises(BrokerError, match=told):
        raise error


async def test_a_bucket_that_may_not_be_looked_at_says_what_allows_it() -> None:
    """S3 answers a question for a bucket with a bare number."""
    error = await failure_of(said("403", "Forbidden", 403), "head_bucket", "s3", Bucket="large")

    assert "head_bucket of large: 403: Forbidden. Allow s3:ListBucket on it" in str(error)


@pytest.mark.parametrize(
    ("code", "error", "told"),
    [
        ("ExpiredToken", BrokerError, "log in again"),
        ("ExpiredTokenException", BrokerError, "AWS_SESSION_TOKEN"),
        ("InvalidClientTokenId", BrokerError, "correct AWS_ACCESS_KEY_ID"),
        ("SignatureDoesNotMatch", BrokerError, "the clock here"),
        ("KMS.AccessDeniedException", BrokerError, "allow kms:GenerateDataKey"),
        ("KmsDisabled", BrokerError, "enable it"),
        ("AWS.SimpleQueueService.NonExistentQueue", MissingError, "deleted it: start the service again"),
        ("QueueDoesNotExist", MissingError, "start the service again"),
        ("NotFound", MissingError, "start the service again"),
        ("ThrottlingException", BrokerUnavailableError, "quota"),
        ("KMSThrottling", BrokerUnavailableError, "quota"),
        ("OverLimit", BrokerUnavailableError, "run fewer processes"),
        ("AWS.SimpleQueueService.QueueDeletedRecently", BrokerUnavailableError, "a minute after"),
        ("InternalError", BrokerUnavailableError, "AWS itself has failed"),
        ("AWS.SimpleQueueService.BatchRequestTooLong", TooLargeError, "claims=BUCKET"),
    ],
)
async def test_a_code_says_what_to_do(code: str, error: type[MillstreamError], told: str) -> None:
    """Of a request, and of an entry of one."""
    for failed in (await failure_of(said(code), QueueUrl="http://sqs/1/q"), said_failure(code, "no", "publishing to t")):
        assert type(failed) is error
        assert f"{code}: no. " in str(failed)
        assert told in str(failed)


async def test_what_a_server_fails_at_may_succeed_later() -> None:
    """Whatever code it gives, unless that says more."""
    failed, throttled = await failure_of(said("AccessDenied", status=503)), await failure_of(said("Throttling", status=503))

    assert type(failed) is type(throttled) is BrokerUnavailableError
    assert "AWS itself has failed" in str(failed)
    assert "quota" in str(throttled)


@pytest.mark.parametrize(
    ("raised", "error", "told"),
    [
        (NoCredentialsError(), BrokerError, "AWS_ACCESS_KEY_ID"),
        (TokenRetrievalError(provider="sso", error_msg="expired"), BrokerError, "aws sso login"),
        (ProfileNotFound(profile="shop"), BrokerError, "AWS_PROFILE"),
        (ParamValidationError(report="QueueUrl is missing"), BrokerError, "QueueUrl is missing"),
        (EndpointConnectionError(endpoint_url="https://sqs.eu-nowhere-1.amazonaws.com"), BrokerUnavailableError, "region and endpoint="),
        (ConnectionResetError("reset"), BrokerUnavailableError, "may connect there"),
    ],
)
async def test_what_no_server_has_answered_says_what_to_do(raised: Exception, error: type[MillstreamError], told: str) -> None:
    """Only what has to do with the network may pass by itself."""
    failed = await failure_of(raised)

    assert type(failed) is error
    assert told in str(failed)


async def test_a_profile_that_is_not_there_is_said_when_a_broker_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is asked of Amazon."""
    monkeypatch.setenv("AWS_PROFILE", "nobody-has-this-profile")

    with pytest.raises(BrokerError, match=r"nobody-has-this-profile.*AWS_PROFILE"):
        async with AwsBroker("aws://eu-central-1"):
            pass
