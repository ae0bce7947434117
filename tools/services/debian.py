"""Programs of another Debian release: its packages, unpacked into a folder, and run from there beside what this machine has."""

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from tools.services.service import ServiceError, require_debian

KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR = "http://deb.debian.org/debian"


def unpack(release: str, package: str, folder: Path) -> Path:
    """Fetch a package of a release and all that it needs, its C library included; gives the root they are unpacked under.

    Nothing of it is installed, and no script of a package is run, so that it needs no root.
    """
    root = folder / "root"
    if root.exists():
        return root
    require_debian({"apt-get": "apt", "dpkg-deb": "dpkg"})
    partial = folder / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    for name in ("lists/partial", "archives/partial", "root"):
        (partial / name).mkdir(parents=True)
    # As on a machine where nothing is installed yet: all that it needs is fetched, too.
    (partial / "status").touch()
    (partial / "sources.list").write_text(f"deb [signed-by={KEYS}] {MIRROR} {release} main\n")
    settings = {
        "Dir::Etc::sourcelist": partial / "sources.list",
        "Dir::Etc::sourceparts": partial / "none",
        "Dir::Etc::preferencesparts": partial / "none",
        "Dir::State": partial,
        "Dir::State::status": partial / "status",
        "Dir::Cache": partial,
    }
    apt = ["apt-get", "--quiet", "--yes", "--no-install-recommends", *(f"-o{name}={value}" for name, value in settings.items())]
    _run([*apt, "update"])
    _run([*apt, "install", "--download-only", package])
    for archive in sorted((partial / "archives").glob("*.deb")):
        _run(["dpkg-deb", "--extract", str(archive), str(partial / "root")])
    (partial / "root").rename(root)
    shutil.rmtree(partial)
    return root


def relink(files: Iterable[Path], root: Path) -> None:
    """Have those of these files that are machine programs run with the C library and the other libraries that are unpacked beside them."""
    require_debian({"patchelf": "patchelf"})
    (loader,) = (root / "usr" / "lib64").glob("ld-linux*")
    (libraries,) = (library.parent for library in (root / "usr" / "lib").glob("*/libc.so.6"))
    for file in files:
        if file.is_file() and not file.is_symlink() and _is_program(file):
            _run(["patchelf", "--set-interpreter", str(loader), "--force-rpath", "--set-rpath", str(libraries), str(file)])


def _is_program(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(4) == b"\x7fELF"


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ServiceError(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-2000:]}")
