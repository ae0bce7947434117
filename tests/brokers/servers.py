"""Where the real servers are that tests work on: `make services` starts them."""

import os
from typing import NoReturn

import pytest


def server_url(service: str, variable: str) -> str:
    """The URL that an environment variable has; without one the test is skipped, or fails where that server was asked for."""
    if not os.environ.get(variable):
        missing(service, f"{variable} is not set: make services ONLY={service}; source .services/env")
    return os.environ[variable]


def missing(service: str, what: str) -> NoReturn:
    """Skip a test of a service for want of something, or fail where tests of that service were asked for: there nothing may be left out."""
    if service in os.environ.get("MILLSTREAM_TEST_SERVICES", "").split():
        pytest.fail(f"{service} was asked for (MILLSTREAM_TEST_SERVICES), and {what}")
    pytest.skip(what)
