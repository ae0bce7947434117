"""Every example of the documentation is run.

The blocks of a page run in order and share their names, in a folder of their own.
A Python block whose first line is a comment with a file's name (`# orders.py`) is that
file: it is written, then imported, or given to pytest when it is a test. In a console
block each `$` line is given to one shell, and what the page shows below it has to come
out, in that order, where `...` stands for anything. A command that ends in `&` goes on
until the page is done or ends it. Commands that are for another machine stand in `sh`
blocks, which are not run.
"""

import importlib
import os
import re
import selectors
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, SkipParser

FILE = re.compile(r"# ([a-z0-9_/]+\.py)\n")
PATIENCE = 30.0
#: All that a page may run here: what touches nothing but its own folder.
COMMANDS = {"cp", "kill", "millstream", "mkdir", "mv", "python", "sed", "sleep", "wait"}
#: What starts processes, kills or watches them, or asks a console for many things in turn.
SLOW = (
    "tests/crash/", "tests/demos/shop/test_shop.py", "tests/cli/test_run.py", "tests/app/test_stopping.py", "docs/", "README.md",
    "tests/stores/test_sqlite_suite.py", "tests/testing/test_worker_suite.py", "tests/console/test_security.py",
    "tests/console/test_operations.py",
)  # fmt: skip
#: What waits more than it works: `make test` runs it beside the servers' tests, which do so as well.
PATIENT = ("tests/crash/", "docs/", "README.md", "tests/tools/test_postgres.py", "tests/tools/test_started_services.py")
#: What watches the time that something takes, or how a whole shop gets on: `make test` runs it with the machine for itself.
ALONE = ("tests/demos/shop/test_shop.py", "tests/console/test_security.py", "tests/console/browser/test_timings.py")
#: Tests on a real server wait more than they work: `make test` runs those of one server one after another, beside those of others.
SERVER = re.compile(
    r"(?:tests/brokers/test_|_on_brokers\.py::\w+\[)(kafka|rabbitmq_stream|rabbitmq|aws\.py::Test(?:Moto|ElasticMq)|aws|nats|redis)"
)
_run_python = PythonEvaluator()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several processes: one for each server, and for each other file, at a time."""
    from xdist.scheduler import LoadScopeScheduling

    class ByServer(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            server = SERVER.search(nodeid)
            return server[1] if server else nodeid.split("::")[0]

    return ByServer(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what takes seconds, so that `make unit` can leave it out, and give it time on a busy machine."""
    for item in items:
        name = item.path.relative_to(config.rootpath).as_posix()
        if SERVER.search(item.nodeid):
            item.add_marker("server")
        if name.startswith(PATIENT):
            item.add_marker("patient")
        if name.startswith(ALONE):
            item.add_marker("alone")
        if name.startswith(SLOW):
            item.add_marker("slow")
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(240))


class Shell:
    """One bash for a page, so that `cd`, jobs and variables hold from block to block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._jobs = 0
        self._bash = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],  # noqa: S607
            cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=_environment(), start_new_session=True,
        )  # fmt: skip

    def run(self, command: str, expected: str) -> None:
        """Run one command of a page; AssertionError unless it ends well and prints what is expected."""
        assert command.split()[0] in COMMANDS, f"$ {command}\nis nothing to run here; put it into a `sh` block"
        if command.endswith("&"):
            self._jobs += 1
            output = self._folder / f".job-{self._jobs}"
            self._say(f"{command[:-1]} > {output} 2>&1 &")
            _wait_for(lambda: _matches(expected, output.read_text() if output.exists() else ""), command, output)
            return
        printed, status = self._say(command)
        assert status == 0, f"$ {command}\nended with {status} and printed:\n{printed}"
        assert _matches(expected, printed), f"$ {command}\nprinted:\n{printed}\nand not, as the page says:\n{expected}"

    def _say(self, command: str) -> tuple[str, int]:
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.write(f'{command}\n_status=$?; echo; echo "<end> $_status"\n'.encode())
        self._bash.stdin.flush()
        said = b""
        deadline = time.monotonic() + PATIENCE
        with selectors.DefaultSelector() as selector:
            selector.register(self._bash.stdout, selectors.EVENT_READ)
            while not (end := re.search(rb"\n<end> (\d+)\n", said)):
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                part = os.read(self._bash.stdout.fileno(), 65536) if ready else b""
                assert part, f"$ {command}\ndid not end within {PATIENCE:g} s; it printed:\n{said.decode()}"
                said += part
        return said[: end.start()].decode(), int(end[1])

    def close(self) -> None:
        """End the shell and what it still runs."""
        assert self._bash.stdin is not None
        # Its background jobs are in its session: nothing of a page outlives it.
        self._bash.stdin.write(b"kill $(jobs -p) 2>/dev/null; wait\n")
        self._bash.stdin.close()
        try:
            self._bash.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._bash.pid, 9)
            self._bash.wait()
        assert self._bash.stdout is not None
        self._bash.stdout.close()


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MILLSTREAM_", "PYTEST_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": path, "NO_COLOR": "1", "COLUMNS": "120", "PYTHONPATH": ".", "PYTHONDONTWRITEBYTECODE": "1"}


def _matches(expected: str, printed: str) -> bool:
    parts = (re.escape(" ".join(part.split())) for part in expected.split("..."))
    return re.search(r".*?".join(part.replace(r"\ ", r"\s+") for part in parts), " ".join(printed.split()), re.DOTALL) is not None


def _wait_for(came: Any, command: str, output: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not came():
        assert time.monotonic() < deadline, f"$ {command}\nprinted within {PATIENCE:g} s only:\n{output.read_text()}"
        time.sleep(0.02)


def _enter(namespace: dict[str, Any]) -> None:
    folder = tempfile.TemporaryDirectory(prefix="millstream-docs-")
    namespace.update({"__name__": "__page__", "_folder": folder, "_from": Path.cwd(), "_shell": Shell(Path(folder.name))})
    os.chdir(folder.name)
    sys.path.insert(0, folder.name)


def _leave(namespace: dict[str, Any]) -> None:
    folder = namespace["_folder"].name
    namespace["_shell"].close()
    os.chdir(namespace["_from"])
    sys.path.remove(folder)
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(folder):
            del sys.modules[name]
    namespace["_folder"].cleanup()


def _python(example: Example) -> None:
    found = FILE.match(example.parsed)
    if found is None:
        _run_python(example)
        return
    path = Path(found[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(example.parsed)
    if path.name.startswith("test_"):
        example.namespace["_shell"].run(f"python -m pytest -q -p no:cacheprovider {path}", "passed")
        return
    name = ".".join(path.with_suffix("").parts)
    sys.modules.pop(name, None)
    importlib.invalidate_caches()
    module = importlib.import_module(name)
    example.namespace.update({key: value for key, value in vars(module).items() if not key.startswith("__")})


def _console(example: Example) -> None:
    shell: Shell = example.namespace["_shell"]
    for part in re.split(r"^\$ ", example.parsed, flags=re.MULTILINE)[1:]:
        command, _, expected = re.sub(r"\\\n\s*", "", part).partition("\n")
        shell.run(command.strip(), expected.strip())


pytest_collect_file = Sybil(
    parsers=[CodeBlockParser("python", _python), CodeBlockParser("console", _console), SkipParser()],
    patterns=["*.md", "docs/**/*.md"],
    excludes=["CHANGELOG.md", "docs/adr/*.md"],
    setup=_enter,
    teardown=_leave,
).pytest()
