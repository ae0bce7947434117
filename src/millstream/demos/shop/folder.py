"""Where one run of the shop keeps everything."""

import fcntl
import secrets
import shutil
import tempfile
from pathlib import Path

from millstream.contracts.errors import RefusedError


class Folder:
    """The folder that the user named, or a temporary one; one shop at a time."""

    def __init__(self, named: str | None) -> None:
        self.is_kept = named is not None
        self.path = Path(named or tempfile.mkdtemp(prefix="millstream-shop-")).expanduser().resolve()
        (self.path / "run").mkdir(parents=True, exist_ok=True)
        self._lock = (self.path / "run" / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise RefusedError(f"{self.path} belongs to a shop that is running. Stop that one, or name another folder.") from None

    @property
    def mark(self) -> str:
        """What tells this shop from others; it stays as long as the folder does."""
        path = self.path / "run" / "mark"
        if not path.exists():
            path.write_text(f"-{secrets.token_hex(3)}")
        return path.read_text()

    def close(self, *, keep: bool) -> None:
        """Give it back; a temporary one is removed unless it is to be looked at."""
        self._lock.close()
        if not self.is_kept and not keep:
            shutil.rmtree(self.path, ignore_errors=True)
