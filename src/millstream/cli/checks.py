"""What `millstream doctor` looks at: each check says what it found, and how to repair it."""

import difflib
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from millstream.app.connect import EMBEDDED, path_of
from millstream.app.http import listen
from millstream.app.settings import FIELDS, PREFIX, UNIX, Settings, masked
from millstream.cli.wording import number, size, span
from millstream.contracts.errors import ConfigurationError

Verdict = Literal["ok", "warning", "failed"]

OLDEST_PYTHON = (3, 11)
#: The first SQLite without the bug that damages a file when its WAL is reset.
OLDEST_SQLITE = (3, 51, 3)
SLOW_SYNC, NO_SYNC = 0.02, 0.00002
SYNCS = 15
LITTLE_DISK, NO_DISK = 1 << 30, 64 << 20
BIG_WAL = 256 << 20
FEW_FILES = 1024
NETWORK = frozenset(("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "ceph", "glusterfs", "fuse.glusterfs"))
#: Variables that are not settings.
OTHER_VARIABLES = frozenset((f"{PREFIX}WORKER", f"{PREFIX}LIFELINE", f"{PREFIX}SHOP"))
#: Where the servers are that tests work on; no service reads these.
TESTS = f"{PREFIX}TEST_"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    found: str
    fix: str = ""


def machine(sqlite: str) -> Iterator[Finding]:
    """What has nothing to do with any setting; `sqlite` is the version of the library in use."""
    version = ".".join(map(str, sys.version_info[:3]))
    fine = sys.version_info >= OLDEST_PYTHON
    yield Finding("python", "ok" if fine else "failed", version, "" if fine else "Install Python 3.11 or newer.")
    yield _sqlite(sqlite)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = soft != resource.RLIM_INFINITY and soft < FEW_FILES
    yield Finding("open files", "warning" if few else "ok", f"at most {number(soft)}", f"Raise it: ulimit -n {FEW_FILES}" if few else "")
    yield from _variables()


def place(settings: Settings) -> Iterator[Finding]:
    """The files that the settings name, and the disk below them."""
    for name in ("broker", "store", *(["registry"] if settings.registry is not None else [])):
        yield Finding(name, "ok", f"{masked(getattr(settings, name))} ({settings.origin(name)})")
    paths = {path_of(url): None for url in (settings.broker, settings.store) if url.startswith(EMBEDDED)}
    folders: dict[Path, None] = {}
    for text in paths:
        path = Path(text).expanduser().absolute()
        folders[path.parent] = None
        yield from _file(path)
    for folder in folders:
        if folder.is_dir():
            yield from _disk(folder)
    if settings.http is not None:
        yield _port(settings)


def _sqlite(version: str) -> Finding:
    fine = tuple(int(part) for part in version.split(".")) >= OLDEST_SQLITE
    fix = "This one can damage files when their WAL is reset. Upgrade: pip install -U apsw, without system SQLite."
    return Finding("sqlite", "ok" if fine else "failed", f"{version}, inside apsw", "" if fine else fix)


def _variables() -> Iterator[Finding]:
    known = {f"{PREFIX}{name.upper()}" for name in FIELDS}
    for name in sorted(set(os.environ) - known - OTHER_VARIABLES):
        if name.startswith(PREFIX) and not name.startswith(TESTS):
            near = difflib.get_close_matches(name, known, n=1)
            fix = f"Did you mean {near[0]}?" if near else f"Unset it: unset {name}"
            yield Finding("environment", "warning", f"{name} is no setting", fix)


def _file(path: Path) -> Iterator[Finding]:
    if not path.parent.is_dir():
        yield Finding("file", "failed", f"{path}: its folder does not exist", f"Make it: mkdir -p {path.parent}")
        return
    if not os.access(path.parent, os.W_OK):
        yield Finding("file", "failed", f"{path.parent} cannot be written", f"Give this user the folder: chown {os.getuid()} {path.parent}")
        return
    if not path.exists():
        yield Finding("file", "ok", f"{path} is made at the first start")
        return
    state = path.stat()
    if not os.access(path, os.R_OK | os.W_OK):
        yield Finding("file", "failed", f"{path} cannot be written", f"Give this user the file: chown {os.getuid()} {path}*")
    elif state.st_mode & 0o002:
        yield Finding("file", "warning", f"{path}: anybody may write it", f"Close it: chmod o-w {path}*")
    else:
        yield Finding("file", "ok", f"{path}, {size(state.st_size)}")
    wal = Path(f"{path}-wal")
    amount = wal.stat().st_size if wal.exists() else 0
    big = amount > BIG_WAL
    fix = "A process reads, or is stopped, inside a transaction: look for one that hangs, and end it."
    yield Finding("wal", "warning" if big else "ok", size(amount), fix if big else "")
    ahead = state.st_mtime - time.time()
    if ahead > 60:
        yield Finding("clock", "warning", f"the file was written {span(ahead)} in the future", "Set the clock: timedatectl set-ntp true")
    else:
        yield Finding("clock", "ok", "not behind the file's last write")


def _disk(folder: Path) -> Iterator[Finding]:
    kind = file_system(folder, Path("/proc/mounts"))
    if kind in NETWORK:
        yield Finding("disk", "failed", f"{folder} is on a network file system ({kind})", "SQLite needs a local disk: name a file on one.")
    free = shutil.disk_usage(folder).free
    verdict: Verdict = "failed" if free < NO_DISK else "warning" if free < LITTLE_DISK else "ok"
    fix = "" if verdict == "ok" else "Free some space, or set a topic's retention."
    yield Finding("space", verdict, f"{size(free)} free in {folder}", fix)
    try:
        seconds = sync_time(folder)
    except OSError as error:
        yield Finding("sync", "failed", f"a test file in {folder}: {error.strerror}", "Free some space, or name a file elsewhere.")
        return
    found = f"{span(seconds)} for each durable commit"
    if seconds > SLOW_SYNC:
        yield Finding("sync", "warning", found, "Every commit waits that long: publish in batches, or use a faster disk.")
    elif seconds < NO_SYNC:
        fix = "Does this disk write at all (tmpfs)? A power cut may lose events."
        yield Finding("sync", "warning", f"{found}: too fast to be true", fix)
    else:
        yield Finding("sync", "ok", found)


def _port(settings: Settings) -> Finding:
    text, origin = str(settings.http), settings.origin("http")
    if text.startswith(UNIX):
        return Finding("http", "ok", text)
    try:
        listen(text, origin).close()
    except ConfigurationError as error:
        return Finding("http", "warning", str(error), "Is the service running already? Otherwise choose another port.")
    return Finding("http", "ok", f"{text} is free ({origin})")


def file_system(folder: Path, mounts: Path) -> str:
    """The kind of file system that a folder is on; empty where the machine does not tell."""
    try:
        lines = [line.split(" ") for line in mounts.read_text("utf-8", "replace").splitlines()]
    except OSError:
        return ""
    real = folder.resolve()
    above = [(len(line[1]), line[2]) for line in lines if len(line) > 2 and real.is_relative_to(line[1].replace("\\040", " "))]
    return max(above, default=(0, ""))[1]


def sync_time(folder: Path, clock: Callable[[], float] = time.perf_counter) -> float:
    """How long a small write takes to reach the disk, in seconds: the median of several."""
    taken: list[float] = []
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".millstream-doctor-") as file:
        for _ in range(SYNCS):
            started = clock()
            file.write(os.urandom(4096))
            file.flush()
            os.fdatasync(file.fileno())
            taken.append(clock() - started)
    return statistics.median(taken)
