"""Where the real servers are that tests work on: `make services` starts them."""

import os

import pytest


def server_url(service: str, variable: str) -> str:
    """The URL that an environment variable has; without one the test is skipped, or fails where that server was asked for."""
    url = os.environ.get(variable)
    if url:
        return url
    how = f"{variable} is not set: make services ONLY={service}; source .services/env"
    if service in os.environ.get("MILLSTREAM_TEST_SERVICES", "").split():
        pytest.fail(f"{service} was asked for (MILLSTREAM_TEST_SERVICES), and {how}")
    pytest.skip(how)
