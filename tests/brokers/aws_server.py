"""What stands in for SNS and SQS in tests, those of `make services`, and the words that its tests share."""

from tests.brokers.servers import server_url

MINISTACK, MOTO, ELASTICMQ = "MILLSTREAM_TEST_AWS", "MILLSTREAM_TEST_AWS_MOTO", "MILLSTREAM_TEST_AWS_ELASTICMQ"
#: Nobody waits long for a question without an answer, and what a member had that died comes again soon.
OPTIONS = "poll=1"
VISIBILITY = 4


def aws_url(variable: str = MINISTACK, options: str = "") -> str:
    """Where one of them is; the test is skipped when nobody has started it."""
    # moto is so slow that what one has for four seconds has only just come.
    visibility = 30 if variable == MOTO else VISIBILITY
    return f"{server_url('aws', variable)}&{OPTIONS}&visibility={visibility}" + (f"&{options}" if options else "")
