"""Flags that several commands have, or that are made alike."""

from typing import Annotated

from cyclopts import Parameter


def flag(help: str, *names: str) -> Parameter:
    """A switch: there is no --no-NAME, and its default goes without saying."""
    return Parameter(name=names or None, negative="", show_default=False, help=help)


Yes = Annotated[bool, flag("Do it, instead of saying what would happen.", "--yes", "-y")]
Follow = Annotated[bool, flag("Go on with what comes, until Ctrl-C.", "--follow", "-f")]
