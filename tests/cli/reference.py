"""docs/reference/cli.md, made from the commands themselves: `python tests/cli/reference.py` writes it anew."""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from cyclopts import App

from millstream.cli.exits import MEANING
from millstream.cli.main import COMMANDS, commands

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"

HEAD = """# Command line

`millstream` runs services, shows what they do, and changes what an operator may change. `python -m millstream` is the same.
`millstream COMMAND --help` shows what stands here. This page is made from the commands: `python tests/cli/reference.py` writes it anew.

{contents}

## Where a command acts

Commands that look at a broker or a store take them from, in this order: the flags `--broker` and `--store`; the environment's
`MILLSTREAM_BROKER` and `MILLSTREAM_STORE`; the App that `--app` or the [setting](configuration.md) `app` names; `pyproject.toml`;
`sqlite:///millstream.db`.
A file that does not exist is an error for every command but `run`, `dev`, `publish` and `bench`: who only looks makes nothing.

| flag | meaning |
| --- | --- |
{where}

Dead letters, pauses and what is parked are kept by the store of each service. A command that is given another store says `—` (JSON: `null`)
instead of guessing, and refuses to change anything there.

## Output

Data goes to stdout; progress, hints and errors go to stderr. Text is for people and may change; it is cut to the terminal's width
(or `COLUMNS`), and not at all when it is piped. Control characters in events are written out (`\\e[31m`), so that no event can
command a terminal.

| flag | meaning |
| --- | --- |
{output}

### JSON

With `--output json` a command writes one document on one line; `tail` and a followed `trace` write one line for each event or change.
Every document says its shape in `schema`, as `millstream.v1.<kind>`. Fields may be added to a shape; one that goes or changes its meaning
makes it `v2`. Whole numbers are exact whatever their size, and bodies keep every digit. Times are RFC 3339, in UTC, with microseconds.
What is not known is `null`. An event is a [CloudEvents](envelope.md) document in structured JSON; bytes that are none come as `message`,
in base64.

| kind | written by | fields |
| --- | --- | --- |
{shapes}

## Exit codes

| code | meaning |
| --- | --- |
{exits}

An error is written to stderr as `error: what happened: why. What to do.`; `--debug` adds where it came from.

"""

#: Which command writes a document, and what is in it.
SHAPES = {
    "version": ("version", "`version`, `python`"),
    "new": ("new", "`folder`, `files`, `app`"),
    "run": (
        "run",
        "`app`, `broker` and `store` (each with `url` and `origin`), `http`, `workers`, `processes`, "
        "`handlers`: `name`, `location`, `group`, `topics`, `delivery`",
    ),
    "topics": (
        "topics list",
        "`topics`: `name`, `events`, `published`, `retain_seconds`, `retain_bytes`, `groups`, `partitions` (`number`, `first`, `head`)",
    ),
    "retain": ("topics retain", "`topic`, `removed`"),
    "groups": (
        "groups list",
        "`groups`: `name`, `state`, `topics`, `lag` (`events`, `quality`), `oldest` (`seconds`, `quality`), `workers`, `paused`, "
        "`parked`, `dead`, `partitions` (`topic`, `number`, `committed`, `head`, `oldest`, `owner`); "
        "a `quality` is `exact`, `estimated` or `unknown`",
    ),
    "group": ("groups show, pause, resume", "one of `groups`"),
    "forgotten": ("groups forget", "`group`, `lag`, `parked`"),
    "event": ("tail", "`topic`, `partition`, `position`, `event`, `message`"),
    "trace": (
        "trace",
        "`pending`, `roots`: `topic`, `partition`, `position`, `copies`, `event`, `handlings` (`group`, `state`, `attempts`, "
        "`dead_letter`, `error`, `due`, `effects`, which are like `roots`)",
    ),
    "status": (
        "status",
        "`state` (`ok`, `warning` or `critical`), `sentence`, `groups`: `name`, `state`, `rule`, `sentence`, `lag`, `age`, `drained_in`, "
        "`members`, `instances`, `handled_per_second`, `p95_work`, `p95_latency`, `one_in`, `failed`, `duplicates`, `parked`, `dead`, "
        "`troubles`; durations in seconds",
    ),
    "map": ("map", "`as_of`, `window`, `span`, `nodes`, `edges`, `services`, as the console's `/api/map` has them"),
    "shown": (
        "event show",
        "`event`: its envelope, `payload`, `deliveries` (`group`, `state`, `duplicates`, `attempts`: `handler`, `kind`, `attempt`, `at`, "
        "`waited`, `worked`, `error`, `process`)",
    ),
    "published": ("publish", "`type`, `published`, `ids`, `errors`"),
    "dead_letters": ("dlq list", "`total`, `dead_letters`, each like `dead_letter`"),
    "dead_letter": (
        "dlq show",
        "`id`, `group`, `state`, `topic`, `partition`, `position`, `sequence`, `attempts`, `due`, `first_failure`, `last_failure`, "
        "`error`, `reason`, `stack`, `event`, `message`, `behind`",
    ),
    "redrive": ("dlq redrive", "`accepted`, `missing`, `done`, `waiting`: ids"),
    "discard": ("dlq discard", "`accepted`, `missing`, `done`, `waiting`: ids"),
    "replay": (
        "replay",
        "`group`, `done`, `effects`, `again`, `skipped`, `running`, "
        "`partitions` (`topic`, `number`, `committed`, `to`, `again`, `skipped`)",
    ),
    "bridge": ("bridge", "`source`, `target`, `group`, `events`, `skipped`, `topics`, `seconds`"),
    "backup": ("backup", "`source`, `destination`, `bytes`, `seconds`"),
    "doctor": ("doctor", "`ok`, `checks`: `name`, `verdict`, `found`, `fix`; a `verdict` is `ok`, `warning` or `failed`"),
    "bench": ("bench", "`folder`, `figures`: `name`, `events`, `seconds`, `per_second`, `median`"),
}


