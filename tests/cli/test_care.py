"""`new`, `doctor`, `bench`, `completion` and `demo`."""

import importlib
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from millstream.app.settings import Settings
from millstream.cli import checks
from millstream.cli.checks import Finding

from .conftest import Result

Run = Callable[..., Result]


def test_a_new_service_passes_its_own_test_and_runs(millstream: Run, folder: Path) -> None:
    """What is made works, before anything is changed in it."""
    made = millstream("new", "services/order-desk")

    service = folder / "services" / "order-desk"
    assert (made.code, made.out) == (0, "services/order-desk has .gitignore, order_desk.py, pyproject.toml, test_order_desk.py\n")
    assert "millstream run" in made.err
    tested = subprocess.run([sys.executable, "-m", "pytest", "-q"], cwd=service, capture_output=True, text=True, check=False)
    assert (tested.returncode, "1 passed" in tested.stdout) == (0, True)
    shown = subprocess.run([sys.executable, "-m", "millstream", "doctor"], cwd=service, capture_output=True, text=True, check=False)
    assert "order-desk: 2 handlers" in shown.stdout
    assert f"sqlite:///{service}/order_desk.db" in shown.stdout


@pytest.mark.parametrize(("name", "code"), [("Shop", 2), ("1st", 2), ("class", 2), ("a b", 2), ("there", 6)])
def test_a_name_that_cannot_be_or_is_taken_is_refused(millstream: Run, folder: Path, name: str, code: int) -> None:
    """Nothing is written over."""
    (folder / "there").mkdir()

    assert millstream("new", name).code == code
    assert sorted(path.name for path in folder.iterdir()) == ["there"]


def names(result: Result) -> dict[str, str]:
    """What the doctor thinks of each thing."""
    return {check["name"]: check["verdict"] for check in result.json["checks"]}


def test_a_healthy_machine_is_told_in_one_screen(millstream: Run) -> None:
    """Before the first start, and with a file."""
    before = millstream("doctor", "-o", "json")
    millstream("publish", "a.b")
    after = millstream("doctor")

    verdicts = names(before)
    assert {name for name, verdict in verdicts.items() if verdict == "failed"} == set()
    assert {"python", "sqlite", "broker", "store", "file", "space", "sync"} <= set(verdicts)
    assert after.code in (0, 10)
    assert "0 groups" in after.out
    assert max(map(len, after.out.splitlines())) < 120


def test_the_registry_is_told_where_there_is_one(millstream: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside broker and store, and without its password."""
    monkeypatch.setenv("MILLSTREAM_REGISTRY", "http://me:secret@registry:8081")

    found = {check["name"]: check["found"] for check in millstream("doctor", "-o", "json").json["checks"]}

    assert found["registry"] == "http://me:***@registry:8081 (the environment's MILLSTREAM_REGISTRY)"


@pytest.mark.parametrize("as_json", [True, False])
def test_what_has_to_be_repaired_comes_with_the_repair(millstream: Run, folder: Path, *, as_json: bool) -> None:
    """A damaged file ends with 9, and says what to do."""
    (folder / "millstream.db").write_bytes(b"this is no database at all, whatever its name says" * 100)

    result = millstream("doctor", *(["-o", "json"] if as_json else []))

    assert result.code == 9
    assert "restore a backup" in result.out or "Name another file" in result.out
    assert (names(result)["readable"] == "failed") if as_json else ("fix: " in result.out)


def test_a_wrong_setting_is_found_by_the_doctor(millstream: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a variable that looks like one."""
    monkeypatch.setenv("MILLSTREAM_BROKRE", "sqlite:///x.db")
    looked = millstream("doctor", "-o", "json")
    monkeypatch.setenv("MILLSTREAM_WORKERS", "many")
    broken = millstream("doctor", "-o", "json")

    assert [check["fix"] for check in looked.json["checks"] if check["name"] == "environment"] == ["Did you mean MILLSTREAM_BROKER?"]
    assert looked.code == 10
    assert (names(broken)["settings"], broken.code) == ("failed", 9)


def found(findings: Any, name: str) -> Finding:
    """One of the findings."""
    return next(finding for finding in findings if finding.name == name)


def test_an_old_sqlite_is_a_danger() -> None:
    """It can damage files when their WAL is reset."""
    assert found(checks.machine("3.51.2"), "sqlite").verdict == "failed"
    assert found(checks.machine("3.51.3"), "sqlite").verdict == "ok"
    assert found(checks.machine("3.9.0"), "sqlite").verdict == "failed"


@pytest.mark.parametrize(
    ("seconds", "verdict", "says"), [(0.004, "ok", "4 ms"), (0.05, "warning", "Every commit waits"), (0.000001, "warning", "power cut")]
)
def test_a_slow_disk_and_one_that_does_not_write_are_noticed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, verdict: str, says: str
) -> None:
    """Both mean something for durability."""
    monkeypatch.setattr(checks, "sync_time", lambda _: seconds)

    finding = found(checks.place(Settings()), "sync")

    assert finding.verdict == verdict
    assert says in finding.found + finding.fix


