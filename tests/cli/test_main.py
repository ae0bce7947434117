"""The command line as a whole: help, mistakes, exit codes, and what it costs to start."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable

import pytest
from cyclopts import App

from millstream.cli import main as cli
from millstream.cli.exits import MEANING, Exit, exit_of
from millstream.contracts import errors

from .conftest import Result
from .reference import help_of, leaves

HEAVY = ("cyclopts", "rich", "starlette", "uvicorn", "prometheus_client", "watchfiles", "pydantic")


def commands() -> dict[str, App]:
    """All commands by name."""
    return dict(leaves(cli.commands()))


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_shows_two_examples_that_can_be_run(name: str) -> None:
    """An example that the command line itself would refuse is worse than none."""
    app = cli.commands()
    text = help_of(commands()[name])

    examples = re.findall(r"^ +(millstream .+)$", text, re.MULTILINE)

    assert len(examples) >= 2 or name == "topics list"
    for example in examples:
        words = shlex.split(example.partition(" > ")[0])[1:]
        app.parse_args(words, exit_on_error=False, print_error=False)
        assert " ".join(words).startswith(name) or name.endswith(" list")


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_help_text_fits_into_80_columns(name: str) -> None:
    """Lines are broken by whoever wrote them, not by the terminal."""
    text = help_of(commands()[name])

    assert text
    assert [line for line in text.splitlines() if len(line) > 79] == []


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (["grops"], "No command 'grops'. Did you mean `groups`?"),
        (["dlq", "lst"], "No command 'lst'. Did you mean `list`?"),
        (["zzzzz"], "There are: new, dev, run"),
        (["publish"], "TYPE requires an argument"),
        (["publish", "a", "b"], "'b' is one argument too many for `millstream publish`"),
        (["topics", "--brokr", "x"], "Did you mean --broker?"),
        (["topics", "--output", "yaml"], 'Choose from: "text", "json"'),
        (["publish", "x", "-n", "many"], "many"),
    ],
)
def test_a_mistake_is_told_on_stderr_with_what_was_meant(millstream: Callable[..., Result], tokens: list[str], says: str) -> None:
    """Usage errors end with 2, leave stdout empty, and point to the help."""
    result = millstream(*tokens)

    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: ")
    assert says in result.err
    assert "--help" in result.err


def test_the_help_names_every_command(millstream: Callable[..., Result]) -> None:
    """One screen shows what there is."""
    result = millstream("--help")

    assert result.code == 0
    assert all(f" {name} " in result.out for name in cli.COMMANDS)
    assert max(map(len, result.out.splitlines())) <= 80


def test_the_version_is_told_and_nothing_else_is_loaded() -> None:
    """Scripts ask for it, so it has to be quick."""
    code = (
        "import sys; from millstream.cli.main import main; main(['version']);"
        f"print(sorted(m for m in {HEAVY!r} if m in sys.modules))"
    )

    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()

    assert re.fullmatch(r"\d+\.\d+.*|unknown.*", told[0])
    assert told[1] == "[]"


def test_importing_millstream_imports_nothing_that_only_the_outside_needs() -> None:
    """A service pays for what it uses."""
    code = f"import sys, millstream; print([m for m in {HEAVY!r} if m in sys.modules])"

    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert told == "[]\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NotFoundError(""), 3),
        (errors.RefusedError(""), 6),
        (errors.BrokerUnavailableError(""), 4),
        (errors.StoreBusyError(""), 4),
        (errors.StoreReadOnlyError(""), 5),
        (PermissionError(""), 5),
        (errors.ConfigurationError(""), 2),
        (errors.ContractError(""), 2),
        (errors.StoreDamagedError(""), 1),
        (errors.StoreFullError(""), 1),
        (ValueError(""), 1),
    ],
)
def test_scripts_can_tell_failures_apart(error: Exception, code: int) -> None:
    """Exit codes are an interface."""
    assert exit_of(error) == code


def test_every_exit_code_is_explained() -> None:
    """The reference page is made from these words."""
    assert set(MEANING) == set(Exit)


def test_a_fault_of_ours_is_told_as_one_and_shown_on_request(
    millstream: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user is not told to repair what is not theirs, and no traceback hides the message."""

    def broken(tokens: list[str]) -> int:
        raise ExceptionGroup("tasks", [ExceptionGroup("inner", [KeyError("x")])])

    monkeypatch.setattr(cli, "_run", broken)

    plain, debugged = millstream("topics"), millstream("topics", "--debug")

    assert (plain.code, debugged.code) == (1, 1)
    assert "KeyError: 'x'. This is a fault of millstream" in plain.err
    assert "Traceback" not in plain.err
    assert "Traceback" in debugged.err


def test_of_several_failures_at_once_ours_is_told(millstream: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that fail together hide nothing, and no secret of a URL is shown."""

    def broken(tokens: list[str]) -> int:
        raise ExceptionGroup("tasks", [KeyError("x"), errors.BrokerUnavailableError("amqp://me:s3cret@host is away")])

    monkeypatch.setattr(cli, "_run", broken)

    result = millstream("topics")

    assert (result.code, result.err) == (4, "error: amqp://me:***@host is away\n")


def test_ctrl_c_ends_with_130(millstream: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    """As every shell expects."""

    def interrupted(tokens: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupted)

    assert millstream("topics").code == 130


def test_a_reader_that_has_seen_enough_is_no_error(millstream: Callable[..., Result]) -> None:
    """`millstream tail | head -1` ends quietly."""
    millstream("publish", "a.b", "-n", "2000")

    command = f"{shlex.quote(sys.executable)} -m millstream tail -n 2000 | head -1"
    ended = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert "a.b" in ended.stdout
