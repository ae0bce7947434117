"""What users may rely on: the public names, a light import, and a whole wheel."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import millstream
import millstream.testing

ROOT = Path(__file__).parent.parent

# What serves pages, commands, metrics, models and tests, and what opens files: whoever imports an event pays for none of it.
HEAVY = {
    "aiosmtpd", "apsw", "attrs", "cyclopts", "fastapi", "hypothesis", "multipart", "prometheus_client", "pydantic", "pytest",
    "rich", "sqlite3", "starlette", "uvicorn", "watchfiles",
}  # fmt: skip


def imported_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after a statement."""
    script = f"import json, sys; {statement}; print(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    return set(json.loads(done.stdout))


def test_the_public_names_are_these() -> None:
    """Adding a name is a decision and removing one a breaking change: both are made here, in sight."""
    assert sorted(millstream.__all__) == [
        "App",
        "Context",
        "Depends",
        "Envelope",
        "MillstreamError",
        "Observer",
        "Outcome",
        "Outcomes",
        "Retry",
        "Router",
        "Topic",
        "Transaction",
        "UnitOfWork",
        "command",
        "errors",
        "event",
    ]
    assert all(getattr(millstream, name) is not None for name in millstream.__all__)


def test_the_public_names_for_tests_are_these() -> None:
    """What users test their services, brokers and stores with changes as rarely."""
    assert sorted(millstream.testing.__all__) == ["BrokerSuite", "ManualClock", "TestApp", "WorkerSuite"]
    assert all(getattr(millstream.testing, name) is not None for name in millstream.testing.__all__)


def test_importing_millstream_imports_nothing_heavy() -> None:
    """`import millstream` is paid by every process, every test and every shell completion."""
    modules = imported_by("import millstream")

    assert modules & HEAVY == set()
    assert "msgspec" in modules


def test_the_check_for_heavy_modules_can_fail() -> None:
    """The same look finds a heavy module when one is imported."""
    assert "sqlite3" in imported_by("import sqlite3")


def test_importing_millstream_starts_nothing(tmp_path: Path) -> None:
    """No thread, no event loop and no file comes from an import."""
    script = "import os, threading, millstream; print(threading.active_count(), os.listdir())"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True)

    assert done.stdout.split() == ["1", "[]"]


def test_the_wheel_has_what_an_installation_needs(tmp_path: Path) -> None:
    """Every source file, the shop's pages, the mark of a typed package and the licence; and no test."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())

    tracked = {
        str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    assert tracked <= names
    assert "millstream/py.typed" in names
    assert "millstream/demos/shop/pages/shop.html" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests", "docs")) for name in names)
