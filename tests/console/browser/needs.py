"""What these tests need of the machine."""

import os
from typing import NoReturn

import pytest


def missing(what: str, command: str) -> NoReturn:
    """Skip, and say how to get it; in CI nothing may be missing."""
    message = f"{what} is not there: {command}"
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)
