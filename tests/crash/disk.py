"""Disks that lose power, fail and fill up, for SQLite to be tried on.

`RecordingDisk` writes through to the real disk and keeps the trace of every write and
sync, from which `after_power_cut` tells what would be left had the power gone at any
moment. `FailingDisk` reports an error at the n-th write or sync. `full_disk` stands
below SQLite's own file code, so that it meets the errors that an operating system gives.
"""

import contextlib
import ctypes
import errno
import os
import random
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import apsw

#: What a disk writes whole, or not at all.
SECTOR = 512


class Op(NamedTuple):
    """One thing that was asked of the disk; `mark` is a remark of the test's, between them."""

    kind: str
    file: str
    offset: int = 0
    data: bytes = b""


class _Disk(apsw.VFS):
    """A layer over the real disk that sees what changes the database and its WAL."""

    def __init__(self, name: str, *, default: bool = False) -> None:
        super().__init__(name, "unix", makedefault=default)
        self.name = name

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        # A file without a name is SQLite's scratch paper: nothing of it is ever read after a crash.
        return apsw.VFSFile("unix", name, flags) if name is None else _DiskFile(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self.change(Op("delete", filename, int(syncdir)), lambda: super(_Disk, self).xDelete(filename, syncdir))

    def change(self, op: Op, act: Callable[[], None]) -> None:
        """Carry out one operation that changes the disk."""
        raise NotImplementedError

    def reading(self, file: str) -> None:
        """Learn that a file is about to be read."""


class _DiskFile(apsw.VFSFile):
    def __init__(self, disk: _Disk, name: Any, flags: list[int]) -> None:
        self._disk = disk
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        super().__init__("unix", name, flags)

    def xRead(self, amount: int, offset: int) -> bytes:
        self._disk.reading(self._name)
        return super().xRead(amount, offset)

    def xWrite(self, data: Any, offset: int) -> None:
        self._disk.change(Op("write", self._name, offset, bytes(data)), lambda: super(_DiskFile, self).xWrite(data, offset))

    def xTruncate(self, newsize: int) -> None:
        self._disk.change(Op("truncate", self._name, newsize), lambda: super(_DiskFile, self).xTruncate(newsize))

    def xSync(self, flags: int) -> None:
        self._disk.change(Op("sync", self._name), lambda: super(_DiskFile, self).xSync(flags))


class WatchedDisk(_Disk):
    """Hands each operation to a function, which carries it out when it likes."""

    def __init__(self, name: str, watch: Callable[[Op, Callable[[], None]], None], *, default: bool = False) -> None:
        super().__init__(name, default=default)
        self._watch = watch

    def change(self, op: Op, act: Callable[[], None]) -> None:
        self._watch(op, act)


class RecordingDisk(_Disk):
    """Keeps the trace of all that is written and synced."""

    def __init__(self, name: str = "recording", *, default: bool = False) -> None:
        super().__init__(name, default=default)
        self.trace: list[Op] = []

    def change(self, op: Op, act: Callable[[], None]) -> None:
        act()
        self.trace.append(op)

    def mark(self, text: str) -> None:
        """Note in the trace that something happened here, such as an acknowledgement."""
        self.trace.append(Op("mark", text))


ERRORS = {
    "read": apsw.SQLITE_IOERR_READ,
    "write": apsw.SQLITE_IOERR_WRITE,
    "truncate": apsw.SQLITE_IOERR_TRUNCATE,
    "delete": apsw.SQLITE_IOERR_DELETE,
    "sync": apsw.SQLITE_IOERR_FSYNC,
}


class FailingDisk(_Disk):
    """Reports an I/O error at the n-th operation, and works again from then on.

    What is counted is either what changes the disk (writes, truncations, deletions,
    syncs) or, with `reads`, what is read.
    """

    def __init__(self, name: str = "failing", *, reads: bool = False) -> None:
        super().__init__(name)
        self.fail_at = 0
        self.passed = 0
        self.failed = ""
        self._reads = reads

    def arm(self, fail_at: int) -> None:
        """Fail the so-manieth operation from now."""
        self.passed, self.fail_at, self.failed = 0, fail_at, ""

    def change(self, op: Op, act: Callable[[], None]) -> None:
        if not self._reads and self._strikes(op.kind, op.file):
            raise apsw.exception_for(ERRORS[op.kind])
        act()

    def reading(self, file: str) -> None:
        if self._reads and self._strikes("read", file):
            raise apsw.exception_for(ERRORS["read"])

    def _strikes(self, kind: str, file: str) -> bool:
        self.passed += 1
        if self.passed != self.fail_at:
            return False
        self.failed = f"{kind} {os.path.basename(file)}"
        return True


class _Content:
    """A file on the platters, and what the disk was told since its last sync."""

    def __init__(self) -> None:
        self.there = False
        self.data = bytearray()

    def apply(self, op: Op) -> None:
        if op.kind == "delete":
            self.there, self.data = False, bytearray()
            return
        self.there = True
        if op.kind == "truncate":
            del self.data[op.offset :]
            self.data.extend(bytes(op.offset - len(self.data)))
        else:
            self.data.extend(bytes(max(0, op.offset - len(self.data))))
            self.data[op.offset : op.offset + len(op.data)] = op.data


class PowerCut:
    """Walks through a trace, and tells what could be on the disk if the power went here."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._durable: dict[str, _Content] = {}
        self._pending: list[Op] = []
        self.marks: list[str] = []

    def begin_with(self, file: str, data: bytes) -> None:
        """Have a file be there, and durable, before the trace begins."""
        self._durable.setdefault(file, _Content()).apply(Op("write", file, 0, data))

    def go_on(self, op: Op) -> None:
        """Pass one operation of the trace."""
        if op.kind == "mark":
            self.marks.append(op.file)
        elif op.kind == "sync":
            if op.file.endswith(("-wal", "-journal")) and not self._durable.get(op.file, _Content()).there:
                # SQLite syncs the folder with the first sync of such a file, and then deletions in it are durable too.
                gone = {pending.file for pending in self._pending if pending.kind == "delete"}
                self._flush(lambda pending: pending.file in gone)
            self._flush(lambda pending: pending.file == op.file)
        else:
            self._pending.append(op)
            if op.kind == "delete" and op.offset:  # with its folder's sync
                self._flush(lambda pending: pending.file == op.file)

    def _flush(self, matches: Callable[[Op], bool]) -> None:
        for op in self._pending:
            if matches(op):
                self._durable.setdefault(op.file, _Content()).apply(op)
        self._pending = [op for op in self._pending if not matches(op)]

    def outcomes(self, chance: random.Random) -> Sequence[Sequence[Op]]:
        """Choose what of the unsynced operations got through: none; all; a prefix with a torn end; a random choice."""
        pending = self._pending
        if not pending:
            return [()]
        cut = chance.randrange(len(pending))
        torn = [*pending[:cut], *_torn(pending[cut], chance)]
        some = [part for op in pending for part in (_torn(op, chance) if chance.random() < 0.2 else [op]) if chance.random() < 0.5]
        return [(), pending, torn, some]

    def leave(self, outcome: Sequence[Op], folder: Path) -> None:
        """Write the files as they would be found once the power is back; the shared memory never survives."""
        contents = {name: _copy(content) for name, content in self._durable.items()}
        for op in outcome:
            contents.setdefault(op.file, _Content()).apply(op)
        for name, content in contents.items():
            path = folder / os.path.relpath(name, self._folder)
            if content.there:
                path.write_bytes(content.data)
            else:
                path.unlink(missing_ok=True)
            if not name.endswith(("-wal", "-journal")):
                path.with_name(f"{path.name}-shm").unlink(missing_ok=True)


def _copy(content: _Content) -> _Content:
    copy = _Content()
    copy.there, copy.data = content.there, bytearray(content.data)
    return copy


def _torn(op: Op, chance: random.Random) -> list[Op]:
    """Cut a write between two sectors; what the disk had there before stays."""
    if op.kind != "write" or len(op.data) <= SECTOR:
        return [op]
    keep = SECTOR * chance.randrange(len(op.data) // SECTOR + 1)
    return [op._replace(data=op.data[:keep])]


class FullDisk:
    """How much room is left, in bytes that files may still grow by."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.refused = 0


@contextmanager
def full_disk(room: int) -> Generator[FullDisk]:
    """Let SQLite's files grow by only so many bytes: the system then reports ENOSPC, as a full disk does.

    The calls that write are replaced below SQLite's own VFS, for this process.
    """
    disk = FullDisk(room)
    vfs = apsw.VFS("full-disk", "unix")
    libc = ctypes.CDLL(None, use_errno=True)
    pwrite = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64, use_errno=True)
    real = pwrite(("pwrite64", libc))

    def write(fd: int, data: int, size: int, offset: int) -> int:
        grows = max(0, offset + size - os.fstat(fd).st_size)
        if grows > disk.room:
            disk.refused += 1
            ctypes.set_errno(errno.ENOSPC)
            return -1
        disk.room -= grows
        return real(fd, data, size, offset)

    replacement = pwrite(write)
    address = ctypes.cast(replacement, ctypes.c_void_p).value
    names = [name for name in ("pwrite", "pwrite64") if vfs.xGetSystemCall(name)]
    before = {name: vfs.xGetSystemCall(name) for name in names}
    try:
        for name in names:
            vfs.xSetSystemCall(name, address)
        yield disk
    finally:
        for name in names:
            vfs.xSetSystemCall(name, before[name])
        with contextlib.suppress(apsw.Error):
            vfs.unregister()
