"""What stands in for SNS and SQS in tests, those of `make services`, and the words that its tests share."""

from tests.brokers.servers import server_url

MINISTACK, MOTO, ELASTICMQ = "MILLSTREAM_TEST_AWS", "MILLSTREAM_TEST_AWS_MOTO", "MILLSTREAM_TEST_AWS_ELASTICMQ"
#: What a member had that died comes again soon, and nobody waits long for a question without an answer.
OPTIONS = "visibility=4&poll=1"


def aws_url(variable: str = MINISTACK, options: str = "") -> str:
    """Where one of them is; the test is skipped when nobody has started it."""
    return f"{server_url('aws', variable)}&{OPTIONS}" + (f"&{options}" if options else "")
