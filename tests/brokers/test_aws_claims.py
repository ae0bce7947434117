"""Events that SNS cannot carry lie in S3, and what travels says where."""

import json
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from tests.brokers.aws_server import MINISTACK, MOTO, aws_url
from tests.brokers.test_aws_groups import declared, event_of, taken

from millstream.brokers.aws import AwsBroker
from millstream.brokers.aws_claims import LARGEST_CLAIMED
from millstream.brokers.aws_client import AwsClients, AwsService
from millstream.brokers.aws_settings import settings_of
from millstream.brokers.aws_wire import LARGEST
from millstream.contracts.errors import ConfigurationError, TooLargeError
from millstream.testing.broker_ground import Member

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@asynccontextmanager
async def bucket(url: str) -> AsyncGenerator[tuple[str, AwsService]]:
    """A new bucket, and the client that made it."""
    name = f"large-{secrets.token_hex(4)}"
    clients = await AwsClients(settings_of(f"{url}&claims={name}")).open()
    try:
        assert clients.s3 is not None
        await clients.s3.call("create_bucket", Bucket=name)
        yield name, clients.s3
    finally:
        await clients.close()


@pytest.mark.parametrize("double", [MINISTACK, MOTO])
async def test_a_large_event_arrives_whole_between_small_ones(double: str) -> None:
    """In the order of its key, byte for byte, and with nothing in it that says how it travelled."""
    url = aws_url(double)
    async with bucket(url) as (name, s3), AwsBroker(f"{url}&claims={name}") as broker:
        topic, group = await declared(broker)
        sent = [event_of(topic, n, key="k", data=b"%d" % n * (1_000_000 if n == 1 else 1)) for n in range(3)]
        results = await broker.publish(sent)
        member = Member(await broker.open(group, "m"))

        came = await taken(member, 3)
        await member.close()
        listed = await s3.call("list_objects_v2", Bucket=name)

        assert list(results) == [None, None, None]
        assert [delivery.envelope for delivery in came] == sent
        assert [thing["Size"] > 1_000_000 for thing in listed["Contents"]] == [True]
        assert broker.features.largest == LARGEST_CLAIMED


async def test_what_is_gone_from_the_bucket_arrives_as_its_claim() -> None:
    """It can be parked and looked at; nothing waits for it for ever."""
    url = aws_url()
    async with bucket(url) as (name, s3), AwsBroker(f"{url}&claims={name}") as broker:
        topic, group = await declared(broker)
        await broker.publish([event_of(topic, data=b"x" * (LARGEST + 1))])
        listed = await s3.call("list_objects_v2", Bucket=name)
        await s3.call("delete_object", Bucket=name, Key=listed["Contents"][0]["Key"])
        member = Member(await broker.open(group, "m"))

        (came,) = await taken(member, 1)
        await member.close()

        assert came.envelope is None
        assert came.message is not None
        assert json.loads(came.message.body)["key"] == listed["Contents"][0]["Key"]


async def test_a_bucket_that_is_not_there_is_said_at_start() -> None:
    """And without one a large event is refused, with what to do."""
    url = aws_url()
    with pytest.raises(ConfigurationError, match=r"no bucket 'nowhere-to-be-found'.*lifecycle"):
        async with AwsBroker(f"{url}&claims=nowhere-to-be-found"):
            pass
    async with AwsBroker(url) as broker:
        topic, _ = await declared(broker)
        (refused,) = await broker.publish([event_of(topic, data=b"x" * (LARGEST + 1))])

    assert isinstance(refused, TooLargeError)
    assert "claims=BUCKET" in str(refused)
