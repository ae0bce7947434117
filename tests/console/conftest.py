"""Every service of these tests tells what it does."""

import pytest


@pytest.fixture(autouse=True)
def _facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_FACTS", "on")