def leaves(app: App, path: tuple[str, ...] = ()) -> Iterator[tuple[str, App]]:
    """Every command that does something, with its name."""
    for name in app:
        if not name.startswith("-"):
            command = app[name]
            if any(not each.startswith("-") for each in command):
                yield from leaves(command, (*path, name))
            else:
                yield " ".join((*path, name)), command


def help_of(command: App) -> str:
    """What a command says of itself."""
    return inspect.cleandoc((command.default_command.__doc__ if command.default_command else None) or command.help or "")


def render() -> str:
    """The whole page."""
    app = commands()
    found = dict(leaves(app))
    headings = dict.fromkeys(heading for _, heading in COMMANDS.values())
    contents = "\n".join(
        f"- {heading}: "
        + ", ".join(f"[{name}](#{name.replace(' ', '-')})" for name in found if COMMANDS[name.split()[0]][1] == heading)
        for heading in headings
    )
    shared = {group: _rows(found["topics list"], group) for group in ("Where", "Output")}
    page = HEAD.format(
        contents=contents,
        where="\n".join(shared["Where"]),
        output="\n".join(shared["Output"]),
        shapes="\n".join(f"| `{kind}` | {by} | {fields} |" for kind, (by, fields) in SHAPES.items()),
        exits="\n".join(f"| {int(code)} | {says} |" for code, says in MEANING.items()),
    )
    return page + "\n".join(_section(name, command, shared) for name, command in found.items())


def _section(name: str, command: App, shared: dict[str, list[str]]) -> str:
    text, _, examples = help_of(command).partition("For example:\n")
    own = [row for group in ("Arguments", "Parameters", "How it runs") for row in _rows(command, group)]
    own += [row for group in shared for row in _rows(command, group) if row not in shared[group]]
    lines = [f"## {name}", "", text.strip(), "", "```sh", *(f"$ {line.strip()}" for line in examples.strip().splitlines()), "```", ""]
    if own:
        lines += ["| | |", "| --- | --- |", *own, ""]
    links = {"Where": "[where it acts](#where-a-command-acts)", "Output": "[its output](#output)"}
    also = [links[group] for group in shared if any(row in shared[group] for row in _rows(command, group))]
    if also:
        lines += [f"And the flags that say {' and '.join(also)}.", ""]
    return "\n".join(lines)


def _rows(command: App, group: str) -> list[str]:
    rows: list[str] = []
    for argument in command.assemble_argument_collection(parse_docstring=False):
        if not argument.show or group not in [each._name for each in argument.parameter.group or ()]:  # noqa: SLF001
            continue
        names = ", ".join(f"`{name}`" for name in argument.names)
        says = argument.parameter.help or ""
        choices = re.findall(r"'([^']*)'", str(argument.hint)) if "Literal" in str(argument.hint) else []
        if choices:
            says += f" One of {', '.join(f'`{choice}`' for choice in choices)}."
        default = argument.field_info.default
        if argument.parameter.show_default is not False and default not in (None, (), "", False, inspect.Parameter.empty):
            says += f" Default: `{default}`."
        rows.append(f"| {names} | {says.strip()} |".replace("|  |", "| |"))
    return rows


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"{PAGE} is written\n")
