"""`millstream completion`: the completion script of a shell."""

import sys
from typing import Literal


def completion(shell: Literal["bash", "zsh", "fish", "powershell"], /) -> None:
    """Print the completion script of a shell, to be loaded at its start.

    For example:
      millstream completion bash > ~/.bash_completion.d/millstream
      millstream completion zsh > ~/.zfunc/_millstream
      millstream completion fish > ~/.config/fish/completions/millstream.fish
    """
    from millstream.cli.main import commands

    sys.stdout.write(commands().generate_completion(shell=shell))
