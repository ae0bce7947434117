"""SQLite's errors in our words: what happened to which file, and what to do."""

from types import TracebackType

import apsw

from millstream.contracts.errors import (
    MillstreamError,
    StatementError,
    StoreBusyError,
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreReadOnlyError,
)

READ_ONLY = "cannot be written; check the permissions of the file and its folder."


class sqlite_errors:  # noqa: N801 - it reads like the function that it stands for, and costs a third of one
    """`with sqlite_errors(path):` lets no apsw exception out: each becomes one of ours that says what to do."""

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, apsw.Error):
            raise translated(error, self._path) from error


def translated(error: apsw.Error, path: str) -> MillstreamError:
    """Say in our words what SQLite reports of a file, and what to do."""
    match error:
        case apsw.BusyError() | apsw.LockedError():
            return StoreBusyError(
                f"{path}: another process has held the write lock for too long; "
                "it may be stopped inside a commit (look for a stopped or debugged process). Nothing was written; try again."
            )
        case apsw.FullError():
            return StoreFullError(f"{path}: the disk is full; nothing was written. Free some space and try again.")
        case apsw.ReadOnlyError() | apsw.PermissionsError():
            return StoreReadOnlyError(f"{path}: {READ_ONLY}")
        case apsw.CorruptError() | apsw.NotADBError():
            return StoreDamagedError(
                f"{path}: is damaged or not a database ({error}). Stop all processes, keep a copy, and restore a backup."
            )
        case apsw.CantOpenError():
            return StoreError(f"{path}: cannot be opened; does the folder exist, and may this user write to it?")
        case apsw.IOError():
            return StoreError(f"{path}: the disk reported an error ({error}); what was being written is not acknowledged.")
        case _:
            return StatementError(f"{path}: SQLite refused a statement: {error}. It changed nothing; correct it.")
