"""What an `aws://` URL says, and what in it is refused, without a server."""

import pytest

from millstream.brokers.aws import AwsBroker
from millstream.brokers.aws_settings import settings_of
from millstream.contracts.errors import ConfigurationError


def test_a_url_says_where_who_and_what() -> None:
    """Region, keys and options; the name has no secrets."""
    options = "endpoint=http://127.0.0.1:4566&prefix=shop-&fifo=0&visibility=60&poll=5&broadcast=0&timeout=2&claims=large.events"
    settings = settings_of(f"aws://AKIA%2F1:s%2Fe%40t@eu-central-1?{options}", {})

    assert (settings.region, settings.access_key, settings.secret_key) == ("eu-central-1", "AKIA/1", "s/e@t")
    assert (settings.endpoint, settings.prefix, settings.claims) == ("http://127.0.0.1:4566", "shop-", "large.events")
    assert (settings.fifo, settings.broadcast) == (False, False)
    assert (settings.visibility, settings.poll, settings.timeout) == (60, 5, 2.0)
    assert settings.name == "aws://eu-central-1?endpoint=http://127.0.0.1:4566"
    assert "s/e@t" not in repr(settings)


def test_what_is_not_said_is_usual() -> None:
    """FIFO, Amazon's own address, and keys that its tools find."""
    settings = settings_of("aws://us-east-1", {"AWS_REGION": "another"})

    assert (settings.region, settings.name, settings.endpoint, settings.claims) == ("us-east-1", "aws://us-east-1", None, None)
    assert (settings.access_key, settings.secret_key, settings.prefix) == (None, None, "millstream-")
    assert (settings.fifo, settings.broadcast, settings.visibility, settings.poll, settings.timeout) == (True, True, 30, 10, 30.0)


@pytest.mark.parametrize(
    ("url", "environment", "region"),
    [
        ("aws://", {"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "us-west-2"}, "eu-west-1"),
        ("aws://?fifo=0", {"AWS_DEFAULT_REGION": "us-west-2"}, "us-west-2"),
        ("aws://key:secret@", {"AWS_REGION": "eu-west-1"}, "eu-west-1"),
    ],
)
def test_a_region_may_come_from_the_environment(url: str, environment: dict[str, str], region: str) -> None:
    """From the variables that Amazon's own tools read, in their order."""
    settings = settings_of(url, environment)

    assert (settings.region, settings.name) == (region, f"aws://{region}")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("aws://", "names no region.*AWS_REGION"),
        ("aws://eu_central", "names no region"),
        ("aws://eu-central-1/queue", "no '/queue' to choose"),
        ("aws://eu-central-1?visibilty=3", "Did you mean visibility"),
        ("aws://eu-central-1?queue=3", "There are endpoint, prefix, fifo"),
        ("aws://key@eu-central-1", "needs its secret"),
        ("aws://:secret@eu-central-1", "needs its secret"),
        ("aws://eu-central-1?prefix=a.b-", "cannot begin the name"),
        ("aws://eu-central-1?prefix=abcdefghijklmnopqrstuvwxy", "at most 24"),
        ("aws://eu-central-1?claims=My_Bucket", "no name of a bucket"),
        ("aws://eu-central-1?claims=", "no name of a bucket"),
        ("aws://eu-central-1?endpoint=localhost:4566", "Write endpoint=http://HOST:PORT"),
        ("aws://eu-central-1?fifo=no", "fifo='no' is neither yes nor no"),
        ("aws://eu-central-1?broadcast=", "broadcast='' is neither yes nor no"),
        ("aws://eu-central-1?visibility=soon", "no number from 1 to 43200"),
        ("aws://eu-central-1?visibility=30.5", "SQS counts whole seconds. Write 30."),
        ("aws://eu-central-1?poll=1.9", "SQS counts whole seconds. Write 2."),
        ("aws://eu-central-1?visibility=43201", "no number from 1 to 43200"),
        ("aws://eu-central-1?poll=0", "no number from 1 to 20"),
        ("aws://eu-central-1?poll=21", "no number from 1 to 20"),
        ("aws://eu-central-1?timeout=nan", "no number from 1 to 3600"),
    ],
)
def test_a_url_that_cannot_be_kept_is_refused(url: str, told: str) -> None:
    """With what to write instead."""
    with pytest.raises(ConfigurationError, match=told):
        settings_of(url, {})


async def test_who_makes_no_queue_per_process_tells_nobody() -> None:
    """With broadcast=0 the feature is not declared, and who asks for it all the same is told why."""
    broker = AwsBroker("aws://eu-central-1?broadcast=0")

    assert not broker.features.broadcast
    assert AwsBroker("aws://eu-central-1").features.broadcast
    with pytest.raises(ConfigurationError, match="broadcast=0"):
        await broker.broadcast(b"")
    with pytest.raises(ConfigurationError, match="broadcast=0"):
        await broker.listen()