def test_the_median_sync_counts(folder: Path) -> None:
    """One slow one does not make a slow disk."""
    times = iter([value for n in range(checks.SYNCS) for value in (n * 10.0, n * 10.0 + (5.0 if n == 3 else 0.25))])

    assert checks.sync_time(folder, lambda: next(times)) == 0.25
    assert list(folder.iterdir()) == []


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite damages files there."""
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n")

    assert checks.file_system(tmp_path / "deep", mounts) == "nfs4"
    assert checks.file_system(Path("/usr"), mounts) == "ext4"
    assert checks.file_system(Path("/usr"), tmp_path / "none") == ""
    monkeypatch.setattr(checks, "file_system", lambda *_: "nfs4")
    assert found(checks.place(Settings()), "disk").verdict == "failed"


def test_files_that_others_may_write_or_that_are_of_the_future_are_noticed(folder: Path) -> None:
    """Each with a command that repairs it."""
    path = folder / "millstream.db"
    path.touch()
    path.chmod(0o666)
    os.utime(path, (4_000_000_000, 4_000_000_000))
    (folder / "millstream.db-wal").touch()
    os.truncate(folder / "millstream.db-wal", 300 << 20)

    findings = list(checks.place(Settings()))

    assert {f.name for f in findings if f.verdict == "warning"} >= {"file", "wal", "clock"}
    assert found(findings, "file").fix == f"Close it: chmod o-w {path}*"


def test_a_folder_that_is_not_there_and_a_port_that_is_taken_are_told(folder: Path) -> None:
    """Before the service is started in vain."""
    from millstream.app.http import listen

    with listen("127.0.0.1:0") as taken:
        settings = Settings(broker=f"sqlite:///{folder}/no/x.db", store="memory://", http=f"127.0.0.1:{taken.getsockname()[1]}")
        findings = list(checks.place(settings))

    assert found(findings, "file").fix == f"Make it: mkdir -p {folder}/no"
    assert found(findings, "http").verdict == "warning"


def test_the_bench_measures_five_figures_and_leaves_nothing_behind(millstream: Run, folder: Path) -> None:
    """Each is a rate of something that really happened."""
    result = millstream("bench", "--seconds", "0.05", "-o", "json")
    text = millstream("bench", "--seconds", "0.05", "--folder", folder)

    figures = result.json["figures"]
    assert len(figures) == 5
    assert all(figure["events"] > 0 and figure["per_second"] > 0 for figure in figures)
    assert text.out.splitlines()[0].split() == ["MEASURED", "EVENTS/S", "EACH"]
    assert len(text.out.splitlines()) == 6
    assert list(folder.iterdir()) == []
    assert millstream("bench", "--seconds", "0").code == 2
    assert millstream("bench", "--folder", "no/where").code == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_every_shell_gets_its_completion(millstream: Run, shell: str) -> None:
    """Every command is in it."""
    result = millstream("completion", shell)

    assert result.code == 0
    assert all(word in result.out for word in ("millstream", "redrive", "doctor", "--output"))


def test_the_completion_of_bash_is_a_script_that_bash_understands(millstream: Run) -> None:
    """It is loaded at the start of every shell."""
    script = millstream("completion", "bash").out

    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_the_demo_gets_its_flags_and_gives_the_exit_code(millstream: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command line says reaches the shop, and its verdict reaches the shell."""
    options = importlib.import_module("millstream.demos.shop.options").DemoOptions
    given: list[Any] = []
    shop = types.ModuleType("millstream.demos.shop")
    shop.DemoOptions = options  # type: ignore[attr-defined]
    shop.demo = lambda chosen: given.append(chosen) or 1  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "millstream.demos.shop", shop)

    plain = millstream("demo", "shop")
    proof = millstream("demo", "shop", "--prove", "--seconds", "5", "--seed", "7", "--naive", "--output", "json", "--rate", "2.5")

    assert (plain.code, proof.code) == (1, 1)
    assert given == [options(), options(prove=True, seconds=5.0, seed=7, naive=True, output="json", rate=2.5)]
