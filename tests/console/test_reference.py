"""The reference of the API is about the API that there is."""

import re
from pathlib import Path

from millstream.console.changes import NEEDED
from millstream.console.filter import FIELDS, STATUS

from .test_security import RULES

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "console-api.md"


def test_every_route_is_described() -> None:
    """And none that does not exist."""
    described = set(re.findall(r"`(/api/[^`]*)`", PAGE.read_text(encoding="utf-8")))

    assert described == {re.sub(r":path", "", path) for path in RULES}


def test_operations_and_filters_are_described() -> None:
    """Each of their words."""
    text = PAGE.read_text(encoding="utf-8")

    assert [word for word in (*NEEDED, *STATUS) if f"`{word}`" not in text] == []
    assert [field for field in FIELDS if f"`{field}:`" not in text] == []
