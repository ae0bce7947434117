"""`millstream`: finds the command, runs it, and turns what went wrong into words and an exit code."""

import asyncio
import inspect
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from millstream.contracts.errors import MillstreamError

if TYPE_CHECKING:
    from cyclopts import App, CycloptsError

DAILY, LOOK, ACT, CARE = "Daily work", "Look", "Act", "Care"

#: Every command, where its code is, and the heading it stands below.
COMMANDS: dict[str, tuple[str, str]] = {
    "new": ("millstream.cli.new:new", DAILY),
    "dev": ("millstream.cli.dev:dev", DAILY),
    "run": ("millstream.cli.run:run", DAILY),
    "demo": ("millstream.cli.demo:app", DAILY),
    "console": ("millstream.cli.console:console", LOOK),
    "status": ("millstream.cli.status:status", LOOK),
    "top": ("millstream.cli.top:top", LOOK),
    "map": ("millstream.cli.map:map", LOOK),
    "event": ("millstream.cli.event:app", LOOK),
    "tail": ("millstream.cli.tail:tail", LOOK),
    "topics": ("millstream.cli.topics:app", LOOK),
    "groups": ("millstream.cli.groups:app", LOOK),
    "trace": ("millstream.cli.trace:trace", LOOK),
    "publish": ("millstream.cli.publish:publish", ACT),
    "dlq": ("millstream.cli.dlq:app", ACT),
    "replay": ("millstream.cli.replay:replay", ACT),
    "bridge": ("millstream.cli.bridge:bridge", CARE),
    "backup": ("millstream.cli.backup:backup", CARE),
    "doctor": ("millstream.cli.doctor:doctor", CARE),
    "bench": ("millstream.cli.bench:bench", CARE),
    "completion": ("millstream.cli.completion:completion", CARE),
    "version": ("millstream.cli.version:version", CARE),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and give its exit code."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    if tokens in (["version"], ["--version"]):
        # Scripts ask for it often; nothing else has to be loaded to answer.
        print(installed_version())
        return 0
    debug = "--debug" in tokens
    try:
        return _run(tokens)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read this has seen enough, as with `| head`.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the interpreter flushes it at the end
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except Exception as error:
        if debug:
            import traceback

            traceback.print_exc()
        return _failed(error)


def installed_version() -> str:
    """The version of what runs."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("millstream")
    except PackageNotFoundError:
        return "unknown: it runs from a folder, not from an installed package"


def commands() -> "App":
    """All commands, none of them loaded yet."""
    from cyclopts import App, Group

    app = App(
        name="millstream",
        help="Event-driven Python systems that you can see, replay and prove.",
        help_format="plaintext",
        version_flags=[],
        help_epilogue="`millstream COMMAND --help` shows examples. Exit codes and JSON: docs/reference/cli.md",
        result_action="return_value",
    )
    groups = {name: Group(name, sort_key=order) for order, name in enumerate((DAILY, LOOK, ACT, CARE))}
    for order, (name, (path, heading)) in enumerate(COMMANDS.items()):
        app.command(path, name=name, group=groups[heading], sort_key=order)
    app["--help"].group = Group("Help", sort_key=99)
    return app


def _run(tokens: list[str]) -> int:
    from cyclopts import CycloptsError

    app = commands()
    try:
        command, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return _misused(error, app, tokens)
    result: Any = command(*bound.args, **bound.kwargs)
    if inspect.iscoroutine(result):
        result = asyncio.run(result)
    return int(result or 0)


def _misused(error: "CycloptsError", app: "App", tokens: list[str]) -> int:
    """Say what is wrong with the command line, and what was probably meant."""
    from cyclopts import UnknownCommandError, UnusedCliTokensError

    error.verbose = False
    chain = " ".join(["millstream", *(error.command_chain or ())])
    text = str(error).strip()
    if isinstance(error, UnknownCommandError | UnusedCliTokensError) and error.unused_tokens:
        text = _unknown(error.unused_tokens[0], app, tokens, chain)
    print(_wrapped(f"error: {text}\nSee: {chain} --help"), file=sys.stderr)
    return 2


def _unknown(token: str, app: "App", tokens: list[str], chain: str) -> str:
    import difflib

    level, words = app, [t for t in tokens if not t.startswith("-")]
    for word in words[: words.index(token)] if token in words else []:
        if word in level:
            level = level[word]
    names = [name for name in level if not name.startswith("-")]
    near = difflib.get_close_matches(token, names, n=1)
    if names:
        return f"No command {token!r}." + (f" Did you mean `{near[0]}`?" if near else f" There are: {', '.join(names)}.")
    return f"{token!r} is one argument too many for `{chain}`."


def _cause(error: BaseException) -> BaseException:
    """What happened, where tasks failed in groups: the first error of ours, or else the first."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = [_cause(each) for each in cast("Sequence[BaseException]", error.exceptions)]  # pyright: ignore[reportUnknownMemberType]
    return next((each for each in causes if isinstance(each, MillstreamError)), causes[0])


def _failed(error: BaseException) -> int:
    from millstream.app.settings import masked_text
    from millstream.cli.exits import exit_of
    from millstream.cli.wording import plain_lines
    error = _cause(error)
    text = str(error) or type(error).__name__
    if not isinstance(error, MillstreamError | OSError | TimeoutError):
        text = f"{type(error).__name__}: {text}. This is a fault of millstream; --debug shows where. Please report it."
    print(_wrapped(f"error: {plain_lines(masked_text(text))}"), file=sys.stderr)
    return int(exit_of(error))


def _wrapped(text: str) -> str:
    """Text whose lines end between words where a terminal would break them anywhere."""
    if not sys.stderr.isatty():
        return text
    import shutil
    import textwrap

    width = shutil.get_terminal_size().columns
    return "\n".join(textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False) for line in text.splitlines())
