"""`millstream version`: what is installed."""

import platform

from millstream.cli.main import installed_version
from millstream.cli.screen import PLAIN, Look, Screen


def version(*, look: Look = PLAIN) -> None:
    """Print the version.

    For example:
      millstream version
      millstream version --output json
    """
    screen = Screen(look)
    if look.json:
        screen.document("version", version=installed_version(), python=platform.python_version())
    else:
        screen.say(installed_version())
