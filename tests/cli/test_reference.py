"""The reference page is what the commands are."""

import re
from pathlib import Path

from millstream.cli import main as cli

from . import reference


def test_the_page_is_made_from_the_commands() -> None:
    """A flag that changed changes the page: `python tests/cli/reference.py` writes it."""
    assert reference.PAGE.read_text(encoding="utf-8") == reference.render()


def test_every_document_that_a_command_writes_is_described() -> None:
    """And none that no command writes."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in Path(cli.__file__).parent.glob("*.py"))

    written = set(re.findall(r'\.document\(\s*"(\w+)"', source))

    # What is asked of dead letters names its document itself.
    assert written | {"redrive", "discard"} == set(reference.SHAPES)
